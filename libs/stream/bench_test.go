package stream_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/embedded"
	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

// The figures of the whole step, one JSON line each: `make bench-stream`. Each
// benchmark loops by itself (-benchtime 1x). Settings, from the environment:
// SILLAGE_BENCH_EVENTS (3,000,000 on real servers, a tenth embedded),
// SILLAGE_BENCH_SECONDS (30, of the latency), and the process ids of broker and
// store for their CPU.

func setting(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// servers is where a benchmark runs.
type servers struct {
	place
	brokers             []string
	redis               string
	brokerPID, storePID int // 0: in this process
	events              int
}

func reach(b testing.TB, brokers []string, redis string) servers {
	b.Helper()
	bcfg, scfg := broker.DefaultConfig(), state.DefaultConfig()
	bcfg.Brokers, scfg.Addrs = brokers, []string{redis}
	bcfg.InstanceID = os.Getenv("SILLAGE_BENCH_INSTANCE")
	client, err := broker.New(bcfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(client.Close)
	store, err := state.Open(scfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { store.Close() })
	return servers{place: place{client: client, store: store}, brokers: brokers, redis: redis}
}

// onServers runs a benchmark on real servers where they are named, else on
// embedded ones, in this process.
func onServers(b *testing.B, run func(b *testing.B, on servers)) {
	b.Helper()
	kafka, redis := os.Getenv("SILLAGE_TEST_KAFKA"), os.Getenv("SILLAGE_TEST_REDIS")
	if kafka != "" && redis != "" {
		b.Run("real", func(b *testing.B) {
			on := reach(b, strings.Split(kafka, ","), redis)
			on.brokerPID, on.storePID = setting("SILLAGE_BENCH_KAFKA_PID", 0), setting("SILLAGE_BENCH_REDIS_PID", 0)
			on.events = setting("SILLAGE_BENCH_EVENTS", 3_000_000)
			run(b, on)
		})
		return
	}
	b.Run("embedded", func(b *testing.B) {
		back, err := embedded.Open(embedded.Config{Dir: b.TempDir(), KafkaAddr: "127.0.0.1:0", RedisAddr: "127.0.0.1:0"})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(back.Close)
		on := reach(b, back.Brokers, back.Redis)
		on.events = setting("SILLAGE_BENCH_EVENTS", 300_000)
		run(b, on)
	})
}

// say prints one figure.
func say(b *testing.B, figure string, values map[string]any) {
	b.Helper()
	values["figure"], values["on"] = figure, b.Name()
	line, err := json.Marshal(values)
	if err != nil {
		b.Fatal(err)
	}
	fmt.Println(string(line))
}

func rounded(v float64, digits int) float64 {
	p := math.Pow10(digits)
	return math.Round(v*p) / p
}

// cpu is the CPU time that processes have used.
type cpu struct{ processor, broker, store time.Duration }

func (s servers) cpu() cpu {
	return cpu{processor: usedBy(os.Getpid()), broker: usedBy(s.brokerPID), store: usedBy(s.storePID)}
}

// report puts CPU per event since before into values.
func (s servers) report(values map[string]any, before cpu, events int64) {
	now := s.cpu()
	each := func(name string, d time.Duration) {
		values[name+"_cpu_us_per_event"] = rounded(float64(d.Microseconds())/float64(events), 2)
	}
	each("processor", now.processor-before.processor)
	if s.brokerPID > 0 {
		each("broker", now.broker-before.broker)
		each("store", now.store-before.store)
	}
}

// usedBy is user and system time of a process, from /proc.
func usedBy(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if pid == 0 || err != nil {
		return 0
	}
	field := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+2:]))
	user, _ := strconv.Atoi(field[11])
	system, _ := strconv.Atoi(field[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func unique(what string) string {
	return "bench." + what + "." + strconv.FormatInt(time.Now().UnixNano(), 36)
}

func (s servers) topic(b testing.TB, name string) string {
	b.Helper()
	if err := s.client.EnsureTopics(b.Context(), []broker.TopicSpec{{Name: name, Partitions: benchPartitions, RetentionMS: -1}}); err != nil {
		b.Fatal(err)
	}
	return name
}

// preloaded is a topic with all events of the workload; it is filled once.
func (s servers) preloaded(b *testing.B) string {
	b.Helper()
	name := s.topic(b, "bench.in."+strconv.Itoa(s.events))
	if s.ends(b, name) == int64(s.events) {
		return name
	}
	if want := "606683994779e333ab87c9f5fd278178b2d42aac2c4b3e2e3d92b50139ecfae1"; s.events >= 1_000_000 {
		if got := workloadSum(1_000_000); got != want {
			b.Fatalf("SHA-256 of the first million events is %s, want %s", got, want)
		}
	}
	start := time.Now()
	w := newWorkload()
	s.append(b, s.events, func(i uint64) record.Out { return w.raw(name, i, benchStart+i*benchPeriod) })
	say(b, "load", map[string]any{"events": s.events, "events_per_s": math.Round(float64(s.events) / time.Since(start).Seconds())})
	return name
}

// append appends n records as one idempotent producer, the next ones being made
// while those before are under way.
func (s servers) append(b testing.TB, n int, at func(i uint64) record.Out) {
	b.Helper()
	id, err := s.client.InitProducerID(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	p := s.client.NewProducer(id)
	batches := make(chan []record.Out, 1)
	var sending sync.WaitGroup
	sending.Go(func() {
		for outs := range batches {
			if _, err := p.Produce(b.Context(), outs); err != nil {
				b.Error(err)
			}
		}
	})
	const many = 10_000
	for from := 0; from < n; from += many {
		outs := make([]record.Out, 0, many)
		for i := from; i < min(from+many, n); i++ {
			outs = append(outs, at(uint64(i)))
		}
		batches <- outs
	}
	close(batches)
	sending.Wait()
}

func (s servers) ends(b testing.TB, topic string) (sum int64) {
	b.Helper()
	for i := range int32(benchPartitions) {
		_, end, err := s.client.Bounds(b.Context(), topic, i)
		if err != nil {
			b.Fatal(err)
		}
		sum += end
	}
	return sum
}

// benchProcessor is the workload's processor from in to out, which counts in m.
func benchProcessor(name, in, out string, m *meter) stream.Processor {
	return stream.Processor{
		Name: name, Topic: in, Layout: state.PerKey, Order: step.OnArrival, Foreign: readRaw, Types: []string{benchType}, FoldVersion: 1, Outputs: []string{out},
		New: func(cfg step.Config) step.Folder {
			return step.NewPartition[shopper](cfg, shopping{out: out, meter: m, count: m.add()}, shopperCodec{})
		},
	}
}

// start runs a processor until the returned function is called.
func (s servers) start(b testing.TB, p stream.Processor) (r *stream.Runtime, stop func()) {
	b.Helper()
	r = stream.New(stream.DefaultConfig(), s.client, s.store, nil, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx, p); err != nil {
			b.Error(err)
		}
	})
	stop = func() { cancel(); running.Wait() }
	b.Cleanup(stop)
	return r, stop
}

// committed waits until the group has committed n records, and says when.
func (s servers) committed(b testing.TB, p stream.Processor, n int64) time.Time {
	b.Helper()
	for range 60_000 {
		offs, err := s.client.Committed(b.Context(), p.Group(), p.Topic)
		if err != nil {
			b.Fatal(err)
		}
		var sum int64
		for _, at := range offs {
			sum += at.Offset
		}
		if sum >= n {
			return time.Now()
		}
		time.Sleep(5 * time.Millisecond)
	}
	b.Fatalf("%s did not commit %d records", p.Name, n)
	return time.Time{}
}

// drain folds a topic of n records from its start, and says how fast.
func (s servers) drain(b *testing.B, p stream.Processor, m *meter, n int64) map[string]any {
	b.Helper()
	_, stop := s.start(b, p)
	defer stop()
	wait := func(for_ int64) (int64, time.Time) {
		for range 600_000 {
			if got, since := m.folded(); got >= for_ {
				return got, since
			}
			time.Sleep(time.Millisecond)
		}
		b.Fatalf("%s did not fold %d records", p.Name, for_)
		return 0, time.Time{}
	}
	_, began := wait(1)
	before := s.cpu()
	half, _ := wait(n / 2)
	halfAt, halfCPU := time.Now(), s.cpu()
	wait(n)
	end := s.committed(b, p, n)
	values := map[string]any{
		"events": n, "seconds": rounded(end.Sub(began).Seconds(), 2),
		"events_per_s":           math.Round(float64(n) / end.Sub(began).Seconds()),
		"last_half_events_per_s": math.Round(float64(n-half) / end.Sub(halfAt).Seconds()),
	}
	s.report(values, before, n)
	last := map[string]any{}
	s.report(last, halfCPU, n-half)
	for k, v := range last {
		values["last_half_"+k] = v
	}
	values["peak_rss_mb"] = peak()
	return values
}

// peak is the most memory that this process has had.
func peak() int {
	data, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.Atoi(strings.Fields(rest)[0])
			return kb / 1024
		}
	}
	return 0
}

// check compares what n events should leave with what is there.
func (s servers) check(b *testing.B, p stream.Processor, out string, n int64) {
	b.Helper()
	var total int64
	for i := range int32(benchPartitions) {
		held, err := s.store.Dump(b.Context(), p.Tag(i), p.Layout)
		if err != nil {
			b.Fatal(err)
		}
		for _, e := range held.Entities {
			if e.Key == step.MetaKey {
				continue
			}
			data, err := step.StateOf(e.Value)
			if err != nil {
				b.Fatal(err)
			}
			var u shopper
			if err := (shopperCodec{}).Unmarshal(data, &u); err != nil {
				b.Fatal(err)
			}
			total += int64(u.total)
		}
	}
	seen := map[uint64]int{}
	var doubled, repeated int
	ids := map[string]bool{}
	for i := range int32(benchPartitions) {
		s.each(b, out, i, func(r *record.Record) {
			if at := string(r.Header(record.HeaderPosition)); ids[at] {
				repeated++ // equal position: readers drop it
				return
			} else {
				ids[at] = true
			}
			id := binary.BigEndian.Uint64(r.Value)
			if seen[id]++; seen[id] > 1 {
				doubled++
			}
		})
	}
	want := (n + benchEvery - 1) / benchEvery
	if total != n || int64(len(seen)) != want || doubled > 0 {
		b.Errorf("%d events in state, want %d; %d follow-ups, want %d; %d doubled", total, n, len(seen), want, doubled)
	}
	say(b, "check", map[string]any{"processor": p.Name, "events_in_state": total, "events": n, "follow_ups": len(seen), "follow_ups_expected": want, "doubled": doubled, "repeats_with_equal_position": repeated})
}

// each hands over the records of a partition.
func (s servers) each(b testing.TB, topic string, partition int32, f func(*record.Record)) {
	b.Helper()
	at, end, err := s.client.Bounds(b.Context(), topic, partition)
	if err != nil {
		b.Fatal(err)
	}
	for at < end {
		got, err := s.client.Fetch(b.Context(), []broker.PartitionOffset{{Topic: topic, Partition: partition, Offset: at}}, time.Second, 1<<20)
		if err == nil {
			err = got[0].Err
		}
		if err != nil {
			b.Fatal(err)
		}
		for i := range got[0].Records {
			f(&got[0].Records[i])
		}
		at = got[0].Next
	}
}

func BenchmarkDrain(b *testing.B) {
	onServers(b, func(b *testing.B, on servers) {
		in := on.preloaded(b)
		for run := range 3 {
			m, out := &meter{}, on.topic(b, unique("out"))
			p := benchProcessor(unique("drain"), in, out, m)
			values := on.drain(b, p, m, int64(on.events))
			if run == 0 {
				say(b, "warm-up", values) // of the broker, mostly
				continue
			}
			values["run"] = run
			say(b, "drain", values)
			if run == 2 {
				on.check(b, p, out, int64(on.events))
				on.rebuild(b, p)
			}
		}
	})
}

// rebuild wipes the store and folds everything again, silently: nothing is
// published below the emission mark.
func (s servers) rebuild(b *testing.B, p stream.Processor) {
	b.Helper()
	c, err := net.Dial("tcp", s.redis)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "*1\r\n$8\r\nFLUSHALL\r\n"); err != nil {
		b.Fatal(err)
	}
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.HasPrefix(line, "+OK") {
		b.Fatalf("wipe the store: %q, %v", line, err)
	}
	said := s.ends(b, p.Outputs[0])
	m := &meter{}
	again := benchProcessor(p.Name, p.Topic, p.Outputs[0], m)
	_, stop := s.start(b, again)
	var before cpu
	for n := int64(0); n < int64(s.events); n, _ = m.folded() {
		if n == 0 {
			before = s.cpu()
		}
		time.Sleep(time.Millisecond)
	}
	_, began := m.folded()
	values := map[string]any{"events": s.events, "events_per_s": math.Round(float64(s.events) / time.Since(began).Seconds())}
	s.report(values, before, int64(s.events))
	stop()
	if now := s.ends(b, p.Outputs[0]); now != said {
		b.Errorf("%d records were published again", now-said)
	}
	say(b, "rebuild", values)
	s.check(b, again, p.Outputs[0], int64(s.events))
}

// BenchmarkWithProducer drains what another process appends at full speed on
// the same cores.
func BenchmarkWithProducer(b *testing.B) {
	onServers(b, func(b *testing.B, on servers) {
		in, out, m := on.topic(b, unique("live")), on.topic(b, unique("out")), &meter{}
		n := on.events / 2
		p := benchProcessor(unique("live"), in, out, m)
		done := on.child(b, "produce", "topic="+in, "events="+strconv.Itoa(n))
		values := on.drain(b, p, m, int64(n))
		for k, v := range done() {
			values["producer_"+k] = v
		}
		say(b, "with producer", values)
		on.check(b, p, out, int64(n))
	})
}

// BenchmarkLatency is the time from the moment an event was due, at 1,000 a
// second, to the arrival of its follow-up in another process.
func BenchmarkLatency(b *testing.B) {
	onServers(b, func(b *testing.B, on servers) {
		in, out, m := on.topic(b, unique("live")), on.topic(b, unique("out")), &meter{}
		p := benchProcessor(unique("latency"), in, out, m)
		_, stop := on.start(b, p)
		seconds := setting("SILLAGE_BENCH_SECONDS", 30)
		before := on.cpu()
		values := on.child(b, "meter", "in="+in, "out="+out, "rate=1000", "warm=10", "seconds="+strconv.Itoa(seconds+10))()
		on.report(values, before, int64(1000*(seconds+10)))
		on.committed(b, p, int64(1000*(seconds+10)))
		stop()
		say(b, "latency", values)
		on.check(b, p, out, int64(1000*(seconds+10)))
	})
}

// BenchmarkKill kills the processor with -9 and starts it again at once, under
// its stable name.
func BenchmarkKill(b *testing.B) {
	onServers(b, func(b *testing.B, on servers) {
		b.Setenv("SILLAGE_BENCH_INSTANCE", "bench")
		in, out := on.topic(b, unique("live")), on.topic(b, unique("out"))
		p := benchProcessor(unique("kill"), in, out, &meter{})
		args := []string{"in=" + in, "out=" + out, "name=" + p.Name}
		_, kill := on.spawn(b, "process", args...)
		measured := on.child(b, "meter", "in="+in, "out="+out, "rate=1000", "warm=5", "seconds=40")
		time.Sleep(20 * time.Second)
		kill()
		_, kill = on.spawn(b, "process", args...)
		values := measured()
		on.committed(b, p, 40_000)
		kill()
		say(b, "kill", values)
		on.check(b, p, out, 40_000)
	})
}

// BenchmarkTimeOrder drains the same derived records by a processor that folds
// on arrival and one that folds in order of time.
func BenchmarkTimeOrder(b *testing.B) {
	onServers(b, func(b *testing.B, on servers) {
		rounds := max(1, on.events/3/roundEvents)
		events := int64(rounds * roundEvents)
		total := rounds*roundRecords + roundTicks
		in, w := on.topic(b, unique("derived")), newWorkload()
		on.append(b, total, func(i uint64) record.Out { return derived(w, in, i) })
		type cost struct{ rate, cpu float64 }
		best := map[step.Order]cost{}
		for run := range 3 {
			for _, order := range []step.Order{step.OnArrival, step.InTimeOrder} {
				m, out := &meter{}, on.topic(b, unique("out"))
				p := benchProcessor(unique("order"), in, out, m)
				p.Foreign, p.Order = nil, order
				_, stop := on.start(b, p)
				var began time.Time
				var before cpu
				for began.IsZero() {
					before = on.cpu()
					time.Sleep(time.Millisecond)
					_, began = m.folded()
				}
				end := on.committed(b, p, int64(total))
				values := map[string]any{"in_time_order": order == step.InTimeOrder, "run": run, "events": events}
				on.report(values, before, events)
				stop()
				c := cost{float64(events) / end.Sub(began).Seconds(), values["processor_cpu_us_per_event"].(float64)}
				values["events_per_s"] = math.Round(c.rate)
				if folded, _ := m.folded(); folded != events {
					b.Errorf("%d events were folded, want %d", folded, events)
				}
				say(b, "order", values)
				if c.rate > best[order].rate {
					best[order] = c
				}
			}
		}
		arrival, ordered := best[step.OnArrival], best[step.InTimeOrder]
		say(b, "order ratio", map[string]any{"time": rounded(arrival.rate/ordered.rate, 2), "processor_cpu": rounded(ordered.cpu/arrival.cpu, 2)})
	})
}

// Derived records come in rounds: a tick from each source for each partition,
// then events.
const (
	roundTicks   = benchPartitions * benchPartitions
	roundEvents  = 2000
	roundRecords = roundTicks + roundEvents
)

// derived is record i of a topic that is derived from as many partitions as it
// has.
func derived(w *workload, topic string, i uint64) record.Out {
	round, nth := i/roundRecords, i%roundRecords
	now := benchStart + round*roundEvents*benchPeriod
	headers := func(kind string, source, offset, ordinal, effective uint64) []record.Header {
		return []record.Header{
			{Key: record.HeaderID, Value: strconv.AppendUint(nil, i, 10)},
			{Key: record.HeaderType, Value: []byte(kind)},
			{Key: record.HeaderTime, Value: strconv.AppendUint(nil, effective/1000, 10)},
			{Key: record.HeaderEffective, Value: strconv.AppendUint(nil, effective, 10)},
			{Key: record.HeaderPosition, Value: fmt.Appendf(nil, "Zm9vYmFyYmF6cXV4/3f9c1f6e5d4c4b3a/%d/%d/%d", source, offset, ordinal)},
		}
	}
	if nth < roundTicks {
		value, err := proto.Marshal(&eventv1.Tick{TimeUs: int64(now)})
		if err != nil {
			panic(err)
		}
		source, to := nth/benchPartitions, nth%benchPartitions
		return record.Out{Topic: topic, Partition: int32(to), Value: value, Headers: headers(step.TypeTick, source, 2*round, to, now)}
	}
	nth -= roundTicks
	us := now + nth*benchPeriod
	b := make([]byte, benchEvent)
	user := w.event(b, round*roundEvents+nth, us)
	p := user % benchPartitions
	return record.Out{Topic: topic, Partition: int32(p), Key: appendUser(nil, user), Value: b, Headers: headers(benchType, p, 2*round+1, nth, us)}
}

// BenchmarkClaim claims a partition of 15,625 entities from the store.
func BenchmarkClaim(b *testing.B) {
	onServers(b, func(b *testing.B, on servers) {
		for _, layout := range []state.Layout{state.Buckets, state.PerKey} {
			const entities = 15_625
			tag := unique("claim")
			part := on.store.Partition(tag, layout)
			cfg := step.Config{Processor: "bench", Topic: "bench", LogID: "log", FoldVersion: 1, Sources: 1, Types: []string{benchType}}
			w := step.Write{Target: step.Fence{LogID: "log", FoldVersion: 1}.String(), Wipe: true}
			for i := range uint64(entities) {
				value := append([]byte{1, 0, 0}, shopperCodec{}.Append(nil, &shopper{total: uint32(i)})...)
				w.Entities = append(w.Entities, step.Entity{Key: string(appendUser(nil, i+1)), Value: value})
			}
			if _, err := part.Arm(b.Context()); err != nil {
				b.Fatal(err)
			}
			if o, _, err := part.Apply(b.Context(), w); o != step.Applied {
				b.Fatal(o, err)
			}
			part.Close()
			var all []float64
			for n := range 11 {
				folder := step.NewPartition[shopper](cfg, shopping{meter: &meter{}, count: (&meter{}).add()}, shopperCodec{})
				start := time.Now()
				part := on.store.Partition(tag, layout)
				base, err := part.Arm(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				f, err := step.ParseFence(base)
				if err != nil {
					b.Fatal(err)
				}
				f.Nonce = strconv.Itoa(n)
				if o, _, err := part.Apply(b.Context(), step.Write{Base: base, Target: f.String()}); o != step.Applied {
					b.Fatal(o, err)
				}
				st, err := part.Load(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				if err := folder.Restore(st, f); err != nil {
					b.Fatal(err)
				}
				took := time.Since(start)
				if got := folder.Status().Entities; got != entities {
					b.Fatalf("%d entities, want %d", got, entities)
				}
				part.Close()
				all = append(all, float64(took.Microseconds())/1000)
			}
			slices.Sort(all)
			say(b, "cold claim", map[string]any{"layout": map[state.Layout]string{state.Buckets: "buckets", state.PerKey: "per key"}[layout], "entities": entities, "median_ms": rounded(all[len(all)/2], 1), "max_ms": rounded(all[len(all)-1], 1)})
		}
	})
}

// spawn starts this binary again in a role, and returns its output and what
// ends it with kill -9.
func (s servers) spawn(b *testing.B, role string, args ...string) (out io.Reader, kill func()) {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.CommandContext(b.Context(), self, "-test.run=^$", "-test.bench=^BenchmarkRole$", "-test.benchtime=1x")
	cmd.Env = append(os.Environ(), "SILLAGE_BENCH_ROLE="+role, "SILLAGE_BENCH_ARGS="+strings.Join(args, " "),
		"SILLAGE_BENCH_BROKERS="+strings.Join(s.brokers, ","), "SILLAGE_BENCH_STORE="+s.redis)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	var once sync.Once
	kill = func() {
		once.Do(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
	b.Cleanup(kill)
	return pipe, kill
}

// child starts this binary in a role that prints one JSON line at its end.
func (s servers) child(b *testing.B, role string, args ...string) (result func() map[string]any) {
	b.Helper()
	out, kill := s.spawn(b, role, args...)
	return func() map[string]any {
		data, err := io.ReadAll(out)
		kill()
		for line := range strings.Lines(string(data)) {
			values := map[string]any{}
			if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &values) == nil {
				return values
			}
		}
		b.Fatalf("%s said %q: %v", role, data, err)
		return nil
	}
}

// BenchmarkRole is what this binary does when a benchmark has started it again.
func BenchmarkRole(b *testing.B) {
	role, arg := os.Getenv("SILLAGE_BENCH_ROLE"), map[string]string{}
	if role == "" {
		b.Skip("a process that the other benchmarks start")
	}
	for a := range strings.FieldsSeq(os.Getenv("SILLAGE_BENCH_ARGS")) {
		k, v, _ := strings.Cut(a, "=")
		arg[k] = v
	}
	number := func(name string) int {
		n, err := strconv.Atoi(arg[name])
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	on := reach(b, strings.Split(os.Getenv("SILLAGE_BENCH_BROKERS"), ","), os.Getenv("SILLAGE_BENCH_STORE"))
	values := map[string]any{}
	switch role {
	case "produce":
		w, n, start := newWorkload(), number("events"), time.Now()
		on.append(b, n, func(i uint64) record.Out { return w.raw(arg["topic"], i, benchStart+i*benchPeriod) })
		values["events_per_s"] = math.Round(float64(n) / time.Since(start).Seconds())
		values["cpu_us_per_event"] = rounded(float64(usedBy(os.Getpid()).Microseconds())/float64(n), 2)
	case "meter":
		values = on.measure(b, arg["in"], arg["out"], number("rate"), number("seconds"), number("warm"))
	case "process":
		on.start(b, benchProcessor(arg["name"], arg["in"], arg["out"], &meter{}))
		select {} // until it is killed
	}
	line, err := json.Marshal(values)
	if err != nil {
		b.Fatal(err)
	}
	fmt.Printf("\n%s\n", line)
}

// measure appends rate events a second, each stamped with the moment it was due,
// and times their follow-ups. The first seconds do not count.
func (s servers) measure(b *testing.B, in, out string, rate, seconds, warm int) map[string]any {
	b.Helper()
	n := rate * seconds
	begin := time.Now().Add(200 * time.Millisecond)
	var sending sync.WaitGroup
	sending.Go(func() {
		id, err := s.client.InitProducerID(b.Context())
		if err != nil {
			b.Error(err)
			return
		}
		p, w := s.client.NewProducer(id), newWorkload()
		for i := 0; i < n; {
			due := int(time.Since(begin).Seconds()*float64(rate)) + 1
			var outs []record.Out
			for ; i < min(due, n); i++ {
				at := begin.Add(time.Duration(i) * time.Second / time.Duration(rate))
				outs = append(outs, w.raw(in, uint64(i), uint64(at.UnixMicro())))
			}
			if len(outs) == 0 {
				time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))))
				continue
			}
			if _, err := p.Produce(b.Context(), outs); err != nil {
				b.Error(err)
				return
			}
		}
	})
	wants := make([]broker.PartitionOffset, benchPartitions)
	for i := range wants {
		wants[i] = broker.PartitionOffset{Topic: out, Partition: int32(i)}
	}
	seen := map[uint64]bool{}
	var all []float64
	last, silence, silenceAt := begin, time.Duration(0), 0.0
	for deadline := begin.Add(time.Duration(seconds+60) * time.Second); len(seen) < (n+benchEvery-1)/benchEvery && time.Now().Before(deadline); {
		got, err := s.client.Fetch(b.Context(), wants, 500*time.Millisecond, 1<<20)
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		now := time.Now()
		for _, f := range got {
			if f.Err != nil { // of a topic so new that its leaders are not known
				time.Sleep(time.Millisecond)
				continue
			}
			wants[f.Partition].Offset = f.Next
			for _, r := range f.Records {
				be := binary.BigEndian
				due := time.UnixMicro(int64(be.Uint64(r.Value[16:])))
				if id := be.Uint64(r.Value); !seen[id] {
					seen[id] = true
				} else {
					continue // equal position: readers drop it
				}
				if due.Sub(begin) < time.Duration(warm)*time.Second {
					last = now
					continue
				}
				all = append(all, float64(now.Sub(due).Microseconds())/1000)
				if gap := now.Sub(last); gap > silence {
					silence, silenceAt = gap, now.Sub(begin).Seconds()
				}
				last = now
			}
		}
	}
	sending.Wait()
	slices.Sort(all)
	quantile := func(q float64) float64 {
		if len(all) == 0 {
			return -1
		}
		return rounded(all[min(len(all)-1, int(math.Ceil(q*float64(len(all))))-1)], 1)
	}
	return map[string]any{
		"rate": rate, "seconds": seconds, "samples": len(all), "p50_ms": quantile(.5), "p90_ms": quantile(.9), "p99_ms": quantile(.99), "max_ms": quantile(1),
		"longest_silence_ms": silence.Milliseconds(), "silence_ended_at_s": rounded(silenceAt, 1), "missing": (n+benchEvery-1)/benchEvery - len(seen),
	}
}
