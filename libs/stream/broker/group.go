package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/offsetcommit"
	"github.com/segmentio/kafka-go/protocol/offsetfetch"
)

// Committed is what a group has committed for a partition.
type Committed struct {
	Offset   int64
	Metadata string
}

// Committed reads a group's commits of a topic. Partitions without one are
// left out.
func (c *Client) Committed(ctx context.Context, group, topic string) (map[int32]Committed, error) {
	n, err := c.Partitions(ctx, topic)
	if err != nil {
		return nil, err
	}
	req := &offsetfetch.Request{GroupID: group, Topics: []offsetfetch.RequestTopic{{Name: topic}}}
	for i := range n {
		req.Topics[0].PartitionIndexes = append(req.Topics[0].PartitionIndexes, int32(i))
	}
	found := map[int32]Committed{}
	err = c.again(ctx, coordinatorTries, uncoordinated, func() error {
		m, err := c.roundTrip(ctx, req)
		if err != nil {
			return err
		}
		res := m.(*offsetfetch.Response)
		if res.ErrorCode != 0 && kafka.Error(res.ErrorCode) != errGroupNotFound {
			return kafka.Error(res.ErrorCode)
		}
		for _, t := range res.Topics {
			for _, p := range t.Partitions {
				if p.ErrorCode != 0 {
					return kafka.Error(p.ErrorCode)
				}
				if p.CommittedOffset >= 0 {
					found[p.PartitionIndex] = Committed{Offset: p.CommittedOffset, Metadata: p.Metadata}
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read commits of %s: %w", group, err)
	}
	return found, nil
}

// coordinatorTries bounds the wait for a group's coordinator to some ten
// seconds: a new cluster has none until the first group asks, and one that has
// moved reads its log first. The transport sends the request to any broker
// where the coordinator is not known, which then says that it is not the one.
const coordinatorTries = 22

const errGroupNotFound = kafka.Error(69)

// Commit commits for a group that has no members: what an operator does.
func (c *Client) Commit(ctx context.Context, group, topic string, offs map[int32]Committed) error {
	return c.commit(ctx, group, -1, "", topic, offs)
}

func (c *Client) commit(ctx context.Context, group string, generation int32, member, topic string, offs map[int32]Committed) error {
	if len(offs) == 0 {
		return nil
	}
	req := &offsetcommit.Request{GroupID: group, GenerationID: generation, MemberID: member, RetentionTimeMs: -1, Topics: []offsetcommit.RequestTopic{{Name: topic}}}
	for p, at := range offs {
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, offsetcommit.RequestPartition{
			PartitionIndex: p, CommittedOffset: at.Offset, CommittedMetadata: at.Metadata,
		})
	}
	err := c.again(ctx, coordinatorTries, uncoordinated, func() error {
		m, err := c.roundTrip(ctx, req)
		if err != nil {
			return err
		}
		var errs []error
		for _, t := range m.(*offsetcommit.Response).Topics {
			for _, p := range t.Partitions {
				if p.ErrorCode != 0 {
					errs = append(errs, fmt.Errorf("%s/%d: %w", t.Name, p.PartitionIndex, kafka.Error(p.ErrorCode)))
				}
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return fmt.Errorf("commit for %s: %w", group, err)
	}
	return nil
}

// Generation is a member's share of the topics, until the next rebalance.
type Generation struct {
	Assigned map[string][]int32

	client *Client
	group  string
	id     int32
	member string
}

// Commit commits as this generation's member; the coordinator refuses it once
// the generation is over.
func (g Generation) Commit(ctx context.Context, topic string, offs map[int32]Committed) error {
	return g.client.commit(ctx, g.group, g.id, g.member, topic, offs)
}

// Timing of group membership: a dead member is noticed after session, the
// others wait for a member's end of work up to rebalance.
const (
	heartbeat   = 300 * time.Millisecond
	session     = 6 * time.Second
	rebalance   = 5 * time.Second
	joinBackoff = 150 * time.Millisecond
)

// Join is a member of group until ctx ends. For each generation it calls run
// with a context that ends with the generation (or with ctx); the next one
// begins only after run has returned. It returns nil after it has left the
// group.
func (c *Client) Join(ctx context.Context, group string, topics []string, run func(context.Context, Generation)) error {
	g, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: group, Brokers: c.cfg.Brokers, Dialer: c.dialer, Topics: topics,
		HeartbeatInterval: heartbeat, SessionTimeout: session, RebalanceTimeout: rebalance, JoinGroupBackoff: joinBackoff,
		Timeout: 5 * time.Second, StartOffset: kafka.FirstOffset,
	})
	if err != nil {
		return fmt.Errorf("join group %s: %w", group, err)
	}
	for {
		gen, err := g.Next(ctx)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, kafka.ErrGroupClosed) {
				break
			}
			// A coordinator that moves or restarts: the library tries again.
			if !backoff(ctx, 4) {
				break
			}
			continue
		}
		assigned := Generation{Assigned: map[string][]int32{}, client: c, group: group, id: gen.ID, member: gen.MemberID}
		for topic, parts := range gen.Assignments {
			for _, p := range parts {
				assigned.Assigned[topic] = append(assigned.Assigned[topic], int32(p.ID))
			}
		}
		gen.Start(func(over context.Context) {
			// The generation's own context has no parent: it is joined to ctx.
			both, cancel := context.WithCancel(ctx)
			defer cancel()
			stop := context.AfterFunc(over, cancel)
			defer stop()
			run(both, assigned)
			<-both.Done() // returning earlier would end the generation
		})
	}
	if err := g.Close(); err != nil {
		return fmt.Errorf("leave group %s: %w", group, err)
	}
	return nil
}
