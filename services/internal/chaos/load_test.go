package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// load sends live events, at a rate that does not wait for answers: what an
// outage held up is sent behind it. Each call is repeated, byte for byte, until
// it is acknowledged, and what was acknowledged is noted.
type load struct {
	url     string
	keys    []string // secret keys, one a shop
	rate    float64  // events a second of all senders
	batch   int
	seed    uint64
	senders []*sender
	client  *http.Client

	enough     int64        // events, of which more come slowly; 0: never enough
	acked      atomic.Int64 // events
	again      atomic.Int64 // events sent again after they had been acknowledged
	repeated   atomic.Int64 // calls repeated because there was no good answer
	mu         sync.Mutex
	rejected   map[string]int64 // by reason, as meant
	refused    map[int]int64    // whole calls, by status, as meant
	unexpected []string         // answers that should not be
	stop       chan struct{}
	sending    sync.WaitGroup
}

// sender is one of several that send at the same time; only its own goroutine
// uses it until the load has ended.
type sender struct {
	number  int
	random  *rand.Rand
	key     string
	acked   []bool // by the number of the event
	last    []byte // the call before
	lastIDs int
}

// newLoad prepares senders for shops.
func newLoad(url string, keys []string, senders, batch int, rate float64, seed uint64) *load {
	l := &load{url: url, keys: keys, rate: rate, batch: batch, seed: seed, rejected: map[string]int64{}, refused: map[int]int64{}, stop: make(chan struct{})}
	l.client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: senders + 4, IdleConnTimeout: 5 * time.Second}}
	for i := range senders {
		l.senders = append(l.senders, &sender{number: i, random: rand.New(rand.NewPCG(seed, uint64(i))), key: keys[i%len(keys)]})
	}
	return l
}

// start lets the senders send.
func (l *load) start(ctx context.Context) {
	for _, s := range l.senders {
		l.sending.Go(func() { l.send(ctx, s) })
	}
}

// finish waits until what was begun is acknowledged; no call begins any more.
func (l *load) finish() {
	close(l.stop)
	l.sending.Wait()
	l.client.CloseIdleConnections()
}

func (l *load) wrong(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.unexpected) < 20 {
		l.unexpected = append(l.unexpected, fmt.Sprintf(format, args...))
	}
}

func (l *load) send(ctx context.Context, s *sender) {
	every := time.Duration(float64(l.batch*len(l.senders)) / l.rate * float64(time.Second))
	due := time.Now().Add(time.Duration(s.random.Float64() * float64(every)))
	for {
		select {
		case <-l.stop:
			return
		case <-ctx.Done():
			return
		case <-time.After(time.Until(due)):
		}
		due = due.Add(every)
		if l.enough > 0 && l.acked.Load() >= l.enough {
			due = due.Add(9 * every)
		}
		if behind := time.Since(due); behind > maxBehind {
			due = due.Add(behind - maxBehind) // an endless backlog would only delay the end
		}
		body, first, bad := s.compose(l.batch)
		if !l.deliver(ctx, s, body, first, bad) {
			return
		}
		s.last, s.lastIDs = body, l.batch
		if s.random.Float64() < .03 {
			l.deliver(ctx, s, body, -1, bad)
			l.again.Add(int64(l.batch))
		}
	}
}

// maxBehind is how much of an outage is sent behind it.
const maxBehind = 10 * time.Second

// answer is what the collector says.
type answer struct {
	Accepted int
	Rejected []struct {
		Index  int
		Reason string
	}
}

// deliver sends a call until it is acknowledged, and notes what was; first is
// the number of its first event, -1 where nothing is to be noted. Bad are the
// events that are to be rejected.
func (l *load) deliver(ctx context.Context, s *sender, body []byte, first int, bad map[int]bool) bool {
	for n := 0; ; n++ {
		got, status, err := l.post(ctx, s.key, body)
		switch {
		case err == nil && status == http.StatusOK:
			for _, r := range got.Rejected {
				if !bad[r.Index] {
					l.wrong("a good event was rejected: %s", r.Reason)
				}
			}
			if len(got.Rejected) != len(bad) {
				l.wrong("%d events rejected, want %d", len(got.Rejected), len(bad))
			}
			l.note(s, got, first, bad)
			return true
		case err == nil && status != http.StatusServiceUnavailable && status != http.StatusBadGateway:
			l.wrong("a good call was answered with %d", status)
			return false
		}
		l.repeated.Add(1)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(min(20*time.Millisecond<<min(n, 5), 500*time.Millisecond)):
		}
	}
}

func (l *load) note(s *sender, got answer, first int, bad map[int]bool) {
	if first < 0 {
		return
	}
	for i := range got.Accepted + len(got.Rejected) {
		s.acked = append(s.acked, !bad[i])
	}
	l.acked.Add(int64(got.Accepted))
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range got.Rejected {
		reason, _, _ := strings.Cut(r.Reason, ":")
		if strings.HasPrefix(r.Reason, "event of ") {
			reason = "too large"
		}
		l.rejected[reason]++
	}
}

func (l *load) post(ctx context.Context, key string, body []byte) (answer, int, error) {
	var got answer
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url+"/v1/batch", bytes.NewReader(body))
	if err != nil {
		return got, 0, err
	}
	req.SetBasicAuth(key, "")
	res, err := l.client.Do(req)
	if err != nil {
		return got, 0, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return got, 0, err
	}
	if res.StatusCode == http.StatusOK {
		err = json.Unmarshal(data, &got)
	}
	return got, res.StatusCode, err
}

// refuse sends calls that are to be refused as a whole.
func (l *load) refuse(ctx context.Context, key string) {
	for _, c := range []struct {
		key, body string
		status    int
	}{
		{key, "{not json", http.StatusBadRequest},
		{key, `{"no":"batch"}`, http.StatusBadRequest},
		{"nobody", `{"batch":[]}`, http.StatusUnauthorized},
		{key, `{"batch":["` + strings.Repeat("x", 1<<20) + `"]}`, http.StatusRequestEntityTooLarge},
		{key, `{"batch":[` + strings.Repeat("{},", 2600) + `{}]}`, http.StatusRequestEntityTooLarge},
	} {
		_, status, err := l.post(ctx, c.key, []byte(c.body))
		if err != nil || status == http.StatusServiceUnavailable {
			continue // a fault got in between: nothing was taken, either
		}
		if status != c.status {
			l.wrong("a bad call was answered with %d, want %d", status, c.status)
			continue
		}
		l.mu.Lock()
		l.refused[status]++
		l.mu.Unlock()
	}
}

// messageID names event n of a sender.
func messageID(sender, n int) string { return "e" + strconv.Itoa(sender) + "-" + strconv.Itoa(n) }

// parseID is messageID backwards.
func parseID(id string) (sender, n int, ok bool) {
	rest, ok := strings.CutPrefix(id, "e")
	if !ok {
		return 0, 0, false
	}
	a, b, ok := strings.Cut(rest, "-")
	sender, err := strconv.Atoi(a)
	n, err2 := strconv.Atoi(b)
	return sender, n, ok && errors.Join(err, err2) == nil
}

// compose makes a call: what visitors, customers and the warehouse do, in no
// order of time, some of it wrong.
func (s *sender) compose(n int) (body []byte, first int, bad map[int]bool) {
	var b bytes.Buffer
	first, bad = len(s.acked), map[int]bool{}
	now := time.Now()
	fmt.Fprintf(&b, `{"sentAt":%q,"batch":[`, now.Format(time.RFC3339Nano))
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		id := messageID(s.number, first+i)
		visitor := s.random.IntN(400)
		ago := time.Duration(s.random.ExpFloat64() * float64(2*time.Second))
		if s.random.Float64() < .02 {
			ago = time.Duration(s.random.Float64() * float64(20*24*time.Hour)) // a device was offline
		}
		when := now.Add(-ago).UTC().Format(time.RFC3339Nano)
		product := int(s.random.ExpFloat64() * 40)
		who := fmt.Sprintf(`"messageId":%q,"timestamp":%q,"anonymousId":"a%d-%d"`, id, when, s.number, visitor)
		if visitor%3 == 0 {
			who += fmt.Sprintf(`,"userId":"u%d"`, visitor%50)
		}
		switch p := s.random.IntN(1000); {
		case p < 450:
			fmt.Fprintf(&b, `{"type":"track","event":"Product Viewed",%s,"properties":{"product_id":"p%d","name":"Product %d","category":"c%d","price":%d.5}}`, who, product, product, product%7, 1+product)
		case p < 600:
			fmt.Fprintf(&b, `{"type":"track","event":"Product Added",%s,"properties":{"product_id":"p%d","quantity":%d}}`, who, product, 1+s.random.IntN(3))
		case p < 750:
			fmt.Fprintf(&b, `{"type":"page","name":"Home",%s}`, who)
		case p < 850:
			fmt.Fprintf(&b, `{"type":"track","event":"Order Completed",%s,"properties":{"order_id":"o%s","currency":"EUR","total":%d,"products":[{"product_id":"p%d","quantity":%d,"price":%d}]}}`, who, id, 10+product, product, 1+s.random.IntN(4), 3+product)
		case p < 920:
			fmt.Fprintf(&b, `{"type":"identify",%s,"userId":"u%d"}`, who[:cutUser(who)], visitor%50)
		case p < 970:
			fmt.Fprintf(&b, `{"type":"track","event":"Stock Level Changed",%s,"properties":{"product_id":"p%d","level":%d}}`, who, product, s.random.IntN(300))
		case p < 980:
			fmt.Fprintf(&b, `{"type":"track","event":"Never Heard Of",%s}`, who)
		case p < 985:
			bad[i] = true
			fmt.Fprintf(&b, `{%s}`, who) // of no type
		case p < 990:
			bad[i] = true
			fmt.Fprintf(&b, `{"type":"track","event":"Order Completed","messageId":%q,"anonymousId":"a1","timestamp":"yesterday"}`, id)
		case p < 995:
			bad[i] = true
			fmt.Fprintf(&b, `{"type":"track","event":"Product Viewed","messageId":%q,"properties":{"product_id":"p1"}}`, id) // of nobody
		case p < 996:
			bad[i] = true
			fmt.Fprintf(&b, `{"type":"page",%s,"properties":{"text":%q}}`, who, strings.Repeat("x", 33<<10))
		default:
			fmt.Fprintf(&b, `{"type":"screen","name":"Start",%s}`, who)
		}
	}
	b.WriteString(`]}`)
	return b.Bytes(), first, bad
}

// cutUser is where the user of an event's head begins.
func cutUser(who string) int {
	if i := strings.Index(who, `,"userId"`); i >= 0 {
		return i
	}
	return len(who)
}
