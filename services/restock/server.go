package restock

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sillage-io/sillage/libs/domain/restock"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	restockv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/restock/v1"
	"github.com/sillage-io/sillage/services/internal/host"
)

// Deps is what the server needs of its surroundings.
type Deps struct {
	// Lookup returns the bytes that Codec wrote of an entity; without an id the
	// shop's last model record.
	Lookup func(ctx context.Context, shop, id string) (state []byte, ok bool, err error)
	// Clock returns where the shop's clock stands for an entity, and what was
	// not observed before.
	Clock func(ctx context.Context, shop, id string) (step.Instant, []step.Interval, error)
	// Watch calls each for every record appended to a topic from now on.
	Watch func(ctx context.Context, topic string, each func(record.Record) error) error
}

// Server answers RestockService. It is safe for concurrent use.
type Server struct {
	restockv1.UnimplementedRestockServiceServer
	fold   Fold
	deps   Deps
	learnt *host.Learnt[*model]
}

// NewServer returns the server.
func NewServer(cfg Config, deps Deps) *Server {
	return &Server{fold: NewFold(cfg), deps: deps, learnt: host.NewLearnt(deps.Lookup, readModel)}
}

// model is the shop's as its fitter left it.
func (s *Server) model(ctx context.Context, shop string) (*model, error) {
	if s.fold.pinned {
		return shipped(), nil
	}
	m, ok, err := s.learnt.Of(ctx, shop)
	if err == nil && !ok {
		m = shipped()
	}
	return m, err
}

// product reads a product and its shop's clock.
func (s *Server) product(ctx context.Context, shop, id string) (p Product, clock step.Instant, unobserved []step.Interval, err error) {
	if shop == "" {
		return p, 0, nil, status.Error(codes.InvalidArgument, "shop: missing")
	}
	if id == "" {
		return p, 0, nil, status.Error(codes.InvalidArgument, "product_id: missing")
	}
	data, ok, err := s.deps.Lookup(ctx, shop, id)
	if err != nil {
		return p, 0, nil, status.Errorf(codes.Unavailable, "the store does not answer: %v", err)
	}
	if !ok {
		return p, 0, nil, status.Errorf(codes.NotFound, "product %s of shop %s has not been heard of", id, shop)
	}
	if err := (Codec{}).Unmarshal(data, &p); err != nil {
		return p, 0, nil, status.Errorf(codes.DataLoss, "state of the product: %v", err)
	}
	clock, unobserved, err = s.deps.Clock(ctx, shop, id)
	if err != nil {
		return p, 0, nil, status.Errorf(codes.Unavailable, "the store does not answer: %v", err)
	}
	return p, max(clock, step.Instant(p.LastSale())), unobserved, nil
}

// GetForecast returns the demand expected over the coming days.
func (s *Server) GetForecast(ctx context.Context, r *restockv1.GetForecastRequest) (*restockv1.GetForecastResponse, error) {
	days := float64(r.Days)
	if r.Days == 0 {
		days = 28
	}
	if r.Days > 365 {
		return nil, status.Errorf(codes.InvalidArgument, "days: %d is not between 1 and 365", r.Days)
	}
	p, clock, unobserved, err := s.product(ctx, r.Shop, r.ProductId)
	if err != nil {
		return nil, err
	}
	m, err := s.model(ctx, r.Shop)
	if err != nil {
		return nil, err
	}
	d, rate := p.Forecast(int64(clock), days, s.fold.with(unobserved, m))
	onHand, _, _ := p.Stock()
	return &restockv1.GetForecastResponse{
		ProductId: r.ProductId, Demand: demand(d, days).wire(), RatePerDay: rate, OnHand: onHand, StockKnown: p.StockKnown(), ClockMs: clock.Millis(), ModelVersion: m.version,
	}, nil
}

// GetStockNeed returns the stock needed at an instant.
func (s *Server) GetStockNeed(ctx context.Context, r *restockv1.GetStockNeedRequest) (*restockv1.GetStockNeedResponse, error) {
	switch {
	case !(r.ServiceLevel >= 0 && r.ServiceLevel < 1):
		return nil, status.Errorf(codes.InvalidArgument, "service_level: %g is not between 0 and 1", r.ServiceLevel)
	case !(r.FillRate >= 0 && r.FillRate < 1):
		return nil, status.Errorf(codes.InvalidArgument, "fill_rate: %g is not between 0 and 1", r.FillRate)
	case r.ServiceLevel > 0 && r.FillRate > 0:
		return nil, status.Error(codes.InvalidArgument, "service_level and fill_rate: both are given, and a need has one target")
	}
	p, clock, unobserved, err := s.product(ctx, r.Shop, r.ProductId)
	if err != nil {
		return nil, err
	}
	at := int64(clock)
	if r.AtMs > 0 {
		at = max(at, r.AtMs*1000)
	}
	m, err := s.model(ctx, r.Shop)
	if err != nil {
		return nil, err
	}
	setting := s.fold.with(unobserved, m)
	if r.FillRate > 0 {
		setting.Policy.Target, setting.Policy.FillRate = restock.FillRate, r.FillRate
	}
	need := p.Need(at, r.ServiceLevel, setting)
	onHand, onOrder, reserved := p.Stock()
	return &restockv1.GetStockNeedResponse{
		ProductId: r.ProductId, Need: need.Units, Demand: demand(need.Demand, need.WindowDays).wire(), LeadTimeDays: need.Lead.Mean, ServiceLevel: need.Level,
		InventoryPosition: onHand + onOrder - reserved, ClockMs: clock.Millis(), ModelVersion: m.version, Reasons: wire(reasons(need.Reasons())),
		Target: need.Target.String(), TargetLevel: need.TargetLevel,
	}, nil
}

// WatchSignals streams signals as they are raised.
func (s *Server) WatchSignals(r *restockv1.WatchSignalsRequest, out grpc.ServerStreamingServer[restockv1.WatchSignalsResponse]) error {
	err := s.deps.Watch(out.Context(), topics.RestockSignals, func(rec record.Record) error {
		if r.Shop != "" && string(rec.Header(record.HeaderShop)) != r.Shop {
			return nil
		}
		if !r.Historical && string(rec.Header(record.HeaderHistorical)) == "1" {
			return nil
		}
		m, err := message(rec.Value)
		if err != nil {
			return status.Error(codes.DataLoss, err.Error())
		}
		return out.Send(&restockv1.WatchSignalsResponse{Signal: m})
	})
	if err == nil {
		return out.Context().Err()
	}
	return err
}
