package telemetry_test

import (
	"bytes"
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/sillage-io/sillage/libs/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMetricsAreServedAndLogsWritten(t *testing.T) {
	var b bytes.Buffer
	tel, err := telemetry.Open(t.Context(), telemetry.DefaultConfig(), "test", "1", &b)
	if err != nil {
		t.Fatal(err)
	}
	defer tel.Close(context.Background())
	counter, err := tel.Meter.Int64Counter("events")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 3)
	w := httptest.NewRecorder()
	tel.Metrics.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if body := w.Body.String(); !strings.Contains(body, "sillage_events_total 3") {
		t.Errorf("no counter in:\n%.2000s", body)
	}
	tel.Log.Info("hello")
	tel.Log.Debug("whisper")
	if s := b.String(); !strings.Contains(s, `"msg":"hello"`) || strings.Contains(s, "whisper") {
		t.Errorf("log: %s", s)
	}
}

func TestTraceContextGoesThroughARecord(t *testing.T) {
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	ctx := telemetry.Extract(t.Context(), []byte(parent))
	if got := trace.SpanContextFromContext(ctx).TraceID().String(); got != "4bf92f3577b34da6a3ce929d0e0e4736" {
		t.Errorf("trace %s", got)
	}
	if got := string(telemetry.Inject(ctx)); got != parent {
		t.Errorf("injected %q", got)
	}
	if got := telemetry.Inject(telemetry.Extract(t.Context(), []byte("nonsense"))); got != nil {
		t.Errorf("of nonsense: %q", got)
	}
}

func TestConfigReportsAllMistakes(t *testing.T) {
	err := telemetry.Config{LogLevel: "loud", LogFormat: "xml", Sample: 2}.Validate()
	for _, want := range []string{"loud", "xml", "sample"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: does not say %q", err, want)
		}
	}
}
