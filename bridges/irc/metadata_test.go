package irc

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
)

// https://ircv3.net/specs/extensions/metadata
func TestMetadata(t *testing.T) {
	for _, draft := range []int{2, 3} {
		t.Run(fmt.Sprint("draft", draft), func(t *testing.T) { testMetadata(t, draft) })
	}
}

func testMetadata(t *testing.T, draft int) {
	dir := t.TempDir()
	h := openHouseIn(t, dir, nil)
	pass := h.tokenFor("alice")
	caps := []string{"batch", "standard-replies", fmt.Sprint("draft/metadata-", draft)}
	code := map[string]string{"KEY_INVALID": "FAIL METADATA KEY_INVALID", "SUBCOMMAND": "FAIL METADATA SUBCOMMAND_INVALID", "VALUE": "FAIL METADATA VALUE_INVALID",
		"SUBS": "FAIL METADATA TOO_MANY_SUBS"}
	if draft == 3 {
		code = map[string]string{"KEY_INVALID": "METADATA INVALID_KEY", "SUBCOMMAND": "FAIL METADATA INVALID_PARAMS", "VALUE": "FAIL METADATA INVALID_VALUE",
			"SUBS": "FAIL METADATA LIMIT_REACHED"}
	}
	a := h.dial()
	a.send("PASS "+pass, "CAP LS 302", "CAP REQ :"+strings.Join(caps, " "), "METADATA * SET pronouns :she", "METADATA * SUB status", "METADATA bob SET x y",
		"NICK alice", "USER alice 0 * :Alice", "CAP END")
	a.until(" 761 * * pronouns * :she")
	a.until(" 770 ", " :status")
	a.until("FAIL METADATA INVALID_TARGET bob")
	a.until(" BATCH +", " metadata alice")
	a.until(" alice pronouns * :she")
	a.until(" BATCH -")
	a.until(" 376 ")
	b := h.user("bob", caps...)
	a.join("#m")
	b.join("#m")
	b.sync()
	b.send("METADATA * SUB status url status avatar")
	b.until(" 770 bob status url status :avatar")
	a.send("METADATA * SET status :busy: very", "METADATA #m SET url :https://m.example", "METADATA * SET avatar https://a.example/a.png")
	a.until(" 761 alice alice status * :busy: very")
	a.until(" 761 alice #m url * :https://m.example")
	a.until(" 761 alice alice avatar * :https://a.example/a.png")
	pushed := map[int]string{2: " METADATA alice status * :busy: very", 3: " 761 bob alice status * :busy: very"}[draft]
	b.until(pushed)
	b.until("#m url * :https://m.example")
	b.until(" alice avatar * :https://a.example/a.png")
	b.send("METADATA #m SYNC", "METADATA alice GET status nope bad!", "METADATA alice LIST", "METADATA * SUBS", "METADATA * SYNC")
	b.until("BATCH +", " metadata #m")
	b.until("@batch=", "#m url * :https://m.example")
	b.until("@batch=", "alice status * :busy: very")
	b.until("BATCH -")
	b.until(" 761 bob alice status * :busy: very")
	b.until(" 766 bob alice nope ")
	b.until(code["KEY_INVALID"] + " bad!")
	b.until("BATCH -")
	for _, key := range []string{"avatar", "pronouns", "status"} {
		b.until("@batch=", " 761 bob alice "+key+" * :")
	}
	b.until("BATCH -")
	b.until("BATCH +", " metadata-subs")
	b.until(" 772 bob avatar status :url")
	b.until("BATCH -")
	b.until("BATCH +", " metadata bob")
	b.until("BATCH -")
	b.send("METADATA alice SET status x", "METADATA #m SET url x", "METADATA nobody LIST", "METADATA $x LIST", "METADATA * SNEEZE", "METADATA *",
		"METADATA * GET", "METADATA * SET UPPER x", "METADATA * SET big :"+strings.Repeat("x", 301), "METADATA alice CLEAR", "METADATA alice SUB x")
	b.until("FAIL METADATA KEY_NO_PERMISSION alice status")
	b.until("FAIL METADATA KEY_NO_PERMISSION #m url")
	b.until("FAIL METADATA INVALID_TARGET nobody")
	b.until("FAIL METADATA INVALID_TARGET $x")
	b.until(code["SUBCOMMAND"] + " SNEEZE")
	b.until(" 461 bob METADATA")
	b.until(" 461 bob METADATA")
	b.until(code["KEY_INVALID"] + " UPPER")
	b.until(code["VALUE"])
	b.until("FAIL METADATA KEY_NO_PERMISSION alice *")
	b.until("FAIL METADATA INVALID_TARGET alice")
	a.send("METADATA * SET status", "METADATA * SET status")
	a.until(" 766 alice alice status ")
	if draft == 2 {
		a.until("FAIL METADATA KEY_NOT_SET alice status")
	} else {
		a.until(" 766 alice alice status ")
	}
	b.until(map[int]string{2: " METADATA alice status *", 3: " 766 bob alice status "}[draft])
	a.send("METADATA * UNSUB status bad!", "METADATA * SUBS")
	a.until(" 771 alice :status")
	a.until(code["KEY_INVALID"] + " bad!")
	for i := range maxMetaSubs {
		a.send(fmt.Sprint("METADATA * SUB k", i))
	}
	a.send("METADATA * SUB over x")
	a.until(code["SUBS"] + " over")
	for i := range maxMetaKeys - 2 {
		a.send(fmt.Sprint("METADATA * SET f", i, " x"))
	}
	a.send("METADATA * SET over x")
	a.until("FAIL METADATA LIMIT_REACHED alice")
	h.close()
	h = openHouseIn(t, dir, nil)
	c := h.user("carol", caps...)
	c.send("JOIN #m", "METADATA #m GET url")
	c.until(" 761 carol #m url * :https://m.example") // kept for the channel
	a = h.login(pass, caps...)
	a.join("#m")
	c.send("METADATA alice GET pronouns", "WHOIS alice")
	c.until(" 761 carol alice pronouns * :she") // and for the account
	a.send("METADATA * CLEAR", "METADATA * LIST")
	a.until(" 766 alice alice avatar ")
	a.until("BATCH -")
	a.expect(":irc.example BATCH +…")
	a.expect(":irc.example BATCH -…")
}

// An avatar is part of the profile that other networks see.
func TestAvatarReachesTheProfile(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("alice", "draft/metadata-2", "batch")
	a.join("#m")
	avatar := func() string {
		var ms []core.Member
		if err := h.rt.View(context.Background(), func(r core.Reader) (err error) { ms, err = r.Members(h.srv.roomID("#m")); return err }); err != nil {
			t.Fatal(err)
		}
		return ms[0].Profile.Avatar
	}
	a.send("METADATA * SET avatar https://a.example/{size}.png")
	a.sync()
	if got := avatar(); got != "https://a.example/{size}.png" {
		t.Errorf("avatar %q", got)
	}
	a.send("METADATA * SET avatar javascript:alert(1)")
	a.sync()
	if got := avatar(); got != "" {
		t.Errorf("avatar %q", got)
	}
}

func FuzzMetadataKey(f *testing.F) {
	for _, s := range []string{"avatar", "display-name", "a/b.c_d-e0", "", "UPPER", "a b", ":a", strings.Repeat("k", 65)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !validMetaKey(s) {
			return
		}
		if strings.ContainsAny(s, " :\r\n\x00") || len(s) > maxMetaKey || string(appendMiddle(nil, s)) != " "+s {
			t.Fatalf("a key that changes the line it stands on: %q", s)
		}
	})
}

// Whoever logs in later has the account's metadata from then on, not the guest's.
func TestMetadataFollowsTheLogin(t *testing.T) {
	h := openHouse(t, nil)
	pass := h.tokenFor("alice")
	_, token, _ := strings.Cut(pass, ":")
	a := h.login(pass, "draft/metadata-2", "batch")
	a.send("METADATA * SET url :https://alice.example", "QUIT")
	a.until("ERROR")
	g := h.user("guest", "draft/metadata-2", "batch", "sasl")
	g.join("#m")
	g.send("METADATA * SET url :https://guest.example", "AUTHENTICATE PLAIN", "AUTHENTICATE "+b64("\x00alice\x00"+token))
	g.until(" 903 ")
	g.send("METADATA * GET url")
	g.until(" 761 guest guest url * :https://alice.example")
}
