//go:build bench

package main_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

var memberConfig = &group.Config{Rand: rand.Reader, Policy: &mls.Policy{Components: policy.Component}}

func (m *member) leaf() mls.Extensions {
	return mls.Extensions{}.With(mls.ExtApplicationID, mls.AppendApplicationID(nil, []byte(m.user)))
}

// create makes a Group at the member's homeserver.
func (m *member) create(name string) (err error) {
	m.room = core.NewRoomID(m.hs.domain, name)
	dict := policy.Default(string(m.user), m.hs.domain)
	if m.g, err = group.Create(memberConfig, memberSuite, core.GroupID(m.room), m.id, mls.Extensions{}.WithAppData(dict), m.leaf()); err != nil {
		return err
	}
	info, err := m.g.GroupInfo(true, nil)
	if err == nil {
		err = patient(func() error {
			_, err := m.home.CreateRoom(context.Background(), wire.CreateRoom{Room: m.room, Kind: core.Group.String(), Name: name, Info: info})
			return err
		})
	}
	return err
}

// package makes the key package that the member is added with; leave has its
// homeserver know it, so that a Welcome from elsewhere finds the member.
func (m *member) keyPackage(leave bool) (*mls.KeyPackage, error) {
	now := time.Now()
	var err error
	m.kp, err = group.NewKeyPackage(memberConfig, memberSuite, m.id, group.KeyPackageOptions{LeafExtensions: m.leaf(),
		Lifetime: mls.Lifetime{NotBefore: uint64(now.Add(-time.Hour).Unix()), NotAfter: uint64(now.Add(24 * time.Hour).Unix())}})
	if err != nil {
		return nil, err
	}
	if leave {
		err := patient(func() error {
			_, err := m.home.PutKeyPackages(context.Background(), wire.PutKeyPackages{Packages: [][]byte{m.kp.Message()}})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	parsed, err := mls.Parse(m.kp.Message())
	if err != nil {
		return nil, err
	}
	return parsed.KeyPackage, nil
}

func (m *member) policy() (*policy.State, error) {
	dict, err := m.g.Public().Context().Extensions.AppData()
	if err != nil {
		return nil, err
	}
	return policy.ParseState(dict)
}

func componentUpdate(c mls.ComponentID, data []byte) *mls.Proposal {
	return &mls.Proposal{Type: mls.ProposalAppDataUpdate, Component: c, Operation: mls.AppDataSet, Data: data}
}

// commit makes a commit, which is pending until merge.
func (m *member) commit(records []core.Identity, proposals ...*mls.Proposal) (wire.Handshake, error) {
	t, err := m.g.Commit(group.CommitOptions{Proposals: proposals, SeparateTree: true, Public: true})
	if err != nil {
		return wire.Handshake{}, err
	}
	info, err := m.g.PendingInfo(nil)
	if err != nil {
		return wire.Handshake{}, err
	}
	return wire.Handshake{Message: t.Commit, Welcome: t.Welcome, Records: records,
		Info: mls.NewPartialGroupInfo(info, false).AppendTo([]byte{2})}, nil // GroupInfoOption partial
}

// addition makes a commit that brings devices and their users in; a homeserver that
// is new to the room joins its authority.
func (m *member) addition(leave bool, who ...*member) (wire.Handshake, error) {
	state, err := m.policy()
	if err != nil {
		return wire.Handshake{}, err
	}
	var proposals []*mls.Proposal
	var records []core.Identity
	var users []string
	seen, domains := map[core.UserURI]bool{}, slices.Clone(state.Authority().Domains)
	for _, w := range who {
		k, err := w.keyPackage(leave)
		if err != nil {
			return wire.Handshake{}, err
		}
		proposals, records = append(proposals, group.Add(k)), append(records, w.proof)
		if _, in := state.Role(string(w.user)); !in && !seen[w.user] {
			seen[w.user] = true
			users = append(users, string(w.user))
			if !slices.Contains(domains, w.hs.domain) {
				domains = append(domains, w.hs.domain)
			}
		}
	}
	if len(users) > 0 {
		proposals = append(proposals, componentUpdate(policy.ComponentParticipants, policy.Invite(state, users, policy.RoleMember)))
	}
	if len(domains) > len(state.Authority().Domains) {
		slices.Sort(domains)
		proposals = append(proposals, componentUpdate(policy.ComponentAuthority, policy.SetAuthority(policy.Authority{Domains: domains})))
	}
	return m.commit(records, proposals...)
}

// removal makes a commit that takes out a user whose only device w is.
func (m *member) removal(w *member) (wire.Handshake, error) {
	state, err := m.policy()
	if err != nil {
		return wire.Handshake{}, err
	}
	leaf, _ := m.g.Public().Tree().LeafBySignatureKey(w.id.Signer.PublicKey())
	return m.commit(nil, group.Remove(leaf), componentUpdate(policy.ComponentParticipants, policy.RemoveUsers(state, string(w.user))))
}

// offer has the homeserver decide a handshake, and enters the epoch. It returns the
// time from the request to its answer.
func (m *member) offer(h wire.Handshake, err error) (time.Duration, error) {
	if err != nil {
		return 0, err
	}
	var took time.Duration
	err = patient(func() error {
		began := time.Now()
		_, err := m.home.Handshake(context.Background(), m.room, h)
		took = time.Since(began)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("handshake in %s: %w", m.room, err)
	}
	return took, m.g.Merge(m.g.Pending())
}

// follow enters the epoch that somebody else's commit began.
func (m *member) follow(commit []byte) error {
	parsed, err := mls.Parse(commit)
	if err != nil {
		return err
	}
	e, err := m.g.Process(parsed)
	if err == nil {
		err = m.g.Merge(e.Transition)
	}
	return err
}

// welcome has others join by the commit that waits, before it is merged.
func (m *member) welcome(who ...*member) error {
	t := m.g.Pending()
	for _, w := range who {
		parsed, err := mls.Parse(t.Welcome)
		if err != nil {
			return err
		}
		w.room = m.room
		if w.g, err = group.Join(memberConfig, parsed.Welcome, w.kp, group.JoinOptions{RatchetTree: t.RatchetTree}); err != nil {
			return err
		}
	}
	return nil
}

// found makes a Group of m and others, who join it, and waits until their
// homeservers have it.
func (m *member) found(name string, others ...*member) error {
	if err := m.create(name); err != nil {
		return err
	}
	if len(others) == 0 {
		return nil
	}
	h, err := m.addition(true, others...)
	if err == nil {
		err = m.welcome(others...)
	}
	if _, err = m.offer(h, err); err != nil {
		return err
	}
	for _, o := range others {
		if err := o.await(m.g.Epoch()); err != nil {
			return err
		}
	}
	return nil
}

// await waits until the member's homeserver has the Group in an epoch.
func (m *member) await(epoch uint64) error {
	for until := time.Now().Add(appearance); ; time.Sleep(5 * time.Millisecond) {
		r, err := m.home.Room(context.Background(), m.room)
		if err == nil && r.Epoch >= epoch {
			return nil
		}
		if time.Now().After(until) {
			return fmt.Errorf("%s is in epoch %d at %s, not %d: %v", m.room, r.Epoch, m.hs.domain, epoch, err)
		}
	}
}

// catchUp reads to the end of the member's logs: shown goes on from there. A first
// Sync begins at the end, so one that races with a commit may never show it.
func (m *member) catchUp() error {
	for {
		s, err := m.home.Sync(context.Background(), wire.GetSync{Since: m.next})
		if err != nil {
			return err
		}
		if m.next = s.Next; !s.More {
			return nil
		}
	}
}

// shown waits until the homeserver hands a commit out: with its certificate.
func (m *member) shown(commit []byte) error {
	for until := time.Now().Add(appearance); time.Now().Before(until); {
		s, err := m.home.Sync(context.Background(), wire.GetSync{Since: m.next, Wait: appearance.Milliseconds()})
		if err != nil {
			return err
		}
		m.next = s.Next
		for i := range s.Events {
			if e := &s.Events[i]; e.Room == m.room && bytes.Equal(e.Sealed, commit) {
				if len(e.Certificate) == 0 {
					return fmt.Errorf("%s: a commit without a certificate", m.room)
				}
				return nil
			}
		}
	}
	return fmt.Errorf("%s: the commit is not shown", m.room)
}
