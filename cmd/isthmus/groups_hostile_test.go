package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/configs"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/epoch"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// What hostile neighbours may cost those who are honest, on a machine that is busy.
const (
	hostileMemory = 768 << 20       // octets of a homeserver's memory at its highest
	hostileWait   = 5 * time.Second // for a sentence to arrive
)

// A forger has the certificate and the key of a homeserver that is down, and lies in its
// name.
type forger struct {
	*http.Client
	t   *testing.T
	as  *homeserver
	key ed25519.PrivateKey
}

// newForger takes the place of a homeserver.
func (c *cluster) newForger(h *homeserver) *forger {
	c.t.Helper()
	i := slices.Index(c.homes, h)
	pair, err := tls.LoadX509KeyPair(c.certs.Certificates[i].Cert, c.certs.Certificates[i].Key)
	if err != nil {
		c.t.Fatal(err)
	}
	pem, err := os.ReadFile(c.certs.CA)
	if err != nil {
		c.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	cfg, err := configs.Load(h.config, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	f := &forger{t: c.t, as: h}
	if f.key, err = readKey(cfg); err != nil {
		c.t.Fatal(err)
	}
	t := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots}, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			domain, _, _ := net.SplitHostPort(address)
			i := slices.IndexFunc(c.homes, func(h *homeserver) bool { return h.domain == domain })
			return new(net.Dialer).DialContext(ctx, network, c.homes[i].fed)
		}}
	c.t.Cleanup(t.CloseIdleConnections)
	f.Client = &http.Client{Transport: t, Timeout: time.Minute}
	h.down(syscall.SIGKILL)
	return f
}

// ask makes a request of PROTOCOL §8; body is octets, or a value for CBOR. code is that of
// a refusal.
func (f *forger) ask(to *homeserver, method, path string, body any, answer any) (status int, code string) {
	f.t.Helper()
	text, ok := body.([]byte)
	if !ok && body != nil {
		var err error
		if text, err = cbor.Marshal(body); err != nil {
			f.t.Fatal(err)
		}
	}
	q, err := http.NewRequestWithContext(f.t.Context(), method, "https://"+to.domain+wire.PeerPath+path, bytes.NewReader(text))
	if err != nil {
		f.t.Fatal(err)
	}
	q.Header.Set("From", "mimi@"+f.as.domain)
	a, err := f.Do(q)
	if err != nil {
		return 0, err.Error()
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		return 0, err.Error()
	}
	if a.StatusCode/100 == 2 {
		if answer != nil && cbor.Unmarshal(b, answer) != nil {
			f.t.Fatalf("%s: the answer cannot be read: %x", path, b)
		}
		return a.StatusCode, ""
	}
	var e wire.Error
	if err := cbor.Unmarshal(b, &e); err != nil {
		f.t.Fatalf("%s: %d without an error: %q", path, a.StatusCode, b)
	}
	return a.StatusCode, e.Code
}

// expect holds the answer to a code; "" is that it was taken.
func (f *forger) expect(what string, to *homeserver, path string, body any, code string) {
	f.t.Helper()
	if status, got := f.ask(to, "POST", path, body, nil); got != code || status == 0 {
		f.t.Errorf("%s: %d %q, want %q", what, status, got, code)
	}
}

// stored hands over events, and returns how far the homeserver has the log after them.
func (f *forger) stored(to *homeserver, room core.RoomID, events ...core.PeerEvent) wire.RoomStored {
	f.t.Helper()
	var answer wire.Stored
	if status, code := f.ask(to, "POST", "events", wire.Events{Rooms: []wire.RoomEvents{{Room: room, Events: append([]core.PeerEvent{}, events...)}}}, &answer); status != 200 || len(answer.Rooms) != 1 {
		f.t.Fatalf("events: %d %q", status, code)
	}
	return answer.Rooms[0]
}

// An honest conversation goes on beside what is hostile, and is measured.
type honest struct {
	t       *testing.T
	g       *crowd
	a, b    *phone
	next    int
	slowest time.Duration
}

// goesOn has one say something to the other and renew a key, and measures it.
func (o *honest) goesOn(beside string) {
	o.t.Helper()
	text := fmt.Sprintf("undisturbed %d", o.next)
	o.next++
	begin := time.Now()
	if _, err := o.a.say(o.t.Context(), o.g.room, text); err != nil {
		o.t.Fatalf("beside %s nobody can speak: %v", beside, err)
	}
	o.b.hear(o.g.room, by(o.a.name, []string{text}))
	said := time.Since(begin)
	if _, err := renews(o.b, o.g.room, groupPatience); err != nil {
		o.t.Fatalf("beside %s nobody can commit: %v", beside, err)
	}
	if o.slowest = max(o.slowest, said); said > hostileWait {
		o.t.Errorf("beside %s a sentence takes %v", beside, said)
	}
	o.t.Logf("beside %s: a sentence in %v, a commit in %v", beside, said.Round(time.Millisecond), (time.Since(begin) - said).Round(time.Millisecond))
}

// memory is the most that a homeserver's process has had, in octets.
func (h *homeserver) memory() int {
	h.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.process.Pid))
	if err != nil {
		h.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		h.t.Fatal(err)
	}
	return n << 10
}

// bounded holds homeservers to what hostile neighbours may cost them.
func bounded(t *testing.T, hs ...*homeserver) {
	t.Helper()
	for _, h := range hs {
		if m := h.memory(); m > hostileMemory {
			t.Errorf("%s has needed %d MiB", h.domain, m>>20)
		} else {
			t.Logf("%s has needed %d MiB", h.domain, m>>20)
		}
	}
}

// newest returns the last event of a room in a device's log for which want holds.
func newest(p *phone, room core.RoomID, want func(e wire.Event) bool) wire.Event {
	p.t.Helper()
	h, err := p.api.History(p.t.Context(), room, 0, 200)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, e := range slices.Backward(h.Events) {
		if want(e) {
			return e
		}
	}
	p.t.Fatal("no such event")
	return wire.Event{}
}

// TestGroupsHostileHomeserver: c.example is a homeserver of the room, and lies, with its
// own certificate and its own key. Every lie has its answer, costs little, changes nothing,
// and where the key proves it, the operators of the others see it; alice and bob go on.
func TestGroupsHostileHomeserver(t *testing.T) {
	c := newCluster(t, false, "a.example", "b.example", "c.example")
	c.start()
	a, b := c.homes[0], c.homes[1]
	g := c.newCrowd(newRegister(), time.Second, time.Second)
	alice, bob, carol := g.phones[0], g.phones[1], g.phones[2]
	for i := range 3 {
		if _, err := carol.say(t.Context(), g.room, fmt.Sprintf("true words %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	true3 := by("carol", []string{"true words 0", "true words 1", "true words 2"})
	alice.hear(g.room, true3)
	bob.hear(g.room, true3)
	carol.stop()
	f := c.newForger(c.homes[2])
	o := &honest{t: t, g: g, a: alice, b: bob}
	o.goesOn("a homeserver that went")

	f.lieAboutEvents(t, o, a)
	o.goesOn("false events")
	f.lieAboutCommits(t, o, a)
	o.goesOn("false handshakes")
	f.lieAboutLeading(t, o, a, b)
	f.lieAboutPeople(t, a, b)
	o.goesOn("false records and Welcomes")
	f.lieAboutEpochs(t, o, a)
	o.goesOn("false approvals")
	f.flood(t, o, a)
	o.goesOn("the end of the flood")

	for _, p := range g.phones[:2] {
		if said := p.lines(g.room); slices.ContainsFunc(said, unreadable) {
			t.Errorf("%s has heard %q", p.name, said)
		}
		p.inOrder(g.room)
	}
	bounded(t, a, b)
}

// lieAboutEvents replays, reorders, leaves out, and speaks for others.
func (f *forger) lieAboutEvents(t *testing.T, o *honest, a *homeserver) {
	t.Helper()
	room := o.g.room
	spoken := newest(o.a, room, func(e wire.Event) bool { return e.Home == f.as.domain && len(e.Sealed) > 0 })
	event := func(seq, prev uint64) core.PeerEvent {
		return core.PeerEvent{Seq: seq, Prev: prev, Accepted: time.Now().UnixMilli(), Sender: spoken.Sender, Message: spoken.Sealed}
	}
	at := f.stored(a, room, event(1, 0))
	if at.Code != "" || at.Seq < 3 {
		t.Errorf("a replay of the first place: %+v", at)
	}
	for range 3 {
		if again := f.stored(a, room, event(at.Seq, at.Seq-1)); again.Seq != at.Seq || again.Code != "" {
			t.Errorf("a replay: %+v, want %+v", again, at)
		}
	}
	if gap := f.stored(a, room, event(at.Seq+9, at.Seq+5)); gap.Seq != at.Seq || gap.Code != "conflict" {
		t.Errorf("a gap: %+v", gap)
	}
	if turned := f.stored(a, room, event(at.Seq+2, at.Seq+1), event(at.Seq+1, at.Seq)); turned.Seq > at.Seq+1 {
		t.Errorf("out of order: %+v", turned)
	}
	ahead := f.stored(a, room)
	begin := ahead.Seq
	foreign, garbage := event(begin+1, begin), event(begin+2, begin+1)
	foreign.Sender, garbage.Message = o.a.home.user("alice"), []byte("no message")
	large := event(begin+3, begin+2)
	large.Message = make([]byte, core.MaxContent+1)
	if passed := f.stored(a, room, foreign, garbage, large); passed.Seq != begin+3 || passed.Code != "" {
		t.Errorf("what is no message of its users: %+v, want it passed over", passed)
	}
	if other := f.stored(a, core.NewRoomID("a.example", "another"), event(1, 0)); other.Code == "" {
		t.Errorf("a room that is none: %+v", other)
	}
	f.expect("half a body", a, "events", []byte{0xa1, 0x65, 'r', 'o'}, "invalid")
	f.expect("a body that never ends", a, "events", make([]byte, 80<<20), "too large")
}

// lieAboutCommits offers what is no commit, or none any more.
func (f *forger) lieAboutCommits(t *testing.T, o *honest, a *homeserver) {
	t.Helper()
	commit := newest(o.a, o.g.room, func(e wire.Event) bool { return len(e.Certificate) > 0 }).Sealed
	offer := func(what string, message []byte, codes ...string) {
		t.Helper()
		h := wire.PeerHandshake{Room: o.g.room, By: core.NewDeviceURI(f.as.domain, strings.Repeat("a", 26)), Handshake: wire.Handshake{Message: message, Info: []byte{1}}}
		if status, code := f.ask(a, "POST", "handshakes", h, nil); !slices.Contains(codes, code) {
			t.Errorf("%s: %d %q, want one of %q", what, status, code, codes)
		}
	}
	broken := slices.Clone(commit)
	broken[len(broken)-1] ^= 1
	offer("a commit that was agreed before", commit, "") // the answer is what it came to
	offer("a broken commit", broken, "stale epoch", "denied", "invalid")
	offer("no commit", []byte("no commit"), "invalid")
	offer("half a commit", commit[:len(commit)/2], "invalid")
	f.expect("a commit over the limit", a, "handshakes", make([]byte, 10<<20), "too large")
	var raft wire.Raft
	for i := range 500 {
		raft.Messages = append(raft.Messages, core.PeerMessage{Room: o.g.room, Kind: core.PeerRaft, Body: bytes.Repeat([]byte{byte(i)}, i)},
			core.PeerMessage{Room: core.NewRoomID(f.as.domain, fmt.Sprint("none", i)), Kind: core.PeerKind(i), Body: commit})
	}
	f.expect("nonsense of the agreement", a, "raft", raft, "")
}

// lieAboutPeople forges attestations and sends Welcomes for nobody.
func (f *forger) lieAboutPeople(t *testing.T, a, b *homeserver) {
	t.Helper()
	now := time.Now().Unix()
	forge := func(user core.UserURI, sponsor string, key ed25519.PrivateKey) (core.Identity, core.UserURI) {
		seed := sha256.Sum256([]byte(user + core.UserURI(sponsor)))
		device := ed25519.NewKeyFromSeed(seed[:])
		r, err := identity.SignRecord(device, identity.Record{Version: 1, Inbox: identity.InboxKey{KEM: 0x20, Public: make([]byte, 32)}, User: string(user), NotBefore: now - 60, NotAfter: now + 3600})
		if err != nil {
			t.Fatal(err)
		}
		s, err := identity.SignAttestation(key, identity.Attestation{Device: r.Key, User: string(user), Sponsor: sponsor, NotBefore: now - 60, NotAfter: now + 3600})
		if err != nil {
			t.Fatal(err)
		}
		return core.Identity{Record: r.Encode(), Attestation: s.Encode()}, user
	}
	stranger := ed25519.NewKeyFromSeed(make([]byte, 32))
	for what, made := range map[string]func() (core.Identity, core.UserURI){
		"a user of a third":        func() (core.Identity, core.UserURI) { return forge(b.user("forged"), b.domain, f.key) },
		"a user of the one asked":  func() (core.Identity, core.UserURI) { return forge(a.user("forged"), a.domain, f.key) },
		"another key than its own": func() (core.Identity, core.UserURI) { return forge(f.as.user("forged"), f.as.domain, stranger) },
	} {
		id, user := made()
		f.expect(what, a, "records", wire.PeerRecords{Records: []core.Identity{id}}, "")
		var known wire.PeerRecordsAnswer
		if f.ask(a, "POST", "records", wire.PeerRecords{Users: []core.UserURI{user}}, &known); len(known.Records) > 0 {
			t.Errorf("%s: %s is believed", what, user)
		}
	}
	room := core.NewRoomID(f.as.domain, "trap")
	f.expect("a Welcome that is none", a, "welcome", wire.PeerWelcome{Room: room, Epoch: 1, Message: []byte("welcome"), Tree: []byte("tree")}, "invalid")
	f.expect("a Welcome for nobody", a, "welcome", wire.PeerWelcome{Room: room, Epoch: 1, Message: nobodysWelcome, Tree: []byte{0}}, "denied")
	f.expect("a tree over the limit", a, "welcome", wire.PeerWelcome{Room: room, Epoch: 1, Message: nobodysWelcome, Tree: make([]byte, 65<<20)}, "too large")
	f.expect("a Welcome over the limit", a, "welcome", make([]byte, 73<<20), "too large")
}

// nobodysWelcome is a well-formed Welcome (RFC 9420 §12.4.3.1) for a key package that
// nobody has, with nothing inside.
var nobodysWelcome = func() []byte {
	secret := append([]byte{32}, make([]byte, 32)...)        // new_member
	secret = append(append(secret, 32), make([]byte, 32)...) // kem_output
	secret = append(append(secret, 16), make([]byte, 16)...) // ciphertext
	m := []byte{0, 1, 0, 3, 0, 1, 0x40, byte(len(secret))}   // mls10, mls_welcome, the suite
	return append(append(append(m, secret...), 16), make([]byte, 16)...)
}()

// lieAboutEpochs signs approvals that contradict each other, and forges one.
func (f *forger) lieAboutEpochs(t *testing.T, o *honest, a *homeserver) {
	t.Helper()
	event := newest(o.a, o.g.room, func(e wire.Event) bool { return len(e.Certificate) > 0 })
	cert, err := epoch.ParseCertificate(event.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	approve := func(key ed25519.PrivateKey, change func(*epoch.Approval)) {
		t.Helper()
		said := cert.Facts()
		said.Domain = f.as.domain
		change(&said)
		b, err := cbor.Marshal(&said)
		if err != nil {
			t.Fatal(err)
		}
		body, err := cbor.Marshal([][]byte{b, identity.Sign(key, epoch.ApprovalLabel, b)})
		if err != nil {
			t.Fatal(err)
		}
		f.expect("an approval", a, "raft", wire.Raft{Messages: []core.PeerMessage{{Room: o.g.room, Kind: core.PeerApproval, Body: body}}}, "")
	}
	lies := func() (l evidenceList) {
		t.Helper()
		if err := json.Unmarshal(a.run("peer", "evidence", "--json"), &l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	other := func(n byte) func(*epoch.Approval) {
		return func(s *epoch.Approval) { s.Tree = bytes.Repeat([]byte{n}, 32) }
	}
	approve(ed25519.NewKeyFromSeed(make([]byte, 32)), other(1)) // forged
	approve(f.key, func(s *epoch.Approval) { s.Domain = o.b.home.domain })
	approve(f.key, other(2))
	if l := lies(); len(l.Evidence) != 0 {
		t.Errorf("one approval is no contradiction: %+v", l)
	}
	approve(f.key, other(3))
	l := lies()
	if len(l.Evidence) != 1 || l.Evidence[0].Homeserver != f.as.domain || l.Evidence[0].Room != o.g.room || l.Evidence[0].Epoch != cert.Facts().Epoch {
		t.Fatalf("two approvals of one epoch, and the operator sees %+v", l)
	}
	proof, err := epoch.ParseProof(l.Evidence[0].Proof)
	if err == nil {
		err = proof.Verify(func(domain string, signed, sig []byte) error {
			if domain != f.as.domain || !identity.Verify(f.key.Public().(ed25519.PublicKey), epoch.ApprovalLabel, sig, signed) {
				return core.Errorf(core.Denied, "not signed by %s", f.as.domain)
			}
			return nil
		})
	}
	if err != nil {
		t.Errorf("the evidence does not convince: %v", err)
	}
	if text := string(a.run("peer", "evidence")); !strings.Contains(text, f.as.domain) {
		t.Errorf("peer evidence prints %q", text)
	}
}

// flood asks more than anybody may, of everything, while the honest go on.
func (f *forger) flood(t *testing.T, o *honest, a *homeserver) {
	t.Helper()
	var refused, taken atomic.Int64
	stop := make(chan struct{})
	var work sync.WaitGroup
	claim := wire.PeerClaim{By: f.as.user("carol"), Users: []core.UserURI{a.user("alice")}, Suites: []uint16{1}}
	var raft wire.Raft
	for range 1000 {
		raft.Messages = append(raft.Messages, core.PeerMessage{Room: o.g.room, Kind: core.PeerWant, Body: make([]byte, 8)})
	}
	room := url.PathEscape(string(o.g.room))
	for i := range 24 {
		work.Go(func() {
			for n := i; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				method, path, body := "POST", "key-packages/claim", any(claim)
				switch n % 3 {
				case 1:
					path, body = "raft", raft
				case 2:
					method, path, body = "GET", "events/"+room+"?from=0", nil
				}
				if _, code := f.ask(a, method, path, body, nil); code == "limited" {
					refused.Add(1)
				} else {
					taken.Add(1)
				}
			}
		})
	}
	for range 3 {
		o.goesOn("a flood of requests")
	}
	close(stop)
	work.Wait()
	if t.Logf("%d requests of the flood were answered, %d refused", taken.Load(), refused.Load()); refused.Load() == 0 {
		t.Error("no request of the flood was refused")
	}
	// Whoever takes all key packages leaves the last resort: alice can still be invited.
	next, err := o.b.Create(t.Context(), client.NewRoom{Name: "after the flood"})
	if err == nil {
		_, err = o.b.Invite(t.Context(), next, a.user("alice"))
	}
	if err != nil {
		t.Fatalf("alice cannot be invited any more: %v", err)
	}
	inTheEnd(t, "alice is in the new room", func() bool { return o.a.info(next).Joined })
}
