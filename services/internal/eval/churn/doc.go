// Package churn measures who-is-leaving predictions on a shop's own orders: the
// model that the churn service runs, learning day by day as it does there, beside
// Pareto/NBD, the base model alone and the days since the last order.
//
// # Protocol
//
// All orders of a customer on one day are one transaction. What is known on the
// evening of the origin is all that a model sees; a customer has churned who
// orders nothing in the horizon's days after it. Every customer with an order
// counts. Nothing is tuned on the labels that are scored.
//
// # Parts
//
// [Read] makes a [Shop] of a file, [Evaluate] makes a [Result] a model of a shop
// and an origin, [Write] makes the report of them. Reading needs memory for the
// days on which each customer ordered; lines of one invoice are one of them.
package churn
