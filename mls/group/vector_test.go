package group

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/internal/hpke"
	"github.com/isthmus-chat/isthmus/mls/internal/secret"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// octets are written in hexadecimal in the vectors.
type octets []byte

func (o *octets) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err != nil || s == nil {
		return err
	}
	v, err := hex.DecodeString(*s)
	*o = v
	return err
}

// vectorFolder holds the official test vectors.
func vectorFolder(t *testing.T) (string, bool) {
	folder := os.Getenv("ISTHMUS_VECTORS")
	if folder == "" {
		folder = filepath.Join("..", "..", "..", "shared", "vectors")
	}
	folder = filepath.Join(folder, "mls")
	if _, err := os.Stat(folder); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("the official test vectors are missing: %v", err)
		}
		t.Logf("not run: set ISTHMUS_VECTORS to the folder of the official test vectors (%v)", err)
		return "", false
	}
	return folder, true
}

// vectors runs one official file as a subtest, and each of its entries.
func vectors[T any](t *testing.T, name string, run func(t *testing.T, v *T)) {
	folder, ok := vectorFolder(t)
	if !ok {
		return
	}
	t.Run(name, func(t *testing.T) {
		b, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		var list []T
		if err := json.Unmarshal(b, &list); err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			t.Fatal("no entries")
		}
		t.Logf("%s: %d entries", name, len(list))
		for i := range list {
			t.Run(fmt.Sprint(i), func(t *testing.T) { run(t, &list[i]) })
		}
	})
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func must2[T, U any](v T, _ U, err error) func(t testing.TB) T { return must(v, err) }

func equal(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("%s: got %x, want %x", what, got, want)
	}
}

type passive struct {
	CipherSuite  mls.Suite `json:"cipher_suite"`
	ExternalPSKs []struct {
		ID  octets `json:"psk_id"`
		PSK octets `json:"psk"`
	} `json:"external_psks"`
	KeyPackage     octets `json:"key_package"`
	SignaturePriv  octets `json:"signature_priv"`
	EncryptionPriv octets `json:"encryption_priv"`
	InitPriv       octets `json:"init_priv"`
	Welcome        octets `json:"welcome"`
	RatchetTree    octets `json:"ratchet_tree"`
	Initial        octets `json:"initial_epoch_authenticator"`
	Epochs         []struct {
		Proposals     []octets `json:"proposals"`
		Commit        octets   `json:"commit"`
		Authenticator octets   `json:"epoch_authenticator"`
	} `json:"epochs"`
}

// passiveFiles are found by their content: every file whose entries have a
// Welcome and epochs.
func passiveFiles(t *testing.T) []string {
	folder, ok := vectorFolder(t)
	if !ok {
		return nil
	}
	all, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range all {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(`"initial_epoch_authenticator"`)) {
			out = append(out, filepath.Base(f))
		}
	}
	if len(out) < 2 {
		t.Fatalf("passive scenarios: %v", out)
	}
	return out
}

func TestGroupVectorsPassive(t *testing.T) {
	for _, name := range passiveFiles(t) {
		vectors(t, name, func(t *testing.T, v *passive) {
			c := &Config{Rand: rand.Reader, PSK: func(id *mls.PreSharedKeyID) ([]byte, bool) {
				for _, p := range v.ExternalPSKs {
					if bytes.Equal(p.ID, id.ID) {
						return p.PSK, true
					}
				}
				return nil, false
			}}
			g := v.join(t, c)
			equal(t, "epoch authenticator", g.EpochAuthenticator(), v.Initial)
			for _, e := range v.Epochs {
				for _, p := range e.Proposals {
					if _, err := g.Process(must(mls.Parse(p))(t)); err != nil {
						t.Fatal(err)
					}
				}
				event, err := g.Process(must(mls.Parse(e.Commit))(t))
				if err != nil {
					t.Fatal(err)
				}
				if err := g.Merge(event.Transition); err != nil {
					t.Fatal(err)
				}
				equal(t, "epoch authenticator", g.EpochAuthenticator(), e.Authenticator)
			}
		})
	}
}

func (v *passive) join(t *testing.T, c *Config) *Group {
	t.Helper()
	k := must(mls.Parse(v.KeyPackage))(t).KeyPackage
	signer := must(NewSigner(v.CipherSuite, v.SignaturePriv))(t)
	equal(t, "signature key", signer.PublicKey(), k.Leaf.SignatureKey)
	s := must(v.CipherSuite.Params())(t)
	equal(t, "init key", must(hpke.PublicKey(s, v.InitPriv))(t), k.InitKey)
	equal(t, "encryption key", must(hpke.PublicKey(s, v.EncryptionPriv))(t), k.Leaf.EncryptionKey)
	w := must(mls.Parse(v.Welcome))(t)
	own := RestoreKeyPackage(k, Identity{k.Leaf.Credential, signer}, v.InitPriv, v.EncryptionPriv)
	return must(Join(c, w.Welcome, own, JoinOptions{RatchetTree: v.RatchetTree}))(t)
}

func TestGroupVectorWelcome(t *testing.T) {
	type entry struct {
		InitPriv   octets `json:"init_priv"`
		SignerPub  octets `json:"signer_pub"`
		KeyPackage octets `json:"key_package"`
		Welcome    octets `json:"welcome"`
	}
	vectors(t, "welcome.json", func(t *testing.T, v *entry) {
		k := must(mls.Parse(v.KeyPackage))(t).KeyPackage
		w := must(mls.Parse(v.Welcome))(t).Welcome
		s := must(w.Suite.Params())(t)
		secrets := must(openSecrets(s, w, &KeyPackage{Package: k, initKey: v.InitPriv}))(t)
		zero := make([]byte, s.HashSize())
		info := must(openInfo(s, w, secrets.Joiner, zero))(t)
		if err := info.Verify(v.SignerPub); err != nil {
			t.Fatal(err)
		}
		derived := secret.Derive(s, secrets.Joiner, zero, info.Context.AppendTo(nil))
		if !s.CheckMAC(derived.Confirmation, info.ConfirmationTag, info.Context.ConfirmedTranscriptHash) {
			t.Fatal("the confirmation tag does not verify")
		}
	})
}

func TestGroupVectorGroupSecrets(t *testing.T) {
	type entry struct {
		GroupSecrets octets `json:"group_secrets"`
	}
	vectors(t, "messages.json", func(t *testing.T, v *entry) {
		equal(t, "GroupSecrets", must(parseGroupSecrets(v.GroupSecrets))(t).AppendTo(nil), v.GroupSecrets)
	})
}

func TestGroupVectorExternalPub(t *testing.T) {
	type entry struct {
		CipherSuite mls.Suite `json:"cipher_suite"`
		Epochs      []struct {
			External    octets `json:"external_secret"`
			ExternalPub octets `json:"external_pub"`
		} `json:"epochs"`
	}
	vectors(t, "key-schedule.json", func(t *testing.T, v *entry) {
		s := must(v.CipherSuite.Params())(t)
		for _, e := range v.Epochs {
			_, public, err := hpke.DeriveKeyPair(s, e.External)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "external_pub", public, e.ExternalPub)
		}
	})
}

type protection struct {
	CipherSuite     mls.Suite `json:"cipher_suite"`
	GroupID         octets    `json:"group_id"`
	Epoch           uint64    `json:"epoch"`
	TreeHash        octets    `json:"tree_hash"`
	Confirmed       octets    `json:"confirmed_transcript_hash"`
	SignaturePriv   octets    `json:"signature_priv"`
	SignaturePub    octets    `json:"signature_pub"`
	Encryption      octets    `json:"encryption_secret"`
	SenderData      octets    `json:"sender_data_secret"`
	Membership      octets    `json:"membership_key"`
	Proposal        octets    `json:"proposal"`
	ProposalPub     octets    `json:"proposal_pub"`
	ProposalPriv    octets    `json:"proposal_priv"`
	Commit          octets    `json:"commit"`
	CommitPub       octets    `json:"commit_pub"`
	CommitPriv      octets    `json:"commit_priv"`
	Application     octets    `json:"application"`
	ApplicationPriv octets    `json:"application_priv"`
}

// member is one of the two members of the vector's group: only what framing
// needs of it.
func (v *protection) member(t *testing.T, s *suite.Suite, self uint32) *Group {
	t.Helper()
	context := mls.GroupContext{Version: mls.Version10, Suite: v.CipherSuite, GroupID: v.GroupID, Epoch: v.Epoch,
		TreeHash: v.TreeHash, ConfirmedTranscriptHash: v.Confirmed}
	signer := must(NewSigner(v.CipherSuite, v.SignaturePriv))(t)
	equal(t, "signature key", signer.PublicKey(), v.SignaturePub)
	g := newGroup(&Config{Rand: rand.Reader, Padding: 64}, s)
	tree := mls.NewTree(s)
	signers := []mls.Signer{must2(GenerateSigner(rand.Reader, v.CipherSuite))(t), signer}
	for i := range 2 {
		_, enc, err := hpke.GenerateKeyPair(s, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		leaf := must(mls.SignLeaf(signers[i], &mls.LeafNode{EncryptionKey: enc, Credential: mls.BasicCredential([]byte("x")),
			Capabilities: DefaultCapabilities(), Source: mls.LeafKeyPackage}, nil, 0))(t)
		tree.Add(leaf)
	}
	g.epoch = epoch{self: self, signer: signer, context: context.AppendTo(nil), number: v.Epoch, tree: tree,
		secrets:  &secret.Epoch{SenderData: v.SenderData, Membership: v.Membership},
		ratchets: secret.NewRatchets(s, v.Encryption, 2, secret.Limits{Skip: 10, Stored: 10})}
	context.TreeHash = tree.Hash()
	g.public = must(mls.CreatePublicGroup(context, tree, &mls.Policy{}))(t)
	return g
}

func TestGroupVectorMessageProtection(t *testing.T) {
	vectors(t, "message-protection.json", func(t *testing.T, v *protection) {
		s := must(v.CipherSuite.Params())(t)
		for _, c := range []struct {
			what       string
			raw        octets
			messages   []octets
			wireFormat mls.WireFormat
		}{
			{"proposal", v.Proposal, []octets{v.ProposalPub, v.ProposalPriv}, 0},
			{"commit", v.Commit, []octets{v.CommitPub, v.CommitPriv}, 0},
		} {
			for _, message := range c.messages {
				a := v.open(t, s, message)
				equal(t, c.what, a.Content.AppendBody(nil), c.raw)
				again := &mls.AuthenticatedContent{WireFormat: a.WireFormat, Content: a.Content, ConfirmationTag: a.ConfirmationTag}
				sender := v.member(t, s, 1)
				if err := again.Sign(sender.signer, sender.context); err != nil {
					t.Fatal(err)
				}
				b := must(sender.protect(again))(t)
				equal(t, c.what+" again", v.open(t, s, b).Content.AppendBody(nil), c.raw)
			}
		}
		app := must(v.member(t, s, 0).Open(must(mls.Parse(v.ApplicationPriv))(t)))(t)
		equal(t, "application", app.Data, v.Application)
		sealed := must(v.member(t, s, 1).Seal(nil, v.Application, nil))(t)
		app = must(v.member(t, s, 0).Open(must(mls.Parse(sealed))(t)))(t)
		equal(t, "application again", app.Data, v.Application)
	})
}

// open removes what shields a handshake message and checks its signature.
func (v *protection) open(t *testing.T, s *suite.Suite, message []byte) *mls.AuthenticatedContent {
	t.Helper()
	receiver := v.member(t, s, 0)
	a, _, err := receiver.unprotect(must(mls.Parse(message))(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Verify(s, v.SignaturePub, receiver.context); err != nil {
		t.Fatal(err)
	}
	return a
}

type treekem struct {
	CipherSuite mls.Suite `json:"cipher_suite"`
	GroupID     octets    `json:"group_id"`
	Epoch       uint64    `json:"epoch"`
	Confirmed   octets    `json:"confirmed_transcript_hash"`
	RatchetTree octets    `json:"ratchet_tree"`
	Leaves      []struct {
		Index          uint32 `json:"index"`
		EncryptionPriv octets `json:"encryption_priv"`
		SignaturePriv  octets `json:"signature_priv"`
		PathSecrets    []struct {
			Node       uint32 `json:"node"`
			PathSecret octets `json:"path_secret"`
		} `json:"path_secrets"`
	} `json:"leaves_private"`
	UpdatePaths []struct {
		Sender        uint32   `json:"sender"`
		UpdatePath    octets   `json:"update_path"`
		PathSecrets   []octets `json:"path_secrets"`
		CommitSecret  octets   `json:"commit_secret"`
		TreeHashAfter octets   `json:"tree_hash_after"`
	} `json:"update_paths"`
}

// private are the keys of one member of the vector, checked against the tree.
func (v *treekem) private(t *testing.T, s *suite.Suite, tree *mls.Tree, i int) privateKeys {
	t.Helper()
	leaf := v.Leaves[i]
	keys := privateKeys{2 * leaf.Index: {leaf.EncryptionPriv, must(hpke.PublicKey(s, leaf.EncryptionPriv))(t)}}
	for _, p := range leaf.PathSecrets {
		private, public, err := hpke.DeriveKeyPair(s, s.DeriveSecret(nil, p.PathSecret, "node"))
		if err != nil {
			t.Fatal(err)
		}
		keys[p.Node] = keyPair{private, public}
	}
	for node := range keys {
		if _, ok := keys.open(tree, node); !ok {
			t.Fatalf("leaf %d: the private key of node %d is not the tree's", leaf.Index, node)
		}
	}
	return keys
}

// staged is the commit of an update path alone, as the vectors have it: it
// leads to the vector's epoch.
func (v *treekem) staged(t *testing.T, tree *mls.Tree, sender uint32) (*mls.PublicGroup, *mls.Staged) {
	t.Helper()
	context := mls.GroupContext{Version: mls.Version10, Suite: v.CipherSuite, GroupID: v.GroupID}
	public := must(mls.CreatePublicGroup(context, tree.Clone(), &mls.Policy{}))(t)
	public.Context().Epoch, public.Context().ConfirmedTranscriptHash = v.Epoch-1, v.Confirmed
	return public, must(public.Plan(mls.Sender{Type: mls.SenderMember, Index: sender}, nil, nil))(t)
}

func TestGroupVectorTreeKEM(t *testing.T) {
	vectors(t, "treekem.json", func(t *testing.T, v *treekem) {
		s := must(v.CipherSuite.Params())(t)
		tree := must(mls.ParseTree(s, v.RatchetTree))(t)
		g := newGroup(&Config{Rand: rand.Reader}, s)
		known := make([]privateKeys, len(v.Leaves))
		for i := range known {
			known[i] = v.private(t, s, tree, i)
		}
		for _, u := range v.UpdatePaths {
			path := must(mls.ParseUpdatePath(u.UpdatePath))(t)
			_, st := v.staged(t, tree, u.Sender)
			var keys [][]byte
			for _, n := range path.Nodes {
				keys = append(keys, n.EncryptionKey)
			}
			if err := st.SetPath(keys, func(parentHash []byte) (*mls.LeafNode, error) {
				equal(t, "parent hash", path.Leaf.ParentHash, parentHash)
				return path.Leaf, nil
			}); err != nil {
				t.Fatal(err)
			}
			st.Path = path
			equal(t, "tree hash", st.Tree.Hash(), u.TreeHashAfter)
			for i, leaf := range v.Leaves {
				if leaf.Index == u.Sender {
					continue
				}
				got := must(g.openPath(st, leaf.Index, known[i].retain(st.Tree)))(t)
				equal(t, "commit secret", got, u.CommitSecret)
			}
			v.own(t, g, known, tree, u.Sender)
		}
	})
}

// own makes a new path of the same sender, which all others must open.
func (v *treekem) own(t *testing.T, g *Group, known []privateKeys, tree *mls.Tree, sender uint32) {
	t.Helper()
	var signer mls.Signer
	for _, leaf := range v.Leaves {
		if leaf.Index == sender {
			signer = must(NewSigner(v.CipherSuite, leaf.SignaturePriv))(t)
		}
	}
	public, st := v.staged(t, tree, sender)
	g.public = public
	fresh := must(g.makePath(st, signer, sender, (*LeafOptions)(nil).apply(tree.Leaf(sender)), privateKeys{}))(t)
	for i, leaf := range v.Leaves {
		if leaf.Index != sender {
			got := must(g.openPath(st, leaf.Index, known[i].retain(st.Tree)))(t)
			equal(t, "new commit secret", got, fresh.commit)
		}
	}
}

// Every official file is run by some test of this module: a new one must not
// be overlooked.
func TestGroupVectorsKnown(t *testing.T) {
	folder, ok := vectorFolder(t)
	if !ok {
		return
	}
	known := "crypto-basics deserialization key-schedule message-protection messages psk_secret secret-tree transcript-hashes tree-math tree-operations tree-validation treekem welcome"
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	passive := strings.Join(passiveFiles(t), " ")
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".json")
		if !strings.Contains(" "+known+" ", " "+name+" ") && !strings.Contains(passive, name+".json") {
			t.Errorf("%s is run by no test", name)
		}
	}
}
