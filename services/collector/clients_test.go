package collector

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	rudder "github.com/rudderlabs/analytics-go/v4"
	segment "github.com/segmentio/analytics-go/v3"

	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

// The clients of Segment and RudderStack, as shops have them, send to the
// collector as they are.
func TestClientsOfOthers(t *testing.T) {
	at := time.Now().Add(-time.Minute).UTC().Truncate(time.Millisecond)
	for name, send := range map[string]func(t *testing.T, url string){
		"Segment": func(t *testing.T, url string) {
			c, err := segment.NewWithConfig(secretKey, segment.Config{Endpoint: url, BatchSize: 2, Logger: segmentLog{t}})
			if err != nil {
				t.Fatal(err)
			}
			err = c.Enqueue(segment.Track{
				UserId: "ada", AnonymousId: "browser", Event: "Order Completed", Timestamp: at,
				Properties: segment.NewProperties().SetOrderId("17").SetTotal(12.5).SetCurrency("EUR").SetProducts(segment.Product{ID: "tea", Name: "Assam", Price: 6.25}),
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Enqueue(segment.Identify{UserId: "ada", Timestamp: at}); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		},
		"RudderStack": func(t *testing.T, url string) {
			c, err := rudder.NewWithConfig(secretKey, rudder.Config{DataPlaneUrl: url, BatchSize: 2, Logger: rudderLog{t}})
			if err != nil {
				t.Fatal(err)
			}
			err = c.Enqueue(rudder.Track{
				UserId: "ada", AnonymousId: "browser", Event: "Order Completed", OriginalTimestamp: at,
				Properties: rudder.NewProperties().SetOrderId("17").SetTotal(12.5).SetCurrency("EUR").SetProducts(rudder.Product{ID: "tea", Name: "Assam", Price: 6.25}),
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Enqueue(rudder.Identify{UserId: "ada", OriginalTimestamp: at}); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(_ *Config, d *Deps) { d.Now = time.Now })
			server := httptest.NewServer(w.handler)
			send(t, server.URL)
			server.Close()
			kinds := map[eventv1.Kind]*eventv1.Event{}
			for _, e := range w.journal.events(t) {
				kinds[e.Kind] = e
			}
			if len(kinds) != 2 || kinds[eventv1.Kind_KIND_IDENTIFY] == nil {
				t.Errorf("arrived: %v, want an order and who it was", kinds)
			}
			o := kinds[eventv1.Kind_KIND_ORDER_COMPLETED]
			if o == nil || o.UserId != "ada" || o.AnonymousId != "browser" || o.MessageId == "" || o.Order.GetOrderId() != "17" || o.Order.GetTotal().GetMicros() != 12_500_000 ||
				o.Order.GetTotal().GetCurrency() != "EUR" || len(o.Lines) != 1 || o.Lines[0].ProductId != "tea" {
				t.Fatalf("the order arrived as %v", o)
			}
			if skew := o.EventTimeMs - at.UnixMilli(); skew < -2000 || skew > 2000 {
				t.Errorf("the order is dated %v, want %v", time.UnixMilli(o.EventTimeMs), at)
			}
		})
	}
}

// segmentLog and rudderLog show what the clients have to say.
type segmentLog struct{ t *testing.T }

func (l segmentLog) Logf(format string, args ...any)   { l.t.Logf(format, args...) }
func (l segmentLog) Errorf(format string, args ...any) { l.t.Errorf(format, args...) }

type rudderLog struct{ t *testing.T }

func (l rudderLog) Logf(format string, args ...any) {
	if !strings.HasPrefix(format, "DEBUG") {
		l.t.Logf(format, args...)
	}
}
func (l rudderLog) Errorf(format string, args ...any) { l.t.Errorf(format, args...) }
