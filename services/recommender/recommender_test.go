package recommender_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/sillage-io/sillage/libs/domain/identity"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/testkit"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	profilev1 "github.com/sillage-io/sillage/proto/gen/go/sillage/profile/v1"
	recommenderv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/recommender/v1"
	"github.com/sillage-io/sillage/services/recommender"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "a secret of the recommender tests"

func config() recommender.Config {
	cfg := recommender.DefaultConfig()
	cfg.IdentitySecret, cfg.StoreTimeout = secret, time.Second
	return cfg
}

func user(name string) string { return identity.ProfileID([]byte(secret), testkit.Shop, name) }

func device(name string) string {
	return identity.DeviceProfileID([]byte(secret), testkit.Shop, identity.DeviceKey(testkit.Shop, identity.Ids{Anonymous: name}))
}

// shop is recommender.visitors with an index behind it.
type shop struct {
	*testkit.Life
	t     testing.TB
	index *recommender.Index
	at    time.Time
	next  map[string]int64 // offsets by topic
}

var opening = time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)

func newShop(t *testing.T) *shop {
	t.Helper()
	return &shop{Life: testkit.New(t, recommender.Processor(config())), t: t, index: recommender.NewIndex(config()), at: opening, next: map[string]int64{}}
}

// does is an activity, a second after the last, and what follows from it.
func (s *shop) does(profile, session string, kind eventv1.Kind, products ...string) {
	s.t.Helper()
	s.does2(&profilev1.Activity{ProfileId: profile, SessionId: session, Kind: kind}, products...)
}

func (s *shop) does2(a *profilev1.Activity, products ...string) {
	s.t.Helper()
	s.at = s.at.Add(time.Second)
	a.EventTimeMs = s.at.UnixMilli()
	for _, p := range products {
		a.Lines = append(a.Lines, &eventv1.Line{ProductId: p, Quantity: 1})
	}
	if a.Kind == eventv1.Kind_KIND_ORDER_COMPLETED {
		a.Order = &eventv1.Order{OrderId: fmt.Sprint(s.at.Unix())}
	}
	s.Fact(a.ProfileId, topics.TypeActivity, s.at, a)
	for _, o := range s.Outs(topics.RecommendationDeltas) {
		s.apply(o)
	}
}

// apply hands a record to the index as the view does.
func (s *shop) apply(o record.Out) {
	s.t.Helper()
	r := record.Record{Topic: o.Topic, Key: o.Key, Value: o.Value, Headers: o.Headers, Offset: s.next[o.Topic]}
	s.next[o.Topic]++
	if err := s.index.Apply(r); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shop) named(product, name, category string) {
	s.t.Helper()
	value, err := proto.Marshal(&profilev1.Product{Shop: testkit.Shop, ProductId: product, Name: name, Category: category, Active: true})
	if err != nil {
		s.t.Fatal(err)
	}
	s.apply(record.Out{Topic: topics.Catalog, Key: []byte(testkit.Shop + "/" + product), Value: value, Headers: []record.Header{
		{Key: record.HeaderType, Value: []byte(topics.TypeProduct)},
		{Key: record.HeaderPosition, Value: []byte(record.Position{Log: "events", Offset: s.next[topics.Catalog]}.String())},
	}})
}

func (s *shop) server() *recommender.Server {
	return recommender.NewServer(config(), s.index, recommender.Deps{
		Lookup: func(_ context.Context, _ string, ids []string) ([][]byte, error) {
			states := make([][]byte, len(ids))
			for i, id := range ids {
				states[i] = s.State(id)
			}
			return states, nil
		},
		Lag: func() int64 { return 7 }, Now: func() time.Time { return s.at },
	})
}

func (s *shop) ask(r *recommenderv1.RecommendRequest) *recommenderv1.RecommendResponse {
	s.t.Helper()
	r.Shop = testkit.Shop
	res, err := s.server().Recommend(context.Background(), r)
	if err != nil {
		s.t.Fatal(err)
	}
	return res
}

// teaParty lets twenty visitors look at tea, then a pot, and few at a spade.
func teaParty(t *testing.T) *shop {
	t.Helper()
	s := newShop(t)
	s.named("pot", "Copper Teapot", "kitchen")
	s.named("tea", "Assam", "tea")
	s.named("spade", "Spade", "garden")
	for i := range 20 {
		visitor := device(fmt.Sprint(i))
		s.does(visitor, fmt.Sprint(i), eventv1.Kind_KIND_PRODUCT_VIEWED, "tea")
		s.does(visitor, fmt.Sprint(i), eventv1.Kind_KIND_PRODUCT_VIEWED, "pot")
		if i%5 == 0 {
			s.does(visitor, fmt.Sprint(i), eventv1.Kind_KIND_PRODUCT_VIEWED, "spade")
		}
	}
	return s
}

func TestRecommend(t *testing.T) {
	s := teaParty(t)
	s.does(device("me"), "mine", eventv1.Kind_KIND_PRODUCT_VIEWED, "tea")
	s.does(user("ada"), "hers", eventv1.Kind_KIND_PRODUCT_VIEWED, "spade")
	s.does(user("ada"), "hers", eventv1.Kind_KIND_ORDER_COMPLETED, "pot")
	s.does2(&profilev1.Activity{ProfileId: user("bob"), SessionId: "his", Kind: eventv1.Kind_KIND_PRODUCT_VIEWED, Consent: &eventv1.Consent{RefusesPersonalisation: true}}, "tea")
	for name, test := range map[string]struct {
		request *recommenderv1.RecommendRequest
		first   string
		never   string
		level   recommenderv1.Level
	}{
		"a visitor gets what others saw next":        {&recommenderv1.RecommendRequest{AnonymousId: "me"}, "pot", "tea", recommenderv1.Level_LEVEL_ITEM},
		"items in the request need no state":         {&recommenderv1.RecommendRequest{Items: []string{"tea"}}, "pot", "tea", recommenderv1.Level_LEVEL_ITEM},
		"a stranger gets what is asked for by many":  {&recommenderv1.RecommendRequest{AnonymousId: "stranger"}, "", "", recommenderv1.Level_LEVEL_TRENDING},
		"nothing that is excluded":                   {&recommenderv1.RecommendRequest{AnonymousId: "me", Exclude: []string{"pot"}}, "spade", "pot", recommenderv1.Level_LEVEL_ITEM},
		"what is bought is not shown again":          {&recommenderv1.RecommendRequest{UserId: "ada"}, "tea", "pot", recommenderv1.Level_LEVEL_PERSONAL},
		"the user's state comes before the device's": {&recommenderv1.RecommendRequest{UserId: "ada", AnonymousId: "me"}, "tea", "pot", recommenderv1.Level_LEVEL_PERSONAL},
		"who refuses is a stranger, on every device": {&recommenderv1.RecommendRequest{UserId: "bob", AnonymousId: "me"}, "", "", recommenderv1.Level_LEVEL_TRENDING},
	} {
		t.Run(name, func(t *testing.T) {
			res := s.ask(test.request)
			if res.Level != test.level || len(res.Recommendations) == 0 {
				t.Fatalf("%v, want level %v", res, test.level)
			}
			for i, r := range res.Recommendations {
				if r.ProductId == test.never {
					t.Errorf("%s is recommended: %v", test.never, res)
				}
				if i > 0 && r.Score > res.Recommendations[i-1].Score {
					t.Errorf("not best first: %v", res)
				}
				if len(r.Reasons) == 0 || r.Reasons[0].Text == "" {
					t.Errorf("no reason: %v", r)
				}
			}
			if test.first != "" && res.Recommendations[0].ProductId != test.first {
				t.Errorf("first %v, want %s", res.Recommendations[0], test.first)
			}
			if res.Freshness.IndexLag != 7 || res.Freshness.IndexApplied == 0 {
				t.Errorf("freshness %v", res.Freshness)
			}
		})
	}
	if res := s.ask(&recommenderv1.RecommendRequest{AnonymousId: "me", Count: 1}); len(res.Recommendations) != 1 || res.Recommendations[0].Name != "Copper Teapot" {
		t.Errorf("one, by name: %v", res)
	}
}

func TestRecommendSaysWhatIsWrong(t *testing.T) {
	s := newShop(t)
	for name, r := range map[string]*recommenderv1.RecommendRequest{
		"no shop": {}, "too many": {Shop: "shop", Count: 101}, "an unknown surface": {Shop: "shop", Surface: "ceiling"},
	} {
		if _, err := s.server().Recommend(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want an invalid argument", name, err)
		}
	}
	if res := s.ask(&recommenderv1.RecommendRequest{AnonymousId: "me"}); res.Level != recommenderv1.Level_LEVEL_EMPTY || len(res.Recommendations) > 0 {
		t.Errorf("a shop that nobody has visited: %v", res)
	}
}

// A store that is away or slow costs the personal part of an answer, and no more
// than the time it is given.
func TestTheStoreIsAway(t *testing.T) {
	s := teaParty(t)
	for name, lookup := range map[string]func(context.Context, string, []string) ([][]byte, error){
		"down": func(context.Context, string, []string) ([][]byte, error) {
			return nil, errors.New("connection refused")
		},
		"slow": func(ctx context.Context, _ string, _ []string) ([][]byte, error) { <-ctx.Done(); return nil, ctx.Err() },
	} {
		cfg := config()
		cfg.StoreTimeout = time.Millisecond
		server := recommender.NewServer(cfg, s.index, recommender.Deps{Lookup: lookup, Lag: func() int64 { return 0 }, Now: func() time.Time { return s.at }})
		res, err := server.Recommend(t.Context(), &recommenderv1.RecommendRequest{Shop: testkit.Shop, AnonymousId: "0"})
		if err != nil || res.Level != recommenderv1.Level_LEVEL_TRENDING || len(res.Recommendations) == 0 {
			t.Errorf("%s: %v, %v", name, res, err)
		}
	}
}

func TestDeltasAreCountedOnce(t *testing.T) {
	s := newShop(t)
	s.Fact(device("me"), topics.TypeActivity, opening, &profilev1.Activity{
		SessionId: "1", Kind: eventv1.Kind_KIND_PRODUCT_VIEWED, EventTimeMs: opening.UnixMilli(), Lines: []*eventv1.Line{{ProductId: "tea"}, {ProductId: "postage", Charge: true}},
	})
	outs := s.Outs(topics.RecommendationDeltas)
	if len(outs) != 1 {
		t.Fatalf("%d deltas of one product and a charge, want 1", len(outs))
	}
	s.apply(outs[0])
	s.apply(outs[0])
	s.apply(record.Out{Topic: topics.RecommendationDeltas, Key: outs[0].Key, Value: outs[0].Value})
	if got := s.index.Counts(); got.Applied != 1 || got.Repeated != 1 || got.Bad != 1 {
		t.Errorf("counts %+v, want one applied, one repeated, one bad", got)
	}
	// What was anonymous is published again under the user: counted already.
	s.Fact(user("ada"), topics.TypeActivity, opening.Add(time.Second), &profilev1.Activity{
		SessionId: "1", Kind: eventv1.Kind_KIND_PRODUCT_VIEWED, Replayed: true, Known: true, Lines: []*eventv1.Line{{ProductId: "tea"}},
	})
	if outs := s.Outs(topics.RecommendationDeltas); len(outs) != 0 {
		t.Errorf("%d deltas of a fact that was published again, want none", len(outs))
	}
	if s.State(user("ada")) == nil {
		t.Error("the user is not remembered")
	}
}

func TestSnapshotGoesOn(t *testing.T) {
	s := teaParty(t)
	var b bytes.Buffer
	logs := map[string]string{topics.RecommendationDeltas: "a", topics.Catalog: "b"}
	next := map[stream.Place]int64{{Topic: topics.RecommendationDeltas, Partition: 3}: 44}
	if err := s.index.Snapshot(&b, next, logs); err != nil {
		t.Fatal(err)
	}
	before := s.ask(&recommenderv1.RecommendRequest{Items: []string{"tea"}})
	old := s.index
	s.index = recommender.NewIndex(config())
	got, err := s.index.Restore(bytes.NewReader(b.Bytes()), logs)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(next, got); d != "" {
		t.Errorf("goes on at (-want +got):\n%s", d)
	}
	if after := s.ask(&recommenderv1.RecommendRequest{Items: []string{"tea"}}); !proto.Equal(before, after) {
		t.Errorf("answers %v, want %v", after, before)
	}
	if old.Counts() != s.index.Counts() {
		t.Errorf("counts %+v, want %+v", s.index.Counts(), old.Counts())
	}
	var again bytes.Buffer
	if err := s.index.Snapshot(&again, next, logs); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Errorf("what was restored, counts and lessons, writes another snapshot (%v)", err)
	}
	for name, broken := range map[string][]byte{
		"empty": nil, "cut": b.Bytes()[:b.Len()/2], "of another version": bytes.Replace(b.Bytes(), []byte(`"version":1`), []byte(`"version":9`), 1),
	} {
		if _, err := recommender.NewIndex(config()).Restore(bytes.NewReader(broken), logs); err == nil {
			t.Errorf("a snapshot that is %s was taken", name)
		}
	}
	if _, err := recommender.NewIndex(config()).Restore(bytes.NewReader(b.Bytes()), map[string]string{topics.Catalog: "another"}); !errors.Is(err, recommender.ErrSnapshot) {
		t.Errorf("a snapshot of another log: %v", err)
	}
}

func TestCodecRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := recommender.Visitor{Session: rapid.Uint64().Draw(t, "session"), LastSeen: rapid.Int64Range(0, 1<<50).Draw(t, "seen"), Refuses: rapid.Bool().Draw(t, "refuses")}
		for range rapid.IntRange(0, 50).Draw(t, "items") {
			v.Items = append(v.Items, recommender.Touched{Item: rapid.String().Draw(t, "item"), Kinds: rapid.Byte().Draw(t, "kinds"), At: rapid.Int64Range(0, 1<<50).Draw(t, "at")})
		}
		for range rapid.IntRange(0, 100).Draw(t, "purchased") {
			v.Purchased = append(v.Purchased, rapid.String().Draw(t, "product"))
		}
		var got recommender.Visitor
		if err := (recommender.Codec{}).Unmarshal(recommender.Codec{}.Append(nil, &v), &got); err != nil {
			t.Fatal(err)
		}
		if got.Session != v.Session || got.LastSeen != v.LastSeen || got.Refuses != v.Refuses || !slices.Equal(got.Items, v.Items) || !slices.Equal(got.Purchased, v.Purchased) {
			t.Fatalf("%+v, want %+v", got, v)
		}
	})
}

func FuzzCodec(f *testing.F) {
	f.Add([]byte{})
	f.Add(recommender.Codec{}.Append(nil, &recommender.Visitor{LastSeen: 2, Items: []recommender.Touched{{Item: "tea", Kinds: 1, At: 1}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v, again recommender.Visitor
		if (recommender.Codec{}).Unmarshal(b, &v) != nil {
			return
		}
		if err := (recommender.Codec{}).Unmarshal(recommender.Codec{}.Append(nil, &v), &again); err != nil {
			t.Errorf("what was read cannot be written and read: %v", err)
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"version":1,"shops":["a"]}` + "\n"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = recommender.NewIndex(config()).Restore(bytes.NewReader(b), nil)
	})
}

// BenchmarkRecommend answers from an index of 5,000 products and 50,000
// sessions, the visitor's state at hand.
func BenchmarkRecommend(b *testing.B) {
	index := recommender.NewIndex(config())
	random := rand.New(rand.NewPCG(1, 2))
	item := func() string { return fmt.Sprintf("product-%d", int(random.ExpFloat64()*600)%5000) }
	var offset int64
	for s := range uint64(50_000) {
		d := &recommenderv1.Delta{Session: s + 1, Kind: eventv1.Kind_KIND_PRODUCT_VIEWED, EventTimeMs: opening.UnixMilli() + int64(s)*1000, First: true}
		for range 2 + random.IntN(6) {
			d.ProductId = item()
			value, err := proto.Marshal(d)
			if err != nil {
				b.Fatal(err)
			}
			offset++
			err = index.Apply(record.Record{Topic: topics.RecommendationDeltas, Key: []byte(testkit.Shop + "/s"), Value: value, Headers: []record.Header{
				{Key: record.HeaderType, Value: []byte(topics.TypeDelta)}, {Key: record.HeaderPosition, Value: []byte(record.Position{Log: "a", Offset: offset}.String())},
			}})
			if err != nil {
				b.Fatal(err)
			}
			d.Previous = append([]*recommenderv1.Item{{ProductId: d.ProductId, Kind: d.Kind, EventTimeMs: d.EventTimeMs}}, d.Previous[:min(len(d.Previous), 7)]...)
		}
	}
	now := opening.Add(50_000 * time.Second)
	visitor := recommender.Visitor{Session: 1, LastSeen: now.UnixMilli()}
	for range 5 {
		visitor.Items = append(visitor.Items, recommender.Touched{Item: item(), Kinds: 1, At: now.UnixMilli()})
	}
	state := recommender.Codec{}.Append(nil, &visitor)
	server := recommender.NewServer(config(), index, recommender.Deps{
		Lookup: func(context.Context, string, []string) ([][]byte, error) { return [][]byte{state}, nil },
		Lag:    func() int64 { return 0 }, Now: func() time.Time { return now },
	})
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		r := &recommenderv1.RecommendRequest{Shop: testkit.Shop, AnonymousId: "me"}
		for pb.Next() {
			if res, err := server.Recommend(context.Background(), r); err != nil || len(res.Recommendations) != 20 {
				b.Errorf("%v, %v", res, err)
				return
			}
		}
	})
}
