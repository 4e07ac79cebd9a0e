package profile_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/sillage-io/sillage/libs/domain/identity"
	"github.com/sillage-io/sillage/libs/domain/session"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/testkit"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	profilev1 "github.com/sillage-io/sillage/proto/gen/go/sillage/profile/v1"
	"github.com/sillage-io/sillage/services/profile"
)

const secret = "a secret of the profile tests"

func config() profile.Config {
	cfg := profile.DefaultConfig()
	cfg.IdentitySecret = secret
	return cfg
}

// device lives in one partition of profile.devices.
type device struct {
	*testkit.Life
	t   *testing.T
	key string
	n   int
}

var opening = time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)

func newDevice(t *testing.T) *device {
	t.Helper()
	key := identity.DeviceKey(testkit.Shop, identity.Ids{Anonymous: "browser"})
	return &device{Life: testkit.New(t, profile.Processor(config())), t: t, key: key[len(testkit.Shop)+1:]}
}

// user and anonymous are the ids under which readers see the device.
func user(name string) string { return identity.ProfileID([]byte(secret), testkit.Shop, name) }

func (d *device) anonymous() string {
	return identity.DeviceProfileID([]byte(secret), testkit.Shop, testkit.Shop+"/"+d.key)
}

func (d *device) does(minute int, kind eventv1.Kind, change ...func(*eventv1.Event)) {
	d.t.Helper()
	d.n++
	e := &eventv1.Event{
		MessageId: fmt.Sprintf("message-%d", d.n), Kind: kind, AnonymousId: "browser", KeyKind: eventv1.KeyKind_KEY_KIND_PUBLIC,
		EventTimeMs: opening.Add(time.Duration(minute) * time.Minute).UnixMilli(),
	}
	for _, c := range change {
		c(e)
	}
	d.Event(d.key, e)
}

func as(name string) func(*eventv1.Event) { return func(e *eventv1.Event) { e.UserId = name } }

func of(product string) func(*eventv1.Event) {
	return func(e *eventv1.Event) { e.Lines = []*eventv1.Line{{ProductId: product, Quantity: 1}} }
}

func fromServer(e *eventv1.Event) { e.KeyKind = eventv1.KeyKind_KEY_KIND_SECRET }

func ordered(id string, lines ...*eventv1.Line) func(*eventv1.Event) {
	return func(e *eventv1.Event) {
		e.Order, e.Lines = &eventv1.Order{OrderId: id}, lines
	}
}

// said is what activity.v1 got, in one line each.
func (d *device) said() []string {
	d.t.Helper()
	var all []string
	for _, o := range d.Outs(topics.Activity) {
		if value(o, record.HeaderType) == topics.TypeMerged {
			var m profilev1.Merged
			unmarshal(d.t, o.Value, &m)
			all = append(all, fmt.Sprintf("%s became %s", d.who(m.AnonymousProfileId), d.who(m.ProfileId)))
			continue
		}
		var a profilev1.Activity
		unmarshal(d.t, o.Value, &a)
		line := d.who(a.ProfileId) + " " + a.Kind.String()[len("KIND_"):]
		if a.Replayed {
			line += " again"
		}
		for _, l := range a.Lines {
			line += " " + l.ProductId
		}
		all = append(all, line)
	}
	return all
}

func (d *device) who(id string) string {
	for _, name := range []string{"ada", "bob"} {
		if id == user(name) {
			return name
		}
	}
	if id == d.anonymous() {
		return "device"
	}
	return id
}

func value(o record.Out, name string) string {
	for _, h := range o.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

func unmarshal(t *testing.T, b []byte, m proto.Message) {
	t.Helper()
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatal(err)
	}
}

func TestIdentity(t *testing.T) {
	for name, test := range map[string]struct {
		live func(d *device)
		want []string
	}{
		"an anonymous visitor": {
			func(d *device) { d.does(0, eventv1.Kind_KIND_PRODUCT_VIEWED, of("tea")) },
			[]string{"device PRODUCT_VIEWED tea"},
		},
		"who signs in takes along what the device did": {
			func(d *device) {
				d.does(0, eventv1.Kind_KIND_PRODUCT_VIEWED, of("tea"))
				d.does(1, eventv1.Kind_KIND_PRODUCT_ADDED, of("tea"))
				d.does(2, eventv1.Kind_KIND_IDENTIFY, as("ada"))
				d.does(3, eventv1.Kind_KIND_PRODUCT_VIEWED, of("cup"))
			},
			[]string{
				"device PRODUCT_VIEWED tea", "device PRODUCT_ADDED tea", "ada PRODUCT_VIEWED again tea", "ada PRODUCT_ADDED again tea", "device became ada",
				"ada PRODUCT_VIEWED cup",
			},
		},
		"a second user on the device merges nothing": {
			func(d *device) {
				d.does(0, eventv1.Kind_KIND_PRODUCT_VIEWED, of("tea"), as("ada"))
				d.does(1, eventv1.Kind_KIND_PRODUCT_VIEWED, of("cup"), as("bob"))
				d.does(2, eventv1.Kind_KIND_PRODUCT_VIEWED, of("pot"))
			},
			[]string{"ada PRODUCT_VIEWED tea", "bob PRODUCT_VIEWED cup", "bob PRODUCT_VIEWED pot"},
		},
		"who signs out is anonymous again": {
			func(d *device) {
				d.does(0, eventv1.Kind_KIND_PRODUCT_VIEWED, of("tea"), as("ada"))
				d.does(1, eventv1.Kind_KIND_SIGNED_OUT)
				d.does(2, eventv1.Kind_KIND_PRODUCT_VIEWED, of("cup"))
			},
			[]string{"ada PRODUCT_VIEWED tea", "device PRODUCT_VIEWED cup"},
		},
		"a visit ends after half an hour of silence": {
			func(d *device) {
				d.does(0, eventv1.Kind_KIND_PRODUCT_VIEWED, of("tea"))
				d.does(31, eventv1.Kind_KIND_PRODUCT_VIEWED, of("cup"))
			},
			[]string{"device PRODUCT_VIEWED tea", "device SESSION_ENDED", "device PRODUCT_VIEWED cup"},
		},
		"or when the clock passes it": {
			func(d *device) {
				d.does(0, eventv1.Kind_KIND_PRODUCT_VIEWED, of("tea"))
				d.Tick(opening.Add(30 * time.Minute))
				d.Tick(opening.Add(31 * time.Minute))
			},
			[]string{"device PRODUCT_VIEWED tea", "device SESSION_ENDED"},
		},
		"who refuses to be analysed leaves no trace but the order": {
			func(d *device) {
				refuses := func(e *eventv1.Event) { e.Consent = &eventv1.Consent{RefusesAnalytics: true} }
				d.does(0, eventv1.Kind_KIND_PRODUCT_VIEWED, of("tea"), refuses)
				d.does(1, eventv1.Kind_KIND_ORDER_COMPLETED, ordered("1", &eventv1.Line{ProductId: "tea", Quantity: 1}), refuses, fromServer)
			},
			[]string{"device ORDER_COMPLETED tea"},
		},
		"a repeated message counts once": {
			func(d *device) {
				d.does(0, eventv1.Kind_KIND_PRODUCT_VIEWED, of("tea"))
				d.n--
				d.does(0, eventv1.Kind_KIND_PRODUCT_VIEWED, of("tea"))
			},
			[]string{"device PRODUCT_VIEWED tea"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			test.live(d)
			if diff := cmp.Diff(test.want, d.said()); diff != "" {
				t.Errorf("activity (-want +got):\n%s", diff)
			}
		})
	}
}

// supplied is what supply.v1 got, in one line each.
func (d *device) supplied() []string {
	d.t.Helper()
	var all []string
	for _, o := range d.Outs(topics.Supply) {
		var s profilev1.Supply
		unmarshal(d.t, o.Value, &s)
		all = append(all, fmt.Sprintf("%s %s %d", s.Kind.String()[len("KIND_"):], s.ProductId, s.Units))
	}
	return all
}

func TestSupply(t *testing.T) {
	lines := []*eventv1.Line{{ProductId: "tea", Quantity: 2}, {ProductId: "postage", Quantity: 1, Charge: true}, {ProductId: "cup", Quantity: 1}}
	stock := func(e *eventv1.Event) { e.Stock = &eventv1.Stock{ProductId: "tea", Units: 12} }
	for name, test := range map[string]struct {
		live func(d *device)
		want []string
		dead int
	}{
		"an order tells each product, and no charge": {
			func(d *device) { d.does(0, eventv1.Kind_KIND_ORDER_COMPLETED, ordered("1", lines...), fromServer) },
			[]string{"ORDER_COMPLETED tea 2", "ORDER_COMPLETED cup 1"},
			0,
		},
		"a refund too": {
			func(d *device) { d.does(0, eventv1.Kind_KIND_ORDER_REFUNDED, ordered("1", lines[0]), fromServer) },
			[]string{"ORDER_REFUNDED tea 2"},
			0,
		},
		"a page's word on an order moves no stock": {
			func(d *device) { d.does(0, eventv1.Kind_KIND_ORDER_COMPLETED, ordered("1", lines...)) }, nil, 0,
		},
		"a server's word on stock counts": {
			func(d *device) { d.does(0, eventv1.Kind_KIND_STOCK_LEVEL, stock, fromServer) }, []string{"STOCK_LEVEL tea 12"}, 0,
		},
		"a page's does not": {
			func(d *device) { d.does(0, eventv1.Kind_KIND_STOCK_LEVEL, stock) }, nil, 1,
		},
		"an order without an id is set aside": {
			func(d *device) { d.does(0, eventv1.Kind_KIND_ORDER_COMPLETED, ordered("", lines...), fromServer) }, nil, 1,
		},
		"a catalogue entry names the product": {
			func(d *device) {
				d.does(0, eventv1.Kind_KIND_CATALOG_CHANGED, fromServer, func(e *eventv1.Event) { e.Lines = []*eventv1.Line{{ProductId: "tea", Name: "Assam"}} })
			},
			[]string{"CATALOG_CHANGED tea 0"},
			0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			test.live(d)
			if diff := cmp.Diff(test.want, d.supplied()); diff != "" {
				t.Errorf("supply (-want +got):\n%s", diff)
			}
			if got := len(d.Outs(topics.DeadLetters)); got != test.dead {
				t.Errorf("%d dead letters, want %d", got, test.dead)
			}
		})
	}
}

// A device remembers its last 64 facts, orders before views.
func TestOrdersAreRememberedLongest(t *testing.T) {
	d := newDevice(t)
	d.does(0, eventv1.Kind_KIND_ORDER_COMPLETED, ordered("1", &eventv1.Line{ProductId: "tea", Quantity: 1}))
	for i := range 100 {
		d.does(1, eventv1.Kind_KIND_PRODUCT_VIEWED, of(fmt.Sprint(i)))
	}
	d.said()
	d.does(2, eventv1.Kind_KIND_IDENTIFY, as("ada"))
	again := d.said()
	if len(again) != 65 || again[0] != "ada ORDER_COMPLETED again tea" || again[1] != "ada PRODUCT_VIEWED again 37" || again[64] != "device became ada" {
		t.Errorf("%d facts again: %v", len(again), again)
	}
}

func TestGetProfile(t *testing.T) {
	d := newDevice(t)
	server := profile.NewServer(profile.Deps{Secret: []byte(secret), Lookup: func(_ context.Context, _, id string) ([]byte, bool, error) {
		b := d.State(id)
		return b, b != nil, nil
	}})
	ask := func(r *profilev1.GetProfileRequest) *profilev1.GetProfileResponse {
		t.Helper()
		r.Shop = testkit.Shop
		res, err := server.GetProfile(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if res := ask(&profilev1.GetProfileRequest{AnonymousId: "browser"}); res.ProfileId != d.anonymous() || res.Known || res.LastSeenMs != 0 {
		t.Errorf("before the first event: %v", res)
	}
	d.does(0, eventv1.Kind_KIND_PRODUCT_VIEWED, of("tea"))
	if res := ask(&profilev1.GetProfileRequest{AnonymousId: "browser"}); res.ProfileId != d.anonymous() || res.SessionId == "" || !cmp.Equal(res.RecentProducts, []string{"tea"}) {
		t.Errorf("after a view: %v", res)
	}
	d.does(1, eventv1.Kind_KIND_IDENTIFY, as("ada"))
	if res := ask(&profilev1.GetProfileRequest{AnonymousId: "browser"}); res.ProfileId != user("ada") || !res.Known {
		t.Errorf("after signing in: %v", res)
	}
	for name, r := range map[string]*profilev1.GetProfileRequest{"no shop": {AnonymousId: "browser"}, "nobody": {Shop: testkit.Shop}} {
		if _, err := server.GetProfile(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want an invalid argument", name, err)
		}
	}
}

func TestCodecRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String()
		number := rapid.Int64()
		d := profile.Device{User: text.Draw(t, "user"), SessionID: text.Draw(t, "session"), LastSeen: number.Draw(t, "seen")}
		d.Visit = session.Visit{Opened: number.Draw(t, "opened"), Start: number.Draw(t, "start"), Last: number.Draw(t, "last"), Events: rapid.Int().Draw(t, "events")}
		d.Visit.Items = rapid.SliceOfN(text, 0, 9).Draw(t, "items")
		d.Counts = profile.Counts{Pages: rapid.Uint32().Draw(t, "pages"), Orders: rapid.Uint32().Draw(t, "orders")}
		for range rapid.IntRange(0, 64).Draw(t, "facts") {
			d.Anonymous = append(d.Anonymous, rapid.SliceOf(rapid.Byte()).Draw(t, "fact"))
		}
		var got profile.Device
		if err := (profile.Codec{}).Unmarshal(profile.Codec{}.Append(nil, &d), &got); err != nil {
			t.Fatal(err)
		}
		if d.LastSeen == 0 && d.User == "" && !d.Visit.Open() && len(d.Anonymous) == 0 {
			return // nothing is remembered of a product
		}
		empty := cmp.FilterValues(func(a, b []byte) bool { return len(a)+len(b) == 0 }, cmp.Ignore())
		none := cmp.FilterValues(func(a, b []string) bool { return len(a)+len(b) == 0 }, cmp.Ignore())
		if diff := cmp.Diff(d, got, empty, none); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzCodec(f *testing.F) {
	f.Add([]byte{})
	f.Add(profile.Codec{}.Append(nil, &profile.Device{User: "ada", LastSeen: 1, Anonymous: [][]byte{{1, 2}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var d, again profile.Device
		if (profile.Codec{}).Unmarshal(b, &d) != nil {
			return
		}
		if err := (profile.Codec{}).Unmarshal(profile.Codec{}.Append(nil, &d), &again); err != nil {
			t.Errorf("what was read cannot be written and read: %v", err)
		}
	})
}
