package churn_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sillage-io/sillage/libs/domain/churn"
)

func model(t *rapid.T) churn.Model {
	s := churn.DefaultSetting()
	within := func(name string, lo, hi float64) float64 { return rapid.Float64Range(lo, hi).Draw(t, name) }
	s.Params = churn.Params{R: within("r", .01, 5), Alpha: within("alpha", 1, 500), A: within("a", .01, 5), B: within("b", .01, 5), K: rapid.IntRange(1, 3).Draw(t, "k")}
	s.ValueLevel, s.Season = within("level", 0, 3), within("season", 0, 3)
	if rapid.Bool().Draw(t, "corrected") {
		s.Correction = &churn.Correction{Intercept: within("intercept", -2, 2)}
		for i := range s.Correction.Weights {
			s.Correction.Weights[i] = within("weight", -2, 2)
		}
	}
	if rapid.Bool().Draw(t, "learning") {
		s.Study = churn.Study{Halvings: rapid.IntRange(0, churn.MaxHalvings).Draw(t, "halvings"), Trial: &churn.Correction{Intercept: within("intercept", -2, 2)}}
		s.Study.Trial.Weights[0] = within("weight", -2, 2)
	}
	return churn.ModelOf("shop-1", s, churn.Learnt{SHA256: "ab", From: "2020-01-01", To: "2021-01-01", Customers: 10, Orders: 20, Labels: 3.5})
}

// TestModelReadAgain: a model that is written and read is the same, decides the
// same, and has the same version.
func TestModelReadAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := model(t)
		data, err := m.AppendJSON([]byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		again, read, err := churn.ReadModel(data[1:])
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(m, again); d != "" {
			t.Errorf("-written +read:\n%s", d)
		}
		v, err := m.Version()
		w, err2 := again.Version()
		if err != nil || err2 != nil || v != w || v != read {
			t.Errorf("version %q (%v), read again %q (%v)", v, err, w, err2)
		}
		if again.Study = (churn.Study{}); again.Study != m.Study {
			if w, _ := again.Version(); w != v {
				t.Errorf("what is tried is part of the version: %q and %q", v, w)
			}
		}
		again.Params.R *= 2
		if w, _ := again.Version(); w == v {
			t.Errorf("other parameters have the same version %q", w)
		}
		s := churn.DefaultSetting()
		if err := m.Into(&s); err != nil || s.Study != m.Study || s.Params != m.Params || s.Correction != m.Correction {
			t.Errorf("setting has %+v (%v), want that of the model", s.Params, err)
		}
		s.Policy.HorizonDays++
		if got := m.Into(&s); (got == nil) != (m.Correction == nil) {
			t.Errorf("a model for another horizon, with correction %v: %v", m.Correction, got)
		}
	})
}

func TestModelRefused(t *testing.T) {
	good, err := json.Marshal(churn.ModelOf("shop", churn.DefaultSetting(), churn.Learnt{}))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ old, with, want string }{
		"another predictor": {`"churn"`, `"restock"`, "predictor"},
		"another format":    {`"format":1`, `"format":2`, "format 2"},
		"an unknown field":  {`"format":1`, `"format":1,"x":1`, "unknown field"},
		"no rate":           {`"r":0.87`, `"r":0`, "r:"},
		"a name with slash": {`"shop"`, `"../shop"`, "name"},
		"an unknown weight": {`"learnt"`, `"correction":{"intercept":0,"weights":{"age_of_moon":1}},"learnt"`, "age_of_moon"},
		"half a halving":    {`"learnt"`, `"learning":{"sample":0.3},"learnt"`, "sample"},
		"an unknown trial":  {`"learnt"`, `"learning":{"sample":1,"trial":{"intercept":0,"weights":{"moon":1}}},"learnt"`, "moon"},
		"no JSON":           {`{`, `[`, "churn model"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(string(good), c.old, c.with, 1)
			if text == string(good) {
				t.Fatalf("%s has no %s", good, c.old)
			}
			var m churn.Model
			if err := json.Unmarshal([]byte(text), &m); err == nil || name != "no JSON" && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want an error with %q", text, err, c.want)
			}
		})
	}
}
