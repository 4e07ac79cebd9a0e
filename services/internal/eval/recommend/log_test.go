package recommend

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sillage-io/sillage/services/internal/eval"
)

// file writes a log to read.
func file(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log.csv")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// clicks are all of a log.
func clicks(l *Log) (out []Click) {
	_ = l.Each(func(c Click) error {
		out = append(out, c)
		return nil
	})
	return out
}

// sessions shows a log as text: each session's items in time order, the scored
// ones marked.
func sessions(l *Log) []string {
	out := make([]string, l.Sessions)
	for _, c := range clicks(l) {
		out[c.Session] += l.Items[c.Item]
	}
	for s := range out {
		if l.Test(uint32(s)) {
			out[s] += "*"
		}
	}
	return out
}

func TestReadsLogs(t *testing.T) {
	for _, c := range []struct {
		name, content string
		change        func(*Reading, *eval.Options)
		want          []string
		timed         bool
	}{
		{"sessions", "split,session_no,items\ntrain,1,a b\ntrain,2,c\ntest,3, b  a \nvalid,4,c c\n", nil, []string{"ab", "c", "ba*"}, false},
		{"sessions, another split", "split,session_no,items\ntrain,1,a b\ntest,3,b a\nvalid,4,c c\n", func(r *Reading, _ *eval.Options) { r.TestSplit = "valid" }, []string{"ab", "cc*"}, false},
		{"sessions without a split", "items\na b\nb c\nc d\nd e\n", func(r *Reading, _ *eval.Options) { r.PerSession = 24 * time.Hour }, []string{"ab", "bc", "cd", "de*"}, false},
		{
			"clicks in any order, with a split", "ts,session_id,item_id,split\n1590000100,2,c,test\n1590000000,1,a,train\n1590000050,1,b,train\n1590000300,2,d,test\n1590000200,3,x,valid\n",
			nil,
			[]string{"ab", "cd*"},
			true,
		},
		{
			"split by the time sessions end", "timestamp;sessionId;itemId\n2020-01-01;1;a\n2020-01-02;1;b\n2020-01-08;2;c\n2020-01-31;3;e\n2020-01-09;2;d\n2020-01-31;3;f\n",
			func(r *Reading, _ *eval.Options) { r.TestDays = 25 },
			[]string{"ab", "cd*", "ef*"},
			true,
		},
		{
			"test-days wins over the file's split", "ts,session,item,split\n2020-01-01,1,a,test\n2020-01-02,1,b,test\n2020-01-09,2,c,train\n2020-01-09,2,d,train\n",
			func(r *Reading, _ *eval.Options) { r.TestDays = 1 },
			[]string{"ab", "cd*"},
			true,
		},
		{
			"a name that comes again is another session", "ts,session,item\n2020-01-01 10:00,1,a\n2020-01-02 10:00,1,b\n2020-01-03 10:00:01,1,c\n2020-01-20,2,d\n2020-01-20,2,e\n",
			nil,
			[]string{"ab", "c", "de*"},
			true,
		},
		{
			"position orders a day", "date,session_id,click_no,item\n2008-04-01,1,2,b\n2008-04-01,1,1,a\n2008-04-01,2,1,a\n2008-04-20,3,10,d\n2008-04-20,3,9,c\n",
			nil,
			[]string{"ab", "a", "cd*"},
			true,
		},
		{
			"visitors, cut by silence", "ts,user_id,item_id,behavior\n1511000000,7,a,pv\n1511000060,8,x,pv\n1511001000,7,b,cart\n1511900000,7,c,buy\n1511900100,7,d,fav\n1511900200,7,e,share\n",
			nil,
			[]string{"ab", "x", "cd*"},
			true,
		},
		{
			"milliseconds into the session", "sessionId;itemId;timeframe;eventdate\n1;b;5000;2016-01-01\n1;a;1000;2016-01-01\n2;d;9;2016-02-01\n2;c;1;2016-02-01\n",
			func(_ *Reading, o *eval.Options) { o.Map = map[string]string{"ts": "eventdate"} },
			[]string{"ab", "cd*"},
			true,
		},
		{
			"no header, as Yoochoose", "1,2014-04-07T10:51:09.277Z,a,0\n1,2014-04-07T10:54:09.868Z,b,0\n2,2014-05-07T10:54:09Z,c,0\n2,2014-05-07T10:54:10Z,d,0\n",
			func(_ *Reading, o *eval.Options) { o.Header = []string{"session", "ts", "item", "category"} },
			[]string{"ab", "cd*"},
			true,
		},
		{
			"as Retailrocket", "timestamp,visitorid,event,itemid,transactionid\n1433221332117,7,view,a,\n1433221400000,7,addtocart,b,\n1443221332117,8,view,c,\n1443221333117,8,transaction,d,4000\n",
			nil,
			[]string{"ab", "cd*"},
			true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, o := DefaultReading(), eval.Options{}
			if c.change != nil {
				c.change(&r, &o)
			}
			l, _, err := Read(context.Background(), file(t, c.content), r, o)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, sessions(l)); d != "" {
				t.Error(d)
			}
			if l.Timed != c.timed || l.Name != "log" {
				t.Errorf("timed %v, name %q", l.Timed, l.Name)
			}
		})
	}
}

// Items are numbered by their ids, whatever the order of rows.
func TestItemsAreNumberedByTheirIDs(t *testing.T) {
	l, _, err := Read(context.Background(), file(t, "split,session_no,items\ntrain,1,10 b 9 a 07\ntest,2,a b\n"), DefaultReading(), eval.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"9", "10", "07", "a", "b"}, l.Items); d != "" {
		t.Error(d)
	}
}

func TestKindsOfEvents(t *testing.T) {
	l, src, err := Read(context.Background(), file(t, "ts,session,item,event\n1511000000,1,a,view\n1511000001,1,a,addtocart\n1511000002,1,a,transaction\n1511000003,1,a,looked\n1511900000,2,a,view\n1511900001,2,a,view\n"), DefaultReading(), eval.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range clicks(l) {
		got = append(got, c.Kind.String())
	}
	if d := cmp.Diff([]string{"view", "cart", "order", "view", "view"}, got); d != "" {
		t.Error(d)
	}
	if len(src.Rejected) != 1 || src.Rejected[0].Line != 5 {
		t.Errorf("rejected %+v", src.Rejected)
	}
}

func TestLogsThatLeaveNothing(t *testing.T) {
	for _, c := range []struct {
		name, content string
		want          []string
	}{
		{"all is scored", "split,session_no,items\ntest,1,a b\ntest,2,b c\n", []string{"none is left to learn from"}},
		{"nothing is scored", "split,session_no,items\ntrain,1,a b\ntrain,2,b c\n", []string{"no row has split test", "2 train", "--test-split"}},
		{"one item a session", "split,session_no,items\ntrain,1,a\ntest,2,b\n", []string{"nothing to predict"}},
		{"one day", "ts,session,item\n2020-01-01 10:00,1,a\n2020-01-01 10:01,1,b\n", []string{"none is left to learn from", "2020-01-01 10:00:00", "--test-days"}},
		{"no items", "split,session_no,items\ntrain,1,\n", []string{"none of its 1 rows", "items is empty"}},
		{"nobody", "ts,item\n2020-01-01,a\n", []string{"--map session=COLUMN", "--map visitor=COLUMN"}},
		{"no columns", "a,b,c\n1,2,3\n", []string{"no column for ts", "no column for item", "the header is a, b, c"}},
		{"header only", "ts,session,item\n", []string{"a header and no row"}},
		{"sessions without names", "ts,session,item\n2020-01-01,,a\n", []string{"session is empty"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := Read(context.Background(), file(t, c.content), DefaultReading(), eval.Options{})
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v does not say %q", err, want)
				}
			}
		})
	}
}
