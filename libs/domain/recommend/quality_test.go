package recommend

import (
	"cmp"
	"compress/gzip"
	"encoding/csv"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
)

// click is a line of the Serenade example log.
type click struct {
	at            int64 // milliseconds
	session, item uint32
}

// serenade reads the log of the Serenade example by split, in time order, or
// skips the test.
func serenade(tb testing.TB) map[string][]click {
	tb.Helper()
	dir := os.Getenv("SILLAGE_DATA")
	if dir == "" {
		tb.Skip("SKIPPED: set SILLAGE_DATA to the folder with serenade_bol_toy_clicks.csv.gz to measure quality on real sessions")
	}
	f, err := os.Open(filepath.Join(dir, "serenade_bol_toy_clicks.csv.gz"))
	if err != nil {
		tb.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			tb.Error(err)
		}
	}()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	rows, err := csv.NewReader(z).ReadAll()
	if err != nil {
		tb.Fatal(err)
	}
	num := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			tb.Fatal(err)
		}
		return n
	}
	out := map[string][]click{}
	for _, r := range rows[1:] {
		out[r[3]] = append(out[r[3]], click{num(r[0]) * 1000, uint32(num(r[1])), uint32(num(r[2]))})
	}
	return out
}

// visitLog is a session of a log.
type visitLog struct {
	key    uint32
	clicks []click
}

// byEnd groups clicks into sessions, ordered by their last click.
func byEnd(clicks []click) []visitLog {
	at := map[uint32]int{}
	var logs []visitLog
	for _, c := range clicks {
		i, ok := at[c.session]
		if !ok {
			i = len(logs)
			at[c.session] = i
			logs = append(logs, visitLog{key: c.session})
		}
		logs[i].clicks = append(logs[i].clicks, c)
	}
	for _, l := range logs {
		slices.SortStableFunc(l.clicks, func(a, b click) int { return cmp.Compare(a.at, b.at) })
	}
	slices.SortStableFunc(logs, func(a, b visitLog) int {
		return cmp.Compare(a.clicks[len(a.clicks)-1].at, b.clicks[len(b.clicks)-1].at)
	})
	return logs
}

// deltas turns clicks in time order into what a sessioniser sends.
func deltas(clicks []click, apply func(Delta)) {
	open := map[uint32][]Previous{}
	for _, c := range clicks {
		id := strconv.Itoa(int(c.item))
		prev := open[c.session]
		known := slices.IndexFunc(prev, func(p Previous) bool { return p.Item == id })
		others := prev
		if known >= 0 {
			others = slices.Delete(slices.Clone(prev), known, known+1)
		}
		if known != 0 { // a reload of the current item is no event
			apply(Delta{Session: uint64(c.session) + 1, Item: id, At: c.at, First: known < 0, Previous: others})
		}
		open[c.session] = append([]Previous{{Item: id, At: c.at}}, others...)
	}
}

// score is HR@20 and MRR@20 over every prefix of the test sessions, the way the
// Serenade evaluator counts.
func score(tests []visitLog, top func(prefix []click) []string) (cases int, hr, mrr float64) {
	for _, l := range tests {
		for n := 1; n < len(l.clicks); n++ {
			cases++
			want := strconv.Itoa(int(l.clicks[n].item))
			if r := slices.Index(top(l.clicks[:n]), want); r >= 0 {
				hr++
				mrr += 1 / float64(r+1)
			}
		}
	}
	return cases, hr / float64(cases), mrr / float64(cases)
}

// control is the reference with the shipped configuration of its authors.
func control(train []visitLog) func(prefix []click) []string {
	var sessions []VMISSession
	var lengths []int
	for _, l := range train {
		s := VMISSession{Last: l.clicks[len(l.clicks)-1].at}
		for _, c := range l.clicks {
			if !slices.Contains(s.Items, c.item) {
				s.Items = append(s.Items, c.item)
			}
		}
		sessions = append(sessions, s)
		lengths = append(lengths, len(s.Items))
	}
	slices.Sort(lengths)
	v := NewVMIS(sessions, 500, 50, lengths[int(.995*float64(len(lengths)-1))], 1)
	return func(prefix []click) []string {
		var items []uint32
		for _, c := range prefix[max(0, len(prefix)-2):] {
			items = append(items, c.item)
		}
		var ids []string
		for _, a := range v.Recommend(items, 20) {
			ids = append(ids, strconv.Itoa(int(a.Item)))
		}
		return ids
	}
}

// hybrid is the served form.
func hybrid(cfg Config, train []click) func(prefix []click) []string {
	x := New(cfg)
	deltas(train, x.Apply)
	s := new(Scratch)
	var out []Answer
	return func(prefix []click) []string {
		q := Query{N: 20, KeepSeen: true, Now: prefix[len(prefix)-1].at, Surface: SurfaceProduct}
		for _, c := range prefix {
			q.Items = append(q.Items, QueryItem{Item: strconv.Itoa(int(c.item)), At: c.at})
		}
		out = x.Recommend(q, s, out[:0])
		ids := make([]string, len(out))
		for i, a := range out {
			ids[i] = a.Item
		}
		return ids
	}
}

// TestSerenade measures the reference and the served form on the Serenade
// example: the reference must give its authors' numbers, and the served form
// must not be below it.
func TestSerenade(t *testing.T) {
	data := serenade(t)
	tests := byEnd(data["test"])
	cases, hr, mrr := score(tests, control(byEnd(data["train"])))
	t.Logf("VMIS-kNN control: %d cases, HR@20 %.4f MRR@20 %.4f (authors: 931, .6402, .3277)", cases, hr, mrr)
	if cases != 931 || math.Abs(hr-.6402) > .003 || math.Abs(mrr-.3277) > .002 {
		t.Errorf("control: %d cases, HR@20 %.4f MRR@20 %.4f, want 931, .6402 within .003, .3277 within .002", cases, hr, mrr)
	}
	_, hr2, mrr2 := score(tests, hybrid(DefaultConfig(), data["train"]))
	t.Logf("served form, fixed weights: HR@20 %.4f MRR@20 %.4f", hr2, mrr2)
	if hr2 < hr || mrr2 < mrr {
		t.Errorf("served form HR@20 %.4f MRR@20 %.4f is below the control's %.4f %.4f", hr2, mrr2, hr, mrr)
	}
}
