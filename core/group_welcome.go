package core

import (
	"slices"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/mls"
)

// maxTree bounds the tree that comes with a Welcome, in octets: 50,000 devices with
// post-quantum keys.
const maxTree = 64 << 20

// welcome sends every device that came in its part of the Welcome: at once to those
// of this homeserver, by a queue to homeservers that the agreement does not reach
// yet. The others do the same for theirs.
func (e *Engine) welcome(tx Tx, now time.Time, r *roomState, h *Handshake, x *examined, known []string, out *Output) error {
	if len(x.staged.AddedPackages) == 0 {
		return nil
	}
	m, err := mls.Parse(h.Welcome)
	if err != nil {
		return asBroken(err) // checkWelcome read it
	}
	epoch := r.group.public.Epoch()
	var far []string
	near := false
	for i, k := range x.staged.AddedPackages {
		d := DeviceURI(x.added[i].Device)
		if d.Domain() != e.cfg.Homeserver {
			if h.Home == e.cfg.Homeserver && !slices.Contains(known, d.Domain()) && !slices.Contains(far, d.Domain()) {
				far = append(far, d.Domain())
			}
			continue
		}
		near = true
		ref, err := k.Ref()
		if err != nil {
			return asBroken(err)
		}
		l := Letter{Device: d, Kind: LetterWelcome, Room: r.ID, Epoch: epoch, Body: welcomePart(m.Welcome, ref)}
		if err := e.postWelcome(tx, now, l, out); err != nil {
			return err
		}
	}
	if !near && len(far) == 0 {
		return nil
	}
	tree := r.group.public.Tree().AppendTo(nil)
	for _, d := range far {
		w := Welcome{To: d, Room: r.ID, Epoch: epoch, Message: h.Welcome, Tree: tree}
		if err := putCBOR(tx, groupWelcomes, welcomeKey(&w), w); err != nil {
			return err
		}
		out.Welcomes = append(out.Welcomes, w)
	}
	if near {
		return e.keepTree(tx, r, epoch, tree)
	}
	return nil
}

// postWelcome queues a Welcome for a device here. One whose queue is full goes
// without: the commit that adds it is agreed, and it can join by one of its own.
func (e *Engine) postWelcome(tx Tx, now time.Time, l Letter, out *Output) error {
	l, err := e.putLetter(tx, now, l)
	if Broken(err) {
		return err
	}
	if err == nil {
		out.Letters = append(out.Letters, l)
	}
	return nil
}

// welcomePart is the Welcome for one device, as an MLSMessage; nil if there is none.
func welcomePart(w *mls.Welcome, ref []byte) []byte {
	part := w.For(ref)
	if part == nil {
		return nil
	}
	return part.AppendTo(mls.AppendHeader(nil, mls.WireWelcome))
}

func welcomeKey(w *Welcome) string { return w.To + "/" + epochKey(w.Room, w.Epoch) }

// WelcomesOf lists the Welcomes on their way to other homeservers, of domain to or,
// if that is "", of all: at most limit of them.
func WelcomesOf(r Reader, to string, limit int) ([]Welcome, error) {
	after := ""
	if to != "" {
		after = to + "/"
	}
	rows, err := r.Values(groupWelcomes, after, limit)
	if err != nil {
		return nil, err
	}
	var out []Welcome
	for _, v := range rows {
		var w Welcome
		if err := cbor.Unmarshal(v.Data, &w); err != nil {
			return nil, Errorf(Internal, "stored welcome: %w", err)
		}
		if to != "" && w.To != to {
			break
		}
		out = append(out, w)
	}
	return out, nil
}

// keepTree keeps a tree for those who were welcomed to it.
func (e *Engine) keepTree(tx Tx, r *roomState, epoch uint64, tree []byte) error {
	if err := tx.PutValue(groupTrees, epochKey(r.ID, epoch), tree); err != nil {
		return asBroken(err)
	}
	head := &r.group.head
	head.Trees = append(slices.Clone(head.Trees), epoch)
	for ; len(head.Trees) > maxTrees; head.Trees = head.Trees[1:] {
		if err := tx.DropValue(groupTrees, epochKey(r.ID, head.Trees[0])); err != nil {
			return asBroken(err)
		}
	}
	return nil
}

// putWelcome takes a Welcome to a room that the agreement has not brought here yet.
// It costs its sender a key package for each letter that it makes, so that nobody
// fills a queue with Welcomes to nothing.
func (e *Engine) putWelcome(tx Tx, now time.Time, in PutWelcome) (Output, error) {
	w := &in.Welcome
	m, err := mls.Parse(w.Message)
	if err != nil || m.Welcome == nil || len(w.Tree) == 0 {
		return Output{}, Errorf(Invalid, "that is no Welcome with its tree")
	}
	if _, err := ParseRoomID(string(w.Room)); err != nil {
		return Output{}, err
	}
	if len(w.Tree) > maxTree || len(w.Message) > MaxHandshake {
		return Output{}, Errorf(TooLarge, "a Welcome or its tree is over its bound")
	}
	if wait := e.memory().trees.Take(HostOf(in.From), 1+len(w.Tree)>>10, now); wait > 0 {
		return Output{}, limited(wait, "too many Welcomes")
	}
	var out Output
	for i := range m.Welcome.Secrets {
		ref := m.Welcome.Secrets[i].NewMember
		d, err := DeviceByRef(tx, ref)
		if isAbsent(err) {
			continue
		} else if err != nil {
			return Output{}, err
		}
		l := Letter{Device: d, Kind: LetterWelcome, Room: w.Room, Epoch: w.Epoch, Body: welcomePart(m.Welcome, ref)}
		if err := e.postWelcome(tx, now, l, &out); err != nil {
			return Output{}, err
		}
	}
	if len(out.Letters) == 0 {
		return Output{}, Errorf(Denied, "that Welcome is for nobody here")
	}
	return out, e.keepForeignTree(tx, now, epochKey(w.Room, w.Epoch), w.Tree)
}

// keepForeignTree keeps the tree that came with a Welcome for as long as the Welcome
// may wait. It takes no other's place: who sends it need not be of that room.
func (e *Engine) keepForeignTree(tx Tx, now time.Time, key string, tree []byte) error {
	if _, err := tx.Value(groupTrees, key); !isAbsent(err) {
		return asBroken(err)
	}
	if err := e.remind(tx, now.Add(welcomeGrace).Unix(), dueTree, key); err != nil {
		return err
	}
	return asBroken(tx.PutValue(groupTrees, key, tree))
}

// endTree drops such a tree, unless the room is here by now and keeps it.
func endTree(tx Tx, key string) error {
	room, number, _ := strings.Cut(key, "/")
	epoch, err := parseNumberKey(number)
	if err != nil {
		return err
	}
	var head GroupHead
	if err := getCBOR(tx, groupHeads, room, &head); err != nil && !isAbsent(err) {
		return err
	}
	if slices.Contains(head.Trees, epoch) {
		return nil
	}
	return tx.DropValue(groupTrees, key)
}
