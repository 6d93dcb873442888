// Package irc is the IRC listener: users connect to us with any IRC client.
//
// One goroutine reads each connection and runs its commands. What they change
// goes to the gateway as envelopes; the world (nicks, channels, members) changes
// only in Publish, from committed events and in their order, so every session
// sees the same history and nobody sees what was not stored. A session's lines
// wait in a bounded queue of shared slices; a goroutine writes them while there
// are any.
//
// Absent on purpose: the core's decisions (who may join, speak, change modes),
// SQL, and anything that could open a sealed message: a Group is refused here.
package irc
