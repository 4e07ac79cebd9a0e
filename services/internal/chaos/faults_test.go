package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	"github.com/sillage-io/sillage/services/internal/lab"
)

// kind is a kind of fault.
type kind struct {
	name  string
	needs capability
	// does makes the fault and heals it; what came of it is measured from then on.
	does func(f *fault)
}

// fault is one fault being made.
type fault struct {
	*rig
	random *rand.Rand
	load   *load
	poison *poison
}

// between is a time at random.
func (f *fault) between(least, most time.Duration) time.Duration {
	return least + time.Duration(f.random.Int64N(int64(most-least)))
}

func (f *fault) wait(least, most time.Duration) { time.Sleep(f.between(least, most)) }

// someone is a process that folds.
func (f *fault) someone() *lab.Process {
	all := f.folding()
	return all[f.random.IntN(len(all))]
}

// node is a broker.
func (f *fault) node() int { return f.random.IntN(f.broker.Nodes()) }

// kinds are all faults of the random run. What ends in a halt or a gap is a
// scenario of its own.
func kinds() []kind {
	return []kind{
		// Processes.
		{"kill a service", 0, func(f *fault) { p := f.someone(); p.Kill(); p.Start() }},
		{"kill everything", 0, func(f *fault) {
			for _, p := range f.services {
				p.Kill()
			}
			for _, p := range f.services {
				p.Start()
			}
		}},
		{"kill the collector mid-request", 0, killMidRequest},
		{"kill while starting", 0, func(f *fault) {
			p := f.someone()
			for range 2 {
				p.Kill()
				p.Launch()
				f.wait(20*time.Millisecond, 900*time.Millisecond)
			}
			p.Kill()
			p.Start()
		}},
		{"another instance comes and goes", apart, func(f *fault) {
			p := f.another()
			p.Start()
			f.wait(0, 2*time.Second)
			p.Stop()
		}},
		{"another instance comes and is killed", apart, func(f *fault) {
			p := f.another()
			p.Start()
			f.wait(0, 2*time.Second)
			p.Kill()
		}},
		{"stop a service under load", 0, func(f *fault) { p := f.someone(); p.Stop(); p.Start() }},
		{"stop the collector under load", apart, func(f *fault) { p := f.taking(); p.Stop(); p.Start() }},
		{"freeze a service", 0, func(f *fault) {
			p := f.someone()
			p.Freeze()
			f.wait(300*time.Millisecond, 3*time.Second)
			p.Thaw()
		}},
		{"zombie: freeze a service beyond its session", 0, func(f *fault) {
			p := f.someone()
			p.Freeze()
			f.wait(sessionTimeout+500*time.Millisecond, sessionTimeout+2*time.Second)
			p.Thaw()
		}},
		{"stutter", 0, func(f *fault) {
			p := f.someone()
			for range 10 {
				p.Freeze()
				f.wait(20*time.Millisecond, 150*time.Millisecond)
				p.Thaw()
				f.wait(10*time.Millisecond, 80*time.Millisecond)
			}
		}},
		// The way to the collector.
		{"client: connections reset", 0, func(f *fault) { f.resets(f.front) }},
		{"client: slow connections", 0, func(f *fault) {
			f.trouble(f.front, lab.Trouble{Delay: f.between(20*time.Millisecond, 300*time.Millisecond)}, time.Second, 3*time.Second)
		}},
		{"client: answers eaten", 0, func(f *fault) { f.trouble(f.front, lab.Trouble{Eat: true}, 300*time.Millisecond, time.Second) }},
		{"client: requests cut", 0, func(f *fault) { f.trouble(f.front, lab.Trouble{Cut: true}, 300*time.Millisecond, time.Second) }},
		{"client: requests arrive late", 0, func(f *fault) {
			f.trouble(f.front, lab.Trouble{Late: f.between(50*time.Millisecond, 500*time.Millisecond)}, 300*time.Millisecond, time.Second)
		}},
		{"client: blackhole", 0, func(f *fault) { f.trouble(f.front, lab.Trouble{Hold: true}, time.Second, 4*time.Second) }},
		// What is sent.
		{"bad calls", 0, func(f *fault) { f.load.refuse(f.t.Context(), f.load.keys[0]) }},
		{"poison records", 0, func(f *fault) { f.poison.records(f) }},
		{"records twice in the log", 0, func(f *fault) { f.poison.twice(f) }},
		{"ticks of a wrong clock", 0, func(f *fault) { f.poison.ticks(f) }},
		{"the collector's clock jumps ahead", skewed, func(f *fault) {
			f.setClock(min(0, f.wrongBy+f.between(time.Minute, 30*time.Hour))) // never ahead of the broker's
		}},
		{"the collector's clock jumps back", skewed, func(f *fault) { f.setClock(f.wrongBy - f.between(time.Minute, 3*time.Hour)) }},
		// The embedded store: what bases on disk say.
		{"disk full", bases, func(f *fault) {
			p := f.someone()
			lab.DiskFull(f.t, p.Pid(), true)
			f.wait(500*time.Millisecond, 5*time.Second)
			lab.DiskFull(f.t, p.Pid(), false)
		}},
		{"store: newest bases lost", bases, func(f *fault) { f.offline(loseBases) }},
		{"store: all bases lost", bases, func(f *fault) { f.offline(func(f *fault) error { return os.RemoveAll(f.bases()) }) }},
		{"store: bases damaged", bases, func(f *fault) { f.offline(damageBases) }},
		{"store: older bases restored", bases, func(f *fault) { f.offline(restoreBases) }},
		// The broker.
		{"broker: stop and start", ownBroker, func(f *fault) { f.broker.Terminate(f.node()); f.broker.Start() }},
		{"broker: kill", ownBroker, func(f *fault) { f.broker.Kill(f.node()); f.broker.Start() }},
		{"broker: freeze", ownBroker, func(f *fault) {
			n := f.node()
			f.broker.Freeze(n)
			f.wait(500*time.Millisecond, 5*time.Second)
			f.broker.Thaw(n)
		}},
		{"broker: freeze beyond the session", ownBroker, func(f *fault) {
			n := f.node()
			f.broker.Freeze(n)
			f.wait(sessionTimeout+time.Second, sessionTimeout+4*time.Second)
			f.broker.Thaw(n)
		}},
		{"broker: connections reset", ownBroker, func(f *fault) { f.resets(f.toBroker[f.node()]) }},
		{"broker: slow connections", ownBroker, func(f *fault) {
			f.trouble(f.toBroker[f.node()], lab.Trouble{Delay: f.between(20*time.Millisecond, 200*time.Millisecond)}, time.Second, 4*time.Second)
		}},
		{"broker: answers eaten", ownBroker, func(f *fault) {
			f.trouble(f.toBroker[f.node()], lab.Trouble{Eat: true}, 300*time.Millisecond, 2*time.Second)
		}},
		{"broker: requests cut", ownBroker, func(f *fault) {
			f.trouble(f.toBroker[f.node()], lab.Trouble{Cut: true}, 300*time.Millisecond, 2*time.Second)
		}},
		{"broker: requests arrive late", ownBroker, func(f *fault) {
			f.trouble(f.toBroker[f.node()], lab.Trouble{Late: f.between(100*time.Millisecond, time.Second)}, 300*time.Millisecond, 2*time.Second)
		}},
		{"broker: blackhole", ownBroker, func(f *fault) { f.trouble(f.toBroker[f.node()], lab.Trouble{Hold: true}, time.Second, 12*time.Second) }},
		{"broker: refuses connections", ownBroker, func(f *fault) {
			p := f.toBroker[f.node()]
			p.Make(lab.Trouble{Refuse: true})
			p.Reset()
			f.wait(500*time.Millisecond, 3*time.Second)
			p.Make(lab.Trouble{})
		}},
		// Three brokers.
		{"broker: disk full", ownBroker, func(f *fault) {
			// A broker that cannot write ends by itself; it comes back with room.
			n := f.node()
			lab.DiskFull(f.t, f.broker.Pid(n), true)
			if !f.broker.Ends(n) {
				lab.DiskFull(f.t, f.broker.Pid(n), false)
			}
			f.broker.Start()
		}},
		{"brokers: leaders move", replicated, func(f *fault) {
			for range 3 {
				f.lead(int32(f.node() + 1))
				f.wait(200*time.Millisecond, time.Second)
			}
		}},
		{"brokers: kill the leader of all", replicated, func(f *fault) {
			n := f.node()
			f.lead(int32(n + 1))
			f.broker.Kill(n)
			f.wait(0, 3*time.Second)
			f.broker.Start()
		}},
		{"brokers: freeze the leader of all", replicated, func(f *fault) {
			n := f.node()
			f.lead(int32(n + 1))
			f.broker.Freeze(n)
			f.wait(5*time.Second, 10*time.Second)
			f.broker.Thaw(n)
		}},
		{"brokers: the leader of all cut off from the others", replicated, func(f *fault) {
			n := f.node()
			f.lead(int32(n + 1))
			f.trouble(f.toPeers[n], lab.Trouble{Hold: true}, time.Second, 12*time.Second)
		}},
		{"brokers: slow between them", replicated, func(f *fault) {
			f.trouble(f.toPeers[f.node()], lab.Trouble{Delay: f.between(20*time.Millisecond, 300*time.Millisecond)}, time.Second, 6*time.Second)
		}},
		{"brokers: connections between them reset", replicated, func(f *fault) { f.resets(f.toPeers[f.node()]) }},
		{"brokers: kill the controller", replicated, func(f *fault) {
			n, err := lab.Controller(f.kafka[0])
			if err != nil {
				f.must(err)
				return
			}
			f.broker.Kill(int(n - 1))
			f.wait(0, 3*time.Second)
			f.broker.Start()
		}},
		{"brokers: too few in sync", replicated, func(f *fault) {
			n := f.node()
			f.broker.Freeze(n)
			f.broker.Freeze((n + 1) % f.broker.Nodes())
			f.wait(time.Second, 6*time.Second)
			f.broker.Thaw(n)
			f.broker.Thaw((n + 1) % f.broker.Nodes())
		}},
		{"brokers: rolling restart", replicated, func(f *fault) {
			for n := range f.broker.Nodes() {
				f.broker.Terminate(n)
				f.broker.Start()
				f.must(f.whole())
			}
		}},
		// The store as a cluster.
		{"cluster: kill a master", clustered, func(f *fault) {
			m := f.master()
			m.Kill(0)
			f.wait(0, 5*time.Second) // a replica takes over, or it comes back first
			m.Start()
		}},
		{"cluster: kill a master, writes lost", clustered, func(f *fault) {
			m := f.master()
			var frozen []*lab.Server
			for _, n := range f.nodes { // who could take over has not got the last writes
				if n != m && !f.isMaster(n) {
					n.Freeze(0)
					frozen = append(frozen, n)
				}
			}
			f.wait(100*time.Millisecond, time.Second)
			m.Kill(0)
			for _, n := range frozen {
				n.Thaw(0)
			}
			f.wait(3*time.Second, 5*time.Second)
			m.Start()
		}},
		{"cluster: freeze a master until it is replaced", clustered, func(f *fault) {
			m := f.master()
			m.Freeze(0)
			f.wait(3*time.Second, 6*time.Second)
			m.Thaw(0)
		}},
		{"cluster: failover by hand", clustered, func(f *fault) { f.handOver("CLUSTER FAILOVER") }},
		{"cluster: takeover", clustered, func(f *fault) { f.handOver("CLUSTER FAILOVER TAKEOVER") }},
		{"cluster: kill all", clustered, func(f *fault) {
			for _, n := range f.nodes {
				n.Kill(0)
			}
			for _, n := range f.nodes {
				n.Start()
			}
		}},
		{"cluster: a master wiped", clustered, func(f *fault) { _, err := f.tell(f.master(), "FLUSHALL"); f.must(err) }},
		{"cluster: clients killed", clustered, func(f *fault) {
			for _, n := range f.nodes {
				_, err := f.tell(n, "CLIENT KILL TYPE normal SKIPME yes")
				f.must(err)
			}
		}},
		{"cluster: writes paused", clustered, func(f *fault) {
			d := f.between(300*time.Millisecond, 3*time.Second)
			_, err := f.tell(f.master(), fmt.Sprintf("CLIENT PAUSE %d WRITE", d.Milliseconds()))
			f.must(err)
			time.Sleep(d)
		}},
		// The store.
		{"store: kill", ownStore, func(f *fault) { f.store.Kill(0); f.store.Start() }},
		{"store: power loss", ownStore, func(f *fault) { f.store.Kill(0); f.must(cutTail(f)); f.store.Start() }},
		{"store: wiped", ownStore, func(f *fault) { f.order("FLUSHALL") }},
		{"store: older copy restored", ownStore, restoreCopy},
		{"store: replica promoted, writes lost", ownStore, func(f *fault) { f.failover(false) }},
		{"store: split brain", ownStore, func(f *fault) { f.failover(true) }},
		{"store: freeze", ownStore, func(f *fault) {
			f.store.Freeze(0)
			f.wait(300*time.Millisecond, 7*time.Second)
			f.store.Thaw(0)
		}},
		{"store: clients killed", ownStore, func(f *fault) {
			for range 5 {
				f.order("CLIENT KILL TYPE normal SKIPME yes")
				f.wait(20*time.Millisecond, 400*time.Millisecond)
			}
		}},
		{"store: writes paused", ownStore, func(f *fault) {
			d := f.between(300*time.Millisecond, 7*time.Second)
			f.order(fmt.Sprintf("CLIENT PAUSE %d WRITE", d.Milliseconds()))
			time.Sleep(d)
		}},
		{"store: demoted for a while", ownStore, func(f *fault) {
			f.order("REPLICAOF 127.0.0.1 1")
			f.wait(300*time.Millisecond, 3*time.Second)
			f.order("REPLICAOF NO ONE")
		}},
		{"store: too few replicas", ownStore, func(f *fault) {
			f.order("CONFIG SET min-replicas-to-write 2")
			f.wait(300*time.Millisecond, 3*time.Second)
			f.order("CONFIG SET min-replicas-to-write 0")
		}},
		{"store: credentials expired", ownStore, func(f *fault) {
			f.order("ACL SETUSER services resetpass >another")
			f.order("CLIENT KILL USER services")
			f.wait(500*time.Millisecond, 3*time.Second)
			f.order("ACL SETUSER services resetpass >" + storePassword)
		}},
		{"store: disk full", ownStore, func(f *fault) {
			lab.DiskFull(f.t, f.store.Pid(0), true)
			f.wait(500*time.Millisecond, 5*time.Second)
			lab.DiskFull(f.t, f.store.Pid(0), false)
		}},
		{"store: connections reset", ownStore, func(f *fault) { f.resets(f.toStore) }},
		{"store: slow connections", ownStore, func(f *fault) {
			f.trouble(f.toStore, lab.Trouble{Delay: f.between(10*time.Millisecond, 200*time.Millisecond)}, time.Second, 4*time.Second)
		}},
		{"store: answers eaten", ownStore, func(f *fault) { f.trouble(f.toStore, lab.Trouble{Eat: true}, 300*time.Millisecond, 2*time.Second) }},
		{"store: requests cut", ownStore, func(f *fault) { f.trouble(f.toStore, lab.Trouble{Cut: true}, 300*time.Millisecond, 2*time.Second) }},
		{"store: requests arrive late", ownStore, func(f *fault) {
			f.trouble(f.toStore, lab.Trouble{Late: f.between(50*time.Millisecond, 500*time.Millisecond)}, 300*time.Millisecond, 2*time.Second)
		}},
		{"store: blackhole", ownStore, func(f *fault) { f.trouble(f.toStore, lab.Trouble{Hold: true}, time.Second, 8*time.Second) }},
	}
}

// steady waits until the cluster of the store is whole: every replica follows.
func (r *rig) steady() error {
	for until := time.Now().Add(recoverWithin); ; time.Sleep(pollEvery) {
		wrong := ""
		for _, n := range r.nodes {
			state, err := r.tell(n, "CLUSTER INFO")
			role, err2 := r.tell(n, "ROLE")
			if err := errors.Join(err, err2); err != nil {
				wrong = err.Error()
			} else if !strings.Contains(state, "cluster_state:ok") || !strings.Contains(role, "master") && !strings.Contains(role, "connected") {
				wrong = fmt.Sprintf("%s: %q, %q", n.Addr, state, role)
			}
		}
		if wrong == "" {
			return nil
		}
		if time.Now().After(until) {
			return fmt.Errorf("the store's cluster is not whole: %s", wrong)
		}
	}
}

// lead lets one node lead all partitions of the topics in the middle.
func (f *fault) lead(node int32) {
	f.t.Helper()
	for _, topic := range []string{topics.Events, topics.Activity, topics.Supply} {
		f.must(lab.PreferLeader(f.kafka[0], topic, partitions, node, int32(f.broker.Nodes())))
	}
}

// whole waits until all replicas are in sync: with one more gone, nothing could
// be acknowledged.
func (r *rig) whole() error {
	until := time.Now().Add(recoverWithin)
	for {
		s, err := lab.Standing(r.kafka[0])
		if err == nil && s.Short == 0 && s.Unled == 0 && s.Partitions > 0 {
			return nil
		}
		if time.Now().After(until) {
			return fmt.Errorf("replicas are not in sync: %+v: %w", s, errOr(err))
		}
		time.Sleep(pollEvery)
	}
}

// trouble lets a proxy make trouble for a while. What is on its way when it ends
// is reset: a connection that was held up is not to be trusted to the end.
func (f *fault) trouble(p *lab.Proxy, t lab.Trouble, least, most time.Duration) {
	p.Make(t)
	f.wait(least, most)
	p.Make(lab.Trouble{})
}

func (f *fault) resets(p *lab.Proxy) {
	for range 5 {
		p.Reset()
		f.wait(10*time.Millisecond, 300*time.Millisecond)
	}
}

func (f *fault) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Errorf("the fault could not be made: %v", err)
	}
}

func (f *fault) order(command string) {
	f.t.Helper()
	f.must(f.say(command))
}

// killMidRequest kills the collector while large calls are under way.
func killMidRequest(f *fault) {
	p := f.taking()
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan struct{}, 1)
	go func() {
		defer close(done)
		body := []byte(`{"batch":[` + strings.Repeat(`{"type":"page","anonymousId":"mid-request","name":"Home"},`, 2000) + `{"type":"page","anonymousId":"mid-request"}]}`)
		_, _, _ = f.load.post(ctx, f.load.keys[0], body) // killed: that is the point
	}()
	f.wait(0, 30*time.Millisecond)
	p.Kill()
	cancel()
	<-done
	p.Start()
}

// another is a second instance of a service.
func (f *fault) another() *lab.Process {
	f.t.Helper()
	p := f.someone()
	return f.twin(p, p.Name())
}

func (f *fault) isMaster(n *lab.Server) bool {
	said, err := f.tell(n, "ROLE")
	return err == nil && strings.Contains(said, "master")
}

// master is one of the cluster.
func (f *fault) master() *lab.Server {
	for from := f.random.IntN(len(f.nodes)); ; from++ {
		if n := f.nodes[from%len(f.nodes)]; f.isMaster(n) {
			return n
		}
	}
}

// handOver tells a replica to take over. It says no while it has no master.
func (f *fault) handOver(command string) {
	from := f.random.IntN(len(f.nodes))
	for i := range f.nodes {
		n := f.nodes[(from+i)%len(f.nodes)]
		if !f.isMaster(n) {
			if _, err := f.tell(n, command); err == nil {
				return
			}
		}
	}
}

// failover promotes the replica, which has not got the last writes. In a split
// brain the old one takes writes, from whoever is connected to it, until somebody
// ends it.
func (f *fault) failover(split bool) {
	f.t.Helper()
	if err := f.inSync(); err != nil {
		f.must(err)
		return
	}
	if _, err := f.tell(f.replica, "REPLICAOF NO ONE"); err != nil {
		f.must(err)
		return
	}
	if !split {
		f.wait(50*time.Millisecond, time.Second) // what is written now is lost
		f.store.Kill(0)
	}
	f.toStore.Redirect(f.replica.Addr)
	f.beside.Redirect(f.replica.Addr)
	f.beside.Reset()
	if split {
		f.wait(300*time.Millisecond, 3*time.Second)
		f.store.Kill(0)
	}
	f.store, f.replica = f.replica, f.store
	f.replica.Start()
	f.follow()
}

func (f *fault) bases() string { return filepath.Join(f.data(), "bases") }

// offline does something to the files of the all-in-one process while it is down.
func (f *fault) offline(do func(*fault) error) {
	p := f.services[0]
	p.Kill()
	f.must(do(f))
	p.Start()
}

// newest are the newest files of each partition's bases.
func (f *fault) newest() ([]string, error) {
	dirs, err := os.ReadDir(f.bases())
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range dirs {
		files, err := filepath.Glob(filepath.Join(f.bases(), d.Name(), "*.base"))
		if err != nil {
			return nil, err
		}
		if len(files) > 0 {
			names = append(names, files[len(files)-1])
		}
	}
	return names, nil
}

func loseBases(f *fault) error {
	names, err := f.newest()
	for _, n := range names {
		if f.random.IntN(4) > 0 && err == nil {
			err = os.Remove(n)
		}
	}
	return err
}

func damageBases(f *fault) error {
	names, err := f.newest()
	if err != nil {
		return err
	}
	for _, n := range names {
		if f.random.IntN(2) == 0 {
			continue
		}
		data, err := os.ReadFile(n)
		if err != nil {
			return err
		}
		if f.random.IntN(2) == 0 {
			data = data[:f.random.IntN(len(data))]
		} else {
			data[f.random.IntN(len(data))] ^= 1 << f.random.IntN(8)
		}
		if err := os.WriteFile(n, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// restoreBases puts an older copy back, and takes the next one.
func restoreBases(f *fault) error {
	older := filepath.Join(f.dir, "older")
	if f.backup != "" {
		if err := os.RemoveAll(f.bases()); err != nil {
			return err
		}
		if err := os.CopyFS(f.bases(), os.DirFS(older)); err != nil {
			return err
		}
	}
	f.backup = older
	if err := os.RemoveAll(older); err != nil {
		return err
	}
	return os.CopyFS(older, os.DirFS(f.bases()))
}

// cutTail cuts off what the store had not written when the power went.
func cutTail(f *fault) error {
	files, err := filepath.Glob(filepath.Join(f.store.Dir, "appendonlydir", "*.incr.aof"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("find the store's log: %d files: %w", len(files), err)
	}
	name := files[len(files)-1]
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	cut := min(info.Size(), f.random.Int64N(300<<10))
	return os.Truncate(name, info.Size()-cut)
}

// restoreCopy puts an older copy of the store's files back, and takes the next
// one.
func restoreCopy(f *fault) {
	dir, older := filepath.Join(f.store.Dir, "appendonlydir"), filepath.Join(f.dir, "older")
	f.store.Kill(0)
	if f.backup != "" {
		f.must(os.RemoveAll(dir))
		f.must(os.CopyFS(dir, os.DirFS(older)))
	}
	f.backup = older
	f.must(os.RemoveAll(older))
	f.must(os.CopyFS(older, os.DirFS(dir)))
	f.store.Start()
}

// poison is what is put into the log past the collector.
type poison struct {
	dead, repeats, ticked int64
}

// append appends to a topic as nobody else does.
func (f *fault) append(outs ...record.Out) error {
	ctx, cancel := context.WithTimeout(f.t.Context(), recoverWithin)
	defer cancel()
	id, err := f.client.InitProducerID(ctx)
	if err != nil {
		return err
	}
	_, err = f.client.NewProducer(id).Produce(ctx, outs)
	return err
}

func header(name, value string) record.Header { return record.Header{Key: name, Value: []byte(value)} }

// records appends what cannot be decoded, and what nobody knows.
func (p *poison) records(f *fault) {
	event := []record.Header{header(record.HeaderType, step.TypeEvent), header(record.HeaderID, "poison"), header(record.HeaderShop, "shop-0")}
	big := make([]byte, 500<<10)
	for i := range big {
		big[i] = 0xff
	}
	dead := []record.Out{
		{Topic: topics.Events, Partition: record.ByKey, Key: []byte("shop-0/a:1"), Value: []byte("\xff\xff\xff"), Headers: event},
		{Topic: topics.Events, Partition: record.ByKey, Key: []byte("shop-0/a:2"), Value: big, Headers: event},
		{Topic: topics.Events, Partition: record.ByKey, Key: []byte("no shop"), Value: []byte("x"), Headers: event},
		{Topic: topics.Events, Partition: 0, Value: nil, Headers: event},
		{Topic: topics.Events, Partition: 1, Value: []byte("\x00"), Headers: []record.Header{header(record.HeaderType, step.TypeTick)}},
		{Topic: topics.Activity, Partition: record.ByKey, Key: []byte("shop-0/a:1"), Value: []byte("x"), Headers: []record.Header{header(record.HeaderType, topics.TypeActivity)}},
		{Topic: topics.Supply, Partition: record.ByKey, Key: []byte("shop-0/p:1"), Value: []byte("x"), Headers: []record.Header{header(record.HeaderType, topics.TypeSupply), header(record.HeaderPosition, "no/position")}},
	}
	unknown := []record.Out{
		{Topic: topics.Events, Partition: record.ByKey, Key: []byte("shop-0/a:1"), Value: []byte("x")},
		{Topic: topics.Events, Partition: record.ByKey, Key: []byte("shop-0/a:1"), Value: []byte("x"), Headers: []record.Header{header(record.HeaderType, "tomorrow.v9")}},
	}
	if err := f.append(append(dead, unknown...)...); err != nil {
		f.must(err)
		return
	}
	p.dead += int64(len(dead))
}

// twice appends records that stand in the log already once more, as a plain
// producer does that is not sure.
func (p *poison) twice(f *fault) {
	ctx, cancel := context.WithTimeout(f.t.Context(), recoverWithin)
	defer cancel()
	var outs []record.Out
	for i := range int32(partitions) {
		recs, err := f.tailOf(ctx, topics.Events, i, 40)
		if err != nil {
			f.must(err)
			return
		}
		for _, r := range recs {
			if string(r.Header(record.HeaderType)) == step.TypeEvent {
				outs = append(outs, record.Out{Topic: r.Topic, Partition: i, Key: r.Key, Value: r.Value, Headers: r.Headers})
			}
		}
	}
	if err := f.append(outs...); err != nil {
		f.must(err)
		return
	}
	p.repeats += int64(len(outs))
}

// ticks appends the time as a collector with a wrong clock would: hours behind,
// which changes nothing; a little ahead, which is believed; hours ahead, which is
// not.
func (p *poison) ticks(f *fault) {
	var outs []record.Out
	for _, off := range []time.Duration{-6 * time.Hour, 3 * time.Second, 9 * time.Hour, -time.Minute} {
		value, err := proto.Marshal(&eventv1.Tick{TimeUs: time.Now().Add(off).UnixMicro()})
		if err != nil {
			f.must(err)
			return
		}
		for i := range int32(partitions) {
			outs = append(outs, record.Out{Topic: topics.Events, Partition: i, Value: value, Headers: []record.Header{header(record.HeaderType, step.TypeTick), header(record.HeaderID, fmt.Sprintf("wrong-tick/%d/%d", p.ticked, off))}})
		}
	}
	if err := f.append(outs...); err != nil {
		f.must(err)
		return
	}
	p.ticked += int64(len(outs))
}
