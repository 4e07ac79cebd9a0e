package recommend

import (
	"fmt"
	"strconv"
)

// Kind is what a visitor did with an item. The numbers are stable: they are
// stored.
type Kind uint8

// Kinds, by rising intent.
const (
	View Kind = iota
	Cart
	Order
)

// String returns the kind in lower case.
func (k Kind) String() string { return name(int(k), "view", "cart", "order") }

// Previous is an earlier event of the same session.
type Previous struct {
	Item string
	Kind Kind
	At   int64 // milliseconds since 1970
}

// Delta says that an item joined a session. It carries everything an index
// needs, so that every replica that applies the same deltas in the same order
// holds the same index. Applying a delta twice counts it twice: the reader drops
// duplicates by position before.
type Delta struct {
	Session uint64 // key of the session, see SessionKey; not 0
	Item    string
	Kind    Kind
	At      int64 // milliseconds since 1970
	// First says that the session had not had this item with this kind before.
	// Evidence ("37 sessions") and popularity count first times only; a return to
	// an item counts as a step of the way, not as another session.
	First bool
	// Previous are the session's earlier events on other items, newest first, one
	// entry an item with its strongest kind. Lines of the same order that were
	// sent before this one stand here too, with kind Order.
	Previous []Previous
}

// SessionKey returns the key of a session for [Delta.Session] and
// [Query.Session]: a 64-bit FNV-1a hash of the device key and the time that opened
// the session, never 0. Two of a million held sessions share a key with a
// probability of about 3e-8; then they count as one.
func SessionKey(device string, opened int64) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for shift := 0; shift < 64; shift += 8 {
		h = (h ^ uint64(opened)>>shift&0xff) * prime
	}
	for i := range len(device) {
		h = (h ^ uint64(device[i])) * prime
	}
	return max(h, 1)
}

// Surface is where an answer will be shown. It chooses the weights.
type Surface uint8

// Surfaces.
const (
	SurfaceHome Surface = iota
	SurfaceProduct
	SurfaceCart
	surfaces
)

// String returns the surface in lower case.
func (s Surface) String() string { return name(int(s), "home", "product", "cart") }

// QueryItem is an event of the visitor's session.
type QueryItem struct {
	Item string
	Kind Kind
	At   int64 // milliseconds since 1970
}

// Query asks for items.
type Query struct {
	Session   uint64      // key of the visitor's own session, left out of the neighbours; 0 if it has none
	Items     []QueryItem // the session so far, oldest first; the last one is the current item
	Exclude   []string    // never to be shown
	Purchased []string    // bought before, not to be shown
	N         int         // how many; at most Config.MaxAnswers
	Surface   Surface
	Now       int64 // milliseconds since 1970; a time before the latest delta counts as that
	// KeepSeen lets items of the session come back, except the current one and
	// what was bought. Otherwise nothing of the session is shown.
	KeepSeen bool
	// KeepCurrent lets the current item come back, too.
	KeepCurrent bool
	Method      Method
	Bare        bool // without reasons
	// PerCategory and PerBrand bound how many answers share one; 0 is no bound.
	// Items without a category or brand are not bounded.
	PerCategory, PerBrand int
}

// Method is how answers are found.
type Method uint8

// Methods. All but Hybrid are baselines, one source each of the same index.
const (
	Hybrid         Method = iota // all sources, ranked by what was learned
	BySessions                   // similar sessions alone (V-STAN)
	ByTransition                 // what came directly after the current item (first-order Markov)
	ByCoOccurrence               // what was seen together with the session's items
	ByPopularity                 // trending, then popular
)

// String returns the method in words.
func (m Method) String() string {
	return name(int(m), "hybrid", "sessions", "transition", "co-occurrence", "popularity")
}

// Level is where an answer comes from, best first.
type Level uint8

// Levels of the fallback chain.
const (
	Personal Level = iota // several items of this session
	Item                  // the one known item: any visitor of it gets this
	Trending              // what the shop looks at now
	Popular               // what the shop looked at over the last weeks
)

// String returns the level in lower case.
func (l Level) String() string { return name(int(l), "personal", "item", "trending", "popular") }

// ReasonKind is the kind of evidence behind an answer.
type ReasonKind uint8

// Kinds of evidence. What Reason.Count counts stands behind each.
const (
	SimilarSessions ReasonKind = iota // most similar recent sessions that had the item
	ViewedAfter                       // sessions that viewed it after Reason.Item
	SeenTogether                      // sessions that had both
	CartedAfter                       // sessions that put it into the cart after Reason.Item
	BoughtAfter                       // sessions that bought it after seeing Reason.Item
	BoughtWith                        // sessions that bought both
	RelatedThrough                    // sessions that had both Reason.Item, a neighbour of the session's items, and it
	SeenBefore                        // 1: the visitor's own session had it
	TrendingNow                       // events in Reason.Window, decayed, rounded
	PopularItem                       // sessions that had it since it is known
	SameCategory                      // sessions that had it; of the category of Reason.Item
	reasonKinds
)

// String returns the kind in lower case.
func (k ReasonKind) String() string {
	return name(int(k), "similar sessions", "viewed after", "seen together", "carted after", "bought after",
		"bought with", "related through", "seen before", "trending", "popular", "same category")
}

// Reason is one piece of evidence. Counts of relations are of what was seen
// while the pair stood in the item's bounded neighbour list.
type Reason struct {
	Kind   ReasonKind
	Item   string // the other item, "" where there is none
	Count  uint32
	Window Window  // of TrendingNow
	Share  float64 // part of the answer's score, 0..1
}

// String says the reason in a few words, such as "viewed after lamp by 37
// sessions".
func (r Reason) String() string { return r.Text(r.Item) }

// Text is String with another name for the item. It allocates once.
func (r Reason) Text(item string) string {
	n, sessions, events := strconv.FormatUint(uint64(r.Count), 10), " sessions", " events"
	if r.Count == 1 {
		sessions, events = " session", " event"
	}
	switch r.Kind {
	case SimilarSessions:
		return "in " + n + " similar" + sessions
	case ViewedAfter, CartedAfter, BoughtAfter:
		return r.Kind.String() + " " + item + " by " + n + sessions
	case SeenTogether:
		return "seen together with " + item + " by " + n + sessions
	case BoughtWith:
		return "bought with " + item + " by " + n + sessions
	case RelatedThrough:
		return "related through " + item + ", seen together by " + n + sessions
	case SeenBefore:
		return "seen before in this session"
	case SameCategory:
		return "of the same category as " + item + ", in " + n + sessions
	case TrendingNow:
		return "trending: about " + n + events + " in the last " + r.Window.String()
	default:
		return "popular: in " + n + sessions
	}
}

// Code is the kind as one word, for programs: viewed_after.
func (k ReasonKind) Code() string {
	return name(int(k), "similar_sessions", "viewed_after", "seen_together", "carted_after", "bought_after",
		"bought_with", "related_through", "seen_before", "trending", "popular", "same_category")
}

// Answer is a recommended item.
type Answer struct {
	Item, Name string
	Score      float64 // comparable within one answer list and level only
	Level      Level
	Reasons    []Reason // strongest first; lives in the Scratch until its next use
}

// Window is a span of decayed counting.
type Window uint8

// Windows. The half-life of a counter is its window times ln 2, so that a steady
// stream of one event an hour counts 1 in Hour and 24 in Day.
const (
	Hour Window = iota
	Day
	Week
	Month // weighted by kind and of Config.PopularDays half-life: the popular counter
	windows
)

// String returns the window in words.
func (w Window) String() string { return name(int(w), "hour", "day", "week", "month") }

func name(i int, names ...string) string {
	if i < len(names) {
		return names[i]
	}
	return fmt.Sprintf("unknown %d", i)
}
