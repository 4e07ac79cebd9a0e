// Package restock tells what is about to run out.
//
// It consumes supply.v1 in time order, keeps for each product the demand, the
// stock and the supplier's lead time, and emits restock.signals.v1 (and, the
// latest per product, restock.state.v1): RAISED when the risk that demand until
// the next delivery exceeds what is on hand and on order passes what the
// service level allows, UPDATED when it gets more severe, WITHDRAWN when it is
// covered. It answers demand and stock need (RestockService), and streams
// signals.
//
// What the products of a shop share (weekdays and seasons, how forecasts turned out,
// what new products sell) is learnt while it runs: products tell restock.stats.v1
// what closed days and weeks were like, the second processor, restock.fitter, folds it and
// broadcasts a layer to supply.v1, and forecasts and signals name the one that they
// were made with (model_version).
//
// A product whose stock level was never heard has forecasts, but no signals.
// A sale that comes by two ways is known again by (order, line, version) among
// the last 128 of 7 days.
package restock
