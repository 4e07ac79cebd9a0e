package recommend

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sillage-io/sillage/services/internal/eval"
)

// Sorting through files gives what sorting in memory gives: equal times stay in
// the order they came in.
func TestSpoolSorts(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for _, hold := range []int{1, 2, 7, 100, 1000, 5000} {
		r := rand.New(rand.NewPCG(uint64(hold), 1))
		s := spool{hold: hold}
		var want, got []record
		for i := range 1000 {
			c := record{at: int64(r.IntN(50) - 25), key: r.Uint64(), item: r.Uint32(), pos: int32(r.Uint32()), kind: 2, part: uint8(i % 4)}
			if err := s.add(c); err != nil {
				t.Fatal(err)
			}
			want = append(want, c)
		}
		slices.SortStableFunc(want, func(a, b record) int { return int(a.at - b.at) })
		if err := s.each(t.Context(), func(c record) error {
			c.seq = 0
			got = append(got, c)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, cmp.AllowUnexported(record{})); d != "" {
			t.Errorf("hold %d: %s", hold, d)
		}
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// clickFile is a click log in random order of rows, with sessions that overlap,
// positions or not.
func clickFile(seed uint64, n int, positions bool) string {
	r := rand.New(rand.NewPCG(seed, 3))
	var rows []string
	at := time.Date(2020, 5, 1, 0, 0, 0, 0, time.UTC)
	for s := range n {
		at = at.Add(time.Duration(r.IntN(3600)) * time.Second)
		step, i := at, r.IntN(40)
		for k := range 1 + r.IntN(6) {
			step = step.Add(time.Duration(r.IntN(900)) * time.Second)
			if positions {
				rows = append(rows, fmt.Sprintf("%s,%d,%d,i%d\n", step.Format(time.DateOnly), s, k, i))
			} else {
				rows = append(rows, fmt.Sprintf("%s,%d,i%d\n", step.Format(time.RFC3339), s, i))
			}
			i = (i + r.IntN(3)) % 40
		}
	}
	r.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
	if positions {
		return "date,session_id,position,item_id\n" + strings.Join(rows, "")
	}
	return "ts,session_id,item_id\n" + strings.Join(rows, "")
}

// A log that does not fit into what may be held gives the same figures as one that
// does, and leaves no file behind.
func TestLogsLargerThanMemory(t *testing.T) {
	times := cmpopts.IgnoreFields(Result{}, "Kernel", "Reasons", "Update", "Learn", "Build", "Heap")
	figures := cmp.Comparer(func(a, b eval.Figure) bool { return a == b || !a.Defined() && !b.Defined() })
	for name, content := range map[string]string{
		"sessions": random(5, 300), "clicks": clickFile(1, 400, false), "days with positions": clickFile(2, 400, true),
		"long sessions": "split,session_no,items\ntrain,1," + strings.Repeat("a b c d ", 50) + "\ntrain,2,a b\ntest,3," + strings.Repeat("b d ", 50) + "\ntest,4,a b\n",
	} {
		t.Run(name, func(t *testing.T) {
			path := file(t, content)
			t.Setenv("TMPDIR", t.TempDir())
			for _, mode := range []Mode{Frozen, Online} {
				var want []Result
				for _, hold := range []int{1_000_000, 100} {
					r, said := DefaultReading(), 0
					r.Hold = hold
					l, _, err := Read(t.Context(), path, r, eval.Options{Tell: func(string) { said++ }})
					if err != nil {
						t.Fatal(err)
					}
					cfg := small()
					cfg.Mode = mode
					o, err := Run(t.Context(), l, cfg, nil)
					if err != nil {
						t.Fatal(err)
					}
					if want == nil {
						want = o.Results(true)
						if said != 0 {
							t.Error("said that the disk is used")
						}
					} else if said != 1 {
						t.Errorf("said %d times that the disk is used", said)
					}
					if d := cmp.Diff(want, o.Results(true), times, figures); d != "" {
						t.Errorf("%s, %d held: %s", mode, hold, d)
					}
					l.Close()
				}
			}
			if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}

// A run that is told to stop while it sorts, and one whose disk cannot be written
// to, end with an error that says so.
func TestSpoolEnds(t *testing.T) {
	path := file(t, clickFile(1, 3000, false))
	r := DefaultReading()
	r.Hold = 100
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err := Read(ctx, path, r, eval.Options{Tell: func(string) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("told to stop: %v", err)
	}
	t.Setenv("TMPDIR", "/nowhere")
	if _, _, err := Read(t.Context(), path, r, eval.Options{}); err == nil || !strings.Contains(err.Error(), "TMPDIR") {
		t.Errorf("no folder for temporary files: %v", err)
	}
}

// Of more scored sessions than are wanted, about as many as wanted are drawn, the
// same ones by the same seed.
func TestDrawsScoredSessions(t *testing.T) {
	draw := func(seed uint64, n int) Result {
		o := run(t, random(9, 3000), func(c *Config) { c.Methods, c.Seed, c.Sessions = []Method{Markov}, seed, n })
		return of(t, o, Markov)
	}
	all, some := draw(1, 100_000), draw(1, 200)
	if some.Sessions < 130 || some.Sessions > 270 || all.Sessions < 400 {
		t.Errorf("%d sessions of %d, want about 200", some.Sessions, all.Sessions)
	}
	if again := draw(1, 200); again.HR20 != some.HR20 || again.Sessions != some.Sessions {
		t.Error("the same seed draws others")
	}
	if d := float64(all.HR20 - some.HR20); d > .1 || d < -.1 {
		t.Errorf("HR@20 %v of all, %v of those drawn", all.HR20, some.HR20)
	}
}
