package native

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/store"
)

// authority is a certificate authority that homeservers of a test believe.
type authority struct {
	t    testing.TB
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.key = newECKey(t)
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.write("ca.pem", "CERTIFICATE", der)
	return a
}

func newECKey(t testing.TB) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (a *authority) write(name, kind string, der []byte) string {
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

func (a *authority) file() string { return filepath.Join(a.dir, "ca.pem") }

// issue makes a certificate for names, for servers only, as public authorities do.
func (a *authority) issue(file string, names ...string) (cert, key string) {
	k := newECKey(a.t)
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: names, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, k.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.write(file+".crt", "CERTIFICATE", der), a.write(file+".key", "PRIVATE KEY", pk)
}

// A script is an engine that remembers like the real one and agrees to everything:
// what is tested is the way between homeservers.
type script struct {
	*core.Engine
	h *fedHome
}

func (s *script) Apply(tx core.Tx, now time.Time, in core.Input) (out core.Output, err error) {
	switch in := in.(type) {
	case core.CreateRoom: // with whom is in Topic's place: see fedHome.room
		return core.Output{Room: &in.Room}, tx.PutRoom(in.Room)
	case core.Envelope:
		return s.append(tx, now, in, "")
	case core.PeerEvents:
		return s.peerEvents(tx, now, in)
	case core.PeerMessages:
		s.h.mu.Lock()
		defer s.h.mu.Unlock()
		for _, m := range in.Messages {
			s.h.said = append(s.h.said, said{in.From, m})
			if s.h.retort != nil && !strings.HasPrefix(string(m.Body), "re: ") {
				m.Body = append([]byte("re: "), s.h.retort...)
				out.Sends = append(out.Sends, core.Send{To: in.From, Message: m}, core.Send{To: "elsewhere.example", Message: m})
			}
		}
		return out, nil
	case core.PutWelcome:
		s.h.mu.Lock()
		defer s.h.mu.Unlock()
		s.h.welcomes = append(s.h.welcomes, in.Welcome)
		return core.Output{}, s.h.refuse
	case core.Propose: // stands for what the agreement would say
		return core.Output{Sends: s.h.sends(in), Welcomes: s.h.far(tx, in)}, nil
	case core.PeerStored:
		s.h.mu.Lock()
		err := s.h.forgetful
		if err == nil {
			s.h.told = append(s.h.told, in.Passed...)
		}
		s.h.mu.Unlock()
		if err != nil {
			return core.Output{}, err
		}
	case core.Tick:
		s.h.mu.Lock()
		defer s.h.mu.Unlock()
		s.h.ticks++
		return core.Output{}, nil
	}
	return s.Engine.Apply(tx, now, in)
}

func (s *script) append(tx core.Tx, now time.Time, in core.Envelope, home string) (core.Output, error) {
	head, _, err := tx.Head(in.Room)
	if err != nil {
		return core.Output{}, err
	}
	e := core.Event{Envelope: in, Seq: head + 1, Accepted: now, Home: home}
	id := sha256.Sum256(fmt.Append(nil, s.h.domain, in.Room, e.Seq))
	copy(e.ID[:], id[:])
	return core.Output{Event: &e}, tx.Append(e)
}

// peerEvents stores what comes in order, and nothing twice.
func (s *script) peerEvents(tx core.Tx, now time.Time, in core.PeerEvents) (out core.Output, err error) {
	s.h.mu.Lock()
	refuse := s.h.refuseEvents
	s.h.mu.Unlock()
	if refuse != nil {
		s.h.refused.Add(1)
		return out, refuse
	}
	key := core.RoomKey(in.Room) + "/" + in.From
	var was struct{ Stored, Log, Mark uint64 }
	b, err := tx.Value("script stored", key)
	if err == nil {
		err = cbor.Unmarshal(b, &was)
	}
	if err != nil && core.CodeOf(err) != core.NotFound {
		return out, err
	}
	if in.Log > was.Log {
		was.Stored, was.Log, was.Mark = min(was.Stored, in.Events[0].Prev), in.Log, 0
	}
	out.Stored, out.Log, out.Mark = was.Stored, was.Log, was.Mark
	if slices.ContainsFunc(in.Events, func(e core.PeerEvent) bool {
		return was.Mark != 0 && e.Seq == was.Stored && core.MarkOf(e.Message) != was.Mark
	}) {
		out.Stopped = core.Conflict
		return out, nil
	}
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	opened := s.h.opened
	s.h.passed = slices.DeleteFunc(s.h.passed, func(seq uint64) bool { return seq <= in.Events[0].Prev })
	for _, e := range in.Events {
		if e.Seq <= out.Stored {
			s.h.repeats.Add(1)
			continue
		}
		if e.Prev != out.Stored {
			out.Stopped = core.Conflict
			s.h.gaps.Add(1)
			break
		}
		if e.Seq > opened {
			out.Stopped = core.StaleEpoch
			break
		}
		if s.h.late[e.Seq] {
			s.h.passed, out.Stored, out.Mark = append(s.h.passed, e.Seq), e.Seq, core.MarkOf(e.Message)
			continue
		}
		got, err := s.append(tx, now, core.Envelope{Room: in.Room, Sender: e.Sender, Origin: core.Origin{Network: core.NetworkNative},
			Sent: time.UnixMilli(e.Accepted), Body: core.Sealed{Message: e.Message}}, in.From)
		if err != nil {
			return out, err
		}
		s.h.stored.Add(1)
		out.Events = append(out.Events, got.Event)
		out.Stored, out.Mark = e.Seq, core.MarkOf(e.Message)
	}
	out.Passed = slices.Clone(s.h.passed)
	was.Stored, was.Mark = out.Stored, out.Mark
	text, err := cbor.Marshal(was)
	if err != nil {
		return out, err
	}
	return out, tx.PutValue("script stored", key, text)
}

type said struct {
	from string
	core.PeerMessage
}

// A fedHome is a homeserver with federation over real TLS and a real store.
type fedHome struct {
	testing.TB
	*script
	*bridges.Runtime
	domain string
	ca     *authority
	path   string
	others []*fedHome
	bridge *Bridge
	config FederationConfig
	stop   func()

	mu           sync.Mutex
	said         []said
	retort       []byte // what its agreement says to whatever it hears; nil = nothing
	welcomes     []core.Welcome
	refuse       error
	late         map[uint64]bool // events of peers that came too late
	passed       []uint64        // and are not known there yet
	forgetful    error           // of PeerStored
	told         []uint64        // of PeerStored: what was passed over
	opened       uint64          // events of peers after this place are of an epoch to come
	ticks        int
	repeats      counter
	refused      counter // batches
	refuseEvents error
	gaps         counter
	stored       counter // events of peers
}

type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) Add(n int) { c.mu.Lock(); c.n += n; c.mu.Unlock() }
func (c *counter) get() int  { c.mu.Lock(); defer c.mu.Unlock(); return c.n }

// newFed makes homeservers that know each other's addresses, and starts them.
func newFed(t testing.TB, domains ...string) []*fedHome {
	ca := newAuthority(t)
	var hs []*fedHome
	for _, d := range domains {
		h := &fedHome{TB: t, domain: d, ca: ca, path: filepath.Join(t.TempDir(), "db"), opened: 1 << 62}
		h.config.Address = "127.0.0.1:0"
		h.config.CAFile = ca.file()
		h.config.CertFile, h.config.KeyFile = ca.issue(d, d)
		hs = append(hs, h)
	}
	for _, h := range hs {
		h.others = hs
		h.start()
	}
	return hs
}

// start starts h, again perhaps, at the address that it had before.
func (h *fedHome) start() {
	h.Helper()
	db, err := store.Open(context.Background(), store.Options{URL: "sqlite:" + h.path, Homeserver: h.domain})
	if err != nil {
		h.Fatal(err)
	}
	seed := sha256.Sum256([]byte(h.domain))
	key := ed25519.NewKeyFromSeed(seed[:])
	h.bridge, err = New(Config{Domain: h.domain, Key: key, Federation: h.config})
	if err != nil {
		h.Fatal(err)
	}
	if !h.bridge.fed.off() {
		h.config.Address = h.bridge.fed.listener.Addr().String()
	}
	for _, o := range h.others { // as an operator would have configured it
		if o.bridge != nil && o != h {
			h.bridge.fed.addresses.fix(o.domain, o.config.Address)
			o.bridge.fed.addresses.fix(h.domain, h.config.Address)
		}
	}
	h.Runtime = bridges.NewRuntime(bridges.RuntimeConfig{Store: db, Bridges: []bridges.Bridge{h.bridge}, Holder: h.domain, Engine: func() bridges.Decider {
		return &script{core.NewEngine(core.Config{Homeserver: h.domain, Key: key}), h}
	}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Runtime.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			h.Errorf("%s: Run: %v", h.domain, err)
		}
		if err := db.Close(); err != nil {
			h.Errorf("%s: Close: %v", h.domain, err)
		}
	})
	h.Cleanup(func() { h.stop() })
	until(h, "the bridge to run", func() bool { _, err := h.bridge.fed.gateway(); return err == nil })
}

func (a *addresses) fix(domain, host string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all[domain] = address{host: host, fixed: true}
}

func (h *fedHome) do(in core.Input) core.Output {
	h.Helper()
	out, err := h.Do(context.Background(), in)
	if err != nil {
		h.Fatalf("%s: %T: %v", h.domain, in, err)
	}
	return out
}

// room makes a Group in which all homeservers have participants.
func fedRoom(name string, hs ...*fedHome) core.RoomID {
	room := core.NewRoomID(hs[0].domain, name)
	var head core.GroupHead
	for _, h := range hs {
		head.Domains = append(head.Domains, h.domain)
	}
	b, err := cbor.Marshal(head)
	if err != nil {
		hs[0].Fatal(err)
	}
	for _, h := range hs {
		h.do(core.PutValue{Bucket: "group", Key: core.RoomKey(room), Data: b})
		h.do(core.CreateRoom{Room: core.Room{ID: room, Kind: core.Group}})
	}
	return room
}

// send has users of h say texts in room.
func (h *fedHome) send(room core.RoomID, texts ...string) {
	h.Helper()
	for len(texts) > 0 {
		n := min(len(texts), 500)
		var es []core.Envelope
		for _, t := range texts[:n] {
			es = append(es, core.Envelope{Room: room, Sender: core.NewUserURI(h.domain, "alice"), Origin: core.Origin{Network: core.NetworkNative},
				Sent: time.Now(), Body: core.Sealed{Message: []byte(t)}})
		}
		rs, err := h.Submit(context.Background(), es...)
		if err != nil {
			h.Fatal(err)
		}
		for _, r := range rs {
			if r.Err != nil {
				h.Fatal(r.Err)
			}
		}
		texts = texts[n:]
	}
}

// log returns what h has of room from home ("" = its own users).
func (h *fedHome) log(room core.RoomID, home string) (out []string) {
	h.Helper()
	err := h.View(context.Background(), func(r core.Reader) error {
		out = nil
		for after := uint64(0); ; {
			es, err := r.Events(room, core.Range{After: after, Limit: 1000})
			if err != nil || len(es) == 0 {
				return err
			}
			for _, e := range es {
				if after = e.Seq; e.Home == home {
					out = append(out, string(e.Body.(core.Sealed).Message))
				}
			}
		}
	})
	if err != nil {
		h.Fatal(err)
	}
	return out
}

// until waits for ok.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}
