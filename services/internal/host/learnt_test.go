package host

import (
	"context"
	"errors"
	"strconv"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestLearntIsMadeReadyOnce: a model is read again only where another one stands in
// the store, and trouble is told apart.
func TestLearntIsMadeReadyOnce(t *testing.T) {
	store, reads := map[string]string{"a": "1", "b": "2", "bad": "x"}, 0
	var away error
	l := NewLearnt(func(_ context.Context, shop, id string) ([]byte, bool, error) {
		data, ok := store[shop]
		return []byte(data), ok && id == "", away
	}, func(data []byte) (int, error) {
		reads++
		return strconv.Atoi(string(data))
	})
	want := func(shop string, model int, known bool, code codes.Code) {
		t.Helper()
		if m, ok, err := l.Of(t.Context(), shop); m != model && err == nil || ok != known || status.Code(err) != code {
			t.Errorf("%s: %d, %t, %v", shop, m, ok, err)
		}
	}
	for range 3 {
		want("a", 1, true, codes.OK)
		want("b", 2, true, codes.OK)
	}
	want("nobody", 0, false, codes.OK)
	if reads != 2 {
		t.Errorf("read %d times, want once a shop", reads)
	}
	store["a"] = "3"
	want("a", 3, true, codes.OK)
	want("bad", 0, false, codes.DataLoss)
	for i := range 2 * maxLearnt {
		store[strconv.Itoa(i)] = strconv.Itoa(i)
		want(strconv.Itoa(i), i, true, codes.OK)
		if len(l.kept) > maxLearnt {
			t.Fatalf("%d models are kept", len(l.kept))
		}
	}
	away = errors.New("away")
	want("a", 0, false, codes.Unavailable)
}
