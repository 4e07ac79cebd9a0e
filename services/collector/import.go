package collector

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"

	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

// ImportRequest is the body of POST /v1/sillage/import: items of one import in
// order. Ordinals grow by one from item to item over the whole import, so a
// request that is repeated, or one that goes on after a crash, adds nothing
// that is there.
type ImportRequest struct {
	Shop     string       `json:"shop"`
	ImportID string       `json:"import_id"`
	Append   bool         `json:"append,omitempty"` // BEGUN: the shop may be at rest after an import
	Items    []ImportItem `json:"items"`
}

// ImportItem is an event or a mark.
type ImportItem struct {
	Ordinal int64 `json:"ordinal"`
	Line    int64 `json:"line"` // first line of the file that it stands for; of a mark, lines before it
	// An event: lines it stands for, and the running maximum of the file's time.
	Lines       uint32          `json:"lines,omitempty"`
	NotBeforeUS int64           `json:"not_before_us,omitempty"`
	Event       json.RawMessage `json:"event,omitempty"`
	// A mark: begun, tick or ended.
	Mark        string `json:"mark,omitempty"`
	TimeUS      int64  `json:"time_us,omitempty"`
	Description string `json:"description,omitempty"`
}

// ImportResult is the body of a 200.
type ImportResult struct {
	Success  bool             `json:"success"`
	Accepted int              `json:"accepted"` // events
	Rejected []ImportRejected `json:"rejected,omitempty"`
}

// ImportRejected is an event that was not taken.
type ImportRejected struct {
	Ordinal int64  `json:"ordinal"`
	Line    int64  `json:"line"`
	Reason  string `json:"reason"`
}

// maxImportBody bounds one request of an import.
const maxImportBody = 8 << 20

// admin finds the key of a request that acts for a shop.
func (c *Collector) admin(w http.ResponseWriter, r *http.Request, shop string) (Key, bool) {
	key, ok := c.keyOf(r, "")
	switch {
	case !ok:
		fail(w, http.StatusUnauthorized, "unknown write key; it is the user of Basic authorisation, with an empty password")
		return key, false
	case key.Kind == Admin, key.Kind == Secret && key.Shop == shop:
		return key, true
	}
	fail(w, http.StatusForbidden, "this takes an admin key, or a secret key of shop %s", shop)
	return key, false
}

// imported takes a part of an import.
func (c *Collector) imported(w http.ResponseWriter, r *http.Request) {
	if _, ok := c.keyOf(r, ""); !ok { // before anything is read
		fail(w, http.StatusUnauthorized, "unknown write key; it is the user of Basic authorisation, with an empty password")
		return
	}
	data, err := body(r, maxImportBody)
	if err != nil {
		if errors.Is(err, errTooLarge) {
			fail(w, http.StatusRequestEntityTooLarge, "body: larger than %d bytes", maxImportBody)
			return
		}
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	req, err := readImport(data)
	if err != nil {
		fail(w, http.StatusBadRequest, "body: %v", err)
		return
	}
	if err := errors.Join(CheckShop(req.Shop), checkImportID(req.ImportID)); err != nil {
		fail(w, http.StatusBadRequest, "%s", reason(err))
		return
	}
	key, ok := c.admin(w, r, req.Shop)
	if !ok {
		return
	}
	if c.deps.Full != nil && c.deps.Full() {
		w.Header().Set("Retry-After", "5")
		fail(w, http.StatusServiceUnavailable, "no room on disk: nothing was taken, send it again")
		return
	}
	lock := c.lockOf(req.Shop)
	if !lock.TryLock() {
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusServiceUnavailable, "another request about shop %s is under way", req.Shop)
		return
	}
	defer lock.Unlock()

	var res ImportResult
	var outs []record.Out
	shop := c.shops.Get(req.Shop)
	next := shop
	events, last, began := 0, int64(0), false
	key.Shop = req.Shop
	for i := range req.Items {
		it := &req.Items[i]
		if it.Ordinal <= last {
			fail(w, http.StatusBadRequest, "items[%d]: ordinal %d does not grow", i, it.Ordinal)
			return
		}
		last = it.Ordinal
		if it.Mark != "" {
			mark, err := c.mark(&req, it, &next)
			if err != nil {
				fail(w, http.StatusConflict, "%v", err)
				return
			}
			outs = append(outs, mark...)
			began = began || next.importing(req.ImportID)
			continue
		}
		if next.Mode != ModeImporting || next.ImportID != req.ImportID {
			fail(w, http.StatusConflict, "shop %s is %s, and import %s has not begun there", req.Shop, next.Mode, req.ImportID)
			return
		}
		out, err := c.importedEvent(&req, it, key)
		if err != nil {
			res.Rejected = append(res.Rejected, ImportRejected{Ordinal: it.Ordinal, Line: it.Line, Reason: reason(err)})
			continue
		}
		events++
		outs = append(outs, out)
	}
	// A shop is closed to live events before its import begins, and at rest
	// only after its import's end stands in the log.
	if began && !shop.importing(req.ImportID) {
		taken := Shop{Name: req.Shop, Mode: ModeImporting, Since: c.deps.Now().UTC(), ImportID: req.ImportID}
		if ok, err := c.shops.change(shop, taken); err != nil {
			c.unnoted(w, err)
			return
		} else if !ok { // its first live event has come meanwhile
			fail(w, http.StatusConflict, "shop %s is live: an import takes a shop of its own", req.Shop)
			return
		}
		shop = taken
	}
	if !c.publish(r.Context(), w, outs, events) {
		return
	}
	c.counts.rejected.Add(int64(len(res.Rejected)))
	if next.Mode != shop.Mode {
		if _, err := c.shops.change(shop, next); err != nil {
			c.unnoted(w, err)
			return
		}
	}
	res.Success, res.Accepted = true, events
	answer(w, http.StatusOK, res)
}

// readImport reads what json.Unmarshal would read into an ImportRequest, without
// a second look at the events and without copies of them.
func readImport(data []byte) (req ImportRequest, err error) {
	if !json.Valid(data) {
		return req, json.Unmarshal(data, &req) // it says what is wrong
	}
	number := func(name string, v []byte) (n int64) {
		n, e := strconv.ParseInt(string(v), 10, 64)
		if e != nil && err == nil {
			err = fmt.Errorf("%s: %s is no whole number", name, clip(string(v)))
		}
		return n
	}
	str := func(name string, v []byte) string {
		if (len(v) == 0 || v[0] != '"') && err == nil {
			err = fmt.Errorf("%s: %s is no string", name, clip(string(v)))
			return ""
		}
		return string(textOf(v))
	}
	item := func(v []byte) {
		var it ImportItem
		if !members(v, func(key, v []byte) {
			switch string(key) {
			case "ordinal":
				it.Ordinal = number("ordinal", v)
			case "line":
				it.Line = number("line", v)
			case "lines":
				n := number("lines", v)
				if it.Lines = uint32(n); int64(it.Lines) != n && err == nil {
					err = fmt.Errorf("lines: %d is none", n)
				}
			case "not_before_us":
				it.NotBeforeUS = number("not_before_us", v)
			case "event":
				it.Event = v
			case "mark":
				it.Mark = str("mark", v)
			case "time_us":
				it.TimeUS = number("time_us", v)
			case "description":
				it.Description = str("description", v)
			}
		}) && err == nil {
			err = fmt.Errorf("items[%d]: no object", len(req.Items))
		}
		req.Items = append(req.Items, it)
	}
	if !members(data, func(key, v []byte) {
		switch string(key) {
		case "shop":
			req.Shop = str("shop", v)
		case "import_id":
			req.ImportID = str("import_id", v)
		case "append":
			req.Append = string(v) == "true"
		case "items":
			if !elements(v, item) && err == nil {
				err = errors.New("items: no array")
			}
		}
	}) {
		return req, errors.New("no object")
	}
	return req, err
}

func (c *Collector) lockOf(shop string) *sync.Mutex {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.imports[shop]
	if l == nil {
		l = &sync.Mutex{}
		c.imports[shop] = l
	}
	return l
}

func checkImportID(id string) error {
	if id == "" || len(id) > 100 {
		return fmt.Errorf("import_id %q: 1 to 100 characters", clip(id))
	}
	return nil
}

// mark is a mark in every partition, and what it makes of the shop.
func (c *Collector) mark(req *ImportRequest, it *ImportItem, shop *Shop) ([]record.Out, error) {
	m := &eventv1.ImportMark{Shop: req.Shop, ImportId: req.ImportID, TimeUs: it.TimeUS, Sequence: it.Ordinal, Line: it.Line}
	if it.TimeUS > c.deps.Now().Add(ahead).UnixMicro() {
		return nil, fmt.Errorf("mark %q is dated ahead of now", it.Mark)
	}
	mine := shop.ImportID == req.ImportID
	switch it.Mark {
	case "begun":
		switch {
		case shop.Mode == ModeLive:
			return nil, fmt.Errorf("shop %s is live: an import takes a shop of its own", req.Shop)
		case shop.Mode == ModeImporting && !mine:
			return nil, fmt.Errorf("shop %s is taking import %s", req.Shop, shop.ImportID)
		case shop.Mode == ModeResting && !mine && !req.Append:
			return nil, fmt.Errorf("shop %s is at rest after import %s: say that this one is to be appended", req.Shop, shop.ImportID)
		}
		m.Step, m.Description = eventv1.ImportMark_STEP_BEGUN, it.Description
		*shop = Shop{Name: req.Shop, Mode: ModeImporting, Since: c.deps.Now().UTC(), ImportID: req.ImportID}
	case "tick":
		if shop.Mode != ModeImporting || !mine {
			return nil, fmt.Errorf("import %s has not begun in shop %s", req.ImportID, req.Shop)
		}
		m.Step = eventv1.ImportMark_STEP_TICK
	case "ended":
		if (shop.Mode != ModeImporting && shop.Mode != ModeResting) || !mine {
			return nil, fmt.Errorf("import %s has not begun in shop %s", req.ImportID, req.Shop)
		}
		m.Step = eventv1.ImportMark_STEP_ENDED
		*shop = Shop{Name: req.Shop, Mode: ModeResting, Since: c.deps.Now().UTC(), ImportID: req.ImportID}
	default:
		return nil, fmt.Errorf("mark %q is none of begun, tick, ended", clip(it.Mark))
	}
	return c.everywhere(step.TypeImport, m, req.ImportID+"/"+strconv.FormatInt(it.Ordinal, 10)), nil
}

// importedEvent is an event of an import.
func (c *Collector) importedEvent(req *ImportRequest, it *ImportItem, key Key) (record.Out, error) {
	if len(it.Event) > c.cfg.MaxEvent {
		return record.Out{}, fmt.Errorf("event of %d bytes, at most %d", len(it.Event), c.cfg.MaxEvent)
	}
	call, ok := readItem(it.Event)
	if !ok {
		return record.Out{}, errNoEvent
	}
	e := &eventv1.Event{
		Shop: req.Shop, KeyId: key.ID, KeyKind: eventv1.KeyKind_KEY_KIND_SECRET,
		Import: &eventv1.Import{ImportId: req.ImportID, Sequence: it.Ordinal, NotBeforeUs: it.NotBeforeUS, Line: it.Line, Lines: it.Lines},
	}
	if it.NotBeforeUS > c.deps.Now().Add(ahead).UnixMicro() {
		return record.Out{}, errors.New("timestamp: dated ahead of now")
	}
	if call.timestamp == "" {
		return record.Out{}, errors.New("timestamp: missing")
	}
	if call.messageID == "" {
		return record.Out{}, errors.New("messageId: missing")
	}
	if err := errors.Join(when(&call, "", Secret, c.deps.Now(), e), convert(&call, Key{Kind: Secret}, e)); err != nil {
		return record.Out{}, err
	}
	e.Consent = read(call.context, false).consent // the rest stands in the file
	return recordOf(e)
}

// goLive lets a shop that rests live by the wall clock.
func (c *Collector) goLive(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("shop")
	if err := CheckShop(name); err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	if _, ok := c.admin(w, r, name); !ok {
		return
	}
	lock := c.lockOf(name)
	if !lock.TryLock() {
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusServiceUnavailable, "a request of an import into shop %s is under way", name)
		return
	}
	defer lock.Unlock()
	shop := c.shops.Get(name)
	switch shop.Mode {
	case ModeImporting:
		fail(w, http.StatusConflict, "shop %s is taking import %s: let it end first", name, shop.ImportID)
		return
	case ModeLive:
		answer(w, http.StatusOK, shop)
		return
	}
	now := c.deps.Now()
	if shop.Mode == ModeResting {
		outs := c.everywhere(step.TypeShop, &eventv1.ShopMark{Shop: name, TimeUs: now.UnixMicro()}, "shop/"+name+"/live/"+strconv.FormatInt(now.UnixMicro(), 10))
		if !c.publish(r.Context(), w, outs, 0) {
			return
		}
	}
	live := Shop{Name: name, Mode: ModeLive, Since: now.UTC()}
	if ok, err := c.shops.change(shop, live); err != nil {
		c.unnoted(w, err)
		return
	} else if !ok { // its first live event has come meanwhile: the same end
		live = c.shops.Get(name)
	}
	answer(w, http.StatusOK, live)
}

func (c *Collector) listShops(w http.ResponseWriter, r *http.Request) {
	if key, ok := c.keyOf(r, ""); !ok || key.Kind != Admin {
		fail(w, http.StatusForbidden, "this takes an admin key")
		return
	}
	answer(w, http.StatusOK, c.shops.All())
}
