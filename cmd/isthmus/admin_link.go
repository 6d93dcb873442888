package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/bridges/matrix"
	"github.com/isthmus-chat/isthmus/core"
)

type linkInfo struct {
	ID        string       `json:"id"`
	Room      core.RoomID  `json:"room"`
	Network   core.Network `json:"network"`
	Place     string       `json:"place"`
	Owner     string       `json:"owner"`
	Mode      string       `json:"mode"`
	Paused    string       `json:"paused,omitempty"`
	Created   time.Time    `json:"created"`
	Delivered uint64       `json:"delivered"`
	Refused   uint64       `json:"refused"`
	Expired   uint64       `json:"expired"`
	Skipped   uint64       `json:"skipped"`
	Waiting   uint64       `json:"waiting"` // the message lane's distance to the room's head
}

func describeLink(r core.Reader, l core.Link, head uint64) (linkInfo, error) {
	i := linkInfo{ID: l.ID, Room: l.Room, Network: l.Network, Place: l.Place, Owner: l.Owner, Mode: l.Mode.String(),
		Paused: l.Paused, Created: l.Created}
	for lane := range core.Lanes {
		c, err := r.Cursor(l.ID, lane)
		if err != nil {
			return i, err
		}
		i.Delivered += c.Delivered
		i.Refused += c.Refused
		i.Expired += c.Expired
		i.Skipped += c.Skipped
		if lane == core.LaneMessage && head > c.Seq {
			i.Waiting = head - c.Seq
		}
	}
	return i, nil
}

type linkList struct {
	Links []linkInfo `json:"links"`
}

func (a *admin) linkList(ctx context.Context, _ nothing) (out linkList, err error) {
	err = a.gw.View(ctx, func(r core.Reader) error {
		links, err := r.Links("", core.MaxLinks)
		if err != nil {
			return err
		}
		out.Links = make([]linkInfo, len(links))
		for i, l := range links {
			head, _, err := r.Head(l.Room)
			if err != nil {
				return err
			}
			if out.Links[i], err = describeLink(r, l, head); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

type linkAdd struct {
	Room    string `json:"room"`
	Network string `json:"network"` // or its name in the configuration; "" = the only one
	Place   string `json:"place"`   // "" = make one
	Owner   string `json:"owner"`
	Mirror  bool   `json:"mirror"`
	// Of a place that is made: open to everybody, and who is invited.
	Public bool     `json:"public"`
	Invite []string `json:"invite"`

	// Unchecked makes the link without entering the place: the network may be
	// away, and the bridge enters when it is back.
	Unchecked bool `json:"unchecked"`
}

// linkAdd binds a room to a place. The bridge enters the place first, or makes
// it: a link to a place that we are not in would carry nothing and say nothing.
func (a *admin) linkAdd(ctx context.Context, req linkAdd) (linkInfo, error) {
	id, err := a.roomID(req.Room)
	if err != nil {
		return linkInfo{}, err
	}
	network, err := a.network(req.Network)
	if err != nil {
		return linkInfo{}, err
	}
	bridge := a.linkers[network]
	switch {
	case req.Unchecked && req.Place == "":
		return linkInfo{}, core.Errorf(core.Invalid, "name the place that is not to be checked")
	case bridge == nil && !req.Unchecked:
		return linkInfo{}, core.Errorf(core.Unavailable, "links are added while the server runs: start it with `isthmus serve`")
	}
	if _, err := a.roomShow(ctx, roomRef{req.Room}); core.CodeOf(err) == core.NotFound {
		return linkInfo{}, core.Errorf(core.NotFound, "there is no room %s: make it with `isthmus room create`", req.Room)
	} else if err != nil {
		return linkInfo{}, err
	}
	l := core.Link{ID: newLinkID(), Room: id, Network: network, Place: req.Place, Owner: req.Owner, Created: a.now()}
	if req.Mirror {
		l.Mode = core.Mirror
	}
	if l.Owner == "" {
		l.Owner = "operator"
	}
	if req.Unchecked {
		_, err = a.gw.Do(ctx, core.PutLink{Link: l, Caps: a.caps[network]})
	} else {
		l, err = bridge.EnsureLink(ctx, l, matrix.LinkOptions{Create: l.Place == "", Public: req.Public, Invite: req.Invite})
	}
	if err != nil {
		return linkInfo{}, err
	}
	_, out, err := a.findLink(ctx, l.ID)
	return out, err
}

// network finds a linkable network by its name, or by the one that the
// configuration gives it; one alone needs no name.
func (a *admin) network(name string) (core.Network, error) {
	var known []string
	for n := range a.caps {
		known = append(known, string(n))
	}
	slices.Sort(known)
	switch {
	case len(known) == 0:
		return "", core.Errorf(core.NotFound, "no network to link is configured: see the matrix section of the configuration")
	case name == "" && len(known) == 1:
		return core.Network(known[0]), nil
	case a.names[name] != "":
		return a.names[name], nil
	case slices.Contains(known, name):
		return core.Network(name), nil
	}
	return "", core.Errorf(core.NotFound, "name one of the networks: %s", strings.Join(known, ", "))
}

type linkRef struct {
	ID        string `json:"id"`
	Unchecked bool   `json:"unchecked"` // remove: leave our users in the place
}

// findLink returns a link, as stored and as shown.
func (a *admin) findLink(ctx context.Context, id string) (l core.Link, out linkInfo, err error) {
	err = a.gw.View(ctx, func(r core.Reader) error {
		l, err = r.Link(id)
		if core.CodeOf(err) == core.NotFound {
			return core.Errorf(core.NotFound, "there is no link %s", id)
		}
		if err != nil {
			return err
		}
		head, _, err := r.Head(l.Room)
		if err != nil {
			return err
		}
		out, err = describeLink(r, l, head)
		return err
	})
	return l, out, err
}

// linkRemove ends a link. The bridge takes our users out of the place, and the
// users from there out of the room, before it forgets the link.
func (a *admin) linkRemove(ctx context.Context, req linkRef) (linkInfo, error) {
	l, out, err := a.findLink(ctx, req.ID)
	if err != nil {
		return out, err
	}
	bridge := a.linkers[l.Network]
	switch {
	case req.Unchecked:
		_, err = a.gw.Do(ctx, core.DropLink{ID: req.ID})
	case bridge == nil:
		err = core.Errorf(core.Unavailable, "our users can leave the place only while the server runs: start it, or remove the link with --unchecked")
	default:
		err = bridge.Unlink(ctx, req.ID)
	}
	return out, err
}

// linkResume starts a link that a bridge has paused, once the cause is mended:
// what waited in the log is delivered then.
func (a *admin) linkResume(ctx context.Context, req linkRef) (linkInfo, error) {
	l, out, err := a.findLink(ctx, req.ID)
	if err != nil {
		return out, err
	}
	l.Paused, out.Paused = "", ""
	_, err = a.gw.Do(ctx, core.PutLink{Link: l, Caps: a.caps[l.Network]})
	return out, err
}
