// Package churn tells who is about to leave.
//
// It consumes activity.v1 in time order, keeps for each known customer the
// history of orders, and emits churn.alerts.v1 (and, the latest per customer,
// churn.state.v1): RAISED when the risk of no order within the horizon passes
// the threshold, RECOVERED when the customer orders again, WITHDRAWN when the
// customer objects to profiling. Silence is the signal: the crossing is
// computed at the last order and waited for on the shop's clock. It answers the
// risk of one customer at any time, and streams alerts (ChurnService).
//
// A customer is named by the profile id; who holds the shop's identity secret,
// or asks GetRisk by user_id, maps a user to it. Who is not known (a device) is
// no customer.
//
// It learns while it runs. Of each customer of a sample one label is open; what it
// says when it opens and closes goes to churn.stats.v1, where churn.fitter folds it,
// one entity a shop, and broadcasts a model into every partition of activity.v1 when
// one is worth saying. It decides from where it stands in the log; until the first
// one the shipped model does. A customer who sleeps is looked at every 30 days, so a
// model reaches everybody by then. Where a model is pinned (Config.Pinned, ModelFile)
// nothing is told and nothing is listened to.
package churn
