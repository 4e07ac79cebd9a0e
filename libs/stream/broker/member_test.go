package broker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sillage-io/sillage/libs/stream/broker"
)

// wire is a process's way to the brokers, which can be cut or frozen.
type wire struct {
	mu     sync.Mutex
	open   map[*frozenConn]struct{}
	cut    bool
	thawed chan struct{} // closed while nothing is frozen
}

func newWire() *wire {
	w := &wire{open: map[*frozenConn]struct{}{}, thawed: make(chan struct{})}
	close(w.thawed)
	return w
}

func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return nil, errors.New("the wire is cut")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &frozenConn{Conn: conn, wire: w}
	w.open[c] = struct{}{}
	return c, nil
}

// sever cuts all connections and allows none.
func (w *wire) sever() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = true
	for c := range w.open {
		c.Conn.Close()
	}
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = false
}

// freeze stalls everything until thaw.
func (w *wire) freeze() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.thawed = make(chan struct{})
}

func (w *wire) thaw() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.thawed)
}

func (w *wire) wait() {
	w.mu.Lock()
	thawed := w.thawed
	w.mu.Unlock()
	<-thawed
}

type frozenConn struct {
	net.Conn
	wire *wire
}

func (c *frozenConn) Write(b []byte) (int, error) {
	c.wire.wait()
	return c.Conn.Write(b)
}

func (c *frozenConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.wire.wait()
	return n, err
}

func (c *frozenConn) Close() error {
	c.wire.mu.Lock()
	delete(c.wire.open, c)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}

// crew are the members of one group, with a board of who owns what.
type crew struct {
	t       *testing.T
	brokers []string
	group   string
	topic   string

	mu     sync.Mutex
	owners map[int32]string
	starts map[string]int // by "who/partition"
	shared []string       // partitions that two had at once
}

func newCrew(t *testing.T, brokers []string, partitions int) *crew {
	name := topic(t, connect(t, brokers), partitions)
	return &crew{t: t, brokers: brokers, group: "g." + name, topic: name, owners: map[int32]string{}, starts: map[string]int{}}
}

// fellow is one process of a crew.
type fellow struct {
	*broker.Member
	crew   *crew
	who    string
	wire   *wire
	client *broker.Client
	cancel context.CancelFunc
	ended  chan struct{}
	err    error
}

func (c *crew) config() broker.Config {
	cfg := broker.DefaultConfig()
	cfg.Brokers, cfg.SessionTimeout, cfg.HeartbeatInterval = c.brokers, 2*time.Second, 50*time.Millisecond
	return cfg
}

// join starts a process; instance is "" for a dynamic member.
func (c *crew) join(who, instance string) *fellow {
	c.t.Helper()
	cfg := c.config()
	f := &fellow{crew: c, who: who, wire: newWire(), ended: make(chan struct{})}
	cfg.InstanceID, cfg.Dial, cfg.ClientID = instance, f.wire.dial, who
	var err error
	if f.client, err = broker.New(cfg); err != nil {
		c.t.Fatal(err)
	}
	f.Member = f.client.NewMember(c.group, c.topic, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.t.Context()))
	f.cancel = cancel
	go func() {
		defer close(f.ended)
		f.err = f.Run(ctx, f.own)
	}()
	c.t.Cleanup(func() {
		f.stop()
		f.client.Close()
	})
	return f
}

func (f *fellow) own(ctx context.Context, partition int32) {
	c := f.crew
	c.mu.Lock()
	if other := c.owners[partition]; other != "" {
		c.shared = append(c.shared, fmt.Sprintf("%d by %s and %s", partition, other, f.who))
	}
	c.owners[partition] = f.who
	c.starts[fmt.Sprintf("%s/%d", f.who, partition)]++
	c.mu.Unlock()
	<-ctx.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owners[partition] == f.who {
		delete(c.owners, partition)
	}
}

// stop ends a process in good order.
func (f *fellow) stop() {
	f.cancel()
	<-f.ended
}

// kill ends a process as kill -9 does: nobody hears of it. What it owned is free.
func (f *fellow) kill() {
	f.wire.sever()
	f.stop()
	f.client.Close()
}

// wait waits until everybody has that many partitions, all in all every one.
func (c *crew) wait(counts map[string]int) {
	c.t.Helper()
	var got map[string]int
	for range 600 {
		got = map[string]int{}
		c.mu.Lock()
		for _, who := range c.owners {
			got[who]++
		}
		c.mu.Unlock()
		if maps.Equal(got, counts) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Fatalf("waited in vain for %v, there is %v", counts, got)
}

func (c *crew) of(who string) []int32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []int32
	for p, o := range c.owners {
		if o == who {
			all = append(all, p)
		}
	}
	slices.Sort(all)
	return all
}

// started is how often a member has begun to work on a partition, all in all.
func (c *crew) started(who string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p := range int32(64) {
		n += c.starts[fmt.Sprintf("%s/%d", who, p)]
	}
	return n
}

// clean checks that nobody got a partition before its owner had released it.
func (c *crew) clean() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.shared) > 0 {
		c.t.Errorf("owned by two at once: %v", c.shared)
	}
}

func TestMembersShareAndHandOver(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := newCrew(t, brokers, 6)
		a := c.join("a", "")
		c.wait(map[string]int{"a": 6})
		b := c.join("b", "")
		c.wait(map[string]int{"a": 3, "b": 3})
		d := c.join("d", "")
		c.wait(map[string]int{"a": 2, "b": 2, "d": 2})
		// What stayed with a member has never stopped.
		for who, want := range map[string]int{"a": 6, "b": 3, "d": 2} {
			if n := c.started(who); n != want {
				t.Errorf("%s has begun %d times, want %d", who, n, want)
			}
		}
		b.stop()
		c.wait(map[string]int{"a": 3, "d": 3})
		d.stop()
		c.wait(map[string]int{"a": 6})
		if n := c.started("a"); n != 10 {
			t.Errorf("a has begun 10 times, not %d: what it had has stopped", n)
		}
		a.stop()
		c.wait(map[string]int{})
		c.clean()
		for _, f := range []*fellow{a, b, d} {
			if f.err != nil {
				t.Errorf("%s: %v", f.who, f.err)
			}
		}
	})
}

// TestStaticMemberIsBackInItsPlace kills a member with an instance id. The
// embedded broker compares what a member said when it joined, too, and begins a
// new generation where it holds other partitions now; Apache Kafka does not.
func TestStaticMemberIsBackInItsPlace(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := newCrew(t, brokers, 6)
		a := c.join("a", "one")
		c.wait(map[string]int{"a": 6})
		b := c.join("b", "two")
		c.wait(map[string]int{"a": 3, "b": 3})
		had, generation := c.of("b"), a.Generation()
		for range 2 {
			b.kill()
			b = c.join("b", "two")
			c.wait(map[string]int{"a": 3, "b": 3})
			if d := cmp.Diff(had, c.of("b")); d != "" {
				t.Errorf("b has other partitions: %s", d)
			}
		}
		if n := c.started("a"); n != 6 {
			t.Errorf("a has begun %d times, want 6: it has stopped", n)
		}
		if real := filepath.Base(t.Name()) == "real"; real && (a.Generation() != generation || b.Generation() != generation) {
			t.Errorf("generations %d and %d, want %d", a.Generation(), b.Generation(), generation)
		}
		b.stop() // in good order: it is not waited for
		c.wait(map[string]int{"a": 6})
		a.stop()
		c.clean()
		if err := connect(t, brokers).Commit(t.Context(), c.group, c.topic, map[int32]broker.Committed{0: {Offset: 1}}); err != nil {
			t.Errorf("a commit when all have left: %v", err)
		}
	})
}

func TestInstanceIDOfTheHost(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := newCrew(t, brokers, 1)
		a := c.join("a", "hostname")
		c.wait(map[string]int{"a": 1})
		name, err := os.Hostname()
		if err != nil {
			t.Fatal(err)
		}
		b := c.join("b", name)
		<-a.ended
		if !errors.Is(a.err, broker.ErrFenced) {
			t.Errorf("a ended with %v, want ErrFenced: b has the name of this host", a.err)
		}
		c.wait(map[string]int{"b": 1})
		b.stop()
	})
}

func TestSecondProcessOfOneInstanceIDFencesTheFirst(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := newCrew(t, brokers, 2)
		a := c.join("a", "same")
		c.wait(map[string]int{"a": 2})
		b := c.join("b", "same")
		<-a.ended
		if !errors.Is(a.err, broker.ErrFenced) {
			t.Errorf("the first ended with %v, want ErrFenced", a.err)
		}
		if err := a.Commit(t.Context(), map[int32]broker.Committed{0: {Offset: 1}}); err == nil {
			t.Error("a commit of the first is taken")
		}
		c.wait(map[string]int{"b": 2})
		if err := b.Commit(t.Context(), map[int32]broker.Committed{0: {Offset: 2}}); err != nil {
			t.Error(err)
		}
		if err := connect(t, brokers).Commit(t.Context(), c.group, c.topic, map[int32]broker.Committed{0: {Offset: 3}}); !errors.Is(err, broker.ErrMembers) {
			t.Errorf("a commit from outside: %v, want ErrMembers", err)
		}
	})
}

func TestPartitionsOfAKilledMemberMove(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := newCrew(t, brokers, 4)
		c.join("a", "")
		c.wait(map[string]int{"a": 4})
		b := c.join("b", "")
		c.wait(map[string]int{"a": 2, "b": 2})
		b.kill()
		c.wait(map[string]int{"a": 4})
		if n := c.started("a"); n != 6 {
			t.Errorf("a has begun %d times, want 6: what it had has stopped", n)
		}
		c.clean()
	})
}

// TestFrozenMemberIsPutOut freezes a member for longer than a session: what it
// had to commit is refused when it wakes up, and then it is one of them again.
func TestFrozenMemberIsPutOut(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := newCrew(t, brokers, 4)
		a := c.join("a", "")
		c.wait(map[string]int{"a": 4})
		b := c.join("b", "")
		c.wait(map[string]int{"a": 2, "b": 2})
		mine := c.of("b")[0]
		if err := b.Commit(t.Context(), map[int32]broker.Committed{mine: {Offset: 5, Metadata: "b"}}); err != nil {
			t.Fatal(err)
		}
		b.wire.freeze()
		refused := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			refused <- b.Commit(ctx, map[int32]broker.Committed{mine: {Offset: 6, Metadata: "too late"}})
		}()
		// It does not know yet that all is a's.
		for range 600 {
			if len(c.of("a")) == 4 {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		for n := 0; ; n++ {
			err := a.Commit(t.Context(), map[int32]broker.Committed{mine: {Offset: 7, Metadata: "a"}})
			if err == nil {
				break
			}
			if n > 100 || !errors.Is(err, broker.ErrRebalancing) {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		b.wire.thaw()
		if err := <-refused; err == nil {
			t.Error("a commit of the frozen member is taken")
		}
		got, err := connect(t, brokers).Committed(t.Context(), c.group, c.topic)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(broker.Committed{Offset: 7, Metadata: "a"}, got[mine]); d != "" {
			t.Error(d)
		}
		c.wait(map[string]int{"a": 2, "b": 2})
	})
}

// TestCoordinatorThatIsAwayChangesNothing cuts a member off for a moment.
func TestCoordinatorThatIsAwayChangesNothing(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := newCrew(t, brokers, 4)
		a := c.join("a", "")
		c.wait(map[string]int{"a": 4})
		b := c.join("b", "")
		c.wait(map[string]int{"a": 2, "b": 2})
		generation := a.Generation()
		for range 3 {
			a.wire.sever()
			time.Sleep(400 * time.Millisecond) // several heartbeats
			a.wire.mend()
			time.Sleep(200 * time.Millisecond)
		}
		if err := a.Commit(t.Context(), map[int32]broker.Committed{0: {Offset: 1}}); err != nil {
			t.Error(err)
		}
		if a.Generation() != generation || b.Generation() != generation {
			t.Errorf("generations %d and %d, want %d", a.Generation(), b.Generation(), generation)
		}
		if n := c.started("a") + c.started("b"); n != 6 {
			t.Errorf("they have begun %d times, want 6", n)
		}
	})
}

// TestCoordinatorMoves lets another broker become the coordinator, which the old
// one answers for with "not coordinator".
func TestCoordinatorMoves(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.GroupMinSessionTimeout(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	c := newCrew(t, cluster.ListenAddrs(), 4)
	a := c.join("a", "")
	c.wait(map[string]int{"a": 4})
	generation := a.Generation()
	at := cluster.CoordinatorFor(c.group)
	for moved := 0; moved < 3; {
		cluster.RehashCoordinators()
		if now := cluster.CoordinatorFor(c.group); now != at {
			at = now
			moved++
		}
		for range 3 {
			if err := a.Commit(t.Context(), map[int32]broker.Committed{1: {Offset: int64(moved)}}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(150 * time.Millisecond) // some heartbeats
	}
	if a.Generation() != generation || c.started("a") != 4 {
		t.Errorf("generation %d after %d, %d begun", a.Generation(), generation, c.started("a"))
	}
	a.stop()
}

// TestEmbeddedBrokerIsBack stops the embedded broker and starts it again on its
// directory, as a restart of the process that holds it does.
func TestEmbeddedBrokerIsBack(t *testing.T) {
	dir := t.TempDir()
	start := func(ports ...int) *kfake.Cluster {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(ports...), kfake.DataDir(dir), kfake.GroupMinSessionTimeout(100*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		return cluster
	}
	cluster := start(0)
	_, port, err := net.SplitHostPort(cluster.ListenAddrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	c := newCrew(t, cluster.ListenAddrs(), 4)
	a, b := c.join("a", ""), c.join("b", "")
	c.wait(map[string]int{"a": 2, "b": 2})
	started := c.started("a") + c.started("b")
	cluster.Close()
	time.Sleep(300 * time.Millisecond)
	cluster = start(n)
	defer func() { cluster.Close() }()
	for _, f := range []*fellow{a, b} {
		for i := 0; ; i++ {
			err := f.Commit(t.Context(), map[int32]broker.Committed{c.of(f.who)[0]: {Offset: 1}})
			if err == nil {
				break
			}
			if i > 100 {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	if n := c.started("a") + c.started("b"); n != started {
		t.Errorf("they have begun %d times, want %d", n, started)
	}
	a.stop()
	b.stop()
}

// TestFreshClusterHasNoCoordinatorYet answers as a new cluster does.
func TestFreshClusterHasNoCoordinatorYet(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	var mu sync.Mutex
	asked, joins := 0, 0
	cluster.ControlKey(int16(kmsg.FindCoordinator), func(req kmsg.Request) (kmsg.Response, error, bool) {
		mu.Lock()
		defer mu.Unlock()
		if asked++; asked > 5 {
			return nil, nil, false
		}
		cluster.KeepControl()
		res := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
		res.ErrorCode, res.NodeID = 15, -1
		return res, nil, true
	})
	cluster.ControlKey(int16(kmsg.JoinGroup), func(req kmsg.Request) (kmsg.Response, error, bool) {
		mu.Lock()
		defer mu.Unlock()
		if joins++; joins > 2 {
			return nil, nil, false
		}
		cluster.KeepControl()
		res := req.ResponseKind().(*kmsg.JoinGroupResponse)
		res.ErrorCode = []int16{14, 16}[joins-1]
		return res, nil, true
	})
	c := newCrew(t, cluster.ListenAddrs(), 3)
	a := c.join("a", "")
	c.wait(map[string]int{"a": 3})
	a.stop()
	mu.Lock()
	defer mu.Unlock()
	if asked < 6 || joins < 3 {
		t.Errorf("asked %d times for the coordinator, and %d times to join", asked, joins)
	}
}

// TestMemberThatIsPutOutComesBack is told by the coordinator that its generation
// is over, and that it is not known: it stops, and begins again.
func TestMemberThatIsPutOutComesBack(t *testing.T) {
	for _, code := range []int16{22, 25} {
		t.Run(strconv.Itoa(int(code)), func(t *testing.T) {
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(100*time.Millisecond))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(cluster.Close)
			c := newCrew(t, cluster.ListenAddrs(), 3)
			a := c.join("a", "")
			c.wait(map[string]int{"a": 3})
			cluster.ControlKey(int16(kmsg.Heartbeat), func(req kmsg.Request) (kmsg.Response, error, bool) {
				res := req.ResponseKind().(*kmsg.HeartbeatResponse)
				res.ErrorCode = code
				return res, nil, true
			})
			for range 600 {
				if c.started("a") == 6 {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if n := c.started("a"); n != 6 {
				t.Errorf("a has begun %d times, want 6", n)
			}
			if err := a.Commit(t.Context(), map[int32]broker.Committed{0: {Offset: 1}}); err != nil {
				t.Error(err)
			}
			c.clean()
			a.stop()
		})
	}
}

// TestSessionTimeoutThatBrokersRefuseIsAnError and not a wait for ever.
func TestSessionTimeoutThatBrokersRefuseIsAnError(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		cfg := broker.DefaultConfig()
		cfg.Brokers, cfg.SessionTimeout, cfg.HeartbeatInterval = brokers, 20*time.Millisecond, 5*time.Millisecond
		client, err := broker.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		name := topic(t, client, 1)
		err = client.NewMember("g."+name, name, slog.New(slog.DiscardHandler)).Run(t.Context(), func(context.Context, int32) {
			t.Error("a partition was given")
		})
		if err == nil || !strings.Contains(err.Error(), "group.min.session.timeout.ms") {
			t.Errorf("%v, want an error that names the broker's setting", err)
		}
	})
}

// TestCommitBeforeAnyGenerationIsNotSent: it would be taken as an operator's.
func TestCommitBeforeAnyGenerationIsNotSent(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := newCrew(t, brokers, 1)
		client := connect(t, brokers)
		m := client.NewMember(c.group, c.topic, slog.New(slog.DiscardHandler))
		if err := m.Commit(t.Context(), map[int32]broker.Committed{0: {Offset: 1}}); !errors.Is(err, broker.ErrNotMember) {
			t.Errorf("%v, want ErrNotMember", err)
		}
		if got, err := client.Committed(t.Context(), c.group, c.topic); err != nil || len(got) > 0 {
			t.Errorf("committed %v, %v", got, err)
		}
	})
}
