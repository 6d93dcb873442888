package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-chat/isthmus/configs"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
)

// The proof that a device told two truths is shown to the operator, and is one.
func TestRefusedDeviceIsShownWithProof(t *testing.T) {
	c := &cli{dataDir: t.TempDir(), environ: []string{configs.EnvPrefix + "DOMAIN=a.example"}}
	cfg, err := c.config()
	if err == nil {
		_, err = makeSecrets(t.Context(), cfg)
	}
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	put := func(version uint64, name string, before identity.Hash) identity.SignedRecord {
		t.Helper()
		rec, err := identity.SignRecord(key, identity.Record{Version: version, Previous: before, User: "mimi://a.example/u/alice", Name: name, NotAfter: 1 << 40,
			Inbox: identity.InboxKey{KEM: identity.KEMX25519, Public: bytes.Repeat([]byte{9}, 32)}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = conn.(*local).admin.gw.Do(t.Context(), core.PutDevice{Proof: core.Identity{Record: rec.Encode()}, Register: version == 1})
		if refused := name == "another"; refused != (err != nil) {
			t.Fatalf("%s: %v", name, err)
		}
		return rec
	}
	first := put(1, "phone", identity.Hash{})
	one := put(2, "one", first.Hash())
	if err := conn.close(); err != nil {
		t.Fatal(err)
	}
	show := func(flags ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		args := append([]string{"--data", c.dataDir, "device", "show", identity.DeviceID(public)}, flags...)
		if code := run(args, c.environ, strings.NewReader(""), &out, &errs); code != exitOK {
			t.Fatalf("code %d: %s", code, &errs)
		}
		return out.String()
	}
	if got := show(); !strings.Contains(got, deviceUsed) || strings.Contains(got, "Refused") {
		t.Errorf("an honest device: %s", got)
	}
	if conn, err = c.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	two := put(2, "another", first.Hash())
	if err := conn.close(); err != nil {
		t.Fatal(err)
	}
	if got := show(); !strings.Contains(got, "two records that contradict each other") {
		t.Errorf("nothing of the proof: %s", got)
	}
	var shown deviceInfo
	if err := json.Unmarshal([]byte(show("--json")), &shown); err != nil || shown.State != deviceRefused {
		t.Fatalf("%+v, %v", shown, err)
	}
	proof, err := identity.ParseEquivocation(shown.Proof)
	if err != nil {
		t.Fatal(err)
	}
	convicted, err := proof.Device()
	if err != nil || !convicted.Equal(public) {
		t.Errorf("it convicts another: %v", err)
	}
	both := [][]byte{proof.A, proof.B}
	for _, rec := range []identity.SignedRecord{one, two} {
		if !slices.ContainsFunc(both, func(b []byte) bool { return bytes.Equal(b, rec.Encode()) }) {
			t.Errorf("the proof lacks the record %q", rec.Name)
		}
	}
}

// First letters name a device as long as no other begins so.
func TestDeviceByFirstLetters(t *testing.T) {
	c := &cli{dataDir: t.TempDir(), environ: []string{configs.EnvPrefix + "DOMAIN=a.example"}}
	cfg, err := c.config()
	if err == nil {
		_, err = makeSecrets(t.Context(), cfg)
	}
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.close()
	a := conn.(*local).admin
	if _, err := a.accountAdd(t.Context(), credentials{Name: "alice", Password: "correct-horse"}); err != nil {
		t.Fatal(err)
	}
	keys := sameFirstLetters(t)
	put := func(key ed25519.PrivateKey) {
		t.Helper()
		rec, err := identity.SignRecord(key, identity.Record{Version: 1, User: "mimi://a.example/u/alice", Name: "phone", NotAfter: 1 << 40,
			Inbox: identity.InboxKey{KEM: identity.KEMX25519, Public: bytes.Repeat([]byte{9}, 32)}})
		if err == nil {
			_, err = a.gw.Do(t.Context(), core.PutDevice{Proof: core.Identity{Record: rec.Encode()}, Register: true})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put(keys[0])
	id := identity.DeviceID(keys[0].Public().(ed25519.PublicKey))
	for _, s := range []string{id[:leastPrefix], strings.ToUpper(id[:9]), id} {
		if d, err := a.deviceShow(t.Context(), deviceRef{s}); err != nil || d.Device.ID() != id {
			t.Errorf("%s is %s, %v", s, d.Device, err)
		}
	}
	put(keys[1])
	for s, want := range map[string]core.Code{
		id[:leastPrefix]: core.Conflict, id[:leastPrefix-1]: core.Invalid, "": core.Invalid,
		"zzzzz": core.NotFound, id[:25] + "!": core.NotFound, "mimi://a.example/d/" + id[:5]: core.NotFound,
	} {
		if _, err := a.deviceShow(t.Context(), deviceRef{s}); core.CodeOf(err) != want {
			t.Errorf("%q: %v", s, err)
		}
	}
	if d, err := a.deviceShow(t.Context(), deviceRef{id[:20]}); err != nil || d.Device.ID() != id {
		t.Errorf("%s is %s, %v", id[:20], d.Device, err)
	}
}

// sameFirstLetters makes two keys whose devices begin alike: after a thousand some do.
func sameFirstLetters(t *testing.T) [2]ed25519.PrivateKey {
	t.Helper()
	seen := map[string]ed25519.PrivateKey{}
	for range 1 << 16 {
		public, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		first := identity.DeviceID(public)[:leastPrefix]
		if other := seen[first]; other != nil {
			return [2]ed25519.PrivateKey{other, key}
		}
		seen[first] = key
	}
	t.Fatal("no two begin alike")
	return [2]ed25519.PrivateKey{}
}
