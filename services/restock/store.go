package restock

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/sillage-io/sillage/libs/domain/restock"
	"github.com/sillage-io/sillage/libs/stream/step"
	restockv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/restock/v1"
)

// Codec is how a product lies in the store.
type Codec struct{}

const codecVersion = 1 // of what lies around the product, which has a version of its own

// Append appends the product's bytes.
func (Codec) Append(b []byte, p *Product) []byte {
	b = append(b, codecVersion)
	b, _ = p.AppendBinary(b) // never fails
	b = append(b, p.Standing[:]...)
	b = binary.AppendUvarint(b, uint64(len(p.Name)))
	b = append(b, p.Name...)
	b = binary.AppendUvarint(b, uint64(len(p.Recent)))
	for _, s := range p.Recent {
		b = binary.LittleEndian.AppendUint64(b, s.ID)
		b = binary.LittleEndian.AppendUint32(b, uint32(s.Known))
	}
	return b
}

var errCodec = errors.New("not a product of a known version")

// Unmarshal reads what any version has written.
func (Codec) Unmarshal(b []byte, p *Product) error {
	if len(b) < 2 || b[0] != codecVersion {
		return errCodec
	}
	b = b[1:]
	size := restock.PackedBytes(b[0])
	if size == 0 || len(b) < size+len(p.Standing) {
		return errCodec
	}
	*p = Product{}
	if err := p.UnmarshalBinary(b[:size]); err != nil {
		return err
	}
	b = b[size:]
	b = b[copy(p.Standing[:], b):]
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return errCodec
	}
	p.Name, b = string(b[k:k+int(n)]), b[k+int(n):]
	n, k = binary.Uvarint(b)
	if k <= 0 || n > maxRecent || uint64(len(b)-k) != 12*n {
		return errCodec
	}
	b = b[k:]
	for ; n > 0; n-- {
		p.Recent = append(p.Recent, Seen{ID: binary.LittleEndian.Uint64(b), Known: int64(binary.LittleEndian.Uint32(b[8:]))})
		b = b[12:]
	}
	return nil
}

// Payload is a signal as it leaves the system: the data of a CloudEvent, JSON.
type Payload struct {
	SignalID           string   `json:"signal_id"`
	Kind               string   `json:"kind"`     // raised, updated, withdrawn
	Severity           string   `json:"severity"` // low, medium, high, critical
	Shop               string   `json:"shop"`
	ProductID          string   `json:"product_id"`
	ProductName        string   `json:"product_name,omitempty"`
	Cycle              uint32   `json:"cycle"`
	Revision           uint32   `json:"revision"`
	DueMS              int64    `json:"due_ms"`
	ExpiresMS          int64    `json:"expires_ms"`
	OnHand             int64    `json:"on_hand"`
	OnOrder            int64    `json:"on_order"`
	InventoryPosition  int64    `json:"inventory_position"`
	LeadTimeDays       float64  `json:"lead_time_days"`
	LeadTimeP90Days    float64  `json:"lead_time_p90_days"`
	Risk               float64  `json:"risk"`
	ServiceLevel       float64  `json:"service_level"`
	Demand             Demand   `json:"demand"`
	ReorderPoint       int64    `json:"reorder_point"`
	OrderUpTo          int64    `json:"order_up_to"`
	OrderQuantity      int64    `json:"order_quantity"`
	StockOutMS         []int64  `json:"stock_out_ms,omitempty"` // 10, 50 and 90 %; 0: later than can be seen
	Reasons            []Reason `json:"reasons,omitempty"`
	ModelVersion       string   `json:"model_version"`
	SupersededSignalID string   `json:"superseded_signal_id,omitempty"`
	Historical         bool     `json:"historical,omitempty"`
	Target             string   `json:"target,omitempty"`       // fill-rate or economic; none: cycle-service
	TargetLevel        float64  `json:"target_level,omitempty"` // of such a target: the fill rate, or the service level that costs least
}

// Demand is a predictive distribution over a window.
type Demand struct {
	Days     float64 `json:"days"`
	Mean     float64 `json:"mean"`
	Variance float64 `json:"variance"`
	P50      int64   `json:"p50"`
	P75      int64   `json:"p75"`
	P90      int64   `json:"p90"`
	P95      int64   `json:"p95"`
	P99      int64   `json:"p99"`
}

// Reason is one cause with its number, mostly units, and a sentence.
type Reason struct {
	Code  string  `json:"code"`
	Value float64 `json:"value"`
	Text  string  `json:"text"`
}

// round cuts what nobody can use, so that payloads are short.
func round(v float64) float64 { return math.Round(v*1e4) / 1e4 }

func demand(d restock.Demand, days float64) Demand {
	return Demand{
		Days: round(days), Mean: round(d.Mean), Variance: round(d.Variance),
		P50: d.Quantile(.5), P75: d.Quantile(.75), P90: d.Quantile(.9), P95: d.Quantile(.95), P99: d.Quantile(.99),
	}
}

func payload(s restock.Signal, key step.Key, name, version string, historical bool) Payload {
	p := Payload{
		Kind: strings.ToLower(s.Kind.String()), Severity: strings.ToLower(s.Severity.String()), Shop: key.Shop, ProductID: key.ID, ProductName: name, Cycle: s.Cycle, Revision: uint32(s.Revision),
		DueMS: s.Due / 1000, OnHand: s.OnHand, OnOrder: s.OnOrder, InventoryPosition: s.Position,
		LeadTimeDays: round(s.Lead.Mean), LeadTimeP90Days: round(s.LeadP90), Risk: round(s.Risk), ServiceLevel: s.ServiceLevel,
		Demand: demand(s.Demand, s.WindowDays), ReorderPoint: s.ReorderPoint, OrderUpTo: s.OrderUpTo, OrderQuantity: s.Quantity,
		Reasons: reasons(s.Reasons), ModelVersion: version, Historical: historical,
	}
	// After a lead time and a review the decision is another one.
	p.ExpiresMS = p.DueMS + int64(s.WindowDays*day)/1000
	if s.Target != restock.CycleService {
		p.Target, p.TargetLevel, p.ServiceLevel = s.Target.String(), round(s.TargetLevel), round(s.ServiceLevel)
	}
	for _, at := range s.StockOut {
		p.StockOutMS = append(p.StockOutMS, at/1000)
	}
	return p
}

// texts say what a reason's number is.
var texts = map[string]string{
	restock.ReasonLevel:         "%.1f units are sold over the lead time and a review at the long-run rate.",
	restock.ReasonTrend:         "%+.1f units by the recent trend.",
	restock.ReasonDemandSpread:  "%.1f units of safety stock against varying demand.",
	restock.ReasonLeadSpread:    "%.1f units of safety stock against late deliveries.",
	restock.ReasonShelfLife:     "%+.1f units, because more would spoil before they are sold.",
	restock.ReasonFillRate:      "The target is a fill rate: a share of %.4g of the units asked for is to be served from stock.",
	restock.ReasonEconomic:      "The target is economic: a service level of %.4g costs least in missed sales and idle stock.",
	restock.ReasonMaxCover:      "%.0f units fewer than the target asks for: they would lie for longer than the longest cover.",
	restock.ReasonSpoils:        "%.0f units fewer than an order would bring: they would spoil before they are sold.",
	restock.ReasonMinimum:       "%.0f units more than cover and shelf life allow: the supplier's minimum order asks for them.",
	restock.ReasonOnHand:        "%.0f units are on hand.",
	restock.ReasonOnOrder:       "%.0f units are on order and in time.",
	restock.ReasonReserved:      "%.0f units are promised.",
	restock.ReasonOrdered:       "A purchase order covers the need; the inventory position is %.0f.",
	restock.ReasonReceived:      "A receipt covers the need; the inventory position is %.0f.",
	restock.ReasonRiskFell:      "Demand has fallen; the inventory position of %.0f is enough.",
	restock.ReasonStockAdjusted: "The stock was corrected; the inventory position is %.0f.",
}

func reasons(all []restock.Reason) []Reason {
	var said []Reason
	for _, r := range all {
		s := Reason{Code: r.Code, Value: round(r.Value)}
		if text, ok := texts[r.Code]; ok {
			s.Text = fmt.Sprintf(text, r.Value)
		}
		said = append(said, s)
	}
	return said
}

func (d Demand) wire() *restockv1.Demand {
	return &restockv1.Demand{Days: d.Days, Mean: d.Mean, Variance: d.Variance, P50: d.P50, P75: d.P75, P90: d.P90, P95: d.P95, P99: d.P99}
}

func wire(all []Reason) []*restockv1.Reason {
	var said []*restockv1.Reason
	for _, r := range all {
		said = append(said, &restockv1.Reason{Code: r.Code, Value: r.Value, Text: r.Text})
	}
	return said
}

// message is the payload as the gRPC interface says it.
func message(data []byte) (*restockv1.Signal, error) {
	var p Payload
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("decode a signal: %w", err)
	}
	kind := map[string]restockv1.Signal_Kind{"raised": restockv1.Signal_KIND_RAISED, "updated": restockv1.Signal_KIND_UPDATED, "withdrawn": restockv1.Signal_KIND_WITHDRAWN}[p.Kind]
	severity := map[string]restockv1.Severity{"low": restockv1.Severity_SEVERITY_LOW, "medium": restockv1.Severity_SEVERITY_MEDIUM, "high": restockv1.Severity_SEVERITY_HIGH, "critical": restockv1.Severity_SEVERITY_CRITICAL}[p.Severity]
	return &restockv1.Signal{
		SignalId: p.SignalID, Kind: kind, Severity: severity, Shop: p.Shop, ProductId: p.ProductID, ProductName: p.ProductName, Cycle: p.Cycle, Revision: p.Revision,
		DueMs: p.DueMS, ExpiresMs: p.ExpiresMS, OnHand: p.OnHand, OnOrder: p.OnOrder, InventoryPosition: p.InventoryPosition,
		LeadTimeDays: p.LeadTimeDays, LeadTimeP90Days: p.LeadTimeP90Days, Risk: p.Risk, ServiceLevel: p.ServiceLevel, Demand: p.Demand.wire(),
		ReorderPoint: p.ReorderPoint, OrderUpTo: p.OrderUpTo, OrderQuantity: p.OrderQuantity, StockOutMs: p.StockOutMS, Reasons: wire(p.Reasons),
		ModelVersion: p.ModelVersion, SupersededSignalId: p.SupersededSignalID, Historical: p.Historical,
		Target: p.Target, TargetLevel: p.TargetLevel,
	}, nil
}
