package profile_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	"github.com/sillage-io/sillage/services/profile"
)

// BenchmarkFold folds views of 5,000 devices in batches of 1,000, as they come
// from an import, without broker and store.
func BenchmarkFold(b *testing.B) {
	const batch, devices = 1000, 5000
	var recs []record.Record
	at := opening
	for i := range 50_000 {
		at = at.Add(time.Second)
		device := strconv.Itoa(i * 7919 % devices)
		value, err := proto.Marshal(&eventv1.Event{
			MessageId: fmt.Sprintf("c27ddba17a252131-%010d.0", i), Shop: "shop", KeyId: "replay", KeyKind: eventv1.KeyKind_KEY_KIND_SECRET, Kind: eventv1.Kind_KIND_PRODUCT_VIEWED,
			Name: "Product Viewed", AnonymousId: device, EventTimeMs: at.UnixMilli(), ReceivedAtMs: at.UnixMilli(), Lines: []*eventv1.Line{{ProductId: strconv.Itoa(i % 997), Quantity: 1}},
			Import: &eventv1.Import{ImportId: "c27ddba17a252131", Sequence: int64(i + 2), NotBeforeUs: at.UnixMicro(), Line: int64(i), Lines: 1},
		})
		if err != nil {
			b.Fatal(err)
		}
		recs = append(recs, record.Record{
			Topic: "events.v1", Offset: int64(i), AppendTime: at.UnixMilli(), Key: []byte("shop/a." + device), Value: value,
			Headers: []record.Header{
				{Key: record.HeaderSpecVersion, Value: []byte("1.0")},
				{Key: record.HeaderID, Value: fmt.Appendf(nil, "c27ddba17a252131-%010d.0", i)},
				{Key: record.HeaderType, Value: []byte(step.TypeEvent)},
				{Key: record.HeaderSource, Value: []byte("/sillage/collector")},
				{Key: record.HeaderTime, Value: strconv.AppendInt(nil, at.UnixMilli(), 10)},
				{Key: record.HeaderContentType, Value: []byte("application/protobuf")},
			},
		})
	}
	p := profile.Processor(config())
	b.ReportAllocs()
	n := 0
	var folder step.Folder
	for b.Loop() {
		if n%len(recs) == 0 {
			folder = p.New(p.Config("log", 0, 4))
			if err := folder.Restore(step.State{}, step.Fence{LogID: "log"}); err != nil {
				b.Fatal(err)
			}
		}
		for rest := recs[n%len(recs) : n%len(recs)+batch]; len(rest) > 0; {
			var err error
			if _, rest, err = folder.Fold(rest); err != nil {
				b.Fatal(err)
			}
			folder.Settled()
		}
		n += batch
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/record")
}
