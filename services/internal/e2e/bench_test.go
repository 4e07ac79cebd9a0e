package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/sillage-io/sillage/libs/rpc"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/topics"
	recommenderv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/recommender/v1"
)

// The figures of the whole, each printed once: CPU first, because rates and
// latencies depend on what else the machine does. Sub-benchmarks called real run
// on an Apache Kafka and a Redis of their own where make bench starts them.

// on runs a benchmark on the embedded and on real servers.
func on(b *testing.B, f func(b *testing.B, s *system), args ...string) {
	b.Helper()
	b.Logf("%s, %s/%s, %d cores", cpuModel(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	b.Run("embedded", func(b *testing.B) { f(b, newSystem(b, args...)) })
	b.Run("real", func(b *testing.B) { f(b, newRealSystem(b, args...)) })
}

func cpuModel() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	for line := range strings.Lines(string(data)) {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return "unknown processor"
}

// cpu is the processor time that a process has used.
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Skipf("the processor time of other processes is not known here: %v", err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	ticks := 0
	for _, f := range fields[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// used is what each process of a system has used.
func (s *system) used(b *testing.B) (up, kafka, redis time.Duration) {
	b.Helper()
	up = cpu(b, s.processes[0].Pid())
	if s.servers != nil {
		kafka, redis = cpu(b, s.servers["kafka"]), cpu(b, s.servers["redis"])
	}
	return up, kafka, redis
}

// clicks is a click log: that of SILLAGE_DATA where it is set, else a made one.
func clicks(b *testing.B) string {
	b.Helper()
	if data := os.Getenv("SILLAGE_DATA"); data != "" {
		return filepath.Join(data, "serenade_bol_toy_clicks.csv.gz")
	}
	b.Log("SILLAGE_DATA is not set: a made click log in place of a real one")
	random := rand.New(rand.NewPCG(5, 6))
	var log bytes.Buffer
	log.WriteString("ts,session_id,item_id\n")
	at := time.Date(2020, 6, 1, 0, 0, 0, 0, time.UTC).Unix()
	for session := range 25_000 {
		at += int64(random.IntN(200))
		for i := range 2 + random.IntN(7) {
			fmt.Fprintf(&log, "%d,%d,%d\n", at+int64(i*20), session, int(random.ExpFloat64()*1500))
		}
	}
	name := filepath.Join(b.TempDir(), "clicks.csv")
	if err := os.WriteFile(name, log.Bytes(), 0o600); err != nil {
		b.Fatal(err)
	}
	return name
}

// replayed is the part of a replay's summary that is measured.
type replayed struct {
	Lines, Folded, Lost, Duplicated int64
	PerSecond                       int64 `json:"lines_per_second"`
}

func (s *system) replay(b *testing.B, args ...string) replayed {
	b.Helper()
	var r replayed
	if err := json.Unmarshal([]byte(s.run(append([]string{"replay", "--json"}, args...)...)), &r); err != nil {
		b.Fatal(err)
	}
	if r.Lost != 0 || r.Duplicated != 0 {
		b.Fatalf("%+v", r)
	}
	return r
}

// BenchmarkReplay sends a click log four times over, after one pass to warm up.
func BenchmarkReplay(b *testing.B) {
	file := clicks(b)
	on(b, func(b *testing.B, s *system) {
		s.start()
		s.replay(b, "clicks", file, "--shop", "warm")
		up, kafka, redis := s.used(b)
		var r replayed
		for i := 0; b.Loop(); i++ {
			r = s.replay(b, "clicks", file, "--shop", fmt.Sprintf("run-%d", i), "--repeat", "4")
		}
		n := float64(b.N) * float64(r.Folded)
		up2, kafka2, redis2 := s.used(b)
		b.ReportMetric(float64((up2-up).Microseconds())/n, "up-cpu-us/event")
		if s.servers != nil {
			b.ReportMetric(float64((kafka2-kafka).Microseconds())/n, "kafka-cpu-us/event")
			b.ReportMetric(float64((redis2-redis).Microseconds())/n, "redis-cpu-us/event")
		}
		b.ReportMetric(float64(r.PerSecond), "events/s")
		b.ReportMetric(0, "ns/op")
		s.stop()
	})
}

// percentile of durations, in milliseconds.
func percentile(all []time.Duration, p float64) float64 {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return float64(all[min(len(all)-1, int(p*float64(len(all))))].Microseconds()) / 1000
}

// track sends one event of the demo shop and returns when it is accepted.
func (s *system) track(b *testing.B, visitor, product string, at time.Time) {
	b.Helper()
	body := fmt.Sprintf(`{"event":"Product Viewed","anonymousId":%q,"timestamp":%q,"properties":{"product_id":%q}}`, visitor, at.UTC().Format(time.RFC3339Nano), product)
	req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "http://"+s.collector+"/v1/track", strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	req.SetBasicAuth("pk_demo_not_secret", "")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b.Fatalf("event not accepted: %s", res.Status)
	}
}

func (s *system) dial(b *testing.B) *grpc.ClientConn {
	b.Helper()
	conn, err := rpc.Dial(rpc.ClientConfig{Addr: s.grpc})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return conn
}

func (s *system) recommender(b *testing.B) recommenderv1.RecommenderServiceClient {
	b.Helper()
	return recommenderv1.NewRecommenderServiceClient(s.dial(b))
}

// until asks until an answer is as wanted, and returns how long that took.
func until(b *testing.B, c recommenderv1.RecommenderServiceClient, r *recommenderv1.RecommendRequest, ok func(*recommenderv1.RecommendResponse) bool) time.Duration {
	b.Helper()
	begin := time.Now()
	for time.Since(begin) < 10*time.Second {
		res, err := c.Recommend(b.Context(), r)
		if err != nil {
			b.Fatal(err)
		}
		if ok(res) {
			return time.Since(begin)
		}
		time.Sleep(time.Millisecond)
	}
	b.Fatalf("not answered within ten seconds: %v", r)
	return 0
}

// BenchmarkFreshness lets a simulated shop live at 100 events a second, and
// measures from the acceptance of an event to the visitor's own next answer, to
// another visitor's answer, and from the moment an alert is due to its record.
func BenchmarkFreshness(b *testing.B) {
	on(b, func(b *testing.B, s *system) {
		s.start()
		c := s.recommender(b)
		alerts := s.watchAlerts(b)
		var own, other []time.Duration
		begin := time.Now()
		for i := 0; time.Since(begin) < 80*time.Second; i++ {
			// Two products that nobody else has.
			first, second, visitor := fmt.Sprintf("first-%d", i), fmt.Sprintf("second-%d", i), fmt.Sprintf("bench-%d", i)
			at := time.Now()
			s.track(b, visitor, first, at)
			own = append(own, until(b, c, &recommenderv1.RecommendRequest{Shop: "demo", AnonymousId: visitor}, func(r *recommenderv1.RecommendResponse) bool {
				return r.Freshness.VisitorLastSeenMs >= at.UnixMilli()
			}))
			s.track(b, visitor, second, time.Now())
			other = append(other, until(b, c, &recommenderv1.RecommendRequest{Shop: "demo", Items: []string{first}}, func(r *recommenderv1.RecommendResponse) bool {
				return slices.ContainsFunc(r.Recommendations, func(r *recommenderv1.Recommendation) bool { return r.ProductId == second })
			}))
			time.Sleep(20 * time.Millisecond)
		}
		late := alerts()
		b.ReportMetric(percentile(own, .5), "own-p50-ms")
		b.ReportMetric(percentile(own, .99), "own-p99-ms")
		b.ReportMetric(percentile(other, .5), "other-p50-ms")
		b.ReportMetric(percentile(other, .99), "other-p99-ms")
		b.ReportMetric(float64(len(late)), "alerts")
		b.ReportMetric(percentile(late, .5), "alert-p50-ms")
		b.ReportMetric(percentile(late, .99), "alert-p99-ms")
		b.ReportMetric(0, "ns/op")
		s.stop()
	}, "--demo", "--demo-rate", "100")
}

// watchAlerts measures how late alerts are until the function it returns is
// called.
func (s *system) watchAlerts(b *testing.B) func() []time.Duration {
	b.Helper()
	cfg := broker.DefaultConfig()
	cfg.Brokers = []string{s.kafka}
	client, err := broker.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	var late []time.Duration
	var watching sync.WaitGroup
	watching.Go(func() {
		_ = stream.NewView(client, slog.New(slog.DiscardHandler), stream.FromEnd, func(r record.Record) error {
			var alert struct {
				Kind       string
				DueMS      int64 `json:"due_ms"`
				Historical bool
			}
			if json.Unmarshal(r.Value, &alert) == nil && alert.Kind == "raised" && !alert.Historical {
				late = append(late, time.Since(time.UnixMilli(alert.DueMS)))
			}
			return nil
		}, topics.ChurnAlerts).Run(ctx)
	})
	return func() []time.Duration {
		cancel()
		watching.Wait()
		client.Close()
		return late
	}
}

// BenchmarkRecommend asks at a steady 1,000 requests a second, of visitors whose
// state lies in the store.
func BenchmarkRecommend(b *testing.B) {
	file := clicks(b)
	on(b, func(b *testing.B, s *system) {
		s.start()
		s.replay(b, "clicks", file, "--shop", "clicks")
		visitors := sessionsOf(b, s)
		c := s.recommender(b)
		ask := func(i int) time.Duration {
			begin := time.Now()
			_, err := c.Recommend(b.Context(), &recommenderv1.RecommendRequest{Shop: "clicks", AnonymousId: visitors[i%len(visitors)]}, grpc.WaitForReady(true))
			if err != nil {
				b.Error(err)
			}
			return time.Since(begin)
		}
		for i := range 2000 { // warm up
			ask(i)
		}
		time.Sleep(time.Second)
		idle, _, _ := s.used(b)
		time.Sleep(5 * time.Second)
		before, _, _ := s.used(b)
		idle = before - idle
		const seconds, rate, askers = 10, 1000, 8
		steady := func(ask func(i int) time.Duration) []time.Duration {
			took := make([][]time.Duration, askers)
			var asking sync.WaitGroup
			begin := time.Now()
			for a := range askers {
				asking.Go(func() {
					for i := a; i < seconds*rate; i += askers {
						time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / rate)))
						took[a] = append(took[a], ask(i*7))
					}
				})
			}
			asking.Wait()
			return slices.Concat(took...)
		}
		// What a call costs that asks for nothing, in the same run.
		health := healthv1.NewHealthClient(s.dial(b))
		steady(func(int) time.Duration {
			if _, err := health.Check(b.Context(), &healthv1.HealthCheckRequest{}); err != nil {
				b.Error(err)
			}
			return 0
		})
		floor, _, redis0 := s.used(b)
		b.ReportMetric(float64((floor-before-idle*seconds/5).Microseconds())/(seconds*rate), "empty-call-cpu-us")
		before = floor
		begin := time.Now()
		all := steady(ask)
		after, _, redis1 := s.used(b)
		n := float64(len(all))
		b.ReportMetric(float64((after-before-idle*seconds/5).Microseconds())/n, "up-cpu-us/request")
		b.ReportMetric(float64((redis1-redis0).Microseconds())/n, "redis-cpu-us/request")
		b.ReportMetric(percentile(all, .5), "p50-ms")
		b.ReportMetric(percentile(all, .99), "p99-ms")
		b.ReportMetric(n/time.Since(begin).Seconds(), "requests/s")
		b.ReportMetric(0, "ns/op")
		s.stop()
	})
}

// sessionsOf are visitors of the click log, in order of their first events.
func sessionsOf(b *testing.B, s *system) []string {
	b.Helper()
	var all []string
	seen := map[string]bool{}
	for line := range strings.Lines(s.run("tail", "events.v1", "--from", "start", "--until", "end", "--json")) {
		var r struct {
			Data struct {
				AnonymousID string `json:"anonymous_id"`
			}
		}
		if json.Unmarshal([]byte(line), &r) == nil && r.Data.AnonymousID != "" && !seen[r.Data.AnonymousID] {
			seen[r.Data.AnonymousID] = true
			all = append(all, r.Data.AnonymousID)
		}
	}
	if len(all) == 0 {
		b.Fatal("no visitor in the log")
	}
	return all
}
