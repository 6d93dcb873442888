package group

import (
	"bytes"
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
)

// joinCase is a Welcome that a joiner refuses.
type joinCase struct {
	rule    mls.Rule
	detail  string
	want    mls.Rule
	options CommitOptions
	forgery forgery
	welcome func(w *world, m *mls.Welcome, k *KeyPackage) // after it was made
	join    func(w *world, k *KeyPackage) (*Config, *KeyPackage, JoinOptions)
}

func (c *joinCase) run(t *testing.T, w *world) {
	t.Helper()
	w.tb = t
	by := w.members[0]
	m := w.client()
	k := m.keyPackage(w)
	o := c.options
	o.Proposals = append([]*mls.Proposal{Add(k.Package)}, o.Proposals...)
	welcome := w.parse(w.forge(by, o, c.forgery).welcome).Welcome
	if c.welcome != nil {
		c.welcome(w, welcome, k)
	}
	config, options := m.config, JoinOptions{}
	if c.join != nil {
		config, k, options = c.join(w, k)
	}
	g, err := Join(config, welcome, k, options)
	want := c.want
	if want == 0 {
		want = c.rule
	}
	if g != nil || mls.RuleOf(err) != want {
		t.Errorf("got %v, want rule %d (%s)", err, want, want.Section())
	}
}

// inSecrets changes what is sealed for a joiner.
func inSecrets(change func(s *groupSecrets)) forgery {
	return forgery{secrets: func(_ int, s *groupSecrets) { change(s) }}
}

// inInfo changes the GroupInfo.
func inInfo(change func(i *mls.GroupInfo)) forgery { return forgery{info: change} }

// withPSKs adds names of pre-shared keys.
func withPSKs(ids ...mls.PreSharedKeyID) forgery {
	return inSecrets(func(s *groupSecrets) { s.PSKs = append(s.PSKs, ids...) })
}

// tie is the name of a key that ties a group to another.
func tie(u mls.ResumptionUsage) mls.PreSharedKeyID {
	return mls.PreSharedKeyID{Type: mls.PSKResumption, Usage: u, GroupID: []byte("old"), Nonce: make([]byte, 32)}
}

// welcomeCases are Welcomes whose secrets are wrong.
func welcomeCases(w *world) []joinCase {
	return []joinCase{
		// RFC 9420 §12.4.3.1: version and suite.
		{rule: mls.RuleWelcomeParameters, detail: "another suite than the key package's", welcome: func(_ *world, m *mls.Welcome, _ *KeyPackage) {
			m.Suite = mls.P256AES128SHA256P256
		}},
		{rule: mls.RuleWelcomeParameters, detail: "another suite in the GroupInfo", forgery: inInfo(func(i *mls.GroupInfo) {
			i.Context.Suite = mls.X25519ChaCha20SHA256Ed25519
		})},
		{rule: mls.RuleWelcomeParameters, detail: "another version in the GroupInfo", want: mls.RuleKeyPackageParameters, forgery: inInfo(func(i *mls.GroupInfo) {
			i.Context.Version = 2
		})},
		// RFC 9420 §12.4.3.1: the secrets of this key package.
		{rule: mls.RuleWelcomeSecrets, detail: "for nobody", welcome: func(_ *world, m *mls.Welcome, _ *KeyPackage) { m.Secrets = nil }},
		{rule: mls.RuleWelcomeSecrets, detail: "for another", welcome: func(_ *world, m *mls.Welcome, _ *KeyPackage) {
			m.Secrets[0].NewMember = flip(m.Secrets[0].NewMember)
		}},
		{rule: mls.RuleWelcomeSecrets, detail: "twice", welcome: func(_ *world, m *mls.Welcome, _ *KeyPackage) {
			m.Secrets = append(m.Secrets, m.Secrets[0])
		}},
		{rule: mls.RuleWelcomeSecrets, detail: "changed", welcome: func(_ *world, m *mls.Welcome, _ *KeyPackage) {
			m.Secrets[0].Secrets.Ciphertext = flip(m.Secrets[0].Secrets.Ciphertext)
		}},
		{rule: mls.RuleWelcomeSecrets, detail: "of another GroupInfo", welcome: func(_ *world, m *mls.Welcome, _ *KeyPackage) {
			m.EncryptedGroupInfo = flip(m.EncryptedGroupInfo)
		}},
		{rule: mls.RuleWelcomeSecrets, detail: "another joiner secret", forgery: inSecrets(func(s *groupSecrets) { s.Joiner = flip(s.Joiner) })},
		{rule: mls.RuleDHValidation, detail: "an encapsulated key of zeros", want: mls.RuleWelcomeSecrets, welcome: func(_ *world, m *mls.Welcome, _ *KeyPackage) {
			m.Secrets[0].Secrets.KEMOutput = make([]byte, 32)
		}},
		{rule: mls.RuleMessage, detail: "something after the GroupInfo", forgery: forgery{opened: func(b []byte) []byte { return append(b, 0) }}},
		{rule: mls.RuleLength, detail: "half a GroupInfo", forgery: forgery{opened: func(b []byte) []byte { return b[:len(b)/2] }}},
		// RFC 9420 §12.4.3.1, §8.4
		{rule: mls.RuleWelcomePSK, detail: "two that tie groups", forgery: withPSKs(tie(mls.UsageBranch), tie(mls.UsageReInit))},
		{rule: mls.RulePSKUnknown, detail: "not known", forgery: withPSKs(tie(mls.UsageBranch))},
		{rule: mls.RulePreSharedKey, detail: "a nonce too short", forgery: withPSKs(mls.PreSharedKeyID{Type: mls.PSKExternal, ID: []byte("x"), Nonce: make([]byte, 31)})},
		{rule: mls.RulePSKSecret, detail: "one too few", want: mls.RuleWelcomeSecrets, options: CommitOptions{Proposals: []*mls.Proposal{w.external1(w.members[0], "key")}},
			forgery: inSecrets(func(s *groupSecrets) { s.PSKs = nil })},
		// RFC 9420 §12.4.3.1
		{rule: mls.RuleAlreadyMember, detail: "again", join: func(w *world, k *KeyPackage) (*Config, *KeyPackage, JoinOptions) {
			return &Config{Rand: w.rand, Joined: func(id []byte) bool { return bytes.Equal(id, w.group) }}, k, JoinOptions{}
		}},
	}
}

// infoCases are Welcomes to a group that is not as it is said to be.
func infoCases() []joinCase {
	return []joinCase{
		// RFC 9420 §12.4.3.1
		{rule: mls.RuleGroupInfoSignature, detail: "of another", forgery: inInfo(func(i *mls.GroupInfo) { i.Signer = 1 })},
		{rule: mls.RuleGroupInfoSignature, detail: "of nobody", forgery: inInfo(func(i *mls.GroupInfo) { i.Signer = 1 << 31 })},
		{rule: mls.RuleGroupInfoConfirmation, detail: "changed", forgery: inInfo(func(i *mls.GroupInfo) { i.ConfirmationTag = flip(i.ConfirmationTag) })},
		{rule: mls.RuleGroupInfoConfirmation, detail: "short", forgery: inInfo(func(i *mls.GroupInfo) { i.ConfirmationTag = i.ConfirmationTag[1:] })},
		{rule: mls.RuleGroupInfoConfirmation, detail: "another epoch", forgery: inInfo(func(i *mls.GroupInfo) { i.Context.Epoch++ })},
		{rule: mls.RuleGroupInfoConfirmation, detail: "another transcript", forgery: inInfo(func(i *mls.GroupInfo) {
			i.Context.ConfirmedTranscriptHash = flip(i.Context.ConfirmedTranscriptHash)
		})},
		{rule: mls.RuleTreeHash, detail: "no tree", forgery: inInfo(func(i *mls.GroupInfo) { i.Extensions = nil })},
		{rule: mls.RuleTreeHash, detail: "another tree", join: func(w *world, k *KeyPackage) (*Config, *KeyPackage, JoinOptions) {
			return &Config{Rand: w.rand}, k, JoinOptions{RatchetTree: w.members[0].tree.AppendTo(nil)}
		}},
		// RFC 9420 §13.4: the tree says so too, for the joiner's leaf is in it.
		{rule: mls.RuleJoinerExtensions, detail: "not supported", want: mls.RuleTreeLeaf, forgery: inInfo(func(i *mls.GroupInfo) {
			i.Context.Extensions = mls.Extensions{{Type: 0xf001}}
		})},
		// RFC 9420 §12.4.3.2
		{rule: mls.RuleExternalPub, detail: "not a key", forgery: inInfo(func(i *mls.GroupInfo) {
			i.Extensions = i.Extensions.With(mls.ExtExternalPub, vec(make([]byte, 32)))
		})},
		{rule: mls.RuleLength, detail: "not a vector", forgery: inInfo(func(i *mls.GroupInfo) {
			i.Extensions = i.Extensions.With(mls.ExtExternalPub, []byte{200})
		})},
	}
}

// joinPathCases are wrong path secrets.
func joinPathCases(w *world) []joinCase {
	path := CommitOptions{Path: true}
	return []joinCase{
		// RFC 9420 §12.4.3.1: the path secret.
		{rule: mls.RuleWelcomePathSecret, detail: "random", options: path, forgery: inSecrets(func(s *groupSecrets) { s.PathSecret = make([]byte, 32) })},
		{rule: mls.RuleWelcomePathSecret, detail: "short", options: path, forgery: inSecrets(func(s *groupSecrets) { s.PathSecret = s.PathSecret[1:] })},
		{rule: mls.RuleWelcomePathSecret, detail: "empty", options: path, forgery: inSecrets(func(s *groupSecrets) { s.PathSecret = []byte{} })},
		{rule: mls.RuleWelcomePathSecret, detail: "of the node above", options: path, forgery: inSecrets(func(s *groupSecrets) {
			s.PathSecret = w.members[0].params.DeriveSecret(nil, s.PathSecret, "path")
		})},
		{rule: mls.RuleWelcomePathSecret, detail: "of a commit without a path", forgery: inSecrets(func(s *groupSecrets) { s.PathSecret = make([]byte, 32) })},
	}
}

// What only a joiner can check of a Welcome, and of the group in it.
func TestJoinRules(t *testing.T) {
	w := newAttacked(t, 5)
	for _, c := range slices.Concat(welcomeCases(w), infoCases(), joinPathCases(w)) {
		t.Run(c.rule.String()+"/"+c.detail, func(t *testing.T) { c.run(t, w) })
	}
	w.tb = t
	w.add(w.members[0], 2, CommitOptions{Path: true})
	w.commit(w.members[6], CommitOptions{})
}

// The joiner's leaf is that of the key package for which the Welcome is:
// mls.RuleJoinerLeaf, RFC 9420 §12.4.3.1.
func TestJoinerLeaf(t *testing.T) {
	w := newAttacked(t, 4)
	m := w.client()
	id := m.identity(w)
	added := must(NewKeyPackage(m.config, w.suite, id, KeyPackageOptions{}))(t)
	other := must(NewKeyPackage(m.config, w.suite, id, KeyPackageOptions{}))(t)
	for _, k := range []*KeyPackage{other, w.client().keyPackage(w)} {
		f := w.forge(w.members[0], CommitOptions{Proposals: []*mls.Proposal{Add(added.Package)}},
			forgery{joiner: func(int, *mls.KeyPackage) *mls.KeyPackage { return k.Package }})
		if g, err := Join(m.config, w.parse(f.welcome).Welcome, k, JoinOptions{}); g != nil || mls.RuleOf(err) != mls.RuleJoinerLeaf {
			t.Errorf("got %v, want rule %d", err, mls.RuleJoinerLeaf)
		}
	}
}
