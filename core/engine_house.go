package core

import "time"

// vacant says why no room called id may begin here.
func (e *Engine) vacant(tx Tx, id RoomID) error {
	if _, err := ParseRoomID(string(id)); err != nil {
		return err
	}
	if _, err := e.room(tx, id); err == nil {
		return Errorf(Conflict, "that room exists already")
	} else if !isAbsent(err) {
		return err
	}
	if id.Domain() != e.cfg.Homeserver {
		return Errorf(Denied, "that room belongs to another homeserver")
	}
	return nil
}

// createRoom makes a room with its first members.
func (e *Engine) createRoom(tx Tx, now time.Time, in CreateRoom) (Output, error) {
	room := in.Room
	if err := e.vacant(tx, room.ID); err != nil {
		return Output{}, err
	}
	switch {
	case room.Kind > Group || len(room.Name) > MaxName || len(room.Topic) > MaxControlText || !plainText(room.Name) || !plainText(room.Topic):
		return Output{}, Errorf(Invalid, "room kind, name or topic out of bounds")
	case room.Direct && len(in.Members) != 2 || len(in.Members) > MaxBans:
		return Output{}, Errorf(Invalid, "a room starts with few members, a conversation with two")
	}
	if room.ContentType == "" {
		room.ContentType = ContentMIMI
	}
	room.Created = now
	if room.Topic != "" && room.TopicAt.IsZero() {
		room.TopicAt = now
	}
	members := in.Members
	if room.Founder != "" && !room.Direct && !hasMember(members, room.Founder) {
		members = append(members[:len(members):len(members)], Member{User: room.Founder, Via: NetworkIRC, Role: RoleOwner})
	}
	r := &roomState{Room: room, key: logID(room.ID, e.cfg.Homeserver), members: map[UserURI]*Member{}}
	for _, m := range members {
		if _, err := ParseUserURI(string(m.User)); err != nil {
			return Output{}, err
		}
		if err := checkProfile(&m.Profile); err != nil {
			return Output{}, err
		}
	}
	if err := tx.PutRoom(room); err != nil {
		return Output{}, asBroken(err)
	}
	for _, m := range members {
		r.put(m)
		if err := tx.PutMember(room.ID, m); err != nil {
			return Output{}, asBroken(err)
		}
	}
	e.rooms[room.ID] = r
	return Output{Room: &room, Members: members}, nil
}

func hasMember(ms []Member, u UserURI) bool {
	for _, m := range ms {
		if m.User == u {
			return true
		}
	}
	return false
}

// putLink makes or changes a link. A Group is never linked to a network that
// would have to open it: the downgrade fails here, loudly.
func (e *Engine) putLink(tx Tx, in PutLink) (Output, error) {
	l := in.Link
	r, err := e.room(tx, l.Room)
	if err != nil {
		return Output{}, err
	}
	switch {
	case r.Kind == Group && !in.Caps.Sealed:
		return Output{}, Refuse(Denied, IsGroup, "an end-to-end encrypted room is not linked to a network that cannot carry it sealed")
	case l.ID == "" || len(l.ID) > MaxName || l.Place == "" || len(l.Place) > MaxURI || len(l.Owner) > MaxName ||
		!plainText(l.ID) || !plainText(l.Place) || !plainText(l.Owner) || !plainText(l.Paused):
		return Output{}, Errorf(Invalid, "a link needs an ID and a place within bounds")
	case l.Mode > Mirror:
		return Output{}, Errorf(Invalid, "no such link mode")
	}
	links, err := tx.Links("", MaxLinks)
	if err != nil {
		return Output{}, asBroken(err)
	}
	known := false
	for _, other := range links {
		known = known || other.ID == l.ID
		if other.ID == l.ID && (other.Room != l.Room || other.Network != l.Network) {
			return Output{}, Errorf(Conflict, "a link stays with its room and network")
		}
		if other.ID != l.ID && other.Network == l.Network && other.Place == l.Place {
			return Output{}, Errorf(Conflict, "that place is linked already")
		}
	}
	if !known && len(links) >= MaxLinks {
		return Output{}, Errorf(TooLarge, "more than %d links", MaxLinks)
	}
	if err := tx.PutLink(l); err != nil {
		return Output{}, asBroken(err)
	}
	if !known {
		err = e.startCursors(tx, r, l.ID)
	}
	return Output{Link: &l}, err
}

// startCursors begins a new link at the room's present: what was said before
// somebody agreed to the link is not carried over.
func (e *Engine) startCursors(tx Tx, r *roomState, link string) error {
	for lane := range Lanes {
		if err := tx.PutCursor(Cursor{Link: link, Lane: lane, Seq: r.head}); err != nil {
			return asBroken(err)
		}
	}
	return nil
}

func (e *Engine) takeLease(tx Tx, now time.Time, in TakeLease) (Output, error) {
	l, err := tx.Link(in.Link)
	if err != nil {
		return Output{}, err
	}
	if l.Holder != in.Holder && l.Holder != "" && l.Until.After(now) {
		return Output{Link: &l}, Errorf(Conflict, "another process carries that link")
	}
	l.Holder, l.Until = in.Holder, in.Until
	return Output{Link: &l}, asBroken(tx.PutLink(l))
}

// settle moves a cursor and remembers where things went, in one transaction: so
// a message that was delivered is never taken for one that was not.
func (e *Engine) settle(tx Tx, now time.Time, in Settle) (out Output, err error) {
	if _, err := tx.Link(in.Cursor.Link); err != nil {
		return Output{}, err
	}
	if err := tx.PutCursor(in.Cursor); err != nil {
		return Output{}, asBroken(err)
	}
	for _, p := range in.Placed {
		if p.Foreign == "" || len(p.Foreign) > MaxURI || !plainText(p.Foreign) {
			continue // an ID that cannot be kept cannot be referred to; the event has left all the same
		}
		if err := tx.PutPlaced(p); err != nil {
			return Output{}, asBroken(err)
		}
	}
	for _, l := range in.Losses {
		if len(l.Loss.Kind) > MaxName || len(l.Loss.Text) > MaxControlText || !plainText(l.Loss.Kind) || !plainText(l.Loss.Text) {
			l.Loss = Loss{Kind: "unknown", Text: "Something of yours could not be shown on a linked network."}
		}
		key := string(l.Room) + " " + string(l.Sender) + " " + l.Loss.Kind
		if _, err := tx.Value("loss", key); CodeOf(err) != NotFound || err == nil {
			if err != nil {
				return Output{}, asBroken(err)
			}
			continue
		}
		if err := tx.PutValue("loss", key, []byte{1}); err != nil {
			return Output{}, asBroken(err)
		}
		item, err := putItem(tx, Item{To: l.Sender, Room: l.Room, Kind: "loss", Text: l.Loss.Text, At: now})
		if err != nil {
			return Output{}, asBroken(err)
		}
		out.Items = append(out.Items, item)
	}
	return out, nil
}

func (e *Engine) putAccount(tx Tx, in PutAccount) (Output, error) {
	a := in.Account
	if a.Fold == "" || len(a.Fold) > MaxName || len(a.Name) > MaxName || !plainText(a.Name) || !plainText(a.Fold) {
		return Output{}, Errorf(Invalid, "not an account name")
	}
	if _, err := ParseUserURI(string(a.User)); err != nil {
		return Output{}, err
	}
	switch _, err := tx.Account(a.Fold); {
	case err == nil && in.Create:
		return Output{}, Errorf(Conflict, "that account name is taken")
	case err != nil && CodeOf(err) != NotFound:
		return Output{}, err
	case err != nil && !in.Create:
		return Output{}, Errorf(NotFound, "no such account")
	}
	return Output{}, asBroken(tx.PutAccount(a))
}

func (e *Engine) putValue(tx Tx, in PutValue) (Output, error) {
	if in.Bucket == "" || len(in.Bucket) > MaxName || in.Key == "" || len(in.Key) > 2*MaxURI || len(in.Data) > MaxContent ||
		!plainText(in.Bucket) || !plainText(in.Key) {
		return Output{}, Errorf(Invalid, "a value is out of bounds")
	}
	if in.Data == nil {
		return Output{}, asBroken(tx.DropValue(in.Bucket, in.Key))
	}
	return Output{}, asBroken(tx.PutValue(in.Bucket, in.Key, in.Data))
}

// putItem queues i. Whoever never comes to take what is queued for them loses
// the oldest of it.
func putItem(tx Tx, i Item) (Item, error) {
	waiting, err := tx.Items(i.To, 0, MaxItems)
	if err != nil {
		return Item{}, asBroken(err)
	}
	if len(waiting) == MaxItems {
		if err := tx.DropItems(i.To, waiting[0].ID); err != nil {
			return Item{}, asBroken(err)
		}
	}
	i, err = tx.PutItem(i)
	return i, asBroken(err)
}
