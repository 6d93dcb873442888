// Package epoch makes the homeservers of a Group agree on which commit ends each
// of its epochs (PROTOCOL §6): raft per room, with approvals and certificates by
// which a device sees that the agreement took place.
//
// A Machine stands around the engine and is fed by the same loop. What raft must
// not forget is written in the transaction of the input that changed it, and
// messages leave with the output of that transaction; so nothing is said to a
// peer that a crash could take back. Between inputs a Machine does nothing: it
// has no goroutine and no clock, time comes as core.Tick.
//
// A room decided by one homeserver that nobody follows has no raft: its
// handshakes are decided at once. Raft starts when a second homeserver appears.
// A room where nothing is in flight is asleep: it neither ticks nor speaks, and
// may be dropped from memory.
//
// Homeservers are trusted to run raft; none is trusted to be alone. What a peer
// sends is held to what an honest one can send before raft sees it. A commit is
// approved by each homeserver after its own judgement, and devices ask for the
// approvals.
package epoch
