// Package churn decides when a customer has become likely not to order again,
// from orders and behaviour, and what that customer is worth.
//
// # Model
//
// Orders follow MBG/CNBD-k: while active, a customer orders with Erlang-k gaps
// (k of 1 to 3; k = 1 is MBG/NBD) at a rate drawn from a gamma distribution, and
// leaves after any order, the first included, with a probability drawn from a
// beta distribution (Batislam, Denizel and Filiztekin, 2007; Hoppe and Wagner,
// 2007; Platzer and Reutterer, 2016, for k > 1). The score is
//
//	C_h(T) = P(no order within the next h days | silence until T)
//
// and not P(alive), which a customer of one order makes meaningless under BG/NBD
// and which is a poor trigger under any of them. For k = 1 the score only grows
// while a customer is silent, so the moment at which it passes a threshold is
// known at the last order: [Params.Crossing] computes it, [Customer.NextWake]
// sleeps until it, and nobody is scored daily. For k > 1 the score first falls,
// as the next order comes due; the crossing is looked for to the right of its
// minimum.
//
// Spend per order is gamma-gamma ([Value]; Fader, Hardie and Lee, 2005).
//
// [Fit] is maximum likelihood with a weak prior, from counted cells rather than
// customers: its cost does not grow with a shop.
//
// # Correction
//
// A [Trainer] lives through a shop's history in time order. Every week it fits the
// base model, takes a snapshot of the customers, and closes the labels of the
// snapshot whose horizon is over. From them a [Learner] learns, one label at a time,
// who is riskier than the base score says: logistic regression on [Features] of
// rhythm, spend, visits, searches, carts, reactions to mails and refunds, with the
// logit of the base score as offset. How risky all are together is apart from it
// ([Level]), because it changes with the season. The correction speaks only while
// its running Brier score beats the base's, and as much as its record says. The
// result is a [Setting], which is all that a score or a decision reads.
//
// While a shop runs nobody holds an array of its customers. A [Fitter] learns the
// same lessons from one label a customer: a [Label] notes what is known of him on a
// day that a hash of his key fixes, says it in a [Stat], says what became of him when
// the horizon is over, and opens again. The Fitter folds stats one by one in any
// order, fits the base model to a histogram of the histories in the open labels, and
// returns a [Model] when one is worth saying. Of a great shop it halves the sample.
//
// # Customer
//
// [Customer] is the whole state of one customer, [StateBytes] long when packed:
//
//	version, flags, currency                             5
//	first and last order, repeat orders                 12
//	observed time from first to last, logs of gaps      12
//	three orders before the last, orders a day          16
//	spend in all, on the first order day                16
//	last behaviour, decayed visits (7 and 90 days),
//	minutes, searches, carts, reactions to mails        16
//	episode, raised at, raised with, refunds            14
//	and the sum of squares of the logs of gaps           4
//
// and of a customer of the sample [LabelBytes] more. A packed Fitter is of 50 kB at
// most.
//
// All orders of a local day are one transaction, at the instant of the first.
// Facts and wake-ups come in time order; silence is counted in observed time
// ([Observed]), so an outage of the shop's events is nobody's silence.
//
// # What it is not
//
// Public sets with orders, visits, mails and outcomes together do not exist: what
// behaviour adds is learnt from each shop's own labels, and is nothing before. The
// level knows the season from a second year on; [Setting].Season takes a forecast
// of it from elsewhere. The package hashes no ids, sends nothing and reads no
// clock: instants are microseconds since 1970 and come with every call.
//
// # Concurrency
//
// Functions are pure. A Customer, a Trainer and a Fitter are plain data and need
// their caller's care when shared; [Setting] is only read.
package churn
