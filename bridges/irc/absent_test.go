package irc

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

// byAPI is what the HTTP API says of an account's owner and offers in their name.
type byAPI struct {
	h    *house
	user core.UserURI
}

func (h *house) byAPI(name string) byAPI { return byAPI{h, core.NewUserURI(testDomain, name)} }

func (a byAPI) profile() core.Profile {
	return a.h.srv.AbsentProfile(a.user)
}

func (a byAPI) create(channel string) {
	a.h.t.Helper()
	room := core.NewRoomID(testDomain, strings.TrimPrefix(channel, "#"))
	_, err := a.h.rt.Do(context.Background(), core.CreateRoom{Room: core.Room{ID: room, Kind: core.Channel, Name: channel, Founder: a.user},
		Members: []core.Member{{User: a.user, Via: core.NetworkNative, Role: core.RoleOwner, Joined: true, Profile: a.profile()}}})
	if err != nil {
		a.h.t.Fatal(err)
	}
}

func (a byAPI) submit(e core.Envelope) {
	a.h.t.Helper()
	rs, err := a.h.rt.Submit(context.Background(), e)
	if err != nil || rs[0].Err != nil {
		a.h.t.Fatal(err, rs)
	}
}

func (a byAPI) control(channel string, c core.Control) {
	a.h.t.Helper()
	a.submit(core.Envelope{Room: core.NewRoomID(testDomain, strings.TrimPrefix(channel, "#")), Sender: a.user,
		Origin: core.Origin{Network: core.NetworkNative}, Body: c.Body(a.user.Local())})
}

func (a byAPI) join(channel string) {
	a.h.t.Helper()
	p := a.profile()
	a.control(channel, core.Control{Op: core.OpJoin, Profile: &p})
}

func (a byAPI) say(room core.RoomID, text string) {
	a.h.t.Helper()
	e := core.Envelope{Room: room, Sender: a.user, Origin: core.Origin{Network: core.NetworkNative}, Sent: time.Now()}
	content := converter.Text(text, "", []byte(text))
	a.submit(content.Envelope(e, a.user.Local()))
}

const absentAlice = "alice!~alice@alice.isthmus.user"

// An account that is in a channel by the API and has no client here is one of us,
// under its own name, and looks the same after a restart.
func TestAccountByAPI(t *testing.T) {
	dir := t.TempDir()
	plaza := core.NewRoomID(testDomain, "plaza")
	h := openHouseIn(t, dir, nil)
	h.putAccount(aliceOnce())
	h.byAPI("alice").create("#plaza")
	for _, life := range []string{"first", "second"} {
		bob := h.user("bob", "server-time")
		bob.send("JOIN #plaza")
		if got := bob.until(" 353 "); !has(got, "~alice") || has(got, "[m]") {
			t.Errorf("%s: %s", life, got)
		}
		bob.until(" 366 ")
		h.byAPI("alice").say(plaza, "hello from curl")
		if got := bob.until("PRIVMSG"); !has(got, " :"+absentAlice+" PRIVMSG #plaza :hello from curl") {
			t.Errorf("%s: %s", life, got)
		}
		bob.send("WHO #plaza")
		bob.until(" 352 bob #plaza ~alice alice.isthmus.user irc.example alice G~ :0 ")
		bob.send("WHOIS alice")
		bob.until(" 311 bob alice ~alice alice.isthmus.user * :")
		bob.until(" 312 bob alice irc.example :Isthmus")
		bob.until(" 301 bob alice :Not on IRC")
		bob.until(" 330 bob alice alice :")
		bob.until(" 318 ")
		bob.send("PRIVMSG alice :psst")
		bob.expect(":irc.example 301 bob alice :Not on IRC")
		bob.silent()
		h.byAPI("alice").say(core.DirectRoom(testDomain, core.NewUserURI(testDomain, "alice"), bobOf(h)), "yes?")
		bob.until(" :" + absentAlice + " PRIVMSG bob :yes?")
		h.close()
		h = openHouseIn(t, dir, nil)
	}
	h.close()
}

func bobOf(h *house) core.UserURI {
	h.srv.world.mu.RLock()
	defer h.srv.world.mu.RUnlock()
	return h.srv.world.userByNick("bob").uri
}

// When the account's owner comes by IRC as well, they are that member, with the
// nick that they ask for; when they go they are left as before, and part from
// what they were in by IRC.
func TestAccountByAPILogsIn(t *testing.T) {
	h := openHouse(t, nil)
	h.putAccount(aliceOnce())
	h.byAPI("alice").create("#plaza")
	bob := h.user("bob", "away-notify", "chghost", "account-notify")
	bob.join("#plaza")
	bob.join("#other")
	for _, nick := range []string{"alice", "ally"} {
		c := h.dial()
		c.send("CAP REQ sasl", "NICK "+nick, "USER a 0 * :Alice A.", "AUTHENTICATE PLAIN",
			"AUTHENTICATE "+b64("\x00alice\x00"+goodPassword), "CAP END")
		c.until(" 001 "+nick+" :", nick+"!~a@alice.isthmus.user")
		c.until(":" + nick + "!~a@alice.isthmus.user JOIN #plaza")
		if got := c.until(" 353 "); !strings.HasSuffix(got, " :~"+nick+" bob") {
			t.Errorf("names: %s", got)
		}
		c.until(" 366 ")
		if nick != "alice" {
			bob.expect(":" + absentAlice + " NICK :" + nick)
		}
		bob.expect(":" + nick + "!~alice@alice.isthmus.user CHGHOST ~a alice.isthmus.user")
		bob.expect(":" + nick + "!~a@alice.isthmus.user ACCOUNT Alice")
		bob.expect(":" + nick + "!~a@alice.isthmus.user AWAY")
		c.join("#other")
		bob.until(" JOIN #other")
		c.send("NICK alicia", "NICK "+nick, "QUIT :bye")
		bob.until(" NICK :alicia")
		bob.until(" NICK :" + nick)
		bob.until(":" + nick + "!~a@alice.isthmus.user PART #other :Quit: bye")
		if nick != "alice" {
			bob.until(" NICK :alice")
		}
		bob.until(" CHGHOST ~alice alice.isthmus.user")
		bob.until(":" + absentAlice + " AWAY :Not on IRC")
		bob.send("NAMES #plaza")
		bob.until(" 353 ", " #plaza :~alice bob")
		bob.until(" 366 ")
		bob.sync()
	}
}

// A guest in no channel who logs in later is that member too.
func TestGuestLogsInAsAccountByAPI(t *testing.T) {
	h := openHouse(t, nil)
	h.putAccount(aliceOnce())
	h.byAPI("alice").create("#plaza")
	bob := h.user("bob")
	bob.join("#plaza")
	c := h.user("guest1")
	c.send("AUTHENTICATE PLAIN", "AUTHENTICATE "+b64("\x00alice\x00"+goodPassword))
	c.until(":guest1!~guest1@alice.isthmus.user JOIN #plaza")
	c.until(" 353 ", " #plaza :~guest1 bob")
	c.until(" 903 ")
	bob.expect(":" + absentAlice + " NICK :guest1")
	c.send("NICK alice", "PRIVMSG #plaza :here")
	c.until(" NICK :alice")
	bob.expect(":guest1!~guest1@alice.isthmus.user NICK :alice")
	bob.expect(":alice!~guest1@alice.isthmus.user PRIVMSG #plaza :here")
	bob.send("WHOIS guest1")
	bob.expect(":irc.example 401 bob guest1 :No such nick/channel")
}

// Joining and leaving by the API is shown as everybody's joining and leaving is.
func TestAccountJoinsByAPI(t *testing.T) {
	h := openHouse(t, nil)
	h.putAccount(aliceOnce())
	bob := h.user("bob")
	bob.join("#plaza")
	h.byAPI("alice").join("#plaza")
	bob.expect(":" + absentAlice + " JOIN #plaza")
	p := h.byAPI("alice").profile()
	p.Name = "mallory"
	h.byAPI("alice").control("#plaza", core.Control{Op: core.OpJoin, Profile: &p}) // joins twice
	bob.silent()
	h.byAPI("alice").control("#plaza", core.Control{Op: core.OpLeave})
	bob.expect(":" + absentAlice + " PART #plaza")
	bob.send("MODE #plaza +b *!*@alice.isthmus.user")
	bob.until(" MODE #plaza +b ")
	p = h.byAPI("alice").profile()
	e := core.Envelope{Room: core.NewRoomID(testDomain, "plaza"), Sender: h.byAPI("alice").user,
		Origin: core.Origin{Network: core.NetworkNative}, Body: core.Control{Op: core.OpJoin, Profile: &p}.Body("alice")}
	if rs, err := h.rt.Submit(context.Background(), e); err != nil || core.ReasonOf(rs[0].Err) != core.Banned {
		t.Errorf("a ban on the host that is shown: %v, %v", err, rs)
	}
	bob.send("PRIVMSG alice :gone?")
	bob.expect(":irc.example 401 bob alice :No such nick/channel")
}

// The name that an account is shown under is never that of another.
func TestAccountByAPITakesNoNick(t *testing.T) {
	h := openHouse(t, nil)
	h.putAccount(aliceOnce())
	h.byAPI("alice_").create("#plaza")
	carol := h.user("carol")
	carol.join("#plaza")
	h.byAPI("carol").join("#plaza")
	carol.expect(":carol[m]!~carol@carol.isthmus.user JOIN #plaza")
	carol.send("NAMES #plaza")
	if got := carol.until(" 353 "); !has(got, "~alice_") {
		t.Error(got)
	}
	c := h.dial()
	c.send("CAP REQ sasl", "NICK alice", "USER a 0 * :Alice A.", "AUTHENTICATE PLAIN", "AUTHENTICATE "+b64("\x00alice\x00"+goodPassword), "CAP END")
	c.until(" 001 alice :")
	long := core.NewUserURI(testDomain, strings.Repeat("a", h.srv.cfg.NickLen+1))
	if p := h.srv.AbsentProfile(long); p.Name != strings.Repeat("a", h.srv.cfg.NickLen-len(h.srv.cfg.Suffix))+h.srv.cfg.Suffix {
		t.Errorf("a name that is too long is shown as %q", p.Name)
	}
}
