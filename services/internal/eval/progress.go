package eval

import (
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/schollz/progressbar/v3"
)

// Progress shows on a terminal how far a run is and when it will be done. A nil
// Progress shows nothing. It is not safe for concurrent use.
type Progress struct {
	w   io.Writer
	bar *progressbar.ProgressBar
}

// NewProgress returns one that writes to w where somebody looks: on a terminal,
// and not when quiet.
func NewProgress(w io.Writer, quiet bool) *Progress {
	f, ok := w.(*os.File)
	if quiet || !ok || !isatty.IsTerminal(f.Fd()) {
		return nil
	}
	return &Progress{w: w}
}

// Start begins a stage of so many steps; 0 where that is not known. It ends the
// stage before.
func (p *Progress) Start(what string, steps int64) {
	if p == nil {
		return
	}
	p.Done()
	if steps <= 0 {
		steps = -1
	}
	p.bar = progressbar.NewOptions64(steps, progressbar.OptionSetWriter(p.w), progressbar.OptionSetDescription(what),
		progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionFullWidth(), progressbar.OptionClearOnFinish())
}

// At says how many steps of the stage are done.
func (p *Progress) At(step int64) {
	if p == nil || p.bar == nil {
		return
	}
	_ = p.bar.Set64(step) // a terminal that cannot be written to is nobody's loss
}

// Clear takes what is shown off the terminal, so that something else can be
// written there.
func (p *Progress) Clear() {
	if p == nil || p.bar == nil {
		return
	}
	_ = p.bar.Clear()
}

// Done ends the stage.
func (p *Progress) Done() {
	if p == nil || p.bar == nil {
		return
	}
	_ = p.bar.Finish()
	p.bar = nil
}
