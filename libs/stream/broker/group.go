package broker

import (
	"context"
	"errors"
	"fmt"

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

// ErrMembers says that a group with members takes commits from them alone.
var ErrMembers = errors.New("the group has members: stop them first (one that was killed stays a member until its session timeout is over)")

// Commit commits for a group that has no members: what an operator does. Members
// commit with [Member.Commit].
func (c *Client) Commit(ctx context.Context, group, topic string, offs map[int32]Committed) error {
	if len(offs) == 0 {
		return nil
	}
	req := &offsetcommit.Request{GroupID: group, GenerationID: -1, RetentionTimeMs: -1, Topics: []offsetcommit.RequestTopic{{Name: topic}}}
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
	if errors.Is(err, errUnknownMember) {
		return fmt.Errorf("commit for %s: %w", group, ErrMembers)
	}
	if err != nil {
		return fmt.Errorf("commit for %s: %w", group, err)
	}
	return nil
}
