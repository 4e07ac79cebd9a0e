package churn_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dchurn "github.com/sillage-io/sillage/libs/domain/churn"
	"github.com/sillage-io/sillage/libs/testkit"
	churnv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/churn/v1"
	"github.com/sillage-io/sillage/services/churn"
)

// modelFile writes a model that says that those who spend more stay longer.
func modelFile(t *testing.T, change func(m *churn.Model)) string {
	t.Helper()
	s := dchurn.DefaultSetting()
	s.Params = dchurn.Params{R: 1.2, Alpha: 40, A: .5, B: 2, K: 2}
	s.ValueLevel = 1.1
	s.Correction = &dchurn.Correction{Intercept: .4}
	s.Correction.Weights[0] = -.3
	m := churn.NewModel(s, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), "abc")
	if change != nil {
		change(&m)
	}
	var b bytes.Buffer
	if err := m.Write(&b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "model.json")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A service with a model decides by it, names it, and gives its reasons.
func TestAModelDecides(t *testing.T) {
	cfg := config()
	cfg.Model = modelFile(t, nil)
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	plain := newCustomer(t)
	c := newCustomer(t)
	c.Life = testkit.New(t, churn.Processor(cfg))
	for _, c := range []*customer{plain, c} {
		c.buys(6)
		c.waits(200)
	}
	shipped, learnt := plain.alerts(), c.alerts()
	if len(shipped) != 1 || len(learnt) != 1 {
		t.Fatalf("%d and %d alerts, want one each", len(shipped), len(learnt))
	}
	if shipped[0].DueMS == learnt[0].DueMS || shipped[0].ModelVersion != churn.ShippedModel || !strings.HasPrefix(learnt[0].ModelVersion, "mbgcnbd-") || learnt[0].ModelVersion == churn.ShippedModel {
		t.Errorf("due at %d by %s and at %d by %s", shipped[0].DueMS, shipped[0].ModelVersion, learnt[0].DueMS, learnt[0].ModelVersion)
	}
	codes := map[string]bool{}
	for _, r := range learnt[0].Reasons {
		codes[r.Code] = true
		if r.Text == "" {
			t.Errorf("reason without a text: %+v", r)
		}
	}
	if !codes[dchurn.ReasonRhythm] || !codes[dchurn.ReasonSilence] {
		t.Errorf("reasons %+v", learnt[0].Reasons)
	}
	risk, err := plain.server().GetRisk(t.Context(), &churnv1.GetRiskRequest{Shop: testkit.Shop, UserId: "ada"})
	if err != nil || len(risk.Reasons) < 3 || risk.ModelVersion != churn.ShippedModel {
		t.Errorf("%+v, %v", risk, err)
	}
}

func TestWhatIsWrongWithAModel(t *testing.T) {
	for name, tc := range map[string]struct {
		path string
		want string
	}{
		"no file":           {filepath.Join(t.TempDir(), "none.json"), "open the model"},
		"another horizon":   {modelFile(t, func(m *churn.Model) { m.Horizon = 30 }), "horizon of 30 days"},
		"a newer format":    {modelFile(t, func(m *churn.Model) { m.Format = 9 }), "format 9"},
		"unknown features":  {modelFile(t, func(m *churn.Model) { m.Weights["moon"] = 1 }), "does not know"},
		"a weight too much": {modelFile(t, func(m *churn.Model) { m.Weights["orders"] = 1e9 }), "churn.correction.orders"},
		"no parameters":     {modelFile(t, func(m *churn.Model) { m.R = 0 }), "churn.r"},
	} {
		cfg := config()
		cfg.Model = tc.path
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	path := filepath.Join(t.TempDir(), "rubbish.json")
	if err := os.WriteFile(path, []byte("{\"format\":1,"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := config()
	cfg.Model = path
	if cfg.Validate() == nil {
		t.Error("rubbish is a model")
	}
}
