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
	"path"
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
	for _, at := range []string{"/v1/batch", "/v1/b", "/v1/import", "/beacon/v1/batch"} {
		mux.HandleFunc("POST "+at, func(w http.ResponseWriter, r *http.Request) { c.events(w, r, "") })
	}
	for at, call := range single {
		mux.HandleFunc("POST /v1/"+at, func(w http.ResponseWriter, r *http.Request) { c.events(w, r, call) })
	}
	mux.HandleFunc("POST /v1/m", func(w http.ResponseWriter, r *http.Request) { // the SDK's own metrics
		c.cors(w, r)
		w.WriteHeader(http.StatusOK)
	})
	mux.HandleFunc("OPTIONS /", c.preflight)
	mux.HandleFunc("GET /v1/projects/{key}/settings", c.settings)
	mux.HandleFunc("POST /v1/sillage/import", c.imported)
	mux.HandleFunc("POST /v1/sillage/shops/{shop}/live", c.goLive)
	mux.HandleFunc("GET /v1/sillage/shops", c.listShops)
	mux.HandleFunc("GET /robots.txt", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "User-agent: *\nDisallow: /\n") })
	return straight(mux)
}

// straight serves a path that is not clean as the clean one, where a ServeMux
// would redirect: clients whose endpoint ends in a slash send to //v1/batch,
// follow a redirect without the body, see 200 and lose every event.
func straight(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if clean := path.Clean("/" + r.URL.Path); clean != r.URL.Path {
			u := *r.URL
			u.Path, u.RawPath = clean, ""
			r = r.WithContext(r.Context()) // a copy: the request is the server's
			r.URL = &u
		}
		next.ServeHTTP(w, r)
	})
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
	w.Header().Set("Access-Control-Expose-Headers", "Retry-After, X-RateLimit-Reset")
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

var (
	errTooLarge = errors.New("too large")
	errNoEvent  = errors.New("an event is a JSON object")
)

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
	case r.Header.Get("Content-Encoding") == "deflate" && !json.Valid(data):
		in = flate.NewReader(bytes.NewReader(data)) // says nothing of itself
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
	if !json.Valid(data) {
		c.counts.refused.Add(1)
		fail(w, http.StatusBadRequest, "body: %v", json.Unmarshal(data, &struct{}{}))
		return
	}
	b, ok := readBatch(data)
	switch {
	case !ok:
		c.counts.refused.Add(1)
		fail(w, http.StatusBadRequest, "body: not a JSON object")
		return
	case call != "":
		b.items = [][]byte{data}
	case !b.has:
		c.counts.refused.Add(1)
		fail(w, http.StatusBadRequest, "body: no batch; single events go to /v1/track and its like")
		return
	}
	key, ok := c.keyOf(r, b.writeKey.orEmpty())
	switch {
	case !ok:
		c.counts.refused.Add(int64(len(b.items)))
		fail(w, http.StatusUnauthorized, "unknown write key; it is the user of Basic authorisation, with an empty password")
		return
	case key.Kind == Admin:
		fail(w, http.StatusForbidden, "an admin key belongs to no shop: use one of the shop's keys")
		return
	case !key.allows(r.Header.Get("Origin")):
		fail(w, http.StatusForbidden, "this key may not be used from %s", r.Header.Get("Origin"))
		return
	case len(b.items) > c.cfg.MaxEvents:
		c.counts.refused.Add(int64(len(b.items)))
		fail(w, http.StatusRequestEntityTooLarge, "batch: %d events, at most %d", len(b.items), c.cfg.MaxEvents)
		return
	}
	if shop := c.shops.Get(key.Shop); !shop.takesEvents() {
		c.notLive(w, shop, len(b.items))
		return
	}
	if key.Kind == Public {
		if wait := c.limits.take(key.ID, len(b.items), now); wait > 0 {
			c.counts.refused.Add(int64(len(b.items)))
			w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)+1))
			w.Header().Set("X-RateLimit-Reset", strconv.FormatInt(now.Add(wait).Unix()+1, 10))
			fail(w, http.StatusTooManyRequests, "more than %g events a second for this key", c.cfg.Rate)
			return
		}
	}
	if c.deps.Full != nil && c.deps.Full() {
		c.counts.failed.Add(int64(len(b.items)))
		w.Header().Set("Retry-After", "30")
		fail(w, http.StatusServiceUnavailable, "no room on disk: nothing was taken, send it again")
		return
	}
	res := result{Success: true}
	outs := make([]record.Out, 0, len(b.items))
	from := origin{key: key, now: now, call: call, batch: &b}
	if key.Kind == Public { // a browser speaks for its visitor, a server for nobody
		from.privacyControl = r.Header.Get("Sec-GPC") == "1" || r.Header.Get("DNT") == "1"
		from.agent = r.UserAgent()
	}
	for i, raw := range b.items {
		out, messageID, err := c.event(raw, &from)
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
	if len(outs) > 0 {
		shop, err := c.shops.open(key.Shop, now)
		if err != nil {
			c.unnoted(w, err)
			return
		}
		if !shop.takesEvents() { // an import has begun meanwhile
			c.notLive(w, shop, len(outs))
			return
		}
	}
	if !c.publish(r.Context(), w, outs, len(outs)) {
		return
	}
	res.Accepted = len(outs)
	answer(w, http.StatusOK, res)
}

// notLive answers live events of a shop that takes none.
func (c *Collector) notLive(w http.ResponseWriter, shop Shop, events int) {
	c.counts.refused.Add(int64(events))
	fail(w, http.StatusConflict, "shop %s is %s and takes no live events; make it live first: sillage shop live %s", shop.Name, shop.Mode, shop.Name)
}

// unnoted answers where the register of shops cannot be written.
func (c *Collector) unnoted(w http.ResponseWriter, err error) {
	c.deps.Log.Error("shop not noted", slog.Any("err", err))
	w.Header().Set("Retry-After", "5")
	fail(w, http.StatusServiceUnavailable, "the state of the shop cannot be written")
}

// publish appends and waits; where that fails, it answers. So many of the
// records are events.
func (c *Collector) publish(ctx context.Context, w http.ResponseWriter, outs []record.Out, events int) bool {
	if len(outs) == 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	if err := c.deps.Publish(ctx, outs); err != nil {
		c.counts.failed.Add(int64(events))
		c.deps.Log.Warn("records not acknowledged", slog.Int("records", len(outs)), slog.Any("err", err))
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusServiceUnavailable, "the broker has not acknowledged the events: send them again")
		return false
	}
	c.counts.accepted.Add(int64(events))
	return true
}

// reason is an error in one line.
func reason(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// origin is what the events of one call have in common.
type origin struct {
	key            Key
	now            time.Time
	call           string // "" of a batch
	batch          *batch
	agent          string // User-Agent of a browser
	privacyControl bool

	shared *surroundings // the batch's context, for items that have none
}

// around reads what surrounds an item.
func (o *origin) around(it *item) surroundings {
	if o.call == "" && len(it.context) == 0 {
		if o.shared == nil {
			s := read(o.batch.context, o.privacyControl)
			o.shared = &s
		}
		return *o.shared
	}
	if o.call == "" {
		return read(merged(it.context, o.batch.context), o.privacyControl)
	}
	return read(it.context, o.privacyControl)
}

// event makes the record of one item.
func (c *Collector) event(raw []byte, from *origin) (out record.Out, messageID string, err error) {
	if len(raw) > c.cfg.MaxEvent {
		return out, "", fmt.Errorf("event of %d bytes, at most %d", len(raw), c.cfg.MaxEvent)
	}
	it, ok := readItem(raw)
	if !ok {
		return out, "", errNoEvent
	}
	if from.call != "" {
		it.kind = text(from.call)
	}
	messageID = it.messageID.orEmpty()
	e := &eventv1.Event{Shop: from.key.Shop, KeyId: from.key.ID, KeyKind: eventv1.KeyKind_KEY_KIND_PUBLIC}
	if from.key.Kind != Public {
		e.KeyKind = eventv1.KeyKind_KEY_KIND_SECRET
	}
	if err := errors.Join(when(&it, from.batch.sentAt, from.key.Kind, from.now, e), convert(&it, from.key, e)); err != nil {
		return out, messageID, err
	}
	around := from.around(&it)
	e.Consent, e.ContextJson = around.consent, around.json
	if len(it.properties) > 2 && it.properties[0] == '{' {
		e.PropertiesJson = it.properties
	}
	if isBot(around.agent) || isBot(from.agent) {
		// Kept and used by nothing, like what the taxonomy does not know.
		e.Kind, e.Lines, e.Text = eventv1.Kind_KIND_OTHER, nil, ""
	}
	if e.MessageId == "" {
		// Random, as Segment does it: two equal events may both be meant. Who
		// repeats a call sends ids, or it counts twice.
		var random [16]byte
		_, _ = rand.Read(random[:]) // never fails
		e.MessageId = hex.EncodeToString(random[:])
	}
	out, err = recordOf(e)
	return out, e.MessageId, err
}

// recordOf is an event as it stands in the log.
func recordOf(e *eventv1.Event) (record.Out, error) {
	var key string
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
