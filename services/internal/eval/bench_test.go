package eval

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkTable reads click logs of growing length: time a row stays, and so
// does the memory in use.
func BenchmarkTable(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("rows=%d", n), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "clicks.csv")
			f, err := os.Create(path)
			if err != nil {
				b.Fatal(err)
			}
			fmt.Fprintln(f, "ts,session_id,item_id")
			at := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
			for i := range n {
				fmt.Fprintf(f, "%s,%d,%d\n", at.Add(time.Duration(i)*time.Second).Format(time.RFC3339), i/4, i*7919%50_000)
			}
			info, err := f.Stat()
			if err != nil {
				b.Fatal(err)
			}
			f.Close()
			b.SetBytes(info.Size())
			b.ReportAllocs()
			for b.Loop() {
				t, err := Open(context.Background(), path, []Column{{Name: "ts", Kind: Date}, {Name: "session_id"}, {Name: "item_id"}}, Options{})
				if err != nil {
					b.Fatal(err)
				}
				bytes := 0
				for t.Next() {
					t.Time(0)
					bytes += len(t.Bytes(1)) + len(t.Bytes(2))
				}
				if _, err := t.Finish(); err != nil || bytes == 0 {
					b.Fatal(bytes, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/row")
		})
	}
}
