package recommender

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sillage-io/sillage/libs/domain/identity"
	"github.com/sillage-io/sillage/libs/domain/recommend"
	recommenderv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/recommender/v1"
)

// Deps is what the server needs of its surroundings.
type Deps struct {
	// Lookup returns the bytes that Codec wrote of entities, nil where there is
	// none, in one round trip.
	Lookup func(ctx context.Context, shop string, ids []string) ([][]byte, error)
	// Lag is how many records the index is behind; below 0: not known yet.
	Lag func() int64
	Now func() time.Time
}

// Server answers RecommenderService. It is safe for concurrent use.
type Server struct {
	recommenderv1.UnimplementedRecommenderServiceServer
	cfg     Config
	index   *Index
	deps    Deps
	secret  []byte
	working sync.Pool // *working
}

// working is the memory of one answer.
type working struct {
	scratch recommend.Scratch
	answers []recommend.Answer
}

// NewServer returns the server.
func NewServer(cfg Config, index *Index, deps Deps) *Server {
	return &Server{cfg: cfg, index: index, deps: deps, secret: []byte(cfg.IdentitySecret), working: sync.Pool{New: func() any { return new(working) }}}
}

var surfaces = map[string]recommend.Surface{"": recommend.SurfaceHome, "home": recommend.SurfaceHome, "product": recommend.SurfaceProduct, "cart": recommend.SurfaceCart}

// Recommend returns products for a visitor, best first.
func (s *Server) Recommend(ctx context.Context, r *recommenderv1.RecommendRequest) (*recommenderv1.RecommendResponse, error) {
	if r.Shop == "" {
		return nil, status.Error(codes.InvalidArgument, "shop: missing")
	}
	if r.Count > 100 {
		return nil, status.Errorf(codes.InvalidArgument, "count: %d is not between 1 and 100", r.Count)
	}
	surface, ok := surfaces[r.Surface]
	if !ok {
		return nil, status.Errorf(codes.InvalidArgument, "surface: %q is none of home, product, cart", r.Surface)
	}
	n := int(r.Count)
	if n == 0 {
		n = 20
	}
	q := recommend.Query{N: n, Surface: surface, Now: s.deps.Now().UnixMilli(), Exclude: r.Exclude, PerCategory: s.cfg.PerCategory, PerBrand: s.cfg.PerBrand}
	res := &recommenderv1.RecommendResponse{ModelVersion: ModelVersion, Freshness: &recommenderv1.Freshness{IndexApplied: s.index.Counts().Applied, IndexLag: s.deps.Lag()}}
	if len(r.Items) > 0 {
		for _, i := range r.Items {
			q.Items = append(q.Items, recommend.QueryItem{Item: i, At: q.Now})
		}
	} else {
		s.visitor(ctx, r, &q, res)
	}
	w := s.working.Get().(*working)
	defer s.working.Put(w)
	w.answers = s.index.answer(r.Shop, q, &w.scratch, w.answers[:0])
	res.Level = recommenderv1.Level_LEVEL_EMPTY
	for i, a := range w.answers {
		if i == 0 {
			res.Level = levels[a.Level]
		}
		res.Recommendations = append(res.Recommendations, s.say(r.Shop, a))
	}
	return res, nil
}

var levels = [...]recommenderv1.Level{
	recommend.Personal: recommenderv1.Level_LEVEL_PERSONAL, recommend.Item: recommenderv1.Level_LEVEL_ITEM,
	recommend.Trending: recommenderv1.Level_LEVEL_TRENDING, recommend.Popular: recommenderv1.Level_LEVEL_POPULAR,
}

// visitor asks the store for the user's state and the device's, in one round
// trip, and takes the user's where it has items. Without an answer in time the
// recommendation goes without.
func (s *Server) visitor(ctx context.Context, r *recommenderv1.RecommendRequest, q *recommend.Query, res *recommenderv1.RecommendResponse) {
	var ids []string
	if r.UserId != "" {
		ids = append(ids, identity.ProfileID(s.secret, r.Shop, r.UserId))
	}
	if r.AnonymousId != "" {
		ids = append(ids, identity.DeviceProfileID(s.secret, r.Shop, identity.DeviceKey(r.Shop, identity.Ids{Anonymous: r.AnonymousId})))
	}
	if len(ids) == 0 {
		return
	}
	res.ProfileId = ids[0]
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	states, err := s.deps.Lookup(ctx, r.Shop, ids)
	if err != nil {
		return
	}
	for i, data := range states {
		var v Visitor
		if data == nil || (Codec{}).Unmarshal(data, &v) != nil {
			continue
		}
		if v.Refuses { // as a user or as a device: nothing personal
			q.Items, q.Purchased, q.Session, res.Freshness.VisitorLastSeenMs = nil, nil, 0, 0
			return
		}
		q.Purchased = append(q.Purchased, v.Purchased...)
		if len(q.Items) > 0 || len(v.Items) == 0 {
			continue
		}
		res.ProfileId, q.Session, res.Freshness.VisitorLastSeenMs = ids[i], v.Session, v.LastSeen
		// The visitor's own time: of an imported visitor, not the wall's.
		for _, t := range v.Items {
			q.Items = append(q.Items, recommend.QueryItem{Item: t.Item, Kind: t.kind(), At: t.At})
		}
	}
}

// say is an answer with its names and reasons.
func (s *Server) say(shop string, a recommend.Answer) *recommenderv1.Recommendation {
	rec := &recommenderv1.Recommendation{ProductId: a.Item, Name: a.Name, Score: a.Score, Reasons: make([]*recommenderv1.Reason, len(a.Reasons))}
	reasons := make([]recommenderv1.Reason, len(a.Reasons))
	for i, r := range a.Reasons {
		item := r.Item
		if item != "" {
			if name := s.index.name(shop, item); name != "" {
				item = name
			}
		}
		text := []byte(r.Text(item))
		if c := text[0]; c >= 'a' && c <= 'z' {
			text[0] = c - 'a' + 'A'
		}
		said := &reasons[i]
		said.Code, said.ProductId, said.Evidence, said.Text = r.Kind.Code(), r.Item, float64(r.Count), string(append(text, '.'))
		rec.Reasons[i] = said
	}
	return rec
}
