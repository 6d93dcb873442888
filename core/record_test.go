package core

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
)

func testKey() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32)) }

func sampleEvent(text string) Event {
	return Event{
		Envelope: Envelope{
			Room: "mimi://a.example/r/chan", Sender: "mimi://a.example/u/alice", Sent: time.UnixMilli(1644387225019),
			Origin: Origin{Network: "matrix:b.example", ID: "$abc", Trail: []Network{"irc:libera"}},
			Body:   Signed{Name: "Alice é", ContentType: ContentMIMI, Content: []byte(text)},
		},
		Seq: 7, ID: NewEventID("mimi://a.example/r/chan", "a.example", 7), Accepted: time.UnixMicro(1644387225019123),
	}
}

// The header is written by hand; the library must read the same thing and write
// the same bytes (RFC 8949 §4.2.1).
func TestHeaderAgainstLibrary(t *testing.T) {
	for _, sent := range []int64{0, 23, 24, 255, 256, 65536, 1 << 33, -1, -70000} {
		e := sampleEvent("x")
		e.Sent = time.UnixMilli(sent)
		s, _ := e.Signed()
		got := appendHeader(nil, &e, &s, "a.example")
		em, err := cbor.CoreDetEncOptions().EncMode()
		if err != nil {
			t.Fatal(err)
		}
		want, err := em.Marshal([]any{1, e.Room, e.Sender, s.Name, sent, s.ContentType, e.Origin.Network, e.Origin.ID, e.Origin.Trail, "a.example"})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("sent %d:\n got %x\nwant %x", sent, got, want)
		}
	}
}

func TestRecordRoundTrip(t *testing.T) {
	events := []Event{sampleEvent("hello"), sampleEvent("gone"), sampleEvent("")}
	events[1].Deleted = true
	join := sampleEvent("")
	join.Control = &Control{Op: OpJoin, User: join.Sender, Profile: &Profile{Name: "alice", Host: "h"}}
	join.Body = join.Control.Body("alice")
	events = append(events, join)
	for _, e := range events {
		s, _ := e.Signed()
		s.Header = appendHeader(nil, &e, &s, "a.example")
		h := sha256.Sum256(s.Content)
		if e.Deleted {
			s.Content = h[:]
		}
		s.Vouch = vouchFor(testKey(), [][32]byte{leafHash(s.Header, h), {1}, {2}})[0]
		e.Body = s
		b := AppendRecord(nil, &e)
		got, err := ReadRecord(b, e.Seq, e.Accepted, "a.example")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(e, got, cmp.Transformer("bytes", func(b []byte) string { return string(b) })); d != "" {
			t.Fatal(d)
		}
		if gs, _ := got.Signed(); !gs.Vouch.Verify(testKey().Public().(ed25519.PublicKey), gs.Header, got.ContentHash()) {
			t.Fatal("the vouch does not verify after a round trip")
		}
	}
}

func TestSealedRecordKeepsBytes(t *testing.T) {
	e := sampleEvent("")
	e.Origin.Trail = nil
	e.Body = Sealed{Message: []byte{0, 1, 2, 0xff}}
	got, err := ReadRecord(AppendRecord(nil, &e), e.Seq, e.Accepted, "a.example")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(e, got); d != "" {
		t.Fatal(d)
	}
}

func TestVouchCoversEveryMessageOfABatch(t *testing.T) {
	key := testKey()
	pub := key.Public().(ed25519.PublicKey)
	for n := 1; n <= MaxBatch; n++ {
		headers, contents, leaves := make([][]byte, n), make([][32]byte, n), make([][32]byte, n)
		for i := range n {
			headers[i] = fmt.Appendf(nil, "header %d", i)
			contents[i] = sha256.Sum256(fmt.Appendf(nil, "content %d", i))
			leaves[i] = leafHash(headers[i], contents[i])
		}
		for i, v := range vouchFor(key, leaves) {
			if !v.Verify(pub, headers[i], contents[i]) {
				t.Fatalf("message %d of %d does not verify", i, n)
			}
			if v.Verify(pub, headers[i], contents[(i+1)%n]) && n > 1 {
				t.Fatalf("message %d of %d verifies with another's content", i, n)
			}
			v.Sig = append([]byte{}, v.Sig...)
			v.Sig[5] ^= 1
			if v.Verify(pub, headers[i], contents[i]) {
				t.Fatalf("message %d of %d verifies with a broken signature", i, n)
			}
		}
	}
}

func FuzzReadRecord(f *testing.F) {
	e := sampleEvent("hello")
	s, _ := e.Signed()
	s.Header = appendHeader(nil, &e, &s, "a.example")
	s.Vouch = vouchFor(testKey(), [][32]byte{{}, {1}})[0]
	e.Body = s
	f.Add(AppendRecord(nil, &e))
	e.Body = Sealed{Message: []byte("x")}
	f.Add(AppendRecord(nil, &e))
	f.Add([]byte{1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ReadRecord(b, 1, time.UnixMicro(1), "a.example")
		if err != nil {
			return
		}
		again, err := ReadRecord(AppendRecord(nil, &e), 1, time.UnixMicro(1), "a.example")
		if err != nil || again.ID != e.ID || again.Sender != e.Sender {
			t.Fatalf("a record that was read is not read again: %v", err)
		}
	})
}

func FuzzParseControl(f *testing.F) {
	for op := OpJoin; op < opEnd; op++ {
		c := Control{Op: op, User: "mimi://a.example/u/a", Text: "x", Policy: &Policy{Key: "k"}, Profile: &Profile{Name: "n"}}
		f.Add(c.Body("n").Content)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseControl(b)
		if err != nil {
			return
		}
		if _, err := ParseControl(c.Body("n").Content); err != nil {
			t.Fatalf("a control message that was read is not read again: %v", err)
		}
	})
}
