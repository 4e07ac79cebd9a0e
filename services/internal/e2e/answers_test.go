package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/sillage-io/sillage/libs/domain/recommend"
	"github.com/sillage-io/sillage/libs/rpc"
	recommenderv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/recommender/v1"
	"github.com/sillage-io/sillage/services/internal/eval"
	evaluate "github.com/sillage-io/sillage/services/internal/eval/recommend"
	"github.com/sillage-io/sillage/services/recommender"
)

// A click log goes through the running system, and what it then answers is what
// the package answers that `sillage eval recommend` measures, item by item: an
// index of our own is given the same deltas, and both are asked before each click
// of the scored sessions. With one partition both see the deltas in one order.
func TestAnswersAreThoseOfThePackage(t *testing.T) {
	dir := os.Getenv("SILLAGE_DATA")
	if dir == "" {
		t.Skip("SKIPPED: set SILLAGE_DATA to the folder with serenade_bol_toy_clicks.csv.gz to replay a real click log through the system")
	}
	log, _, err := evaluate.Read(t.Context(), filepath.Join(dir, "serenade_bol_toy_clicks.csv.gz"), evaluate.DefaultReading(), eval.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var learned bytes.Buffer
	learned.WriteString("ts,session_id,item_id\n")
	scored := map[uint32][]string{}
	var order []uint32
	defer log.Close()
	err = log.Each(func(c evaluate.Click) error {
		if !log.Test(c.Session) {
			fmt.Fprintf(&learned, "%d,s%d,%s\n", c.At/1000, c.Session, log.Items[c.Item])
			return nil
		}
		if scored[c.Session] == nil {
			order = append(order, c.Session)
		}
		scored[c.Session] = append(scored[c.Session], log.Items[c.Item])
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "learned.csv")
	if err := os.WriteFile(file, learned.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}

	s := newSystem(t, "--partitions", "1")
	s.start()
	s.run("replay", "clicks", file, "--shop", "bol")
	index := recommend.New(recommend.DefaultConfig())
	scratch := new(recommend.Scratch)
	deltas := int64(0)
	for line := range strings.Lines(s.run("tail", "recommendation.deltas.v1", "--from", "start", "--until", "end", "--json")) {
		var r struct{ Data json.RawMessage }
		var d recommenderv1.Delta
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(r.Data, &d); err != nil {
			t.Fatal(err)
		}
		index.Observe(deltaOf(&d), scratch)
		deltas++
	}

	conn, err := rpc.Dial(rpc.ClientConfig{Addr: s.grpc})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := recommenderv1.NewRecommenderServiceClient(conn)
	ask := func(items []string) *recommenderv1.RecommendResponse {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		res, err := client.Recommend(ctx, &recommenderv1.RecommendRequest{Shop: "bol", Items: items, Surface: "product"}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if f := ask([]string{"1"}).Freshness; f.IndexApplied >= deltas && f.IndexLag == 0 {
			break
		} else if time.Since(begin) > time.Minute {
			t.Fatalf("the index has %d of %d deltas after a minute, lag %d", f.IndexApplied, deltas, f.IndexLag)
		}
	}

	own := recommender.DefaultConfig()
	var answers []recommend.Answer
	cases, same, discoveries, hits, reasoned := 0, 0, 0, 0, 0
	for _, session := range order {
		items := scored[session]
		for n := 1; n < len(items); n++ {
			served := ask(items[:n])
			q := recommend.Query{N: 20, Surface: recommend.SurfaceProduct, Now: time.Now().UnixMilli(), PerCategory: own.PerCategory, PerBrand: own.PerBrand}
			for _, i := range items[:n] {
				q.Items = append(q.Items, recommend.QueryItem{Item: i, At: q.Now})
			}
			answers = index.Recommend(q, scratch, answers[:0])
			var got, want []string
			for _, r := range served.Recommendations {
				got = append(got, r.ProductId)
				if len(r.Reasons) > 0 {
					reasoned++
				}
			}
			for _, a := range answers {
				want = append(want, a.Item)
			}
			cases++
			if slices.Equal(got, want) {
				same++
			} else if cases-same < 4 {
				t.Logf("after %v the system answers %v, the package %v", items[:n], got, want)
			}
			if !slices.Contains(items[:n], items[n]) {
				discoveries++
				if slices.Contains(got, items[n]) {
					hits++
				}
			}
		}
	}
	t.Logf("%d deltas, %d cases: %d lists equal; HR@20 over the %d items that were new to their session: %.4f", deltas, cases, same, discoveries, float64(hits)/float64(discoveries))
	if same != cases {
		t.Errorf("%d of %d lists are not those of the package", cases-same, cases)
	}
	if reasoned == 0 {
		t.Error("no answer has a reason")
	}
	// VMIS-kNN finds .5032 of them (eval recommend --method vmis). This index is
	// asked years after its last event, of sessions that it was not told of.
	if hr := float64(hits) / float64(discoveries); hr < .5032 {
		t.Errorf("HR@20 of discoveries %.4f, want at least .5032", hr)
	}
	s.stop()
}

// deltaOf is a delta of a log that has only views.
func deltaOf(d *recommenderv1.Delta) recommend.Delta {
	out := recommend.Delta{Session: d.Session, Item: d.ProductId, Kind: recommend.View, At: d.EventTimeMs, First: d.First}
	for _, p := range d.Previous {
		out.Previous = append(out.Previous, recommend.Previous{Item: p.ProductId, Kind: recommend.View, At: p.EventTimeMs})
	}
	return out
}
