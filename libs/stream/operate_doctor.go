package stream

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
)

// Doctor looks for settings of broker and store, and for state, that put what is
// promised at risk. Production refuses what one broker on a desk may do.
func (o *Operator) Doctor(ctx context.Context, ps []Processor, production bool) ([]state.Finding, error) {
	found, err := o.Store.Doctor(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, t := range topics.All() {
		names = append(names, t.Name)
	}
	cluster, err := o.Client.Inspect(ctx, names...)
	if err != nil {
		return nil, err
	}
	found = append(found, judge(cluster, topics.All(), ps, production)...)
	held, err := o.heldBy(ctx, cluster, ps)
	return append(found, held...), err
}

// judge judges a cluster's settings.
func judge(c broker.Cluster, catalogue []topics.Topic, ps []Processor, production bool) []state.Finding {
	j := &judgement{alone: len(c.Brokers) == 1 && !production, session: c.Session}
	for _, b := range c.Brokers {
		j.broker(b)
	}
	j.alike(c.Brokers)
	count := len(c.Topics[topics.Events].Partitions)
	for _, t := range catalogue {
		s, ok := c.Topics[t.Name]
		if !ok {
			j.refuse("topic "+t.Name, "sillage topics apply", "it is missing")
			continue
		}
		j.topic(t, s, count)
	}
	j.offsets(c, ps)
	return together(j.found)
}

// together joins what is found alike of several topics.
func together(all []state.Finding) []state.Finding {
	var joined []state.Finding
	for _, f := range all {
		i := slices.IndexFunc(joined, func(o state.Finding) bool {
			return o.Refuse == f.Refuse && o.What == f.What && o.Fix == f.Fix && strings.HasPrefix(o.Where, "topic") && strings.HasPrefix(f.Where, "topic")
		})
		if i < 0 {
			joined = append(joined, f)
			continue
		}
		joined[i].Where = strings.Replace(joined[i].Where, "topic ", "topics ", 1) + ", " + strings.TrimPrefix(f.Where, "topic ")
	}
	return joined
}

type judgement struct {
	alone   bool          // one broker, on which less is expected
	session time.Duration // that members ask for
	found   []state.Finding
}

func (j *judgement) add(refuse bool, where, fix, format string, args ...any) {
	j.found = append(j.found, state.Finding{Refuse: refuse, Where: where, What: fmt.Sprintf(format, args...), Fix: fix})
}

func (j *judgement) refuse(where, fix, format string, args ...any) {
	j.add(true, where, fix, format, args...)
}

// number reads a setting; false where the broker does not tell it.
func number(config map[string]string, name string) (int64, bool) {
	n, err := strconv.ParseInt(config[name], 10, 64)
	return n, err == nil
}

func (j *judgement) broker(b broker.Broker) {
	where := "broker " + strconv.Itoa(b.ID)
	if b.Config["auto.create.topics.enable"] == "true" {
		j.refuse(where, "auto.create.topics.enable=false", "it makes topics that somebody mistypes, with its own number of partitions")
	}
	ms := j.session.Milliseconds()
	if least, ok := number(b.Config, "group.min.session.timeout.ms"); ok && ms < least {
		j.refuse(where, fmt.Sprintf("group.min.session.timeout.ms=%d or less", ms), "the least session timeout is %d ms, ours is %d: members are refused", least, ms)
	}
	if most, ok := number(b.Config, "group.max.session.timeout.ms"); ok && ms > most {
		j.refuse(where, fmt.Sprintf("group.max.session.timeout.ms=%d or more", ms), "the greatest session timeout is %d ms, ours is %d: members are refused", most, ms)
	}
}

// alike warns of settings in which the brokers differ: what holds depends then on
// who leads.
func (j *judgement) alike(all []broker.Broker) {
	for _, name := range []string{"auto.create.topics.enable", "min.insync.replicas", "default.replication.factor", "unclean.leader.election.enable", "message.max.bytes", "offsets.retention.minutes", "group.min.session.timeout.ms"} {
		values := map[string]bool{}
		for _, b := range all {
			values[b.Config[name]] = true
		}
		if len(values) > 1 {
			j.add(false, "brokers", "give all of them the same", "%s differs: %s", name, strings.Join(slices.Sorted(maps.Keys(values)), ", "))
		}
	}
}

func (j *judgement) topic(t topics.Topic, s broker.TopicState, count int) {
	where := "topic " + t.Name
	set := func(name, value string) string {
		return fmt.Sprintf("kafka-configs.sh --alter --entity-type topics --entity-name NAME --add-config %s=%s", name, value)
	}
	if n := len(s.Partitions); n != count {
		j.refuse(where, "the number is chosen when the topics are made, for good: make the topics again, and let the shops be replayed", "it has %d partitions, %s has %d: keys lie elsewhere than their state", n, topics.Events, count)
	}
	few, behind, leaderless := 0, 0, 0
	replicas := 0
	for _, p := range s.Partitions {
		replicas = p.Replicas
		if p.Replicas < 3 {
			few++
		}
		if p.InSync < p.Replicas || p.Offline > 0 {
			behind++
		}
		if p.Leader < 0 {
			leaderless++
		}
	}
	if few > 0 {
		j.add(!j.alone, where, "kafka-reassign-partitions.sh, to 3 replicas", "replication factor %d: what is acknowledged is lost with the broker's disk", replicas)
	}
	if leaderless > 0 {
		j.refuse(where, "start the brokers that have them", "%d partitions have no leader", leaderless)
	} else if behind > 0 {
		j.refuse(where, "start the brokers that are away, or see why they are slow", "%d partitions are under-replicated", behind)
	}
	if n, ok := number(s.Config, "min.insync.replicas"); ok && n < 2 {
		j.add(!j.alone, where, set("min.insync.replicas", "2"), "min.insync.replicas is %d: one broker alone may acknowledge, and take it with it", n)
	}
	if s.Config["unclean.leader.election.enable"] == "true" {
		j.refuse(where, set("unclean.leader.election.enable", "false"), "unclean leader election is on: acknowledged records disappear, and producers are not told")
	}
	if v := s.Config["message.timestamp.type"]; v != "" && v != "LogAppendTime" {
		j.refuse(where, set("message.timestamp.type", "LogAppendTime"), "message.timestamp.type is %s: retention and idempotence would hang on the clocks of clients", v)
	}
	if n, ok := number(s.Config, "max.message.bytes"); ok && n < broker.LargestBatch {
		j.refuse(where, set("max.message.bytes", "1048588"), "max.message.bytes is %d, our batches have up to %d", n, broker.LargestBatch)
	}
	want := "delete"
	if t.Compact {
		want = "compact"
	}
	if v := s.Config["cleanup.policy"]; v != "" && v != want {
		j.refuse(where, set("cleanup.policy", want), "cleanup.policy is %s, want %s", v, want)
	}
	if ms, ok := number(s.Config, "retention.ms"); ok && !t.Compact && ms >= 0 && ms < t.Keep.Milliseconds() {
		j.add(false, where, set("retention.ms", strconv.FormatInt(t.Keep.Milliseconds(), 10)), "it is kept for %v, the catalogue says %v", time.Duration(ms)*time.Millisecond, t.Keep)
	}
}

// offsets compares how long commits are kept with how long logs are: a mark that
// expires before its log makes a processor silent.
func (j *judgement) offsets(c broker.Cluster, ps []Processor) {
	const ever = 10 * 365 * 24 * 60 // minutes
	longest, topic := int64(0), ""
	for _, p := range ps {
		ms, ok := number(c.Topics[p.Topic].Config, "retention.ms")
		if !ok {
			continue
		}
		minutes := ms / 60_000
		if ms < 0 {
			minutes = ever
		}
		if minutes > longest {
			longest, topic = minutes, p.Topic
		}
	}
	for _, b := range c.Brokers {
		if kept, ok := number(b.Config, "offsets.retention.minutes"); ok && kept < longest {
			j.refuse("broker "+strconv.Itoa(b.ID), fmt.Sprintf("offsets.retention.minutes=%d", longest), "commits of a stopped service are kept for %v, the log of %s for %v: a service that was stopped in between comes back silent",
				time.Duration(kept)*time.Minute, topic, time.Duration(longest)*time.Minute)
		}
	}
}

// heldBy compares state with the logs that are there.
func (o *Operator) heldBy(ctx context.Context, c broker.Cluster, ps []Processor) ([]state.Finding, error) {
	j := &judgement{}
	for _, p := range ps {
		n := len(c.Topics[p.Topic].Partitions)
		if n == 0 {
			continue
		}
		logID, err := o.Client.LogID(ctx, p.Topic)
		if err != nil {
			return nil, err
		}
		marks, err := o.Client.Committed(ctx, p.Group(), p.Topic)
		if err != nil {
			return nil, err
		}
		var have, never []string
		for i := range int32(2 * n) { // also of partitions that are no more
			raw, err := o.Store.Fence(ctx, p.Tag(i))
			if err != nil {
				return nil, err
			}
			where := fmt.Sprintf("%s/%d", p.Name, i)
			_, marked := marks[i]
			switch {
			case raw == "" && int(i) < n && marked:
				j.add(false, where, "start its service, or sillage rebuild "+p.Name, "it has a mark and no state: it is folded again from the log")
				continue
			case raw == "" && int(i) < n:
				never = append(never, strconv.Itoa(int(i)))
				continue
			case raw == "":
				continue
			case int(i) >= n:
				j.refuse(where, "give the topic back its partitions, by making it again", "there is state of partition %d, and %s has %d partitions", i, p.Topic, n)
				continue
			}
			have = append(have, strconv.Itoa(int(i)))
			j.fence(where, p, raw, logID)
		}
		if len(have) > 0 && len(never) > 0 {
			j.refuse(p.Name, "if partitions were added to "+p.Topic+", make it again with the number it had; if its service has just been started for the first time, ask again",
				"partitions %s have state, %s have never been claimed", strings.Join(have, ", "), strings.Join(never, ", "))
		}
	}
	return j.found, nil
}

// fence judges one partition's.
func (j *judgement) fence(where string, p Processor, raw, logID string) {
	f, err := step.ParseFence(raw)
	switch {
	case err != nil:
		j.refuse(where, "sillage rebuild "+p.Name, "its fence is unreadable: %v", err)
	case f.LogID != logID:
		j.refuse(where, "if the topic was made again on purpose, empty the store; if this is another cluster, name the right one", "its state is of log %s, the topic is %s", f.LogID, logID)
	case f.FoldVersion > p.FoldVersion:
		j.refuse(where, "use the program that wrote it, or sillage rebuild "+p.Name, "its state is of fold version %d, this program has %d", f.FoldVersion, p.FoldVersion)
	case f.Voice.Silent != "":
		j.add(false, where, "sillage speak "+p.Name+" --from mark|now|OFFSET", "%v", silence(f.Voice.Silent))
	}
}
