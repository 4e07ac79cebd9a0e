package churn

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sillage-io/sillage/libs/domain/identity"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	churnv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/churn/v1"
	"github.com/sillage-io/sillage/services/internal/host"
)

// Deps is what the server needs of its surroundings.
type Deps struct {
	// Lookup returns the bytes that Codec wrote of an entity; of none, "", the shop's
	// last model record.
	Lookup func(ctx context.Context, shop, id string) (state []byte, ok bool, err error)
	// Clock returns where the shop's clock stands for an entity, and what was
	// not observed before.
	Clock func(ctx context.Context, shop, id string) (step.Instant, []step.Interval, error)
	// Watch calls each for every record appended to a topic from now on.
	Watch func(ctx context.Context, topic string, each func(record.Record) error) error
}

// Server answers ChurnService. It is safe for concurrent use.
type Server struct {
	churnv1.UnimplementedChurnServiceServer
	fold   Fold
	deps   Deps
	learnt *host.Learnt[*inForce]
}

// NewServer returns the server.
func NewServer(cfg Config, deps Deps) *Server {
	fold := NewFold(cfg)
	return &Server{fold: fold, deps: deps, learnt: host.NewLearnt(deps.Lookup, fold.read)}
}

// GetRisk computes the risk from the state as it is, for the time asked for.
func (s *Server) GetRisk(ctx context.Context, r *churnv1.GetRiskRequest) (*churnv1.GetRiskResponse, error) {
	if r.Shop == "" {
		return nil, status.Error(codes.InvalidArgument, "shop: missing")
	}
	id := r.CustomerId
	if id == "" {
		if r.UserId == "" {
			return nil, status.Error(codes.InvalidArgument, "user_id and customer_id: one of them is needed")
		}
		id = identity.ProfileID(s.fold.secret, r.Shop, r.UserId)
	}
	data, ok, err := s.deps.Lookup(ctx, r.Shop, id)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "the store does not answer: %v", err)
	}
	if !ok {
		return nil, status.Errorf(codes.NotFound, "customer %s of shop %s has not been heard of", id, r.Shop)
	}
	var c Customer
	if err := (Codec{}).Unmarshal(data, &c); err != nil {
		return nil, status.Errorf(codes.DataLoss, "state of the customer: %v", err)
	}
	clock, unobserved, err := s.deps.Clock(ctx, r.Shop, id)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "the store does not answer: %v", err)
	}
	at := int64(clock)
	if r.AtMs > 0 {
		at = r.AtMs * 1000
	}
	at = max(at, c.LastOrder())
	var model any
	if s.fold.learns {
		learnt, ok, err := s.learnt.Of(ctx, r.Shop)
		if err != nil {
			return nil, err
		}
		if ok {
			model = learnt
		}
	}
	setting, version := s.fold.with(model, unobserved)
	res := &churnv1.GetRiskResponse{
		CustomerId: id, HorizonDays: uint32(setting.Policy.HorizonDays), Orders: uint32(c.Orders()), Alerted: c.Raised(),
		AtMs: at / 1000, ClockMs: clock.Millis(), ModelVersion: version,
	}
	score, ok := c.Score(at, setting)
	if !ok {
		return res, nil // heard of, but without orders
	}
	h := c.History(at, setting)
	res.Probability, res.ProbabilityAlive, res.SilenceDays = score, setting.Params.PAlive(h), c.Silence(at, setting)
	last := h
	last.Age = h.Recency
	for _, q := range []float64{.3, .5, .9} {
		res.UsualGapDays = append(res.UsualGapDays, setting.Params.NextOrderQuantile(last, q))
	}
	if !c.Raised() && !c.Objected() {
		if crossing, ok := c.Crossing(setting); ok {
			res.CrossingMs = max(at, crossing) / 1000
		}
	}
	res.Reasons = wire(reasons(c.Reasons(at, setting)))
	return res, nil
}

// WatchAlerts streams alerts as they are raised.
func (s *Server) WatchAlerts(r *churnv1.WatchAlertsRequest, out grpc.ServerStreamingServer[churnv1.WatchAlertsResponse]) error {
	err := s.deps.Watch(out.Context(), topics.ChurnAlerts, func(rec record.Record) error {
		if r.Shop != "" && string(rec.Header(record.HeaderShop)) != r.Shop {
			return nil
		}
		if !r.Historical && string(rec.Header(record.HeaderHistorical)) == "1" {
			return nil
		}
		a, err := message(rec.Value)
		if err != nil {
			return status.Error(codes.DataLoss, err.Error())
		}
		return out.Send(&churnv1.WatchAlertsResponse{Alert: a})
	})
	if err == nil {
		return out.Context().Err()
	}
	return err
}
