package step

import (
	"fmt"
	"strconv"
	"strings"
)

// Voice is the part of a fence that says whether the partition publishes what
// follows from its folds, beside the emission mark. The zero value speaks, from
// the mark on.
type Voice struct {
	// Silent says why the partition folds without publishing, until an operator
	// decides; "" where it speaks.
	Silent Silence
	// Word is what an operator has decided, and From the offset that it is about.
	Word Word
	From int64
}

// Silence is a reason to fold without publishing.
type Silence string

// Reasons of silence.
const (
	// SilentUnmarked: there is state and no emission mark (expired, edited, of
	// another log), so that nobody knows what was published.
	SilentUnmarked Silence = "unmarked"
	// SilentGap: the log has lost records before they were folded.
	SilentGap Silence = "gap"
)

// Word is an operator's decision.
type Word string

// Decisions. The first two wait for the next claim; once the mark is committed,
// they are remembered as what happened.
const (
	WordSpeak    Word = "speak"    // publish what records at From and behind it cause
	WordMark     Word = "mark"     // what records below From caused was published, at least
	WordSpoken   Word = "spoken"   // WordSpeak was taken up
	WordRestored Word = "restored" // WordMark was taken up
)

// pending tells whether the decision has yet to be taken up.
func (v Voice) pending() bool { return v.Word == WordSpeak || v.Word == WordMark }

// taken is the voice after the decision has been taken up.
func (v Voice) taken() Voice {
	switch v.Word {
	case WordSpeak:
		v.Word = WordSpoken
	case WordMark:
		v.Word = WordRestored
	}
	return v
}

// mark is the emission mark to go by, where an operator has decided.
func (v Voice) mark(m Mark) Mark {
	switch v.Word {
	case WordSpeak:
		m.Offset = v.From
	case WordMark:
		m.Offset = max(m.Offset, v.From)
	}
	return m
}

// String is the form in the fence: "" where it speaks.
func (v Voice) String() string {
	switch {
	case v.Silent != "":
		return "silent=" + string(v.Silent)
	case v.Word != "":
		return string(v.Word) + "=" + strconv.FormatInt(v.From, 10)
	}
	return ""
}

// parseVoice reads what String wrote.
func parseVoice(s string) (Voice, error) {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return Voice{}, fmt.Errorf("voice %q: want silent=why, or a decision and an offset", s)
	}
	if name == "silent" {
		return Voice{Silent: Silence(value)}, nil
	}
	word := Word(name)
	if word != WordSpeak && word != WordMark && word != WordSpoken && word != WordRestored {
		return Voice{}, fmt.Errorf("voice %q: %s is no decision", s, name)
	}
	from, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return Voice{}, fmt.Errorf("voice %q: %w", s, err)
	}
	return Voice{Word: word, From: from}, nil
}
