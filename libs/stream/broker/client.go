package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// Config says where the brokers are and how to speak with them.
type Config struct {
	Brokers  []string `yaml:"brokers" usage:"host:port of one or more Kafka brokers"`
	ClientID string   `yaml:"client-id" usage:"name by which the brokers know this process"`
	TLS      TLS      `yaml:"tls"`
	SASL     SASL     `yaml:"sasl"`

	// Dial replaces the network, in tests.
	Dial func(ctx context.Context, network, address string) (net.Conn, error) `yaml:"-"`
}

// TLS is how connections are encrypted.
type TLS struct {
	Enabled    bool   `yaml:"enabled" usage:"encrypt connections"`
	CAFile     string `yaml:"ca-file" usage:"PEM file of the authorities to trust; empty: the system's"`
	CertFile   string `yaml:"cert-file" usage:"PEM file of this client's certificate"`
	KeyFile    string `yaml:"key-file" usage:"PEM file of this client's key"`
	ServerName string `yaml:"server-name" usage:"name expected in the server's certificate; empty: the host dialled"`
}

// SASL is how this client proves who it is.
type SASL struct {
	Mechanism string `yaml:"mechanism" usage:"plain, scram-sha-256 or scram-sha-512; empty: none"`
	User      string `yaml:"user" usage:"user name"`
	Password  string `yaml:"password" usage:"password" secret:"true"`
}

// DefaultConfig is a broker on this machine, in clear.
func DefaultConfig() Config {
	return Config{Brokers: []string{"127.0.0.1:9092"}, ClientID: "sillage"}
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	if len(c.Brokers) == 0 {
		errs = append(errs, errors.New("brokers: none given"))
	}
	for _, b := range c.Brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			errs = append(errs, fmt.Errorf("brokers: %q is not host:port", b))
		}
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		errs = append(errs, errors.New("tls: cert-file and key-file belong together"))
	}
	if !c.TLS.Enabled && (c.TLS.CAFile != "" || c.TLS.CertFile != "") {
		errs = append(errs, errors.New("tls: files are given, but tls.enabled is false"))
	}
	switch strings.ToLower(c.SASL.Mechanism) {
	case "", "plain", "scram-sha-256", "scram-sha-512":
	default:
		errs = append(errs, fmt.Errorf("sasl.mechanism: %q is none of plain, scram-sha-256, scram-sha-512", c.SASL.Mechanism))
	}
	if c.SASL.Mechanism != "" && c.SASL.User == "" {
		errs = append(errs, errors.New("sasl.user: missing"))
	}
	return errors.Join(errs...)
}

// Load reads the certificates and makes a TLS configuration; nil where TLS is
// off.
func (t TLS) Load() (*tls.Config, error) {
	if !t.Enabled {
		return nil, nil //nolint:nilnil // no TLS is a configuration, too
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read authorities: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read authorities: %s holds no certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}

func (s SASL) mechanism() (sasl.Mechanism, error) {
	switch strings.ToLower(s.Mechanism) {
	case "plain":
		return plain.Mechanism{Username: s.User, Password: s.Password}, nil
	case "scram-sha-256":
		return scram.Mechanism(scram.SHA256, s.User, s.Password)
	case "scram-sha-512":
		return scram.Mechanism(scram.SHA512, s.User, s.Password)
	}
	return nil, nil //nolint:nilnil // no SASL is a configuration, too
}

// Errors that a caller may want to know.
var (
	// ErrOutOfRange: the offset is not in the log (any more, or yet).
	ErrOutOfRange = errors.New("offset out of range")
	// ErrOwnershipLost: another producer with a higher epoch has written.
	ErrOwnershipLost = errors.New("a newer owner writes to this partition")
	// ErrTooLarge: a record is larger than the broker takes.
	ErrTooLarge = errors.New("record too large for the broker")
)

// requestTimeout bounds one request; what is worth it is tried again.
const requestTimeout = 10 * time.Second

// Client speaks with one Kafka cluster. It is safe for concurrent use.
type Client struct {
	cfg       Config
	addr      net.Addr
	transport *kafka.Transport
	kafka     *kafka.Client
	dialer    *kafka.Dialer
	cancel    context.CancelFunc
	layout    atomic.Pointer[layout]
}

// layout is what the client knows of topics and leaders.
type layout struct {
	at     time.Time
	topics map[string][]int32 // leader of each partition, -1 where there is none
}

// New makes a client. It does not dial yet: see [Client.Ping].
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	encryption, err := cfg.TLS.Load()
	if err != nil {
		return nil, err
	}
	mechanism, err := cfg.SASL.mechanism()
	if err != nil {
		return nil, fmt.Errorf("prepare sasl: %w", err)
	}
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 3 * time.Second}).DialContext
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{cfg: cfg, addr: kafka.TCP(cfg.Brokers...), cancel: cancel}
	c.transport = &kafka.Transport{
		Dial: dial, DialTimeout: 3 * time.Second, IdleTimeout: 30 * time.Second, MetadataTTL: time.Second,
		ClientID: cfg.ClientID, TLS: encryption, SASL: mechanism, Context: ctx,
	}
	c.kafka = &kafka.Client{Addr: c.addr, Timeout: requestTimeout, Transport: c.transport}
	c.dialer = &kafka.Dialer{ClientID: cfg.ClientID, DialFunc: dial, Timeout: 3 * time.Second, TLS: encryption, SASLMechanism: mechanism}
	return c, nil
}

// Close ends all connections.
func (c *Client) Close() {
	c.transport.CloseIdleConnections()
	c.cancel()
}

// roundTrip sends one request, at most requestTimeout long.
func (c *Client) roundTrip(ctx context.Context, req protocol.Message) (protocol.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.transport.RoundTrip(ctx, c.addr, req)
}

// refresh makes the transport ask for leaders again.
func (c *Client) refresh(ctx context.Context) {
	// Asking for a topic that cannot exist is what makes the transport ask the
	// broker rather than its cache; the name is refused, so nothing is created.
	_, _ = c.roundTrip(ctx, &metadata.Request{TopicNames: []string{"!refresh"}, AllowAutoTopicCreation: true})
	c.layout.Store(nil)
}

// leaders returns the leader of each partition of a topic.
func (c *Client) leaders(ctx context.Context, topic string) ([]int32, error) {
	l := c.layout.Load()
	if l == nil || time.Since(l.at) > time.Second {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		res, err := c.kafka.Metadata(ctx, &kafka.MetadataRequest{})
		if err != nil {
			return nil, fmt.Errorf("read metadata: %w", err)
		}
		l = &layout{at: time.Now(), topics: make(map[string][]int32, len(res.Topics))}
		for _, t := range res.Topics {
			leaders := make([]int32, len(t.Partitions))
			for _, p := range t.Partitions {
				if p.ID < 0 || p.ID >= len(leaders) {
					return nil, fmt.Errorf("read metadata: topic %s has %d partitions, one of them is %d", t.Name, len(leaders), p.ID)
				}
				leaders[p.ID] = int32(p.Leader.ID)
				if p.Error != nil || p.Leader.Host == "" {
					leaders[p.ID] = -1
				}
			}
			l.topics[t.Name] = leaders
		}
		c.layout.Store(l)
	}
	leaders, ok := l.topics[topic]
	if !ok {
		return nil, fmt.Errorf("topic %s: %w", topic, kafka.UnknownTopicOrPartition)
	}
	return leaders, nil
}

// Ping asks whether a broker answers.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.ClusterID(ctx)
	return err
}

// backoff waits before attempt number n is repeated; false where ctx ended.
func backoff(ctx context.Context, n int) bool {
	t := time.NewTimer(min(10*time.Millisecond<<min(n, 6), 500*time.Millisecond))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// passing tells whether an error may be gone after a moment.
func passing(err error) bool {
	var code kafka.Error
	if errors.As(err, &code) {
		switch code {
		case kafka.NotEnoughReplicas, kafka.NotEnoughReplicasAfterAppend, kafka.KafkaStorageError,
			kafka.GroupLoadInProgress, kafka.GroupCoordinatorNotAvailable, kafka.NotCoordinatorForGroup:
			return true
		}
		return code.Temporary() || code.Timeout()
	}
	return !errors.Is(err, context.Canceled)
}
