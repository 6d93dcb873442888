// Package core is the vocabulary and the decisions of Isthmus: what a room, an
// event, a member and a link are, and which input may change them.
//
// It is pure. Apply takes a transaction, the time and an input and returns what
// happened; it owns no goroutine, no clock, no socket and no source of chance, so
// the same inputs give the same trace. Everything that talks lives in bridges,
// everything that remembers lives in store.
package core
