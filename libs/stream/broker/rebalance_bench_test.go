package broker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
)

// What all members are told, ours and kafka-go's.
const (
	benchPartitions = 9
	benchSession    = 6 * time.Second
	benchHeartbeat  = 200 * time.Millisecond
	benchRebalance  = 5 * time.Second
	benchPace       = 25 * time.Millisecond // from one batch of a partition to the next
	benchBatches    = 2400                  // of a partition: for a minute
)

// BenchmarkRebalance measures the longest time without progress of a partition
// under steady load while members come, go, die and freeze, and while the broker
// restarts: of our members, of kafka-go's ConsumerGroup with the same timeouts at
// the same moments, and of readers without any group, which is what the server
// itself needs. It starts an Apache Kafka of its own, because it stops it.
func BenchmarkRebalance(b *testing.B) {
	if os.Getenv("SILLAGE_TEST_KAFKA") != "own" {
		b.Skip("SILLAGE_TEST_KAFKA is not own: no Apache Kafka that may be stopped")
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "longest time without progress, ms\tmember: moved\tstayed\tConsumerGroup: moved\tstayed\tno group\t\n")
	server := startServer(b)
	topic := server.fill(b)
	for i, c := range []struct {
		name    string
		members int
		wait    time.Duration // for the end of it
		do      func(each func(func(*groupRun)))
	}{
		{"nothing happens", 3, 2 * time.Second, func(func(func(*groupRun))) {}},
		{"a third joins", 2, 3 * time.Second, func(each func(func(*groupRun))) {
			each(func(g *groupRun) { g.start("new", "") })
		}},
		{"one of three leaves", 3, 3 * time.Second, func(each func(func(*groupRun))) {
			each(func(g *groupRun) { g.procs[2].stop() })
		}},
		{"deploy: a new one, 1 s later the old one leaves", 3, 3 * time.Second, func(each func(func(*groupRun))) {
			each(func(g *groupRun) { g.start("new", "") })
			time.Sleep(time.Second)
			each(func(g *groupRun) { g.procs[2].stop() })
		}},
		{"one is killed", 3, benchSession + 3*time.Second, func(each func(func(*groupRun))) {
			each(func(g *groupRun) { g.procs[2].kill() })
		}},
		{"a static one is killed and back 1 s later", 3, benchSession + 3*time.Second, func(each func(func(*groupRun))) {
			each(func(g *groupRun) { g.procs[2].kill() })
			time.Sleep(time.Second)
			each(func(g *groupRun) { g.start("back", g.procs[2].instance) })
		}},
		{"one is frozen for 9 s", 3, 4 * time.Second, func(each func(func(*groupRun))) {
			each(func(g *groupRun) { g.procs[2].wire.freeze() })
			time.Sleep(9 * time.Second)
			each(func(g *groupRun) { g.procs[2].wire.thaw() })
		}},
		{"the broker is stopped and started", 3, 10 * time.Second, func(func(func(*groupRun))) {
			server.command(b, "stop")
			server.command(b, "start")
		}},
		{"the broker is killed and started", 3, 12 * time.Second, func(func(func(*groupRun))) {
			server.kill(b)
			server.command(b, "start")
		}},
	} {
		own, other, alone := measure(b, server, topic, fmt.Sprintf("%s.%d", topic, i), c.members, strings.Contains(c.name, "static"), c.wait, c.do)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t\n", c.name, own.moved, own.stayed, other.moved, other.stayed, alone.stayed)
	}
	w.Flush()
	b.Logf("\n%s", table.String())
	b.ReportMetric(0, "ns/op")
}

// server is an Apache Kafka of the benchmark's own.
type server struct{ dir, addr, port string }

func startServer(b *testing.B) *server {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &server{dir: filepath.Join(b.TempDir(), "kafka"), addr: l.Addr().String()}
	l.Close()
	if _, s.port, err = net.SplitHostPort(s.addr); err != nil {
		b.Fatal(err)
	}
	s.command(b, "start")
	b.Cleanup(func() { s.command(b, "stop") })
	return s
}

func (s *server) command(b *testing.B, command string) {
	b.Helper()
	if out, err := exec.Command("../../../scripts/kafka", command, s.dir, s.port).CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", command, err, out)
	}
}

func (s *server) kill(b *testing.B) {
	b.Helper()
	name := filepath.Join(s.dir, "pid")
	data, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		b.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		b.Fatal(err)
	}
	if err := os.Remove(name); err != nil {
		b.Fatal(err)
	}
}

func (s *server) connect(b *testing.B) *broker.Client {
	b.Helper()
	cfg := broker.DefaultConfig()
	cfg.Brokers = []string{s.addr}
	client, err := broker.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	return client
}

// fill makes the log that is going to be read, and returns its topic.
func (s *server) fill(b *testing.B) string {
	b.Helper()
	client := s.connect(b)
	defer client.Close()
	const topic = "rebalance"
	if err := client.EnsureTopics(b.Context(), []broker.TopicSpec{{Name: topic, Partitions: benchPartitions, RetentionMS: -1}}); err != nil {
		b.Fatal(err)
	}
	id, err := client.InitProducerID(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	p := client.NewProducer(id)
	for range benchBatches {
		outs := make([]record.Out, benchPartitions)
		for i := range outs {
			outs[i] = record.Out{Topic: topic, Partition: int32(i), Value: []byte("0123456789")}
		}
		if _, err := p.Produce(b.Context(), outs); err != nil {
			b.Fatal(err)
		}
	}
	return topic
}

// progress is what has been applied of every partition, by whoever did it: the
// next offset, as a store keeps it, and the longest pause.
type progress struct {
	mu    sync.Mutex
	parts [benchPartitions]struct {
		next    int64
		at      time.Time
		longest time.Duration
		by      string
		moved   bool // it has changed hands
	}
}

func (p *progress) next(partition int32) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parts[partition].next
}

// apply takes records that follow what is there; others were applied before.
func (p *progress) apply(who string, partition int32, recs []record.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	part := &p.parts[partition]
	if len(recs) == 0 || recs[len(recs)-1].Offset < part.next {
		return
	}
	now := time.Now()
	if !part.at.IsZero() {
		part.longest = max(part.longest, now.Sub(part.at))
	}
	part.moved = part.moved || part.by != who
	part.next, part.at, part.by = recs[len(recs)-1].Offset+1, now, who
}

// begin forgets the pauses so far, and tells whether everything is under way.
func (p *progress) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.parts {
		part := &p.parts[i]
		if part.at.IsZero() || time.Since(part.at) > 200*time.Millisecond {
			return false
		}
		part.longest, part.moved = 0, false
	}
	return true
}

// pauses are the longest ones of partitions that changed hands, and of those that
// did not.
type pauses struct{ moved, stayed millis }

type millis time.Duration

func (m millis) String() string {
	if m == 0 {
		return "-"
	}
	return strconv.FormatInt(time.Duration(m).Milliseconds(), 10)
}

func (p *progress) pauses() pauses {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all pauses
	for i := range p.parts {
		part := &p.parts[i]
		longest := millis(max(part.longest, time.Since(part.at)))
		if part.moved {
			all.moved = max(all.moved, longest)
		} else {
			all.stayed = max(all.stayed, longest)
		}
	}
	return all
}

// groupRun is a group of our members, or of kafka-go's.
type groupRun struct {
	b     *testing.B
	addr  string
	topic string
	name  string
	theirs,
	static bool
	at    progress
	procs []*proc
}

// proc is one process of a group.
type proc struct {
	who, instance string
	wire          *wire
	stop          func()
}

func (p *proc) kill() {
	p.wire.sever()
	p.stop()
}

func (g *groupRun) start(who, instance string) {
	p := &proc{who: who, instance: instance, wire: newWire()}
	cfg := broker.DefaultConfig()
	cfg.Brokers, cfg.Dial, cfg.InstanceID = []string{g.addr}, p.wire.dial, instance
	cfg.SessionTimeout, cfg.HeartbeatInterval, cfg.RebalanceTimeout = benchSession, benchHeartbeat, benchRebalance
	client, err := broker.New(cfg)
	if err != nil {
		g.b.Error(err)
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(g.b.Context()))
	ended := make(chan struct{})
	own := func(ctx context.Context, partition int32) { g.work(ctx, client, who, partition) }
	go func() {
		defer close(ended)
		if g.theirs {
			g.consume(ctx, p, own)
			return
		}
		if err := client.NewMember(g.name, g.topic, slog.New(slog.DiscardHandler)).Run(ctx, own); err != nil {
			g.b.Error(err)
		}
	}()
	p.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
		client.Close()
	})
	g.procs = append(g.procs, p)
}

// work fetches and applies, one batch after the other at a steady pace: the log is
// there before, so that nobody waits for a producer.
func (g *groupRun) work(ctx context.Context, client *broker.Client, who string, partition int32) {
	for ctx.Err() == nil {
		got, err := client.Fetch(ctx, []broker.PartitionOffset{{Topic: g.topic, Partition: partition, Offset: g.at.next(partition)}}, 100*time.Millisecond, 1)
		if err == nil && got[0].Err == nil {
			g.at.apply(who, partition, got[0].Records)
		}
		select {
		case <-ctx.Done():
		case <-time.After(benchPace):
		}
	}
}

// consume is a member of kafka-go's.
func (g *groupRun) consume(ctx context.Context, p *proc, own func(context.Context, int32)) {
	group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: g.name, Brokers: []string{g.addr}, Topics: []string{g.topic}, Dialer: &kafka.Dialer{ClientID: p.who, DialFunc: p.wire.dial, Timeout: 3 * time.Second},
		HeartbeatInterval: benchHeartbeat, SessionTimeout: benchSession, RebalanceTimeout: benchRebalance, JoinGroupBackoff: 150 * time.Millisecond,
		Timeout: 5 * time.Second, StartOffset: kafka.FirstOffset,
	})
	if err != nil {
		g.b.Error(err)
		return
	}
	defer group.Close()
	for ctx.Err() == nil {
		generation, err := group.Next(ctx)
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, kafka.ErrGroupClosed) {
				time.Sleep(50 * time.Millisecond)
			}
			continue
		}
		for _, a := range generation.Assignments[g.topic] {
			generation.Start(func(over context.Context) {
				working, cancel := context.WithCancel(ctx)
				defer cancel()
				defer context.AfterFunc(over, cancel)()
				own(working, int32(a.ID))
				<-working.Done()
			})
		}
	}
}

// measure sets two groups to work on one topic, disturbs both, and says how long
// nothing was applied.
func measure(b *testing.B, s *server, topic, name string, members int, static bool, wait time.Duration, do func(each func(func(*groupRun)))) (own, other, alone pauses) {
	b.Helper()
	client := s.connect(b)
	defer client.Close()
	groups := []*groupRun{
		{b: b, addr: s.addr, topic: topic, name: name + ".own", static: static},
		{b: b, addr: s.addr, topic: topic, name: name + ".theirs", theirs: true},
	}
	ctx, cancel := context.WithCancel(b.Context())
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	single := &groupRun{b: b, addr: s.addr, topic: topic}
	for p := range int32(benchPartitions) {
		reading.Go(func() { single.work(ctx, client, "", p) })
	}
	for _, g := range groups {
		for i := range members {
			instance := ""
			if g.static {
				instance = "i" + strconv.Itoa(i)
			}
			g.start(strconv.Itoa(i), instance)
		}
		defer func() {
			for _, p := range g.procs {
				p.stop()
			}
		}()
	}
	time.Sleep(3 * time.Second)
	for n := 0; !groups[0].at.begin() || !groups[1].at.begin() || !single.at.begin(); n++ {
		if n > 600 {
			b.Fatal("not all partitions are under way")
		}
		time.Sleep(50 * time.Millisecond)
	}
	do(func(one func(*groupRun)) {
		var doing sync.WaitGroup
		for _, g := range groups {
			doing.Go(func() { one(g) })
		}
		doing.Wait()
	})
	time.Sleep(wait)
	return groups[0].at.pauses(), groups[1].at.pauses(), single.at.pauses()
}
