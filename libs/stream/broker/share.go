package broker

import (
	"cmp"
	"hash/fnv"
	"slices"
)

// A group's leader divides a topic's partitions among the members, sticky and
// balanced, and so that nothing but what moves ever stops (KIP-429): every
// member says what it holds when it joins; what has to move is given to nobody
// in the first round; its holder releases it and joins again; then the new owner
// gets it.

// claim is what a member says when it joins.
type claim struct {
	member     string
	instance   string // "" for a dynamic member
	generation int32  // in which it got what it holds; -1: none
	leaving    bool   // it works on until it has released everything, and is given nothing
	held       []int32
}

// round says what follows an assignment.
type round byte

const (
	settled  round = iota // nothing
	underway              // partitions move: another round follows
	awaited               // ... as soon as this member has released what it was not given
)

// share is what a member is given.
type share struct {
	partitions []int32 // ascending
	round      round
}

func (s share) has(partition int32) bool {
	_, ok := slices.BinarySearch(s.partitions, partition)
	return ok
}

// divide gives every member its share, by member id. It depends on nothing but
// its arguments, and not on the order of claims.
func divide(group string, claims []claim, partitions int) map[string]share {
	claims = slices.Clone(claims)
	// Not by name alone: or the same process would get the odd partition of every
	// group.
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(cmp.Compare(a.place(group), b.place(group)), cmp.Compare(a.member, b.member))
	})
	holder := holders(claims, partitions)
	held := make([][]int32, len(claims))
	for p, i := range holder {
		if i >= 0 {
			held[i] = append(held[i], int32(p))
		}
	}
	// Who holds more gets the odd partitions: fewest moves.
	var order []int
	for i, c := range claims {
		if !c.leaving {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(len(held[b]), len(held[a])) })
	given := make([][]int32, len(claims))
	quota := make([]int, len(claims))
	kept := make([]bool, partitions)
	for rank, i := range order {
		quota[i] = partitions / len(order)
		if rank < partitions%len(order) {
			quota[i]++
		}
		given[i] = slices.Clone(held[i][:min(quota[i], len(held[i]))])
		for _, p := range given[i] {
			kept[p] = true
		}
	}
	moves := false
	next := 0
	for p := range partitions {
		if kept[p] || len(order) == 0 {
			continue
		}
		for len(given[order[next]]) >= quota[order[next]] {
			next++
		}
		i := order[next]
		if holder[p] >= 0 {
			// Its place is taken, but it is not there before it has been released.
			quota[i]--
			moves = true
			continue
		}
		given[i] = append(given[i], int32(p))
	}
	shares := make(map[string]share, len(claims))
	for i, c := range claims {
		slices.Sort(given[i])
		s := share{partitions: given[i]}
		if moves {
			s.round = underway
		}
		if slices.ContainsFunc(held[i], func(p int32) bool { return !s.has(p) }) {
			s.round = awaited
		}
		shares[c.member] = s
	}
	return shares
}

// holders says who holds each partition: the index of the claim, or -1. Of two
// who say so the later generation is right.
func holders(claims []claim, partitions int) []int {
	holder := make([]int, partitions)
	for p := range holder {
		holder[p] = -1
	}
	for i, c := range claims {
		for _, p := range c.held {
			if p < 0 || int(p) >= partitions {
				continue
			}
			if before := holder[p]; before < 0 || claims[before].generation < c.generation {
				holder[p] = i
			}
		}
	}
	return holder
}

// place is where a member stands in the order of its group.
func (c *claim) place(group string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(group + "/" + cmp.Or(c.instance, c.member)))
	return h.Sum64()
}

// The forms on the wire are those of Kafka's consumers, so that its tools can
// show them: ConsumerProtocolSubscription version 2 and ConsumerProtocolAssignment
// version 0, with leaving and round as user data.

func subscription(topic string, c claim) []byte {
	b := appendInt16(nil, 2)
	b = appendInt32(b, 1)
	b = appendString(b, topic)
	if c.leaving {
		b = appendBytes(b, []byte{1})
	} else {
		b = appendInt32(b, -1)
	}
	b = appendPartitions(b, topic, c.held)
	return appendInt32(b, c.generation)
}

// read takes over what a member says of topic. Of what cannot be read it makes a
// member that holds nothing.
func (c *claim) read(data []byte, topic string) {
	r := reader{b: data}
	version := r.int16()
	for range r.count() {
		r.string()
	}
	leaving := len(r.bytes()) > 0
	held, generation := r.partitions(topic), r.int32()
	if c.generation = -1; version == 2 && r.err == nil {
		c.held, c.generation, c.leaving = held, generation, leaving
	}
}

func assignment(topic string, s share) []byte {
	b := appendInt16(nil, 0)
	b = appendPartitions(b, topic, s.partitions)
	return appendBytes(b, []byte{byte(s.round)})
}

// parseShare reads what a member is given of topic; nothing of empty data.
func parseShare(data []byte, topic string) (share, error) {
	var s share
	if len(data) == 0 {
		return s, nil
	}
	r := reader{b: data}
	r.int16()
	s.partitions = r.partitions(topic)
	slices.Sort(s.partitions)
	if extra := r.bytes(); len(extra) > 0 {
		s.round = round(extra[0])
	}
	return s, r.err
}

func appendPartitions(b []byte, topic string, partitions []int32) []byte {
	b = appendInt32(b, 1)
	b = appendString(b, topic)
	b = appendInt32(b, int32(len(partitions)))
	for _, p := range partitions {
		b = appendInt32(b, p)
	}
	return b
}

// partitions reads a list of topics with partitions and returns those of topic.
func (r *reader) partitions(topic string) []int32 {
	var all []int32
	for range r.count() {
		mine := r.string() == topic
		for range r.count() {
			if p := r.int32(); mine && r.err == nil {
				all = append(all, p)
			}
		}
	}
	return all
}
