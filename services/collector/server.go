package collector

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/domain/identity"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

// counters are totals since the start.
type counters struct{ accepted, rejected, refused, failed atomic.Int64 }

// Counts are how many events were accepted, rejected one by one, refused with
// their call, or not acknowledged by the broker, since the start.
type Counts struct{ Accepted, Rejected, Refused, Failed int64 }

// Counts returns the totals since the start.
func (c *Collector) Counts() Counts {
	return Counts{c.counts.accepted.Load(), c.counts.rejected.Load(), c.counts.refused.Load(), c.counts.failed.Load()}
}

// Shops lists the shops.
func (c *Collector) Shops() []Shop { return c.shops.All() }

// single names the call that a path stands for; analytics-next uses one letter.
var single = map[string]string{
	"track": "track", "t": "track", "identify": "identify", "i": "identify", "page": "page", "p": "page",
	"screen": "screen", "s": "screen", "group": "group", "g": "group", "alias": "alias", "a": "alias",
}

// Handler serves the HTTP API.
func (c *Collector) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"/v1/batch", "/v1/b", "/v1/import", "/beacon/v1/batch"} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) { c.events(w, r, "") })
	}
	for path, call := range single {
		mux.HandleFunc("POST /v1/"+path, func(w http.ResponseWriter, r *http.Request) { c.events(w, r, call) })
	}
	mux.HandleFunc("POST /v1/m", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }) // the SDK's own metrics
	mux.HandleFunc("OPTIONS /", c.preflight)
	mux.HandleFunc("GET /v1/projects/{key}/settings", c.settings)
	mux.HandleFunc("POST /v1/sillage/import", c.imported)
	mux.HandleFunc("POST /v1/sillage/shops/{shop}/live", c.goLive)
	mux.HandleFunc("GET /v1/sillage/shops", c.listShops)
	mux.HandleFunc("GET /robots.txt", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "User-agent: *\nDisallow: /\n") })
	return mux
}

// preflight answers what browsers ask before they send.
func (c *Collector) preflight(w http.ResponseWriter, r *http.Request) {
	c.cors(w, r)
	if h := r.Header.Get("Access-Control-Request-Headers"); h != "" {
		w.Header().Set("Access-Control-Allow-Headers", h)
	}
	w.Header().Set("Access-Control-Allow-Methods", "POST, GET, OPTIONS")
	w.Header().Set("Access-Control-Max-Age", "86400")
	w.WriteHeader(http.StatusNoContent)
}

func (c *Collector) cors(w http.ResponseWriter, r *http.Request) {
	origin := r.Header.Get("Origin")
	if origin == "" || !c.keys.allows(origin) {
		return
	}
	w.Header().Set("Access-Control-Allow-Origin", origin)
	w.Header().Set("Access-Control-Allow-Credentials", "true")
	w.Header().Add("Vary", "Origin")
}

// settings answers what analytics-next asks before anything else.
func (c *Collector) settings(w http.ResponseWriter, r *http.Request) {
	c.cors(w, r)
	key, ok := c.keys.find(r.PathValue("key"))
	if !ok {
		fail(w, http.StatusNotFound, "unknown write key")
		return
	}
	scheme := "http"
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https"
	}
	answer(w, http.StatusOK, map[string]any{
		"integrations": map[string]any{"Segment.io": map[string]any{"apiKey": key.Key, "apiHost": r.Host + "/v1", "protocol": scheme}},
		"plan":         map[string]any{"track": map[string]any{}}, "edgeFunction": map[string]any{},
	})
}

// rejected is what is wrong with one event of a call.
type rejected struct {
	Index     int    `json:"index"`
	MessageID string `json:"message_id,omitempty"`
	Reason    string `json:"reason"`
}

// result is the body of a 200.
type result struct {
	Success  bool       `json:"success"`
	Accepted int        `json:"accepted"`
	Rejected []rejected `json:"rejected,omitempty"`
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the client is gone: nobody to tell
}

// fail answers an error.
func fail(w http.ResponseWriter, code int, format string, args ...any) {
	answer(w, code, map[string]any{"success": false, "error": fmt.Sprintf(format, args...)})
}

var errTooLarge = errors.New("too large")

// body reads and inflates a request's body, by what it is rather than by what
// its headers say.
func body(r *http.Request, limit int) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r.Body, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("read the body: %w", err)
	}
	if len(data) > limit {
		return nil, errTooLarge
	}
	var in io.Reader
	switch {
	case bytes.HasPrefix(data, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("inflate the body: %w", err)
		}
		in = z
	case bytes.HasPrefix(data, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
		if err != nil {
			return nil, fmt.Errorf("inflate the body: %w", err)
		}
		defer z.Close()
		in = z
	case len(data) > 2 && data[0]&0x0f == 8 && (int(data[0])<<8|int(data[1]))%31 == 0:
		in = flate.NewReader(bytes.NewReader(data[2:])) // zlib
	default:
		return data, nil
	}
	data, err = io.ReadAll(io.LimitReader(in, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("inflate the body: %w", err)
	}
	if len(data) > limit {
		return nil, errTooLarge
	}
	return data, nil
}

// keyOf finds the write key of a request: the header wins, because some SDKs
// mask the one in the body.
func (c *Collector) keyOf(r *http.Request, inBody string) (Key, bool) {
	candidates := []string{r.Header.Get("X-Write-Key"), r.URL.Query().Get("writeKey"), inBody}
	if user, _, ok := r.BasicAuth(); ok {
		candidates = append([]string{user}, candidates...)
	}
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		candidates = append([]string{token}, candidates...)
	}
	for _, k := range candidates {
		if k == "" {
			continue
		}
		if key, ok := c.keys.find(k); ok {
			return key, true
		}
	}
	return Key{}, false
}

// events takes a call: call is "" for a batch.
func (c *Collector) events(w http.ResponseWriter, r *http.Request, call string) {
	now := c.deps.Now()
	c.cors(w, r)
	data, err := body(r, c.cfg.MaxBody)
	if err != nil {
		c.counts.refused.Add(1)
		if errors.Is(err, errTooLarge) {
			fail(w, http.StatusRequestEntityTooLarge, "body: larger than %d bytes", c.cfg.MaxBody)
			return
		}
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	var b batch
	if err := json.Unmarshal(data, &b); err != nil {
		c.counts.refused.Add(1)
		fail(w, http.StatusBadRequest, "body: %v", err)
		return
	}
	if call != "" {
		b.Batch = []json.RawMessage{data}
	}
	key, ok := c.keyOf(r, b.WriteKey)
	switch {
	case !ok:
		c.counts.refused.Add(int64(len(b.Batch)))
		fail(w, http.StatusUnauthorized, "unknown write key; it is the user of Basic authorisation, with an empty password")
		return
	case key.Kind == Admin:
		fail(w, http.StatusForbidden, "an admin key belongs to no shop: use one of the shop's keys")
		return
	case !key.allows(r.Header.Get("Origin")):
		fail(w, http.StatusForbidden, "this key may not be used from %s", r.Header.Get("Origin"))
		return
	case len(b.Batch) > c.cfg.MaxEvents:
		c.counts.refused.Add(int64(len(b.Batch)))
		fail(w, http.StatusRequestEntityTooLarge, "batch: %d events, at most %d", len(b.Batch), c.cfg.MaxEvents)
		return
	}
	shop := c.shops.Get(key.Shop)
	if shop.Mode == ModeImporting || shop.Mode == ModeResting {
		c.counts.refused.Add(int64(len(b.Batch)))
		fail(w, http.StatusConflict, "shop %s is %s and takes no live events; make it live first: sillage shop live %s", shop.Name, shop.Mode, shop.Name)
		return
	}
	if key.Kind == Public {
		if wait := c.limits.take(key.ID, len(b.Batch), now); wait > 0 {
			c.counts.refused.Add(int64(len(b.Batch)))
			w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)+1))
			fail(w, http.StatusTooManyRequests, "more than %g events a second for this key", c.cfg.Rate)
			return
		}
	}
	if c.deps.Full != nil && c.deps.Full() {
		c.counts.failed.Add(int64(len(b.Batch)))
		w.Header().Set("Retry-After", "30")
		fail(w, http.StatusServiceUnavailable, "no room on disk: nothing was taken, send it again")
		return
	}
	res := result{Success: true}
	outs := make([]record.Out, 0, len(b.Batch))
	privacyControl := r.Header.Get("Sec-GPC") == "1" || r.Header.Get("DNT") == "1"
	for i, raw := range b.Batch {
		out, messageID, err := c.event(raw, call, &b, key, now, privacyControl)
		if err != nil {
			res.Rejected = append(res.Rejected, rejected{Index: i, MessageID: messageID, Reason: reason(err)})
			continue
		}
		if t := r.Header.Get("Traceparent"); t != "" && len(t) <= 64 {
			out.Headers = append(out.Headers, record.Header{Key: record.HeaderTraceParent, Value: []byte(t)})
		}
		outs = append(outs, out)
	}
	c.counts.rejected.Add(int64(len(res.Rejected)))
	if shop.Mode == ModeNew && len(outs) > 0 {
		if err := c.shops.set(Shop{Name: key.Shop, Mode: ModeLive, Since: now}); err != nil {
			c.deps.Log.Error("shop not noted", slog.Any("err", err))
			fail(w, http.StatusServiceUnavailable, "the state of the shop cannot be written")
			return
		}
	}
	if !c.publish(w, r.Context(), outs) {
		return
	}
	res.Accepted = len(outs)
	answer(w, http.StatusOK, res)
}

// publish appends and waits; where that fails, it answers.
func (c *Collector) publish(w http.ResponseWriter, ctx context.Context, outs []record.Out) bool {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	if err := c.deps.Publish(ctx, outs); err != nil {
		c.counts.failed.Add(int64(len(outs)))
		c.deps.Log.Warn("events not acknowledged", slog.Int("events", len(outs)), slog.Any("err", err))
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusServiceUnavailable, "the broker has not acknowledged the events: send them again")
		return false
	}
	c.counts.accepted.Add(int64(len(outs)))
	return true
}

// reason is an error in one line.
func reason(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// event makes the record of one item.
func (c *Collector) event(raw json.RawMessage, call string, b *batch, key Key, now time.Time, privacyControl bool) (out record.Out, messageID string, err error) {
	if len(raw) > c.cfg.MaxEvent {
		return out, "", fmt.Errorf("event of %d bytes, at most %d", len(raw), c.cfg.MaxEvent)
	}
	var it item
	if err := json.Unmarshal(raw, &it); err != nil {
		return out, "", fmt.Errorf("not an event: %w", err)
	}
	if call != "" {
		it.Type = call
	}
	if len(it.Context) == 0 {
		it.Context = b.Context
	}
	e := &eventv1.Event{Shop: key.Shop, KeyId: key.ID, KeyKind: eventv1.KeyKind_KEY_KIND_PUBLIC}
	if key.Kind != Public {
		e.KeyKind = eventv1.KeyKind_KEY_KIND_SECRET
	}
	if err := errors.Join(when(&it, b.SentAt, key.Kind, now, e), convert(&it, key, e)); err != nil {
		return out, it.MessageID, err
	}
	e.Consent = consentOf(it.Context, privacyControl && key.Kind == Public)
	if e.Kind == eventv1.Kind_KIND_OTHER && len(it.Properties) > 2 {
		e.PropertiesJson = it.Properties
	}
	if e.MessageId == "" {
		var random [16]byte
		_, _ = rand.Read(random[:]) // never fails
		e.MessageId = hex.EncodeToString(random[:])
	}
	out, err = recordOf(e)
	return out, e.MessageId, err
}

// recordOf is an event as it stands in the log.
func recordOf(e *eventv1.Event) (record.Out, error) {
	key := ""
	switch {
	case ofProduct(e.Kind) && e.Stock != nil:
		key = e.Shop + "/p:" + e.Stock.ProductId
	case ofProduct(e.Kind):
		key = e.Shop + "/p:" + e.Lines[0].ProductId
	default:
		key = identity.DeviceKey(e.Shop, identity.Ids{Anonymous: e.AnonymousId, User: e.UserId, Order: e.Order.GetOrderId()})
	}
	if key == "" {
		return record.Out{}, errors.New("anonymousId and userId: one of them is needed")
	}
	value, err := proto.Marshal(e)
	if err != nil {
		return record.Out{}, fmt.Errorf("event: %w", err)
	}
	return record.Out{Topic: topics.Events, Partition: record.ByKey, Key: []byte(key), Value: value, Headers: []record.Header{
		{Key: record.HeaderSpecVersion, Value: []byte("1.0")},
		{Key: record.HeaderID, Value: []byte(e.MessageId)},
		{Key: record.HeaderType, Value: []byte(step.TypeEvent)},
		{Key: record.HeaderSource, Value: []byte("/sillage/" + e.Shop)},
		{Key: record.HeaderTime, Value: strconv.AppendInt(nil, e.EventTimeMs, 10)},
		{Key: record.HeaderShop, Value: []byte(e.Shop)},
		{Key: record.HeaderContentType, Value: []byte("application/protobuf")},
	}}, nil
}
