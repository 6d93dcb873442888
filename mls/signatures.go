package mls

import "github.com/isthmus-chat/isthmus/mls/internal/suite"

// check is one signature to be verified, with what to say if it does not.
type check struct {
	suite     *suite.Suite
	key       []byte
	label     string
	content   []byte
	tail      []byte // of the content; nil: content is all
	signature []byte
	rule      Rule
	wrap      Rule // the rule of the whole that it is part of; 0: none
	failed    bool
}

// checks are signatures that are verified together, by the application's
// Parallel if it gave one.
type checks []check

func (c *checks) content(s *suite.Suite, a *AuthenticatedContent, key, context []byte) {
	*c = append(*c, check{suite: s, key: key, label: labelFramedContent, content: a.framed, tail: a.signedContext(context),
		signature: a.Signature, rule: RuleContentSignature})
}

func (c *checks) leaf(wrap Rule, s *suite.Suite, l *LeafNode, groupID []byte, index uint32) {
	tbs := l.appendTBS(make([]byte, 0, len(l.raw)+len(groupID)+8), groupID, index)
	*c = append(*c, check{suite: s, key: l.SignatureKey, label: labelLeafNode, content: tbs,
		signature: l.Signature, rule: RuleLeafSignature, wrap: wrap})
}

// keyPackage adds both signatures of a key package, RFC 9420 §10.1.
func (c *checks) keyPackage(wrap Rule, s *suite.Suite, k *KeyPackage) {
	c.leaf(wrap, s, k.Leaf, nil, 0)
	*c = append(*c, check{suite: s, key: k.Leaf.SignatureKey, label: labelKeyPackage, content: k.tbs(),
		signature: k.Signature, rule: RuleKeyPackageSignature, wrap: wrap})
}

// run verifies all and returns the refusal of the first that fails, in the
// order in which they were added: the same whatever ran first. What is given
// beside is work that needs none of the results and is done at the same time.
func (c checks) run(p Parallel, beside ...func()) error {
	p.Run(len(c)+len(beside), func(i int) {
		if i >= len(c) {
			beside[i-len(c)]()
			return
		}
		s := &c[i]
		s.failed = !s.suite.Verify2(s.key, s.label, s.content, s.tail, s.signature)
	})
	for i := range c {
		if !c[i].failed {
			continue
		}
		err := refuse(c[i].rule, "the %s does not verify", c[i].label)
		if c[i].wrap != 0 {
			err = refuse(c[i].wrap, "%w", err)
		}
		return err
	}
	return nil
}
