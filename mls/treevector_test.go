package mls

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// hexBytes is an octet string as the official vectors write it.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	*h = b
	return err
}

// treeVectors reads a file of official vectors: from $ISTHMUS_VECTORS/mls, or
// from the folder shared beside the repository. Without the folder it reports
// false, and fails where everything must run.
func treeVectors(t *testing.T, name string, into any) bool {
	t.Helper()
	folder := os.Getenv("ISTHMUS_VECTORS")
	if folder == "" {
		folder = filepath.Join("..", "..", "shared", "vectors")
	}
	b, err := os.ReadFile(filepath.Join(folder, "mls", name))
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Logf("nothing was checked: set ISTHMUS_VECTORS to the folder of the official vectors (%v)", err)
		return false
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
	return true
}

func TestTreeVectors(t *testing.T) {
	t.Run("tree-math.json", testTreeMathVectors)
	t.Run("tree-operations.json", testTreeOperationVectors)
	t.Run("tree-validation.json", testTreeValidationVectors)
	t.Run("treekem.json", testTreeKEMVectors)
}

func testTreeMathVectors(t *testing.T) {
	var all []struct {
		Leaves  uint32    `json:"n_leaves"`
		Nodes   uint32    `json:"n_nodes"`
		Root    uint32    `json:"root"`
		Left    []*uint32 `json:"left"`
		Right   []*uint32 `json:"right"`
		Parent  []*uint32 `json:"parent"`
		Sibling []*uint32 `json:"sibling"`
	}
	if !treeVectors(t, "tree-math.json", &all) {
		return
	}
	for _, v := range all {
		t.Run(fmt.Sprint(v.Leaves), func(t *testing.T) {
			tree := &Tree{width: v.Leaves}
			if tree.Root() != v.Root || !tree.within(v.Nodes-1) || tree.within(v.Nodes) {
				t.Errorf("root %d, want %d of %d nodes", tree.Root(), v.Root, v.Nodes)
			}
			same := func(what string, x uint32, got func(uint32) uint32, want *uint32) {
				if want != nil && got(x) != *want {
					t.Errorf("%s of %d is %d, want %d", what, x, got(x), *want)
				}
			}
			for x := range v.Nodes {
				if (v.Left[x] == nil) != (nodeLevel(x) == 0) || (v.Parent[x] == nil) != (x == v.Root) {
					t.Errorf("node %d has level %d under root %d", x, nodeLevel(x), v.Root)
				}
				same("left", x, leftChild, v.Left[x])
				same("right", x, rightChild, v.Right[x])
				same("parent", x, parentNode, v.Parent[x])
				same("sibling", x, siblingNode, v.Sibling[x])
			}
		})
	}
}

// vectorTree reads a tree and checks that it is written as it was read.
func vectorTree(t *testing.T, s *suite.Suite, b []byte) *Tree {
	t.Helper()
	tree, err := ParseTree(s, b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(tree.AppendTo(nil), b) {
		t.Fatal("the tree is not written as it was read")
	}
	return tree
}

func testTreeOperationVectors(t *testing.T) {
	var all []struct {
		Suite      uint16   `json:"cipher_suite"`
		Before     hexBytes `json:"tree_before"`
		Proposal   hexBytes `json:"proposal"`
		Sender     uint32   `json:"proposal_sender"`
		HashBefore hexBytes `json:"tree_hash_before"`
		After      hexBytes `json:"tree_after"`
		HashAfter  hexBytes `json:"tree_hash_after"`
	}
	if !treeVectors(t, "tree-operations.json", &all) {
		return
	}
	for n, v := range all {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			tree := vectorTree(t, suite.Lookup(v.Suite), v.Before)
			if got := tree.Hash(); !bytes.Equal(got, v.HashBefore) {
				t.Fatalf("tree hash before: got %x, want %x", got, v.HashBefore)
			}
			proposal, err := ParseProposal(v.Proposal)
			if err != nil {
				t.Fatal(err)
			}
			before := tree.Clone()
			switch proposal.Type {
			case ProposalAdd:
				tree.Add(proposal.Add.Leaf)
			case ProposalUpdate:
				tree.Update(v.Sender, proposal.Update)
			case ProposalRemove:
				tree.Remove(proposal.Removed)
			default:
				t.Fatalf("proposal type %d", proposal.Type)
			}
			if got := tree.AppendTo(nil); !bytes.Equal(got, v.After) {
				t.Errorf("tree after: got %x, want %x", got, v.After)
			}
			if got := tree.Hash(); !bytes.Equal(got, v.HashAfter) {
				t.Errorf("tree hash after: got %x, want %x", got, v.HashAfter)
			}
			if !bytes.Equal(before.AppendTo(nil), v.Before) || !bytes.Equal(before.Hash(), v.HashBefore) {
				t.Error("the tree from before the proposal has changed")
			}
		})
	}
}

func testTreeValidationVectors(t *testing.T) {
	var all []struct {
		Suite       uint16     `json:"cipher_suite"`
		Tree        hexBytes   `json:"tree"`
		Group       hexBytes   `json:"group_id"`
		Resolutions [][]uint32 `json:"resolutions"`
		Hashes      []hexBytes `json:"tree_hashes"`
	}
	if !treeVectors(t, "tree-validation.json", &all) {
		return
	}
	for n, v := range all {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			tree := vectorTree(t, suite.Lookup(v.Suite), v.Tree)
			if nodes := int(2*tree.Leaves() - 1); nodes != len(v.Hashes) || nodes != len(v.Resolutions) {
				t.Fatalf("%d nodes, want %d", nodes, len(v.Hashes))
			}
			for node := range uint32(len(v.Hashes)) {
				if got := tree.Resolution(nil, node, nil); !slices.Equal(got, v.Resolutions[node]) {
					t.Errorf("resolution of %d: got %v, want %v", node, got, v.Resolutions[node])
				}
				if got := tree.ResolutionSize(node, nil); got != len(v.Resolutions[node]) {
					t.Errorf("resolution size of %d: got %d, want %d", node, got, len(v.Resolutions[node]))
				}
				if got := tree.NodeHash(node); !bytes.Equal(got, v.Hashes[node]) {
					t.Errorf("tree hash of %d: got %x, want %x", node, got, v.Hashes[node])
				}
			}
			if err := tree.Validate(v.Group, twoAtOnce); err != nil {
				t.Error(err)
			}
			if err := tree.Validate(append(slices.Clone(v.Group), 0), nil); err == nil && hasSource(tree, LeafCommit) {
				t.Error("valid in another group")
			}
		})
	}
}

func hasSource(t *Tree, source LeafSource) bool {
	for _, l := range t.All() {
		if l.Source == source {
			return true
		}
	}
	return false
}

// treeKEMVector is an entry of treekem.json, without what needs private keys.
type treeKEMVector struct {
	Suite   uint16   `json:"cipher_suite"`
	Group   hexBytes `json:"group_id"`
	Tree    hexBytes `json:"ratchet_tree"`
	Private []struct {
		Index       uint32 `json:"index"`
		PathSecrets []struct {
			Node uint32 `json:"node"`
		} `json:"path_secrets"`
	} `json:"leaves_private"`
	Paths []struct {
		Sender    uint32   `json:"sender"`
		Path      hexBytes `json:"update_path"`
		HashAfter hexBytes `json:"tree_hash_after"`
	} `json:"update_paths"`
}

func testTreeKEMVectors(t *testing.T) {
	var all []treeKEMVector
	if !treeVectors(t, "treekem.json", &all) {
		return
	}
	for n, v := range all {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			tree := vectorTree(t, suite.Lookup(v.Suite), v.Tree)
			if err := tree.Validate(v.Group, twoAtOnce); err != nil {
				t.Fatal(err)
			}
			for _, path := range v.Paths {
				checkVectorPath(t, tree, &v, path.Sender, path.Path, path.HashAfter)
			}
		})
	}
}

// checkVectorPath merges one update path and checks what is public about it,
// and that each member finds the entry whose key the vector says it holds.
func checkVectorPath(t *testing.T, tree *Tree, v *treeKEMVector, sender uint32, encoded, hashAfter []byte) {
	t.Helper()
	update, err := ParseUpdatePath(encoded)
	if err != nil {
		t.Fatal(err)
	}
	path := tree.FilteredPath(sender)
	if len(path) != len(update.Nodes) {
		t.Fatalf("%d nodes on the filtered path of %d, want %d", len(path), sender, len(update.Nodes))
	}
	var keys [][]byte
	for n := range path {
		if got, want := tree.ResolutionSize(path[n].Copath, nil), update.Nodes[n].Len(); got != want {
			t.Errorf("resolution of %d has %d entries, want %d", path[n].Copath, got, want)
		}
		keys = append(keys, update.Nodes[n].EncryptionKey)
	}
	for _, member := range v.Private {
		if member.Index == sender {
			continue
		}
		known := map[uint32]bool{2 * member.Index: true}
		for _, s := range member.PathSecrets {
			known[s.Node] = true
		}
		node := nodeAbove(sender, uint32(bits.Len32(sender^member.Index)))
		at := slices.IndexFunc(path, func(p PathNode) bool { return p.Node == node })
		if at < 0 {
			t.Fatalf("%d, above %d and %d, is not on the path", node, sender, member.Index)
		}
		position, found, ok := tree.ResolutionIndex(path[at].Copath, member.Index, nil, func(node uint32) bool { return known[node] })
		if resolution := tree.Resolution(nil, path[at].Copath, nil); !ok || resolution[position] != found || !known[found] {
			t.Errorf("member %d: entry %d, node %d, %v of %v", member.Index, position, found, ok, resolution)
		}
	}
	after := tree.Clone()
	if got := after.SetPath(sender, keys); !bytes.Equal(got, update.Leaf.ParentHash) {
		t.Errorf("parent hash: got %x, want %x", got, update.Leaf.ParentHash)
	}
	after.ReplaceLeaf(sender, update.Leaf)
	if got := after.Hash(); !bytes.Equal(got, hashAfter) {
		t.Errorf("tree hash after: got %x, want %x", got, hashAfter)
	}
	if err := after.Validate(v.Group, nil); err != nil {
		t.Error(err)
	}
}
