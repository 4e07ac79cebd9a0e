// Package archtest holds the structure of the house: who may import whom, where
// package comments stand, and which packages must prove that their goroutines
// end. Its tests read the three modules through `go list` and the Go parser; a
// row that forbids something says why, and a row about a package that no longer
// exists fails, so that the table cannot rot.
//
// It holds no behaviour of Sillage and nothing imports it. The linter
// configuration repeats a part of the rules for the editor; this is the complete
// list.
package archtest
