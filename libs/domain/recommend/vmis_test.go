package recommend

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// plainVMIS is the method as its paper and its authors' code have it, with maps
// and sorting: the oracle of VMIS.
type plainVMIS struct {
	m, k     int
	sessions []VMISSession
	lists    map[uint32][]int32 // item to sessions, newest first
	idf      map[uint32]float64
}

func newPlainVMIS(sessions []VMISSession, m, k, longest int, idfWeight float64) *plainVMIS {
	v := &plainVMIS{m: m, k: k, lists: map[uint32][]int32{}, idf: map[uint32]float64{}}
	entries := 0
	for _, s := range sessions {
		items := slices.Clone(s.Items)
		slices.Sort(items)
		items = slices.Compact(items)
		if len(items) > longest {
			continue
		}
		for _, i := range items {
			v.lists[i] = append(v.lists[i], int32(len(v.sessions)))
		}
		v.sessions = append(v.sessions, VMISSession{s.Last, items})
		entries += len(items)
	}
	for i, list := range v.lists {
		v.idf[i] = math.Log(float64(entries)/float64(len(list))) * idfWeight
		slices.Reverse(list)
		slices.SortStableFunc(list, func(a, b int32) int {
			return cmp.Compare(v.sessions[b].Last, v.sessions[a].Last)
		})
		if len(list) > m {
			v.lists[i] = slices.Clone(list[:m])
		}
	}
	return v
}

func (v *plainVMIS) answer(session []uint32, n int) []VMISAnswer {
	if len(session) == 0 || n <= 0 {
		return nil
	}
	distinct := map[uint32]bool{}
	for _, i := range session {
		distinct[i] = true
	}
	sims := map[int32]float64{}
	var recent []int32 // heap of the sessions in sims, the oldest first
	older := func(a, b int32) int {
		return cmp.Or(cmp.Compare(v.sessions[a].Last, v.sessions[b].Last), cmp.Compare(a, b))
	}
	done := map[uint32]bool{}
	for pos := range session {
		i := session[len(session)-1-pos]
		if done[i] {
			continue
		}
		done[i] = true
		decay := float64(len(session)-pos) / float64(len(distinct))
		for _, s := range v.lists[i] {
			if _, ok := sims[s]; ok {
				sims[s] += decay
				continue
			}
			if len(sims) < v.m {
				sims[s] = decay
				recent = append(recent, s)
				if len(recent) == v.m {
					slices.SortFunc(recent, older)
				}
				continue
			}
			if v.sessions[s].Last <= v.sessions[recent[0]].Last {
				break // the rest of the list is older still
			}
			delete(sims, recent[0])
			sims[s] = decay
			at, _ := slices.BinarySearchFunc(recent[1:], s, older)
			copy(recent, recent[1:at+1])
			recent[at] = s
		}
	}
	near := make([]int32, 0, len(sims))
	for s := range sims {
		near = append(near, s)
	}
	slices.SortFunc(near, func(a, b int32) int {
		return cmp.Or(cmp.Compare(sims[b], sims[a]), older(b, a))
	})
	near = near[:min(len(near), v.k)]
	scores := map[uint32]float64{}
	for _, s := range near {
		items := v.sessions[s].Items
		step := 1
		for !slices.Contains(items, session[len(session)-step]) {
			step++
		}
		weight := 0.0
		if step < 100 {
			weight = 1 - 0.1*float64(step)
		}
		for _, i := range items {
			idf := v.idf[i]
			if idf <= 0 {
				idf = 1
			}
			scores[i] += weight * idf * sims[s]
		}
	}
	delete(scores, session[len(session)-1])
	answers := make([]VMISAnswer, 0, len(scores))
	for i, score := range scores {
		answers = append(answers, VMISAnswer{i, score})
	}
	slices.SortFunc(answers, func(a, b VMISAnswer) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.Item, b.Item))
	})
	return answers[:min(len(answers), n)]
}

// TestVMISIsThePlainMethod compares the arenas with the maps on any log.
func TestVMISIsThePlainMethod(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		catalogue := rapid.IntRange(1, 30).Draw(t, "catalogue")
		var log []VMISSession
		for range rapid.IntRange(0, 60).Draw(t, "sessions") {
			s := VMISSession{Last: int64(r.IntN(40))}
			for range 1 + r.IntN(6) {
				s.Items = append(s.Items, uint32(r.IntN(catalogue)))
			}
			log = append(log, s)
		}
		m, k := rapid.IntRange(1, 30).Draw(t, "m"), rapid.IntRange(1, 20).Draw(t, "k")
		fast, plain := NewVMIS(log, m, k, 5, 1), newPlainVMIS(log, m, k, 5, 1)
		for range 3 {
			var session []uint32
			for range r.IntN(14) {
				session = append(session, uint32(r.IntN(catalogue+2)))
			}
			want, got := plain.answer(session, 10), fast.Recommend(session, 10)
			// Sums in another order differ in their last digits, and so do places.
			scores := func(as []VMISAnswer) []float64 {
				var out []float64
				for _, a := range as {
					out = append(out, a.Score)
				}
				return out
			}
			if diff := gocmp.Diff(scores(want), scores(got), cmpopts.EquateApprox(1e-9, 1e-9)); diff != "" {
				t.Fatalf("m %d k %d session %v (-want +got)\n%s", m, k, session, diff)
			}
		}
	})
}
