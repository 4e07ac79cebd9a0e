package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sillage-io/sillage/services/internal/lab"
)

// TestAModelLearntFromAFileDecides: learnt from a history, carried to another system
// as a file and pinned there, a model is what alerts are raised by, and what verify
// folds with.
func TestAModelLearntFromAFileDecides(t *testing.T) {
	history := lab.History(t, 6000)
	s := newSystem(t, "--models", "pinned=spring")
	said := s.run("model", "fit", "churn", "--orders", history, "--name", "winter", "--quiet")
	file := filepath.Join(t.TempDir(), "winter.json")
	s.run("model", "export", "winter", file)
	s.run("model", "import", file, "--name", "spring")
	var models []struct{ Name, Predictor, Version string }
	if err := json.Unmarshal([]byte(s.run("model", "list", "--json")), &models); err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	for _, m := range models {
		versions[m.Predictor+" "+m.Name] = m.Version
	}
	if v := versions["churn winter"]; len(models) != 4 || v == "" || !strings.Contains(said, v) || versions["churn spring"] == v {
		t.Errorf("models %v after %q", versions, said)
	}
	s.start()
	s.run("replay", "uci-online-retail", history, "--shop", "shop")
	s.run("verify", "churn.customers", "--models", "pinned=spring")
	alerts := s.run("tail", "churn.alerts.v1", "--from", "start", "--until", "end", "--json")
	if n, of := strings.Count(alerts, `"model_version":"`+versions["churn spring"]+`"`), strings.Count(alerts, `"model_version"`); n == 0 || n != of {
		t.Errorf("%d of %d alerts name the pinned model", n, of)
	}
	s.stop()

	if err := os.WriteFile(file, []byte(`{"format":1,"predictor":"churn","name":"x","horizon_days":90}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := s.command(t.Context(), "model", "import", file).CombinedOutput(); err == nil || !strings.Contains(string(out), "churn.") {
		t.Errorf("a model without parameters: %v, %s", err, out)
	}
}
