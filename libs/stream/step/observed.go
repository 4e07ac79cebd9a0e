package step

import (
	"encoding/json"
	"fmt"
)

// Observed returns how much of [from, to) was observed, in microseconds: its
// length less the unobserved intervals, which are disjoint and in order.
func Observed(unobserved []Interval, from, to int64) int64 {
	if to <= from {
		return 0
	}
	left := to - from
	for _, i := range unobserved {
		if cut := min(int64(i.To), to) - max(int64(i.From), from); cut > 0 {
			left -= cut
		}
	}
	return left
}

// ShopTime reads, from a partition's own state as the store keeps it (the
// entity called MetaKey), where a shop's clock stands and what was not
// observed. A clock that was never heard is 0.
func ShopTime(data []byte, shop string) (clock Instant, unobserved []Interval, err error) {
	var m meta
	if err := json.Unmarshal(data, &m); err != nil {
		return 0, nil, fmt.Errorf("read the partition's own state: %w", err)
	}
	s := m.Shops[shop]
	if s == nil {
		return 0, nil, nil
	}
	return max(s.Clock, 0), m.unobserved(s), nil
}
