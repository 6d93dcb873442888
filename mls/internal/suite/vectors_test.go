package suite

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// octets is a hexadecimal string of a vector file.
type octets []byte

func (o *octets) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	*o = b
	return err
}

// basics is one entry of crypto-basics.json.
type basics struct {
	Suite   uint16 `json:"cipher_suite"`
	RefHash struct {
		Label      string
		Value, Out octets
	} `json:"ref_hash"`
	Expand struct {
		Label                string
		Secret, Context, Out octets
		Length               int
	} `json:"expand_with_label"`
	Derive struct {
		Label       string
		Secret, Out octets
	} `json:"derive_secret"`
	Tree struct {
		Label       string
		Secret, Out octets
		Generation  uint32
		Length      int
	} `json:"derive_tree_secret"`
	Sign struct {
		Label                         string
		Priv, Pub, Content, Signature octets
	} `json:"sign_with_label"`
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

func TestSuiteVectors(t *testing.T) {
	t.Run("crypto-basics.json", func(t *testing.T) {
		var all []basics
		if !vectorFile(t, filepath.Join("mls", "crypto-basics.json"), &all) {
			return
		}
		if len(all) != classical {
			t.Errorf("%d suites in the file, want %d", len(all), classical)
		}
		for _, v := range all {
			t.Run(fmt.Sprint(v.Suite), func(t *testing.T) { checkBasics(t, &v) })
		}
	})
}

func checkBasics(t *testing.T, v *basics) {
	s := Lookup(v.Suite)
	if s == nil {
		t.Fatal("suite unknown")
	}
	equal := func(what string, got, want []byte) {
		t.Helper()
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", what, got, want)
		}
	}
	equal("RefHash", s.RefHash(nil, v.RefHash.Label, v.RefHash.Value), v.RefHash.Out)
	equal("ExpandWithLabel",
		s.ExpandWithLabel(nil, v.Expand.Secret, v.Expand.Label, v.Expand.Context, v.Expand.Length), v.Expand.Out)
	equal("DeriveSecret", s.DeriveSecret(nil, v.Derive.Secret, v.Derive.Label), v.Derive.Out)
	equal("DeriveTreeSecret",
		s.DeriveTreeSecret(nil, v.Tree.Secret, v.Tree.Label, v.Tree.Generation, v.Tree.Length), v.Tree.Out)

	if !s.Verify(v.Sign.Pub, v.Sign.Label, v.Sign.Content, v.Sign.Signature) {
		t.Error("the signature of the vector does not verify")
	}
	public, err := s.SignaturePublic(v.Sign.Priv)
	if err != nil {
		t.Fatal(err)
	}
	equal("public key", public, v.Sign.Pub)
	signature, err := s.Sign(nil, v.Sign.Priv, v.Sign.Label, v.Sign.Content)
	if err != nil {
		t.Fatal(err)
	}
	if g := s.Signature(); g == Ed25519 || g == Ed448 { // deterministic by definition
		equal("signature", signature, v.Sign.Signature)
	}
	if !s.Verify(v.Sign.Pub, v.Sign.Label, v.Sign.Content, signature) {
		t.Error("our signature does not verify")
	}
}
