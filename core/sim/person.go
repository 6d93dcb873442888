package sim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/policy"
)

// A role is what a device is there for.
type role struct {
	creates bool
	sponsor *device // the user's first device; nil if it is this one
	joins   time.Duration
}

// A person is what somebody who has a device remembers, whatever happens to it.
type person struct {
	created  core.RoomID
	said     int
	approval []byte // of the sponsor
	asks     []byte // the record that a second device shows to its sponsor
	codes    []code // that others gave
}

// A code opens a room to who has it.
type code struct {
	room core.RoomID
	text string
}

// live is what a device does from its start on.
func (d *device) live(ctx context.Context) {
	for !d.c.Registered() {
		if err := d.register(ctx); err != nil {
			d.w.note(d.name, "is not registered: %v", err)
			d.rest(ctx, d.w.between(500*time.Millisecond, 3*time.Second))
		}
	}
	d.w.note(d.name, "is %s of %s", d.c.Device(), d.user)
	d.begin(d.follow)
	d.begin(d.tend)
	d.begin(d.act)
}

func (d *device) register(ctx context.Context) error {
	var links []string
	var how client.Registration
	if s := d.role.sponsor; s != nil {
		if s.c == nil || !s.c.Registered() {
			return core.Errorf(core.Unavailable, "the first device is not there")
		}
		links = []string{s.c.Device().ID()}
	}
	record, err := d.c.Prepare(ctx, d.user, d.name, links...)
	if err != nil {
		return err
	}
	if s := d.role.sponsor; s != nil {
		if d.person.approval == nil {
			d.person.asks = record
			return core.Errorf(core.Unavailable, "the first device has not approved it")
		}
		how = client.Registration{Sponsor: s.c.Device(), Approval: d.person.approval}
	}
	return d.c.Register(ctx, how)
}

// follow takes what is new.
func (d *device) follow(ctx context.Context) {
	for {
		updates, err := d.c.Sync(ctx, 20*time.Second)
		if err != nil {
			d.rest(ctx, d.w.between(200*time.Millisecond, 2*time.Second))
		}
		for _, u := range updates {
			switch u.Kind {
			case client.NewMessage:
				d.w.note(d.name, "reads %d of epoch %d: %s %s", u.Message.Seq, u.Message.Epoch, short(u.Message.Content), u.Message.Failed)
			case client.Halted, client.Equivocation:
				d.w.wrong("%s stops: %s", d.name, u.Text)
			default:
				if name := string(u.Room) + " " + string(d.user); u.Kind == client.RoomLeft && d.w.facts.out[name] > d.w.facts.was[name] {
					if _, asked := d.w.facts.leaving[name]; asked {
						d.w.facts.leaving[name] = d.w.facts.out[name]
					}
				}
				d.w.note(d.name, "hears of %d: %s %s %s", u.Kind, u.User, u.Device, u.Text)
			}
		}
	}
}

// tend does what is due.
func (d *device) tend(ctx context.Context) {
	for {
		d.rest(ctx, d.w.between(900*time.Millisecond, 1100*time.Millisecond))
		if err := d.c.Tend(ctx); err != nil {
			d.w.note(d.name, "tends: %v", err)
		}
	}
}

// act is what the person does, until it is calm.
func (d *device) act(ctx context.Context) {
	for !d.w.calm {
		d.rest(ctx, d.w.between(d.w.plan.Pace/4, 2*d.w.plan.Pace))
		if d.w.calm {
			return
		}
		d.approve(ctx)
		if d.role.creates && d.person.created == "" {
			d.create(ctx)
			continue
		}
		d.something(ctx)
	}
}

// approve vouches for the user's other devices.
func (d *device) approve(ctx context.Context) {
	for _, o := range d.w.devices {
		if o.role.sponsor == d && o.person.asks != nil && o.person.approval == nil {
			a, err := d.c.Approve(ctx, o.person.asks)
			d.w.note(d.name, "approves %s: %v", o.name, err)
			if err == nil {
				o.person.approval = a
			}
		}
	}
}

func (d *device) create(ctx context.Context) {
	id := core.NewRoomID(d.home.domain, fmt.Sprintf("room%d", d.n))
	_, err := d.c.Create(ctx, client.NewRoom{Room: id, Name: "a room"})
	d.w.note(d.name, "creates %s: %v", id, err)
	if err != nil && core.CodeOf(err) != core.Conflict {
		return
	}
	d.person.created = id
	for range 1 + d.w.rng.IntN(3) {
		other := d.w.devices[d.w.rng.IntN(len(d.w.devices))].user
		_, err := d.c.Invite(ctx, id, other)
		d.w.note(d.name, "invites %s to %s: %v", other, id, err)
	}
}

// something is one thing that a person does in a room.
func (d *device) something(ctx context.Context) {
	w := d.w
	if n := len(d.person.codes); n > 0 {
		c := d.person.codes[n-1]
		d.person.codes = d.person.codes[:n-1]
		err := d.c.Join(ctx, c.room, c.text)
		w.note(d.name, "joins %s with a code: %v", c.room, err)
		return
	}
	rooms, err := d.c.Rooms(ctx)
	if err != nil {
		w.note(d.name, "has no rooms: %v", err)
		return
	}
	rooms = slices.DeleteFunc(rooms, func(r client.RoomInfo) bool { return !r.Joined })
	if len(rooms) == 0 {
		return
	}
	id := rooms[w.rng.IntN(len(rooms))].Room
	other := w.devices[w.rng.IntN(len(w.devices))].user
	what, n := "", w.rng.IntN(100)
	switch {
	case n < 55:
		what = "says something"
		err = d.say(ctx, id)
	case n < 77:
		what = "invites " + string(other)
		_, err = d.c.Invite(ctx, id, other)
	case n < 83:
		what = "renews its keys"
		err = d.c.Renew(ctx, id)
	case n < 85 && w.plan.Codes:
		what = "enters anew"
		err = d.c.Resync(ctx, id)
	case n < 88 && w.plan.Codes:
		what = "gives a code for it away"
		err = d.invent(ctx, id)
	case n < 88:
		what = "describes the room"
		if w.plan.Sabotage == Leaking {
			err = d.c.Describe(ctx, id, "a room", string(w.canaries))
			break
		}
		err = d.c.Describe(ctx, id, fmt.Sprintf("name %d", n), fmt.Sprintf("topic %d", d.person.said))
	case n < 91 && other != d.user:
		what = "removes " + string(other)
		err = d.c.Remove(ctx, id, other)
	case n < 95 && other != d.user:
		what = "gives a role to " + string(other)
		err = d.c.SetRole(ctx, id, []core.Role{core.RoleMember, core.RoleOperator, core.RoleAdmin}[w.rng.IntN(3)], other)
	case n < 97 && rooms[0].Devices > 2:
		what = "leaves"
		w.facts.leaving[string(id)+" "+string(d.user)] = 0
		w.facts.was[string(id)+" "+string(d.user)] = w.facts.out[string(id)+" "+string(d.user)]
		err = d.c.Leave(ctx, id)
	case w.plan.Sabotage == Lying: // a room bears one liar among three
	default:
		what = "changes who agrees"
		err = d.reorder(ctx, id)
	}
	w.note(d.name, "%s in %s: %v", what, id, err)
}

// invent makes a code for a room, and gives it to somebody.
func (d *device) invent(ctx context.Context, id core.RoomID) error {
	c, err := d.c.JoinCode(ctx, id, "", 1+d.w.rng.Uint32N(2), 0)
	if err == nil {
		p := &d.w.devices[d.w.rng.IntN(len(d.w.devices))].person
		p.codes = append(p.codes, code{id, c.Code})
	}
	return err
}

// say says something that nobody has said before.
func (d *device) say(ctx context.Context, id core.RoomID) error {
	d.person.said++
	text := fmt.Sprintf("%s %s %d", d.w.canaries, d.name, d.person.said)
	d.w.facts.said(d, text)
	_, err := d.c.Send(ctx, id, "", []byte(text))
	return err
}

// sayAll says something in every room: who has missed a change of the room hears
// that there was one.
func (d *device) sayAll(ctx context.Context) {
	rooms, err := d.c.Rooms(ctx)
	if err != nil {
		d.w.wrong("%s has no rooms: %v", d.name, err)
	}
	for _, r := range rooms {
		if r.Joined {
			err := d.say(ctx, r.Room)
			d.w.note(d.name, "says something in %s: %v", r.Room, err)
		}
	}
}

// reorder makes other homeservers those that agree: a part of those with people in
// the room.
func (d *device) reorder(ctx context.Context, id core.RoomID) error {
	members, err := d.c.Members(ctx, id)
	if err != nil {
		return err
	}
	var domains []string
	for _, m := range members {
		if x := m.User.Domain(); !slices.Contains(domains, x) && m.Role > core.RoleBanned {
			domains = append(domains, x)
		}
	}
	d.w.rng.Shuffle(len(domains), func(i, j int) { domains[i], domains[j] = domains[j], domains[i] })
	domains = domains[:1+d.w.rng.IntN(len(domains))]
	slices.Sort(domains)
	return d.c.SetAuthority(ctx, id, policy.Authority{Domains: domains, Rule: policy.Rule(d.w.rng.IntN(2))})
}
