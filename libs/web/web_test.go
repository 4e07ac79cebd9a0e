package web_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sillage-io/sillage/libs/service"
	"github.com/sillage-io/sillage/libs/web"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// serve runs a handler until stop.
func serve(t *testing.T, h http.Handler) (url string, stop func()) {
	t.Helper()
	s, err := web.Listen("test", "test.listen", web.Config{Listen: "127.0.0.1:0"}, h, quiet())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Component().Run(ctx); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return s.URL(), stop
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestAnswersWhatItHasBegunWhenStopped(t *testing.T) {
	begun := make(chan struct{})
	url, stop := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		time.Sleep(100 * time.Millisecond)
		_, _ = io.WriteString(w, "done")
	}))
	var asking sync.WaitGroup
	asking.Go(func() {
		if code, body := get(t, url); code != 200 || body != "done" {
			t.Errorf("%d %q", code, body)
		}
	})
	<-begun
	stop()
	asking.Wait()
}

func TestPanicIsAnswered(t *testing.T) {
	url, _ := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oh") }))
	if code, body := get(t, url); code != 500 || strings.Contains(body, "oh") {
		t.Errorf("%d %q", code, body)
	}
}

func TestTakenAddressNamesTheFlag(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = web.Listen("admin", "admin.listen", web.Config{Listen: l.Addr().String()}, http.NotFoundHandler(), quiet())
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), "--admin.listen") {
		t.Errorf("%v", err)
	}
}

func TestReadinessTellsTheTruth(t *testing.T) {
	ready := false
	url, _ := serve(t, web.Admin(func(context.Context) (bool, []service.Health) {
		return ready, []service.Health{{Name: "broker", OK: ready}}
	}, nil))
	if code, body := get(t, url+"/readyz"); code != 503 || !strings.Contains(body, `"broker"`) {
		t.Errorf("not ready: %d %q", code, body)
	}
	ready = true
	if code, _ := get(t, url+"/readyz"); code != 200 {
		t.Errorf("ready: %d", code)
	}
	if code, _ := get(t, url+"/livez"); code != 200 {
		t.Errorf("live: %d", code)
	}
}
