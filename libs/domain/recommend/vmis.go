package recommend

import (
	"cmp"
	"math"
	"slices"
)

// VMIS is the reference method VMIS-kNN (Kersbergen, Sprangers and Schelter,
// SIGMOD 2022) as its authors publish it in Serenade: the weight of the newest
// shared item falls by 0.1 a step and is not cut at 0, inverse document frequency
// counts the index's entries, and the current item is taken out of the answer. It
// is built once from finished sessions; the served form is [Index].
type VMIS struct {
	m, k     int
	sessions []VMISSession
	lists    map[uint32][]int32 // item to sessions, newest first
	idf      map[uint32]float64
}

// VMISSession is a finished session.
type VMISSession struct {
	Last  int64 // time of its last event, any unit
	Items []uint32
}

// NewVMIS builds the reference over sessions, of which those with more than
// longest distinct items are left out; Serenade takes the 99.5th percentile. Each
// item lists its m most recent sessions; an answer looks at m sessions and lets k
// of them vote.
func NewVMIS(sessions []VMISSession, m, k, longest int, idfWeight float64) *VMIS {
	v := &VMIS{m: m, k: k, lists: map[uint32][]int32{}, idf: map[uint32]float64{}}
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

// VMISAnswer is an item of the reference's answer.
type VMISAnswer struct {
	Item  uint32
	Score float64
}

// Recommend returns up to n items for a session, oldest item first. Ties go to
// the newer session and the smaller item.
func (v *VMIS) Recommend(session []uint32, n int) []VMISAnswer {
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
