package secret

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// octets is a hexadecimal string of a vector file.
type octets []byte

func (o *octets) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	*o = b
	return err
}

// vectors reads a file of the official vectors; false if the folder is not
// here, which only CI takes for a failure.
func vectors(t *testing.T, name string, into any) bool {
	t.Helper()
	root := os.Getenv("ISTHMUS_VECTORS")
	if root == "" {
		root = filepath.Join("..", "..", "..", "..", "shared", "vectors")
	}
	folder := filepath.Join(root, "mls")
	if _, err := os.Stat(folder); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("no vectors: %v", err)
		}
		t.Logf("nothing was checked: set ISTHMUS_VECTORS to the folder above mls with the official vectors (%v)", err)
		return false
	}
	b, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
	return true
}

func equal(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got %x, want %x", what, got, want)
	}
}

func lookup(t testing.TB, id uint16) *suite.Suite {
	t.Helper()
	s := suite.Lookup(id)
	if s == nil {
		t.Fatalf("suite %d is unknown", id)
	}
	return s
}

type epochVector struct {
	TreeHash      octets `json:"tree_hash"`
	Commit        octets `json:"commit_secret"`
	PSK           octets `json:"psk_secret"`
	Confirmed     octets `json:"confirmed_transcript_hash"`
	GroupContext  octets `json:"group_context"`
	Joiner        octets `json:"joiner_secret"`
	Welcome       octets `json:"welcome_secret"`
	Init          octets `json:"init_secret"`
	SenderData    octets `json:"sender_data_secret"`
	Encryption    octets `json:"encryption_secret"`
	ExporterKey   octets `json:"exporter_secret"`
	Authenticator octets `json:"epoch_authenticator"`
	External      octets `json:"external_secret"`
	Confirmation  octets `json:"confirmation_key"`
	Membership    octets `json:"membership_key"`
	Resumption    octets `json:"resumption_psk"`
	Exporter      struct {
		Label   string `json:"label"`
		Context octets `json:"context"`
		Length  int    `json:"length"`
		Secret  octets `json:"secret"`
	} `json:"exporter"`
}

// context is the GroupContext of RFC 9420 §8.1 without extensions.
func (v *epochVector) context(id uint16, group []byte, epoch int) []byte {
	b := codec.AppendVec(codec.Uint16(codec.Uint16(nil, 1), id), group)
	b = codec.AppendVec(codec.Uint64(b, uint64(epoch)), []byte(v.TreeHash))
	return append(codec.AppendVec(b, []byte(v.Confirmed)), 0)
}

func (v *epochVector) check(t *testing.T, s *suite.Suite, initSecret []byte) *Epoch {
	joiner := Joiner(s, initSecret, v.Commit, v.GroupContext)
	equal(t, "joiner_secret", joiner, v.Joiner)
	equal(t, "welcome_secret", Welcome(s, joiner, v.PSK), v.Welcome)
	e := Derive(s, joiner, v.PSK, v.GroupContext)
	equal(t, "init_secret", e.Init, v.Init)
	equal(t, "sender_data_secret", e.SenderData, v.SenderData)
	equal(t, "encryption_secret", e.Encryption, v.Encryption)
	equal(t, "exporter_secret", e.Exporter, v.ExporterKey)
	equal(t, "epoch_authenticator", e.Authenticator, v.Authenticator)
	equal(t, "external_secret", e.External, v.External)
	equal(t, "confirmation_key", e.Confirmation, v.Confirmation)
	equal(t, "membership_key", e.Membership, v.Membership)
	equal(t, "resumption_psk", e.Resumption, v.Resumption)
	got, err := Export(s, e.Exporter, v.Exporter.Label, v.Exporter.Context, v.Exporter.Length)
	if err != nil {
		t.Errorf("exporter: %v", err)
	}
	equal(t, "exporter", got, v.Exporter.Secret)
	return e
}

// RFC 9420 §8, §8.1, §8.5.
func TestVectorKeySchedule(t *testing.T) {
	const name = "key-schedule.json"
	var all []struct {
		Suite  uint16        `json:"cipher_suite"`
		Group  octets        `json:"group_id"`
		Init   octets        `json:"initial_init_secret"`
		Epochs []epochVector `json:"epochs"`
	}
	t.Run(name, func(t *testing.T) {
		if !vectors(t, name, &all) {
			return
		}
		for i, v := range all {
			t.Run(fmt.Sprintf("%d suite %d", i, v.Suite), func(t *testing.T) {
				s, initSecret := lookup(t, v.Suite), []byte(v.Init)
				for n := range v.Epochs {
					e := &v.Epochs[n]
					equal(t, "group_context", e.context(v.Suite, v.Group, n), e.GroupContext)
					initSecret = e.check(t, s, initSecret).Init
				}
			})
		}
	})
}

// RFC 9420 §8.4.
func TestVectorPSKSecret(t *testing.T) {
	const name = "psk_secret.json"
	var all []struct {
		Suite uint16 `json:"cipher_suite"`
		PSKs  []struct {
			ID    octets `json:"psk_id"`
			PSK   octets `json:"psk"`
			Nonce octets `json:"psk_nonce"`
		} `json:"psks"`
		Secret octets `json:"psk_secret"`
	}
	t.Run(name, func(t *testing.T) {
		if !vectors(t, name, &all) {
			return
		}
		for i, v := range all {
			t.Run(fmt.Sprintf("%d suite %d with %d", i, v.Suite, len(v.PSKs)), func(t *testing.T) {
				var ids, values [][]byte
				for _, p := range v.PSKs {
					id := codec.AppendVec([]byte{1}, []byte(p.ID))
					ids = append(ids, codec.AppendVec(id, []byte(p.Nonce)))
					values = append(values, p.PSK)
				}
				got, err := PSK(lookup(t, v.Suite), ids, values)
				if err != nil {
					t.Fatal(err)
				}
				equal(t, "psk_secret", got, v.Secret)
			})
		}
	})
}

type treeVector struct {
	Suite      uint16 `json:"cipher_suite"`
	SenderData struct {
		Secret     octets `json:"sender_data_secret"`
		Ciphertext octets `json:"ciphertext"`
		Key        octets `json:"key"`
		Nonce      octets `json:"nonce"`
	} `json:"sender_data"`
	Encryption octets `json:"encryption_secret"`
	Leaves     [][]struct {
		Generation       uint32 `json:"generation"`
		HandshakeKey     octets `json:"handshake_key"`
		HandshakeNonce   octets `json:"handshake_nonce"`
		ApplicationKey   octets `json:"application_key"`
		ApplicationNonce octets `json:"application_nonce"`
	} `json:"leaves"`
}

func (v *treeVector) check(t *testing.T) {
	s := lookup(t, v.Suite)
	key, nonce := SenderDataKey(nil, s, v.SenderData.Secret, v.SenderData.Ciphertext)
	equal(t, "sender data key", key, v.SenderData.Key)
	equal(t, "sender data nonce", nonce, v.SenderData.Nonce)
	r := NewRatchets(s, v.Encryption, uint32(len(v.Leaves)), testLimits)
	for i, leaf := range v.Leaves {
		for _, g := range leaf {
			for c, want := range [...][2]octets{{g.HandshakeKey, g.HandshakeNonce}, {g.ApplicationKey, g.ApplicationNonce}} {
				k, err := r.Take(uint32(i), Content(c), g.Generation)
				if err != nil {
					t.Fatal(err)
				}
				equal(t, fmt.Sprintf("leaf %d content %d generation %d key", i, c, g.Generation), k.Key, want[0])
				equal(t, fmt.Sprintf("leaf %d content %d generation %d nonce", i, c, g.Generation), k.Nonce, want[1])
				if err := r.Consume(k); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// RFC 9420 §9, §9.1, §6.3.2.
func TestVectorSecretTree(t *testing.T) {
	const name = "secret-tree.json"
	var all []treeVector
	t.Run(name, func(t *testing.T) {
		if !vectors(t, name, &all) {
			return
		}
		for i, v := range all {
			t.Run(fmt.Sprintf("%d suite %d with %d leaves", i, v.Suite, len(v.Leaves)), v.check)
		}
	})
}
