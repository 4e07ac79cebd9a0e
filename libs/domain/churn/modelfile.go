package churn

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
)

// Model is what was learnt from a shop's history, without the policy: the part of
// a [Setting] that can be written down, carried elsewhere and pinned.
type Model struct {
	Name        string
	HorizonDays float64 // of the labels that it was learnt from
	Params      Params
	Value       Value
	ValueLevel  float64
	Season      float64
	Correction  *Correction // nil: the base score is the score
	Study       Study       // of a model that goes on learning
	Learnt      Learnt
}

// Learnt says from what.
type Learnt struct {
	SHA256    string  `json:"sha256,omitempty"` // of the file
	From      string  `json:"from,omitempty"`   // first and last day, 2006-01-02
	To        string  `json:"to,omitempty"`
	Customers int     `json:"customers,omitempty"`
	Orders    int     `json:"orders,omitempty"`
	Labels    float64 `json:"labels,omitempty"` // closed ones, the older counting less
}

// ModelOf takes the learnt part out of a setting.
func ModelOf(name string, s Setting, l Learnt) Model {
	return Model{
		Name: name, HorizonDays: s.Policy.HorizonDays, Params: s.Params, Value: s.Value, ValueLevel: s.ValueLevel, Season: s.Season,
		Correction: s.Correction, Study: s.Study, Learnt: l,
	}
}

// Into puts the model into a setting, in place of what it has learnt. A correction
// holds for one horizon: it is an error where the setting's is another one.
func (m Model) Into(s *Setting) error {
	if m.Correction != nil && m.HorizonDays != s.Policy.HorizonDays {
		return fmt.Errorf("model %s is for a horizon of %g days, not %g", m.Name, m.HorizonDays, s.Policy.HorizonDays)
	}
	s.Params, s.Value, s.ValueLevel, s.Season, s.Correction, s.Study = m.Params, m.Value, m.ValueLevel, m.Season, m.Correction, m.Study
	return nil
}

// modelFormat is the version of the form.
const modelFormat = 1

// modelForm is a model as it is written.
type modelForm struct {
	Format      int            `json:"format"`
	Predictor   string         `json:"predictor"`
	Name        string         `json:"name"`
	HorizonDays float64        `json:"horizon_days"`
	Params      paramsForm     `json:"mbg_cnbd"`
	Value       valueForm      `json:"gamma_gamma"`
	Season      float64        `json:"season,omitempty"`
	Correction  *correctedForm `json:"correction,omitempty"`
	Learning    *studyForm     `json:"learning,omitempty"`
	Learnt      Learnt         `json:"learnt"`
}

type paramsForm struct {
	R     float64 `json:"r"`
	Alpha float64 `json:"alpha_days"`
	A     float64 `json:"a"`
	B     float64 `json:"b"`
	K     int     `json:"k"`
}

type valueForm struct {
	P     float64 `json:"p"`
	Q     float64 `json:"q"`
	Gamma float64 `json:"gamma"`
	Level float64 `json:"level,omitempty"`
}

// studyForm is of a model that goes on learning, and decides nothing.
type studyForm struct {
	Sample float64        `json:"sample"` // share of the customers who are learnt from, a power of two
	Trial  *correctedForm `json:"trial,omitempty"`
}

type correctedForm struct {
	Intercept float64            `json:"intercept"`
	Weights   map[string]float64 `json:"weights"`
}

func (m Model) form() modelForm {
	f := modelForm{
		Format: modelFormat, Predictor: "churn", Name: m.Name, HorizonDays: m.HorizonDays,
		Params: paramsForm(m.Params), Value: valueForm{m.Value.P, m.Value.Q, m.Value.Gamma, m.ValueLevel}, Season: m.Season, Learnt: m.Learnt,
	}
	f.Correction = m.Correction.form()
	if m.Study != (Study{}) {
		f.Learning = &studyForm{Sample: math.Exp2(-float64(m.Study.Halvings)), Trial: m.Study.Trial.form()}
	}
	return f
}

func (c *Correction) form() *correctedForm {
	if c == nil {
		return nil
	}
	f := &correctedForm{Intercept: c.Intercept, Weights: map[string]float64{}}
	for i, name := range FeatureNames() {
		if w := c.Weights[i]; w != 0 {
			f.Weights[name] = w
		}
	}
	return f
}

// read returns the correction and every mistake.
func (f *correctedForm) read(what string) (*Correction, error) {
	if f == nil {
		return nil, nil
	}
	index := map[string]int{}
	for i, name := range FeatureNames() {
		index[name] = i
	}
	c := &Correction{Intercept: f.Intercept}
	var errs []error
	for name, w := range f.Weights {
		i, ok := index[name]
		if !ok {
			errs = append(errs, fmt.Errorf("churn.%s.%s: no such feature", what, name))
			continue
		}
		c.Weights[i] = w
	}
	return c, errors.Join(errs...)
}

// AppendJSON appends the model as it is written to files and to the log: lines of
// JSON with its features by name.
func (m Model) AppendJSON(b []byte) ([]byte, error) {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return b, fmt.Errorf("write model %s: %w", m.Name, err)
	}
	return append(append(b, data...), '\n'), nil
}

// ReadModel reads what [Model.AppendJSON] writes, and the version.
func ReadModel(data []byte) (m Model, version string, err error) {
	if err := json.Unmarshal(data, &m); err != nil {
		return Model{}, "", err
	}
	version, err = m.Version()
	return m, version, err
}

// MarshalJSON writes the model with its features by name.
func (m Model) MarshalJSON() ([]byte, error) { return json.Marshal(m.form()) }

// UnmarshalJSON reads what MarshalJSON writes, and nothing else: every mistake is
// told at once.
func (m *Model) UnmarshalJSON(data []byte) error {
	var f modelForm
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return fmt.Errorf("read a churn model: %w", err)
	}
	if f.Format != modelFormat || f.Predictor != "churn" {
		return fmt.Errorf("read a churn model: format %d of predictor %q, want %d of churn", f.Format, f.Predictor, modelFormat)
	}
	got := Model{
		Name: f.Name, HorizonDays: f.HorizonDays, Params: Params(f.Params), Value: Value{f.Value.P, f.Value.Q, f.Value.Gamma},
		ValueLevel: f.Value.Level, Season: f.Season, Learnt: f.Learnt,
	}
	var errs [4]error
	got.Correction, errs[0] = f.Correction.read("correction")
	if l := f.Learning; l != nil {
		got.Study.Trial, errs[1] = l.Trial.read("learning.trial")
		if got.Study.Halvings = int(-math.Log2(l.Sample)); math.Exp2(-float64(got.Study.Halvings)) != l.Sample {
			errs[2] = fmt.Errorf("churn.learning.sample: %g is no power of two up to 1", l.Sample)
		}
	}
	errs[3] = got.Validate()
	if err := errors.Join(errs[:]...); err != nil {
		return fmt.Errorf("read a churn model: %w", err)
	}
	*m = got
	return nil
}

// modelName is what a model may be called: it is part of a file's name.
var modelName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Validate reports every mistake.
func (m Model) Validate() error {
	s := DefaultSetting()
	s.Policy.HorizonDays = m.HorizonDays
	errs := []error{m.Into(&s), s.Validate()}
	if !modelName.MatchString(m.Name) {
		errs = append(errs, fmt.Errorf("churn.name: %q: want 1 to 64 letters, digits, dots, dashes or underscores", m.Name))
	}
	return errors.Join(errs...)
}

// Version names the model in answers and alerts: its name, and what tells it from
// another one of that name.
func (m Model) Version() (string, error) {
	f := m.form()
	f.Learnt, f.Learning = Learnt{}, nil
	data, err := json.Marshal(f)
	if err != nil {
		return "", fmt.Errorf("name the version of model %s: %w", m.Name, err)
	}
	sum := sha256.Sum256(data)
	return "mbgcnbd-" + m.Name + "-" + hex.EncodeToString(sum[:4]), nil
}
