// Package restock measures the demand forecasts and the stock policies of
// libs/domain/restock on a shop's own history, beside plain methods over the same
// cases.
//
// # Forecasts
//
// The history is replayed a period at a time. In every week of its last five months
// (of its last third, where it is shorter than fifteen) every series that is eight
// weeks old is forecast over the horizon, as a distribution; of orders only series
// that sold within 180 days. What is known at the time is all that a method sees. A
// forecast is judged by the scaled pinball loss (SPL): twice the pinball loss, over
// the mean absolute change from week to week so far, for the square root of the
// horizon in weeks, and the mean over the quantiles .1 .25 .5 .75 .9 .95 .99. WAPE is
// of the medians, bias of the means.
//
// # Stock
//
// Orders are replayed against simulated shelves: daily review, lead times that are
// random and the same for all methods, sales lost that cannot be served. A sweep of
// the service level draws each method's frontier of service against days of stock.
package restock
