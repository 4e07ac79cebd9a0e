package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestSharesAreBalancedAndOnlyWhatMovesIsReleased divides topics among members
// that come and go, until nothing moves any more.
func TestSharesAreBalancedAndOnlyWhatMovesIsReleased(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		partitions := rapid.IntRange(1, 40).Draw(t, "partitions")
		held := map[string][]int32{}
		names := 0
		for step := range rapid.IntRange(1, 6).Draw(t, "steps") {
			for name := range held {
				if rapid.Bool().Draw(t, "leaves") {
					delete(held, name)
				}
			}
			for range rapid.IntRange(0, 3).Draw(t, "joins") {
				held[fmt.Sprintf("m%d", names)] = nil
				names++
			}
			if len(held) == 0 {
				continue
			}
			before := map[int32]string{}
			for name, ps := range held {
				for _, p := range ps {
					before[p] = name
				}
			}
			rounds := 0
			for again := true; again; rounds++ {
				if rounds == 3 {
					t.Fatal("no end of rounds")
				}
				var claims []claim
				for name, ps := range held {
					claims = append(claims, claim{member: name, generation: int32(2*step + rounds), held: ps})
				}
				shares := divide("g", claims, partitions)
				rand.Shuffle(len(claims), func(i, j int) { claims[i], claims[j] = claims[j], claims[i] })
				if d := cmp.Diff(shares, divide("g", claims, partitions), cmp.AllowUnexported(share{})); d != "" {
					t.Fatalf("it depends on the order of claims: %s", d)
				}
				holder := map[int32]string{}
				for name, ps := range held {
					for _, p := range ps {
						holder[p] = name
					}
				}
				seen := map[int32]bool{}
				again = false
				for name, s := range shares {
					again = again || s.round != settled
					if got := s.round == awaited; got != slices.ContainsFunc(held[name], func(p int32) bool { return !s.has(p) }) {
						t.Fatalf("%s holds %v, gets %+v", name, held[name], s)
					}
					for _, p := range s.partitions {
						if seen[p] {
							t.Fatalf("partition %d is given twice", p)
						}
						seen[p] = true
						if h := holder[p]; h != "" && h != name {
							t.Fatalf("partition %d is given to %s while %s holds it", p, name, h)
						}
					}
					held[name] = s.partitions
				}
			}
			total, kept := 0, 0
			for name, ps := range held {
				if len(ps) < partitions/len(held) || len(ps) > (partitions+len(held)-1)/len(held) {
					t.Fatalf("%s has %d of %d partitions, of %d members", name, len(ps), partitions, len(held))
				}
				total += len(ps)
				for _, p := range ps {
					if before[p] == name {
						kept++
					}
				}
			}
			if total != partitions {
				t.Fatalf("%d partitions given, want %d", total, partitions)
			}
			// Who held no more than the least share keeps everything; who held more, at
			// least that.
			least, have := 0, map[string]int{}
			for _, name := range before {
				have[name]++
			}
			for name, n := range have {
				if _, here := held[name]; here {
					least += min(n, partitions/len(held))
				}
			}
			if kept < least {
				t.Fatalf("%d partitions kept, want at least %d", kept, least)
			}
		}
	})
}

func TestWhoLeavesIsGivenNothing(t *testing.T) {
	claims := []claim{{member: "a", held: []int32{0, 1}}, {member: "b", held: []int32{2, 3}, leaving: true}}
	want := map[string]share{"a": {partitions: []int32{0, 1}, round: underway}, "b": {round: awaited}}
	if d := cmp.Diff(want, divide("g", claims, 4), cmp.AllowUnexported(share{})); d != "" {
		t.Error(d)
	}
	want = map[string]share{"a": {partitions: []int32{0, 1, 2, 3}}}
	if d := cmp.Diff(want, divide("g", claims[:1], 4), cmp.AllowUnexported(share{})); d != "" {
		t.Error(d)
	}
	claims[0].leaving = true
	want = map[string]share{"a": {round: awaited}, "b": {round: awaited}}
	if d := cmp.Diff(want, divide("g", claims, 4), cmp.AllowUnexported(share{})); d != "" {
		t.Error(d)
	}
}

func TestOddPartitionsAreSpreadOverProcesses(t *testing.T) {
	first := map[string]int{}
	for g := range 60 {
		for name, s := range divide(fmt.Sprintf("group %d", g), []claim{{member: "x", instance: "a"}, {member: "y", instance: "b"}, {member: "z", instance: "c"}}, 4) {
			if len(s.partitions) == 2 {
				first[name]++
			}
		}
	}
	for _, name := range []string{"x", "y", "z"} {
		if first[name] < 10 {
			t.Errorf("%s has the odd partition of %d of 60 groups", name, first[name])
		}
	}
}

func TestOfTwoClaimsTheLaterIsRight(t *testing.T) {
	shares := divide("g", []claim{{member: "old", generation: 3, held: []int32{0, 1}}, {member: "new", generation: 4, held: []int32{1}}}, 2)
	// What another one holds by a later claim is not the older's to be waited for.
	want := map[string]share{"old": {partitions: []int32{0}}, "new": {partitions: []int32{1}}}
	if d := cmp.Diff(want, shares, cmp.AllowUnexported(share{})); d != "" {
		t.Error(d)
	}
}

func TestSubscriptionAndShareAreReadBack(t *testing.T) {
	for _, c := range []claim{{generation: 7, held: []int32{1, 5}}, {generation: 7, held: []int32{1, 5}, leaving: true}} {
		data := subscription("t", c)
		var got claim
		got.read(data, "t")
		if d := cmp.Diff(c, got, cmp.AllowUnexported(claim{})); d != "" {
			t.Error(d)
		}
		got.read(subscription("u", c), "t")
		if got.held != nil {
			t.Errorf("%v of another topic", got.held)
		}
		for i := range data {
			got = claim{}
			got.read(data[:i], "t")
			if d := cmp.Diff(claim{generation: -1}, got, cmp.AllowUnexported(claim{})); d != "" {
				t.Errorf("cut off at %d: %s", i, d)
			}
		}
	}
	want := share{partitions: []int32{0, 3}, round: awaited}
	got, err := parseShare(assignment("t", want), "t")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(share{})); d != "" {
		t.Error(d)
	}
	if s, err := parseShare(nil, "t"); err != nil || len(s.partitions) > 0 {
		t.Errorf("of nothing: %+v, %v", s, err)
	}
	data := assignment("t", want)
	for i := 1; i < len(data)-1; i++ {
		if _, err := parseShare(data[:i], "t"); err == nil {
			t.Errorf("a share cut off at %d is read", i)
		}
	}
}
