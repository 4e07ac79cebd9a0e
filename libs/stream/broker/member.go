package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/findcoordinator"
)

// Errors of membership.
var (
	// ErrFenced: another process has joined with this one's instance id.
	ErrFenced = errors.New("another process has joined with the same instance id, and this one is out: every process needs an instance id of its own")
	// ErrRebalancing: a commit was not taken because members come or go; it may be
	// sent again.
	ErrRebalancing = errors.New("the group is being shared out anew")
	// ErrNotMember: nothing was sent, because there is no membership to send it
	// under.
	ErrNotMember = errors.New("not a member of the group at the moment")
)

// Codes of a group's coordinator.
const (
	errIllegalGeneration = kafka.Error(22)
	errUnknownMember     = kafka.Error(25)
	errBadSession        = kafka.Error(26)
	errRebalance         = kafka.Error(27)
	errMemberIDRequired  = kafka.Error(79)
	errFencedInstance    = kafka.Error(82)
)

// errAway says that no answer came.
var errAway = errors.New("the group's coordinator is away")

// away tells whether the coordinator is away, moves or still reads its log. The
// generation outlives that, and so do the workers.
func away(err error) bool {
	if code, ok := errors.AsType[kafka.Error](err); ok {
		return code == kafka.GroupLoadInProgress || code == kafka.GroupCoordinatorNotAvailable || code == kafka.NotCoordinatorForGroup
	}
	return errors.Is(err, errAway)
}

// eager is how often a member asks for the next round while one is known to
// follow.
const eager = 20 * time.Millisecond

// Member is this process's part in a consumer group of one topic. Only what
// moves from one member to another ever stops: everything else runs on while the
// group is shared out anew. That is safe because the store's fence, and not the
// group, decides who may write; the group decides who should.
//
// Where the client has an instance id the member is static: who is killed and back
// under that id within the session timeout gets the same partitions, and nobody
// else notices. Who ends in good order hands over, static or not: that takes less
// time than coming back.
type Member struct {
	client       *Client
	group, topic string
	log          *slog.Logger
	coordinator  atomic.Int32 // -1: not known

	mu   sync.Mutex
	term term

	// The rest belongs to the goroutine of Run.
	id         string // as the coordinator knows this member; "" before it does
	leaving    bool
	partitions int
	own        func(ctx context.Context, partition int32)
	share      share
	held       map[int32]*holding
	released   chan struct{} // 1: look which of them is done
	said       string        // the trouble that was logged last
}

// term is what commits are sent under.
type term struct {
	member     string
	generation int32
}

// holding is a partition in hand.
type holding struct {
	cancel  context.CancelFunc
	stopped bool
	done    chan struct{}
}

// NewMember returns a member that has not joined yet.
func (c *Client) NewMember(group, topic string, log *slog.Logger) *Member {
	m := &Member{
		client: c, group: group, topic: topic, log: log.With(slog.String("group", group)),
		held: map[int32]*holding{}, released: make(chan struct{}, 1),
	}
	m.coordinator.Store(-1)
	return m
}

// Run is a member until ctx ends. For each partition that it is given it calls
// own on a goroutine, with a context that ends when the partition has to be given
// up, which is a moment after ctx at the latest; the next owner gets it after own
// has returned, which it must not do before. Run returns nil after it has left, and ErrFenced where another
// process goes by this one's instance id. It is called once.
func (m *Member) Run(ctx context.Context, own func(ctx context.Context, partition int32)) error {
	n, err := m.client.Partitions(ctx, m.topic)
	if err != nil {
		return fmt.Errorf("join group %s: %w", m.group, err)
	}
	m.partitions, m.own = n, own
	err = m.serve(ctx)
	m.finish(context.WithoutCancel(ctx))
	return err
}

// finish hands over and leaves. Who leaves says so first, while its work goes on:
// then the others wait for what it releases, and take it over at once. Where that
// comes to nothing they learn of it when it has left.
func (m *Member) finish(ctx context.Context) {
	m.leaving = true
	if len(m.held) > 0 && m.id != "" {
		announcing, cancel := context.WithTimeout(ctx, announce+2*m.client.cfg.HeartbeatInterval)
		if err := m.join(announcing); err != nil {
			m.log.Debug("left without notice", slog.Any("err", err))
		}
		cancel()
	}
	m.share = share{}
	_ = m.stay(ctx) // what puts it out now changes nothing
	m.drop(ctx)
	m.leave(ctx)
}

// announce is how long the others may take to hear that a member is about to
// leave, beyond their heartbeats.
const announce = 500 * time.Millisecond

// serve joins and stays, again and again.
func (m *Member) serve(ctx context.Context) error {
	for failed := 0; ; {
		err := m.join(ctx)
		if err == nil {
			failed, m.said = 0, ""
			err = m.stay(ctx)
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // what was under way when it was told to end
		}
		code, _ := errors.AsType[kafka.Error](err)
		switch code {
		case errRebalance:
			continue
		case errIllegalGeneration, errUnknownMember:
			m.say("put out", err)
			m.enroll(term{}) // what is still to be committed is not waited for
			m.drop(ctx)
			if code == errUnknownMember {
				m.id = ""
			}
		case errFencedInstance:
			m.id = "" // the place is another's
			return fmt.Errorf("group %s, instance id %s: %w", m.group, m.client.cfg.InstanceID, ErrFenced)
		case errBadSession:
			return fmt.Errorf("join group %s: session timeout %v: %w (see the broker's group.min.session.timeout.ms and group.max.session.timeout.ms)", m.group, m.client.cfg.SessionTimeout, code)
		default:
			m.say("cannot join", err)
		}
		backoff(ctx, failed)
		failed++
	}
}

// say logs what goes wrong, once for as long as it does.
func (m *Member) say(what string, err error) {
	if text := what + err.Error(); m.said != text {
		m.said = text
		m.log.Warn("trouble with the group", slog.String("what", what), slog.Any("err", err))
	}
}

// join takes part in a round and keeps the share that came of it. What is in hand
// stays in hand meanwhile.
func (m *Member) join(ctx context.Context) error {
	joined, err := m.enter(ctx)
	if err != nil {
		return err
	}
	var shares map[string]share
	if joined.leader == m.id {
		shares = divide(m.group, joined.claims, m.partitions)
	}
	m.share, err = m.sync(ctx, joined.generation, shares)
	if err != nil {
		return err
	}
	m.enroll(term{member: m.id, generation: joined.generation})
	m.log.Debug("shared out", slog.Int("generation", int(joined.generation)), slog.Any("partitions", m.share.partitions), slog.Int("round", int(m.share.round)))
	return nil
}

// joined is what came of a JoinGroup.
type joined struct {
	generation int32
	leader     string
	claims     []claim // of all members, for the leader
}

// enter sends JoinGroup, until there is a member id.
func (m *Member) enter(ctx context.Context) (joined, error) {
	for {
		// Who gets an id and does not hear of it would leave a ghost, whom the others
		// wait for: the first answer comes at once and is waited for.
		asking, wait := ctx, m.client.cfg.RebalanceTimeout+requestTimeout
		if m.id == "" && m.client.cfg.InstanceID == "" {
			asking, wait = context.WithoutCancel(ctx), requestTimeout
		}
		r, err := m.ask(asking, protocol.JoinGroup, 5, wait, m.joinRequest())
		if err != nil {
			return joined{}, fmt.Errorf("join: %w", err)
		}
		r.int32() // throttled
		code := kafka.Error(r.int16())
		j := joined{generation: r.int32()}
		r.string() // protocol
		j.leader = r.string()
		id := r.string()
		for range r.count() {
			c := claim{member: r.string(), instance: r.string()}
			c.read(r.bytes(), m.topic)
			j.claims = append(j.claims, c)
		}
		if code == errMemberIDRequired && id != m.id {
			m.id = id
			continue
		}
		if err := m.judge(code, r); err != nil {
			return joined{}, fmt.Errorf("join: %w", err)
		}
		m.id = id
		return j, nil
	}
}

// strategy names the way of sharing out: all members of a group have to know it.
const strategy = "sillage-sticky"

func (m *Member) joinRequest() []byte {
	cfg := m.client.cfg
	c := claim{generation: -1, leaving: m.leaving}
	for p := range m.held {
		c.held = append(c.held, p)
	}
	slices.Sort(c.held)
	if t := m.current(); m.id != "" && t.member == m.id {
		c.generation = t.generation
	}
	b := appendString(nil, m.group)
	b = appendInt32(b, int32(cfg.SessionTimeout.Milliseconds()))
	b = appendInt32(b, int32(cfg.RebalanceTimeout.Milliseconds()))
	b = appendString(b, m.id)
	b = appendNullable(b, cfg.InstanceID)
	b = appendString(b, "consumer")
	b = appendInt32(b, 1)
	b = appendString(b, strategy)
	return appendBytes(b, subscription(m.topic, c))
}

// sync sends SyncGroup, the leader with everybody's share.
func (m *Member) sync(ctx context.Context, generation int32, shares map[string]share) (share, error) {
	b := m.appendSelf(appendString(nil, m.group), m.id, generation)
	b = appendInt32(b, int32(len(shares)))
	for id, s := range shares {
		b = appendString(b, id)
		b = appendBytes(b, assignment(m.topic, s))
	}
	r, err := m.ask(ctx, protocol.SyncGroup, 3, m.client.cfg.RebalanceTimeout+requestTimeout, b)
	if err != nil {
		return share{}, fmt.Errorf("sync: %w", err)
	}
	r.int32() // throttled
	code := kafka.Error(r.int16())
	data := r.bytes()
	if err := m.judge(code, r); err != nil {
		return share{}, fmt.Errorf("sync: %w", err)
	}
	s, err := parseShare(data, m.topic)
	if err != nil {
		return share{}, fmt.Errorf("sync: read the share: %w", err)
	}
	return s, nil
}

// appendSelf writes what the coordinator knows a member by.
func (m *Member) appendSelf(b []byte, id string, generation int32) []byte {
	b = appendInt32(b, generation)
	b = appendString(b, id)
	return appendNullable(b, m.client.cfg.InstanceID)
}

// stay works on the share until another round is due (errRebalance), the
// membership is over, or ctx is; who is leaving, until all is released.
func (m *Member) stay(ctx context.Context) error {
	beating, cancel := context.WithCancel(ctx)
	over := make(chan error, 1)
	soon := m.share.round != settled
	go func() {
		over <- m.beat(beating, soon)
		close(over)
	}()
	defer func() {
		cancel()
		for range over { // until it has ended
		}
	}()
	for {
		m.reconcile(ctx)
		switch {
		case m.leaving && len(m.held) == 0:
			return nil
		case m.share.round == awaited && m.nothingElse():
			return errRebalance
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.released:
		case err := <-over:
			return err
		}
	}
}

// reconcile starts work on what was given, and ends it on what was not.
func (m *Member) reconcile(ctx context.Context) {
	for p, h := range m.held {
		select {
		case <-h.done:
			h.cancel()
			delete(m.held, p)
		default:
			if !h.stopped && !m.share.has(p) {
				h.stopped = true
				h.cancel()
			}
		}
	}
	for _, p := range m.share.partitions {
		if m.held[p] != nil {
			continue // perhaps a former hold that ends first
		}
		// It ends when it is told to, not with ctx: then it can still be handed over.
		working, cancel := context.WithCancel(context.WithoutCancel(ctx))
		h := &holding{cancel: cancel, done: make(chan struct{})}
		m.held[p] = h
		go func() {
			m.own(working, p)
			<-working.Done()
			close(h.done)
			select {
			case m.released <- struct{}{}:
			default:
			}
		}()
	}
}

// nothingElse tells whether all that is in hand was given.
func (m *Member) nothingElse() bool {
	for p, h := range m.held {
		if h.stopped || !m.share.has(p) {
			return false
		}
	}
	return true
}

// drop ends all work and waits for it.
func (m *Member) drop(ctx context.Context) {
	m.share = share{}
	for m.reconcile(ctx); len(m.held) > 0; m.reconcile(ctx) {
		<-m.released
	}
}

// beat tells the coordinator that this member lives, until ctx ends or the
// coordinator says that the generation is over. Soon: another round is about to
// begin, and the moved partitions wait for everybody to notice.
func (m *Member) beat(ctx context.Context, soon bool) error {
	begun := time.Now()
	for said := false; ; {
		every := m.client.cfg.HeartbeatInterval
		if soon && time.Since(begun) < m.client.cfg.RebalanceTimeout {
			every = min(every, eager)
		}
		t := time.NewTimer(every)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		err := m.heartbeat(ctx)
		if err != nil && !away(err) {
			return err
		}
		if gone := err != nil && ctx.Err() == nil; gone != said {
			said = gone
			if gone {
				m.log.Warn("coordinator away: work goes on", slog.Any("err", err))
			}
		}
	}
}

func (m *Member) heartbeat(ctx context.Context) error {
	t := m.current()
	// An answer that does not come is asked for again before the session is over.
	wait := max(m.client.cfg.SessionTimeout/3, m.client.cfg.HeartbeatInterval)
	r, err := m.ask(ctx, protocol.Heartbeat, 3, wait, m.appendSelf(appendString(nil, m.group), t.member, t.generation))
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	r.int32() // throttled
	if err := m.judge(kafka.Error(r.int16()), r); err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	return nil
}

// leave lets the others have what this member held at once.
func (m *Member) leave(ctx context.Context) {
	if m.id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	b := appendString(nil, m.group)
	b = appendInt32(b, 1)
	b = appendString(b, m.id)
	b = appendNullable(b, m.client.cfg.InstanceID)
	var err error
	for n := 0; ; n++ {
		if err = m.sayLeft(ctx, b); err == nil || !away(err) || !backoff(ctx, n) {
			break
		}
	}
	if err != nil && !errors.Is(err, errUnknownMember) {
		m.log.Warn("could not leave: the others wait for the session timeout", slog.Any("err", err))
	}
}

func (m *Member) sayLeft(ctx context.Context, body []byte) error {
	r, err := m.ask(ctx, protocol.LeaveGroup, 3, requestTimeout, body)
	if err != nil {
		return err
	}
	r.int32() // throttled
	code := kafka.Error(r.int16())
	for range r.count() {
		r.string()
		r.string()
		if c := kafka.Error(r.int16()); code == 0 {
			code = c
		}
	}
	return m.judge(code, r)
}

func (m *Member) enroll(t term) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.term = t
}

// current is what commits and heartbeats are sent under.
func (m *Member) current() term {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.term
}

// Commit commits as this member. The coordinator takes it from the current
// generation alone: after ErrRebalancing it may be sent again, by whoever still
// owns the partitions. It is safe for concurrent use.
func (m *Member) Commit(ctx context.Context, offs map[int32]Committed) error {
	if len(offs) == 0 {
		return nil
	}
	// All attempts go out under one term: what a former owner has to say is refused,
	// however late it comes.
	t := m.current()
	if t.member == "" {
		return fmt.Errorf("commit for %s: %w", m.group, ErrNotMember)
	}
	b := m.appendSelf(appendString(nil, m.group), t.member, t.generation)
	b = appendInt32(b, 1)
	b = appendString(b, m.topic)
	b = appendInt32(b, int32(len(offs)))
	for p, at := range offs {
		b = appendInt32(b, p)
		b = appendInt64(b, at.Offset)
		b = appendInt32(b, -1) // leader epoch
		b = appendString(b, at.Metadata)
	}
	for n := 0; ; n++ {
		err := m.commit(ctx, b)
		if err == nil {
			return nil
		}
		if !away(err) || !backoff(ctx, n) {
			if errors.Is(err, errRebalance) || errors.Is(err, errIllegalGeneration) {
				err = fmt.Errorf("%w: %w", ErrRebalancing, err)
			}
			return fmt.Errorf("commit for %s: %w", m.group, err)
		}
	}
}

func (m *Member) commit(ctx context.Context, body []byte) error {
	r, err := m.ask(ctx, protocol.OffsetCommit, 7, requestTimeout, body)
	if err != nil {
		return err
	}
	r.int32() // throttled
	var errs []error
	for range r.count() {
		topic := r.string()
		for range r.count() {
			p, code := r.int32(), kafka.Error(r.int16())
			if code != 0 {
				errs = append(errs, fmt.Errorf("%s/%d: %w", topic, p, m.judge(code, r)))
			}
		}
	}
	if r.err != nil {
		return r.err
	}
	return errors.Join(errs...)
}

// ask sends a request to the group's coordinator, looking for it where it is not
// known.
func (m *Member) ask(ctx context.Context, key protocol.ApiKey, version int16, wait time.Duration, body []byte) (*reader, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	node := m.coordinator.Load()
	if node < 0 {
		var err error
		if node, err = m.find(ctx); err != nil {
			return nil, err
		}
		m.coordinator.Store(node)
	}
	e := &directed{exchange{key: key, version: version, client: m.client.cfg.ClientID, body: body}, node}
	if _, err := m.client.transport.RoundTrip(ctx, m.client.addr, e); err != nil {
		m.coordinator.CompareAndSwap(node, -1)
		return nil, fmt.Errorf("%w: %w", errAway, err)
	}
	return &reader{b: e.answer}, nil
}

func (m *Member) find(ctx context.Context) (int32, error) {
	res, err := m.client.roundTrip(ctx, &findcoordinator.Request{Key: m.group})
	if err != nil {
		return -1, fmt.Errorf("%w: %w", errAway, err)
	}
	r := res.(*findcoordinator.Response)
	if r.ErrorCode != 0 {
		return -1, kafka.Error(r.ErrorCode)
	}
	return r.NodeID, nil
}

// judge makes an error of a coordinator's code, and of an answer that could not
// be read.
func (m *Member) judge(code kafka.Error, r *reader) error {
	if r.err != nil {
		return r.err
	}
	if code == 0 {
		return nil
	}
	if code == kafka.GroupCoordinatorNotAvailable || code == kafka.NotCoordinatorForGroup {
		m.coordinator.Store(-1)
	}
	return code
}
