package mls

import (
	"github.com/isthmus-chat/isthmus/mls/internal/codec"
)

// SafeAAD is authenticated data that several components share,
// draft-ietf-mls-extensions-10 §4.9: in ascending order of the components,
// each once. Its methods do not change it.
type SafeAAD []ComponentData

// ParseSafeAAD reads authenticated data that is framed as a SafeAAD; it
// aliases b. It refuses under rule 120 what is framed otherwise.
func ParseSafeAAD(b []byte) (SafeAAD, error) {
	r := codec.NewReader(b)
	items := readComponents(&r, RuleSafeAAD)
	if err := r.Finish(); err != nil {
		return nil, refuse(RuleSafeAAD, "%w", WireError(err))
	}
	return SafeAAD(items), nil
}

// AppendTo appends the encoding: the whole authenticated data of a message.
func (a SafeAAD) AppendTo(dst []byte) []byte { return appendComponents(dst, a) }

// Find returns the component's item, and whether there is one.
func (a SafeAAD) Find(id ComponentID) ([]byte, bool) { return AppData(a).Find(id) }

// With returns a copy in which the component has this item.
func (a SafeAAD) With(id ComponentID, item []byte) SafeAAD {
	return SafeAAD(insertComponent(a, ComponentData{id, item}))
}

// CheckSafeAAD refuses under rule 120 authenticated data that is not framed as
// a SafeAAD. It allocates nothing: every message of a group may go through it.
func CheckSafeAAD(authenticatedData []byte) error {
	r := codec.NewReader(authenticatedData)
	in := r.Sub()
	last := -1
	for count := 0; in.Len() > 0; count++ {
		id := int(in.Uint16())
		in.Vec()
		switch {
		case in.Err() != nil:
		case id <= last:
			in.Fail(int(RuleSafeAAD), "items are not in ascending order, each once")
		case count == MaxComponents:
			in.Fail(int(RuleBounds), "too many components")
		}
		last = id
	}
	r.Join(&in)
	if err := r.Finish(); err != nil {
		return refuse(RuleSafeAAD, "%w", WireError(err))
	}
	return nil
}

// CheckAuthenticatedData refuses under rule 120 authenticated data that is not
// framed, where the group has the safe_aad component and so demands it,
// draft-ietf-mls-extensions-10 §4.9.
func (c *GroupContext) CheckAuthenticatedData(data []byte) error {
	if _, ok := c.Extensions.Component(ComponentSafeAAD); !ok {
		return nil
	}
	return CheckSafeAAD(data)
}

// ComponentPSK names a component's pre-shared key,
// draft-ietf-mls-extensions-10 §4.5. The nonce is fresh for each use and as
// long as a hash of the suite.
func ComponentPSK(component ComponentID, id, nonce []byte) PreSharedKeyID {
	return PreSharedKeyID{Type: PSKComponent, ID: id, Component: component, Nonce: nonce}
}

// CheckComponent refuses under rule 123 the name of a component's pre-shared
// key that has the reserved component or a nonce that is not hash octets long,
// draft-ietf-mls-extensions-10 §4.5. Keys of other types pass.
func (p *PreSharedKeyID) CheckComponent(hash int) error {
	if p.Type != PSKComponent {
		return nil
	}
	if p.Component == 0 {
		return refuse(RuleComponentPSK, "component 0 is reserved")
	}
	if len(p.Nonce) != hash {
		return refuse(RuleComponentPSK, "a nonce of %d octets, not %d", len(p.Nonce), hash)
	}
	return nil
}

// MaxRanges bounds the ranges of one AppAck.
const MaxRanges = 1 << 17

// rangeSize is the encoding of a MessageRange.
const rangeSize = 12

// MessageRange is a span of application messages of one sender in this epoch,
// by their generations, both ends included, draft-ietf-mls-extensions-10 §6.1.
type MessageRange struct {
	Sender      uint32 // leaf index
	First, Last uint32 // generations
}

// AppAck says which application messages its sender has received in this
// epoch, draft-ietf-mls-extensions-10 §6.1: the data of an AppEphemeral
// proposal of ComponentAppAck.
type AppAck []MessageRange

// ParseAppAck reads an AppAck. A range that ends before it begins is refused
// under rule 5, for it names no messages.
func ParseAppAck(b []byte) (AppAck, error) {
	r := codec.NewReader(b)
	in := r.Sub()
	if in.Len() > MaxRanges*rangeSize {
		return nil, refuse(RuleBounds, "too many ranges")
	}
	out := make(AppAck, 0, in.Len()/rangeSize)
	for in.Len() > 0 {
		m := MessageRange{in.Uint32(), in.Uint32(), in.Uint32()}
		if m.First > m.Last {
			in.Fail(int(RuleReservedValue), "a range of messages ends before it begins")
		}
		out = append(out, m)
	}
	r.Join(&in)
	if err := r.Finish(); err != nil {
		return nil, WireError(err)
	}
	return out, nil
}

// AppendTo appends the encoding.
func (a AppAck) AppendTo(dst []byte) []byte {
	dst = codec.AppendLength(dst, rangeSize*len(a))
	for _, m := range a {
		dst = codec.Uint32(codec.Uint32(codec.Uint32(dst, m.Sender), m.First), m.Last)
	}
	return dst
}
