package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// agree compares what all members hold of the epoch, and notes their leaves.
func (r *mlsRun) agree(answers map[*mlsClient]*mlsAnswer) {
	r.t.Helper()
	var members []mlsMember
	var authenticator, treeHash, exported []byte
	same := func(c *mlsClient, what string, want *[]byte, got []byte) {
		r.t.Helper()
		switch {
		case len(got) == 0:
			r.t.Fatalf("%v: no %s in epoch %d", c, what, r.epoch)
		case *want == nil:
			*want = got
		case !bytes.Equal(*want, got):
			r.t.Fatalf("%v: %s of epoch %d is %x, others have %x", c, what, r.epoch, got, *want)
		}
	}
	for _, c := range r.members {
		s := answers[c].state()
		if s.Epoch == nil || *s.Epoch != r.epoch {
			r.t.Fatalf("%v: not in epoch %d: %+v", c, r.epoch, s)
		}
		if members == nil {
			members = s.Members
		} else if !slices.Equal(members, s.Members) {
			r.t.Fatalf("%v: members are %v, others have %v", c, s.Members, members)
		}
		if c.can("epoch_authenticator") {
			same(c, "epoch authenticator", &authenticator, s.Authenticator)
		}
		if c.can("tree_hash") || c.can("tree_hash:own") && c == r.last {
			same(c, "tree hash", &treeHash, s.TreeHash)
		}
		if c.can("export") || c.can("export:exporter") {
			same(c, "exported secret", &exported, r.call(c, "export", mlsFields{"label": "exporter", "context": []byte{}, "length": 32}).Secret)
		}
	}
	if len(members) != len(r.members) {
		r.t.Fatalf("epoch %d has %d members, want %d", r.epoch, len(members), len(r.members))
	}
	for _, c := range r.members {
		i := slices.IndexFunc(members, func(m mlsMember) bool { return m.Identity == c.identity })
		if i < 0 {
			r.t.Fatalf("%v (%s) is not among the members %v", c, c.identity, members)
		}
		c.leaf = members[i].Index
	}
}

// talk lets members write, and delivers in any order: some at once, some in a
// later epoch, some never. Now and then one comes twice, which is refused.
func (r *mlsRun) talk() bool {
	for range 1 + r.rng.IntN(5) {
		from := r.pick(nil, "seal")
		data := make([]byte, r.rng.IntN(200))
		if len(data) >= 8 {
			binary.BigEndian.PutUint64(data, r.rng.Uint64())
		}
		f := mlsFields{"data": data}
		var aad []byte
		if from.can("aad") && everybody(r.members, "aad") && r.rng.IntN(2) == 0 {
			aad = r.fresh("aad")
			f["aad"] = aad
		}
		message := r.call(from, "seal", f).Message
		r.turns++
		for _, c := range r.members {
			if c != from && (narrow(c) || r.rng.IntN(20) != 0) { // the twentieth is lost
				r.late = append(r.late, mlsDelivery{to: c, from: from.leaf, epoch: r.epoch, turn: r.turns, talk: r.talks, message: message, data: data, aad: aad})
			}
		}
	}
	// Some wait; of a stream that is narrow all or none.
	waits := map[stream]bool{}
	r.sift(func(d mlsDelivery) bool {
		wait := d.to.can("past_epochs") && r.rng.IntN(4) == 0
		if !narrow(d.to) {
			return wait
		}
		if _, decided := waits[d.stream()]; !decided {
			waits[d.stream()] = wait
		}
		return waits[d.stream()]
	})
	return true
}

// flush delivers what was written before this epoch, what is for members that
// keep no past epochs, and what comes from these, for members that keep none
// of the senders of a past epoch.
func (r *mlsRun) flush(before uint64, leaving ...*mlsClient) {
	r.t.Helper()
	r.sift(func(d mlsDelivery) bool {
		gone := slices.ContainsFunc(leaving, func(c *mlsClient) bool { return c.leaf == d.from })
		return d.to.can("past_epochs") && d.epoch >= before && !(gone && slices.Contains(rosterPeers, d.to.peer.name))
	})
}

// before is called before a commit is made: it delivers what would come too
// late in the next epoch, in which some are no longer members.
func (r *mlsRun) before(leaving ...*mlsClient) {
	r.t.Helper()
	r.flush(r.epoch-min(r.epoch, mlsLate-1), leaving...)
}

// A stream is what one member writes to another in one epoch.
type stream struct {
	to    *mlsClient
	from  uint32
	epoch uint64
}

func (d mlsDelivery) stream() stream { return stream{d.to, d.from, d.epoch} }

// rosterPeers look up the sender of a late message among the present members,
// so they read none of who has left.
var rosterPeers = []string{"core-crypto", "mls-rs"}

// narrow says of a client that it takes messages at most two late: the setting
// of core-crypto.
func narrow(c *mlsClient) bool { return c.peer.name == "core-crypto" }

// sift delivers all that need not wait, in any order; in a narrow stream only
// neighbours change places.
func (r *mlsRun) sift(wait func(mlsDelivery) bool) {
	r.t.Helper()
	var kept, out []mlsDelivery
	for _, d := range r.late {
		if wait(d) {
			kept = append(kept, d)
		} else {
			out = append(out, d)
		}
	}
	r.late = kept
	r.rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	places := map[stream][]int{}
	for i, d := range out {
		if narrow(d.to) {
			places[d.stream()] = append(places[d.stream()], i)
		}
	}
	for i, d := range out {
		at := places[d.stream()]
		if !narrow(d.to) || at[0] != i {
			continue
		}
		var list []mlsDelivery
		for _, j := range at {
			list = append(list, out[j])
		}
		slices.SortFunc(list, func(a, b mlsDelivery) int { return a.turn - b.turn })
		for j := 0; j+1 < len(list); j += 2 {
			if list[j].talk == list[j+1].talk && r.rng.IntN(2) == 0 { // a restart skips generations
				list[j], list[j+1] = list[j+1], list[j]
			}
		}
		for n, j := range at {
			out[j] = list[n]
		}
	}
	for _, d := range out {
		r.deliver(d)
	}
}

func (r *mlsRun) deliver(d mlsDelivery) {
	r.t.Helper()
	r.log = append(r.log, fmt.Sprintf("message %d of leaf %d in epoch %d", d.turn, d.from, d.epoch))
	a := r.call(d.to, "open", mlsFields{"message": d.message})
	if !bytes.Equal(a.Data, d.data) || d.to.can("aad") && !bytes.Equal(a.AAD, d.aad) || a.Sender == nil || *a.Sender != d.from {
		r.t.Fatalf("%v: a message of leaf %d in epoch %d came out as %+v", d.to, d.from, d.epoch, a)
	}
	r.messages++
	if r.rng.IntN(10) == 0 {
		r.refused(d.to, "open", mlsFields{"message": d.message})
	}
}

// successors ends a run: some members branch off, then the group is
// reinitialized, perhaps with another suite, by those whose library can.
func (r *mlsRun) successors() {
	r.t.Helper()
	by := r.pick(nil, "branch")
	if by != nil {
		with := slices.DeleteFunc(slices.Clone(r.members), func(c *mlsClient) bool { return c == by || !c.can("branch") || r.rng.IntN(3) == 0 })
		if len(with) > 0 {
			f := mlsFields{"new_group": r.fresh("branch"), "key_packages": r.keyPackages(with)}
			r.follow(by, with, r.call(by, "branch", f))
			r.kinds["branch"]++
		}
	}
	able := slices.DeleteFunc(slices.Clone(r.members), func(c *mlsClient) bool { return !c.can("reinit", "reinit_group") })
	if len(able) < 2 {
		return
	}
	by = able[0]
	if len(able) < len(r.members) {
		out := slices.DeleteFunc(slices.Clone(r.members), func(c *mlsClient) bool { return c.can("reinit", "reinit_group") })
		r.before(out...)
		r.commit(by, r.call(by, "remove", mlsFields{"members": leaves(out)}), nil, out)
	}
	next := r.suite
	for _, s := range mlsSuites {
		// mls-rs 0.57 makes the PSK's nonce as long as the old suite's hash, where
		// RFC 9420 §8.4 wants the new one's.
		if r.rng.IntN(2) == 0 && !slices.ContainsFunc(able, func(c *mlsClient) bool {
			return !slices.Contains(c.peer.hello.Suites, s) || c.peer.name == "mls-rs" && mlsHash[s] != mlsHash[r.suite]
		}) {
			next = s
		}
	}
	// mls-rs 0.57 compares the width of the trees instead of the members, so
	// that no leaf may be blank.
	for slices.ContainsFunc(r.members, func(c *mlsClient) bool { return int(c.leaf) >= len(r.members) }) {
		r.welcome("add", by, []*mlsClient{r.newClient(by.peer)}, mlsFields{}, false)
	}
	id := r.fresh("successor")
	r.commit(by, r.call(by, "reinit", mlsFields{"new_group": id, "suite": next}), nil, nil)
	r.suite = next
	by = r.pick(nil, "reinit_group")
	with := slices.DeleteFunc(slices.Clone(r.members), func(c *mlsClient) bool { return c == by })
	f := mlsFields{"key_packages": r.keyPackages(with), "identity": by.identity}
	r.follow(by, with, r.call(by, "reinit_group", f))
	r.kinds["reinit"]++
}

// follow lets clients join a group that follows this one, and talk there.
func (r *mlsRun) follow(by *mlsClient, with []*mlsClient, made *mlsAnswer) {
	r.t.Helper()
	r.flush(r.epoch + 1)
	next := &mlsRun{t: r.t, rng: r.rng, suite: r.suite, group: made.Group, epoch: 1, last: by, members: append([]*mlsClient{by}, with...), names: r.names}
	answers := map[*mlsClient]*mlsAnswer{by: made}
	for _, c := range with {
		answers[c] = next.call(c, "join", mlsFields{"welcome": made.Welcome})
	}
	before := map[*mlsClient]uint32{}
	for _, c := range next.members {
		before[c] = c.leaf
	}
	next.agree(answers)
	next.talk()
	next.flush(2)
	for c, leaf := range before { // they are still in this group, too
		c.leaf = leaf
	}
	r.names, r.messages, r.refusals, r.log = next.names, r.messages+next.messages, r.refusals+next.refusals, append(r.log, next.log...)
}
