// Package commerce holds the nouns that every part of a shop's data shares:
// money in whole millionths, the canonical e-commerce events, and which ids name
// nobody.
//
// The events are those of the Segment e-commerce specification, version 2, with
// its version 1 names and its e-mail events as aliases of one enumeration.
//
// It does not convert between currencies, and it holds no order or product:
// those belong to the packages that decide about them.
package commerce
