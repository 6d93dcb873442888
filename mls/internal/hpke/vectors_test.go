package hpke

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// octets is a hexadecimal string of a vector file.
type octets []byte

func (o *octets) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	*o = b
	return err
}

// vectorFile reads a file of the folder of vectors: $ISTHMUS_VECTORS, or
// shared/vectors beside the repository. Without the folder the test has
// nothing to do, which is an error where $CI is set.
func vectorFile(t *testing.T, name string, into any) bool {
	t.Helper()
	folder := os.Getenv("ISTHMUS_VECTORS")
	if folder == "" {
		folder = filepath.Join("..", "..", "..", "..", "shared", "vectors")
	}
	b, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Logf("no test vectors here (%v): set ISTHMUS_VECTORS to their folder", err)
		return false
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
	return true
}

// encryption is the last part of an entry of crypto-basics.json.
type encryption struct {
	Suite   uint16 `json:"cipher_suite"`
	Encrypt struct {
		Label                 string
		Priv, Pub, Context    octets
		KemOutput             octets `json:"kem_output"`
		Plaintext, Ciphertext octets
	} `json:"encrypt_with_label"`
}

func TestHPKEVectors(t *testing.T) {
	t.Run("crypto-basics.json", func(t *testing.T) {
		var all []encryption
		if !vectorFile(t, filepath.Join("mls", "crypto-basics.json"), &all) {
			return
		}
		if len(all) != 7 {
			t.Errorf("%d suites in the file, want 7", len(all))
		}
		for _, v := range all {
			t.Run(fmt.Sprint(v.Suite), func(t *testing.T) { checkEncryption(t, &v) })
		}
	})
	t.Run("hpke-pq-test-vectors.json", func(t *testing.T) {
		var all []exchange
		if !vectorFile(t, "hpke-pq-test-vectors.json", &all) {
			return
		}
		whole := 0
		for i := range all {
			v := &all[i]
			if v.KEM == 0x40 {
				continue // ML-KEM-512, in no suite
			}
			t.Run(fmt.Sprintf("%04x-%04x-%04x", v.KEM, v.KDF, v.AEAD), func(t *testing.T) {
				checkKEM(t, v)
				if v.KDF <= suite.KDFSHA512 { // the others have no Extract, hence no suite
					checkExchange(t, v)
					whole++
				}
			})
		}
		if whole != 5 {
			t.Errorf("%d vectors checked from end to end, want 5", whole)
		}
	})
}

func checkEncryption(t *testing.T, v *encryption) {
	s := suite.Lookup(v.Suite)
	e := &v.Encrypt
	for _, public := range [][]byte{e.Pub, nil} {
		got, err := OpenWithLabel(s, e.Priv, public, e.Label, e.Context, e.KemOutput, e.Ciphertext)
		if err != nil || !bytes.Equal(got, e.Plaintext) {
			t.Errorf("opened %x, %v, want %x", got, err, e.Plaintext)
		}
	}
	public, err := PublicKey(s, e.Priv)
	if err != nil || !bytes.Equal(public, e.Pub) {
		t.Errorf("public key %x, %v, want %x", public, err, e.Pub)
	}
	if err := CheckPublicKey(s, e.Pub); err != nil {
		t.Error(err)
	}
	seed := bytes.Repeat([]byte{7}, SeedSize(s))
	kem, ciphertext, err := SealWithLabel(s, seed, e.Pub, e.Label, e.Context, e.Plaintext)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenWithLabel(s, e.Priv, e.Pub, e.Label, e.Context, kem, ciphertext)
	if err != nil || !bytes.Equal(got, e.Plaintext) {
		t.Errorf("opened our own to %x, %v, want %x", got, err, e.Plaintext)
	}
}

// exchange is one entry of hpke-pq-test-vectors.json.
type exchange struct {
	KEM          uint16 `json:"kem_id"`
	KDF          uint16 `json:"kdf_id"`
	AEAD         uint16 `json:"aead_id"`
	Info         octets
	IkmE         octets `json:"ikmE"`
	IkmR         octets `json:"ikmR"`
	SkRm         octets `json:"skRm"`
	PkRm         octets `json:"pkRm"`
	Enc          octets
	SharedSecret octets `json:"shared_secret"`
	Encryptions  []struct {
		Aad, Ct, Pt octets
	}
	Exports []struct {
		Context octets `json:"exporter_context"`
		L       int
		Value   octets `json:"exported_value"`
	}
}

// madeOf registers a suite of three HPKE algorithms at a free code point.
func madeOf(t *testing.T, kem, kdf, aead uint16) *suite.Suite {
	t.Helper()
	id := 0xF800 | kem<<4&0xf0 | kem>>8&0xf | aead | kdf<<2
	p := suite.Params{Name: fmt.Sprintf("test %04x %04x %04x", kem, kdf, aead), KEM: kem, KDF: kdf, AEAD: aead, Signature: suite.Ed25519}
	for ; suite.Lookup(id) != nil && suite.Lookup(id).Params() != p; id++ {
	}
	if err := suite.Register(id, p); err != nil {
		t.Fatal(err)
	}
	return suite.Lookup(id)
}

// encapsulationSeed turns ikmE of a vector into what encapsulate takes: the
// vectors derive the key pair of the sender from it, which for X25519 and X448
// is what a seed is here.
func encapsulationSeed(t *testing.T, s *suite.Suite, ikm []byte) []byte {
	if s.KEM() != suite.KEMX25519 && s.KEM() != suite.KEMX448 {
		return ikm
	}
	private, _, err := DeriveKeyPair(s, ikm)
	if err != nil {
		t.Fatal(err)
	}
	return private
}

func checkKEM(t *testing.T, v *exchange) {
	s := madeOf(t, v.KEM, suite.KDFSHA256, suite.AEADAES128GCM)
	private, public, err := DeriveKeyPair(s, v.IkmR)
	if v.KEM == suite.KEMX448 { // the file has its private key clamped
		private[0] &= 0xfc
		private[55] |= 0x80
	}
	if err != nil || !bytes.Equal(private, v.SkRm) || !bytes.Equal(public, v.PkRm) {
		t.Fatalf("DeriveKeyPair: %x %x %v", private, public, err)
	}
	if err := CheckPublicKey(s, public); err != nil {
		t.Error(err)
	}
	var shared suite.Digest
	n, err := decapsulate(v.KEM, &shared, private, public, v.Enc)
	if err != nil || !bytes.Equal(shared[:n], v.SharedSecret) {
		t.Errorf("decapsulated %x, %v, want %x", shared[:n], err, v.SharedSecret)
	}
	enc := make([]byte, sizesOf(s.KEM()).output)
	n, err = encapsulate(v.KEM, &shared, enc, encapsulationSeed(t, s, v.IkmE), public)
	if err != nil || !bytes.Equal(shared[:n], v.SharedSecret) || !bytes.Equal(enc, v.Enc) {
		t.Errorf("encapsulated %x, %v, want %x", shared[:n], err, v.SharedSecret)
	}
}

func checkExchange(t *testing.T, v *exchange) {
	s := madeOf(t, v.KEM, v.KDF, v.AEAD)
	info := NewInfo(s, v.Info)
	first := &v.Encryptions[0]
	got, err := Open(s, v.SkRm, v.PkRm, v.Enc, info, first.Aad, first.Ct)
	if err != nil || !bytes.Equal(got, first.Pt) {
		t.Errorf("opened %x, %v, want %x", got, err, first.Pt)
	}
	kem, ciphertext, err := Seal(s, encapsulationSeed(t, s, v.IkmE), v.PkRm, info, first.Aad, first.Pt)
	if err != nil || !bytes.Equal(kem, v.Enc) || !bytes.Equal(ciphertext, first.Ct) {
		t.Errorf("sealed %x, %v, want %x", ciphertext, err, first.Ct)
	}
	for _, e := range v.Exports {
		secret, err := ReceiveExport(s, v.SkRm, v.PkRm, v.Enc, v.Info, e.Context, e.L)
		if err != nil || !bytes.Equal(secret, e.Value) {
			t.Errorf("exported %x, %v, want %x", secret, err, e.Value)
		}
		_, secret, err = SendExport(s, encapsulationSeed(t, s, v.IkmE), v.PkRm, v.Info, e.Context, e.L)
		if err != nil || !bytes.Equal(secret, e.Value) {
			t.Errorf("exported %x, %v, want %x", secret, err, e.Value)
		}
	}
}
