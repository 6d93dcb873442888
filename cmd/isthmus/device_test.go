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
