package irc

import (
	"testing"
	"time"
)

// Reload binds those who are connected, and those who come.
func TestReload(t *testing.T) {
	h := openHouse(t, func(cfg *Config) { cfg.Accounts.Registration = true })
	c := h.user("alice", "standard-replies")
	c.join("#kept")
	c.send("REGISTER * * short")
	c.until("FAIL REGISTER WEAK_PASSWORD")

	cfg := h.srv.cfg
	cfg.MOTD, cfg.Admin = "Be brief.", "ops@example.org"
	cfg.CreateChannels, cfg.Accounts.Registration = false, false
	cfg.CommandBurst, cfg.CommandInterval = 2, 50*time.Millisecond
	cfg.Access.Limits.PerAddress = 2
	cfg.TopicLen = 1 // told to clients in ISUPPORT: has no effect
	if err := h.srv.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	c.send("MOTD", "ADMIN", "JOIN #new", "REGISTER * * correct-horse-battery", "TOPIC #kept :still long")
	began := time.Now()
	c.until(" 372 alice ", "Be brief.")
	c.until(" 257 alice ", "ops@example.org")
	c.until(" 403 alice #new ")
	c.until("FAIL REGISTER DISALLOWED")
	c.until(" TOPIC #kept :still long")
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("the commands took %v: faster than the new limit lets them", took)
	}
	h.user("bob")
	h.dial().until("ERROR :Closing link: too many connections from your address")
}
