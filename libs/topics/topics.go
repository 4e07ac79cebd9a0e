package topics

import "time"

// Names of the topics.
const (
	Events               = "events.v1"
	Activity             = "activity.v1"
	Supply               = "supply.v1"
	Catalog              = "catalog.v1"
	RecommendationDeltas = "recommendation.deltas.v1"
	ChurnStats           = "churn.stats.v1"
	ChurnAlerts          = "churn.alerts.v1"
	ChurnState           = "churn.state.v1"
	RestockStats         = "restock.stats.v1"
	RestockSignals       = "restock.signals.v1"
	RestockState         = "restock.state.v1"
	DeadLetters          = "dlq.v1"
	DefaultPartitions    = 16
	EmbeddedPartitions   = 4
	LargePartitions      = 64
	DedupeHorizon        = 7 * 24 * time.Hour // how long a reader remembers outside ids
	week                 = 7 * 24 * time.Hour
)

// Topic is one topic of the catalogue.
type Topic struct {
	Name    string
	Key     string   // what the record key names, behind the shop
	Writers []string // services
	Readers []string // service.processor
	Clock   string   // topic whose partitions tell this topic's readers the time; "" where it has none
	Compact bool
	Keep    time.Duration // 0 where compacted
	Outside bool          // leaves the system: CloudEvents with JSON data
	Types   []string      // ce_type of its records
	Summary string
}

// All is the catalogue, in the order of the flow.
func All() []Topic {
	return []Topic{
		{Name: Events, Key: "device; product for stock and catalogue", Writers: []string{"collector"}, Readers: []string{"profile.devices"}, Clock: Events, Keep: 4 * week, Types: []string{typeEvent, typeTick, typeImport, typeShop}, Summary: "What happened: client events, ticks, import and shop marks. The one front door."},
		{Name: Activity, Key: "profile", Writers: []string{"profile", "churn"}, Readers: []string{"recommender.visitors", "churn.customers"}, Clock: Events, Keep: 4 * week, Types: []string{TypeActivity, TypeMerged, TypeChurnModel, typeTick, typeImport, typeShop}, Summary: "What a profile did; and what churn has learnt of a shop."},
		{Name: Supply, Key: "product", Writers: []string{"profile", "restock"}, Readers: []string{"restock.products"}, Clock: Events, Keep: 26 * week, Types: []string{TypeSupply, TypeRestockLayer, typeTick, typeImport, typeShop}, Summary: "What happened to a product: sales, stock, purchase orders, receipts; and what restock has learnt of a shop."},
		{Name: Catalog, Key: "product", Writers: []string{"profile"}, Readers: []string{"recommender.index"}, Compact: true, Types: []string{TypeProduct}, Summary: "Latest name, category, brand and price of each product."},
		{Name: RecommendationDeltas, Key: "session", Writers: []string{"recommender"}, Readers: []string{"recommender.index"}, Keep: 2 * week, Types: []string{TypeDelta}, Summary: "A product joined a session: what every replica's index is built from."},
		{Name: ChurnStats, Key: "the same for all of a shop", Writers: []string{"churn"}, Readers: []string{"churn.fitter"}, Keep: 4 * week, Types: []string{TypeChurnStat}, Summary: "What became of customers of whom something was foretold: what a shop's churn model is learnt from."},
		{Name: ChurnAlerts, Key: "customer", Writers: []string{"churn"}, Readers: []string{"CRM"}, Keep: 4 * week, Outside: true, Types: []string{TypeAlert}, Summary: "A customer is about to leave, came back, or must be left alone."},
		{Name: ChurnState, Key: "customer", Writers: []string{"churn"}, Readers: []string{"CRM"}, Compact: true, Outside: true, Types: []string{TypeAlert}, Summary: "Latest alert of each customer."},
		{Name: RestockStats, Key: "the same for all of a shop", Writers: []string{"restock"}, Readers: []string{"restock.fitter"}, Keep: 4 * week, Types: []string{TypeRestockStat}, Summary: "What products sold beside what was forecast: what the products of a shop share is learnt from."},
		{Name: RestockSignals, Key: "product", Writers: []string{"restock"}, Readers: []string{"supply chain"}, Keep: 26 * week, Outside: true, Types: []string{TypeSignal}, Summary: "A product is about to run out, or no longer is."},
		{Name: RestockState, Key: "product", Writers: []string{"restock"}, Readers: []string{"supply chain"}, Compact: true, Outside: true, Types: []string{TypeSignal}, Summary: "Latest signal of each product."},
		{Name: DeadLetters, Key: "as the source", Writers: []string{"collector", "profile", "recommender", "churn", "restock"}, Keep: 4 * week, Summary: "What could not be folded, as it came, with the reason."},
	}
}

// Lookup finds a topic by name.
func Lookup(name string) (Topic, bool) {
	for _, t := range All() {
		if t.Name == name {
			return t, true
		}
	}
	return Topic{}, false
}

// Types of the records in the topics (ce_type), beside the control records of
// libs/stream/step.
const (
	TypeActivity = "sillage.activity.v1"
	TypeMerged   = "sillage.merged.v1"
	TypeSupply   = "sillage.supply.v1"
	TypeProduct  = "sillage.product.v1"
	TypeDelta    = "sillage.delta.v1"
	TypeAlert    = "sillage.churn.alert.v1"
	TypeSignal   = "sillage.restock.signal.v1"

	// TypeChurnStat and the next three are what a shop's entities tell its fitter, and
	// what it tells them all.
	TypeChurnStat    = "sillage.churn.stat.v1"
	TypeChurnModel   = "sillage.churn.model.v1"
	TypeRestockStat  = "sillage.restock.stat.v1"
	TypeRestockLayer = "sillage.restock.layer.v1"

	// Named in libs/stream/step, which knows no catalogue; the command line's
	// test compares.
	typeEvent  = "sillage.event.v1"
	typeTick   = "sillage.tick.v1"
	typeImport = "sillage.import.v1"
	typeShop   = "sillage.shop.v1"
)
