package stream

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/topics"
)

// healthy is a cluster in which nothing is to be found.
func healthy(brokers, replicas int) (broker.Cluster, []topics.Topic, []Processor) {
	c := broker.Cluster{ID: "c", Topics: map[string]broker.TopicState{}, Session: 6 * time.Second}
	for i := range brokers {
		c.Brokers = append(c.Brokers, broker.Broker{ID: i + 1, Config: map[string]string{
			"auto.create.topics.enable": "false", "group.min.session.timeout.ms": "2000", "group.max.session.timeout.ms": "1800000", "offsets.retention.minutes": "400000",
		}})
	}
	catalogue := topics.All()
	for _, t := range catalogue {
		s := broker.TopicState{Config: map[string]string{
			"min.insync.replicas": "2", "unclean.leader.election.enable": "false", "message.timestamp.type": "LogAppendTime", "max.message.bytes": "1048588",
			"cleanup.policy": "delete", "retention.ms": fmt.Sprint(t.Keep.Milliseconds()),
		}}
		if t.Compact {
			s.Config["cleanup.policy"], s.Config["retention.ms"] = "compact", "-1"
		}
		for i := range 4 {
			s.Partitions = append(s.Partitions, broker.PartitionState{Leader: 1 + i%brokers, Replicas: replicas, InSync: replicas})
		}
		c.Topics[t.Name] = s
	}
	return c, catalogue, []Processor{{Name: "profile.devices", Topic: topics.Events}, {Name: "restock.products", Topic: topics.Supply}}
}

func said(all []state.Finding) (refused, warned []string) {
	for _, f := range all {
		line := f.Where + ": " + f.What
		if f.Fix == "" {
			line += " WITHOUT A FIX"
		}
		if f.Refuse {
			refused = append(refused, line)
		} else {
			warned = append(warned, line)
		}
	}
	return refused, warned
}

func TestDoctorJudges(t *testing.T) {
	set := func(topic, name, value string) func(*broker.Cluster) {
		return func(c *broker.Cluster) { c.Topics[topic].Config[name] = value }
	}
	on := func(name, value string) func(*broker.Cluster) {
		return func(c *broker.Cluster) { c.Brokers[0].Config[name] = value }
	}
	for name, c := range map[string]struct {
		spoil   func(*broker.Cluster)
		refused string // part of the only refusal
		warned  string // part of the only warning
	}{
		"healthy":       {func(*broker.Cluster) {}, "", ""},
		"topic missing": {func(c *broker.Cluster) { delete(c.Topics, topics.Catalog) }, "topic catalog.v1: it is missing", ""},
		"partitions added": {func(c *broker.Cluster) {
			s := c.Topics[topics.Supply]
			s.Partitions = append(s.Partitions, s.Partitions[0])
			c.Topics[topics.Supply] = s
		}, "supply.v1: it has 5 partitions, events.v1 has 4", ""},
		"two replicas": {func(c *broker.Cluster) {
			c.Topics[topics.Events].Partitions[3] = broker.PartitionState{Leader: 1, Replicas: 2, InSync: 2}
		}, "events.v1: replication factor 2", ""},
		"under-replicated":        {func(c *broker.Cluster) { c.Topics[topics.Events].Partitions[1].InSync = 2 }, "events.v1: 1 partitions are under-replicated", ""},
		"no leader":               {func(c *broker.Cluster) { c.Topics[topics.Events].Partitions[1].Leader = -1 }, "1 partitions have no leader", ""},
		"one in sync is enough":   {set(topics.Activity, "min.insync.replicas", "1"), "activity.v1: min.insync.replicas is 1", ""},
		"unclean":                 {set(topics.Activity, "unclean.leader.election.enable", "true"), "unclean leader election is on", ""},
		"clients' clocks":         {set(topics.Events, "message.timestamp.type", "CreateTime"), "message.timestamp.type is CreateTime", ""},
		"small batches":           {set(topics.Events, "max.message.bytes", "100000"), "max.message.bytes is 100000", ""},
		"compacted events":        {set(topics.Events, "cleanup.policy", "compact"), "cleanup.policy is compact, want delete", ""},
		"catalogue deleted":       {set(topics.Catalog, "cleanup.policy", "delete"), "cleanup.policy is delete, want compact", ""},
		"kept too short":          {set(topics.Events, "retention.ms", "3600000"), "", "it is kept for 1h0m0s, the catalogue says 672h0m0s"},
		"kept for ever":           {set(topics.Events, "retention.ms", "-1"), "commits of a stopped service are kept for", "offsets.retention.minutes differs"},
		"topics made by accident": {on("auto.create.topics.enable", "true"), "it makes topics that somebody mistypes", "auto.create.topics.enable differs"},
		"sessions too short":      {on("group.min.session.timeout.ms", "10000"), "the least session timeout is 10000 ms, ours is 6000", "group.min.session.timeout.ms differs"},
		"sessions too long":       {on("group.max.session.timeout.ms", "1000"), "the greatest session timeout is 1000 ms", ""},
		"marks expire first":      {on("offsets.retention.minutes", "10080"), "commits of a stopped service are kept for 168h0m0s, the log of supply.v1 for 4368h0m0s", "offsets.retention.minutes differs: 10080, 400000"},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, catalogue, ps := healthy(3, 3)
			c.spoil(&cluster)
			if name == "kept for ever" { // all three brokers are found
				cluster.Brokers[1].Config["offsets.retention.minutes"], cluster.Brokers[2].Config["offsets.retention.minutes"] = "9000000", "9000000"
			}
			refused, warned := said(judge(cluster, catalogue, ps, false))
			for what, pair := range map[string]struct {
				want string
				got  []string
			}{"refused": {c.refused, refused}, "warned": {c.warned, warned}} {
				if pair.want == "" && len(pair.got) > 0 || pair.want != "" && (len(pair.got) != 1 || !strings.Contains(pair.got[0], pair.want)) || strings.Contains(strings.Join(pair.got, ""), "WITHOUT") {
					t.Errorf("%s %q, want %q alone", what, pair.got, pair.want)
				}
			}
		})
	}
}

// TestDoctorOnADesk: one broker without replicas is warned of, and refused in
// production.
func TestDoctorOnADesk(t *testing.T) {
	cluster, catalogue, ps := healthy(1, 1)
	for _, s := range cluster.Topics {
		maps.Copy(s.Config, map[string]string{"min.insync.replicas": "1"})
	}
	refused, warned := said(judge(cluster, catalogue, ps, false))
	if len(refused) != 0 || len(warned) != 2 || strings.Count(warned[0], ".v1") != len(catalogue) {
		t.Errorf("refused %v, warned of %v: want all topics together", refused, warned)
	}
	inProduction, mild := said(judge(cluster, catalogue, ps, true))
	if d := cmp.Diff(warned, inProduction); d != "" || len(mild) != 0 {
		t.Errorf("in production %v only warned of; refused (-warned of on a desk +refused):\n%s", mild, d)
	}
}
