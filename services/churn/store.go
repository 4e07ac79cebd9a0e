package churn

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/sillage-io/sillage/libs/domain/churn"
	"github.com/sillage-io/sillage/libs/stream/step"
	churnv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/churn/v1"
)

// Codec is how a customer lies in the store.
type Codec struct{}

// Versions of what stands around the packed customer, which has its own.
const (
	plain    = 1 // of whom no label is open
	labelled = 2 // an open label follows the customer
)

// Append appends the customer's bytes.
func (Codec) Append(b []byte, c *Customer) []byte {
	version := byte(plain)
	if c.Label.Open() {
		version = labelled
	}
	b, _ = c.AppendBinary(append(b, version)) // never fails
	b, _ = c.Label.AppendBinary(b)            // nor this
	b = append(b, c.Standing[:]...)
	b = binary.AppendUvarint(b, uint64(len(c.Recent)))
	for _, o := range c.Recent {
		b = binary.LittleEndian.AppendUint64(b, o.ID)
		b = binary.AppendUvarint(b, uint64(o.Version))
		b = binary.AppendVarint(b, o.At)
		b = binary.AppendVarint(b, o.Known)
		b = binary.AppendVarint(b, o.Value)
	}
	return b
}

var errCodec = errors.New("not a customer of a known version")

// Unmarshal reads what any version has written.
func (Codec) Unmarshal(b []byte, c *Customer) error {
	if len(b) < 1 || b[0] != plain && b[0] != labelled {
		return errCodec
	}
	label := 0
	if b[0] == labelled {
		label = churn.LabelBytes
	}
	b = b[1:]
	n := churn.PackedBytes(b)
	if n == 0 || len(b) < n+label+len(c.Standing) {
		return errCodec
	}
	*c = Customer{}
	if err := errors.Join(c.UnmarshalBinary(b[:n]), c.Label.UnmarshalBinary(b[n:n+label])); err != nil {
		return err
	}
	b = b[n+label:]
	b = b[copy(c.Standing[:], b):]
	orders, k := binary.Uvarint(b)
	if k <= 0 || orders > maxRecent+1 {
		return errCodec
	}
	b = b[k:]
	for range orders {
		var o Order
		if len(b) < 8 {
			return errCodec
		}
		o.ID, b = binary.LittleEndian.Uint64(b), b[8:]
		version, k := binary.Uvarint(b)
		if k <= 0 {
			return errCodec
		}
		o.Version, b = uint32(version), b[k:]
		for _, v := range []*int64{&o.At, &o.Known, &o.Value} {
			if *v, k = binary.Varint(b); k <= 0 {
				return errCodec
			}
			b = b[k:]
		}
		c.Recent = append(c.Recent, o)
	}
	if len(b) > 0 {
		return errCodec
	}
	return nil
}

// Payload is an alert as it leaves the system: the data of a CloudEvent, JSON.
type Payload struct {
	AlertID       string    `json:"alert_id"`
	Kind          string    `json:"kind"` // raised, recovered, withdrawn
	Shop          string    `json:"shop"`
	CustomerID    string    `json:"customer_id"`
	Episode       uint32    `json:"episode"`
	DueMS         int64     `json:"due_ms"`
	ExpiresMS     int64     `json:"expires_ms,omitempty"`
	Probability   float64   `json:"probability,omitempty"`
	HorizonDays   uint32    `json:"horizon_days,omitempty"`
	SilenceDays   float64   `json:"silence_days,omitempty"`
	UsualGapDays  []float64 `json:"usual_gap_days,omitempty"`
	Orders        uint32    `json:"orders,omitempty"`
	ValueAtRisk   float64   `json:"value_at_risk,omitempty"`
	Currency      string    `json:"currency,omitempty"`
	Reasons       []Reason  `json:"reasons,omitempty"`
	Arm           string    `json:"arm,omitempty"`
	ModelVersion  string    `json:"model_version"`
	RaisedAlertID string    `json:"raised_alert_id,omitempty"`
	DaysToReturn  float64   `json:"days_to_return,omitempty"`
	Historical    bool      `json:"historical,omitempty"`
}

// Reason is one cause with its numbers and a sentence.
type Reason struct {
	Code         string  `json:"code"`
	Value        float64 `json:"value"`
	Typical      float64 `json:"typical,omitempty"`
	Contribution float64 `json:"contribution,omitempty"`
	Text         string  `json:"text"`
}

// round cuts what nobody can use, so that payloads are short.
func round(v float64) float64 { return math.Round(v*1e4) / 1e4 }

func payload(a churn.Alert, key step.Key, version string, historical bool) Payload {
	p := Payload{
		Kind: strings.ToLower(a.Kind.String()), Shop: key.Shop, CustomerID: key.ID, Episode: a.Episode, DueMS: a.Due / 1000,
		Probability: round(a.Probability), HorizonDays: uint32(a.HorizonDays), SilenceDays: round(a.SilenceDays), Orders: uint32(a.Orders),
		ValueAtRisk: round(a.ValueAtRisk), Currency: a.Currency, ModelVersion: version, DaysToReturn: round(a.DaysToReturn), Historical: historical,
	}
	if a.Expires > 0 {
		p.ExpiresMS = a.Expires / 1000
	}
	if a.Arm != 0 {
		p.Arm = a.Arm.String()
	}
	if a.Kind == churn.Raised {
		for _, g := range a.UsualGapDays {
			p.UsualGapDays = append(p.UsualGapDays, round(g))
		}
	}
	p.Reasons = reasons(a.Reasons)
	return p
}

func reasons(all []churn.Reason) []Reason {
	var said []Reason
	for _, r := range all {
		s := Reason{Code: r.Code, Value: round(r.Value), Typical: round(r.Typical), Contribution: round(r.Contribution)}
		switch r.Code {
		case churn.ReasonNewcomer:
			s.Text = fmt.Sprintf("Of customers with a first order, %.0f %% place none in the horizon.", 100*r.Value)
		case churn.ReasonOrders:
			s.Text = fmt.Sprintf("The customer has ordered on %.0f days.", r.Value)
			if r.Value == 1 {
				s.Text = "The customer has ordered on one day."
			}
		case churn.ReasonSilence:
			s.Text = fmt.Sprintf("Silent for %.0f days; half of the gaps expected of this customer are shorter than %.0f.", r.Value, r.Typical)
		case churn.ReasonRhythm:
			s.Text = fmt.Sprintf("With what became of customers of such gaps and spend, %.0f %% instead of %.0f %%.", 100*r.Value, 100*r.Typical)
		case churn.ReasonBehaviour:
			s.Text = "Visits, searches, carts and reactions to mails of the last weeks."
		case churn.ReasonMaxSilence:
			s.Text = fmt.Sprintf("Silent for %.0f days, which is the most anybody is left alone.", r.Value)
		}
		said = append(said, s)
	}
	return said
}

// message is the payload as the gRPC interface says it.
func message(data []byte) (*churnv1.Alert, error) {
	var p Payload
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("decode an alert: %w", err)
	}
	kind := map[string]churnv1.Alert_Kind{"raised": churnv1.Alert_KIND_RAISED, "recovered": churnv1.Alert_KIND_RECOVERED, "withdrawn": churnv1.Alert_KIND_WITHDRAWN}[p.Kind]
	return &churnv1.Alert{
		AlertId: p.AlertID, Kind: kind, Shop: p.Shop, CustomerId: p.CustomerID, Episode: p.Episode, DueMs: p.DueMS, ExpiresMs: p.ExpiresMS,
		Probability: p.Probability, HorizonDays: p.HorizonDays, SilenceDays: p.SilenceDays, UsualGapDays: p.UsualGapDays, Orders: p.Orders,
		ValueAtRisk: p.ValueAtRisk, Currency: p.Currency, Reasons: wire(p.Reasons), Arm: p.Arm, ModelVersion: p.ModelVersion,
		RaisedAlertId: p.RaisedAlertID, DaysToReturn: p.DaysToReturn, Historical: p.Historical,
	}, nil
}

func wire(all []Reason) []*churnv1.Reason {
	var said []*churnv1.Reason
	for _, r := range all {
		said = append(said, &churnv1.Reason{Code: r.Code, Value: r.Value, Typical: r.Typical, Contribution: r.Contribution, Text: r.Text})
	}
	return said
}
