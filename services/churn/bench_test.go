package churn_test

import (
	"fmt"
	"strconv"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	domain "github.com/sillage-io/sillage/libs/domain/churn"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/testkit"
	"github.com/sillage-io/sillage/libs/topics"
	churnv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/churn/v1"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	profilev1 "github.com/sillage-io/sillage/proto/gen/go/sillage/profile/v1"
	"github.com/sillage-io/sillage/services/churn"
)

// BenchmarkFold is what a record of churn.customers costs when its partition is
// folded again: half orders, half visits, of 2,000 customers, with a tick an hour.
func BenchmarkFold(b *testing.B) {
	correction := &domain.Correction{Intercept: .1}
	for i := range correction.Weights {
		correction.Weights[i] = .1 - .01*float64(i)
	}
	regular := domain.DefaultSetting()
	regular.Params.K = 2
	corrected := domain.DefaultSetting()
	corrected.Correction = correction
	for name, s := range map[string]domain.Setting{"shipped": domain.DefaultSetting(), "k=2": regular, "corrected": corrected} {
		b.Run(name, func(b *testing.B) {
			p := churn.Processor(config())
			log := benchLog(b, domain.ModelOf("bench", s, domain.Learnt{}))
			var used time.Duration
			for b.Loop() {
				folder := p.New(p.Config("activity", 0, 1))
				if err := folder.Restore(step.State{}, step.Fence{LogID: "activity"}); err != nil {
					b.Fatal(err)
				}
				before := processorTime(b)
				for rest := log; len(rest) > 0; {
					var err error
					if _, rest, err = folder.Fold(rest); err != nil {
						b.Fatal(err)
					}
					folder.Settled()
				}
				used += processorTime(b) - before
			}
			b.ReportMetric(float64(used)/float64(b.N)/float64(len(log))/1e3, "cpu-us/record")
		})
	}
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// benchLog is a partition of activity.v1 in which a model stands before all else.
func benchLog(b *testing.B, m domain.Model) []record.Record {
	b.Helper()
	file, err := m.AppendJSON(nil)
	if err != nil {
		b.Fatal(err)
	}
	var log []record.Record
	add := func(key, kind string, at time.Time, m proto.Message) {
		value, err := proto.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		n := int64(len(log))
		r := record.Record{Topic: topics.Activity, Offset: n, AppendTime: at.UnixMilli(), Value: value, Headers: []record.Header{
			{Key: record.HeaderID, Value: fmt.Appendf(nil, "fact-%d", n)},
			{Key: record.HeaderType, Value: []byte(kind)},
			{Key: record.HeaderShop, Value: []byte(testkit.Shop)},
			{Key: record.HeaderTime, Value: strconv.AppendInt(nil, at.UnixMilli(), 10)},
			{Key: record.HeaderEffective, Value: strconv.AppendInt(nil, at.UnixMicro(), 10)},
			{Key: record.HeaderPosition, Value: []byte(record.Position{Log: "events", Offset: n}.String())},
		}}
		if key != "" {
			r.Key = []byte(testkit.Shop + "/" + key)
		}
		log = append(log, r)
	}
	add("", topics.TypeChurnModel, opening, &churnv1.Model{Model: file})
	for i := range 60_000 {
		at := opening.Add(time.Duration(i) * 5 * time.Minute)
		who := fmt.Sprintf("%032x", (i/2)*7919%2000)
		a := order(fmt.Sprint(i), 30)
		if i%2 == 0 {
			a = &profilev1.Activity{Known: true, Kind: eventv1.Kind_KIND_SESSION_ENDED}
		}
		a.ProfileId, a.EventTimeMs = who, at.UnixMilli()
		add(who, topics.TypeActivity, at, a)
		if i%12 == 11 {
			add("", step.TypeTick, at.Add(time.Second), &eventv1.Tick{TimeUs: at.Add(time.Second).UnixMicro()})
		}
	}
	return log
}
