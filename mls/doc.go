// Package mls is the public half of Messaging Layer Security, RFC 9420: the
// structures on the wire, the ratchet tree as everybody may see it, and the
// rules for proposals and commits. A delivery service needs nothing else, and
// nothing here ever holds a secret; package group is a member.
//
// What is read aliases the octets that it was read from and keeps them: what
// was signed or hashed is never encoded anew.
//
// A refusal is an *Error that names its Rule; docs/MLS.md lists the rules.
package mls
