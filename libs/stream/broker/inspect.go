package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/describegroups"
)

// LargestBatch is the largest batch that a producer appends, in bytes.
const LargestBatch = maxBatch

// Cluster is how brokers and topics are set up.
type Cluster struct {
	ID      string
	Brokers []Broker
	Topics  map[string]TopicState
	Session time.Duration // the session timeout that this client's members ask for
}

// Broker is one broker with its settings.
type Broker struct {
	ID     int
	Addr   string
	Config map[string]string
}

// TopicState is one topic with its settings and where its partitions lie.
type TopicState struct {
	Config     map[string]string
	Partitions []PartitionState
}

// PartitionState says how many brokers keep a partition, have all of it, and
// are away.
type PartitionState struct {
	Leader                    int // -1: none
	Replicas, InSync, Offline int
}

// Inspect reads how brokers and the topics named are set up. Topics that are not
// there are left out; so are settings that the broker does not tell.
func (c *Client) Inspect(ctx context.Context, topics ...string) (Cluster, error) {
	c.refresh(ctx)
	meta, err := c.kafka.Metadata(ctx, &kafka.MetadataRequest{})
	if err != nil {
		return Cluster{}, fmt.Errorf("inspect the cluster: %w", err)
	}
	found := Cluster{Topics: map[string]TopicState{}, Session: c.cfg.SessionTimeout}
	if found.ID, err = c.ClusterID(ctx); err != nil {
		return Cluster{}, err
	}
	wanted := map[string]bool{}
	for _, t := range topics {
		wanted[t] = true
	}
	for _, b := range meta.Brokers {
		config, err := c.configs(ctx, kafka.ResourceTypeBroker, strconv.Itoa(b.ID))
		if err != nil {
			return Cluster{}, err
		}
		found.Brokers = append(found.Brokers, Broker{ID: b.ID, Addr: fmt.Sprintf("%s:%d", b.Host, b.Port), Config: config})
	}
	for _, t := range meta.Topics {
		if !wanted[t.Name] || t.Error != nil {
			continue
		}
		s := TopicState{Partitions: make([]PartitionState, len(t.Partitions))}
		if s.Config, err = c.configs(ctx, kafka.ResourceTypeTopic, t.Name); err != nil {
			return Cluster{}, err
		}
		for _, p := range t.Partitions {
			if p.ID < 0 || p.ID >= len(s.Partitions) {
				return Cluster{}, fmt.Errorf("inspect the cluster: topic %s has %d partitions, one of them is %d", t.Name, len(s.Partitions), p.ID)
			}
			state := PartitionState{Leader: p.Leader.ID, Replicas: len(p.Replicas), InSync: len(p.Isr), Offline: len(p.OfflineReplicas)}
			if p.Error != nil || p.Leader.Host == "" {
				state.Leader = -1
			}
			s.Partitions[p.ID] = state
		}
		found.Topics[t.Name] = s
	}
	return found, nil
}

// configs reads the settings of one broker or topic; none where that is denied.
func (c *Client) configs(ctx context.Context, kind kafka.ResourceType, name string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.kafka.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{ResourceType: kind, ResourceName: name}}})
	if err != nil {
		return nil, fmt.Errorf("read the settings of %s: %w", name, err)
	}
	settings := map[string]string{}
	for _, r := range res.Resources {
		if r.Error != nil {
			if errors.Is(r.Error, kafka.TopicAuthorizationFailed) || errors.Is(r.Error, kafka.ClusterAuthorizationFailed) {
				continue
			}
			return nil, fmt.Errorf("read the settings of %s: %w", name, r.Error)
		}
		for _, e := range r.ConfigEntries {
			settings[e.ConfigName] = e.ConfigValue
		}
	}
	return settings, nil
}

// memberTries bounds the wait for a coordinator where an operator waits, too.
const memberTries = 12

// Members is how many members a group has.
func (c *Client) Members(ctx context.Context, group string) (int, error) {
	n := 0
	err := c.again(ctx, memberTries, uncoordinated, func() error {
		// Not kafka-go's own call: it cannot read what members of today say of
		// themselves.
		m, err := c.roundTrip(ctx, &describegroups.Request{Groups: []string{group}})
		if err != nil {
			return err
		}
		for _, g := range m.(*describegroups.Response).Groups {
			if code := kafka.Error(g.ErrorCode); code != 0 && code != errGroupNotFound {
				return code
			}
			n = len(g.Members)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("list the members of %s: %w", group, err)
	}
	return n, nil
}
