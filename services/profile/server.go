package profile

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sillage-io/sillage/libs/domain/identity"
	profilev1 "github.com/sillage-io/sillage/proto/gen/go/sillage/profile/v1"
)

// Deps is what the server needs of its surroundings.
type Deps struct {
	Secret []byte
	// Lookup returns the bytes that Codec wrote of an entity.
	Lookup func(ctx context.Context, shop, id string) (state []byte, ok bool, err error)
}

// Server answers ProfileService. It is safe for concurrent use.
type Server struct {
	profilev1.UnimplementedProfileServiceServer
	deps Deps
}

// NewServer returns the server.
func NewServer(deps Deps) *Server { return &Server{deps: deps} }

// GetProfile returns what is remembered of a device, or of a user who came
// without one.
func (s *Server) GetProfile(ctx context.Context, r *profilev1.GetProfileRequest) (*profilev1.GetProfileResponse, error) {
	if r.Shop == "" {
		return nil, status.Error(codes.InvalidArgument, "shop: missing")
	}
	key := identity.DeviceKey(r.Shop, identity.Ids{Anonymous: r.AnonymousId, User: r.UserId})
	if key == "" {
		return nil, status.Error(codes.InvalidArgument, "anonymous_id and user_id: one of them is needed")
	}
	res := &profilev1.GetProfileResponse{ProfileId: identity.Who(s.deps.Secret, r.Shop, r.UserId, "", key), Known: r.UserId != ""}
	data, ok, err := s.deps.Lookup(ctx, r.Shop, key[len(r.Shop)+1:])
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "the store does not answer: %v", err)
	}
	if !ok {
		return res, nil
	}
	var d Device
	if err := (Codec{}).Unmarshal(data, &d); err != nil {
		return nil, status.Errorf(codes.DataLoss, "state of the device: %v", err)
	}
	if d.User != "" && r.UserId == "" {
		res.ProfileId, res.Known = identity.ProfileID(s.deps.Secret, r.Shop, d.User), true
	}
	res.SessionId, res.SessionStartedMs, res.LastSeenMs, res.RecentProducts = d.SessionID, d.Visit.Start, d.LastSeen, d.Visit.Items
	return res, nil
}
