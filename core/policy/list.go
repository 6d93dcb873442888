package policy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// readParticipants takes in the list. What it has in common with the list
// before is found by comparing octets, and is not read again.
func (s *State) readParticipants(data []byte) error {
	r := reader{b: data}
	in := r.vec()
	if err := r.finish(); err != nil {
		return err
	}
	if len(s.list) == 0 {
		list, err := readEntries(in)
		if err != nil {
			return err
		}
		s.raw, s.list = in, list
		s.count(nil, list)
		s.index, err = indexUsers(list)
		return err
	}
	first, last, from, tail := s.unchanged(in)
	d, err := s.compare(in[from:len(in)-tail], first, last)
	if err != nil && tail > 0 {
		// The common end began within what is now an entry of another name.
		last = len(s.list)
		d, err = s.compare(in[from:], first, last)
	}
	if err != nil {
		return err
	}
	return s.apply(in, d, first, last)
}

// unchanged returns what lists have in common: the old entries before first and
// from last on, which are from octets at the start and tail octets at the end.
func (s *State) unchanged(in []byte) (first, last, from, tail int) {
	prefix := samePrefix(s.raw, in)
	for first < len(s.list) {
		size := s.list[first].size()
		if from+size > prefix {
			break
		}
		from, first = from+size, first+1
	}
	suffix := sameSuffix(s.raw[from:], in[from:])
	for last = len(s.list); last > first; last-- {
		size := s.list[last-1].size()
		if tail+size > suffix {
			break
		}
		tail += size
	}
	return first, last, from, tail
}

// A delta is how some entries of a list give way to others.
type delta struct {
	entries ParticipantList // that take their place
	places  []uint32        // of each old entry in the new list, or gone
	came    []uint32        // places of those who were not there
	was, is ParticipantList // entries that differ
}

const gone = ^uint32(0)

// compare reads the octets that stand where the entries from first to last
// were. Those who stayed, in their order, are told by their names alone.
func (s *State) compare(in []byte, first, last int) (d delta, err error) {
	d.entries = make(ParticipantList, 0, last-first+4)
	d.places = make([]uint32, last-first)
	for i := range d.places {
		d.places[i] = gone
	}
	next := first // of the old entries that have not been met
	for at := 0; at < len(in); {
		name, end := entryAt(in, at)
		if end < 0 || first+len(d.entries) >= MaxParticipants {
			return d, fmt.Errorf("%w: an entry that cannot be read, or one too many", ErrMalformed)
		}
		role := binary.BigEndian.Uint32(in[end-4 : end])
		place := uint32(first + len(d.entries))
		if next >= last || s.list[next].User != string(name) {
			if old, in := s.IndexOf(string(name)); in && int(old) > next && int(old) < last {
				next = int(old)
			} else {
				d.came, d.is = append(d.came, place), append(d.is, Participant{string(name), role})
				d.entries, at = append(d.entries, d.is[len(d.is)-1]), end
				continue
			}
		}
		old := s.list[next]
		p := Participant{old.User, role}
		if p != old {
			d.was, d.is = append(d.was, old), append(d.is, p)
		}
		d.places[next-first] = place
		next++
		d.entries, at = append(d.entries, p), end
	}
	for _, p := range d.is {
		if err := p.check(); err != nil {
			return d, err
		}
	}
	for i, place := range d.places {
		if place == gone {
			d.was = append(d.was, s.list[first+i])
		}
	}
	return d, nil
}

// apply puts the entries of d into the place of those from first to last, and
// corrects the index and the counts.
func (s *State) apply(in []byte, d delta, first, last int) error {
	size := len(s.list) - (last - first) + len(d.entries)
	if size > MaxParticipants {
		return fmt.Errorf("%w: too many participants", ErrMalformed)
	}
	s.count(d.was, d.is)
	shift := uint32(size - len(s.list)) // modulo 2^32, for it may be negative
	s.raw, s.list = in, slices.Concat(s.list[:first], d.entries, s.list[last:])
	if len(d.came) == 0 && len(d.entries) == last-first {
		return nil // the same users in the same places
	}
	user := func(place uint32) string { return s.list[place].User }
	slices.SortFunc(d.came, func(a, b uint32) int { return strings.Compare(user(a), user(b)) })
	kept := make([]uint32, 0, len(s.index))
	for _, i := range s.index {
		switch {
		case i >= uint32(last):
			i += shift
		case i >= uint32(first):
			i = d.places[i-uint32(first)]
		}
		if i != gone {
			kept = append(kept, i)
		}
	}
	if len(d.came) == 0 {
		s.index = kept
		return nil
	}
	s.index = make([]uint32, 0, size)
	for i, place := range d.came {
		at, found := slices.BinarySearchFunc(kept, user(place), func(i uint32, u string) int { return strings.Compare(user(i), u) })
		if found || i > 0 && user(d.came[i-1]) == user(place) {
			return errTwice
		}
		s.index = append(append(s.index, kept[:at]...), place)
		kept = kept[at:]
	}
	s.index = append(s.index, kept...)
	return nil
}

// count corrects the counts for entries that give way to others.
func (s *State) count(old, new ParticipantList) {
	roles, domains := map[uint32]int{}, map[string]int{}
	add := func(list ParticipantList, n int) {
		for _, p := range list {
			roles[p.Role] += n
			if p.Role != RoleBanned {
				d, _ := userDomain(p.User)
				domains[d] += n
			}
		}
	}
	add(old, -1)
	add(new, 1)
	s.perRole, s.perDomain = tally(s.perRole, roles), tally(s.perDomain, domains)
}

// indexUsers returns the places of the list in the order of the users' names:
// as many octets as a list of numbers, copied in microseconds, where a map of
// ten thousand takes a thousand times as long.
func indexUsers(list ParticipantList) ([]uint32, error) {
	index := make([]uint32, len(list))
	for i := range index {
		index[i] = uint32(i)
	}
	slices.SortFunc(index, func(a, b uint32) int { return strings.Compare(list[a].User, list[b].User) })
	for i := 1; i < len(index); i++ {
		if list[index[i-1]].User == list[index[i]].User {
			return nil, errTwice
		}
	}
	return index, nil
}

// samePrefix is the number of octets that a and b begin with alike.
func samePrefix(a, b []byte) int {
	const step = 4096
	n, most := 0, min(len(a), len(b))
	for n+step <= most && bytes.Equal(a[n:n+step], b[n:n+step]) {
		n += step
	}
	for n < most && a[n] == b[n] {
		n++
	}
	return n
}

// sameSuffix is the number of octets that a and b end with alike.
func sameSuffix(a, b []byte) int {
	const step = 4096
	n, most := 0, min(len(a), len(b))
	for n+step <= most && bytes.Equal(a[len(a)-n-step:len(a)-n], b[len(b)-n-step:len(b)-n]) {
		n += step
	}
	for n < most && a[len(a)-1-n] == b[len(b)-1-n] {
		n++
	}
	return n
}
