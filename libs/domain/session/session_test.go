package session

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const minute = 60_000

func TestAdd(t *testing.T) {
	w := DefaultWindow()
	w.Items = 3
	v := Visit{Opened: 100 * minute, Start: 100 * minute, Last: 110 * minute, Events: 2, Items: []string{"b", "a"}}
	for _, tc := range []struct {
		name   string
		from   Visit
		item   string
		at     Instant
		want   Visit
		closes bool
	}{
		{"the first event", Visit{}, "a", 5, Visit{5, 5, 5, 1, []string{"a"}}, false},
		{"the first event, at the beginning of time", Visit{}, "", 0, Visit{0, 0, 0, 1, nil}, false},
		{"soon after", v, "c", 111 * minute, Visit{100 * minute, 100 * minute, 111 * minute, 3, []string{"c", "b", "a"}}, false},
		{"exactly the gap", v, "", 140 * minute, Visit{100 * minute, 100 * minute, 140 * minute, 3, []string{"b", "a"}}, false},
		{"a millisecond more", v, "c", 140*minute + 1, Visit{140*minute + 1, 140*minute + 1, 140*minute + 1, 1, []string{"c"}}, true},
		{"back to an item", v, "a", 111 * minute, Visit{100 * minute, 100 * minute, 111 * minute, 3, []string{"a", "b"}}, false},
		{"known late, inside", v, "c", 105 * minute, Visit{100 * minute, 100 * minute, 110 * minute, 3, []string{"c", "b", "a"}}, false},
		{"known late, before the start", v, "c", 90 * minute, Visit{100 * minute, 90 * minute, 110 * minute, 3, []string{"c", "b", "a"}}, false},
		{"known late, of long before", v, "c", 60 * minute, Visit{100 * minute, 100 * minute, 110 * minute, 3, []string{"c", "b", "a"}}, false},
		{
			"more items than are kept",
			Visit{1, 1, 1, 3, []string{"c", "b", "a"}},
			"d", 2,
			Visit{1, 1, 2, 4, []string{"d", "c", "b"}},
			false,
		},
		{
			"a day without rest",
			Visit{0, 0, 24*60*minute - 1, 9999, nil},
			"", 24*60*minute + 1,
			Visit{24*60*minute + 1, 24*60*minute + 1, 24*60*minute + 1, 1, nil},
			true,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, closed := w.Add(tc.from, tc.item, tc.at)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("open (-want +got)\n%s", diff)
			}
			if (closed != nil) != tc.closes {
				t.Fatalf("closed %v, want that: %v", closed, tc.closes)
			}
			if closed != nil {
				if diff := cmp.Diff(tc.from, *closed); diff != "" {
					t.Errorf("closed (-want +got)\n%s", diff)
				}
			}
		})
	}
}

func TestAddLeavesItsInputAlone(t *testing.T) {
	w := DefaultWindow()
	v, _ := w.Add(Visit{}, "a", 1)
	v, _ = w.Add(v, "b", 2)
	one, _ := w.Add(v, "x", 3)
	two, _ := w.Add(v, "y", 3)
	if diff := cmp.Diff([][]string{{"b", "a"}, {"x", "b", "a"}, {"y", "b", "a"}}, [][]string{v.Items, one.Items, two.Items}); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestOver(t *testing.T) {
	w := DefaultWindow()
	v, _ := w.Add(Visit{}, "", 0)
	for _, tc := range []struct {
		name string
		v    Visit
		now  Instant
		want bool
	}{
		{"at once", v, 0, false},
		{"when due", v, 30 * minute, false},
		{"just after", v, 30*minute + 1, true},
		{"no visit", Visit{}, 99 * minute, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := w.Over(tc.v, tc.now); got != tc.want {
				t.Errorf("over %v, want %v", got, tc.want)
			}
		})
	}
}

// TestAnyEvents: no event is lost, no visit is longer than allowed or keeps a gap,
// and, in order of time, a visit is closed by an event exactly if silence had
// ended it or the day was full.
func TestAnyEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := Window{Gap: 10, Longest: rapid.SampledFrom([]int64{0, 10, 40}).Draw(t, "longest"), Items: 3}
		inOrder := rapid.Bool().Draw(t, "in order")
		steps := rapid.SliceOf(rapid.Int64Range(0, 25)).Draw(t, "steps")
		var v Visit
		var at int64
		events := 0
		for _, s := range steps {
			if inOrder {
				at += s
			} else {
				at = s * 3
			}
			before := v
			open, closed := w.Add(v, rapid.SampledFrom([]string{"", "a", "b", "c", "d"}).Draw(t, "item"), at)
			if closed != nil {
				events += closed.Events
			}
			if inOrder {
				full := w.Longest > 0 && at-before.Start > w.Longest
				if want := before.Open() && (w.Over(before, at) || full); (closed != nil) != want {
					t.Errorf("event at %d after %+v closed: %v, want %v", at, before, closed != nil, want)
				}
			}
			v = open
			if inOrder && at < v.Start || at > v.Last || v.Start > v.Opened || v.Last < v.Opened || len(v.Items) > w.Items || w.Longest > 0 && v.Last-v.Start > w.Longest {
				t.Errorf("event at %d in %+v", at, v)
			}
		}
		if got := events + v.Events; got != len(steps) {
			t.Errorf("%d events in visits, of %d", got, len(steps))
		}
	})
}

func TestValidate(t *testing.T) {
	if err := DefaultWindow().Validate(); err != nil {
		t.Error(err)
	}
	err := Window{Gap: 0, Longest: -1, Items: 0}.Validate()
	for _, want := range []string{"gap", "longest", "items"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	if (Window{Gap: 10, Longest: 5, Items: 1}).Validate() == nil {
		t.Error("a visit shorter than its gap is accepted")
	}
}
