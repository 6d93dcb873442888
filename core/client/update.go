package client

import (
	"github.com/isthmus-chat/isthmus/core"
)

// A Kind says what an Update is about.
type Kind uint8

// The kinds of updates.
const (
	NewMessage     Kind = iota + 1 // Message
	RoomJoined                     // this device can read and write in Room now; Text: the homeservers that vouch for it
	RoomLeft                       // and now it cannot any more
	RoomChanged                    // name, topic, policy or homeservers
	MemberIn                       // User takes part
	MemberOut                      // User does not any more
	RoleChanged                    // User has another role: Text
	DeviceIn                       // Device of User can read
	DeviceOut                      // and now it cannot any more
	NewLetter                      // Letter
	Typing                         // User is typing in Room
	UnlinkedDevice                 // warning: a device that no other device of User names
	Equivocation                   // warning: a device that tells two truths
	Alarm                          // warning: a homeserver says what it must not
	Halted                         // warning: the room goes no further here, see Text
	Resynced                       // what was said in Room meanwhile cannot be read
	Unheard                        // warning: something that User said in Room did not reach everybody: Text, Message
)

// An Update is something that happened, for people to see.
type Update struct {
	Kind    Kind
	Room    core.RoomID
	User    core.UserURI
	Device  core.DeviceURI
	Message *Message
	Letter  *Letter
	Text    string
	Seq     uint64 // place in the room's log of the change that did it; 0 if none did
}

// Warning reports whether people should be told in so many words.
func (u Update) Warning() bool { return u.Kind >= UnlinkedDevice }

// tell keeps an update for the next Sync; the oldest goes when nobody takes them.
func (c *Client) tell(u Update) {
	if len(c.updates) >= maxUpdates {
		c.updates = c.updates[1:]
	}
	c.updates = append(c.updates, u)
}
