package matrix

import (
	"context"
	"net/http"
	"strings"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
)

// protocolIRC is the third-party protocol that our channels are looked up as.
const protocolIRC = "irc"

// serveUser says whether a ghost exists, and makes it if its user does
// (§get_matrixappv1usersuserid).
func (b *Bridge) serveUser(w http.ResponseWriter, r *http.Request, mxid string) {
	gw, err := b.gateway()
	if err == nil {
		var ok bool
		if ok, err = b.exists(r, gw, mxid); err == nil && !ok {
			err = core.Errorf(core.NotFound, "no such user")
		}
	}
	if err == nil {
		local, _, _ := splitMXID(mxid)
		err = b.client.register(r.Context(), local)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, struct{}{})
}

// exists reports whether mxid is our bot or the ghost of somebody we know.
func (b *Bridge) exists(r *http.Request, gw bridges.Gateway, mxid string) (bool, error) {
	if mxid == b.bot {
		return true, nil
	}
	user, ok := b.userURI(mxid)
	if !ok || !b.ours(mxid) {
		return false, nil
	}
	found := false
	err := gw.View(r.Context(), func(rd core.Reader) error {
		rooms, err := rd.RoomsOf(user, "", 1)
		if err != nil || len(rooms) > 0 {
			found = len(rooms) > 0
			return err
		}
		if p := user.Path(); len(p) == 1 && user.Domain() == b.domain {
			_, err := rd.Account(b.cfg.Fold(p[0]))
			found = err == nil
			if core.CodeOf(err) != core.NotFound {
				return err
			}
		}
		return nil
	})
	return found, err
}

// serveAlias says whether one of our aliases leads to a room, making the Matrix
// room of an existing Channel that anybody may enter, where the operator allows it
// (§get_matrixappv1roomsroomalias). The Matrix room is a public one, and who asks
// is not known.
func (b *Bridge) serveAlias(w http.ResponseWriter, r *http.Request, alias string) {
	err := core.Errorf(core.NotFound, "no such room")
	if room, ok := b.aliasRoom(alias); ok && b.cfg.CreateRooms && b.open(r.Context(), room) {
		_, err = b.EnsureLink(r.Context(), core.Link{Room: room, Owner: "alias"}, LinkOptions{Create: true, Public: true})
	}
	if err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, struct{}{})
}

// open reports whether a room exists that anybody may find and enter.
func (b *Bridge) open(ctx context.Context, id core.RoomID) bool {
	gw, err := b.gateway()
	if err != nil {
		return false
	}
	var room core.Room
	err = gw.View(ctx, func(r core.Reader) (err error) {
		room, err = r.Room(id)
		return err
	})
	p := room.Policy
	return err == nil && !room.Direct && !p.Secret && !p.InviteOnly && !p.Registered && p.Key == ""
}

// alias is the localpart of a Channel's alias; aliasRoom its inverse.
func (b *Bridge) alias(room core.RoomID) string { return b.cfg.AliasPrefix + encodeLocal(room.Local()) }

func (b *Bridge) aliasRoom(alias string) (core.RoomID, bool) {
	local, server, ok := strings.Cut(strings.TrimPrefix(alias, "#"), ":")
	name, ok2 := strings.CutPrefix(local, b.cfg.AliasPrefix)
	name, ok3 := decodeLocal(name)
	if !ok || !ok2 || !ok3 || server != b.cfg.Server || name == "" {
		return "", false
	}
	id, err := core.ParseRoomID(string(core.NewRoomID(b.domain, name)))
	return id, err == nil
}

type thirdField struct {
	Regexp      string `json:"regexp"`
	Placeholder string `json:"placeholder"`
}

// serveProtocol describes how our channels are looked up
// (§get_matrixappv1thirdpartyprotocolprotocol).
func (b *Bridge) serveProtocol(w http.ResponseWriter, _ *http.Request, protocol string) {
	if protocol != protocolIRC {
		writeError(w, core.Errorf(core.NotFound, "no such protocol"))
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"user_fields":     []string{"nickname"},
		"location_fields": []string{"channel"},
		"icon":            "",
		"field_types": map[string]thirdField{
			"nickname": {Regexp: `[^\s:]+`, Placeholder: "alice"},
			"channel":  {Regexp: `#[^\s,:]+`, Placeholder: "#lobby"},
		},
		"instances": []map[string]any{{"desc": "IRC at " + b.cfg.Domain, "network_id": b.cfg.Domain, "fields": map[string]string{}}},
	})
}

type thirdUser struct {
	UserID   string            `json:"userid"`
	Protocol string            `json:"protocol"`
	Fields   map[string]string `json:"fields"`
}

// serveThirdUser finds ghosts by nick, or who is behind a ghost.
func (b *Bridge) serveThirdUser(w http.ResponseWriter, r *http.Request, protocol string) {
	gw, err := b.gateway()
	found := []thirdUser{}
	q := r.URL.Query()
	mxid := q.Get("userid")
	if nick := q.Get("nickname"); protocol == protocolIRC && nick != "" {
		mxid = b.mxid(core.NewUserURI(b.domain, b.cfg.Fold(nick)))
	} else if protocol != "" {
		mxid = ""
	}
	if err == nil && mxid != "" && mxid != b.bot {
		var ok bool
		if ok, err = b.exists(r, gw, mxid); ok && err == nil {
			user, _ := b.userURI(mxid)
			found = append(found, thirdUser{UserID: mxid, Protocol: protocolIRC, Fields: map[string]string{"nickname": user.Local()}})
		}
	}
	answerLookup(w, err, found, len(found))
}

type thirdLocation struct {
	Alias    string            `json:"alias"`
	Protocol string            `json:"protocol"`
	Fields   map[string]string `json:"fields"`
}

// serveLocation finds our alias of a channel, or the channel of an alias.
func (b *Bridge) serveLocation(w http.ResponseWriter, r *http.Request, protocol string) {
	gw, err := b.gateway()
	found := []thirdLocation{}
	q := r.URL.Query()
	var room core.RoomID
	var ok bool
	if name := strings.TrimPrefix(q.Get("channel"), "#"); protocol == protocolIRC && name != "" {
		room, ok = core.NewRoomID(b.domain, b.cfg.Fold(name)), true
	} else if protocol == "" {
		room, ok = b.aliasRoom(q.Get("alias"))
	}
	if err == nil && ok {
		err = gw.View(r.Context(), func(rd core.Reader) error {
			known, err := rd.Room(room)
			if core.CodeOf(err) == core.NotFound && err != nil {
				return nil
			}
			if err == nil && known.Kind == core.Channel && !known.Direct && !known.Policy.Secret {
				found = append(found, thirdLocation{Alias: "#" + b.alias(room) + ":" + b.cfg.Server, Protocol: protocolIRC,
					Fields: map[string]string{"channel": known.Name}})
			}
			return err
		})
	}
	answerLookup(w, err, found, len(found))
}

// answerLookup answers a lookup: nothing found is a 404.
func answerLookup(w http.ResponseWriter, err error, found any, n int) {
	if err == nil && n == 0 {
		err = core.Errorf(core.NotFound, "nothing found")
	}
	if err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, found)
}
