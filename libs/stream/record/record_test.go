package record

import (
	"bytes"
	"errors"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestMurmur2 holds the values of Kafka's own UtilsTest.testMurmur2.
func TestMurmur2(t *testing.T) {
	for key, want := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(murmur2([]byte(key))); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", key, got, want)
		}
	}
	for _, n := range []int{1, 4, 16} {
		if p := Partition([]byte("shop/device"), n); p < 0 || p >= int32(n) {
			t.Errorf("Partition of %d = %d", n, p)
		}
	}
}

func TestPositionRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Position{
			Log:       rapid.StringMatching(`[a-zA-Z0-9:_-]{1,40}`).Draw(t, "log"),
			Partition: rapid.Int32Min(0).Draw(t, "partition"),
			Offset:    rapid.Int64Min(0).Draw(t, "offset"),
			Ordinal:   rapid.Int32Min(0).Draw(t, "ordinal"),
		}
		got, err := ParsePosition(p.String())
		if err != nil || got != p {
			t.Fatalf("ParsePosition(%q) = %v, %v", p, got, err)
		}
		source, offset, ordinal, ok := CutPosition([]byte(p.String()))
		if want := p.Log + "/" + strconv.Itoa(int(p.Partition)); !ok || string(source) != want || offset != p.Offset || ordinal != p.Ordinal {
			t.Fatalf("CutPosition(%q) = %s, %d, %d, %v", p, source, offset, ordinal, ok)
		}
	})
	for _, bad := range []string{"", "a", "a/", "a/1/x", "a/x/1", "a/1/", "a/9999999999999999999/1", "a/1/4294967296"} {
		if _, _, _, ok := CutPosition([]byte(bad)); ok {
			t.Errorf("CutPosition(%q): taken", bad)
		}
	}
	for _, bad := range []string{"", "a", "a/1/2", "/1/2/3", "a/-1/2/3", "a/1/x/3", "a/4294967296/1/1"} {
		if _, err := ParsePosition(bad); err == nil {
			t.Errorf("ParsePosition(%q): no error", bad)
		}
	}
}

func TestPositionAfter(t *testing.T) {
	a := Position{Offset: 4, Ordinal: 1}
	for name, c := range map[string]struct {
		b    Position
		want bool
	}{
		"equal":          {a, false},
		"higher ordinal": {Position{Offset: 4, Ordinal: 2}, true},
		"higher offset":  {Position{Offset: 5}, true},
		"lower offset":   {Position{Offset: 3, Ordinal: 9}, false},
	} {
		if got := c.b.After(a); got != c.want {
			t.Errorf("%s: After = %v, want %v", name, got, c.want)
		}
	}
}

func outs(t *rapid.T) []Out {
	blob := rapid.SliceOfN(rapid.Byte(), 0, 40)
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Out {
		o := Out{Value: blob.Draw(t, "value")}
		if rapid.Bool().Draw(t, "keyed") {
			o.Key = blob.Draw(t, "key")
		}
		for range rapid.IntRange(0, 3).Draw(t, "headers") {
			o.Headers = append(o.Headers, Header{Key: rapid.String().Draw(t, "name"), Value: blob.Draw(t, "header")})
		}
		return o
	}), 1, 20).Draw(t, "outs")
}

func TestBatchRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := outs(t)
		data := AppendBatch(nil, Batch{ProducerID: 7, Epoch: 1, Time: 1234}, want)
		if !bytes.Equal(data, AppendBatch(nil, Batch{ProducerID: 7, Epoch: 1, Time: 1234}, want)) {
			t.Fatal("equal arguments gave different bytes")
		}
		skip := int64(rapid.IntRange(0, len(want)).Draw(t, "skip"))
		tail := rapid.SliceOfN(rapid.Byte(), 0, batchHeader-1).Draw(t, "cut-off batch")
		recs, next, err := DecodeBatches("t", 3, skip, append(data, tail...))
		if err != nil {
			t.Fatal(err)
		}
		if next != int64(len(want)) || int64(len(recs)) != int64(len(want))-skip {
			t.Fatalf("%d records, next %d, want %d, next %d", len(recs), next, int64(len(want))-skip, len(want))
		}
		for i, r := range recs {
			o := want[int64(i)+skip]
			if r.Offset != int64(i)+skip || r.AppendTime != 1234 || r.Topic != "t" || r.Partition != 3 {
				t.Fatalf("record %d: %+v", i, r)
			}
			if !bytes.Equal(r.Key, o.Key) || (r.Key == nil) != (o.Key == nil) || !bytes.Equal(r.Value, o.Value) {
				t.Fatalf("record %d: %+v, want %+v", i, r, o)
			}
			if diff := cmp.Diff(o.Headers, r.Headers, cmp.Comparer(bytes.Equal)); diff != "" {
				t.Fatalf("record %d: headers (-want +got):\n%s", i, diff)
			}
		}
	})
}

func TestDamagedBatch(t *testing.T) {
	good := AppendBatch(nil, Batch{}, []Out{{Value: []byte("hello")}})
	for i := range good {
		if i < 8 || (i >= 12 && i < 16) || (i >= 8 && i < 12) {
			continue // base offset and leader epoch stand outside the checksum; length is checked below
		}
		bad := append([]byte(nil), good...)
		bad[i] ^= 0x40
		if _, _, err := DecodeBatches("t", 0, 0, bad); !errors.Is(err, ErrBatch) && i >= offsetCRC {
			t.Errorf("byte %d flipped: error %v, want ErrBatch", i, err)
		}
	}
	short := append([]byte(nil), good...)
	short[11] = 1
	if _, _, err := DecodeBatches("t", 0, 0, short); !errors.Is(err, ErrBatch) {
		t.Errorf("length 1: error %v, want ErrBatch", err)
	}
}

func FuzzDecodeBatches(f *testing.F) {
	f.Add(AppendBatch(nil, Batch{}, []Out{{Key: []byte("k"), Value: []byte("v"), Headers: []Header{{Key: "h", Value: []byte("x")}}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		recs, next, err := DecodeBatches("t", 0, 0, data)
		if err == nil && next < 0 {
			t.Errorf("next %d without error (%d records)", next, len(recs))
		}
	})
}
