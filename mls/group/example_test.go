package group_test

import (
	"crypto/rand"
	"fmt"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// check stands where an application handles an error.
func check[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Two members, a server that follows them, and a third who joins by a commit
// of her own: what docs/MLS.md shows.
func Example() {
	suite := mls.X25519AES128SHA256Ed25519
	config := &group.Config{Rand: rand.Reader}
	identity := func(name string) group.Identity {
		signer, _, err := group.GenerateSigner(rand.Reader, suite)
		return group.Identity{Credential: mls.BasicCredential([]byte(name)), Signer: check(signer, err)}
	}

	kp := check(group.NewKeyPackage(config, suite, identity("bob"), group.KeyPackageOptions{}))
	g := check(group.Create(config, suite, []byte("a group"), identity("alice"), nil, nil))
	server := check(mls.NewPublicGroup(check(mls.Parse(check(g.GroupInfo(true, nil)))).GroupInfo, nil, nil))

	t := check(g.Commit(group.CommitOptions{Proposals: []*mls.Proposal{group.Add(check(mls.Parse(kp.Message())).KeyPackage)}}))
	m := check(mls.Parse(t.Commit))
	server = check(server.Handle(m)).Commit.Next(m.Public.ConfirmationTag)
	if err := g.Merge(t); err != nil {
		panic(err)
	}
	h := check(group.Join(config, check(mls.Parse(t.Welcome)).Welcome, kp, group.JoinOptions{}))
	kp.Wipe()

	event := check(h.Process(check(mls.Parse(check(g.Seal(nil, []byte("hello"), nil))))))
	fmt.Printf("%s\n", event.Application.Data)

	info := check(mls.Parse(check(g.GroupInfo(true, nil)))).GroupInfo
	c, commit, err := group.JoinExternal(config, identity("carol"), info, group.ExternalOptions{})
	if err != nil {
		panic(err)
	}
	m = check(mls.Parse(commit))
	server = check(server.Handle(m)).Commit.Next(m.Public.ConfirmationTag)
	for _, member := range []*group.Group{g, h} {
		if err := member.Merge(check(member.Process(m)).Transition); err != nil {
			panic(err)
		}
	}
	fmt.Println(server.Tree().Members(), c.Epoch(), string(c.EpochAuthenticator()) == string(h.EpochAuthenticator()))
	// Output:
	// hello
	// 3 2 true
}
