package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
)

// What a producer's records look like in the log: numbered in each partition.
const (
	plainPartitions = 4
	plainBatch      = 10
	plainEvery      = 20 * time.Millisecond
)

// outcome is what a log holds of what was acknowledged.
type outcome struct {
	Acknowledged int64 `json:"acknowledged"`
	Lost         int64 `json:"lost"`
	Twice        int64 `json:"twice"`
	Disordered   int64 `json:"disordered"`
}

// TestPlainProduce appends beside a chaos run, once as [broker.Producer] does and
// once with kafka-go's Client.Produce, which repeats what was not answered in the
// same way, until its input ends; then it counts. A chaos run starts it: that is
// why it stands alone.
func TestPlainProduce(t *testing.T) {
	addrs := os.Getenv("SILLAGE_PLAIN_KAFKA")
	if addrs == "" {
		t.Skip("SILLAGE_PLAIN_KAFKA is not set: a chaos run starts this test with it")
	}
	cfg := broker.DefaultConfig()
	cfg.Brokers = strings.Split(addrs, ",")
	client, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	transport := &kafka.Transport{DialTimeout: 3 * time.Second, MetadataTTL: time.Second, IdleTimeout: 5 * time.Second}
	defer transport.CloseIdleConnections()
	plain := &kafka.Client{Addr: kafka.TCP(cfg.Brokers...), Timeout: 10 * time.Second, Transport: transport}
	topics := map[string]string{"plain": "chaos.plain", "idempotent": "chaos.idempotent"}
	for _, topic := range topics {
		spec := []broker.TopicSpec{{Name: topic, Partitions: plainPartitions, RetentionMS: -1}}
		for client.EnsureTopics(t.Context(), spec) != nil { // a busy machine; who started this bounds it
			time.Sleep(100 * time.Millisecond)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var appending sync.WaitGroup
	acked := map[string][]int64{}
	for name, topic := range topics {
		acked[name] = make([]int64, plainPartitions)
		for p := range int32(plainPartitions) {
			send := func(first int64) error { return producePlain(t.Context(), plain, topic, p, first) }
			if name == "idempotent" {
				send = idempotent(t, client, topic, p)
			}
			n := &acked[name][p]
			appending.Go(func() { *n = appendUntil(ctx, send) })
		}
	}
	fmt.Println("appending")
	_, _ = io.Copy(io.Discard, os.Stdin)
	cancel()
	appending.Wait()
	found := map[string]outcome{}
	for name, topic := range topics {
		for p := range int32(plainPartitions) {
			o, err := count(t.Context(), client, topic, p, acked[name][p])
			if err != nil {
				t.Fatal(err)
			}
			sum := found[name]
			found[name] = outcome{sum.Acknowledged + o.Acknowledged, sum.Lost + o.Lost, sum.Twice + o.Twice, sum.Disordered + o.Disordered}
		}
	}
	data, err := json.Marshal(found)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("counted %s\n", data)
}

// appendUntil appends one batch after the other, each until it is acknowledged.
func appendUntil(ctx context.Context, send func(first int64) error) (acked int64) {
	for ctx.Err() == nil {
		for send(acked) != nil {
			time.Sleep(plainEvery)
		}
		acked += plainBatch
		time.Sleep(plainEvery)
	}
	return acked
}

func producePlain(ctx context.Context, c *kafka.Client, topic string, partition int32, first int64) error {
	var recs []kafka.Record
	for i := range int64(plainBatch) {
		recs = append(recs, kafka.Record{Value: kafka.NewBytes(strconv.AppendInt(nil, first+i, 10))})
	}
	res, err := c.Produce(ctx, &kafka.ProduceRequest{Topic: topic, Partition: int(partition), RequiredAcks: kafka.RequireAll, Records: kafka.NewRecordReader(recs...)})
	if err != nil {
		return err
	}
	return res.Error
}

func idempotent(t *testing.T, client *broker.Client, topic string, partition int32) func(int64) error {
	var producer *broker.Producer
	return func(first int64) error {
		if producer == nil {
			id, err := client.InitProducerID(t.Context())
			if err != nil {
				return err
			}
			producer = client.NewProducer(id)
		}
		var outs []record.Out
		for i := range int64(plainBatch) {
			outs = append(outs, record.Out{Topic: topic, Partition: partition, Value: strconv.AppendInt(nil, first+i, 10)})
		}
		_, err := producer.Produce(t.Context(), outs)
		if err != nil {
			producer = nil
		}
		return err
	}
}

// count reads a partition's numbers.
func count(ctx context.Context, c *broker.Client, topic string, partition int32, acked int64) (outcome, error) {
	o := outcome{Acknowledged: acked}
	_, end, err := c.Bounds(ctx, topic, partition)
	if err != nil {
		return o, err
	}
	seen := make([]int, acked)
	highest := int64(-1)
	for at := int64(0); at < end; {
		got, err := c.Fetch(ctx, []broker.PartitionOffset{{Topic: topic, Partition: partition, Offset: at}}, time.Second, 4<<20)
		if err == nil {
			err = errors.Join(err, got[0].Err)
		}
		if err != nil {
			return o, err
		}
		at = max(at, got[0].Next)
		for _, r := range got[0].Records {
			n, err := strconv.ParseInt(string(r.Value), 10, 64)
			if err != nil || n >= acked {
				continue
			}
			if n < highest {
				o.Disordered++
			}
			highest = max(highest, n)
			seen[n]++
		}
	}
	for _, n := range seen {
		switch {
		case n == 0:
			o.Lost++
		case n > 1:
			o.Twice += int64(n - 1)
		}
	}
	return o, nil
}
