// Package replay reads files of shops' histories and feeds them through the
// collector as imports: in file order, at any speed, each line accounted for,
// and going on where it was after it was killed.
package replay
