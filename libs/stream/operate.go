package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/step"
)

// ErrInUse says that owners of a processor are at work.
var ErrInUse = errors.New("its services are running")

// silence says why a partition is silent, and what ends it.
func silence(why step.Silence) error {
	switch why {
	case step.SilentGap:
		return errors.New("publishes nothing, for the log has lost records before they were folded; sillage speak ends it")
	case step.SilentUnmarked:
		return errors.New("publishes nothing, for there is no emission mark, and nobody knows what was published; sillage speak ends it")
	}
	return fmt.Errorf("publishes nothing (%s); sillage speak ends it", why)
}

// operated begins the nonce of a fence that an operator's command has written.
const operated = "operator-"

// noticed is what an owner has noticed and said.
type noticed struct {
	committed             int64 // as the claim read it; -1 where nothing was
	gaps                  int64
	rollbacks, rolledBack int64
	counts                step.Counts
	counting              bool
	replaced              bool // the state is an operator's: bases of the one before have to go
}

// armed is told the fence before a claim.
func (d *driver) armed(fence string) {
	if f, err := step.ParseFence(fence); err == nil && strings.HasPrefix(f.Nonce, operated) {
		d.noticed.replaced = true
		d.log.Info("an operator has put this state here", slog.Int64("next", f.Next), slog.String("voice", f.Voice.String()))
	}
}

// mendedEvery is how often a halted owner looks whether its state was mended.
const mendedEvery = time.Second

// mended waits until somebody has written the fence at which the partition has
// halted, which an operator does who mends its state; false where ctx ends first.
func (d *driver) mended(ctx context.Context) bool {
	for {
		if !sleep(ctx, ctx, mendedEvery) || ctx.Err() != nil {
			return false
		}
		if fence, err := d.r.store.Fence(ctx, d.tag); err == nil && fence != d.m.Armed() {
			break
		}
	}
	d.noticed.gaps = 0 // of the machine that has halted
	d.log.Info("somebody has written the state: claims it again")
	return true
}

// claimed says what a claim has found: records that are gone, a state that went
// back, silence.
func (d *driver) claimed() {
	n := &d.noticed
	n.counting = false
	next, _, mark := d.m.Offsets()
	if s := d.m.Stats(); s.Gaps > n.gaps {
		n.gaps = s.Gaps
		d.log.Error("the log has lost records before they were folded: what was learnt from them is missing",
			slog.Int64("from", s.GapFrom), slog.Int64("to", s.GapTo), slog.Int64("records", s.GapTo-s.GapFrom))
	}
	if n.committed > next {
		n.rollbacks++
		n.rolledBack += n.committed - next
		d.log.Warn("the state went back: it is folded again, silently up to the mark",
			slog.Int64("from", next), slog.Int64("to", n.committed), slog.Int64("records", n.committed-next), slog.Int64("mark", mark))
	}
	if why := d.m.Silent(); why != "" {
		d.log.Warn("folds without publishing", slog.String("why", string(why)), slog.Int64("next", next), slog.Int64("mark", mark))
	}
}

// rewound says that a claim ended before its time.
func (d *driver) rewound() {
	next, _, mark := d.m.Offsets()
	d.log.Warn("the claim is over: claims again", slog.Int64("next", next), slog.Int64("mark", mark))
}

// counted says what died and what was put back since it was asked last.
func (d *driver) counted(c step.Counts) {
	n := &d.noticed
	next, _, _ := d.m.Offsets()
	if n.counting && c.Dead > n.counts.Dead {
		d.log.Warn("dead letters: records could not be folded (sillage dlq list)", slog.Int64("records", c.Dead-n.counts.Dead), slog.Int64("before", next))
	}
	if n.counting && c.Requeued > n.counts.Requeued {
		d.log.Info("records that were put back are folded", slog.Int64("records", c.Requeued-n.counts.Requeued), slog.Int64("before", next))
	}
	n.counts, n.counting = c, d.m.Running()
}

// inUse tells whether owners of the processor are at work, as far as the group
// knows.
func inUse(ctx context.Context, c *broker.Client, p Processor) error {
	n, err := c.Members(ctx, p.Group())
	if err != nil {
		return err
	}
	if n > 0 {
		return fmt.Errorf("%s: %w (%d members of group %s)", p.Name, ErrInUse, n, p.Group())
	}
	return nil
}

// replace puts a state in the place of what the partition holds, if its fence is
// still base. It returns step.Lost where it is not.
func replace(ctx context.Context, store *state.Store, tag string, layout state.Layout, base string, st step.State) (step.Outcome, error) {
	return write(ctx, store, tag, layout, step.Write{Base: base, Target: st.Fence, Wipe: true, Entities: st.Entities, Logs: st.Logs})
}

// refence changes a partition's fence alone, as replace does.
func refence(ctx context.Context, store *state.Store, tag string, layout state.Layout, base string, f step.Fence) (step.Outcome, error) {
	return write(ctx, store, tag, layout, step.Write{Base: base, Target: f.String()})
}

func write(ctx context.Context, store *state.Store, tag string, layout state.Layout, w step.Write) (step.Outcome, error) {
	part := store.Partition(tag, layout)
	defer part.Close()
	current, err := part.Arm(ctx)
	if err != nil {
		return step.NotWritten, err
	}
	if current != w.Base {
		return step.Lost, nil
	}
	outcome, _, err := part.Apply(ctx, w)
	if err != nil {
		return outcome, fmt.Errorf("write the state of %s: %w", tag, err)
	}
	return outcome, nil
}

// byOperator is a fence as an operator's command writes it: no owner's.
func byOperator(f step.Fence) step.Fence {
	f.Nonce = operated + nonce()
	f.KeyDone, f.Ordinal = "", 0
	return f
}
