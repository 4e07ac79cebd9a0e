package churn_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	domain "github.com/sillage-io/sillage/libs/domain/churn"
	"github.com/sillage-io/sillage/libs/domain/identity"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/testkit"
	"github.com/sillage-io/sillage/libs/topics"
	churnv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/churn/v1"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	profilev1 "github.com/sillage-io/sillage/proto/gen/go/sillage/profile/v1"
	"github.com/sillage-io/sillage/services/churn"
)

const secret = "a secret of the churn tests"

func config() churn.Config {
	cfg := churn.DefaultConfig()
	cfg.IdentitySecret, cfg.Holdout = secret, 0
	return cfg
}

// customer lives in one partition of churn.customers.
type customer struct {
	*testkit.Life
	t  *testing.T
	id string
	at time.Time // of the last tick or fact
	n  int
}

var opening = time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)

func newCustomer(t *testing.T) *customer {
	t.Helper()
	return &customer{Life: testkit.New(t, churn.Processor(config())), t: t, id: identity.ProfileID([]byte(secret), testkit.Shop, "ada"), at: opening}
}

// act lets the time pass until at, and then does something.
func (c *customer) act(at time.Time, a *profilev1.Activity) {
	c.t.Helper()
	if at.After(c.at) {
		c.Until(c.at, at)
	}
	c.at = at
	a.ProfileId, a.EventTimeMs = c.id, at.UnixMilli()
	c.Fact(c.id, topics.TypeActivity, at, a)
}

func order(id string, euros int64) *profilev1.Activity {
	return &profilev1.Activity{Known: true, Kind: eventv1.Kind_KIND_ORDER_COMPLETED, Order: &eventv1.Order{
		OrderId: id, Total: &eventv1.Money{Currency: "EUR", Micros: euros * 1_000_000},
	}}
}

// buys orders n times, every week, and returns the time of the last.
func (c *customer) buys(n int) time.Time {
	c.t.Helper()
	last := c.at
	for range n {
		last = opening.AddDate(0, 0, 7*c.n)
		c.n++
		c.act(last, order(fmt.Sprintf("order-%d", c.n), 40))
	}
	return last
}

// waits lets days pass without a fact.
func (c *customer) waits(days int) {
	c.t.Helper()
	to := c.at.AddDate(0, 0, days)
	c.Until(c.at, to)
	c.at = to
}

func (c *customer) alerts() []churn.Payload {
	c.t.Helper()
	var all []churn.Payload
	for _, o := range c.Outs(topics.ChurnAlerts) {
		var p churn.Payload
		if err := json.Unmarshal(o.Value, &p); err != nil {
			c.t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// server answers from the state of the customer.
func (c *customer) server() *churn.Server {
	return churn.NewServer(config(), churn.Deps{
		Lookup: func(_ context.Context, _, id string) ([]byte, bool, error) { b := c.State(id); return b, b != nil, nil },
		Clock: func(context.Context, string, string) (step.Instant, []step.Interval, error) {
			return step.Instant(c.at.UnixMicro()), nil, nil
		},
	})
}

func TestSilenceRaisesAtTheCrossingAndAnOrderRecovers(t *testing.T) {
	c := newCustomer(t)
	last := c.buys(8)
	c.waits(1)
	before, err := c.server().GetRisk(t.Context(), &churnv1.GetRiskRequest{Shop: testkit.Shop, UserId: "ada"})
	if err != nil {
		t.Fatal(err)
	}
	c.waits(120)
	raised := c.alerts()
	if len(raised) != 1 || raised[0].Kind != "raised" {
		t.Fatalf("alerts after four months of silence: %+v, want one raised", raised)
	}
	a := raised[0]
	due := time.UnixMilli(a.DueMS)
	if !due.After(last) || due.After(c.at) || a.Orders != 8 || a.Arm != "treat" || a.Currency != "EUR" || a.ValueAtRisk <= 0 || a.ExpiresMS <= a.DueMS || len(a.Reasons) == 0 {
		t.Errorf("alert: %+v", a)
	}
	// What was foretold is what happened, and the risk is the threshold then.
	if d := before.CrossingMs - a.DueMS; d < -1000 || d > 1000 {
		t.Errorf("the crossing was foretold for %v, and was due at %v", time.UnixMilli(before.CrossingMs), due)
	}
	if math.Abs(a.Probability-config().Threshold) > .001 {
		t.Errorf("probability at the crossing %v, want the threshold %v", a.Probability, config().Threshold)
	}
	now, err := c.server().GetRisk(t.Context(), &churnv1.GetRiskRequest{Shop: testkit.Shop, CustomerId: c.id})
	if err != nil {
		t.Fatal(err)
	}
	if now.Probability <= a.Probability || !now.Alerted || now.SilenceDays < 120 {
		t.Errorf("risk after the alert: %+v", now)
	}

	c.act(c.at, order("back", 25))
	c.waits(1)
	recovered := c.alerts()
	if len(recovered) != 1 || recovered[0].Kind != "recovered" || recovered[0].RaisedAlertID != a.AlertID || recovered[0].AlertID == a.AlertID {
		t.Errorf("alerts after an order: %+v, want one recovered that names %s", recovered, a.AlertID)
	}
	if states := c.Outs(topics.ChurnState); len(states) != 2 {
		t.Errorf("%d records of churn.state.v1, want one for each alert", len(states))
	}
}

// TestAPinnedModelDecides: a model from a file decides in place of the shipped one,
// and alerts and answers name it.
func TestAPinnedModelDecides(t *testing.T) {
	setting := domain.DefaultSetting()
	setting.Params.Alpha /= 3 // gaps are expected to be shorter
	setting.Correction = &domain.Correction{Intercept: .2}
	m := domain.ModelOf("hasty", setting, domain.Learnt{Customers: 7})
	file := filepath.Join(t.TempDir(), "hasty.json")
	write := func(m domain.Model) {
		t.Helper()
		data, err := json.Marshal(m)
		if err == nil {
			err = os.WriteFile(file, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(m)
	cfg := config()
	cfg.ModelFile = file
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	cfg, err := cfg.Loaded()
	if err != nil {
		t.Fatal(err)
	}
	due := func(cfg churn.Config) churn.Payload {
		t.Helper()
		c := newCustomer(t)
		c.Life = testkit.New(t, churn.Processor(cfg))
		c.buys(8)
		c.waits(150)
		a := c.alerts()
		if len(a) != 1 {
			t.Fatalf("%d alerts, want one", len(a))
		}
		return a[0]
	}
	shipped, pinned := due(config()), due(cfg)
	if pinned.DueMS >= shipped.DueMS {
		t.Errorf("the model of shorter gaps raises at %v, the shipped one at %v", time.UnixMilli(pinned.DueMS), time.UnixMilli(shipped.DueMS))
	}
	codes := map[string]bool{}
	for _, r := range pinned.Reasons {
		codes[r.Code] = r.Text != ""
	}
	nothing := cfg
	nothing.Model = &domain.Model{Name: "base", HorizonDays: m.HorizonDays, Params: m.Params, Value: m.Value, Correction: &domain.Correction{}}
	for _, r := range due(nothing).Reasons {
		if r.Code == domain.ReasonRhythm || r.Text == "" {
			t.Errorf("a correction that corrects nothing is a reason: %+v", r)
		}
	}
	if !codes[domain.ReasonRhythm] || !codes[domain.ReasonSilence] {
		t.Errorf("reasons %+v", pinned.Reasons)
	}
	version, err := m.Version()
	if err != nil || pinned.ModelVersion != version || shipped.ModelVersion != churn.ShippedVersion {
		t.Errorf("versions %q and %q, want %q and %q (%v)", pinned.ModelVersion, shipped.ModelVersion, version, churn.ShippedVersion, err)
	}

	cfg.HorizonDays = 30
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "horizon") {
		t.Errorf("a model of another horizon: %v", err)
	}
	cfg.ModelFile = file + ".not"
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "model-file") {
		t.Errorf("a model that is not there: %v", err)
	}
}

func TestWhatCountsOnce(t *testing.T) {
	plain := newCustomer(t)
	plain.buys(5)
	plain.waits(2)
	want := plain.State(plain.id)
	for name, again := range map[string]func(c *customer, at time.Time){
		"the same order by another way": func(c *customer, at time.Time) { c.act(at.Add(3*time.Hour), order("order-5", 40)) },
		"an older version of it": func(c *customer, at time.Time) {
			o := order("order-5", 1)
			o.Order.Version = 0
			c.act(at.Add(time.Hour), o)
		},
		"the second part of it": func(c *customer, at time.Time) {
			o := order("order-5", 40)
			o.Order.Part, o.Order.Parts = 2, 2
			c.act(at.Add(time.Millisecond), o)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCustomer(t)
			again(c, c.buys(5))
			c.at = plain.at.AddDate(0, 0, -2)
			c.waits(2)
			var got, wanted churn.Customer
			if err := (churn.Codec{}).Unmarshal(c.State(c.id), &got); err != nil {
				t.Fatal(err)
			}
			if err := (churn.Codec{}).Unmarshal(want, &wanted); err != nil {
				t.Fatal(err)
			}
			if got.Orders() != wanted.Orders() || got.Customer != wanted.Customer {
				t.Errorf("%+v, want %+v", got.Customer, wanted.Customer)
			}
		})
	}
}

func TestAHigherVersionReplacesAnOrder(t *testing.T) {
	c, d := newCustomer(t), newCustomer(t)
	at := c.buys(3)
	d.buys(2)
	dear := order("order-3", 90)
	d.act(at, order("order-3", 90))
	dear.Order.Version = 1
	c.act(at.Add(time.Hour), dear)
	c.waits(1)
	d.at = c.at.AddDate(0, 0, -1)
	d.waits(1)
	var got, want churn.Customer
	for _, x := range []struct {
		of   *customer
		into *churn.Customer
	}{{c, &got}, {d, &want}} {
		if err := (churn.Codec{}).Unmarshal(x.of.State(x.of.id), x.into); err != nil {
			t.Fatal(err)
		}
	}
	gotN, gotMean := got.Spend()
	wantN, wantMean := want.Spend()
	if got.Orders() != want.Orders() || gotN != wantN || gotMean != wantMean {
		t.Errorf("%d orders, %d of %v, want %d orders, %d of %v", got.Orders(), gotN, gotMean, want.Orders(), wantN, wantMean)
	}
}

func TestWhoObjectsIsLeftAlone(t *testing.T) {
	for name, objection := range map[string]*profilev1.Activity{
		"unsubscribed":           {Known: true, Kind: eventv1.Kind_KIND_UNSUBSCRIBED},
		"refuses marketing":      {Known: true, Kind: eventv1.Kind_KIND_PRODUCT_VIEWED, Consent: &eventv1.Consent{RefusesMarketing: true}},
		"refuses to be analysed": {Known: true, Kind: eventv1.Kind_KIND_PRODUCT_VIEWED, Consent: &eventv1.Consent{RefusesAnalytics: true}},
	} {
		t.Run(name+" after an alert", func(t *testing.T) {
			c := newCustomer(t)
			c.buys(8)
			c.waits(120)
			raised := c.alerts()
			if len(raised) != 1 {
				t.Fatalf("alerts %+v, want one", raised)
			}
			c.act(c.at, objection)
			c.waits(200)
			if got := c.alerts(); len(got) != 1 || got[0].Kind != "withdrawn" || got[0].RaisedAlertID != raised[0].AlertID {
				t.Errorf("alerts after the objection: %+v, want one withdrawn that names %s", got, raised[0].AlertID)
			}
		})
		t.Run(name+" before one", func(t *testing.T) {
			c := newCustomer(t)
			c.act(c.buys(8).Add(time.Hour), objection)
			c.waits(200)
			if got := c.alerts(); len(got) != 0 {
				t.Errorf("alerts %+v, want none", got)
			}
		})
	}
}

func TestADeviceIsNoCustomer(t *testing.T) {
	c := newCustomer(t)
	anonymous := order("order-1", 10)
	anonymous.Known = false
	c.act(opening, anonymous)
	c.waits(1)
	if b := c.State(c.id); b != nil {
		t.Errorf("%d bytes are kept of a device", len(b))
	}
	c.buys(2)
	c.at = c.at.Add(time.Second)
	c.Fact(c.id, topics.TypeMerged, c.at, &profilev1.Merged{AnonymousProfileId: c.id})
	c.waits(1)
	if b := c.State(c.id); b != nil {
		t.Errorf("%d bytes are kept of a profile that became another", len(b))
	}
}

// An outage of five days is nobody's silence: the alert is due five days later.
func TestAnOutageDelaysTheAlert(t *testing.T) {
	due := func(outage int) time.Time {
		c := newCustomer(t)
		c.buys(8)
		c.waits(3)
		if outage > 0 {
			from := c.at
			c.at = c.at.AddDate(0, 0, outage)
			c.Outage(from, c.at)
		}
		c.waits(150)
		all := c.alerts()
		if len(all) != 1 {
			t.Fatalf("%d alerts, want one", len(all))
		}
		return time.UnixMilli(all[0].DueMS)
	}
	if got, want := due(5), due(0).AddDate(0, 0, 5); got.Sub(want).Abs() > time.Second {
		t.Errorf("due at %v with an outage, want five days later than without: %v", got, want)
	}
}

func TestGetRiskSaysWhatIsWrong(t *testing.T) {
	c := newCustomer(t)
	for name, test := range map[string]struct {
		request *churnv1.GetRiskRequest
		want    codes.Code
	}{
		"no shop":    {&churnv1.GetRiskRequest{UserId: "ada"}, codes.InvalidArgument},
		"nobody":     {&churnv1.GetRiskRequest{Shop: testkit.Shop}, codes.InvalidArgument},
		"unheard of": {&churnv1.GetRiskRequest{Shop: testkit.Shop, UserId: "nobody"}, codes.NotFound},
	} {
		if _, err := c.server().GetRisk(t.Context(), test.request); status.Code(err) != test.want {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	c.act(opening, &profilev1.Activity{Known: true, Kind: eventv1.Kind_KIND_SESSION_ENDED})
	c.waits(1)
	got, err := c.server().GetRisk(t.Context(), &churnv1.GetRiskRequest{Shop: testkit.Shop, UserId: "ada"})
	if err != nil || got.Orders != 0 || got.Probability != 0 {
		t.Errorf("a visitor without orders: %+v, %v", got, err)
	}
}

// alertStream collects what WatchAlerts sends.
type alertStream struct {
	grpc.ServerStream
	ctx context.Context
	got []string
}

func (s *alertStream) Context() context.Context { return s.ctx }

func (s *alertStream) Send(r *churnv1.WatchAlertsResponse) error {
	s.got = append(s.got, r.Alert.AlertId)
	return nil
}

func TestWatchAlertsLeavesHistoryOut(t *testing.T) {
	alert := func(id, shop, historical string) record.Record {
		return record.Record{Value: fmt.Appendf(nil, `{"alert_id":%q,"kind":"raised","shop":%q}`, id, shop), Headers: []record.Header{
			{Key: record.HeaderShop, Value: []byte(shop)}, {Key: record.HeaderHistorical, Value: []byte(historical)},
		}}
	}
	server := churn.NewServer(config(), churn.Deps{Watch: func(_ context.Context, topic string, each func(record.Record) error) error {
		if topic != topics.ChurnAlerts {
			t.Errorf("watches %s", topic)
		}
		for _, r := range []record.Record{alert("a", "shop", ""), alert("b", "other", ""), alert("c", "shop", "1")} {
			if err := each(r); err != nil {
				return err
			}
		}
		return io.EOF
	}})
	for name, test := range map[string]struct {
		request *churnv1.WatchAlertsRequest
		want    []string
	}{
		"one shop":          {&churnv1.WatchAlertsRequest{Shop: "shop"}, []string{"a"}},
		"all shops":         {&churnv1.WatchAlertsRequest{}, []string{"a", "b"}},
		"history, if asked": {&churnv1.WatchAlertsRequest{Shop: "shop", Historical: true}, []string{"a", "c"}},
	} {
		s := &alertStream{ctx: t.Context()}
		if err := server.WatchAlerts(test.request, s); err == nil || !strings.Contains(err.Error(), "EOF") {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(test.want, s.got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// The JSON that leaves the system has the names of the message.
func TestPayloadIsTheMessage(t *testing.T) {
	b, err := json.Marshal(churn.Payload{
		AlertID: "a", Kind: "b", Shop: "c", CustomerID: "d", Episode: 1, DueMS: 1, ExpiresMS: 1, Probability: 1, HorizonDays: 1, SilenceDays: 1,
		UsualGapDays: []float64{1}, Orders: 1, ValueAtRisk: 1, Currency: "e", Reasons: []churn.Reason{{Code: "f", Value: 1, Typical: 1, Contribution: 1, Text: "g"}},
		Arm: "h", ModelVersion: "i", RaisedAlertID: "j", DaysToReturn: 1, Historical: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]json.RawMessage
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	fields := (&churnv1.Alert{}).ProtoReflect().Descriptor().Fields()
	var want []string
	for i := range fields.Len() {
		want = append(want, string(fields.Get(i).Name()))
	}
	var names []string
	for n := range got {
		names = append(names, n)
	}
	slices.Sort(want)
	slices.Sort(names)
	if d := cmp.Diff(want, names); d != "" {
		t.Errorf("fields (-message +JSON):\n%s", d)
	}
}

func TestCodecRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c churn.Customer
		copy(c.Standing[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "standing"))
		for range rapid.IntRange(0, 33).Draw(t, "orders") {
			c.Recent = append(c.Recent, churn.Order{
				ID: rapid.Uint64().Draw(t, "id"), Version: rapid.Uint32().Draw(t, "version"), At: rapid.Int64().Draw(t, "at"),
				Known: rapid.Int64().Draw(t, "known"), Value: rapid.Int64().Draw(t, "value"),
			})
		}
		b := churn.Codec{}.Append([]byte("before"), &c)
		var got churn.Customer
		if err := (churn.Codec{}).Unmarshal(b[len("before"):], &got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c, got, cmp.Comparer(func(a, b churn.Customer) bool {
			return a.Standing == b.Standing && slices.Equal(a.Recent, b.Recent) && a.Customer == b.Customer && a.Label == b.Label
		})); d != "" {
			t.Fatal(d)
		}
	})
}

func FuzzCodec(f *testing.F) {
	f.Add([]byte{})
	f.Add(churn.Codec{}.Append(nil, &churn.Customer{Recent: []churn.Order{{ID: 1, At: 2}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var c churn.Customer
		if (churn.Codec{}).Unmarshal(b, &c) != nil {
			return
		}
		var again churn.Customer
		if err := (churn.Codec{}).Unmarshal(churn.Codec{}.Append(nil, &c), &again); err != nil {
			t.Errorf("what was read cannot be written and read: %v", err)
		}
	})
}
