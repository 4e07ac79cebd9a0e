// Package restock forecasts the demand for one product at one place as a
// distribution, and decides when to tell the supply chain to order, and how much.
//
// # Model
//
// Demand is followed by three discounted gamma-Poisson experts, with half-lives of
// 6.6, 23 and 138 days: each keeps discounted sales a, discounted exposure b, and the
// discounted squared error V and mean M that give its dispersion (variance to mean).
// Exposure is the share of a day in which the product was in stock and observed: a
// day without stock is not a day without demand. Each expert is drawn to the next
// slower one. They are weighed online by their weekly quantile losses, a product's own
// and those of all products of its volume. Demand over a window, with a lead time that
// is random (gamma, on five points), is negative binomial with the mixture's mean and
// variance; above a mean of 400 it is gamma. The discount of the experts is that of
// West and Harrison's power steady model; the mixture follows Huard, Garnier and Stoltz
// (2020).
//
// A day without sales changes nothing but a count of such days: the experts are
// brought up to date in closed form when somebody reads them. So a product that
// sleeps through a hundred empty days and one that is closed a hundred times are
// equal to the last bit.
//
// # What products share
//
// A [Layer] holds weekdays and weeks of the year, histograms of where outcomes fell in
// forecasts of the same lumpiness, the experts' pooled losses, launch rates by price
// band, and coefficients of price and promotion by group (recursive least squares). A
// [Pool] learns it from the [Stat]s that products tell, all of them or a sample that the
// layer in force names, and makes a new one every week. Stats, pool and layer have packed
// forms, so that they can be records and state. Without a layer nothing is seasonal and
// forecasts stand as they are.
//
// # Policy
//
// A [Policy] has one of three targets. Cycle service asks for a stock of s = Q_tau(demand
// over lead time and review); economic is the same with the newsvendor's tau = Cu/(Cu +
// Co), the cost of a unit missed and of one too many; fill rate asks for the smallest s
// with E(demand - s)+ <= (1 - beta) Q, where Q is what one order brings: its packs, and
// what the position is below s when it is placed. The
// level to order up to is S = s + max(Q, demand of a review), Q being some days of demand
// or the economic quantity; no more than the longest cover and the shelf life allow is
// ordered, but a supplier's minimum always is, and the reasons say so. [Spend] chooses among
// the orders of a shop where the money does not suffice for all.
//
// The position is IP = on hand + on order - reserved, and the risk rho = P(demand over
// lead time and review > IP). A signal is raised at rho >= 1 - tau, of a fill rate at
// E(demand - IP)+ >= (1 - beta) Q, and withdrawn at half of that, or below it by an
// order or a receipt. Between, it is updated only when its severity rises or its quantity
// changes by more than a quarter. Under the two targets that count units and money, a
// product of which one unit would be sold within the longest cover is never left with an
// empty shelf and nothing on order.
// A day with news is looked at when it is closed ([Product.NextClose]); then
// [Product.NextWake] tells which later close could change a decision, so that most
// products need no timer.
//
// # Product
//
// [Product] is the whole state, [StateBytes] long when packed:
//
//	version, flags and price band                    2
//	experts: a, b, V, M of each                     48
//	ensemble: losses, forecast and outcome of week  44
//	check of four weeks                             12
//	days: first, open, empty days since the anchor  12
//	open day: sold, stock-out                       12
//	stock: on hand, reserved                         8
//	lead time: n, mean, squares                     12
//	purchase orders: the oldest and the others      32
//	signal: severity, cycle, revision, quantity     11
//	sales: last, price, usual size of a day         12
//	offer: usual and present price, deal, feature,
//	  group                                         12
//	pack size, minimum order                         8
//
// # What it is not
//
// No browsing effects, no events of a calendar, and no purchase orders by id. It reads
// no clock and sends nothing: instants are microseconds since 1970 and come with
// every call, in time order.
//
// # Concurrency
//
// Functions are pure. A Product is plain data and needs its caller's care when
// shared; [Setting] is only read.
package restock
