package step

// Outcome says what became of an atomic write to the store.
type Outcome int

// What an atomic write can come to (real-world stores have no fourth way).
const (
	// Applied: everything is written, the fence is now the target.
	Applied Outcome = iota
	// Lost: nothing is written, the fence is not the base: somebody else owns
	// the partition, or the store went back in time.
	Lost
	// NotWritten: nothing is written, for a reason that may pass (loading,
	// failover, slot migration); arm again and try again.
	NotWritten
	// Ambiguous: the answer was lost. Arm again and compare the fence.
	Ambiguous
	// Refused: nothing is written, for a reason that will not pass by itself
	// (out of memory, no permission, wrong type): halt and say so.
	Refused
)

// Entity is one entity's state as the store keeps it. A nil Value deletes it.
type Entity struct {
	Key   string
	Value []byte
}

// LogAppend adds bytes to a named append-only log of the partition (the
// dedupe ids of an hour). A nil Data deletes the log.
type LogAppend struct {
	Name string
	Data []byte
}

// Write is what one step changes in the store: all of it or nothing, and only
// if the partition's fence is still Base.
type Write struct {
	Base     string // the fence as armed; "" where there was none
	Target   string // the fence from now on
	Wipe     bool   // delete all of the partition first (first claim, or an unusable state)
	Entities []Entity
	Logs     []LogAppend
}

// State is all that the store holds for a partition, as loaded at a claim or
// kept in a base.
type State struct {
	Fence    string
	Entities []Entity
	Logs     []LogAppend
}
