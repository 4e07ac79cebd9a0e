package state_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream/step"
)

// BenchmarkApply writes 2,000 entities of 175 bytes under the fence in one round
// trip, as a step does: by the owner's connection, and by go-redis with the same
// commands. cpu-ns/entity is that of this process.
func BenchmarkApply(b *testing.B) {
	const entities = 2000
	addr := os.Getenv("SILLAGE_TEST_REDIS")
	if addr == "" {
		addr = miniredis.RunT(b).Addr()
	}
	value := []byte(strings.Repeat("x", 175))
	write := step.Write{Target: "0"}
	for i := range entities {
		write.Entities = append(write.Entities, step.Entity{Key: "shop/" + strconv.Itoa(i), Value: value})
	}
	write.Entities = append(write.Entities, step.Entity{Key: step.MetaKey, Value: value})
	measure := func(b *testing.B, apply func(base, target string) error) {
		b.Helper()
		b.ReportAllocs()
		before := usedBySelf()
		n := 0
		for b.Loop() {
			if err := apply(strconv.Itoa(n), strconv.Itoa(n+1)); err != nil {
				b.Fatal(err)
			}
			n++
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n*entities), "ns/entity")
		b.ReportMetric(float64(usedBySelf()-before)/float64(n*entities), "cpu-ns/entity")
	}
	for name, layout := range layouts {
		b.Run("own/"+name, func(b *testing.B) {
			cfg := state.DefaultConfig()
			cfg.Addrs = []string{addr}
			s, err := state.Open(cfg)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			p := s.Partition("bench."+b.Name(), layout)
			defer p.Close()
			base, err := p.Arm(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			first := write
			first.Base, first.Wipe = base, true
			if o, _, err := p.Apply(b.Context(), first); o != step.Applied {
				b.Fatal(o, err)
			}
			measure(b, func(base, target string) error {
				w := write
				w.Base, w.Target = base, target
				if o, _, err := p.Apply(b.Context(), w); o != step.Applied {
					return fmt.Errorf("outcome %d: %w", o, err)
				}
				return nil
			})
		})
	}
	b.Run("go-redis/per key", func(b *testing.B) {
		client := redis.NewClient(&redis.Options{
			Addr: addr, Protocol: 2, DisableIdentity: true, MaxRetries: -1,
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		})
		defer client.Close()
		conn := client.Conn()
		defer conn.Close()
		fence, prefix := "{bench.lib}f", "{bench.lib}e:"
		ctx := context.Background()
		if err := conn.Set(ctx, fence, "0", 0).Err(); err != nil {
			b.Fatal(err)
		}
		if err := conn.Do(ctx, "WATCH", fence).Err(); err != nil {
			b.Fatal(err)
		}
		measure(b, func(_, target string) error {
			set := make([]any, 0, 2*len(write.Entities)+3)
			set = append(set, "MSET", fence, target)
			for _, e := range write.Entities {
				set = append(set, prefix+e.Key, e.Value)
			}
			pipe := conn.Pipeline()
			pipe.Do(ctx, "MULTI")
			pipe.Do(ctx, set...)
			exec := pipe.Do(ctx, "EXEC")
			pipe.Do(ctx, "WATCH", fence)
			got := pipe.Get(ctx, fence)
			if _, err := pipe.Exec(ctx); err != nil {
				return err
			}
			if got.Val() != target {
				return errors.New("not written")
			}
			return exec.Err()
		})
	})
}

// usedBySelf is the CPU time of this process, in nanoseconds.
func usedBySelf() int64 {
	data, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0 // no /proc here
	}
	field := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+2:]))
	user, _ := strconv.ParseInt(field[11], 10, 64)
	system, _ := strconv.ParseInt(field[12], 10, 64)
	return (user + system) * 10_000_000
}
