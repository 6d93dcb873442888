package policy

// survey finds out what happens to whom.
func (j *judge) survey() {
	seen := map[string]bool{}
	touch := func(user string) {
		if !seen[user] {
			seen[user] = true
			j.touched = append(j.touched, user)
		}
	}
	for _, m := range j.order {
		touch(m.user)
	}
	gone := map[string]bool{}
	for _, c := range j.Removed {
		touch(c.User)
		gone[c.Device] = true
		j.gained[c.User]--
	}
	for _, c := range j.Added {
		touch(c.User)
		j.gained[c.User]++
		if gone[c.Device] {
			j.replaced[c.Device] = true
		}
	}
}

// checkClients says whether clients may come and go so. What no proposal adds
// or removes is the committer's: the joiner's own leaf, and its old one.
func (j *judge) checkClients() error {
	actor := Proposed{By: j.Actor}
	added, removed := map[string]bool{}, map[string]bool{}
	for i := range j.Proposals {
		p := &j.Proposals[i]
		for _, c := range p.Added {
			added[c.Device] = true
			if err := j.mayAddClient(p, c); err != nil {
				return err
			}
		}
		for _, c := range p.Removed {
			removed[c.Device] = true
			if err := j.mayRemoveClient(p, c); err != nil {
				return err
			}
		}
	}
	for _, c := range j.Added {
		if !added[c.Device] {
			if err := j.mayAddClient(&actor, c); err != nil {
				return err
			}
		}
	}
	for _, c := range j.Removed {
		if !removed[c.Device] {
			if err := j.mayRemoveClient(&actor, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// mayAddClient follows draft-ietf-mimi-room-policy-04 §8.1.1: own clients take
// canAddOwnClient, those of others come with the user who is added, and later
// only while the user has none.
func (j *judge) mayAddClient(p *Proposed, c Client) error {
	role, in := j.After.Role(c.User)
	m, moved := j.moves[c.User]
	by := p.role(j.Before)
	own := p.By == c.User
	switch {
	case !in || j.After.Banned(c.User):
		return refuse(NoCapability, "a client of a user who does not participate")
	case own && j.replaced[c.Device]:
		return nil
	case own && moved && m.from == RoleNone && m.author.By == p.By:
		return nil // who may join may join with a client
	case own:
		return need(by, CanAddOwnClient, "the author may not add clients of its own")
	case j.ClientsAfter(c.User) > j.gained[c.User]:
		return refuse(CanAddOwnClient, "a user who has clients adds others itself")
	case moved && m.from == RoleBanned:
		return refuse(NoCapability, "unbanning somebody does not add clients")
	case j.Before.Fixed():
		// Clients of existing participants can be added, §5.
		return need(by, CanAddOwnClient, "the author may not add clients")
	case !by.MayMove(RoleNone, role):
		return refuse(CanAddParticipant, "the author's role adds nobody with such a role")
	}
	return need(by, CanAddParticipant, "the author may not add clients of others")
}

// mayRemoveClient follows draft-ietf-mimi-room-policy-04 §8.1.2. The clients of
// who does not participate before or after have to go, and anybody may do it:
// whether the user may be removed or banned is judged with the list.
func (j *judge) mayRemoveClient(p *Proposed, c Client) error {
	switch {
	case !j.Before.Member(c.User) || !j.After.Member(c.User):
		return nil
	case p.By == c.User && j.replaced[c.Device]:
		return nil
	case p.By == c.User:
		return need(p.role(j.Before), CanRemoveOwnClient, "the author may not remove clients of its own")
	case p.byHomeserverOf(c.User):
		return nil // a device that its homeserver does not vouch for any more
	}
	return need(p.role(j.Before), CanKick, "the author may not kick")
}

// need is nil if the role has the capability.
func need(r *Role, c Capability, text string) error {
	if r.Has(c) {
		return nil
	}
	return refuse(c, text)
}

// checkOutcome says whether the room is left as it has to be.
func (j *judge) checkOutcome() error {
	base := j.After.Base()
	for _, user := range j.touched {
		switch n := j.ClientsAfter(user); {
		case n > 0 && !j.After.Member(user):
			return refuse(NoCapability, "who does not participate has clients left")
		case n > 1 && !base.MultiDevice && j.gained[user] > 0:
			return refuse(NoCapability, "the room allows one client for each user")
		}
	}
	if base.MaxClients != nil && len(j.Added) > 0 && int64(j.Members()) > int64(*base.MaxClients) {
		return refuse(NoCapability, "more clients than the room has places")
	}
	// draft-ietf-mimi-protocol-06 §5.3: a homeserver takes part while it has
	// participants.
	left := 0
	for _, d := range j.After.authority.Domains {
		if j.After.hasDomain(d) {
			left++
		}
	}
	for _, d := range j.After.authority.Domains {
		if left > 0 && j.Before.hasDomain(d) && !j.After.hasDomain(d) {
			return refuse(NoCapability, "a homeserver without participants stays in the authority")
		}
	}
	return j.checkActive()
}

// checkActive checks how many of a role have clients,
// draft-ietf-mimi-room-policy-04 §3: of the roles of those whom the commit
// touches, and of all where it changes the roles.
func (j *judge) checkActive() error {
	affected := map[uint32]bool{}
	for _, user := range j.touched {
		before, _ := j.Before.Role(user)
		after, _ := j.After.Role(user)
		affected[before], affected[after] = true, true
	}
	all := j.changes(ComponentRoles)
	for i := range j.After.roles {
		r := &j.After.roles[i]
		if r.Index == RoleNone || !all && !affected[r.Index] || r.MinimumActive == 0 && r.MaximumActive == nil {
			continue
		}
		if err := j.countActive(r); err != nil {
			return err
		}
	}
	return nil
}

// countActive counts no further than the bounds of the role.
func (j *judge) countActive(r *Role) error {
	most, n := int64(-1), int64(0)
	if r.MaximumActive != nil {
		most = int64(*r.MaximumActive)
	}
	for _, p := range j.After.list {
		if p.Role != r.Index || j.ClientsAfter(p.User) == 0 {
			continue
		}
		n++
		if most >= 0 && n > most {
			return refuse(NoCapability, "too many active participants have a role")
		}
		if most < 0 && n >= int64(r.MinimumActive) {
			return nil
		}
	}
	if n < int64(r.MinimumActive) {
		return refuse(NoCapability, "too few active participants have a role")
	}
	return nil
}
