package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/sillage-io/sillage/libs/config"
)

// Config says where the brokers are and how to speak with them.
type Config struct {
	Brokers  []string   `yaml:"brokers" usage:"host:port of one or more Kafka brokers"`
	ClientID string     `yaml:"client-id" usage:"name by which the brokers know this process"`
	TLS      config.TLS `yaml:"tls"`
	SASL     SASL       `yaml:"sasl"`

	// Dial replaces the network, in tests.
	Dial func(ctx context.Context, network, address string) (net.Conn, error) `yaml:"-"`
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
	errs = append(errs, c.TLS.Validate())
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
	// ErrOtherLog: the topic is not there (yet, after a broker's start), or was
	// deleted and made again.
	ErrOtherLog = errors.New("the broker does not know this log")
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

// again calls f until it succeeds, fails with an error that worth says is not
// worth another try, or has failed tries times more.
func (c *Client) again(ctx context.Context, tries int, worth func(error) bool, f func() error) error {
	for n := 0; ; n++ {
		err := f()
		if err == nil || n >= tries || ctx.Err() != nil || !worth(err) {
			return err
		}
		c.refresh(ctx)
		backoff(ctx, n)
	}
}

// uncoordinated tells whether a group's coordinator is away, moves or was not
// asked. That a member's generation is over is another thing: it will not pass.
func uncoordinated(err error) bool {
	if code, ok := errors.AsType[kafka.Error](err); ok {
		return code == kafka.GroupLoadInProgress || code == kafka.GroupCoordinatorNotAvailable || code == kafka.NotCoordinatorForGroup
	}
	return passing(err)
}

// passing tells whether an error may be gone after a moment.
func passing(err error) bool {
	if code, ok := errors.AsType[kafka.Error](err); ok {
		switch code {
		case kafka.NotEnoughReplicas, kafka.NotEnoughReplicasAfterAppend, kafka.KafkaStorageError,
			kafka.GroupLoadInProgress, kafka.GroupCoordinatorNotAvailable, kafka.NotCoordinatorForGroup:
			return true
		}
		return code.Temporary() || code.Timeout()
	}
	return !errors.Is(err, context.Canceled)
}
