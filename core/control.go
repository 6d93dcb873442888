package core

import "github.com/fxamacker/cbor/v2"

// ContentControl is the content type of messages that the homeserver obeys:
// membership, roles, bans, topic, deletion (PROTOCOL §3, §4).
const ContentControl = "application/vnd.isthmus.control+cbor"

// An Op is what a control message does.
type Op uint8

const (
	OpJoin    Op = iota + 1 // User enters; Profile says how they are shown; Text is the key
	OpLeave                 // User goes by themselves; Text is the reason; Quit if they left the network
	OpKick                  // User is removed by the sender; Text is the reason
	OpRole                  // User gets Role
	OpBan                   // Mask is put on the list List
	OpUnban                 // Mask is taken off the list List
	OpTopic                 // the topic becomes Text
	OpName                  // the shown name becomes Text
	OpPolicy                // the policy becomes Policy
	OpDelete                // Event loses its bytes; Text is the reason
	OpInvite                // User may join once, and is told
	OpProfile               // User is shown as Profile from now on
	opEnd
)

var opNames = [...]string{"", "join", "leave", "kick", "role", "ban", "unban", "topic", "name", "policy", "delete", "invite", "profile"}

func (o Op) String() string {
	if o < opEnd {
		return opNames[o]
	}
	return "unknown"
}

// A Control is the content of a control message.
type Control struct {
	Op      Op       `cbor:"1,keyasint"`
	User    UserURI  `cbor:"2,keyasint,omitempty"` // whom it concerns; "" = the sender
	Text    string   `cbor:"3,keyasint,omitempty"`
	Role    Role     `cbor:"4,keyasint,omitempty"`
	Mask    string   `cbor:"5,keyasint,omitempty"`
	List    byte     `cbor:"6,keyasint,omitempty"` // 'b', 'e' or 'I'; 0 = 'b'
	Event   EventID  `cbor:"7,keyasint,omitempty"`
	Policy  *Policy  `cbor:"8,keyasint,omitempty"`
	Profile *Profile `cbor:"9,keyasint,omitempty"`
	Quit    bool     `cbor:"10,keyasint,omitempty"`
}

// Text of a control message is bounded like an IRC line, with room for UTF-8.
const MaxControlText = 2048

var controlDec = StrictCBOR(4, 32, 32)

var controlEnc = func() cbor.EncMode {
	m, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err) // constants
	}
	return m
}()

// Body returns c as the body of a control message by somebody shown as name.
func (c Control) Body(name string) Signed {
	b, err := controlEnc.Marshal(c)
	if err != nil {
		panic(err) // only strings, numbers and bools: cannot fail
	}
	return Signed{Name: name, ContentType: ContentControl, Content: b}
}

// ParseControl decodes the content of a control message within its bounds.
func ParseControl(b []byte) (*Control, error) {
	if len(b) > MaxContent {
		return nil, Errorf(TooLarge, "control message over %d octets", MaxContent)
	}
	var c Control
	if err := controlDec.Unmarshal(b, &c); err != nil {
		return nil, Errorf(Invalid, "control message: %w", err)
	}
	if c.Op == 0 || c.Op >= opEnd || len(c.Text) > MaxControlText || len(c.Mask) > MaxControlText {
		return nil, Errorf(Invalid, "control message out of bounds")
	}
	return &c, nil
}
