package simulator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sort"
	"strconv"
	"time"

	"github.com/sillage-io/sillage/services/collector"
)

// Config says where the simulated shop sends.
type Config struct {
	URL               string // of the collector
	Shop              string
	Admin             string // admin key, for the history
	Public, Secret    string // the shop's keys
	Seed              uint64
	EventsPerSecond   float64
	Client            *http.Client
	Log               *slog.Logger
	OrdersPerHundred  int // visits that end in an order
	KnownPerHundred   int // visits of customers who are signed in
	HistoryPerRequest int
	Opened            func() // called once the shop is live; nil: nobody waits for it
}

// DefaultConfig returns the defaults of a lively small shop.
func DefaultConfig() Config {
	return Config{Shop: "demo", Seed: 1, EventsPerSecond: 25, OrdersPerHundred: 25, KnownPerHundred: 30, HistoryPerRequest: 500}
}

// Run lets the shop live until ctx ends: at first its past, where it has none
// yet, then visits.
func Run(ctx context.Context, cfg Config) error {
	s := New(cfg.Seed)
	shop, err := mode(ctx, cfg)
	if err != nil {
		return err
	}
	if shop.Mode != collector.ModeLive {
		err := open(ctx, cfg, s)
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			// Somebody else's event may have opened the shop meanwhile: then it
			// lives without a past.
			if shop, again := mode(ctx, cfg); again != nil || shop.Mode != collector.ModeLive {
				return err
			}
			cfg.Log.Warn("the simulated shop has no past: it was live before", slog.String("shop", cfg.Shop))
		}
	}
	if cfg.Opened != nil {
		cfg.Opened()
	}
	for i := range s.Products { // where the process was started again, stock is counted anew
		if s.Products[i].Stock == 0 {
			s.Products[i].Stock = 60
		}
	}
	return live(ctx, cfg, s)
}

// mode asks how the shop stands.
func mode(ctx context.Context, cfg Config) (collector.Shop, error) {
	var all []collector.Shop
	if err := send(ctx, cfg, http.MethodGet, "/v1/sillage/shops", cfg.Admin, nil, &all); err != nil {
		return collector.Shop{}, err
	}
	for _, shop := range all {
		if shop.Name == cfg.Shop {
			return shop, nil
		}
	}
	return collector.Shop{Name: cfg.Shop, Mode: collector.ModeNew}, nil
}

// open imports the past and lets the shop live.
func open(ctx context.Context, cfg Config, s *Shop) error {
	now := time.Now().Truncate(time.Second)
	id := "demo-" + strconv.FormatInt(now.Unix(), 36)
	items, err := s.History(id, now)
	if err != nil {
		return err
	}
	for len(items) > 0 {
		some := items[:min(cfg.HistoryPerRequest, len(items))]
		items = items[len(some):]
		body, err := json.Marshal(collector.ImportRequest{Shop: cfg.Shop, ImportID: id, Append: true, Items: some})
		if err != nil {
			return fmt.Errorf("encode the history: %w", err)
		}
		var res collector.ImportResult
		if err := send(ctx, cfg, http.MethodPost, "/v1/sillage/import", cfg.Admin, body, &res); err != nil {
			return err
		}
		if len(res.Rejected) > 0 {
			return fmt.Errorf("history refused: %+v", res.Rejected[0])
		}
	}
	cfg.Log.Info("the simulated shop has its past and is live", slog.String("shop", cfg.Shop))
	return send(ctx, cfg, http.MethodPost, "/v1/sillage/shops/"+cfg.Shop+"/live", cfg.Admin, nil, nil)
}

// visit is somebody looking around.
type visit struct {
	device, user string
	at           int // product looked at
	left         int // events to come
	buys         bool
}

// live sends visits, orders and what the buyer does.
func live(ctx context.Context, cfg Config, s *Shop) error {
	const tick = 200 * time.Millisecond
	t := time.NewTicker(tick)
	defer t.Stop()
	var visits []*visit
	due := s.pending // receipts on their way
	for i := range due {
		due[i].at = time.Now().Add(time.Duration(i+1) * 2 * time.Second)
	}
	owed, n := 0.0, 0
	start := time.Now().UnixNano()
	review := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		now := time.Now()
		var public, secret []call
		for owed += cfg.EventsPerSecond * tick.Seconds(); owed >= 1; owed-- {
			n++
			if len(visits) < 30 {
				v := &visit{device: fmt.Sprintf("device-%x-%d", start, n), at: s.pick(-1, 0), left: 2 + s.random.IntN(9), buys: s.random.IntN(100) < cfg.OrdersPerHundred}
				if s.random.IntN(100) < cfg.KnownPerHundred {
					v.user = fmt.Sprintf("customer-%04d", s.random.IntN(900))
				}
				visits = append(visits, v)
			}
			i := s.random.IntN(len(visits))
			v := visits[i]
			id := fmt.Sprintf("sim-%x-%d", start, n)
			if v.left--; v.left <= 0 {
				visits = append(visits[:i], visits[i+1:]...)
				if v.buys {
					if v.user == "" {
						v.user = "guest-" + v.device
					}
					order := s.order("order-"+id, v.user, v.device, 1+s.random.IntN(3))
					order.MessageID = id
					secret = append(secret, order)
				}
				continue
			}
			c := call{Type: "track", Event: "Product Viewed", MessageID: id, AnonymousID: v.device, UserID: v.user}
			switch s.random.IntN(10) {
			case 0:
				c.Event, c.Properties = "Products Searched", map[string]any{"query": s.Products[v.at].Category}
			case 1:
				c.Event = "Product Added"
			default:
				v.at = s.pick(v.at, .7)
			}
			if c.Properties == nil {
				p := &s.Products[v.at]
				c.Properties = map[string]any{"product_id": p.ID, "price": p.Price, "currency": "EUR"}
			}
			public = append(public, c)
		}
		if now.Sub(review) > 30*time.Second { // a demo's week
			review = now
			for _, m := range s.reorder(now, "live") {
				if m.call.Event == "Goods Received" {
					m.at = now.Add(time.Minute)
				}
				due = append(due, m)
			}
			sort.SliceStable(due, func(i, j int) bool { return due[i].at.Before(due[j].at) })
		}
		for len(due) > 0 && !due[0].at.After(now) {
			c := due[0].call
			due = due[1:]
			n++
			c.MessageID = fmt.Sprintf("sim-%x-%d", start, n)
			secret = append(secret, c)
		}
		for key, calls := range map[string][]call{cfg.Public: public, cfg.Secret: secret} {
			if err := batch(ctx, cfg, key, calls, now); err != nil && ctx.Err() == nil {
				cfg.Log.Warn("simulated events not taken", slog.Any("err", err))
			}
		}
	}
}

// batch sends calls as an SDK does.
func batch(ctx context.Context, cfg Config, key string, calls []call, now time.Time) error {
	if len(calls) == 0 {
		return nil
	}
	stamp := now.UTC().Format(time.RFC3339Nano)
	for i := range calls {
		calls[i].Timestamp = stamp
	}
	body, err := json.Marshal(map[string]any{"batch": calls, "sentAt": stamp})
	if err != nil {
		return fmt.Errorf("encode a batch: %w", err)
	}
	return send(ctx, cfg, http.MethodPost, "/v1/batch", key, body, nil)
}

// send makes one request; what may pass is tried again.
func send(ctx context.Context, cfg Config, method, path, key string, body []byte, into any) error {
	for n := 0; ; n++ {
		code, answer, err := once(ctx, cfg, method, path, key, body)
		switch {
		case err == nil && code == http.StatusOK:
			if into == nil {
				return nil
			}
			return json.Unmarshal(answer, into)
		case err == nil && code < 500:
			return fmt.Errorf("%s %s: %d: %s", method, path, code, bytes.TrimSpace(answer))
		case n >= 20:
			return errors.Join(err, fmt.Errorf("%s %s: %d", method, path, code))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func once(ctx context.Context, cfg Config, method, path, key string, body []byte) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, cfg.URL+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.SetBasicAuth(key, "")
	res, err := cfg.Client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return res.StatusCode, answer, err
}
