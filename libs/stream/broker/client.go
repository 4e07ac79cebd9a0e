package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
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

	// Membership of consumer groups.
	InstanceID        string        `yaml:"instance-id" usage:"stable name of this process among those of its kind, or hostname for that of the machine: killed and back within the session timeout it goes on with the same partitions, and nobody else stops; empty: it begins anew, and the dead one is waited for"`
	SessionTimeout    time.Duration `yaml:"session-timeout" usage:"after how long without a sign of life the others take over; within the brokers' group.min.session.timeout.ms and group.max.session.timeout.ms"`
	HeartbeatInterval time.Duration `yaml:"heartbeat-interval" usage:"how often to give a sign of life, and to hear that members come or go"`
	RebalanceTimeout  time.Duration `yaml:"rebalance-timeout" usage:"how long the others wait for this process when they share out anew"`

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
	return Config{
		Brokers: []string{"127.0.0.1:9092"}, ClientID: "sillage",
		SessionTimeout: 6 * time.Second, HeartbeatInterval: 200 * time.Millisecond, RebalanceTimeout: 5 * time.Second,
	}
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
	if !validInstanceID.MatchString(c.InstanceID) {
		errs = append(errs, fmt.Errorf("instance-id: %q is not made of up to 249 letters, digits, dots, dashes and underscores", c.InstanceID))
	}
	if c.HeartbeatInterval <= 0 || c.SessionTimeout < 3*c.HeartbeatInterval {
		errs = append(errs, fmt.Errorf("session-timeout: %v is below three times heartbeat-interval, %v", c.SessionTimeout, c.HeartbeatInterval))
	}
	if c.RebalanceTimeout < c.HeartbeatInterval {
		errs = append(errs, fmt.Errorf("rebalance-timeout: %v is below heartbeat-interval, %v", c.RebalanceTimeout, c.HeartbeatInterval))
	}
	return errors.Join(errs...)
}

// instanceHostname as an instance id stands for the host's name: a container's
// stays the same when it is started again, and no other replica has it.
const instanceHostname = "hostname"

// validInstanceID is what a broker takes.
var validInstanceID = regexp.MustCompile(`^[a-zA-Z0-9._-]{0,249}$`)

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
	// ErrRecreated: the topic was deleted and made again since it was first read.
	ErrRecreated = errors.New("the topic is another one by now")
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
	cancel    context.CancelFunc
	conns     *conns
	layout    atomic.Pointer[layout]

	idsMu sync.Mutex
	ids   map[string]topicID // of the topics that are read

	refreshing chan struct{} // 1: held by who asks for leaders
	refreshed  time.Time     // guarded by refreshing
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
	if cfg.InstanceID == instanceHostname {
		if cfg.InstanceID, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("take the host's name as instance id: %w", err)
		}
		if err := cfg.Validate(); err != nil {
			return nil, err
		}
	}
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 3 * time.Second}).DialContext
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{
		cfg: cfg, addr: kafka.TCP(cfg.Brokers...), cancel: cancel,
		conns: &conns{open: map[*conn]struct{}{}}, ids: map[string]topicID{}, refreshing: make(chan struct{}, 1),
	}
	dial = c.conns.dialer(dial)
	c.transport = &kafka.Transport{
		Dial: dial, DialTimeout: 3 * time.Second, IdleTimeout: 30 * time.Second, MetadataTTL: time.Second,
		ClientID: cfg.ClientID, TLS: encryption, SASL: mechanism, Context: ctx,
	}
	c.kafka = &kafka.Client{Addr: c.addr, Timeout: requestTimeout, Transport: c.transport}
	return c, nil
}

// Close ends all connections.
func (c *Client) Close() {
	c.transport.CloseIdleConnections()
	c.cancel()
	c.conns.close()
}

// roundTrip sends one request, at most requestTimeout long.
func (c *Client) roundTrip(ctx context.Context, req protocol.Message) (protocol.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.transport.RoundTrip(ctx, c.addr, req)
}

// refreshEvery bounds how often the brokers are asked for leaders: when one goes,
// everybody who spoke with it asks at once.
const refreshEvery = 50 * time.Millisecond

// refresh makes the transport ask for leaders again; one answer serves all who
// ask meanwhile.
func (c *Client) refresh(ctx context.Context) {
	select {
	case c.refreshing <- struct{}{}:
		defer func() { <-c.refreshing }()
	case <-ctx.Done():
		return
	}
	if time.Since(c.refreshed) < refreshEvery {
		return
	}
	// Asking for a topic that cannot exist is what makes the transport ask the
	// broker rather than its cache; the name is refused, so nothing is created.
	_, _ = c.roundTrip(ctx, &metadata.Request{TopicNames: []string{"!refresh"}, AllowAutoTopicCreation: true})
	c.layout.Store(nil)
	c.refreshed = time.Now()
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
	return pause(ctx, min(10*time.Millisecond<<min(n, 6), 500*time.Millisecond))
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
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
