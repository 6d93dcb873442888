package core

import (
	"crypto/sha256"
	"time"
)

// control decides one control message. Each case validates first and writes
// after; an input that changes nothing is a duplicate, not an event.
func (e *Engine) control(tx Tx, now time.Time, r *roomState, env Envelope, s Signed) (Output, error) {
	c, err := ParseControl(s.Content)
	if err != nil {
		return Output{}, err
	}
	if c.User == "" {
		c.User = env.Sender
	}
	if !plainText(c.Text) || !plainText(c.Mask) {
		return Output{}, Errorf(Invalid, "a control message is not plain text")
	}
	d := decision{Engine: e, tx: tx, now: now, r: r, env: env, c: c, name: s.Name, actor: e.role(r, env.Sender)}
	if c.Op != OpJoin && env.Sender != e.system {
		if m := r.members[env.Sender]; m == nil || !m.Joined {
			if c.Op == OpLeave {
				return Output{Duplicate: true}, nil
			}
			return Output{}, Refuse(Denied, NotJoined, "you are not in that room")
		}
	}
	changed, err := d.decide()
	if err != nil || !changed {
		return Output{Duplicate: err == nil, Items: d.items}, err
	}
	env.Body = c.Body(s.Name) // what was decided, not what was asked: a join has its role
	return Output{Event: e.stage(r, now, env, c), Items: d.items}, nil
}

// A decision is one control message on its way through the rules.
type decision struct {
	*Engine
	tx    Tx
	now   time.Time
	r     *roomState
	env   Envelope
	c     *Control
	name  string
	actor Role
	items []Item
}

var errMembersFull = Refuse(TooLarge, ListFull, "the member list of that room is full")

var notOperator = Refuse(Denied, NotOperator, "your role in that room does not allow this")

func (d *decision) decide() (changed bool, err error) {
	switch d.c.Op {
	case OpJoin:
		return d.join()
	case OpLeave:
		return d.leave()
	case OpKick:
		return d.kick()
	case OpRole:
		return d.setRole()
	case OpBan:
		return d.ban()
	case OpUnban:
		return d.unban()
	case OpTopic:
		return d.topic()
	case OpName:
		return d.rename()
	case OpPolicy:
		return d.policy()
	case OpDelete:
		return d.remove()
	case OpInvite:
		return d.invite()
	case OpProfile:
		return d.profile()
	}
	return false, Errorf(Unsupported, "unknown control message")
}

func (d *decision) join() (bool, error) {
	if d.c.User != d.env.Sender && d.env.Sender != d.system {
		return false, Errorf(Invalid, "nobody joins for somebody else")
	}
	if _, err := ParseUserURI(string(d.c.User)); err != nil {
		return false, err
	}
	m := Member{User: d.c.User, Via: d.env.Origin.Network}
	if old := d.r.members[d.c.User]; old != nil {
		if old.Joined {
			return d.profile()
		}
		m = *old
	}
	if d.c.Profile != nil {
		if err := checkProfile(d.c.Profile); err != nil {
			return false, err
		}
		m.Profile = *d.c.Profile
	}
	if err := d.mayJoin(&m); err != nil {
		return false, err
	}
	m.Role = max(m.Role, RoleMember)
	if d.orphaned() {
		m.Role = RoleOperator
	}
	m.Via, m.Joined, m.Invited, m.Since = d.env.Origin.Network, true, false, d.r.head+1
	d.c.Role = m.Role
	return true, d.putMember(m)
}

// orphaned reports whether nobody is left who could look after a room that
// somebody founded by joining it: then the next to come does, as on IRC. A room
// that the operator made is never taken over.
func (d *decision) orphaned() bool {
	if d.r.joined > 0 || d.r.Founder == "" || d.r.Direct {
		return false
	}
	for _, m := range d.r.members {
		if m.Role >= RoleOperator {
			return false
		}
	}
	return true
}

// mayJoin gates the one who joins; it never holds up those who are in.
func (d *decision) mayJoin(m *Member) error {
	p := &d.r.Policy
	full := m.Profile.Name + "!" + m.Profile.Ident + "@" + m.Profile.Host
	hit := func(list byte) bool {
		for _, b := range d.r.bans {
			if b.List == list && MatchMask(b.Mask, full, m.Profile.Account) {
				return true
			}
		}
		return false
	}
	switch {
	case d.env.Sender == d.system:
		return nil
	case m.Role == RoleBanned:
		return Refuse(Denied, Banned, "you are banned from that room")
	case len(d.r.members) >= MaxMembers:
		return Refuse(Denied, Full, "that room is full")
	case m.Role >= RoleHalfop || m.Invited:
		return nil
	case hit('b') && !hit('e'):
		return Refuse(Denied, Banned, "you are banned from that room")
	case d.r.Direct && d.r.members[m.User] == nil:
		return Refuse(Denied, InviteOnly, "that conversation is between two people")
	case !p.Can(m.Role, CanOpenJoin) && !hit('I'):
		return Refuse(Denied, InviteOnly, "that room is by invitation only")
	case p.Registered && m.Profile.Account == "":
		return Refuse(Denied, NeedAccount, "that room is for users with an account")
	case p.Key != "" && p.Key != d.c.Text:
		return Refuse(Denied, BadKey, "that room needs the right key")
	case p.Limit > 0 && d.r.joined >= int(p.Limit):
		return Refuse(Denied, Full, "that room is full")
	}
	return nil
}

func (d *decision) leave() (bool, error) {
	if d.c.User != d.env.Sender && d.env.Sender != d.system {
		return false, Errorf(Invalid, "nobody leaves for somebody else")
	}
	m := d.r.members[d.c.User]
	if m == nil || !m.Joined {
		return false, nil
	}
	return true, d.away(*m)
}

// away takes a member out of the room and keeps the row only if it says more
// than that the member was here: a role of somebody who can come back.
func (d *decision) away(m Member) error {
	m.Joined = false
	if m.Role == RoleBanned || d.r.Direct || m.Role > RoleMember && (m.Via != NetworkIRC || m.Profile.Account != "") {
		return d.putMember(m)
	}
	d.r.drop(m.User)
	return asBroken(d.tx.DropMember(d.r.ID, m.User))
}

// NetworkIRC is our own IRC listener: its users are users of this homeserver.
const NetworkIRC Network = "irc"

func (d *decision) kick() (bool, error) {
	m := d.r.members[d.c.User]
	if m == nil || !m.Joined {
		return false, Refuse(NotFound, NoSuchUser, "they are not in that room")
	}
	if !d.r.Policy.Can(d.actor, CanKick) || m.Role > d.actor || m.Role == d.actor && d.actor < RoleOperator {
		return false, notOperator
	}
	gone := *m
	gone.Role = RoleMember
	return true, d.away(gone)
}

func (d *decision) setRole() (bool, error) {
	if d.c.Role >= roleEnd {
		return false, Errorf(Invalid, "no such role")
	}
	m := Member{User: d.c.User, Via: d.env.Origin.Network}
	old := d.r.members[d.c.User]
	if old != nil {
		m = *old
	} else if d.c.Role != RoleBanned && d.env.Sender != d.system {
		return false, Refuse(NotFound, NoSuchUser, "they are not in that room")
	} else if _, err := ParseUserURI(string(d.c.User)); err != nil {
		return false, err
	}
	if m.Role == d.c.Role {
		return false, nil
	}
	self := d.c.User == d.env.Sender && d.c.Role < m.Role && d.c.Role >= RoleMember
	if !self && (!d.r.Policy.Can(d.actor, CanChangeUserRole) || !MayAssign(d.actor, m.Role, d.c.Role)) {
		return false, notOperator
	}
	if old == nil && len(d.r.members) >= MaxMembers {
		return false, errMembersFull
	}
	m.Role = d.c.Role
	if m.Joined && m.Role >= RoleMember {
		return true, d.putMember(m)
	}
	return true, d.away(m)
}

func (d *decision) ban() (bool, error) {
	if d.c.List == 0 {
		d.c.List = 'b'
	}
	switch {
	case !d.r.Policy.Can(d.actor, CanBan):
		return false, notOperator
	case d.c.Mask == "" || len(d.c.Mask) > MaxName || d.c.List != 'b' && d.c.List != 'e' && d.c.List != 'I':
		return false, Errorf(Invalid, "not a ban mask")
	case d.r.ban(d.c.List, d.c.Mask) >= 0:
		return false, nil
	case len(d.r.bans) >= MaxBans:
		return false, Refuse(TooLarge, ListFull, "the ban list of that room is full")
	}
	b := Ban{Mask: d.c.Mask, List: d.c.List, By: d.name, At: d.now}
	d.r.bans = append(d.r.bans, b)
	return true, asBroken(d.tx.PutBan(d.r.ID, b))
}

func (d *decision) unban() (bool, error) {
	if d.c.List == 0 {
		d.c.List = 'b'
	}
	if !d.r.Policy.Can(d.actor, CanBan) {
		return false, notOperator
	}
	i := d.r.ban(d.c.List, d.c.Mask)
	if i < 0 {
		return false, nil
	}
	d.r.bans = append(d.r.bans[:i:i], d.r.bans[i+1:]...)
	return true, asBroken(d.tx.DropBan(d.r.ID, d.c.List, d.c.Mask))
}

func (r *roomState) ban(list byte, mask string) int {
	for i, b := range r.bans {
		if b.List == list && b.Mask == mask {
			return i
		}
	}
	return -1
}

func (d *decision) topic() (bool, error) {
	if !d.r.Policy.Can(d.actor, CanChangeRoomSubject) {
		return false, notOperator
	}
	if d.r.Topic == d.c.Text {
		return false, nil
	}
	d.r.Topic, d.r.TopicBy, d.r.TopicAt = d.c.Text, d.name, d.now
	return true, asBroken(d.tx.PutRoom(d.r.Room))
}

func (d *decision) rename() (bool, error) {
	if !d.r.Policy.Can(d.actor, CanChangeRoomName) {
		return false, notOperator
	}
	if d.c.Text == "" || len(d.c.Text) > MaxName {
		return false, Errorf(Invalid, "not a room name")
	}
	if d.r.Name == d.c.Text {
		return false, nil
	}
	d.r.Name = d.c.Text
	return true, asBroken(d.tx.PutRoom(d.r.Room))
}

func (d *decision) policy() (bool, error) {
	if !d.r.Policy.Can(d.actor, CanChangePolicy) {
		return false, notOperator
	}
	if d.c.Policy == nil || len(d.c.Policy.Key) > MaxName || !plainText(d.c.Policy.Key) {
		return false, Errorf(Invalid, "not a room policy")
	}
	if d.r.Policy == *d.c.Policy {
		return false, nil
	}
	d.r.Policy = *d.c.Policy
	return true, asBroken(d.tx.PutRoom(d.r.Room))
}

// remove obeys a deletion: the bytes go, and what stays is who said when that
// something was there, with the hash that keeps the signature checkable.
func (d *decision) remove() (bool, error) {
	seq := d.c.Event.Seq()
	if d.r.key.at(seq) != d.c.Event || seq == 0 || seq > d.r.head {
		return false, Errorf(NotFound, "no such message")
	}
	if err := d.flush(); err != nil {
		return false, err
	}
	ev, err := d.tx.Event(d.r.ID, seq)
	if err != nil {
		return false, err
	}
	s, ok := ev.Signed()
	switch {
	case !ok || s.ContentType == ContentControl:
		return false, Errorf(Invalid, "only messages can be deleted")
	case ev.Sender != d.env.Sender && !d.r.Policy.Can(d.actor, CanDeleteOther):
		return false, notOperator
	case ev.Deleted:
		return false, nil
	}
	h := sha256.Sum256(s.Content)
	s.Content, ev.Deleted = h[:], true
	ev.Body = s
	return true, asBroken(d.tx.Replace(ev))
}

// flush writes what this transaction accepted so far, so that it can be read.
func (d *decision) flush() error {
	return asBroken(d.write(d.tx))
}

// invite tells somebody about the room. It opens the gates only if the sender
// may keep people out (CanBan): otherwise any member could let in who is banned.
// One invitation waits per room and user, however often it is repeated.
func (d *decision) invite() (bool, error) {
	if !d.r.Policy.Can(d.actor, CanAddParticipant) {
		return false, notOperator
	}
	if d.r.Direct {
		return false, Refuse(Denied, InviteOnly, "that conversation is between two people")
	}
	if _, err := ParseUserURI(string(d.c.User)); err != nil {
		return false, err
	}
	m := Member{User: d.c.User, Via: d.env.Origin.Network}
	if old := d.r.members[d.c.User]; old != nil {
		if old.Joined {
			return false, Refuse(Conflict, AlreadyJoined, "they are in that room already")
		}
		m = *old
	} else if len(d.r.members) >= MaxMembers {
		return false, errMembersFull
	}
	opens := d.r.Policy.Can(d.actor, CanBan)
	switch {
	case m.Role == RoleBanned && !opens:
		return false, notOperator
	case m.Invited || !opens:
		return true, nil
	case d.r.invited >= MaxInvited:
		return false, Refuse(TooLarge, ListFull, "that room has too many open invitations")
	}
	m.Invited = true
	item, err := putItem(d.tx, Item{To: d.c.User, From: d.env.Sender, Room: d.r.ID, Kind: "invite", Text: d.name, At: d.now})
	if err != nil {
		return false, asBroken(err)
	}
	d.items = append(d.items, item)
	return true, d.putMember(m)
}

func (d *decision) profile() (bool, error) {
	m := d.r.members[d.c.User]
	if d.c.User != d.env.Sender && d.env.Sender != d.system || m == nil {
		return false, Errorf(Invalid, "a profile is its owner's to change")
	}
	if d.c.Profile == nil || m.Profile == *d.c.Profile {
		return false, nil
	}
	if err := checkProfile(d.c.Profile); err != nil {
		return false, err
	}
	d.c.Op = OpProfile // a join of somebody who is in is a change of how they are shown
	changed := *m
	changed.Profile = *d.c.Profile
	return true, d.putMember(changed)
}

func checkProfile(p *Profile) error {
	for _, s := range [...]string{p.Name, p.Ident, p.Host, p.Account, p.Real, p.Avatar} {
		if len(s) > MaxControlText || !plainText(s) {
			return Errorf(Invalid, "a profile is out of bounds")
		}
	}
	return nil
}

func (d *decision) putMember(m Member) error {
	d.r.put(m)
	return asBroken(d.tx.PutMember(d.r.ID, m))
}
