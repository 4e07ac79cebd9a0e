package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/rpc"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	profilev1 "github.com/sillage-io/sillage/proto/gen/go/sillage/profile/v1"
	recommenderv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/recommender/v1"
	"github.com/sillage-io/sillage/services/churn"
	"github.com/sillage-io/sillage/services/internal/host"
	"github.com/sillage-io/sillage/services/restock"
)

//go:embed page.html
var pageHTML []byte

const (
	pageRows     = 12
	visitorQuiet = 20 * time.Second // after which another visitor is followed
)

// page is what the people who run it look at: what passes, as it passes.
type page struct {
	host  *host.Host
	addr  string // of the gRPC server
	start time.Time

	mu       sync.Mutex
	events   int64
	seconds  [60]int64 // events by second, a ring
	names    map[string]string
	products int
	alerts   []churn.Payload
	signals  []restock.Payload
	alerted  int64
	signaled int64
	visitor  pageVisitor
}

// pageVisitor is the visitor who is followed.
type pageVisitor struct {
	Shop      string     `json:"shop"`
	Device    string     `json:"device"`
	User      string     `json:"user,omitempty"`
	Seen      time.Time  `json:"seen"`
	Items     []pageItem `json:"items"` // latest first
	Level     string     `json:"level"`
	Recommend []pageItem `json:"recommend"`
	AnswerUS  int64      `json:"answer_us"`
}

type pageItem struct {
	ID     string   `json:"id"`
	Name   string   `json:"name"`
	What   string   `json:"what,omitempty"`
	Reason []string `json:"reasons,omitempty"`
}

func newPage(h *host.Host, addr string) *page {
	return &page{host: h, addr: addr, start: time.Now(), names: map[string]string{}}
}

// run follows the topics until ctx ends.
func (p *page) run(ctx context.Context) error {
	conn, err := rpc.Dial(rpc.ClientConfig{Addr: p.addr})
	if err != nil {
		return err
	}
	defer conn.Close()
	log := slog.New(slog.DiscardHandler)
	var reading sync.WaitGroup
	defer reading.Wait()
	catalog := stream.NewView(p.host.Client, log, stream.FromStart, p.product, topics.Catalog)
	live := stream.NewView(p.host.Client, log, stream.FromEnd, p.record, topics.Events, topics.ChurnAlerts, topics.RestockSignals)
	for _, v := range []*stream.View{catalog, live} {
		reading.Go(func() {
			for {
				err := v.Run(ctx)
				if err == nil || ctx.Err() != nil {
					return
				}
				p.host.Log.Warn("page will follow again", slog.Any("err", err))
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			}
		})
	}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			p.ask(ctx, conn)
		}
	}
}

func (p *page) product(r record.Record) error {
	var v profilev1.Product
	if proto.Unmarshal(r.Value, &v) == nil {
		p.mu.Lock()
		p.names[v.Shop+"/"+v.ProductId] = v.Name
		p.products = len(p.names)
		p.mu.Unlock()
	}
	return nil
}

func (p *page) record(r record.Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	historical := string(r.Header(record.HeaderHistorical)) == "1"
	switch r.Topic {
	case topics.ChurnAlerts:
		var v churn.Payload
		if !historical && json.Unmarshal(r.Value, &v) == nil {
			p.alerted++
			p.alerts = append([]churn.Payload{v}, p.alerts[:min(len(p.alerts), pageRows-1)]...)
		}
	case topics.RestockSignals:
		var v restock.Payload
		if !historical && json.Unmarshal(r.Value, &v) == nil {
			p.signaled++
			p.signals = append([]restock.Payload{v}, p.signals[:min(len(p.signals), pageRows-1)]...)
		}
	case topics.Events:
		if string(r.Header(record.HeaderType)) == step.TypeEvent {
			p.event(&r)
		}
	}
	return nil
}

// event counts an event, and follows a visitor.
func (p *page) event(r *record.Record) {
	now := time.Now()
	p.events++
	p.seconds[now.Unix()%60]++
	p.seconds[(now.Unix()+1)%60] = 0
	var e eventv1.Event
	if proto.Unmarshal(r.Value, &e) != nil || e.AnonymousId == "" || len(e.Lines) == 0 || e.Import != nil {
		return
	}
	v := &p.visitor
	if v.Device != e.AnonymousId {
		if now.Sub(v.Seen) < visitorQuiet {
			return
		}
		*v = pageVisitor{Shop: e.Shop, Device: e.AnonymousId}
	}
	v.Seen = now
	if e.UserId != "" {
		v.User = e.UserId
	}
	what := map[eventv1.Kind]string{eventv1.Kind_KIND_PRODUCT_VIEWED: "viewed", eventv1.Kind_KIND_PRODUCT_ADDED: "put into the cart", eventv1.Kind_KIND_ORDER_COMPLETED: "ordered"}[e.Kind]
	if what == "" {
		return
	}
	for _, l := range e.Lines {
		v.Items = append([]pageItem{{ID: l.ProductId, Name: p.names[e.Shop+"/"+l.ProductId], What: what}}, v.Items...)
	}
	v.Items = v.Items[:min(len(v.Items), pageRows)]
}

// ask asks what to show to the visitor who is followed.
func (p *page) ask(ctx context.Context, conn grpc.ClientConnInterface) {
	p.mu.Lock()
	v := p.visitor
	p.mu.Unlock()
	if v.Device == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	begin := time.Now()
	res, err := recommenderv1.NewRecommenderServiceClient(conn).Recommend(ctx, &recommenderv1.RecommendRequest{Shop: v.Shop, AnonymousId: v.Device, UserId: v.User, Count: 6})
	if err != nil {
		return
	}
	took := time.Since(begin)
	var recs []pageItem
	for _, r := range res.Recommendations {
		item := pageItem{ID: r.ProductId, Name: r.Name}
		for _, why := range r.Reasons[:min(len(r.Reasons), 2)] {
			item.Reason = append(item.Reason, why.Text)
		}
		recs = append(recs, item)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.visitor.Device == v.Device {
		p.visitor.Recommend, p.visitor.Level, p.visitor.AnswerUS = recs, strings.ToLower(strings.TrimPrefix(res.Level.String(), "LEVEL_")), took.Microseconds()
	}
}

// pageState is what the page shows.
type pageState struct {
	Now      time.Time         `json:"now"`
	Uptime   string            `json:"uptime"`
	Ready    bool              `json:"ready"`
	Rate     float64           `json:"rate"` // events a second, over the last ten
	Events   int64             `json:"events"`
	Products int               `json:"products"`
	Lag      int64             `json:"lag"`
	Waiting  int               `json:"waiting"`
	Halted   []string          `json:"halted"`
	Shops    []pageShop        `json:"shops"`
	Visitor  pageVisitor       `json:"visitor"`
	Alerts   []churn.Payload   `json:"alerts"`
	Alerted  int64             `json:"alerted"`
	Signals  []restock.Payload `json:"signals"`
	Signaled int64             `json:"signaled"`
}

type pageShop struct {
	Name  string `json:"name"`
	Mode  string `json:"mode"`
	Clock string `json:"clock"`
}

func (p *page) rate(now time.Time) float64 {
	var n int64
	for i := range int64(10) {
		n += p.seconds[(now.Unix()-1-i+60)%60]
	}
	return float64(n) / 10
}

func (u *upper) servePageState(p *page) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		now := time.Now()
		ready, _ := u.group.Check(r.Context())
		st := pageState{Now: now.UTC(), Uptime: now.Sub(p.start).Round(time.Second).String(), Ready: ready}
		clocks := map[string]int64{}
		for _, i := range u.host.Runtime.Info() {
			st.Lag += max(0, i.End-i.Next)
			st.Waiting += i.Status.Waiting
			if i.State == "halted" || i.State == "silent" {
				st.Halted = append(st.Halted, i.Processor+": "+i.State+" "+i.Reason)
			}
			for name, shop := range i.Status.Shops {
				if at, ok := clocks[name]; !ok || int64(shop.Clock) < at {
					clocks[name] = int64(shop.Clock)
				}
			}
		}
		for _, shop := range u.collector.Shops() {
			clock := "-"
			if at := clocks[shop.Name]; at > 0 {
				clock = time.UnixMicro(at).UTC().Format(time.DateTime)
			}
			st.Shops = append(st.Shops, pageShop{shop.Name, string(shop.Mode), clock})
		}
		p.mu.Lock()
		st.Rate, st.Events, st.Products = p.rate(now), p.events, p.products
		st.Visitor, st.Alerts, st.Alerted, st.Signals, st.Signaled = p.visitor, slices.Clone(p.alerts), p.alerted, slices.Clone(p.signals), p.signaled
		p.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(st) // the reader is gone: nobody to tell
	}
}

func servePage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(pageHTML)
}
