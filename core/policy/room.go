package policy

import (
	"fmt"
	"slices"

	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/mls"
)

// BaseRoom is the data and the update of the component base_room_policy,
// draft-ietf-mimi-room-policy-04 §5. Parent is the URI of the room that this
// one depends on, "" where ParentDependent is false.
type BaseRoom struct {
	FixedMembership bool
	ParentDependent bool
	Parent          string
	MultiDevice     bool
	MaxClients      *uint32
	MaxUsers        *uint32 // who are not banned
	Pseudonyms      bool
	Persistent      bool
	Discoverable    bool
	Components      []mls.ComponentID // those that are part of the room's policy
}

// ParseBaseRoom reads a base room policy. Errors are ErrMalformed.
func ParseBaseRoom(b []byte) (BaseRoom, error) {
	return parse(b, func(r *reader) (p BaseRoom) {
		p.FixedMembership, p.ParentDependent = r.bool(), r.bool()
		parents := readList(r, 1, (*reader).uri)
		if len(parents) == 1 {
			p.Parent = parents[0]
		}
		if p.ParentDependent != (p.Parent != "") || len(parents) == 1 && p.Parent == "" {
			r.fail("a parent that does not fit parent_dependent")
		}
		p.MultiDevice = r.bool()
		p.MaxClients, p.MaxUsers = readOptional(r, (*reader).u32), readOptional(r, (*reader).u32)
		p.Pseudonyms, p.Persistent, p.Discoverable = r.bool(), r.bool(), r.bool()
		p.Components = readComponents(r)
		return p
	})
}

// AppendTo appends the encoding.
func (p BaseRoom) AppendTo(dst []byte) []byte {
	dst = appendBool(appendBool(dst, p.FixedMembership), p.ParentDependent)
	var parents []string
	if p.Parent != "" {
		parents = []string{p.Parent}
	}
	dst = appendBool(appendURIs(dst, parents), p.MultiDevice)
	dst = appendOptional(appendOptional(dst, p.MaxClients, appendU32), p.MaxUsers, appendU32)
	dst = appendBool(appendBool(appendBool(dst, p.Pseudonyms), p.Persistent), p.Discoverable)
	return appendComponents(dst, p.Components)
}

func readComponents(r *reader) []mls.ComponentID {
	return readList(r, MaxCapabilities, func(r *reader) mls.ComponentID { return mls.ComponentID(r.u16()) })
}

func appendComponents(dst []byte, list []mls.ComponentID) []byte {
	return appendList(dst, list, func(dst []byte, c mls.ComponentID) []byte { return appendU16(dst, uint16(c)) })
}

func readURIs(r *reader) []string { return readList(r, MaxEntries, (*reader).uri) }

func appendURIs(dst []byte, list []string) []byte {
	return appendList(dst, list, appendVec[string])
}

// A Description is a text in one media type and language; an empty media type
// is text/plain;charset=utf-8. draft-ietf-mimi-protocol-06 §7.6.
type Description struct{ MediaType, Language, Content string }

// Metadata is the data and the update of the component room_metadata,
// draft-ietf-mimi-protocol-06 §7.6.
type Metadata struct {
	Room          string // the room's URI
	Name          string
	Descriptions  []Description
	Avatar        string // URI
	Subject, Mood string
}

// ParseMetadata reads room metadata. Errors are ErrMalformed.
func ParseMetadata(b []byte) (Metadata, error) {
	return parse(b, func(r *reader) Metadata {
		return Metadata{
			Room: r.uri(),
			Name: r.text(MaxText),
			Descriptions: readList(r, MaxDescriptions, func(r *reader) Description {
				return Description{r.text(MaxText), r.text(MaxText), r.opaque()}
			}),
			Avatar:  r.uri(),
			Subject: r.text(MaxText),
			Mood:    r.text(MaxText),
		}
	})
}

// AppendTo appends the encoding.
func (m Metadata) AppendTo(dst []byte) []byte {
	dst = appendVec(appendVec(dst, m.Room), m.Name)
	dst = appendList(dst, m.Descriptions, func(dst []byte, d Description) []byte {
		return appendVec(appendVec(appendVec(dst, d.MediaType), d.Language), d.Content)
	})
	return appendVec(appendVec(appendVec(dst, m.Avatar), m.Subject), m.Mood)
}

// JoinLinkPolicy is the data and the update of the component join_link_policy,
// draft-ietf-mimi-room-policy-04 §6.2. Expiration is in seconds.
type JoinLinkPolicy struct {
	OnRequest  bool
	Link       string
	MultiUser  bool
	Expiration uint32
}

// ParseJoinLinkPolicy reads a join link policy. Errors are ErrMalformed.
func ParseJoinLinkPolicy(b []byte) (JoinLinkPolicy, error) {
	return parse(b, func(r *reader) JoinLinkPolicy {
		return JoinLinkPolicy{r.bool(), r.uri(), r.bool(), r.u32()}
	})
}

// AppendTo appends the encoding.
func (p JoinLinkPolicy) AppendTo(dst []byte) []byte {
	return appendU32(appendBool(appendVec(appendBool(dst, p.OnRequest), p.Link), p.MultiUser), p.Expiration)
}

// JoinLinks is the data of the component join_links,
// draft-ietf-mimi-room-policy-04 §6.2.
type JoinLinks []string

// A JoinLinksUpdate is its update: links go by their places in the list before
// the commit, then others come at the end.
type JoinLinksUpdate struct {
	Removed []uint32
	Added   []string
}

func readLinks(r *reader) []string { return readList(r, MaxJoinLinks, (*reader).uri) }

// ParseJoinLinks reads join links. Errors are ErrMalformed.
func ParseJoinLinks(b []byte) (JoinLinks, error) {
	return parse(b, func(r *reader) JoinLinks { return readLinks(r) })
}

// AppendTo appends the encoding.
func (l JoinLinks) AppendTo(dst []byte) []byte { return appendURIs(dst, l) }

// ParseJoinLinksUpdate reads an update of join links. Errors are ErrMalformed.
func ParseJoinLinksUpdate(b []byte) (JoinLinksUpdate, error) {
	return parse(b, func(r *reader) JoinLinksUpdate {
		return JoinLinksUpdate{readList(r, MaxJoinLinks, (*reader).u32), readLinks(r)}
	})
}

// AppendTo appends the encoding.
func (u JoinLinksUpdate) AppendTo(dst []byte) []byte {
	return appendURIs(appendList(dst, u.Removed, appendU32), u.Added)
}

func updateJoinLinks(current []byte, updates [][]byte) ([]byte, error) {
	links, err := ParseJoinLinks(current)
	if err != nil {
		return nil, err
	}
	gone := make([]bool, len(links))
	var added []string
	first := uint32(len(links)) // of those removed by an earlier update
	for _, b := range updates {
		u, err := ParseJoinLinksUpdate(b)
		if err != nil {
			return nil, err
		}
		for _, i := range u.Removed {
			if int64(i) >= int64(len(links)) || gone[i] || i >= first {
				return nil, fmt.Errorf("%w: a join link's index beyond the list, twice, or after one removed before", ErrMalformed)
			}
			gone[i] = true
		}
		if len(u.Removed) > 0 {
			first = min(first, slices.Min(u.Removed))
		}
		added = append(added, u.Added...)
	}
	var left JoinLinks
	for i, l := range links {
		if !gone[i] {
			left = append(left, l)
		}
	}
	left = append(left, added...)
	if len(left) > MaxJoinLinks {
		return nil, fmt.Errorf("%w: too many join links", ErrMalformed)
	}
	return left.AppendTo(nil), nil
}

// A Rule says how many of the authority have to approve an epoch.
type Rule uint8

// The rules of PROTOCOL §6.
const (
	Majority  Rule = 0 // more than a half
	TwoThirds Rule = 1 // more than two thirds
)

// Authority is the data and the update of our own component 0xF001: the
// homeservers that agree on the room's epochs, at least one and at most
// MaxAuthority, each once. PROTOCOL §3, §6.
type Authority struct {
	Domains []string
	Rule    Rule
}

// ParseAuthority reads an authority. Errors are ErrMalformed.
func ParseAuthority(b []byte) (Authority, error) {
	return parse(b, func(r *reader) Authority {
		a := Authority{readList(r, MaxAuthority, func(r *reader) string { return r.text(255) }), Rule(r.choice(1))}
		if len(a.Domains) == 0 {
			r.fail("an authority of none")
		}
		for i, d := range a.Domains {
			if !identity.ValidDomain(d) || slices.Contains(a.Domains[:i], d) {
				r.fail("a domain of the authority that is none, or there twice")
			}
		}
		return a
	})
}

// AppendTo appends the encoding.
func (a Authority) AppendTo(dst []byte) []byte {
	return append(appendURIs(dst, a.Domains), byte(a.Rule))
}

// Has reports whether the homeserver is of the authority.
func (a Authority) Has(domain string) bool { return slices.Contains(a.Domains, domain) }
