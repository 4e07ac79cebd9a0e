// Package churn decides when a customer has become likely not to order again,
// from orders alone, and what that customer is worth.
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
// # Customer
//
// [Customer] is the whole state of one customer, [StateBytes] long when packed:
//
//	version, flags, currency                        5
//	first and last order, repeat orders             12
//	observed time from first to last, sum log gap   12
//	three orders before the last, orders a day      16
//	spend in all, on the first order day            16
//	last visit, decayed visits (7 and 90 days)      12
//	episode, raised at, raised with, refunds        14
//
// All orders of a local day are one transaction, at the instant of the first.
// Facts and wake-ups come in time order; silence is counted in observed time
// ([Observed]), so an outage of the shop's events is nobody's silence.
//
// # What it is not
//
// Visits are remembered but do not move the score yet: there is no behavioural
// correction, season or calibration here. It hashes no ids, sends nothing and
// reads no clock: instants are microseconds since 1970 and come with every call.
//
// # Concurrency
//
// Functions are pure. A Customer is plain data and needs its caller's care when
// shared; [Setting] is only read.
package churn
