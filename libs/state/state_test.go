package state_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"go.uber.org/goleak"

	"github.com/sillage-io/sillage/libs/config"
	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream/step"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// backends are what the contract is checked on: the embedded store always, a
// real one where SILLAGE_TEST_REDIS names it.
func backends(t *testing.T, run func(t *testing.T, cfg state.Config)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		cfg := state.DefaultConfig()
		cfg.Addrs, cfg.Buckets = []string{miniredis.RunT(t).Addr()}, 16
		run(t, cfg)
	})
	t.Run("real", func(t *testing.T) {
		addr := os.Getenv("SILLAGE_TEST_REDIS")
		if addr == "" {
			t.Skip("SILLAGE_TEST_REDIS is not set: no real store to test against")
		}
		cfg := state.DefaultConfig()
		cfg.Addrs, cfg.Buckets = []string{addr}, 16
		run(t, cfg)
	})
}

func open(t *testing.T, cfg state.Config) *state.Store {
	t.Helper()
	s, err := state.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// tag names a partition that no other test has.
func tag(t *testing.T) string {
	return "test." + strconv.FormatInt(time.Now().UnixNano(), 36) + "." + strconv.Itoa(mathrand.IntN(1e6))
}

var layouts = map[string]state.Layout{"buckets": state.Buckets, "per key": state.PerKey}

func arm(t *testing.T, p *state.Partition) string {
	t.Helper()
	f, err := p.Arm(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func apply(t *testing.T, p *state.Partition, w step.Write) {
	t.Helper()
	if o, current, err := p.Apply(t.Context(), w); o != step.Applied || err != nil {
		t.Fatalf("write %s -> %s: outcome %d, fence %q, %v", w.Base, w.Target, o, current, err)
	}
}

// TestStoreHoldsWhatWasWritten compares the store with a map, over random
// writes, deletions, wipes and new owners.
func TestStoreHoldsWhatWasWritten(t *testing.T) {
	backends(t, func(t *testing.T, cfg state.Config) {
		for name, layout := range layouts {
			t.Run(name, func(t *testing.T) {
				s := open(t, cfg)
				rnd := mathrand.New(mathrand.NewPCG(1, 2))
				tag := tag(t)
				entities, logs := map[string][]byte{}, map[string][]byte{}
				p := s.Partition(tag, layout)
				defer func() { p.Close() }()
				fence := arm(t, p)
				for i := range 150 {
					if rnd.IntN(10) == 0 { // another owner
						p.Close()
						p = s.Partition(tag, layout)
						if got := arm(t, p); got != fence {
							t.Fatalf("fence %q, want %q", got, fence)
						}
					}
					w := step.Write{Base: fence, Target: "fence " + strconv.Itoa(i), Wipe: i == 0 || rnd.IntN(40) == 0}
					if w.Wipe {
						clear(entities)
						clear(logs)
					}
					for range rnd.IntN(20) {
						key := "shop/" + strconv.Itoa(rnd.IntN(60))
						if rnd.IntN(4) == 0 {
							w.Entities = append(w.Entities, step.Entity{Key: key})
							continue
						}
						w.Entities = append(w.Entities, step.Entity{Key: key, Value: bytes.Repeat([]byte{byte(i), 0, '\n'}, 1+rnd.IntN(30))})
					}
					w.Entities = once(w.Entities)
					w.Entities = append(w.Entities, step.Entity{Key: step.MetaKey, Value: []byte(strconv.Itoa(i))})
					for _, e := range w.Entities {
						if e.Value == nil {
							delete(entities, e.Key)
						} else {
							entities[e.Key] = e.Value
						}
					}
					hour := strconv.Itoa(i / 20)
					w.Logs = append(w.Logs, step.LogAppend{Name: hour, Data: []byte{byte(i), 1}})
					logs[hour] = append(bytes.Clone(logs[hour]), byte(i), 1)
					if old := strconv.Itoa(i/20 - 2); i%20 == 0 && i >= 40 {
						w.Logs = append(w.Logs, step.LogAppend{Name: old})
						delete(logs, old)
					}
					apply(t, p, w)
					fence = w.Target
				}
				want := step.State{Fence: fence}
				for k, v := range entities {
					want.Entities = append(want.Entities, step.Entity{Key: k, Value: v})
				}
				sort.Slice(want.Entities, func(i, j int) bool { return want.Entities[i].Key < want.Entities[j].Key })
				for k, v := range logs {
					want.Logs = append(want.Logs, step.LogAppend{Name: k, Data: v})
				}
				sort.Slice(want.Logs, func(i, j int) bool { return want.Logs[i].Name < want.Logs[j].Name })

				got, err := s.Dump(t.Context(), tag, layout)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
					t.Errorf("dump differs (-want +got):\n%s", d)
				}
				for k, v := range entities {
					got, ok, err := s.Read(t.Context(), tag, layout, k)
					if err != nil || !ok || !bytes.Equal(got, v) {
						t.Errorf("read %s: %x, %v, %v", k, got, ok, err)
					}
				}
				if _, ok, err := s.Read(t.Context(), tag, layout, "shop/none"); ok || err != nil {
					t.Errorf("read of nothing: %v, %v", ok, err)
				}
				other := tag + ".copy"
				if err := s.Restore(t.Context(), other, layout, got); err != nil {
					t.Fatal(err)
				}
				again, err := s.Dump(t.Context(), other, layout)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(got, again, cmpopts.EquateEmpty()); d != "" {
					t.Errorf("restored differs:\n%s", d)
				}
			})
		}
	})
}

// once keeps the last write of each key.
func once(all []step.Entity) []step.Entity {
	last := map[string]step.Entity{}
	for _, e := range all {
		last[e.Key] = e
	}
	var kept []step.Entity
	for _, e := range last {
		kept = append(kept, e)
	}
	sort.Slice(kept, func(i, j int) bool { return kept[i].Key < kept[j].Key })
	return kept
}

func TestOnlyTheLastOwnerWrites(t *testing.T) {
	backends(t, func(t *testing.T, cfg state.Config) {
		s := open(t, cfg)
		for name, layout := range layouts {
			t.Run(name, func(t *testing.T) {
				tag := tag(t)
				old, owner := s.Partition(tag, layout), s.Partition(tag, layout)
				defer old.Close()
				defer owner.Close()
				apply(t, first(t, old), step.Write{Target: "old", Wipe: true, Entities: []step.Entity{{Key: "s/a", Value: []byte("1")}}})
				apply(t, old, step.Write{Base: "old", Target: "old 2", Entities: []step.Entity{{Key: "s/a", Value: []byte("2")}}})
				if f := arm(t, owner); f != "old 2" {
					t.Fatalf("the new owner sees fence %q", f)
				}
				apply(t, owner, step.Write{Base: "old 2", Target: "new"})
				o, current, err := old.Apply(t.Context(), step.Write{Base: "old 2", Target: "old 3", Entities: []step.Entity{{Key: "s/a", Value: []byte("3")}}})
				if o != step.Lost || current != "new" || err != nil {
					t.Errorf("the old owner: outcome %d, fence %q, %v; want it lost to %q", o, current, err, "new")
				}
				if v, _, _ := s.Read(t.Context(), tag, layout, "s/a"); string(v) != "2" {
					t.Errorf("state is %q, want 2", v)
				}
			})
		}
	})
}

func first(t *testing.T, p *state.Partition) *state.Partition {
	t.Helper()
	if f := arm(t, p); f != "" {
		t.Fatalf("a new partition has fence %q", f)
	}
	return p
}

// TestManyOwnersLeaveRoomForReaders: an owner keeps its connection for as long as
// it owns, and there may be hundreds.
func TestManyOwnersLeaveRoomForReaders(t *testing.T) {
	backends(t, func(t *testing.T, cfg state.Config) {
		cfg.Timeout = time.Second
		s := open(t, cfg)
		for range 300 {
			p := s.Partition(tag(t), state.PerKey)
			defer p.Close()
			if _, err := p.Arm(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := s.Read(t.Context(), tag(t), state.PerKey, "a"); err != nil {
			t.Error(err)
		}
	})
}

// TestAConnectionForgetsItsLastOwner: if connections were used again, what one
// owner has watched must not fail another's write.
func TestAConnectionForgetsItsLastOwner(t *testing.T) {
	backends(t, func(t *testing.T, cfg state.Config) {
		s := open(t, cfg)
		first, second := tag(t), tag(t)+"-second"
		claim := func(tag, base string) *state.Partition {
			p := s.Partition(tag, state.PerKey)
			if _, err := p.Arm(t.Context()); err != nil {
				t.Fatal(err)
			}
			if outcome, _, err := p.Apply(t.Context(), step.Write{Base: base, Target: "owner of " + tag + base}); outcome != step.Applied {
				t.Fatalf("claim %s: %v, %v", tag, outcome, err)
			}
			return p
		}
		claim(first, "").Close()
		p := s.Partition(second, state.PerKey)
		defer p.Close()
		if _, err := p.Arm(t.Context()); err != nil {
			t.Fatal(err)
		}
		other := open(t, cfg) // somebody else claims first, and writes its fence
		q := other.Partition(first, state.PerKey)
		defer q.Close()
		base, err := q.Arm(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if outcome, _, err := q.Apply(t.Context(), step.Write{Base: base, Target: "another owner"}); outcome != step.Applied {
			t.Fatalf("claim %s again: %v, %v", first, outcome, err)
		}
		if outcome, _, err := p.Apply(t.Context(), step.Write{Base: "", Target: "owner of second"}); outcome != step.Applied {
			t.Errorf("write of a partition that nobody else touched: %v, %v, want it applied", outcome, err)
		}
	})
}

func TestWipedStoreIsNoticed(t *testing.T) {
	backends(t, func(t *testing.T, cfg state.Config) {
		s, tag := open(t, cfg), tag(t)
		p := s.Partition(tag, state.Buckets)
		defer p.Close()
		apply(t, first(t, p), step.Write{Target: "a", Wipe: true})
		raw := redis.NewClient(&redis.Options{Addr: cfg.Addrs[0], MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}})
		defer raw.Close()
		if n, err := raw.Del(t.Context(), "{"+tag+"}f").Result(); n != 1 || err != nil {
			t.Fatalf("deleted %d keys, %v", n, err)
		}
		if o, current, err := p.Apply(t.Context(), step.Write{Base: "a", Target: "b"}); o != step.Lost || current != "" || err != nil {
			t.Errorf("outcome %d, fence %q, %v; want it lost to no fence", o, current, err)
		}
	})
}

func TestWriteThatCannotWorkIsRefused(t *testing.T) {
	backends(t, func(t *testing.T, cfg state.Config) {
		s, tag := open(t, cfg), tag(t)
		p := s.Partition(tag, state.PerKey)
		defer p.Close()
		apply(t, first(t, p), step.Write{Target: "a", Wipe: true})
		if o, _, err := p.Apply(t.Context(), step.Write{Base: "other", Target: "b"}); o != step.Lost || err != nil {
			t.Errorf("a base that is not the armed fence: outcome %d, %v; want it lost", o, err)
		}
		// Somebody has put another type in the place of a log.
		raw := redis.NewClient(&redis.Options{Addr: cfg.Addrs[0], MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}})
		defer raw.Close()
		if err := raw.RPush(t.Context(), "{"+tag+"}l:7", "x").Err(); err != nil {
			t.Fatal(err)
		}
		o, _, err := p.Apply(t.Context(), step.Write{Base: "a", Target: "b", Logs: []step.LogAppend{{Name: "7", Data: []byte{1}}}})
		if o != step.Refused || err == nil || !strings.Contains(err.Error(), "WRONGTYPE") {
			t.Errorf("append to a list: outcome %d, %v; want it refused", o, err)
		}
	})
}

// TestLostAnswerIsAmbiguous cuts the connection behind the write.
func TestLostAnswerIsAmbiguous(t *testing.T) {
	backends(t, func(t *testing.T, cfg state.Config) {
		var deaf atomic.Bool
		cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, address)
			return deafConn{c, &deaf}, err
		}
		s := open(t, cfg)
		tag := tag(t)
		p := s.Partition(tag, state.Buckets)
		defer p.Close()
		apply(t, first(t, p), step.Write{Target: "a", Wipe: true, Entities: []step.Entity{{Key: "s/x", Value: []byte("1")}}})
		deaf.Store(true)
		o, _, err := p.Apply(t.Context(), step.Write{Base: "a", Target: "b", Entities: []step.Entity{{Key: "s/x", Value: []byte("2")}}})
		deaf.Store(false)
		if o != step.Ambiguous || err == nil {
			t.Fatalf("outcome %d, %v; want it ambiguous", o, err)
		}
		// The write may need a moment to arrive where nobody waited for it.
		for range 50 {
			if f := arm(t, p); f == "b" {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Error("the write was made, but arming again does not show it")
	})
}

// deafConn delivers what is written and hears no answer.
type deafConn struct {
	net.Conn
	deaf *atomic.Bool
}

func (c deafConn) Read(b []byte) (int, error) {
	if c.deaf.Load() {
		return 0, errors.New("cut")
	}
	n, err := c.Conn.Read(b)
	if c.deaf.Load() {
		return 0, errors.New("cut")
	}
	return n, err
}

func TestReaderFollowsAnotherNumberOfBuckets(t *testing.T) {
	backends(t, func(t *testing.T, cfg state.Config) {
		tag := tag(t)
		reader := open(t, cfg)
		cfg.Buckets = 7
		writer := open(t, cfg)
		p := writer.Partition(tag, state.Buckets)
		defer p.Close()
		w := step.Write{Target: "a", Wipe: true}
		for i := range 50 {
			w.Entities = append(w.Entities, step.Entity{Key: fmt.Sprintf("s/%d", i), Value: []byte(strconv.Itoa(i))})
		}
		apply(t, first(t, p), w)
		for i := range 50 {
			v, ok, err := reader.Read(t.Context(), tag, state.Buckets, fmt.Sprintf("s/%d", i))
			if err != nil || !ok || string(v) != strconv.Itoa(i) {
				t.Errorf("entity %d: %q, %v, %v", i, v, ok, err)
			}
		}
	})
}

func TestTLSAndUser(t *testing.T) {
	certificate, caFile := selfSigned(t)
	mr := miniredis.NewMiniRedis()
	if err := mr.StartTLS(&tls.Config{Certificates: []tls.Certificate{certificate}}); err != nil {
		t.Fatal(err)
	}
	defer mr.Close()
	mr.RequireUserAuth("anna", "secret")
	for _, test := range []struct {
		name           string
		tls            config.TLS
		user, password string
		ok             bool
	}{
		{"right", config.TLS{Enabled: true, CAFile: caFile, ServerName: "localhost"}, "anna", "secret", true},
		{"wrong password", config.TLS{Enabled: true, CAFile: caFile, ServerName: "localhost"}, "anna", "guess", false},
		{"unknown authority", config.TLS{Enabled: true, ServerName: "localhost"}, "anna", "secret", false},
		{"in clear", config.TLS{}, "anna", "secret", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := state.DefaultConfig()
			cfg.Addrs, cfg.TLS, cfg.User, cfg.Password, cfg.Timeout = []string{mr.Addr()}, test.tls, test.user, test.password, time.Second
			if err := open(t, cfg).Ping(t.Context()); (err == nil) != test.ok {
				t.Errorf("ping: %v", err)
			}
		})
	}
}

func selfSigned(t *testing.T) (certificate tls.Certificate, caFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, caFile
}

func TestBases(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bases")
	b, err := state.NewBases(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Save("p.0", 1, step.State{}, "mark"); err != nil {
		t.Fatal(err)
	}
	if base, err := b.OldestBase("p.0"); err != nil || base != nil {
		t.Errorf("of one base: %+v, %v, want none: there is no second one to fall back on", base, err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "p.0")); err != nil {
		t.Fatal(err)
	}
	if base, err := b.Newest("p.0"); base != nil || err != nil {
		t.Fatalf("before the first: %v, %v", base, err)
	}
	st := func(i int) step.State {
		return step.State{
			Fence:    "fence " + strconv.Itoa(i),
			Entities: []step.Entity{{Key: "", Value: []byte("meta")}, {Key: "s/a", Value: bytes.Repeat([]byte{byte(i)}, 1000)}},
			Logs:     []step.LogAppend{{Name: "7", Data: []byte{1, 2, 3}}},
		}
	}
	for i := 1; i <= 5; i++ {
		if err := b.Save("p.0", int64(i*10), st(i), "mark"); err != nil {
			t.Fatal(err)
		}
	}
	got, err := b.Newest("p.0")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(&state.Base{Next: 50, Mark: "mark", State: st(5)}, got); d != "" {
		t.Error(d)
	}
	if base, err := b.OldestBase("p.0"); err != nil || base == nil || base.Next != 40 {
		t.Errorf("the older of two: %+v, %v, want that of 40", base, err)
	}

	tags, err := b.Tags()
	if err != nil || len(tags) != 1 || tags[0] != "p.0" {
		t.Errorf("tags %v, %v", tags, err)
	}
}

func TestDamagedBaseGivesWayToTheOneBefore(t *testing.T) {
	dir := t.TempDir()
	b, err := state.NewBases(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := step.State{Fence: "f", Entities: []step.Entity{{Key: "s/a", Value: bytes.Repeat([]byte("abc"), 300)}}}
	for _, next := range []int64{10, 20} {
		if err := b.Save("p.0", next, s, "m"); err != nil {
			t.Fatal(err)
		}
	}
	names, err := filepath.Glob(filepath.Join(dir, "p.0", "*.base"))
	if err != nil || len(names) != 2 {
		t.Fatalf("%v, %v", names, err)
	}
	whole, err := os.ReadFile(names[1])
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		damaged := bytes.Clone(whole)
		at := i * len(whole) / 200
		if i%2 == 0 {
			damaged[at] ^= 0x40
		} else {
			damaged = damaged[:at]
		}
		if err := os.WriteFile(names[1], damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		base, err := b.Newest("p.0")
		if base == nil || base.Next != 10 || err == nil || !strings.Contains(err.Error(), "p.0") {
			t.Fatalf("damaged at %d of %d: base %v, %v", at, len(whole), base, err)
		}
	}
}

func TestConfigReportsAllMistakes(t *testing.T) {
	err := state.Config{Addrs: []string{"x", "y"}, DB: 3, Cluster: true, Master: "m", TLS: config.TLS{KeyFile: "k"}}.Validate()
	for _, want := range []string{"host:port", "cluster and master", "database 0", "buckets", "timeout", "belong together"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: does not say %q", err, want)
		}
	}
	if err := state.DefaultConfig().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
}
