package recommend

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"testing"
)

// firstVersion was written by the last index of version 1, from the visits of
// TestReadsVersion1.
//
//go:embed testdata/snapshot-v1.bin
var firstVersion []byte

// TestReadsVersion1 compares what a snapshot of version 1 becomes with an index
// that saw the same events.
func TestReadsVersion1(t *testing.T) {
	x, err := ReadIndex(bytes.NewReader(firstVersion), smallConfig())
	if err != nil {
		t.Fatal(err)
	}
	verify(t, x)
	y := New(smallConfig())
	y.SetProduct("strap", "Leather strap", "bags", "Acme", 19_990_000, true)
	for k := range uint64(4) {
		at := start + int64(k)*hour
		visit(y, 1+k).does(View, at, "bag", "strap").does(Cart, at, "bag", "strap").does(Order, at, "bag", "strap")
	}
	visit(y, 9).does(View, start+day, "hat", "bag", "hat")
	if x.Stats().Sessions != y.Stats().Sessions || x.total != y.total || x.latest != y.latest {
		t.Errorf("%+v, want %+v", x.Stats(), y.Stats())
	}
	now := x.latest
	for id, i := range y.id {
		a, b := &x.items[x.id[id]], &y.items[i]
		if a.sessions != b.sessions || a.seen != b.seen || a.price != b.price || x.names[x.id[id]] != y.names[i] {
			t.Errorf("%s: %+v, want %+v", id, a, b)
		}
		for w := range windows {
			if got, want := float64(a.count[w])*x.win[w].worth(now), float64(b.count[w])*y.win[w].worth(now); !near(got, want) {
				t.Errorf("%s counts %g in a %s, want %g", id, got, w, want)
			}
		}
	}
	for _, tc := range []struct {
		r             relation
		from, to      string
		ahead, behind float64
		n             uint32
	}{
		{viewed, "bag", "strap", 4, 0, 4},
		{viewed, "strap", "bag", 0, 4, 4},
		{viewed, "hat", "bag", 1, 0, 1},
		{viewed, "bag", "hat", 1, 0, 1}, // a return went one way: what was before is lost
		{boughtWith, "bag", "strap", 4, 0, 4},
	} {
		// Version 1 halved what was seen in 21 days, most of it here a day ago.
		_, ahead, behind, n := tie(x, tc.r, tc.from, tc.to, now)
		if math.Abs(ahead-tc.ahead) > .04*tc.ahead || math.Abs(behind-tc.behind) > .04*tc.behind || n != tc.n {
			t.Errorf("%s-%s: ahead %g, behind %g by %d, want about %g, %g by %d", tc.from, tc.to, ahead, behind, n, tc.ahead, tc.behind, tc.n)
		}
	}
	q := Query{N: 1, Items: []QueryItem{{Item: "bag", Kind: Cart}}, Now: now, Surface: SurfaceCart}
	if got := x.Recommend(q, new(Scratch), nil)[0]; got.Item != "strap" || got.Reasons[0].String() != "bought with bag by 4 sessions" {
		t.Errorf("answers %v", got)
	}
	var b bytes.Buffer
	if _, err := x.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadIndex(&b, smallConfig()); err != nil {
		t.Errorf("what became of it cannot be read: %v", err)
	}
	for k := range firstVersion {
		if _, err := ReadIndex(bytes.NewReader(firstVersion[:k]), smallConfig()); !errors.Is(err, ErrSnapshot) {
			t.Fatalf("cut at %d: %v, want ErrSnapshot", k, err)
		}
		bad := bytes.Clone(firstVersion)
		bad[k] ^= 0x10
		if _, err := ReadIndex(bytes.NewReader(bad), smallConfig()); !errors.Is(err, ErrSnapshot) {
			t.Fatalf("bit turned in byte %d: %v, want ErrSnapshot", k, err)
		}
	}
}

// FuzzReadVersion1 reads any bytes as version 1, with the checksum set right.
func FuzzReadVersion1(f *testing.F) {
	f.Add(firstVersion[:len(firstVersion)-4])
	f.Add([]byte(snapshotMagic + "\x01"))
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := crc32.Checksum(body, castagnoli())
		x, err := ReadIndex(bytes.NewReader(binary.LittleEndian.AppendUint32(bytes.Clone(body), sum)), smallConfig())
		if err != nil {
			if !errors.Is(err, ErrSnapshot) {
				t.Fatalf("%v does not wrap ErrSnapshot", err)
			}
			return
		}
		visit(x, 5).does(View, start, "a", "z", "c").does(Order, start+day, "c", "y")
		for _, a := range x.Recommend(Query{Items: []QueryItem{{Item: "a"}}, N: 20, Now: start}, new(Scratch), nil) {
			if math.IsNaN(a.Score) {
				t.Fatalf("%q scores NaN", a.Item)
			}
		}
		if _, err := x.WriteTo(&bytes.Buffer{}); err != nil {
			t.Fatal(err)
		}
	})
}
