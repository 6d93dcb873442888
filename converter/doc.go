// Package converter translates between the normal form of chat content (MIMI
// content, draft-ietf-mimi-content-09) and what IRC and Matrix say.
//
// It is pure: no I/O, no clock, no chance, no state. Earlier events, names and
// addresses come through Names. What a far side cannot show is returned as
// core.Loss. Sealed bodies are never looked at: converting one is Unsupported.
//
// Text that crosses is data: it never becomes a command, a CTCP, a second line
// or a highlight that its author could not have caused there.
package converter
