// Package recommender tells what to show.
//
// Its processor consumes activity.v1 on arrival, keeps what each visitor
// touched in the visit at hand, and emits recommendation.deltas.v1: a product
// joined a session. Every replica builds its index in memory from the deltas
// and the catalogue (a view, with a snapshot to start from), and answers
// Recommend from it and at most one read of the store: personal where it knows
// the visitor, else by item, else what is trending or popular, and says which.
//
// The index learns from the same deltas what its sources are worth in this shop:
// whether what came next stood where it should have in the answer. What it has
// learned is part of the snapshot.
package recommender
