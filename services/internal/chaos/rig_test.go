package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	"github.com/sillage-io/sillage/services/churn"
	"github.com/sillage-io/sillage/services/internal/lab"
	"github.com/sillage-io/sillage/services/profile"
	"github.com/sillage-io/sillage/services/recommender"
	"github.com/sillage-io/sillage/services/restock"
)

// capability is what the parts of a system can do or keep. A fault names what it
// needs; the oracle asks what it may expect.
type capability uint

const (
	// allInOne: one process holds all services.
	allInOne capability = 1 << iota
	// apart: each service is a process of its own.
	apart
	// ownBroker: the broker is a process that can be killed by itself.
	ownBroker
	// ownStore: the store is a process that can be killed by itself.
	ownStore
	// bases: the store is what bases on disk say.
	bases
	// keepsProducers: the broker remembers what producers wrote over a kill -9, so
	// that no batch stands in the log twice. The embedded one does not.
	keepsProducers
	// replicated: three brokers.
	replicated
	// clustered: the store is a cluster of three masters with replicas.
	clustered
	// skewed: the collector's clock can be set.
	skewed
)

// partitions of the topics in all systems.
const partitions = 4

// secret is the key of profile ids.
const secret = "a secret of the chaos tests"

// sessionTimeout is how long a group waits for a member that does not answer.
const sessionTimeout = 6 * time.Second

// rig is a system under test, with everything that stands around it.
type rig struct {
	t    *testing.T
	name string
	can  capability
	dir  string // data, thrown away
	logs string // kept where the run fails

	services  []*lab.Process // the collector last, where it is apart
	admin     map[string]string
	collector string // host:port
	broker    *lab.Server
	store     *lab.Server
	replica   *lab.Server   // of the store
	nodes     []*lab.Server // of the store, where it is a cluster
	front     *lab.Proxy    // between senders and collector
	toBroker  []*lab.Proxy  // between services and each broker
	toPeers   []*lab.Proxy  // between each of several brokers and the others
	toStore   *lab.Proxy    // between services and store
	beside    *lab.Proxy    // the oracle's way to the store: never disturbed, redirected only
	kafka     []string      // the oracle's way to the broker
	redis     string
	client    *broker.Client
	state     *state.Store
	backup    string        // copy of the store's files, to restore
	wrongBy   time.Duration // the collector's clock
	ended     int           // times a process has ended by itself
}

func (r *rig) has(c capability) bool { return r.can&c == c }

// newEmbedded is the all-in-one process with its embedded broker and store.
func newEmbedded(t *testing.T, logs string) *rig {
	t.Helper()
	r := &rig{t: t, name: "embedded", can: allInOne | bases, dir: t.TempDir(), logs: logs, collector: lab.FreePort(t), redis: lab.FreePort(t), kafka: []string{lab.FreePort(t)}}
	admin := lab.FreePort(t)
	r.admin = map[string]string{"sillage": admin}
	r.services = []*lab.Process{lab.NewProcess(t, binaries, logs, "sillage", "up", "--data-dir", r.data(), "--identity-secret", secret, "--fsync",
		"--http.listen", r.collector, "--admin.listen", admin, "--grpc.listen", lab.FreePort(t), "--base-every", "2s",
		"--embedded-kafka", r.kafka[0], "--embedded-redis", r.redis)}
	r.connect()
	return r
}

// newReal is each service as a process of its own, on an Apache Kafka of one or
// more nodes and a Redis that writes what it is told to a file.
// The collector's clock can be set where it is the skewed one.
func newReal(t *testing.T, logs string, nodes int, more capability) *rig {
	t.Helper()
	r := &rig{
		t: t, name: "real", can: apart | ownBroker | keepsProducers | more, dir: t.TempDir(), logs: logs, collector: lab.FreePort(t), admin: map[string]string{},
		toStore: lab.NewProxy(t, ""), beside: lab.NewProxy(t, ""),
	}
	if nodes > 1 {
		r.name = "three"
		r.can |= replicated
	}
	if r.has(clustered) {
		r.name = "cluster"
	}
	for range nodes {
		r.toBroker = append(r.toBroker, lab.NewProxy(t, ""))
		if nodes > 1 {
			r.toPeers = append(r.toPeers, lab.NewProxy(t, ""))
		}
	}
	r.broker = lab.NewKafka(t, filepath.Join(r.dir, "kafka"), nodes, slices.Concat(r.toBroker, r.toPeers)...)
	r.broker.Start()
	r.kafka = strings.Split(r.broker.Addr, ",")
	store := []string{"--appendonly", "yes", "--appendfsync", "everysec", "--user", "services", "on", ">" + storePassword, "~*", "&*", "+@all"}
	var reach []string
	if r.has(clustered) {
		r.nodes = lab.NewCluster(t, filepath.Join(r.dir, "redis"), *flagStore, store...)
		var addrs []string
		for _, n := range r.nodes {
			addrs = append(addrs, n.Addr)
		}
		r.redis = strings.Join(addrs, ",")
		reach = []string{"--store.addrs", r.redis, "--store.cluster"}
	} else {
		r.can |= ownStore
		store = append([]string{"--repl-diskless-sync-delay", "0"}, store...)
		r.store, r.replica = lab.NewRedis(t, filepath.Join(r.dir, "redis"), *flagStore, store...), lab.NewRedis(t, filepath.Join(r.dir, "replica"), *flagStore, store...)
		r.store.Start()
		r.replica.Start()
		r.follow()
		r.toStore.Redirect(r.store.Addr)
		r.beside.Redirect(r.store.Addr)
		r.redis = r.beside.Addr
		reach = []string{"--store.addrs", r.toStore.Addr}
	}
	r.connect()
	r.run("topics", "apply", "--partitions", fmt.Sprint(partitions))
	var brokers []string
	for _, p := range r.toBroker {
		brokers = append(brokers, p.Addr)
	}
	for _, name := range []string{"profile", "recommender", "churn", "restock", "collector"} {
		command := name
		if name == "collector" && r.has(skewed) {
			command = "skewed"
		}
		r.admin[command] = lab.FreePort(t)
		args := []string{command, "--admin.listen", r.admin[command], "--grpc.listen", lab.FreePort(t), "--broker.brokers", strings.Join(brokers, ",")}
		if name == "collector" {
			args = append(args, "--http.listen", r.collector, "--keys-file", filepath.Join(r.data(), "keys.yaml"), "--shops-file", filepath.Join(r.data(), "shops.json"))
		} else {
			args = append(append(args, reach...), "--store.user", "services", "--store.password", storePassword, "--data-dir", filepath.Join(r.dir, name))
		}
		if command == "skewed" {
			args = append(args, "--clock-file", r.clockFile())
		}
		if *flagSeed%4 < 2 { // members that keep their place, in every other pair of runs
			args = append(args, "--broker.instance-id", "chaos-"+name)
		}
		if name != "collector" && name != "restock" {
			args = append(args, "--identity-secret", secret)
		}
		r.services = append(r.services, lab.NewProcess(t, binaries, logs, args...))
	}
	return r
}

// clockFile says by how much the collector's clock is wrong.
func (r *rig) clockFile() string { return filepath.Join(r.data(), "clock") }

// setClock sets the collector's clock, by how much it is wrong.
func (r *rig) setClock(off time.Duration) {
	r.t.Helper()
	tmp := r.clockFile() + ".new"
	if err := errors.Join(os.WriteFile(tmp, []byte(off.String()), 0o600), os.Rename(tmp, r.clockFile())); err != nil {
		r.t.Fatal(err)
	}
	r.wrongBy = off
}

// storePassword is what services prove themselves to the store with.
const storePassword = "chaos"

// data is the data directory.
func (r *rig) data() string { return filepath.Join(r.dir, "data") }

// connect opens the oracle's own ways to broker and store.
func (r *rig) connect() {
	r.t.Helper()
	if err := os.MkdirAll(r.data(), 0o755); err != nil {
		r.t.Fatal(err)
	}
	r.front = lab.NewProxy(r.t, r.collector)
	cfg := broker.DefaultConfig()
	cfg.Brokers = r.kafka
	var err error
	if r.client, err = broker.New(cfg); err != nil {
		r.t.Fatal(err)
	}
	store := state.DefaultConfig()
	store.Addrs, store.Cluster, store.Timeout = strings.Split(r.redis, ","), r.has(clustered), 2*time.Second
	if r.state, err = state.Open(store); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		r.client.Close()
		r.state.Close()
	})
}

// twin is another instance of a service, of the same binary or of another one.
func (r *rig) twin(p *lab.Process, command string) *lab.Process {
	r.t.Helper()
	return p.Twin(command, r.logs, "--broker.instance-id", "", "--admin.listen", lab.FreePort(r.t), "--grpc.listen", lab.FreePort(r.t), "--data-dir", r.t.TempDir())
}

// start starts all services.
func (r *rig) start() {
	r.t.Helper()
	for _, p := range r.services {
		p.Start()
	}
}

// stop stops all services, the collector first.
func (r *rig) stop() {
	r.t.Helper()
	for i := range r.services {
		r.services[len(r.services)-1-i].Stop()
	}
}

// folding are the processes that fold.
func (r *rig) folding() []*lab.Process {
	if r.has(apart) {
		return r.services[:len(r.services)-1]
	}
	return r.services
}

// taking is the process that takes events.
func (r *rig) taking() *lab.Process { return r.services[len(r.services)-1] }

// processors are all, with the settings that the services run with.
func processors() []stream.Processor {
	p, m, c := profile.DefaultConfig(), recommender.DefaultConfig(), churn.DefaultConfig()
	p.IdentitySecret, m.IdentitySecret, c.IdentitySecret = secret, secret, secret
	return slices.Concat([]stream.Processor{profile.Processor(p), recommender.Processor(m)}, churn.Processors(c), restock.Processors(restock.DefaultConfig()))
}

// command prepares a sub-command of sillage that talks with the system.
func (r *rig) command(ctx context.Context, args ...string) *exec.Cmd {
	kafka := strings.Join(r.kafka, ",")
	switch args[0] {
	case "key":
		args = append(args, "--data-dir", r.data())
	case "replay":
		args = append(args, "--collector", "http://"+r.front.Addr, "--data-dir", r.data())
		if r.has(allInOne) {
			args = append(args, "--admin", "http://"+r.admin["sillage"])
		} else {
			args = append(args, "--kafka", kafka, "--redis", r.redis)
		}
	case "topics", "tail":
		args = append(args, "--kafka", kafka)
	case "verify", "rebuild", "speak":
		args = append(args, "--kafka", kafka, "--redis", r.redis, "--identity-secret", secret, "--data-dir", r.data())
	}
	c := exec.CommandContext(ctx, filepath.Join(binaries, "sillage"), args...)
	c.Dir = r.dir
	return c
}

// run runs a sub-command and returns what it prints.
func (r *rig) run(args ...string) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Minute)
	defer cancel()
	c := r.command(ctx, args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		r.t.Fatalf("sillage %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

// at is how far a partition of a processor has come.
type at struct {
	tag       string
	topic     string
	partition int32
	next      int64
}

// positions reads from the store how far all have come; -1 where there is no
// state.
func (r *rig) positions(ctx context.Context) ([]at, error) {
	var all []at
	for _, p := range processors() {
		for i := range int32(partitions) {
			fence, err := r.state.Fence(ctx, p.Tag(i))
			if err != nil {
				return nil, err
			}
			a := at{tag: p.Tag(i), topic: p.Topic, partition: i, next: -1}
			if fence != "" {
				f, err := step.ParseFence(fence)
				if err != nil {
					return nil, err
				}
				a.next = f.Next
			}
			all = append(all, a)
		}
	}
	return all, nil
}

// readAll tells whether a topic without ticks holds nothing more.
func (r *rig) readAll(ctx context.Context, a at) bool {
	if t, ok := topics.Lookup(a.topic); !ok || t.Clock != "" {
		return false
	}
	_, end, err := r.client.Bounds(ctx, a.topic, a.partition)
	return err == nil && a.next >= end
}

// recovered waits until every partition of every processor has applied something
// again, and tells how long that took. Ticks come every second, so there is
// always something to apply; but where no ticks go, to the fitters: they may have
// read all there is.
func (r *rig) recovered(ctx context.Context, within time.Duration) (time.Duration, error) {
	began := time.Now()
	least := map[string]int64{}
	moved := map[string]bool{}
	var last error
	for time.Since(began) < within {
		if err := r.supervise(); err != nil {
			return 0, err
		}
		all, err := r.positions(ctx)
		if err != nil {
			last = err
			time.Sleep(pollEvery)
			continue
		}
		for _, a := range all {
			if n, ok := least[a.tag]; !ok || a.next < n {
				least[a.tag] = a.next // it may still be going back
			} else if a.next > n || !moved[a.tag] && r.readAll(ctx, a) {
				moved[a.tag] = true
			}
		}
		if len(moved) == len(all) {
			return time.Since(began), nil
		}
		time.Sleep(pollEvery)
	}
	var stuck []string
	for tag, n := range least {
		if !moved[tag] {
			stuck = append(stuck, fmt.Sprintf("%s at %d", tag, n))
		}
	}
	return 0, fmt.Errorf("no progress within %v of %v (%w)", within, stuck, errOr(last))
}

func errOr(err error) error {
	if err == nil {
		return errStuck
	}
	return err
}

var errStuck = fmt.Errorf("the store answers")

// pollEvery is how often progress is looked at; measured recoveries are no finer.
const pollEvery = 50 * time.Millisecond

// supervise starts what has ended by itself, as a scheduler would, and counts it.
func (r *rig) supervise() error {
	for _, p := range r.services {
		if p.Ended() {
			r.ended++
			if r.ended > 50 {
				return fmt.Errorf("%s ends by itself again and again: see %s", p.Name(), p.Log)
			}
			p.Start()
		}
	}
	return nil
}

// follow lets the replica follow the store.
func (r *rig) follow() {
	r.t.Helper()
	host, port, err := net.SplitHostPort(r.store.Addr)
	if err == nil {
		_, err = r.tell(r.replica, "REPLICAOF "+host+" "+port)
	}
	if err != nil {
		r.t.Errorf("let the replica follow: %v", err)
	}
}

// inSync waits until the replica has what the store has.
func (r *rig) inSync() error {
	for until := time.Now().Add(recoverWithin); ; time.Sleep(pollEvery) {
		said, err := r.tell(r.replica, "ROLE")
		if err == nil && strings.Contains(said, "connected") {
			return nil
		}
		if time.Now().After(until) {
			return fmt.Errorf("the replica does not follow: %q, %w", said, errOr(err))
		}
	}
}

// say sends the store a command, in place of an operator.
func (r *rig) say(command string) error {
	_, err := r.tell(r.store, command)
	return err
}

// tell sends a server of the store a command, and returns the answer as it comes.
// A server that has just started reads its files first.
func (r *rig) tell(server *lab.Server, command string) (answer string, err error) {
	for until := time.Now().Add(recoverWithin); ; time.Sleep(pollEvery) {
		answer, err = ask(server.Addr, command)
		if err == nil || !strings.Contains(err.Error(), "LOADING") || time.Now().After(until) {
			return answer, err
		}
	}
}

func ask(addr, command string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, 2*time.Second)
	if err != nil {
		return "", fmt.Errorf("tell the store %s: %w", command, err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(c, "%s\r\n", command); err != nil {
		return "", fmt.Errorf("tell the store %s: %w", command, err)
	}
	var b [1024]byte
	n, err := c.Read(b[:])
	if err != nil {
		return "", fmt.Errorf("tell the store %s: %w", command, err)
	}
	answer := string(b[:n])
	if strings.HasPrefix(answer, "-") {
		return "", fmt.Errorf("tell the store %s: %s", command, answer)
	}
	return answer, nil
}

// key makes a write key of a shop.
func (r *rig) key(kind, shop string) string {
	r.t.Helper()
	args := []string{"key", "add", kind}
	if shop != "" {
		args = append(args, shop)
	}
	return strings.TrimSpace(r.run(args...))
}

// halts are the partitions that the services' logs say have halted.
func (r *rig) halts() []string {
	var found []string
	for _, p := range r.services {
		data, err := os.ReadFile(p.Log)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(data) {
			if !bytes.Contains(line, []byte(`"msg":"halted"`)) {
				continue
			}
			var l struct {
				Processor string
				Partition int
				Reason    string
			}
			if json.Unmarshal(line, &l) == nil {
				found = append(found, fmt.Sprintf("%s/%d: %s", l.Processor, l.Partition, l.Reason))
			}
		}
	}
	return found
}
