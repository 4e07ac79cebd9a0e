package step

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/sillage-io/sillage/libs/stream/record"
)

// Op is what a Machine asks for.
type Op int

// The steps of a claim, then those of the loop.
const (
	// OpArm: open a connection to the store, watch the fence and read it.
	OpArm Op = iota + 1
	// OpReadMark: read the offset committed to Kafka with its metadata.
	OpReadMark
	// OpReadBounds: read the log's first and next offset.
	OpReadBounds
	// OpReadAnchor: fetch the record at Offset.
	OpReadAnchor
	// OpNewProducer: get a new producer id.
	OpNewProducer
	// OpClaim: Write under the armed fence.
	OpClaim
	// OpLoad: read all of the partition's state on the armed connection.
	OpLoad
	// OpCommitClaim: commit Mark, and wait for it.
	OpCommitClaim
	// OpFetch: fetch from Offset; may come back with nothing.
	OpFetch
	// OpPublish: append Outs with the claim's producer, acks of all replicas.
	OpPublish
	// OpApply: Write under the armed fence.
	OpApply
	// OpCommit: hand Mark to the committer, without waiting.
	OpCommit
	// OpRelease: Write the released fence.
	OpRelease
	// OpBackoff: wait a little, then go on.
	OpBackoff
	// OpDone: released, nothing more to do.
	OpDone
	// OpHalt: stop and say Reason; an operator has to decide.
	OpHalt
)

var opNames = [...]string{"", "arm", "read mark", "read bounds", "read anchor", "new producer", "claim", "load", "commit claim", "fetch", "publish", "apply", "commit", "release", "backoff", "done", "halt"}

func (o Op) String() string {
	if int(o) < len(opNames) && o > 0 {
		return opNames[o]
	}
	return "op " + strconv.Itoa(int(o))
}

// Producer is an idempotent producer's identity.
type Producer struct {
	ID    int64
	Epoch int16
}

// Command is what has to be done next.
type Command struct {
	Op       Op
	Offset   int64
	Write    Write
	Outs     []record.Out
	Mark     Mark
	Commit   int64 // OpCommit, OpCommitClaim: the offset
	Producer Producer
	Attempt  int
	Reason   error
}

// Result is what came of a Command.
type Result struct {
	// Err: the command came to nothing for a reason that may pass. For
	// OpPublish any Err ends the claim.
	Err      error
	Fence    string // OpArm
	Mark     string // OpReadMark: the metadata; "" where nothing is committed
	Commit   int64  // OpReadMark: the offset, -1 where nothing is committed
	Start    int64  // OpReadBounds, OpFetch where OutOfRange
	End      int64
	Records  []record.Record // OpFetch, OpReadAnchor
	Range    bool            // OpFetch, OpReadAnchor: the offset is not in the log
	OtherLog bool            // OpFetch, OpReadAnchor: the topic was made again meanwhile
	Producer Producer        // OpNewProducer
	Outcome  Outcome         // OpClaim, OpApply, OpRelease
	Current  string          // the fence, where Lost
	State    State           // OpLoad
}

// Halt reasons.
var (
	ErrOtherLog    = errors.New("the state belongs to another log: the topic was recreated or the cluster is another one")
	ErrTruncated   = errors.New("the log was truncated or replaced: the record before the next one is another one")
	ErrPastEnd     = errors.New("the state is ahead of the log: the log has lost its end")
	ErrFoldVersion = errors.New("the state belongs to an instance of another fold version that has not released it: let one of that version finish and stop, or rebuild")
	ErrRefused     = errors.New("the store refuses writes")
)

// Stats are a Machine's counters.
type Stats struct {
	Claims, Rewinds, Batches, Ambiguous int64
	Gaps                                int64
	GapFrom, GapTo                      int64 // of the last gap: the records that the log has lost
	Silent                              int64 // effects not published, below the mark
	Unverified                          int64 // claims whose anchor had expired
}

// Machine is the protocol of one partition. Next says what has to be done,
// Done takes what came of it; they alternate. It is not safe for concurrent
// use.
type Machine struct {
	cfg    Config
	folder Folder
	seed   string
	stop   bool

	op      Op
	attempt int
	halt    error
	waits   error // why the partition cannot be claimed now

	armed    string // the fence as the store has it
	fence    Fence
	fresh    bool // nothing is to be taken over
	marked   bool
	mark     Mark
	producer Producer
	start    int64
	end      int64
	read     int64 // where a second reading stands
	next     int64 // offset to fetch from
	rest     []record.Record
	batch    Batch
	write    Write
	target   Fence
	after    Op  // what follows an ambiguous write, once known
	idle     int // fetches in a row that gave nothing
	stats    Stats
	claims   int
}

// checkIdle is after how many empty fetches an owner looks at its fence: while
// records come, every write does. Whoever has nothing to write would not notice
// that the store went back or lost everything, and its readers would see that.
const checkIdle = 8

// NewMachine drives folder. Seed makes this owner's nonces different from any
// other's.
func NewMachine(cfg Config, folder Folder, seed string) *Machine {
	return &Machine{cfg: cfg.withDefaults(), folder: folder, seed: seed, op: OpArm}
}

// Stop asks the machine to release the partition after the batch in hand.
func (m *Machine) Stop() { m.stop = true }

// Stats returns the counters.
func (m *Machine) Stats() Stats { return m.stats }

// Offsets returns the next offset to fold, the oldest that waits, and the
// emission mark.
func (m *Machine) Offsets() (next, low, mark int64) { return m.fence.Next, m.fence.Low, m.mark.Offset }

// Waits tells why the partition cannot be claimed for the time being; nil where
// it can, or has been.
func (m *Machine) Waits() error { return m.waits }

// Silent tells why the partition folds without publishing; "" where it speaks.
func (m *Machine) Silent() Silence { return m.fence.Voice.Silent }

// Running tells whether the partition is claimed and folding.
func (m *Machine) Running() bool { return m.op >= OpFetch && m.op <= OpCommit }

// Claimed tells whether the partition is this machine's, as far as it knows: it
// runs, or looks at its fence.
func (m *Machine) Claimed() bool {
	return m.Running() || m.op == OpArm && (m.after == OpFetch || m.after == OpCommit)
}

// Armed is the fence as the store had it when it was last known.
func (m *Machine) Armed() string { return m.armed }

// Settled tells whether the store holds exactly what is in memory: then a base
// may be taken.
func (m *Machine) Settled() bool { return m.op == OpFetch && m.read < 0 && m.fence.KeyDone == "" }

// Snapshot returns the whole state and the mark. Only where Settled.
func (m *Machine) Snapshot() (State, Mark) {
	return State{Fence: m.fence.String(), Entities: m.folder.Dump(), Logs: m.folder.Logs()}, m.mark
}

// Next says what has to be done.
func (m *Machine) Next() Command {
	c := Command{Op: m.op, Attempt: m.attempt, Producer: m.producer, Reason: m.halt}
	switch m.op {
	case OpReadAnchor:
		c.Offset = m.fence.Next - 1
	case OpClaim:
		c.Write = m.write
	case OpCommitClaim, OpCommit:
		c.Mark, c.Commit = m.mark, m.fence.Next
	case OpFetch:
		c.Offset = m.next
		if m.read >= 0 {
			c.Offset = m.read
		}
	case OpPublish:
		c.Outs = m.batch.Outs
	case OpApply, OpRelease:
		c.Write = m.write
	}
	return c
}

// Done takes what came of the last command.
func (m *Machine) Done(r Result) {
	if r.Err != nil && m.op != OpPublish && m.op != OpApply && m.op != OpClaim && m.op != OpRelease {
		m.attempt++
		if m.op == OpLoad {
			m.rewind()
		} else if m.stop && !m.Running() {
			m.op = OpDone
		}
		return
	}
	if r.OtherLog {
		m.fail(fmt.Errorf("%w (since the service has started)", ErrOtherLog))
		return
	}
	switch m.op {
	case OpArm:
		m.arm(r)
	case OpReadMark:
		m.readMark(r)
	case OpReadBounds:
		m.bounds(r)
	case OpReadAnchor:
		m.anchor(r)
	case OpNewProducer:
		m.producer = r.Producer
		m.claim()
	case OpClaim:
		m.written(r, OpLoad)
	case OpLoad:
		m.load(r)
	case OpCommitClaim:
		m.attempt, m.op = 0, OpFetch
	case OpFetch:
		m.fetched(r)
	case OpPublish:
		if r.Err != nil {
			// Nothing later may be published over it: the claim ends.
			m.rewind()
			return
		}
		m.op = OpApply
	case OpApply:
		m.written(r, OpCommit)
	case OpCommit:
		m.committed()
	case OpRelease:
		m.op = OpDone
	case OpBackoff:
		m.op = OpArm
	}
}

// rewind drops everything and claims again.
func (m *Machine) rewind() {
	m.stats.Rewinds++
	m.rest, m.batch, m.write, m.after, m.idle = nil, Batch{}, Write{}, 0, 0
	m.op = OpBackoff
	if m.stop {
		m.op = OpDone
	}
}

func (m *Machine) arm(r Result) {
	m.attempt = 0
	if m.after == OpFetch {
		m.after = 0
		if r.Fence != m.armed {
			m.rewind()
			return
		}
		m.op = OpFetch
		return
	}
	if m.after != 0 {
		// An answer was lost, or a write could not be made: the fence tells.
		after := m.after
		m.after = 0
		switch r.Fence {
		case m.write.Target:
			m.armed = r.Fence
			m.taken(after)
		case m.write.Base:
			m.armed = r.Fence
			m.op = map[Op]Op{OpLoad: OpClaim, OpCommit: OpApply}[after]
		default:
			m.rewind()
		}
		return
	}
	if m.stop {
		m.op = OpDone // before it has taken anything over
		return
	}
	m.armed, m.fresh, m.fence = r.Fence, true, Fence{}
	if r.Fence != "" {
		f, err := ParseFence(r.Fence)
		if err != nil {
			m.fail(err)
			return
		}
		if f.LogID != m.cfg.LogID {
			m.fail(fmt.Errorf("%w (state of %s, log %s)", ErrOtherLog, f.LogID, m.cfg.LogID))
			return
		}
		if f.FoldVersion != m.cfg.FoldVersion && !f.Released {
			// Not for good: an instance of that version may be at work, and will
			// leave cleanly.
			m.waits = fmt.Errorf("%w (state of version %d, this is %d)", ErrFoldVersion, f.FoldVersion, m.cfg.FoldVersion)
			m.op = OpBackoff
			return
		}
		m.fence, m.fresh = f, false
	}
	m.waits = nil
	m.op = OpReadMark
}

func (m *Machine) fail(err error) { m.halt, m.op = err, OpHalt }

func (m *Machine) readMark(r Result) {
	m.marked = false
	m.mark = Mark{LogID: m.cfg.LogID}
	if r.Commit >= 0 && r.Mark != "" {
		if mark, err := ParseMark(r.Mark); err == nil && mark.LogID == m.cfg.LogID {
			m.mark, m.marked = mark, mark.Silent == ""
		}
	}
	m.op = OpReadBounds
}

func (m *Machine) bounds(r Result) {
	m.start, m.end = r.Start, r.End
	if !m.fresh && m.fence.Next > m.end {
		m.fail(fmt.Errorf("%w (next %d, log end %d)", ErrPastEnd, m.fence.Next, m.end))
		return
	}
	if m.fresh && m.marked && m.mark.Offset > m.end {
		// The state is lost and the log's end, too: what is appended now would be
		// taken for what was published.
		m.fail(fmt.Errorf("%w (published up to %d, log end %d)", ErrPastEnd, m.mark.Offset, m.end))
		return
	}
	if !m.fresh && m.fence.Next > m.start && m.fence.Anchor != "" {
		m.op = OpReadAnchor
		return
	}
	if !m.fresh && m.fence.Anchor != "" {
		m.stats.Unverified++
	}
	m.choose()
}

func (m *Machine) anchor(r Result) {
	switch {
	case r.Range || len(r.Records) == 0 || r.Records[0].Offset != m.fence.Next-1:
		m.stats.Unverified++
	case Anchor(&r.Records[0]) != m.fence.Anchor:
		m.fail(fmt.Errorf("%w (offset %d)", ErrTruncated, m.fence.Next-1))
		return
	}
	m.choose()
}

// choose takes the producer of the claim: the next epoch of the one that fence
// and mark agree on, or a new one.
func (m *Machine) choose() {
	known := m.marked && !m.fresh && m.fence.ProducerID == m.mark.ProducerID && m.fence.ProducerID > 0
	epoch := max(m.fence.Epoch, m.mark.Epoch)
	if !known || epoch >= 32760 {
		m.op = OpNewProducer
		return
	}
	m.producer = Producer{ID: m.fence.ProducerID, Epoch: epoch + 1}
	m.claim()
}

func (m *Machine) claim() {
	m.claims++
	m.attempt = 0
	f := m.fence
	if m.fresh {
		f = Fence{Next: m.start, Low: m.start}
	}
	f.LogID, f.FoldVersion, f.Released = m.cfg.LogID, m.cfg.FoldVersion, false
	f.Nonce = m.seed + "-" + strconv.Itoa(m.claims)
	f.ProducerID, f.Epoch = m.producer.ID, m.producer.Epoch
	// Written with the claim, before the claim's own mark is committed: or the
	// next owner would take that for a mark.
	switch {
	case m.gap(f) && f.Voice.Word != WordSpeak:
		f.Voice = Voice{Silent: SilentGap}
	case !m.marked && !m.fresh && f.Anchor != "" && f.Voice.Silent == "" && !f.Voice.pending():
		// A state without a mark: what was published is not known. Where nothing
		// was ever folded (a first claim, or one that died before it committed
		// its mark), nothing was published.
		f.Voice = Voice{Silent: SilentUnmarked}
	case m.mark.Silent != "" && f.Voice.Silent == "" && !f.Voice.pending():
		// The store went back to before the silence, or lost everything.
		f.Voice = Voice{Silent: m.mark.Silent}
	}
	m.target = f
	m.write = Write{Base: m.armed, Target: f.String(), Wipe: m.fresh}
	m.op = OpClaim
}

// written judges an atomic write.
func (m *Machine) written(r Result, after Op) {
	switch r.Outcome {
	case Applied:
		m.armed = m.write.Target
		m.taken(after)
	case Lost:
		if r.Current == m.write.Target {
			m.armed = m.write.Target
			m.taken(after)
			return
		}
		m.rewind()
	case NotWritten, Ambiguous:
		if r.Outcome == Ambiguous {
			m.stats.Ambiguous++
		}
		m.after, m.op = after, OpArm
		m.attempt++
	case Refused:
		m.fail(fmt.Errorf("%w: %w", ErrRefused, r.Err))
	}
}

// taken goes on after a write that is known to be in the store.
func (m *Machine) taken(after Op) {
	m.attempt = 0
	m.fence = m.target
	if after == OpCommit {
		m.folder.Settled()
		if m.fence.Voice.Silent == "" {
			m.mark.Offset = max(m.mark.Offset, m.fence.Next)
		}
		m.stats.Batches++
	}
	m.op = after
}

func (m *Machine) load(r Result) {
	m.stats.Claims++
	if r.State.Fence != m.armed {
		// Somebody has claimed it meanwhile: folding old records into a newer
		// state would be noticed at the write only, after publishing.
		m.rewind()
		return
	}
	if err := m.folder.Restore(r.State, m.fence); err != nil {
		m.fail(fmt.Errorf("restore: %w", err))
		return
	}
	m.next, m.read = m.fence.Next, -1
	if m.fence.Low < m.fence.Next {
		m.read = m.fence.Low
	}
	if m.gap(m.fence) {
		m.stats.Gaps++
		m.stats.GapFrom, m.stats.GapTo = min(m.fence.Low, m.fence.Next), m.start
		if m.fence.Anchor == "" {
			m.stats.GapFrom = 0
		}
		if m.next <= m.start {
			m.next, m.read = m.start, -1
			m.folder.Gap(m.start)
		} else {
			m.read = m.start
		}
	}
	m.mark = m.fence.Voice.mark(m.mark)
	switch {
	case m.fence.Voice.Silent == "":
		m.mark.Silent = ""
		m.mark.Offset = max(m.mark.Offset, m.fence.Next) // published before it was applied
	case m.mark.Silent == "" && !m.marked:
		m.mark.Offset = m.fence.Next // where the silence begins
		fallthrough
	default:
		m.mark.Silent = m.fence.Voice.Silent
	}
	m.mark.ProducerID, m.mark.Epoch = m.producer.ID, m.producer.Epoch
	m.rest = nil
	m.op = OpCommitClaim
}

// gap tells whether the log has lost records that a state at f has not folded, or
// that wait. Where nothing was folded yet, all of the log's lost begin is missing.
func (m *Machine) gap(f Fence) bool {
	return f.Next < m.start || f.Anchor == "" && m.start > 0 || f.Low < f.Next && f.Low < m.start
}

func (m *Machine) fetched(r Result) {
	if m.stop { // also where what waits is being read again: the store has it all
		m.release()
		return
	}
	if r.Range {
		// Retention has overtaken the reader while it ran, or the log has lost
		// its end: the claim judges it.
		m.rewind()
		return
	}
	m.attempt = 0
	if m.read >= 0 {
		if err := m.folder.Reread(r.Records); err != nil {
			m.fail(err)
			return
		}
		if n := len(r.Records); n > 0 {
			m.read = r.Records[n-1].Offset + 1
		}
		if m.read >= m.next {
			m.read = -1
		}
		return
	}
	if len(r.Records) == 0 {
		if m.idle++; m.idle >= checkIdle {
			m.idle, m.after, m.op = 0, OpFetch, OpArm
		}
		return
	}
	m.idle = 0
	m.fold(r.Records)
}

func (m *Machine) fold(recs []record.Record) {
	b, rest, err := m.folder.Fold(recs)
	if err != nil {
		m.fail(fmt.Errorf("fold: %w", err))
		return
	}
	m.batch, m.rest = b, rest
	m.next = b.Next
	if m.fence.Voice.Silent != "" {
		m.stats.Silent += int64(len(b.Outs))
		m.batch.Outs = nil
	} else {
		m.quiet()
	}
	f := m.fence
	f.Next, f.Low, f.Anchor, f.KeyDone, f.Ordinal = b.Next, b.Low, b.Anchor, b.KeyDone, b.Ordinal
	f.Voice = f.Voice.taken() // the mark is committed
	m.target = f
	m.write = b.Write
	m.write.Base, m.write.Target = m.armed, f.String()
	m.op = OpApply
	if len(m.batch.Outs) > 0 {
		m.op = OpPublish
	}
}

// quiet leaves out what was published before the state went back.
func (m *Machine) quiet() {
	kept := m.batch.Outs[:0]
	for i, o := range m.batch.Outs {
		if m.batch.Offsets[i] < m.mark.Offset {
			m.stats.Silent++
			continue
		}
		kept = append(kept, o)
	}
	m.batch.Outs = kept
}

func (m *Machine) committed() {
	if len(m.rest) > 0 && !m.stop {
		m.fold(m.rest)
		return
	}
	if len(m.rest) > 0 && m.fence.KeyDone != "" {
		m.fold(m.rest) // a tick in parts is finished first
		return
	}
	m.rest = nil
	m.op = OpFetch
	if m.stop {
		m.release()
	}
}

func (m *Machine) release() {
	f := m.fence
	f.Released = true
	m.target = f
	m.write = Write{Base: m.armed, Target: f.String()}
	m.op = OpRelease
}
