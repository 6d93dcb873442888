package core

import (
	"bytes"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/mls"
)

// examined is a handshake that fits the group's present state.
type examined struct {
	actor     policy.Client // who commits or proposes; Device "" for an external sender
	commit    *mls.Message  // nil: proposals
	staged    *mls.Staged
	policy    *policy.State // after the commit
	added     []policy.Client
	removed   []policy.Client
	of        *Handshake
	code      bool // the homeserver that offers it has seen a join code
	proposals []*mls.Message
}

// same reports whether h brings with the same messages the same things beside.
func (x *examined) same(h *Handshake) bool {
	return x.code == h.Code && bytes.Equal(x.of.Info, h.Info) && bytes.Equal(x.of.Welcome, h.Welcome) && len(h.More) == 0
}

// CheckHandshake says whether h may be offered to the agreement of its room now,
// and marks it if its sender has shown a join code here. Beside what Decide asks it
// judges what each homeserver sees for itself: who the devices are, and whether
// their key packages are in date.
func (e *Engine) CheckHandshake(tx Tx, now time.Time, h *Handshake) error {
	r, err := e.group(tx, h.Room)
	if err != nil {
		return err
	}
	if h.Home == e.cfg.Homeserver {
		h.Code = e.leasedByCode(now, h.Room, h.By)
	}
	x, err := r.group.examine(h)
	if err != nil {
		return err
	}
	if h.By != "" && x.actor.Device != string(h.By) {
		return Errorf(Denied, "a device offers its own handshakes")
	}
	if x.commit == nil {
		return nil
	}
	h.Newcomers = len(x.added) > 0
	for _, k := range x.staged.AddedPackages {
		if err := checkLifetime(k.Leaf.Lifetime, now); err != nil {
			return err
		}
	}
	return e.judgeAll(tx, now, r.group.newcomers(x, h.Records))
}

// checkLifetime holds a leaf to its lifetime (RFC 9420 §7.3).
func checkLifetime(l mls.Lifetime, now time.Time) error {
	if s := uint64(now.Unix()); s < l.NotBefore || s > l.NotAfter {
		return Errorf(Invalid, "a key package is not in date")
	}
	return nil
}

// Decide applies one agreed handshake. It depends on the group's state and on h
// alone, so that every homeserver of the room comes to the same end; a refusal
// (Broken is false) changes nothing. Opened is set when a commit opened an epoch.
func (e *Engine) Decide(tx Tx, now time.Time, h *Handshake) (Output, *Opened, error) {
	r, err := e.group(tx, h.Room)
	if err != nil {
		return Output{}, nil, err
	}
	x, err := r.group.examine(h)
	if err != nil {
		return Output{}, nil, err
	}
	if x.commit == nil {
		out, err := e.propose(tx, now, r, h, x)
		return out, nil, err
	}
	return e.open(tx, now, r, h, x)
}

// examine holds a handshake to RFC 9420, to the room's policy and to its bounds.
// The last result is kept: who offers a handshake usually decides it next.
func (g *groupState) examine(h *Handshake) (*examined, error) {
	id := h.ID()
	if g.result != nil && g.checkedOn == g.public && g.checked == id && g.result.same(h) {
		return g.result, nil
	}
	m, err := g.framing(h.Message)
	if err != nil {
		return nil, err
	}
	x := &examined{of: h, code: h.Code}
	if m.Public.Content.ContentType == mls.ContentCommit {
		if len(h.More) > 0 {
			return nil, Errorf(Invalid, "a commit comes alone")
		}
		x.commit = m
		err = g.examineCommit(x, h)
	} else {
		err = g.examineProposals(x, m, h)
	}
	if err != nil {
		return nil, err
	}
	if x.commit != nil { // proposals change the state that they were examined on
		g.checked, g.checkedOn, g.result = id, g.public, x
	}
	return x, nil
}

// framing reads what a handshake message says of itself.
func (g *groupState) framing(b []byte) (*mls.Message, error) {
	m, err := mls.Parse(b)
	if err != nil {
		return nil, Errorf(Invalid, "handshake: %w", err)
	}
	switch {
	case m.Public == nil || m.Public.Content.ContentType == mls.ContentApplication:
		return nil, Errorf(Invalid, "a handshake is a proposal or commit that homeservers can follow (PublicMessage)")
	case !bytes.Equal(m.Public.Content.GroupID, g.public.GroupID()):
		return nil, Errorf(Invalid, "a handshake of another group")
	case m.Public.Content.Epoch < g.public.Epoch():
		return nil, g.stale("another commit ended that epoch")
	case m.Public.Content.Epoch > g.public.Epoch():
		return nil, g.stale("that epoch has not begun")
	}
	return m, nil
}

func (g *groupState) stale(text string) error {
	return &Error{Code: StaleEpoch, Text: text, Epoch: g.public.Epoch()}
}

// examineCommit stages a commit and asks the room's policy about it.
func (g *groupState) examineCommit(x *examined, h *Handshake) (err error) {
	if x.staged, err = g.public.Stage(&x.commit.Public.AuthenticatedContent); err != nil {
		return Errorf(Invalid, "commit: %w", err)
	}
	if x.staged.ReInit != nil {
		return Errorf(Unsupported, "this homeserver does not move rooms to new groups")
	}
	if err := g.checkWaiting(x.staged); err != nil {
		return err
	}
	ch, err := policy.ChangeOf(g.public, g.policy, x.staged, func(user string) int { return len(g.leaves[user]) })
	if err != nil {
		return ofPolicy(err)
	}
	if ch.External && x.code {
		ch.CodeRole = policy.RoleMember
	}
	x.policy, x.added, x.removed = ch.After, ch.Added, ch.Removed
	if x.actor, err = leafClient(x.staged.Tree.Leaf(x.staged.Committer)); err != nil {
		return err
	}
	x.actor.Leaf = x.staged.Committer
	if g.gone[x.actor.User] {
		return Refuse(Denied, NotJoined, "you are leaving that room")
	}
	if err := ch.Check(); err != nil {
		return Errorf(Denied, "%w", err)
	}
	if err := g.checkWelcome(x, h); err != nil {
		return err
	}
	return checkInfo(x, h.Info)
}

// checkWaiting demands that a commit takes up who leaves: a room that never does
// would keep them for ever (draft-ietf-mimi-protocol-06 §7.1).
func (g *groupState) checkWaiting(st *mls.Staged) error {
	for _, p := range g.public.Pending() {
		if p.Proposal.Type != mls.ProposalSelfRemove || slices.Contains(st.Removed, p.Sender.Index) {
			continue
		}
		return Errorf(Conflict, "somebody's leaving waits to be committed")
	}
	return nil
}

// checkWelcome demands a Welcome with a part for each device that is added, and for
// nobody else: what is for nobody would be kept for nobody.
func (g *groupState) checkWelcome(x *examined, h *Handshake) error {
	packages := x.staged.AddedPackages
	if len(packages) == 0 {
		if len(h.Welcome) > 0 {
			return Errorf(Invalid, "a Welcome for nobody")
		}
		return nil
	}
	m, err := mls.Parse(h.Welcome)
	if err != nil || m.Welcome == nil {
		return Errorf(Invalid, "a commit that adds devices has a Welcome for them")
	}
	if len(m.Welcome.Secrets) != len(packages) {
		return Errorf(Invalid, "a Welcome has one part for each device that is added")
	}
	for i, k := range packages {
		ref, err := k.Ref()
		if err != nil {
			return Errorf(Invalid, "key package: %w", err)
		}
		if !slices.ContainsFunc(m.Welcome.Secrets, func(s mls.EncryptedGroupSecrets) bool { return bytes.Equal(s.NewMember, ref) }) {
			return Errorf(Invalid, "the Welcome has no part for device %d", i)
		}
	}
	return nil
}

// GroupInfo options of draft-ietf-mimi-protocol-06 §5.3.
const (
	infoFull    = 1
	infoPartial = 2
)

// checkInfo holds the GroupInfo of a commit to the epoch that the commit opens:
// who joins by an external commit relies on it.
func checkInfo(x *examined, option []byte) error {
	if len(option) < 2 || len(option) > maxInfo {
		return Errorf(Invalid, "a commit has a GroupInfo of its epoch within %d octets", maxInfo)
	}
	info, err := infoOf(option, mls.GroupInfoParts{Context: x.staged.Context(), ConfirmationTag: x.commit.Public.ConfirmationTag,
		Signer: x.staged.Committer, SignatureKey: x.staged.Tree.Leaf(x.staged.Committer).SignatureKey})
	if err != nil {
		return Errorf(Invalid, "group info: %w", err)
	}
	switch {
	case !bytes.Equal(info.Context.AppendTo(nil), x.staged.ContextBytes()):
		return Errorf(Invalid, "the GroupInfo is of another epoch")
	case !bytes.Equal(info.ConfirmationTag, x.commit.Public.ConfirmationTag) || info.Signer != x.staged.Committer:
		return Errorf(Invalid, "the GroupInfo is not the committer's")
	}
	if _, err := info.ExternalPub(); err != nil {
		return Errorf(Invalid, "the GroupInfo has no key for external commits")
	}
	return nil
}

// infoOf reads a GroupInfoOption; the signature is verified.
func infoOf(option []byte, known mls.GroupInfoParts) (*mls.GroupInfo, error) {
	switch option[0] {
	case infoFull:
		info, err := mls.ParseGroupInfo(option[1:])
		if err == nil {
			err = info.Verify(known.SignatureKey)
		}
		return info, err
	case infoPartial:
		p, err := mls.ParsePartialGroupInfo(option[1:])
		if err != nil {
			return nil, err
		}
		if p.Presence.Now() {
			return nil, Errorf(Invalid, "the tree travels beside the GroupInfo")
		}
		known.Before = p.Presence.Before()
		return p.GroupInfo(known)
	}
	return nil, Errorf(Unsupported, "GroupInfo representation %d", option[0])
}

// examineProposals holds proposals to what can be said of them alone. They are
// all of one sender, and taken together or not at all.
func (g *groupState) examineProposals(x *examined, first *mls.Message, h *Handshake) error {
	if len(h.More) >= MaxProposals {
		return Errorf(TooLarge, "more than %d proposals at once", MaxProposals)
	}
	x.proposals = []*mls.Message{first}
	sender := first.Public.Content.Sender
	for _, b := range h.More {
		m, err := g.framing(b)
		if err != nil {
			return err
		}
		if m.Public.Content.ContentType != mls.ContentProposal || m.Public.Content.Sender != sender {
			return Errorf(Invalid, "proposals of one handshake are of one sender")
		}
		x.proposals = append(x.proposals, m)
	}
	switch sender.Type {
	case mls.SenderMember:
		l := g.public.Tree().Leaf(sender.Index)
		if l == nil {
			return Errorf(Invalid, "no such member")
		}
		x.actor, _ = leafClient(l)
		x.actor.Leaf = sender.Index
	case mls.SenderNewMemberProposal:
		if p := first.Public.Content.Proposal; p.Type == mls.ProposalAdd {
			x.actor, _ = leafClient(p.Add.Leaf)
		}
	}
	return g.checkPending(x, sender)
}

// checkPending bounds what one device may leave for others to commit.
func (g *groupState) checkPending(x *examined, sender mls.Sender) error {
	mine := 0
	for _, p := range g.public.Pending() {
		if p.Sender == sender {
			mine++
		}
	}
	if n := len(x.proposals); mine+n > maxDevicePending && n <= maxDevicePending || g.public.PendingCount()+n > maxGroupPending {
		return &Error{Code: Limited, Text: "too many proposals wait for a commit", RetryAfter: time.Second}
	}
	for _, m := range x.proposals {
		p := policy.ProposedOf(g.public, m.Public.Content.Proposal, sender)
		if err := policy.CheckProposal(g.policy, &p); err != nil {
			return Errorf(Denied, "%w", err)
		}
	}
	return nil
}
