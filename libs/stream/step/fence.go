package step

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// Fence is what a partition's owner writes beside the state in every atomic
// write: who owns it, and up to where the log is folded. It is compared byte
// for byte.
type Fence struct {
	LogID       string // cluster and topic id: a recreated topic is another log
	FoldVersion int
	Nonce       string // fresh at every claim
	Next        int64  // offset of the first record not yet folded
	Low         int64  // oldest offset that still waits; Next where nothing does
	Anchor      string // hash of record Next-1
	ProducerID  int64
	Epoch       int16
	KeyDone     string // a tick settled in parts: last entity done ...
	Ordinal     int32  // ... and the next ordinal
	Released    bool   // the last owner left cleanly
	Voice       Voice  // whether it publishes
}

// String is the form in the store.
func (f Fence) String() string {
	released := "0"
	if f.Released {
		released = "1"
	}
	fields := []string{
		f.LogID, strconv.Itoa(f.FoldVersion), f.Nonce,
		strconv.FormatInt(f.Next, 10), strconv.FormatInt(f.Low, 10), f.Anchor,
		strconv.FormatInt(f.ProducerID, 10) + ":" + strconv.Itoa(int(f.Epoch)),
		base64.RawURLEncoding.EncodeToString([]byte(f.KeyDone)) + ":" + strconv.Itoa(int(f.Ordinal)),
		released,
	}
	if voice := f.Voice.String(); voice != "" {
		fields = append(fields, voice)
	}
	return strings.Join(fields, "|")
}

// ParseFence reads what String wrote.
func ParseFence(s string) (Fence, error) {
	var f Fence
	part := strings.Split(s, "|")
	if len(part) != 9 && len(part) != 10 {
		return f, fmt.Errorf("fence %q: %d fields, want 9 or 10", s, len(part))
	}
	var errs [7]error
	if len(part) == 10 {
		f.Voice, errs[6] = parseVoice(part[9])
	}
	f.LogID, f.Nonce, f.Anchor = part[0], part[2], part[5]
	f.FoldVersion, errs[0] = strconv.Atoi(part[1])
	f.Next, errs[1] = strconv.ParseInt(part[3], 10, 64)
	f.Low, errs[2] = strconv.ParseInt(part[4], 10, 64)
	f.ProducerID, f.Epoch, errs[3] = parseProducer(part[6])
	key, ordinal, ok := strings.Cut(part[7], ":")
	if !ok {
		return f, fmt.Errorf("fence %q: key done %q has no ordinal", s, part[7])
	}
	raw, err := base64.RawURLEncoding.DecodeString(key)
	errs[4] = err
	n, err := strconv.ParseInt(ordinal, 10, 32)
	errs[5] = err
	f.KeyDone, f.Ordinal, f.Released = string(raw), int32(n), part[8] == "1"
	for _, err := range errs {
		if err != nil {
			return f, fmt.Errorf("fence %q: %w", s, err)
		}
	}
	return f, nil
}

// Mark is the metadata of the offset committed to Kafka: everything that
// records below Offset caused has been published.
type Mark struct {
	LogID      string
	ProducerID int64
	Epoch      int16
	Offset     int64
	// Silent says that the partition folds without publishing, and why; then
	// Offset is where that begins. The fence says so, too, but it may go back.
	Silent Silence
}

// String is the form in the commit's metadata (under 4,000 ASCII characters).
func (m Mark) String() string {
	s := fmt.Sprintf("%s|%d:%d|%d", m.LogID, m.ProducerID, m.Epoch, m.Offset)
	if m.Silent != "" {
		s += "|" + string(m.Silent)
	}
	return s
}

// ParseMark reads what String wrote.
func ParseMark(s string) (Mark, error) {
	var m Mark
	part := strings.Split(s, "|")
	if len(part) != 3 && len(part) != 4 {
		return m, fmt.Errorf("mark %q: %d fields, want 3 or 4", s, len(part))
	}
	if len(part) == 4 {
		m.Silent = Silence(part[3])
	}
	var err error
	m.LogID = part[0]
	if m.ProducerID, m.Epoch, err = parseProducer(part[1]); err != nil {
		return m, fmt.Errorf("mark %q: %w", s, err)
	}
	if m.Offset, err = strconv.ParseInt(part[2], 10, 64); err != nil {
		return m, fmt.Errorf("mark %q: %w", s, err)
	}
	return m, nil
}

func parseProducer(s string) (int64, int16, error) {
	id, epoch, ok := strings.Cut(s, ":")
	if !ok {
		return 0, 0, fmt.Errorf("producer %q: want id:epoch", s)
	}
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("producer %q: %w", s, err)
	}
	e, err := strconv.ParseInt(epoch, 10, 16)
	if err != nil {
		return 0, 0, fmt.Errorf("producer %q: %w", s, err)
	}
	return n, int16(e), nil
}
