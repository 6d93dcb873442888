package policy

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/isthmus-chat/isthmus/core/identity"
)

// A Participant is an entry of the participant list: a user, by URI, and the
// index of the user's role, which is never RoleNone.
type Participant struct {
	User string
	Role uint32
}

// ParticipantList is the data of the component participant_list, in the order
// of the dictionary: updates name users by their place in it.
// draft-ietf-mimi-protocol-06 §7.5.
type ParticipantList []Participant

// A RoleChange gives the participant at Index of the list another role.
type RoleChange struct{ Index, Role uint32 }

// A ParticipantUpdate is the update of the component participant_list: roles
// change first, then participants go, then others come at the end. Indices are
// those of the list before the commit. draft-ietf-mimi-protocol-06 §7.5.
type ParticipantUpdate struct {
	Changed []RoleChange
	Removed []uint32
	Added   []Participant
}

func readParticipant(r *reader) Participant {
	p := Participant{User: r.uri(), Role: r.u32()}
	if p.Role == RoleNone || p.User == "" {
		r.fail("a participant without a role or a name")
	}
	return p
}

func (p Participant) appendTo(dst []byte) []byte {
	return appendU32(appendVec(dst, p.User), p.Role)
}

func (p Participant) size() int { return headerSize(len(p.User)) + len(p.User) + 4 }

// ParseParticipantList reads a participant list, of users who are each in it
// once. Errors are ErrMalformed.
func ParseParticipantList(b []byte) (ParticipantList, error) {
	list, err := parseEntries(b)
	if err != nil {
		return nil, err
	}
	if _, err := indexUsers(list); err != nil {
		return nil, err
	}
	return list, nil
}

// parseEntries reads the list without comparing its users. The names share one
// string, for ten thousand small ones take longer to allocate than to read.
func parseEntries(b []byte) (ParticipantList, error) {
	r := reader{b: b}
	in := r.vec()
	if err := r.finish(); err != nil {
		return nil, err
	}
	return readEntries(in)
}

func readEntries(in []byte) (ParticipantList, error) {
	shared, r := string(in), reader{b: in}
	var list ParticipantList
	for len(r.b) > 0 {
		name := r.vec()
		end := len(in) - len(r.b)
		role := r.u32()
		switch {
		case r.err != nil:
			return nil, r.err
		case len(list) == MaxParticipants:
			return nil, fmt.Errorf("%w: too many participants", ErrMalformed)
		}
		p := Participant{shared[end-len(name) : end], role}
		if err := p.check(); err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// check says whether the entry stands for a user with a role.
func (p Participant) check() error {
	if p.Role == RoleNone {
		return fmt.Errorf("%w: a participant without a role", ErrMalformed)
	}
	if _, ok := userDomain(p.User); !ok {
		return fmt.Errorf("%w: a participant that is not a user's URI", ErrMalformed)
	}
	return nil
}

// userDomain is the homeserver of mimi://domain/u/….
func userDomain(user string) (string, bool) {
	domain, _, ok := identity.SplitURI(user, "u")
	return domain, ok
}

// AppendTo appends the encoding.
func (l ParticipantList) AppendTo(dst []byte) []byte {
	n := 0
	for _, p := range l {
		n += p.size()
	}
	dst = appendHeader(slices.Grow(dst, n+4), n)
	for _, p := range l {
		dst = p.appendTo(dst)
	}
	return dst
}

// ParseParticipantUpdate reads an update. Errors are ErrMalformed.
func ParseParticipantUpdate(b []byte) (ParticipantUpdate, error) {
	u, err := parse(b, func(r *reader) ParticipantUpdate {
		return ParticipantUpdate{
			readList(r, MaxParticipants, func(r *reader) RoleChange { return RoleChange{r.u32(), r.u32()} }),
			readList(r, MaxParticipants, (*reader).u32),
			readList(r, MaxParticipants, readParticipant),
		}
	})
	for _, c := range u.Changed {
		if c.Role == RoleNone {
			return ParticipantUpdate{}, fmt.Errorf("%w: a change to no role", ErrMalformed)
		}
	}
	for _, p := range u.Added {
		if err := p.check(); err != nil {
			return ParticipantUpdate{}, err
		}
	}
	return u, err
}

// AppendTo appends the encoding.
func (u ParticipantUpdate) AppendTo(dst []byte) []byte {
	dst = appendList(dst, u.Changed, func(dst []byte, c RoleChange) []byte {
		return appendU32(appendU32(dst, c.Index), c.Role)
	})
	dst = appendList(dst, u.Removed, appendU32)
	return ParticipantList(u.Added).AppendTo(dst)
}

// mergeUpdates makes one update of all those of a commit. The draft leaves open
// whether the indices of a later one mean the list before or after the earlier
// ones; where that makes a difference the commit is refused.
func mergeUpdates(updates [][]byte) (all ParticipantUpdate, err error) {
	first := ^uint32(0) // of those removed so far
	for _, b := range updates {
		u, err := ParseParticipantUpdate(b)
		if err != nil {
			return all, err
		}
		last := uint32(0)
		for _, c := range u.Changed {
			last = max(last, c.Index)
		}
		for _, i := range u.Removed {
			last = max(last, i)
		}
		if len(u.Changed)+len(u.Removed) > 0 && last >= first {
			return all, fmt.Errorf("%w: an index after one that the same commit removed", ErrMalformed)
		}
		all.Changed = append(all.Changed, u.Changed...)
		all.Removed = append(all.Removed, u.Removed...)
		all.Added = append(all.Added, u.Added...)
		if len(u.Removed) > 0 {
			first = min(first, slices.Min(u.Removed))
		}
	}
	return all, nil
}

// updateParticipants applies the updates of one commit to the octets of the
// list, copying what stays as it is.
func updateParticipants(current []byte, updates [][]byte) ([]byte, error) {
	u, err := mergeUpdates(updates)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(u.Changed, func(a, b RoleChange) int { return cmp.Compare(a.Index, b.Index) })
	slices.Sort(u.Removed)
	whole := reader{b: current}
	in := whole.vec()
	if err := whole.finish(); err != nil {
		return nil, err
	}
	const header = 4 // room for the longest; the one it comes to is set at the end
	out := make([]byte, header, header+len(in)+len(u.Added)*64)
	added := make(map[string]bool, len(u.Added))
	for _, p := range u.Added {
		if added[p.User] {
			return nil, errTwice
		}
		added[p.User] = true
	}
	changed, removed, from, count := u.Changed, u.Removed, 0, uint32(0)
	for start, end := 0, 0; start < len(in); start, count = end, count+1 {
		var name []byte
		if name, end = entryAt(in, start); end < 0 {
			return nil, fmt.Errorf("%w: an entry that cannot be read", ErrMalformed)
		}
		if len(u.Added) > 0 && isAdded(u.Added, added, name) {
			return nil, errTwice
		}
		change := len(changed) > 0 && changed[0].Index == count
		remove := len(removed) > 0 && removed[0] == count
		switch {
		case change:
			out = appendU32(append(out, in[from:end-4]...), changed[0].Role)
			changed, from = changed[1:], end
		case remove:
			out = append(out, in[from:start]...)
			removed, from = removed[1:], end
		}
	}
	// What is left names nobody, or somebody a second time.
	if len(changed)+len(removed) > 0 {
		return nil, fmt.Errorf("%w: an index beyond the list, or twice", ErrMalformed)
	}
	if int(count)-len(u.Removed)+len(u.Added) > MaxParticipants {
		return nil, fmt.Errorf("%w: too many participants", ErrMalformed)
	}
	out = append(out, in[from:]...)
	for _, p := range u.Added {
		out = p.appendTo(out)
	}
	n := len(out) - header
	out = out[header-headerSize(n):]
	appendHeader(out[:0], n)
	return out, nil
}

// entryAt returns the name in the entry that begins at start, and where the next
// one begins; -1 if there is none. It reads what ten thousand entries in a row
// are without a reader's care for each octet.
func entryAt(b []byte, start int) (name []byte, end int) {
	head, n := 1, int(b[start])
	if n >= 1<<6 {
		r := reader{b: b[start:]}
		n = len(r.vec())
		if r.err != nil {
			return nil, -1
		}
		head = headerSize(n)
	}
	if end = start + head + n + 4; end > len(b) {
		return nil, -1
	}
	return b[start+head : end-4], end
}

var errTwice = fmt.Errorf("%w: a user twice", ErrMalformed)

// isAdded looks name up among those added: one by one if they are few, for
// this is asked about everybody in the list.
func isAdded(list []Participant, all map[string]bool, name []byte) bool {
	const few = 4
	if len(list) > few {
		return all[string(name)]
	}
	for i := range list {
		if len(list[i].User) == len(name) && list[i].User == string(name) {
			return true
		}
	}
	return false
}
