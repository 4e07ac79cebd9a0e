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
// no customer. Parameters are the shipped ones, or those of a model file
// (sillage model fit): nothing is fitted while it runs.
package churn
