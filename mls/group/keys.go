package group

import (
	"bytes"
	"maps"
	"slices"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/internal/hpke"
	"github.com/isthmus-chat/isthmus/mls/internal/secret"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// privateKeys are the HPKE private keys of the nodes that a member knows: its
// leaf and nodes above it. They are few: one for each level of the tree.
type privateKeys map[uint32]keyPair

type keyPair struct{ private, public []byte }

// open reports whether the key of a node is known and is the tree's.
func (k privateKeys) open(t *mls.Tree, node uint32) (keyPair, bool) {
	pair, ok := k[node]
	return pair, ok && bytes.Equal(pair.public, t.PublicKey(node))
}

// retain returns those keys that are still a node's in t. The others belong to
// nodes that were blanked or replaced, RFC 9420 §7.5: they go with the epoch.
func (k privateKeys) retain(t *mls.Tree) privateKeys {
	out := make(privateKeys, len(k))
	for node := range k {
		if pair, ok := k.open(t, node); ok {
			out[node] = pair
		}
	}
	return out
}

// wipe erases the keys that next does not hold.
func (k privateKeys) wipe(next privateKeys) {
	for node, pair := range k {
		if kept, ok := next[node]; !ok || !bytes.Equal(kept.private, pair.private) {
			secret.Wipe(pair.private)
		}
	}
}

// nodes are the node indexes in order.
func (k privateKeys) nodes() []uint32 { return slices.Sorted(maps.Keys(k)) }

// path is a committer's fresh path, RFC 9420 §7.4: a path secret and a key pair
// for each step of its filtered direct path, from the leaf to the root.
type path struct {
	secrets [][]byte
	pairs   []keyPair
	commit  []byte // commit_secret
}

// derivePath makes the path of steps nodes that starts with the given secret.
// The secrets follow each other; the key pairs, which cost the most, are
// derived side by side.
func (c *Config) derivePath(s *suite.Suite, first []byte, steps int) (*path, error) {
	p := &path{secrets: make([][]byte, steps), pairs: make([]keyPair, steps)}
	next := first
	for i := range steps {
		p.secrets[i] = next
		next = s.DeriveSecret(nil, next, "path")
	}
	p.commit = next
	err := c.parallel(steps, func(i int) (err error) {
		node := s.DeriveSecret(nil, p.secrets[i], "node")
		p.pairs[i].private, p.pairs[i].public, err = hpke.DeriveKeyPair(s, node)
		secret.Wipe(node)
		return err
	})
	return p, err
}

// publicKeys are the path's public keys, from the leaf to the root.
func (p *path) publicKeys() [][]byte {
	out := make([][]byte, len(p.pairs))
	for i := range p.pairs {
		out[i] = p.pairs[i].public
	}
	return out
}

// wipe erases the path secrets; the key pairs live on.
func (p *path) wipe() { secret.Wipe(p.secrets...) }

// sealPath encrypts the path secrets for the members under each step's copath,
// RFC 9420 §7.6, those of New left out. Every ciphertext is a task of its own:
// in a group that was just made there is one for every member.
func (c *Config) sealPath(s *suite.Suite, st *mls.Staged, p *path) ([]mls.UpdatePathNode, error) {
	type task struct{ step, node uint32 }
	var tasks []task
	starts := make([]int, len(st.Steps)+1)
	for i, step := range st.Steps {
		for _, node := range st.Tree.Resolution(nil, step.Copath, st.New) {
			tasks = append(tasks, task{uint32(i), node})
		}
		starts[i+1] = len(tasks)
	}
	size := hpke.SeedSize(s)
	seeds, err := c.random(size * len(tasks))
	if err != nil {
		return nil, err
	}
	info := hpke.InfoWithLabel(s, "UpdatePathNode", st.Provisional())
	out := make([]mls.Ciphertext, len(tasks))
	err = c.parallel(len(tasks), func(i int) (err error) {
		t := tasks[i]
		out[i].KEMOutput, out[i].Ciphertext, err = hpke.Seal(s, seeds[i*size:(i+1)*size], st.Tree.PublicKey(t.node), info, nil, p.secrets[t.step])
		return err
	})
	secret.Wipe(seeds)
	if err != nil {
		return nil, err
	}
	nodes := make([]mls.UpdatePathNode, len(st.Steps))
	for i := range nodes {
		nodes[i] = mls.NewUpdatePathNode(p.pairs[i].public, out[starts[i]:starts[i+1]])
	}
	return nodes, nil
}

// stepOf is the step of a committer's path whose copath covers the leaf: the
// lowest node that both know, RFC 9420 §7.5.
func stepOf(steps []mls.PathNode, leaf uint32) (int, bool) {
	for i, s := range steps {
		if mls.Covers(s.Copath, leaf) {
			return i, true
		}
	}
	return 0, false
}

// openPath finds the path secret that a received commit holds for this member,
// derives all above it, and returns the commit_secret, RFC 9420 §7.5. The keys
// that it learns are put into keys.
func (g *Group) openPath(st *mls.Staged, self uint32, keys privateKeys) (commitSecret []byte, err error) {
	step, ok := stepOf(st.Steps, self)
	if !ok {
		return nil, mls.Refuse(mls.RulePathSecret, "the path does not reach this member")
	}
	has := func(node uint32) bool { _, ok := keys.open(st.Tree, node); return ok }
	position, node, ok := st.Tree.ResolutionIndex(st.Steps[step].Copath, self, st.New, has)
	if !ok || position >= st.Path.Nodes[step].Len() {
		return nil, mls.Refuse(mls.RulePathSecret, "no path secret is for a key of this member")
	}
	sealed := st.Path.Nodes[step].At(position)
	pair := keys[node]
	first, err := hpke.OpenWithLabel(g.params, pair.private, pair.public, "UpdatePathNode", st.Provisional(), sealed.KEMOutput, sealed.Ciphertext)
	if err != nil {
		return nil, mls.Refuse(mls.RulePathSecret, "the path secret does not open: %v", err)
	}
	if len(first) != g.params.HashSize() {
		return nil, mls.Refuse(mls.RulePathSecret, "a path secret of %d octets", len(first))
	}
	return g.config.learnPath(g.params, st.Steps[step:], first, st.Tree, keys)
}

// learnPath derives the key pairs from a path secret up to the root, checks
// that they are the tree's (RFC 9420 §7.5), and keeps them. It returns the
// commit_secret and erases the path secrets.
func (c *Config) learnPath(s *suite.Suite, steps []mls.PathNode, first []byte, t *mls.Tree, keys privateKeys) ([]byte, error) {
	p, err := c.derivePath(s, first, len(steps))
	if err != nil {
		return nil, err
	}
	defer p.wipe()
	for i, step := range steps {
		if !bytes.Equal(p.pairs[i].public, t.PublicKey(step.Node)) {
			return nil, mls.Refuse(mls.RulePathSecret, "the path secret of node %d gives another key than the tree's", step.Node)
		}
		keys[step.Node] = p.pairs[i]
	}
	return p.commit, nil
}
