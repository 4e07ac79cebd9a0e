package restock_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/testkit"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	profilev1 "github.com/sillage-io/sillage/proto/gen/go/sillage/profile/v1"
	restockv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/restock/v1"
	"github.com/sillage-io/sillage/services/restock"
)

const tea = "tea"

// product lives in one partition of restock.products.
type product struct {
	*testkit.Life
	t  *testing.T
	at time.Time // of the last tick or fact
	n  int

	cfg restock.Config
}

var opening = time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)

func newProduct(t *testing.T) *product {
	t.Helper()
	return &product{Life: testkit.New(t, restock.Processor(restock.DefaultConfig())), t: t, at: opening, cfg: restock.DefaultConfig()}
}

// tell says what happened to the product, an hour after the last.
func (p *product) tell(kind eventv1.Kind, units int64, change ...func(*profilev1.Supply)) {
	p.t.Helper()
	p.waits(time.Hour)
	p.n++
	s := &profilev1.Supply{ProductId: tea, Kind: kind, Units: units, EventTimeMs: p.at.UnixMilli(), OrderId: fmt.Sprintf("order-%d", p.n)}
	for _, c := range change {
		c(s)
	}
	p.Fact(tea, topics.TypeSupply, p.at, s)
}

func (p *product) waits(d time.Duration) {
	p.t.Helper()
	to := p.at.Add(d)
	p.Until(p.at, to)
	p.at = to
}

// sells so many units a day for some days, in a seeded rhythm.
func (p *product) sells(days, daily int) {
	p.t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	for range days {
		next := p.at.Add(24 * time.Hour)
		for range max(1, daily/2+random.IntN(daily)) {
			p.n++
			p.Fact(tea, topics.TypeSupply, p.at.Add(time.Minute), &profilev1.Supply{
				ProductId: tea, Kind: eventv1.Kind_KIND_ORDER_COMPLETED, Units: 1, EventTimeMs: p.at.UnixMilli(), OrderId: fmt.Sprintf("order-%d", p.n),
			})
		}
		p.Until(p.at, next)
		p.at = next
	}
}

func (p *product) signals() []restock.Payload {
	p.t.Helper()
	var all []restock.Payload
	for _, o := range p.Outs(topics.RestockSignals) {
		var s restock.Payload
		if err := json.Unmarshal(o.Value, &s); err != nil {
			p.t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

func (p *product) server() *restock.Server {
	return restock.NewServer(p.cfg, restock.Deps{
		Lookup: func(_ context.Context, _, id string) ([]byte, bool, error) { b := p.State(id); return b, b != nil, nil },
		Clock: func(context.Context, string, string) (step.Instant, []step.Interval, error) {
			return step.Instant(p.at.UnixMicro()), nil, nil
		},
	})
}

func TestStockRunsOutAndComesBack(t *testing.T) {
	p := newProduct(t)
	p.tell(eventv1.Kind_KIND_CATALOG_CHANGED, 0, func(s *profilev1.Supply) { s.Name = "Assam" })
	p.tell(eventv1.Kind_KIND_STOCK_LEVEL, 400)
	p.sells(36, 10)
	raised := p.signals()
	if len(raised) == 0 || raised[0].Kind != "raised" {
		t.Fatalf("signals while 10 a day leave a stock of 400: %+v, want one raised first", raised)
	}
	for i, s := range raised {
		if s.ProductName != "Assam" || s.OnHand >= 400 || s.OrderQuantity <= 0 || s.OrderUpTo < s.ReorderPoint || s.InventoryPosition > s.ReorderPoint || s.Risk < 1-s.ServiceLevel || len(s.Reasons) == 0 {
			t.Errorf("signal %d: %+v", i, s)
		}
		if i > 0 && (s.Kind != "updated" || s.SupersededSignalID != raised[i-1].SignalID || s.Cycle != raised[0].Cycle) {
			t.Errorf("signal %d: %+v, want an update that names %s", i, s, raised[i-1].SignalID)
		}
	}
	last := raised[len(raised)-1]
	// What the signal asks for is ordered: the position covers the demand.
	p.tell(eventv1.Kind_KIND_PURCHASE_ORDERED, last.OrderQuantity)
	p.waits(time.Hour)
	withdrawn := p.signals()
	if len(withdrawn) != 1 || withdrawn[0].Kind != "withdrawn" || withdrawn[0].SupersededSignalID != last.SignalID || withdrawn[0].OnOrder != last.OrderQuantity {
		t.Errorf("signals after the order: %+v, want one withdrawn that names %s", withdrawn, last.SignalID)
	}
	p.tell(eventv1.Kind_KIND_GOODS_RECEIVED, last.OrderQuantity)
	p.waits(time.Hour)
	if got := p.signals(); len(got) != 0 {
		t.Errorf("signals after the receipt: %+v, want none", got)
	}
	need, err := p.server().GetStockNeed(t.Context(), &restockv1.GetStockNeedRequest{Shop: testkit.Shop, ProductId: tea})
	if err != nil || need.Need <= 0 || need.InventoryPosition < need.Need {
		t.Errorf("need after the receipt: %v, %v", need, err)
	}
	// A higher service level needs more, a lower one less.
	for _, level := range []float64{.6, .999} {
		other, err := p.server().GetStockNeed(t.Context(), &restockv1.GetStockNeedRequest{Shop: testkit.Shop, ProductId: tea, ServiceLevel: level})
		if err != nil || (level > need.ServiceLevel) != (other.Need > need.Need) {
			t.Errorf("need at %v: %v, %v; at %v it is %v", level, other, err, need.ServiceLevel, need.Need)
		}
	}
}

// A shop that asks for a fill rate is told so, in the signal and in words; so is who asks
// for a need.
func TestTargetsAreTold(t *testing.T) {
	for target, code := range map[string]string{"fill-rate": "fill_rate", "economic": "economic"} {
		t.Run(target, func(t *testing.T) {
			cfg := restock.DefaultConfig()
			cfg.Target = target
			p := newProduct(t)
			p.Life, p.cfg = testkit.New(t, restock.Processor(cfg)), cfg
			p.tell(eventv1.Kind_KIND_STOCK_LEVEL, 400)
			p.sells(42, 10)
			signals := p.signals()
			if len(signals) == 0 {
				t.Fatal("no signal while 10 a day leave a stock of 400")
			}
			s := signals[0]
			i := slices.IndexFunc(s.Reasons, func(r restock.Reason) bool { return r.Code == code })
			if s.Target != target || i < 0 || s.Reasons[i].Value != s.TargetLevel || !strings.Contains(s.Reasons[i].Text, fmt.Sprintf("%.4g", s.TargetLevel)) {
				t.Errorf("%+v does not tell its target", s)
			}
			need, err := p.server().GetStockNeed(t.Context(), &restockv1.GetStockNeedRequest{Shop: testkit.Shop, ProductId: tea})
			if err != nil || need.Target != target || !(need.ServiceLevel > 0 && need.ServiceLevel < 1) || need.Need <= 0 {
				t.Errorf("need %v, %v; want one for the shop's target", need, err)
			}
			low, err := p.server().GetStockNeed(t.Context(), &restockv1.GetStockNeedRequest{Shop: testkit.Shop, ProductId: tea, FillRate: .8})
			if err != nil || low.Target != "fill-rate" || low.TargetLevel != .8 {
				t.Errorf("need %v, %v; want one for a fill rate of .8", low, err)
			}
			high, err := p.server().GetStockNeed(t.Context(), &restockv1.GetStockNeedRequest{Shop: testkit.Shop, ProductId: tea, FillRate: .999})
			if err != nil || high.Need <= low.Need {
				t.Errorf("need %v, %v; want more than %v for a fill rate of .999", high, err, low.GetNeed())
			}
		})
	}
}

func TestConfigReportsEverything(t *testing.T) {
	c := restock.DefaultConfig()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	c.Timezone, c.Target, c.FillRate, c.Margin, c.LeadDays = "Europe/Nowhere", "turnover", 1.5, -1, 0
	err := c.Validate()
	for _, name := range []string{"timezone", "target", "fill-rate", "margin", "lead-days"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %s in it", err, name)
		}
	}
}

func TestWithoutKnownStockThereAreForecastsAndNoSignals(t *testing.T) {
	p := newProduct(t)
	p.sells(60, 10)
	if got := p.signals(); len(got) != 0 {
		t.Errorf("signals %+v, want none", got)
	}
	f, err := p.server().GetForecast(t.Context(), &restockv1.GetForecastRequest{Shop: testkit.Shop, ProductId: tea, Days: 10})
	if err != nil {
		t.Fatal(err)
	}
	if f.StockKnown || f.RatePerDay < 8 || f.RatePerDay > 11 || f.Demand.Mean < 80 || f.Demand.Mean > 110 || f.Demand.P99 <= f.Demand.P50 {
		t.Errorf("forecast after 60 days of about 9.5: %v", f)
	}
}

// A sale by two ways counts once; so does a refund, which brings units back.
func TestASaleCountsOnce(t *testing.T) {
	once := func(units int64) func(p *product) {
		return func(p *product) {
			p.tell(eventv1.Kind_KIND_ORDER_COMPLETED, units, func(s *profilev1.Supply) { s.OrderId = "1" })
		}
	}
	for name, test := range map[string]struct {
		live func(p *product)
		want int64 // on hand of 100
	}{
		"once":  {once(3), 97},
		"twice": {func(p *product) { once(3)(p); once(3)(p) }, 97},
		"another line of the order": {func(p *product) {
			once(3)(p)
			p.tell(eventv1.Kind_KIND_ORDER_COMPLETED, 2, func(s *profilev1.Supply) { s.OrderId, s.Line = "1", 1 })
		}, 95},
		"refunded twice": {func(p *product) {
			once(3)(p)
			for range 2 {
				p.tell(eventv1.Kind_KIND_ORDER_REFUNDED, 3, func(s *profilev1.Supply) { s.OrderId = "1" })
			}
		}, 100},
		"cancelled": {func(p *product) {
			once(3)(p)
			p.tell(eventv1.Kind_KIND_ORDER_CANCELLED, 3, func(s *profilev1.Supply) { s.OrderId = "1" })
		}, 100},
		"adjusted": {func(p *product) { p.tell(eventv1.Kind_KIND_STOCK_ADJUSTED, -7) }, 93},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProduct(t)
			p.tell(eventv1.Kind_KIND_STOCK_LEVEL, 100)
			test.live(p)
			p.waits(time.Hour)
			f, err := p.server().GetForecast(t.Context(), &restockv1.GetForecastRequest{Shop: testkit.Shop, ProductId: tea})
			if err != nil || f.OnHand != test.want || !f.StockKnown {
				t.Errorf("%v, %v; want %d on hand", f, err, test.want)
			}
		})
	}
}

func TestServerSaysWhatIsWrong(t *testing.T) {
	p := newProduct(t)
	for name, test := range map[string]struct {
		request *restockv1.GetForecastRequest
		want    codes.Code
	}{
		"no shop":       {&restockv1.GetForecastRequest{ProductId: tea}, codes.InvalidArgument},
		"no product":    {&restockv1.GetForecastRequest{Shop: testkit.Shop}, codes.InvalidArgument},
		"too many days": {&restockv1.GetForecastRequest{Shop: testkit.Shop, ProductId: tea, Days: 366}, codes.InvalidArgument},
		"unheard of":    {&restockv1.GetForecastRequest{Shop: testkit.Shop, ProductId: "cup"}, codes.NotFound},
	} {
		if _, err := p.server().GetForecast(t.Context(), test.request); status.Code(err) != test.want {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if _, err := p.server().GetStockNeed(t.Context(), &restockv1.GetStockNeedRequest{Shop: testkit.Shop, ProductId: tea, ServiceLevel: 1}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a service level of 1: %v, want an invalid argument", err)
	}
	for _, r := range []*restockv1.GetStockNeedRequest{{FillRate: 1}, {FillRate: math.NaN()}, {ServiceLevel: math.NaN()}, {ServiceLevel: .9, FillRate: .9}} {
		r.Shop, r.ProductId = testkit.Shop, tea
		if _, err := p.server().GetStockNeed(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v, want an invalid argument", r, err)
		}
	}
}

// The JSON that leaves the system has the names of the message.
func TestPayloadIsTheMessage(t *testing.T) {
	b, err := json.Marshal(restock.Payload{ProductName: "a", StockOutMS: []int64{1}, Reasons: []restock.Reason{{}}, SupersededSignalID: "b", Historical: true, Target: "c", TargetLevel: 1})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]json.RawMessage
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	var names, want []string
	for n := range got {
		names = append(names, n)
	}
	fields := (&restockv1.Signal{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		want = append(want, string(fields.Get(i).Name()))
	}
	slices.Sort(names)
	slices.Sort(want)
	if d := cmp.Diff(want, names); d != "" {
		t.Errorf("fields (-message +JSON):\n%s", d)
	}
}

func TestCodecRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := restock.Product{Name: rapid.String().Draw(t, "name")}
		copy(p.Standing[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "standing"))
		for range rapid.IntRange(0, 128).Draw(t, "lines") {
			p.Recent = append(p.Recent, restock.Seen{ID: rapid.Uint64().Draw(t, "id"), Known: int64(rapid.Uint32().Draw(t, "known"))})
		}
		var got restock.Product
		if err := (restock.Codec{}).Unmarshal(restock.Codec{}.Append(nil, &p), &got); err != nil {
			t.Fatal(err)
		}
		if got.Name != p.Name || got.Standing != p.Standing || !slices.Equal(got.Recent, p.Recent) || got.Product != p.Product {
			t.Fatalf("%+v, want %+v", got, p)
		}
	})
}

func FuzzCodec(f *testing.F) {
	f.Add([]byte{})
	f.Add(restock.Codec{}.Append(nil, &restock.Product{Name: "tea", Recent: []restock.Seen{{ID: 1, Known: 2}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p, again restock.Product
		if (restock.Codec{}).Unmarshal(b, &p) != nil {
			return
		}
		if err := (restock.Codec{}).Unmarshal(restock.Codec{}.Append(nil, &p), &again); err != nil {
			t.Errorf("what was read cannot be written and read: %v", err)
		}
	})
}
