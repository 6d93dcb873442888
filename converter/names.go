package converter

import "github.com/isthmus-chat/isthmus/core"

// Names answers what a converter cannot know by itself, for one room and one
// far side. Every method may say "unknown"; the conversion then falls back to
// text and reports a Loss if something was lost by it.
type Names interface {
	// Event returns an earlier event of the room: the target of a reply, an
	// edit, a reaction or a redaction. Nobody changes what is returned.
	Event(id core.EventID) (*core.Event, bool)
	// Reaction returns the event by which user reacted to target with text.
	Reaction(target core.EventID, user core.UserURI, text string) (core.EventID, bool)
	// Foreign returns the ID that an event has on the far side, ByForeign the
	// event that has an ID there. On our own IRC listener both are EventID.String.
	Foreign(id core.EventID) (string, bool)
	ByForeign(id string) (core.EventID, bool)
	// Nick returns what a user is called in text there: a nick, a display name.
	Nick(user core.UserURI) (string, bool)
	// Handle returns a user's address there: a nick, a Matrix user ID. User is
	// its inverse.
	Handle(user core.UserURI) (string, bool)
	User(handle string) (core.UserURI, bool)
	// MediaURL translates a file's URL to the other side's: mxc to https on the
	// way in, https to mxc on the way out.
	MediaURL(url string) (string, bool)
	// FullText returns an https URL under which the whole text of an event can
	// be read.
	FullText(id core.EventID) (string, bool)
}

// NoNames knows nothing. It is meant for embedding.
type NoNames struct{}

func (NoNames) Event(core.EventID) (*core.Event, bool) { return nil, false }
func (NoNames) Reaction(core.EventID, core.UserURI, string) (core.EventID, bool) {
	return core.EventID{}, false
}
func (NoNames) Foreign(core.EventID) (string, bool)   { return "", false }
func (NoNames) ByForeign(string) (core.EventID, bool) { return core.EventID{}, false }
func (NoNames) Nick(core.UserURI) (string, bool)      { return "", false }
func (NoNames) Handle(core.UserURI) (string, bool)    { return "", false }
func (NoNames) User(string) (core.UserURI, bool)      { return "", false }
func (NoNames) MediaURL(string) (string, bool)        { return "", false }
func (NoNames) FullText(core.EventID) (string, bool)  { return "", false }

// The kinds of core.Loss that a converter reports; safe as metric labels.
const (
	LossFormatting = "formatting" // colour, headings, … shown as plain text
	LossReply      = "reply"      // the target is not known there
	LossEdit       = "edit"       // shown as a new message
	LossReaction   = "reaction"   // a reaction or its removal is not shown
	LossRedaction  = "redaction"  // the far side never had it, or keeps it
	LossMedia      = "media"      // a file became a link, or could not be carried
	LossLength     = "length"     // cut, with or without a link to the rest
	LossState      = "state"      // a change of the room that has no counterpart
	LossType       = "type"       // an unknown type shown by its description
)

// LossKinds returns every kind, for metrics and for tests that range over them.
func LossKinds() []string {
	return []string{LossFormatting, LossReply, LossEdit, LossReaction, LossRedaction, LossMedia, LossLength,
		LossState, LossType}
}
