package broker_test

import (
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
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/sillage-io/sillage/libs/config"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// backends are what the contract is checked on: the embedded broker always,
// a real one where SILLAGE_TEST_KAFKA names it.
func backends(t *testing.T, run func(t *testing.T, brokers []string)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(100*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		run(t, c.ListenAddrs())
	})
	t.Run("real", func(t *testing.T) {
		addrs := os.Getenv("SILLAGE_TEST_KAFKA")
		if addrs == "" {
			t.Skip("SILLAGE_TEST_KAFKA is not set: no real broker to test against")
		}
		run(t, strings.Split(addrs, ","))
	})
}

func connect(t *testing.T, brokers []string) *broker.Client {
	t.Helper()
	cfg := broker.DefaultConfig()
	cfg.Brokers = brokers
	c, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// topic makes a topic that no other test has.
func topic(t *testing.T, c *broker.Client, partitions int) string {
	t.Helper()
	name := strings.NewReplacer("/", ".", " ", "-").Replace(t.Name()) + "." + strconv.FormatInt(time.Now().UnixNano(), 36)
	if err := c.EnsureTopics(t.Context(), []broker.TopicSpec{{Name: name, Partitions: partitions, RetentionMS: -1}}); err != nil {
		t.Fatal(err)
	}
	for i := range int32(partitions) { // led is not yet known to its leader
		if _, _, err := c.Bounds(t.Context(), name, i); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

func outs(topic string, partition int32, from, n int) []record.Out {
	var all []record.Out
	for i := range n {
		all = append(all, record.Out{
			Topic: topic, Partition: partition, Key: fmt.Appendf(nil, "shop/%d", from+i), Value: fmt.Appendf(nil, "value %d", from+i),
			Headers: []record.Header{{Key: record.HeaderID, Value: fmt.Appendf(nil, "id-%d", from+i)}},
		})
	}
	return all
}

// read fetches a partition up to its end.
func read(t *testing.T, c *broker.Client, topic string, partition int32) []record.Record {
	t.Helper()
	start, end, err := c.Bounds(t.Context(), topic, partition)
	if err != nil {
		t.Fatal(err)
	}
	var all []record.Record
	for at := start; at < end; {
		got, err := c.Fetch(t.Context(), []broker.PartitionOffset{{Topic: topic, Partition: partition, Offset: at}}, time.Second, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if got[0].Err != nil {
			t.Fatal(got[0].Err)
		}
		all = append(all, got[0].Records...)
		at = got[0].Next
	}
	return all
}

func producer(t *testing.T, c *broker.Client) *broker.Producer {
	t.Helper()
	id, err := c.InitProducerID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c.NewProducer(id)
}

func TestProducedIsFetched(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := connect(t, brokers)
		name := topic(t, c, 3)
		p := producer(t, c)
		var want []string
		for round := range 5 {
			batch := append(outs(name, 0, round*100, 50), outs(name, 2, round*100+50, 50)...)
			offs, err := p.Produce(t.Context(), batch)
			if err != nil {
				t.Fatal(err)
			}
			for i, o := range offs {
				if o != int64(round*50+i%50) {
					t.Fatalf("record %d of round %d has offset %d", i, round, o)
				}
			}
			for i := range 50 {
				want = append(want, fmt.Sprintf("value %d", round*100+i))
			}
		}
		var got []string
		for i, r := range read(t, c, name, 0) {
			got = append(got, string(r.Value))
			if r.Offset != int64(i) || r.Partition != 0 || r.Topic != name || len(r.Header(record.HeaderID)) == 0 || r.AppendTime == 0 {
				t.Fatalf("record %d came back as %+v", i, r)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		if n := len(read(t, c, name, 1)); n != 0 {
			t.Errorf("partition 1 has %d records, want none", n)
		}
	})
}

func TestKeysAreSpreadAsJavaClientsDo(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := connect(t, brokers)
		name := topic(t, c, 4)
		if _, err := producer(t, c).Produce(t.Context(), outs(name, record.ByKey, 0, 200)); err != nil {
			t.Fatal(err)
		}
		total := 0
		for p := range int32(4) {
			for _, r := range read(t, c, name, p) {
				total++
				if want := record.Partition(r.Key, 4); want != p {
					t.Errorf("key %s lies in partition %d, want %d", r.Key, p, want)
				}
			}
		}
		if total != 200 {
			t.Errorf("%d records, want 200", total)
		}
	})
}

func TestLargeBatchIsSplitInOrder(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := connect(t, brokers)
		name := topic(t, c, 1)
		var batch []record.Out
		for i := range 40 {
			batch = append(batch, record.Out{Topic: name, Partition: 0, Value: append(make([]byte, 100<<10), strconv.Itoa(i)...)})
		}
		if _, err := producer(t, c).Produce(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		for i, r := range read(t, c, name, 0) {
			if got := string(r.Value[100<<10:]); got != strconv.Itoa(i) {
				t.Fatalf("record %d is %q", i, got)
			}
		}
		_, err := producer(t, c).Produce(t.Context(), []record.Out{{Topic: name, Partition: 0, Value: make([]byte, 2<<20)}})
		if !errors.Is(err, broker.ErrTooLarge) {
			t.Errorf("a record of 2 MiB: %v, want ErrTooLarge", err)
		}
	})
}

func TestHigherEpochCutsOffTheOldOwner(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := connect(t, brokers)
		name := topic(t, c, 1)
		id, err := c.InitProducerID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		old := c.NewProducer(id)
		if _, err := old.Produce(t.Context(), outs(name, 0, 0, 3)); err != nil {
			t.Fatal(err)
		}
		id.Epoch++
		if _, err := c.NewProducer(id).Produce(t.Context(), outs(name, 0, 3, 3)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := old.Produce(ctx, outs(name, 0, 6, 1)); !errors.Is(err, broker.ErrOwnershipLost) {
			t.Errorf("the old owner got %v, want ErrOwnershipLost", err)
		}
		if n := len(read(t, c, name, 0)); n != 6 {
			t.Errorf("%d records, want 6", n)
		}
	})
}

func TestFetchOutsideOfTheLog(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := connect(t, brokers)
		name := topic(t, c, 1)
		if _, err := producer(t, c).Produce(t.Context(), outs(name, 0, 0, 10)); err != nil {
			t.Fatal(err)
		}
		got, err := c.Fetch(t.Context(), []broker.PartitionOffset{{Topic: name, Offset: 99}}, 100*time.Millisecond, 1<<20)
		if err != nil || !errors.Is(got[0].Err, broker.ErrOutOfRange) {
			t.Errorf("behind the end: %v, %v", got, err)
		}
		if err := c.Trim(t.Context(), name, 0, 4); err != nil {
			t.Fatal(err)
		}
		got, err = c.Fetch(t.Context(), []broker.PartitionOffset{{Topic: name, Offset: 2}}, 100*time.Millisecond, 1<<20)
		if err != nil || !errors.Is(got[0].Err, broker.ErrOutOfRange) {
			t.Errorf("before the start: %v, %v", got, err)
		}
		start, end, err := c.Bounds(t.Context(), name, 0)
		if err != nil || start != 4 || end != 10 {
			t.Errorf("bounds %d to %d, %v, want 4 to 10", start, end, err)
		}
	})
}

func TestCommitsKeepTheirMetadata(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := connect(t, brokers)
		name := topic(t, c, 3)
		group := "g." + name
		before, err := c.Committed(t.Context(), group, name)
		if err != nil || len(before) != 0 {
			t.Fatalf("before any commit: %v, %v", before, err)
		}
		want := map[int32]broker.Committed{0: {Offset: 7, Metadata: "log|3:1|7"}, 2: {Offset: 0, Metadata: "x"}}
		commit := func() error { return c.Commit(t.Context(), group, name, want) }
		for n := 0; ; n++ {
			if err = commit(); err == nil || n > 50 {
				break
			}
			time.Sleep(100 * time.Millisecond) // a coordinator of a new cluster takes a moment
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Committed(t.Context(), group, name)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}

func TestLogIDTellsARecreatedTopic(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := connect(t, brokers)
		a, b := topic(t, c, 1), topic(t, c, 2)
		idA, err := c.LogID(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		again, err := c.LogID(t.Context(), a)
		if err != nil || again != idA {
			t.Errorf("asked twice: %q and %q, %v", idA, again, err)
		}
		idB, err := c.LogID(t.Context(), b)
		if err != nil || idB == idA || len(idB) < 33 {
			t.Errorf("another topic has id %q like %q, %v", idB, idA, err)
		}
		if _, err := c.LogID(t.Context(), "no-such-topic"); err == nil {
			t.Error("an id of a topic that does not exist")
		}
		err = c.EnsureTopics(t.Context(), []broker.TopicSpec{{Name: a, Partitions: 5}})
		if err == nil || !strings.Contains(err.Error(), "has 1 partitions, want 5") {
			t.Errorf("another number of partitions: %v", err)
		}
	})
}

func TestManyAppendThroughOneProducer(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := connect(t, brokers)
		name := topic(t, c, 2)
		p := c.NewSharedProducer()
		var callers sync.WaitGroup
		for who := range 8 {
			callers.Go(func() {
				for i := range 50 {
					if err := p.Produce(t.Context(), []record.Out{{Topic: name, Partition: int32(who % 2), Key: fmt.Appendf(nil, "%d", who), Value: []byte(strconv.Itoa(i))}}); err != nil {
						t.Errorf("caller %d: %v", who, err)
						return
					}
				}
			})
		}
		callers.Wait()
		if !p.Idle() {
			t.Error("not idle when all is answered")
		}
		p.Close(t.Context())
		if err := p.Produce(t.Context(), outs(name, 0, 0, 1)); err == nil {
			t.Error("a closed producer accepts")
		}
		next := map[string]int{}
		for part := range int32(2) {
			for _, r := range read(t, c, name, part) {
				if want := strconv.Itoa(next[string(r.Key)]); string(r.Value) != want {
					t.Fatalf("caller %s: %s stands where %s belongs", r.Key, r.Value, want)
				}
				next[string(r.Key)]++
			}
		}
		if len(next) != 8 {
			t.Errorf("records of %d callers, want 8", len(next))
		}
	})
}

// TestLostAnswersAddNothing cuts connections while records are on their way:
// what is sent again stands in the log once.
func TestLostAnswersAddNothing(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		var mu sync.Mutex
		cuts := 0
		var open []net.Conn
		cfg := broker.DefaultConfig()
		cfg.Brokers = brokers
		cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if err == nil {
				mu.Lock()
				open = append(open, conn)
				mu.Unlock()
			}
			return conn, err
		}
		c, err := broker.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		name := topic(t, c, 1)
		p := producer(t, c)
		stop := make(chan struct{})
		var cutting sync.WaitGroup
		cutting.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(7 * time.Millisecond):
				}
				mu.Lock()
				for _, conn := range open {
					conn.Close()
				}
				if len(open) > 0 {
					cuts++
				}
				open = nil
				mu.Unlock()
			}
		})
		often := func() bool {
			mu.Lock()
			defer mu.Unlock()
			return cuts >= 3
		}
		sent := 0
		for ; sent < 600 || !often(); sent += 10 {
			if _, err := p.Produce(t.Context(), outs(name, 0, sent, 10)); err != nil {
				t.Fatal(err)
			}
		}
		close(stop)
		cutting.Wait()
		recs := read(t, c, name, 0)
		if len(recs) != sent {
			t.Fatalf("%d records, want %d", len(recs), sent)
		}
		for i, r := range recs {
			if string(r.Value) != fmt.Sprintf("value %d", i) {
				t.Fatalf("record %d is %q", i, r.Value)
			}
		}
	})
}

func TestTLSAndSASL(t *testing.T) {
	certificate, caFile := selfSigned(t)
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.TLS(&tls.Config{Certificates: []tls.Certificate{certificate}}),
		kfake.EnableSASL(), kfake.Superuser("PLAIN", "anna", "secret"), kfake.Superuser("SCRAM-SHA-512", "bert", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	encrypted := config.TLS{Enabled: true, CAFile: caFile, ServerName: "localhost"}
	for _, test := range []struct {
		name string
		tls  config.TLS
		sasl broker.SASL
		ok   bool
	}{
		{"plain", encrypted, broker.SASL{Mechanism: "plain", User: "anna", Password: "secret"}, true},
		{"scram", encrypted, broker.SASL{Mechanism: "scram-sha-512", User: "bert", Password: "secret"}, true},
		{"wrong password", encrypted, broker.SASL{Mechanism: "scram-sha-512", User: "bert", Password: "guess"}, false},
		{"no password", encrypted, broker.SASL{}, false},
		{"in clear", config.TLS{}, broker.SASL{Mechanism: "plain", User: "anna", Password: "secret"}, false},
		{"unknown authority", config.TLS{Enabled: true, ServerName: "localhost"}, broker.SASL{Mechanism: "plain", User: "anna", Password: "secret"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := broker.DefaultConfig()
			cfg.Brokers, cfg.TLS, cfg.SASL = cluster.ListenAddrs(), test.tls, test.sasl
			c, err := broker.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if !test.ok {
				ctx, cancel = context.WithTimeout(ctx, time.Second)
				defer cancel()
			}
			if err := c.Ping(ctx); (err == nil) != test.ok {
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

func TestConfigReportsAllMistakes(t *testing.T) {
	err := broker.Config{
		Brokers: []string{"nonsense"},
		TLS:     config.TLS{CertFile: "a"},
		SASL:    broker.SASL{Mechanism: "kerberos"},

		InstanceID: "a b", SessionTimeout: time.Second, HeartbeatInterval: 500 * time.Millisecond, RebalanceTimeout: 100 * time.Millisecond,
	}.Validate()
	for _, want := range []string{"not host:port", "belong together", "tls.enabled is false", "kerberos", "sasl.user", "instance-id", "session-timeout", "rebalance-timeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: does not say %q", err, want)
		}
	}
	if err := broker.DefaultConfig().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
}
