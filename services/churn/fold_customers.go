package churn

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/domain/churn"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	profilev1 "github.com/sillage-io/sillage/proto/gen/go/sillage/profile/v1"
)

// Customer is what is remembered of a customer.
type Customer struct {
	churn.Customer
	Label    churn.Label
	Standing [16]byte // id of the last RAISED; zero where there was none
	Recent   []Order  // of the last 7 days, oldest first: an order may come by two ways
}

// Order is a remembered order or refund.
type Order struct {
	ID      uint64 // hash of the order id and what it was
	Version uint32
	At      int64 // when it was placed, microseconds
	Known   int64 // when it counted
	Value   int64 // micros
}

const (
	rememberFor = int64(7 * 24 * 3600 * 1_000_000)
	maxRecent   = 32
)

// Fold folds what customers do.
type Fold struct {
	secret []byte
	pinned inForce // decides where the shop's fitter has said nothing, or is not listened to
	learns bool
}

// inForce is what decides: a setting, and the version of the model in it.
type inForce struct {
	setting churn.Setting
	version string
}

// NewFold returns the fold of churn.customers.
func NewFold(cfg Config) Fold {
	f := Fold{secret: []byte(cfg.IdentitySecret), learns: !cfg.pinned()}
	f.pinned.setting, f.pinned.version = cfg.setting()
	return f
}

// Model reads what the shop's fitter has learnt.
func (f Fold) Model(_ string, data []byte) (any, error) { return f.read(data) }

// read makes a model record ready to decide.
func (f Fold) read(data []byte) (*inForce, error) {
	m, version, err := ReadModelRecord(data)
	if err != nil {
		return nil, err
	}
	learnt := inForce{f.pinned.setting, version}
	if err := m.Into(&learnt.setting); err != nil {
		return nil, err
	}
	return &learnt, nil
}

// with is what decides: the model that a fitter has said last, if any, and what was
// not observed.
func (f Fold) with(model any, unobserved []step.Interval) (*churn.Setting, string) {
	now := f.pinned
	if learnt, ok := model.(*inForce); ok {
		now = *learnt
	}
	if len(unobserved) > 0 {
		now.setting.Observed = func(from, to int64) int64 { return step.Observed(unobserved, from, to) }
	}
	return &now.setting, now.version
}

// wants passes by what devices did, which is most of a click stream: a device is
// no customer. It reads one field and leaves the rest to Record.
func wants(fact step.Fact) bool {
	if fact.Type != topics.TypeActivity {
		return true
	}
	for b := fact.Value; len(b) > 0; {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return true // Record says what is wrong
		}
		b = b[n:]
		if field == knownField && kind == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(b)
			return v != 0
		}
		if n = protowire.ConsumeFieldValue(field, kind, b); n < 0 {
			return true
		}
		b = b[n:]
	}
	return false
}

// knownField is the number of Activity.known.
const knownField = 2

// Record folds one activity.
func (f Fold) Record(c *Customer, fact step.Fact, now step.Instant, out *step.Effects) error {
	if fact.Type == topics.TypeMerged {
		out.Drop()
		return nil
	}
	var a profilev1.Activity
	if err := proto.Unmarshal(fact.Value, &a); err != nil {
		return fmt.Errorf("decode activity: %w", err)
	}
	if !a.Known {
		out.Drop() // a device is no customer
		return nil
	}
	s, version := f.with(out.Model(), out.Unobserved())
	at, known := a.EventTimeMs*1000, int64(now)
	var alert churn.Alert
	var said bool
	if a.Consent != nil {
		if refuses := a.Consent.RefusesMarketing || a.Consent.RefusesAnalytics; refuses != c.Objected() {
			alert, said = c.Object(known, refuses, s)
			f.say(c, alert, said, version, out)
		}
	}
	switch a.Kind {
	case eventv1.Kind_KIND_ORDER_COMPLETED:
		if old, again := c.seen(&a, "order", known); again {
			if old.Version >= a.Order.GetVersion() {
				break
			}
			c.Refund(old.At, old.Value, false, s)
			*old = Order{ID: old.ID, Version: a.Order.GetVersion(), At: old.At, Known: old.Known, Value: a.Order.GetTotal().GetMicros()}
			at = old.At
		} else {
			c.remember(&a, "order", at, known)
		}
		alert, said = c.Order(at, known, a.Order.GetTotal().GetMicros(), a.Order.GetTotal().GetCurrency(), s)
		f.say(c, alert, said, version, out)
	case eventv1.Kind_KIND_ORDER_REFUNDED, eventv1.Kind_KIND_ORDER_CANCELLED:
		if _, again := c.seen(&a, a.Kind.String(), known); again {
			break
		}
		cancelled := a.Kind == eventv1.Kind_KIND_ORDER_CANCELLED
		value := a.Order.GetTotal().GetMicros()
		if order, ok := c.seen(&a, "order", known); ok {
			at = order.At
			if value == 0 || cancelled {
				value = order.Value
			}
		}
		c.remember(&a, a.Kind.String(), at, known)
		c.Refund(at, value, cancelled, s)
	case eventv1.Kind_KIND_SESSION_ENDED:
		c.Behave(at, visit(a.Session))
	case eventv1.Kind_KIND_EMAIL_CLICKED:
		c.Behave(at, churn.Behaviour{Mails: 1})
	case eventv1.Kind_KIND_EMAIL_OPENED:
		// An opening is looked at only where the customer was asked and agreed; a
		// mail program may open by itself, so that it counts for little.
		if a.Consent != nil && !a.Consent.RefusesAnalytics {
			c.Behave(at, churn.Behaviour{Mails: openedMail})
		}
	case eventv1.Kind_KIND_UNSUBSCRIBED:
		alert, said = c.Object(known, true, s)
		f.say(c, alert, said, version, out)
	}
	f.sleep(c, now, s, out)
	return nil
}

// openedMail is what an opened mail counts of a clicked one.
const openedMail = .25

// visit is what a session says of a customer. A session without its numbers is a
// visit all the same.
func visit(s *profilev1.Session) churn.Behaviour {
	const longest = 4 * 3600 * 1000 // milliseconds: a tab left open is no interest
	return churn.Behaviour{
		Visits: 1, Minutes: float64(min(max(s.GetEndedMs()-s.GetStartedMs(), 0), longest)) / 60_000,
		Searches: float64(s.GetSearches()), Carts: float64(s.GetCartAdds()),
	}
}

// Wake decides at the moment the risk was computed to pass the threshold.
func (f Fold) Wake(c *Customer, key step.Key, now step.Instant, out *step.Effects) {
	s, version := f.with(out.Model(), out.Unobserved())
	alert, said := c.Wake(int64(now), f.draw(key, c.Episode()), s)
	f.say(c, alert, said, version, out)
	f.sleep(c, now, s, out)
}

// sleep tells the fitter what has become due, and asks when to look again.
func (f Fold) sleep(c *Customer, now step.Instant, s *churn.Setting, out *step.Effects) {
	at, ok := c.NextWake(int64(now), s)
	if f.learns {
		hash := xxhash.Sum64String("churn label|" + out.Key().String())
		if stat, due := c.Label.Turn(&c.Customer, hash, int64(now), s); due {
			f.tell(&stat, out)
		}
		if turn, due := c.Label.Next(&c.Customer, hash, int64(now), s); due && (!ok || turn < at) {
			at, ok = turn, true
		}
	}
	if ok {
		out.WakeAt(step.Instant(at))
		return
	}
	out.Sleep()
}

// tell publishes a stat.
func (f Fold) tell(stat *churn.Stat, out *step.Effects) {
	value, err := statRecord(stat)
	if err != nil {
		panic(err) // only for text that is no UTF-8, of which there is none
	}
	out.Publish(step.Message{Topic: topics.ChurnStats, Key: fitterKey, Type: topics.TypeChurnStat, Kind: "label", Subject: out.Key().ID, Value: value})
}

// draw chooses the arm: uniform, and nobody's to guess without the secret.
func (f Fold) draw(key step.Key, episode uint32) uint64 {
	h := hmac.New(sha256.New, f.secret)
	h.Write([]byte("churn arm|" + key.String() + "|" + strconv.Itoa(int(episode))))
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// say publishes an alert.
func (f Fold) say(c *Customer, a churn.Alert, said bool, version string, out *step.Effects) {
	if !said {
		return
	}
	key := out.Key()
	p := payload(a, key, version, out.Historical())
	id := alertID(key, a.Episode, p.Kind, a.Due)
	p.AlertID = hex.EncodeToString(id[:])
	if a.Kind == churn.Raised {
		c.Standing = id
	} else if c.Standing != ([16]byte{}) {
		p.RaisedAlertID = hex.EncodeToString(c.Standing[:])
	}
	value, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("marshal an alert: %v", err)) // only for infinite numbers
	}
	for _, topic := range []string{topics.ChurnAlerts, topics.ChurnState} {
		out.Publish(step.Message{Topic: topic, Key: key.ID, Type: topics.TypeAlert, ID: p.AlertID, Subject: key.ID, EventTime: a.Due / 1000, Value: value, JSON: true})
	}
}

// alertID says what happened, to whom and when it was due.
func alertID(key step.Key, episode uint32, kind string, due int64) (id [16]byte) {
	sum := sha256.Sum256([]byte("churn alert|" + key.String() + "|" + strconv.Itoa(int(episode)) + "|" + kind + "|" + strconv.FormatInt(due, 10)))
	copy(id[:], sum[:])
	return id
}

func orderHash(a *profilev1.Activity, what string) uint64 {
	return xxhash.Sum64String(what + "|" + a.Order.GetOrderId())
}

// seen finds an order heard of within 7 days. Parts of an order carry its
// total and are one order.
func (c *Customer) seen(a *profilev1.Activity, what string, now int64) (*Order, bool) {
	for len(c.Recent) > 0 && (c.Recent[0].Known < now-rememberFor || len(c.Recent) > maxRecent) {
		c.Recent = c.Recent[1:]
	}
	id := orderHash(a, what)
	for i := range c.Recent {
		if c.Recent[i].ID == id {
			return &c.Recent[i], true
		}
	}
	return nil, false
}

func (c *Customer) remember(a *profilev1.Activity, what string, at, now int64) {
	c.Recent = append(slices.Clip(c.Recent), Order{ID: orderHash(a, what), Version: a.Order.GetVersion(), At: at, Known: now, Value: a.Order.GetTotal().GetMicros()})
}
