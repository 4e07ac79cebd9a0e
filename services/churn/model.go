package churn

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sillage-io/sillage/libs/domain/churn"
)

// modelFormat is the version of a model file.
const modelFormat = 1

// maxModel bounds a model file.
const maxModel = 1 << 20

// Model is what a shop's history says, as a file: what sillage eval churn --model-out
// writes and the service reads at its start. It is part of what decides, as the
// threshold is: all instances, and verify, are given the same one.
type Model struct {
	Format     int                `json:"format"`
	LearntTo   string             `json:"learnt_to"` // date, for people
	Source     string             `json:"source"`    // SHA-256 of the file of orders
	Horizon    float64            `json:"horizon_days"`
	R          float64            `json:"r"`
	Alpha      float64            `json:"alpha_days"`
	A          float64            `json:"a"`
	B          float64            `json:"b"`
	K          int                `json:"k"`
	ValueP     float64            `json:"value_p"`
	ValueQ     float64            `json:"value_q"`
	ValueGamma float64            `json:"value_gamma"`
	ValueLevel float64            `json:"value_level"`
	Intercept  float64            `json:"intercept"`
	Weights    map[string]float64 `json:"weights"` // by feature; empty: the base score is the score
}

// NewModel describes a setting.
func NewModel(s churn.Setting, learntTo time.Time, source string) Model {
	p, v := s.Params, s.Value
	m := Model{
		Format: modelFormat, LearntTo: learntTo.Format(time.DateOnly), Source: source, Horizon: s.Policy.HorizonDays,
		R: p.R, Alpha: p.Alpha, A: p.A, B: p.B, K: p.K, ValueP: v.P, ValueQ: v.Q, ValueGamma: v.Gamma, ValueLevel: s.ValueLevel, Weights: map[string]float64{},
	}
	if s.Correction != nil {
		m.Intercept = s.Correction.Intercept
		for i, name := range churn.FeatureNames() {
			m.Weights[name] = s.Correction.Weights[i]
		}
	}
	return m
}

// apply puts the model into a setting.
func (m *Model) apply(s *churn.Setting) error {
	var errs []error
	if m.Format != modelFormat {
		return fmt.Errorf("format %d, want %d", m.Format, modelFormat)
	}
	if m.Horizon != s.Policy.HorizonDays && (m.Intercept != 0 || len(m.Weights) > 0) {
		errs = append(errs, fmt.Errorf("learnt for a horizon of %g days, which is not horizon-days, %g", m.Horizon, s.Policy.HorizonDays))
	}
	s.Params = churn.Params{R: m.R, Alpha: m.Alpha, A: m.A, B: m.B, K: m.K}
	s.Value = churn.Value{P: m.ValueP, Q: m.ValueQ, Gamma: m.ValueGamma}
	s.ValueLevel, s.Correction = m.ValueLevel, nil
	if m.Intercept != 0 || len(m.Weights) > 0 {
		c := &churn.Correction{Intercept: m.Intercept}
		left := len(m.Weights)
		for i, name := range churn.FeatureNames() {
			if w, ok := m.Weights[name]; ok {
				c.Weights[i] = w
				left--
			}
		}
		if left > 0 {
			errs = append(errs, fmt.Errorf("%d weights of features that this version does not know", left))
		}
		s.Correction = c
	}
	return errors.Join(append(errs, s.Validate())...)
}

// Write writes the model as JSON.
func (m *Model) Write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(m)
}

// readModel reads a model file, and names it by its content.
func readModel(path string) (m Model, version string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return Model{}, "", fmt.Errorf("open the model: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxModel+1))
	if err != nil {
		return Model{}, "", fmt.Errorf("read the model %s: %w", path, err)
	}
	if len(b) > maxModel {
		return Model{}, "", fmt.Errorf("read the model %s: more than %d bytes", path, maxModel)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return Model{}, "", fmt.Errorf("read the model %s: %w", path, err)
	}
	sum := sha256.Sum256(b)
	return m, "mbgcnbd-" + hex.EncodeToString(sum[:6]), nil
}
