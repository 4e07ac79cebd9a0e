package recommend_test

import (
	"fmt"
	"slices"

	"github.com/sillage-io/sillage/libs/domain/recommend"
)

// Prequential evaluation: every session is predicted step by step, scored, and
// only then learned from and applied.
func Example() {
	sessions := [][]string{
		{"kettle", "teapot", "cosy"},
		{"kettle", "teapot", "cups"},
		{"spade", "rake"},
		{"kettle", "teapot", "cosy"},
		{"spade", "rake", "gloves"},
		{"kettle", "teapot", "cosy"},
	}
	x := recommend.New(recommend.DefaultConfig())
	var (
		scratch recommend.Scratch
		trail   recommend.Trail
		answers []recommend.Answer
		hits    int
	)
	for k, session := range sessions {
		at := int64(k) * 60_000
		query := func() recommend.Query {
			return recommend.Query{N: 1, Items: trail.Items(), Now: at, Surface: recommend.SurfaceProduct, KeepSeen: true}
		}
		trail.Begin(uint64(k + 1))
		for i, item := range session { // predict and score
			if i > 0 {
				answers = x.Recommend(query(), &scratch, answers[:0])
				if slices.ContainsFunc(answers, func(a recommend.Answer) bool { return a.Item == item }) {
					hits++
				}
			}
			trail.Add(item, recommend.View, at)
		}
		trail.Begin(uint64(k + 1))
		for i, item := range session { // learn
			if i > 0 {
				x.Learn(query(), item, &scratch)
			}
			trail.Add(item, recommend.View, at)
		}
		trail.Begin(uint64(k + 1))
		for _, item := range session { // apply
			x.Apply(trail.Add(item, recommend.View, at))
		}
	}
	fmt.Println("hits:", hits)
	best := x.Recommend(recommend.Query{N: 1, Items: []recommend.QueryItem{{Item: "kettle"}, {Item: "teapot"}}, Surface: recommend.SurfaceProduct}, &scratch, nil)[0]
	fmt.Println(best.Item, best.Reasons[0])
	// Output:
	// hits: 5
	// cosy in 3 similar sessions
}
