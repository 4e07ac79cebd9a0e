package step_test

import (
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
)

// lone is one partition's world without faults but what the test does to it.
type lone struct {
	t      *testing.T
	log    []record.Record
	start  int64
	kept   *keeper
	fence  string
	commit int64
	mark   string
	out    []string // ids of what was published
	owners int
}

// own runs an owner until it has folded all, or has done so many steps; it stops
// without a release.
func (l *lone) own(steps int) *step.Machine {
	l.t.Helper()
	cfg := orderedConfig()
	cfg.Order = step.OnArrival
	l.owners++
	p := step.NewPartition(cfg, tally{topic: "out"}, asJSON[tallied]{})
	m := step.NewMachine(cfg, p, "owner"+strconv.Itoa(l.owners))
	for ; steps > 0; steps-- {
		c := m.Next()
		var r step.Result
		switch c.Op {
		case step.OpArm:
			r.Fence = l.fence
		case step.OpReadMark:
			r.Commit, r.Mark = l.commit, l.mark
		case step.OpReadBounds:
			r.Start, r.End = l.start, int64(len(l.log))
		case step.OpReadAnchor:
			if c.Offset < l.start {
				r.Range = true
			} else {
				r.Records = l.log[c.Offset : c.Offset+1]
			}
		case step.OpNewProducer:
			r.Producer = step.Producer{ID: int64(l.owners)}
		case step.OpClaim, step.OpApply:
			if c.Write.Base != l.fence {
				l.t.Fatalf("%v on %q, the fence is %q", c.Op, c.Write.Base, l.fence)
			}
			if c.Write.Wipe {
				l.kept = newKeeper()
			}
			l.kept.take(step.Batch{Write: c.Write})
			l.fence = c.Write.Target
		case step.OpLoad:
			r.State = l.kept.state()
			r.State.Fence = l.fence
		case step.OpCommitClaim, step.OpCommit:
			l.commit, l.mark = c.Commit, c.Mark.String()
		case step.OpFetch:
			if c.Offset < l.start {
				r.Range = true
			} else if c.Offset == int64(len(l.log)) {
				return m
			} else {
				r.Records = l.log[c.Offset : c.Offset+1]
			}
		case step.OpPublish:
			for _, o := range c.Outs {
				l.out = append(l.out, header(o, record.HeaderID))
			}
		case step.OpHalt:
			l.t.Fatalf("halted: %v", c.Reason)
		}
		m.Done(r)
	}
	return m
}

func newLone(t *testing.T, n int64) *lone {
	l := &lone{t: t, kept: newKeeper(), commit: -1}
	l.append(n)
	return l
}

func (l *lone) append(n int64) {
	for range n {
		at := int64(len(l.log))
		l.log = append(l.log, fact(at, 10+at, "d", "x"))
	}
}

// said returns what was published since it was asked last.
func (l *lone) said() []string {
	out := l.out
	l.out = nil
	return out
}

func (l *lone) voice() step.Voice {
	l.t.Helper()
	f, err := step.ParseFence(l.fence)
	if err != nil {
		l.t.Fatal(err)
	}
	return f.Voice
}

// decide writes an operator's decision.
func (l *lone) decide(v step.Voice) {
	l.t.Helper()
	f, err := step.ParseFence(l.fence)
	if err != nil {
		l.t.Fatal(err)
	}
	f.Voice, f.Nonce = v, "operator"
	l.fence = f.String()
}

const everywhere = 1000

// TestSilentUntilAnOperatorDecides: a state that has stepped over a gap, or has no
// mark, folds without publishing, whoever owns it and whenever it dies; an
// operator's word ends it, and is taken up once.
func TestSilentUntilAnOperatorDecides(t *testing.T) {
	for name, c := range map[string]struct {
		breaks func(*lone)
		why    step.Silence
		mark   int64 // where the silence began
	}{
		"gap":                 {func(l *lone) { l.append(4); l.start = 6; l.log[5] = record.Record{} }, step.SilentGap, 4},
		"gap, state wiped":    {func(l *lone) { l.append(4); l.start, l.fence = 6, "" }, step.SilentGap, 4},
		"no mark":             {func(l *lone) { l.append(4); l.commit, l.mark = -1, "" }, step.SilentUnmarked, 4},
		"mark of another log": {func(l *lone) { l.append(4); l.mark = step.Mark{LogID: "other", Offset: 2}.String() }, step.SilentUnmarked, 4},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLone(t, 4)
			l.own(everywhere)
			if d := cmp.Diff([]string{"f0/fact", "f1/fact", "f2/fact", "f3/fact"}, l.said()); d != "" {
				t.Fatalf("before (-want +got):\n%s", d)
			}
			c.breaks(l)
			// Owners that die after any number of steps keep silent, too.
			for steps := range 14 {
				l.own(steps)
			}
			m := l.own(everywhere)
			if m.Silent() != c.why || l.voice().Silent != c.why {
				t.Fatalf("silent %q, in the fence %q, want %q", m.Silent(), l.voice().Silent, c.why)
			}
			l.append(2)
			m = l.own(everywhere)
			if said := l.said(); len(said) > 0 {
				t.Fatalf("published in silence: %v", said)
			}
			if _, _, mark := m.Offsets(); mark != c.mark {
				t.Errorf("the mark is %d, want %d, where the silence began", mark, c.mark)
			}
			if c.why == step.SilentGap {
				if len(foldStatus(t, l).Incomplete) == 0 {
					t.Error("the state is not said to be incomplete")
				}
				if s := m.Stats(); s.Gaps != 0 {
					t.Errorf("the gap is found again: %+v", s)
				}
			}

			l.decide(step.Voice{Word: step.WordSpeak, From: 11})
			l.append(2) // 10 and 11
			for steps := range 14 {
				l.own(steps)
			}
			l.own(everywhere)
			l.append(1)
			m = l.own(everywhere)
			if d := cmp.Diff([]string{"f11/fact", "f12/fact"}, unique(l.said())); d != "" {
				t.Errorf("after the decision (-want +got):\n%s", d)
			}
			if want := (step.Voice{Word: step.WordSpoken, From: 11}); m.Silent() != "" || l.voice() != want {
				t.Errorf("voice %q, want %q", l.voice(), want)
			}
			if _, _, mark := m.Offsets(); mark != 13 {
				t.Errorf("the mark is %d, want 13: it goes on", mark)
			}
		})
	}
}

// unique drops repeats, which crashes between publish and apply make.
func unique(ids []string) []string {
	var once []string
	seen := map[string]bool{}
	for _, id := range ids {
		if !seen[id] {
			once = append(once, id)
		}
		seen[id] = true
	}
	return once
}

func foldStatus(t *testing.T, l *lone) step.PartitionStatus {
	t.Helper()
	st, err := step.StatusOf(l.kept.entities[step.MetaKey], orderedConfig())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// TestRestoredMark: a state that was restored from before is silent up to the mark
// it was saved with, also where the broker has forgotten it; and up to the broker's
// where that is higher.
func TestRestoredMark(t *testing.T) {
	for name, c := range map[string]struct {
		broker int64 // -1: forgotten
		want   []string
	}{
		"forgotten": {-1, []string{"f4/fact", "f5/fact"}},
		"lower":     {2, []string{"f4/fact", "f5/fact"}},
		"higher":    {5, []string{"f5/fact"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLone(t, 2)
			l.own(everywhere)
			l.said()
			l.append(4)
			l.commit, l.mark = -1, ""
			if c.broker >= 0 {
				l.commit, l.mark = c.broker, step.Mark{LogID: "log", ProducerID: 1, Offset: c.broker}.String()
			}
			l.decide(step.Voice{Word: step.WordMark, From: 4})
			m := l.own(everywhere)
			if d := cmp.Diff(c.want, l.said()); d != "" {
				t.Errorf("published (-want +got):\n%s", d)
			}
			if m.Silent() != "" || l.voice().Word != step.WordRestored {
				t.Errorf("silent %q, voice %q", m.Silent(), l.voice())
			}
		})
	}
}

func TestVoiceRoundTrip(t *testing.T) {
	for _, v := range []step.Voice{{}, {Silent: step.SilentGap}, {Word: step.WordSpeak, From: 12}, {Word: step.WordMark}, {Word: step.WordSpoken, From: 3}, {Word: step.WordRestored, From: 1}} {
		f := step.Fence{LogID: "l", FoldVersion: 1, Nonce: "n", Voice: v}
		got, err := step.ParseFence(f.String())
		if err != nil || got != f {
			t.Errorf("%q: %+v, %v", f, got, err)
		}
	}
	for _, bad := range []string{"l|1|n|1|1|a|1:1|:0|0|", "l|1|n|1|1|a|1:1|:0|0|loud", "l|1|n|1|1|a|1:1|:0|0|speak=x", "l|1|n|1|1|a|1:1|:0|0|shout=1", "l|1|n|1|1|a|1:1|:0|0|speak=1|more"} {
		if _, err := step.ParseFence(bad); err == nil {
			t.Errorf("ParseFence(%q): no error", bad)
		}
	}
}
