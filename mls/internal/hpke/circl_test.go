package hpke

import (
	"bytes"
	"testing"

	"github.com/cloudflare/circl/hpke"

	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// TestAgainstCircl exchanges messages with the HPKE of circl, both ways. It
// derives keys from ikm of one length only, which for suites 4 and 6 is not
// what MLS gives, and it has the older key derivation of X-Wing.
func TestAgainstCircl(t *testing.T) {
	wing := suite.Params{Name: "MLS_256_XWING_AES256GCM_SHA512_Ed25519", KEM: suite.KEMXWing,
		KDF: suite.KDFSHA512, AEAD: suite.AEADAES256GCM, Signature: suite.Ed25519}
	const wingID = 0x0053
	if err := suite.Register(wingID, wing); err != nil {
		t.Fatal(err)
	}
	for _, id := range []uint16{1, 2, 3, 4, 5, 6, 7, wingID} {
		s := suite.Lookup(id)
		t.Run(s.Name(), func(t *testing.T) {
			k := hpke.KEM(wireKEM(s.KEM()))
			peer := hpke.NewSuite(k, hpke.KDF(s.KDF()), hpke.AEAD(s.AEAD()))
			ikm := draw(&counter{uint32(id)}, k.Scheme().SeedSize())
			private, public, err := DeriveKeyPair(s, ikm)
			if err != nil {
				t.Fatal(err)
			}
			pk, sk := k.Scheme().DeriveKeyPair(ikm)
			if b, err := pk.MarshalBinary(); err != nil || !bytes.Equal(b, public) {
				t.Fatalf("another public key: %x, %v, want %x", b, err, public)
			}
			info, plain, aad := []byte("info"), []byte("plain"), []byte("aad")

			kem, sealed, err := Seal(s, draw(&counter{1}, SeedSize(s)), public, NewInfo(s, info), aad, plain)
			if err != nil {
				t.Fatal(err)
			}
			receiver, err := peer.NewReceiver(sk, info)
			if err != nil {
				t.Fatal(err)
			}
			opener, err := receiver.Setup(kem)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := opener.Open(sealed, aad); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("they opened %q, %v", got, err)
			}

			sender, err := peer.NewSender(pk, info)
			if err != nil {
				t.Fatal(err)
			}
			kem, sealer, err := sender.Setup(&counter{2})
			if err != nil {
				t.Fatal(err)
			}
			if sealed, err = sealer.Seal(plain, aad); err != nil {
				t.Fatal(err)
			}
			if got, err := Open(s, private, public, kem, NewInfo(s, info), aad, sealed); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("opened %q, %v", got, err)
			}
			want := sealer.Export([]byte("context"), 77)
			if got, err := ReceiveExport(s, private, public, kem, info, []byte("context"), 77); err != nil || !bytes.Equal(got, want) {
				t.Errorf("exported %x, %v, want %x", got, err, want)
			}
		})
	}
}

// TestXWingDerive: the two derivations of X-Wing differ, and ours of the older
// kind is that of circl for the lengths of secrets that MLS has.
func TestXWingDerive(t *testing.T) {
	p := suite.Params{Name: "x", KEM: suite.KEMXWing, KDF: suite.KDFSHA256, AEAD: suite.AEADChaCha20, Signature: suite.Ed25519}
	if err := suite.Register(0xF600, p); err != nil {
		t.Fatal(err)
	}
	older, labelled := suite.Lookup(0xF600), suite.Lookup(0xF001)
	for _, n := range []int{32, 48, 64} {
		ikm := draw(&counter{uint32(n)}, n)
		_, public, err := DeriveKeyPair(older, ikm)
		if err != nil {
			t.Fatal(err)
		}
		pk, _ := hpke.KEM_XWING.Scheme().DeriveKeyPair(ikm)
		if b, err := pk.MarshalBinary(); err != nil || !bytes.Equal(b, public) {
			t.Errorf("ikm of %d octets: %x, %v", n, b[:8], err)
		}
		_, other, err := DeriveKeyPair(labelled, ikm)
		if err != nil || bytes.Equal(other, public) {
			t.Errorf("ikm of %d octets: both derivations give one key, %v", n, err)
		}
	}
}
