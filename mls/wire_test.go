package mls

import (
	"bytes"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
)

func TestWireVectors(t *testing.T) {
	t.Run("messages.json", testMessageVectors)
	t.Run("deserialization.json", testLengthVectors)
	t.Run("transcript-hashes.json", testTranscriptVectors)
}

type messageVector struct {
	Welcome                hexBytes `json:"mls_welcome"`
	GroupInfo              hexBytes `json:"mls_group_info"`
	KeyPackage             hexBytes `json:"mls_key_package"`
	Tree                   hexBytes `json:"ratchet_tree"`
	Add                    hexBytes `json:"add_proposal"`
	Update                 hexBytes `json:"update_proposal"`
	Remove                 hexBytes `json:"remove_proposal"`
	PSK                    hexBytes `json:"pre_shared_key_proposal"`
	ReInit                 hexBytes `json:"re_init_proposal"`
	ExternalInit           hexBytes `json:"external_init_proposal"`
	GroupContextExtensions hexBytes `json:"group_context_extensions_proposal"`
	Commit                 hexBytes `json:"commit"`
	PublicApplication      hexBytes `json:"public_message_application"`
	PublicProposal         hexBytes `json:"public_message_proposal"`
	PublicCommit           hexBytes `json:"public_message_commit"`
	Private                hexBytes `json:"private_message"`
}

// testMessageVectors decodes and encodes every message; group_secrets are read
// in package group.
func testMessageVectors(t *testing.T) {
	var all []messageVector
	if !treeVectors(t, "messages.json", &all) {
		return
	}
	if len(all) == 0 {
		t.Fatal("no vectors")
	}
	for i := range all {
		v := &all[i]
		for _, m := range []struct {
			name   string
			b      hexBytes
			format WireFormat
		}{
			{"welcome", v.Welcome, WireWelcome}, {"group info", v.GroupInfo, WireGroupInfo}, {"key package", v.KeyPackage, WireKeyPackage},
			{"proposal", v.PublicProposal, WirePublic}, {"commit", v.PublicCommit, WirePublic}, {"private", v.Private, WirePrivate},
		} {
			read, err := Parse(m.b)
			if err != nil || read.WireFormat != m.format {
				t.Fatalf("vector %d: %s: %v", i, m.name, err)
			}
			sameAgain(t, i, m.name, m.b, read.AppendTo(nil), unread(read).AppendTo(nil))
		}
		for _, p := range []struct {
			kind ProposalType
			b    hexBytes
		}{
			{ProposalAdd, v.Add}, {ProposalUpdate, v.Update}, {ProposalRemove, v.Remove}, {ProposalPSK, v.PSK}, {ProposalReInit, v.ReInit},
			{ProposalExternalInit, v.ExternalInit}, {ProposalGroupContextExtensions, v.GroupContextExtensions},
		} {
			// The vectors leave out the type.
			b := append(codec.Uint16(nil, uint16(p.kind)), p.b...)
			read, err := ParseProposal(b)
			if err != nil || read.Type != p.kind {
				t.Fatalf("vector %d: proposal %d: %v", i, p.kind, err)
			}
			bare := *read
			bare.raw = nil
			sameAgain(t, i, "proposal", b, read.AppendTo(nil), bare.AppendTo(nil))
		}
		commit, err := ParseCommit(v.Commit)
		if err != nil {
			t.Fatalf("vector %d: commit: %v", i, err)
		}
		sameAgain(t, i, "commit", v.Commit, commit.AppendTo(nil), commit.AppendTo(nil))
		checkTreeVector(t, i, v.Tree)
		checkPublicApplication(t, i, v.PublicApplication)
	}
	t.Logf("%d vectors, %d structures each", len(all), 16)
}

// unread is the message without the octets it was read from, so that it is
// encoded from its fields.
func unread(m *Message) *Message {
	out := *m
	out.raw = nil
	switch m.WireFormat {
	case WireGroupInfo:
		info := *m.GroupInfo
		info.raw = nil
		out.GroupInfo = &info
	case WireKeyPackage:
		leaf := *m.KeyPackage.Leaf
		leaf.raw = nil
		k := *m.KeyPackage
		k.raw, k.Leaf = nil, &leaf
		out.KeyPackage = &k
	case WirePublic:
		public := *m.Public
		public.Seal()
		out.Public = &public
	}
	return &out
}

func sameAgain(t *testing.T, i int, name string, want []byte, encodings ...[]byte) {
	t.Helper()
	for _, b := range encodings {
		if !bytes.Equal(b, want) {
			t.Fatalf("vector %d: %s: encoded %x, want %x", i, name, b, want)
		}
	}
}

// checkTreeVector: the trees of these vectors need not be valid, so they may
// be refused, by a rule of the tree; one that is taken is the same again.
func checkTreeVector(t *testing.T, i int, b []byte) {
	t.Helper()
	params, err := testSuite.Params()
	if err != nil {
		t.Fatal(err)
	}
	tree, err := ParseTree(params, b)
	if err != nil {
		if RuleOf(err) < RuleTreeShape || RuleOf(err) > RuleEmptyParentHash {
			t.Errorf("vector %d: tree: %v", i, err)
		}
		return
	}
	sameAgain(t, i, "tree", b, tree.AppendTo(nil))
}

// checkPublicApplication: RFC 9420 §6: a PublicMessage with application data
// is refused; what it holds is encoded the same again.
func checkPublicApplication(t *testing.T, i int, b []byte) {
	t.Helper()
	if _, err := Parse(b); RuleOf(err) != RuleApplicationInPublic {
		t.Errorf("vector %d: application in public: %v", i, err)
	}
	r := codec.NewReader(b)
	r.Uint16()
	r.Uint16()
	content := readFramedContent(&r)
	a := &AuthenticatedContent{WireFormat: WirePublic, Content: content, Signature: r.Vec()}
	a.Seal()
	encoded := append(codec.Uint16(nil, uint16(Version10)), a.Raw()...)
	if content.Sender.Type == SenderMember {
		encoded = codec.AppendVec(encoded, r.Vec())
	}
	if err := r.Finish(); err != nil {
		t.Fatalf("vector %d: application: %v", i, err)
	}
	sameAgain(t, i, "application", b, encoded)
}

// testLengthVectors checks the length headers of vectors, RFC 9420 §2.1.2.
func testLengthVectors(t *testing.T) {
	var all []struct {
		Header hexBytes `json:"vlbytes_header"`
		Length int      `json:"length"`
	}
	if !treeVectors(t, "deserialization.json", &all) {
		return
	}
	for i, v := range all {
		if b := codec.AppendLength(nil, v.Length); !bytes.Equal(b, v.Header) {
			t.Errorf("vector %d: length %d is %x, want %x", i, v.Length, b, []byte(v.Header))
		}
		if v.Length > MaxMessage {
			continue
		}
		r := codec.NewReader(append(bytes.Clone(v.Header), make([]byte, v.Length)...))
		if n := r.Length(); n != v.Length || r.Err() != nil {
			t.Errorf("vector %d: read %d, want %d: %v", i, n, v.Length, r.Err())
		}
	}
	if len(all) == 0 {
		t.Error("no vectors")
	}
}

// testTranscriptVectors checks the hashes of RFC 9420 §8.2, rule 23.
func testTranscriptVectors(t *testing.T) {
	var all []struct {
		Suite           Suite    `json:"cipher_suite"`
		ConfirmationKey hexBytes `json:"confirmation_key"`
		Content         hexBytes `json:"authenticated_content"`
		InterimBefore   hexBytes `json:"interim_transcript_hash_before"`
		ConfirmedAfter  hexBytes `json:"confirmed_transcript_hash_after"`
		InterimAfter    hexBytes `json:"interim_transcript_hash_after"`
	}
	if !treeVectors(t, "transcript-hashes.json", &all) {
		return
	}
	if len(all) == 0 {
		t.Fatal("no vectors")
	}
	for i, v := range all {
		s, err := v.Suite.Params()
		if err != nil {
			t.Fatal(err)
		}
		a, err := ParseAuthenticatedContent(v.Content)
		if err != nil {
			t.Fatalf("vector %d: %v", i, err)
		}
		sameAgain(t, i, "content", v.Content, a.Raw())
		confirmed := a.ConfirmedTranscriptHash(s, v.InterimBefore)
		if !bytes.Equal(confirmed, v.ConfirmedAfter) {
			t.Errorf("vector %d, suite %d: confirmed hash %x", i, v.Suite, confirmed)
		}
		if !s.CheckMAC(v.ConfirmationKey, a.ConfirmationTag, v.ConfirmedAfter) {
			t.Errorf("vector %d, suite %d: the confirmation tag does not verify", i, v.Suite)
		}
		if interim := InterimTranscriptHash(s, confirmed, a.ConfirmationTag); !bytes.Equal(interim, v.InterimAfter) {
			t.Errorf("vector %d, suite %d: interim hash %x", i, v.Suite, interim)
		}
	}
}

// smallMessages are one of each wire format, as seeds.
func smallMessages(t testing.TB) [][]byte {
	k := newKit(t, 3, permissive(), nil)
	_, add := k.add(nil, nil)
	ref := k.propose(1, k.update(1, nil))
	var out [][]byte
	for _, a := range []*AuthenticatedContent{
		k.proposal(1, add.Proposal), k.proposal(0, psk("x", 32)), k.proposal(2, remove(1)), k.proposal(2, gce(wideOnly).Proposal),
		k.proposal(1, &Proposal{Type: ProposalSelfRemove}), k.proposal(1, appUpdate(0x8001, "x").Proposal),
		k.commit(0, []ProposalOrRef{add, ref, byValue(remove(2))}, nil), k.joinCommit(k.client(), []ProposalOrRef{externalInit()}, nil),
	} {
		m := Message{WireFormat: WirePublic, Public: &PublicMessage{AuthenticatedContent: *a, MembershipTag: make([]byte, 32)}}
		out = append(out, m.AppendTo(nil))
	}
	for _, m := range []Message{
		{WireFormat: WireKeyPackage, KeyPackage: add.Proposal.Add},
		{WireFormat: WireGroupInfo, GroupInfo: k.info(0, nil)},
		{WireFormat: WireWelcome, Welcome: &Welcome{Suite: testSuite, Secrets: []EncryptedGroupSecrets{{NewMember: make([]byte, 32)}}}},
		{WireFormat: WirePrivate, Private: &PrivateMessage{GroupID: []byte("g"), ContentType: ContentCommit, Ciphertext: []byte("x")}},
	} {
		out = append(out, m.AppendTo(nil))
	}
	return out
}

// FuzzParse: what is read is encoded the same again, from the octets kept and
// from the fields.
func FuzzParse(f *testing.F) {
	for _, b := range smallMessages(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			if RuleOf(err) == 0 {
				t.Fatalf("a refusal without a rule: %v", err)
			}
			return
		}
		if !bytes.Equal(m.AppendTo(nil), b) || !bytes.Equal(unread(m).AppendTo(nil), b) {
			t.Fatalf("encoded differently: %x", b)
		}
	})
}
