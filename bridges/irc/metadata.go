package irc

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fxamacker/cbor/v2"
	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of metadata. A key with its value fits one line beside a nick and a
// channel name; all of an entity's fit one stored value.
const (
	maxMetaSubs  = 32
	maxMetaKeys  = 16
	maxMetaKey   = 64  // octets of a key
	maxMetaValue = 300 // octets of a value
	metaBucket   = "irc.metadata"
)

const capMetadata = capMetadata2 | capMetadata3

func init() {
	limits := func(*Server) string {
		return fmt.Sprintf("before-connect,max-subs=%d,max-keys=%d,max-key-bytes=%d,max-value-bytes=%d",
			maxMetaSubs, maxMetaKeys, maxMetaKey, maxMetaValue)
	}
	off := func(s *session, on bool) {
		if !on && !s.caps().has(capMetadata) {
			s.srv.metaMu.Lock()
			s.subs = nil
			s.srv.metaMu.Unlock()
		}
	}
	offer(
		capability{bit: capMetadata2, name: "draft/metadata-2", value: limits, on: off},
		capability{bit: capMetadata3, name: "draft/metadata-3", value: limits, on: off},
	)
	addCommands(commandTable{
		"METADATA": {min: 2, early: true, cost: 2, run: cmdMetadata},
	})
}

// A metaSet is the metadata of a user or a channel. It is not changed: a change
// makes a new one.
type metaSet struct{ values map[string]string }

var metaMode = func() cbor.DecMode {
	m, err := cbor.DecOptions{MaxMapPairs: 131072, DupMapKey: cbor.DupMapKeyEnforcedAPF}.DecMode()
	if err != nil {
		panic(err) // constants: cannot fail
	}
	return m
}()

// A metaTarget is whose metadata a command is about.
type metaTarget struct {
	name string
	user *user
	ch   *channel
	key  string // in the store; "" for guests and for those other networks relay
}

// validMetaKey holds a key to a-z 0-9 _ . / - (the draft, "Keys and Values").
func validMetaKey(k string) bool {
	for i := 0; i < len(k); i++ {
		c := k[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == '/' || c == '-') {
			return false
		}
	}
	return k != "" && len(k) <= maxMetaKey
}

// metaTarget finds a target; "*" is the client itself. Secret channels are
// visible to their members only.
func (s *session) metaTarget(name string) (t metaTarget, ok bool) {
	w := s.srv.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	if strings.HasPrefix(name, "#") {
		ch := w.channelByName(name)
		if ch == nil || ch.room.Policy.Secret && ch.index[s.user] == nil {
			return t, false
		}
		return metaTarget{name: ch.name(), ch: ch, key: string(ch.room.ID)}, true
	}
	u := s.user
	if name != "*" {
		u = w.userByNick(name)
	}
	if u == nil {
		return t, false
	}
	return s.srv.userTarget(u), true
}

// userTarget is u as a target. The world's lock is held.
func (srv *Server) userTarget(u *user) metaTarget {
	t := metaTarget{name: u.profile.Name, user: u}
	if u.local && u.profile.Account != "" {
		t.key = string(core.NewUserURI(srv.cfg.Domain, AccountKey(u.profile.Account)))
	}
	return t
}

// set returns where the target's metadata is kept in memory.
func (t *metaTarget) set() **metaSet {
	if t.ch != nil {
		return &t.ch.meta
	}
	return &t.user.meta
}

// loadMeta reads what the store has for t, once. It is not called under the
// world's lock.
func (s *session) loadMeta(t *metaTarget) (*metaSet, error) {
	srv := s.srv
	srv.metaMu.Lock()
	have := *t.set()
	srv.metaMu.Unlock()
	if have != nil {
		return have, nil
	}
	fresh := &metaSet{values: map[string]string{}}
	if t.key != "" {
		err := srv.gw.View(s.ctx, func(r core.Reader) error {
			data, err := r.Value(metaBucket, t.key)
			if core.CodeOf(err) == core.NotFound && err != nil {
				return nil
			}
			if err == nil {
				err = metaMode.Unmarshal(data, &fresh.values)
			}
			return err
		})
		if err != nil {
			return nil, core.Errorf(core.Unavailable, "the metadata cannot be read now: %w", err)
		}
	}
	srv.metaMu.Lock()
	defer srv.metaMu.Unlock()
	if *t.set() == nil {
		*t.set() = fresh
	}
	return *t.set(), nil
}

// metaValues returns what is shown of t: what was set, and for users what their
// profile says. The world's lock is held.
func (srv *Server) metaValues(t *metaTarget) map[string]string {
	srv.metaMu.Lock()
	have := *t.set()
	srv.metaMu.Unlock()
	values := map[string]string{}
	if t.user != nil {
		profileMeta(t.user, &t.user.profile, values)
	}
	if have != nil {
		maps.Copy(values, have.values)
	}
	return values
}

// profileMeta says in values what a profile means as metadata. The nick of a
// local user is what they are called; somebody from elsewhere has a name too.
func profileMeta(u *user, p *core.Profile, values map[string]string) {
	if p.Avatar != "" && len(p.Avatar) <= maxMetaValue {
		values["avatar"] = p.Avatar
	}
	if !u.local && p.Real != "" {
		values["display-name"] = cut(p.Real, maxMetaValue)
	}
}

// changeMeta sets keys of t (an absent value drops the key) and keeps the result.
// It returns LIMIT_REACHED as TooLarge, or the store's error.
func (s *session) changeMeta(t *metaTarget, changes map[string]*string) error {
	srv := s.srv
	srv.metaStore.Lock() // one change at a time, so that none is lost
	defer srv.metaStore.Unlock()
	old, err := s.loadMeta(t)
	if err != nil {
		return err
	}
	next := &metaSet{values: maps.Clone(old.values)}
	for k, v := range changes {
		if v == nil {
			delete(next.values, k)
		} else {
			next.values[k] = *v
		}
	}
	if len(next.values) > maxMetaKeys && len(next.values) > len(old.values) {
		return core.Errorf(core.TooLarge, "at most %d keys", maxMetaKeys)
	}
	if t.key != "" && !maps.Equal(old.values, next.values) {
		var data []byte
		if len(next.values) > 0 {
			if data, err = cbor.Marshal(next.values); err != nil {
				return core.Errorf(core.Internal, "metadata: %w", err)
			}
		}
		if _, err := srv.gw.Do(s.ctx, core.PutValue{Bucket: metaBucket, Key: t.key, Data: data}); err != nil {
			return err
		}
	}
	srv.metaMu.Lock()
	*t.set() = next
	srv.metaMu.Unlock()
	return nil
}

// mayChange reports whether s may set metadata of t: their own, and that of
// channels they are an operator of.
func (s *session) mayChange(t *metaTarget) bool {
	if t.ch == nil {
		return t.user == s.user
	}
	s.srv.world.mu.RLock()
	defer s.srv.world.mu.RUnlock()
	m := t.ch.index[s.user]
	return m != nil && m.role >= core.RoleOperator
}

// notifyMeta tells those who subscribed to key that it changed, but not the
// session that did it. The world's lock is held.
func (srv *Server) notifyMeta(t *metaTarget, key, value string, from *session) {
	var ss []*session
	if t.ch != nil {
		ss = t.ch.receivers
	} else {
		ss = srv.world.peers(t.user)
		ss = append(ss, except(srv.world.watch[srv.world.fold.fold(t.name)], t.user)...)
	}
	srv.metaMu.Lock()
	defer srv.metaMu.Unlock()
	told := map[*session]struct{}{}
	for _, s := range ss {
		_, wants := s.subs[key]
		_, twice := told[s]
		if s == from || !wants || twice || !s.caps().has(capMetadata) {
			continue
		}
		told[s] = struct{}{}
		a := metaAnswer{s: s}
		a.push(t.name, key, value)
		s.queue.push(a.b)
	}
}

// showProfileMeta notifies of what a change of profile means as metadata. The
// world's lock is held.
func (srv *Server) showProfileMeta(u *user, old *core.Profile) {
	if u.local && old.Account != u.profile.Account { // from now on it is the account's
		srv.metaMu.Lock()
		u.meta = nil
		srv.metaMu.Unlock()
	}
	if old.Avatar == u.profile.Avatar && (u.local || old.Real == u.profile.Real) {
		return
	}
	was, now := map[string]string{}, map[string]string{}
	profileMeta(u, old, was)
	profileMeta(u, &u.profile, now)
	t := srv.userTarget(u)
	for _, key := range [...]string{"avatar", "display-name"} {
		if was[key] != now[key] {
			srv.notifyMeta(&t, key, now[key], nil)
		}
	}
}

// startMetadata is part of the welcome: what the account has set before, what
// the client has set before registration, and both shown to it.
func (s *session) startMetadata() {
	w := s.srv.world
	w.mu.RLock()
	t := s.srv.userTarget(s.user)
	w.mu.RUnlock()
	set, err := s.loadMeta(&t)
	if err == nil && set.values["avatar"] != "" {
		w.mu.Lock()
		if p := s.user.profile; p.Avatar == "" {
			p.Avatar = set.values["avatar"]
			s.user.setProfile(p)
		}
		w.mu.Unlock()
	}
	if len(s.preMeta) > 0 {
		changes := map[string]*string{}
		for k, v := range s.preMeta {
			changes[k] = &v
		}
		if err := s.changeMeta(&t, changes); err != nil {
			s.metaFault(&t, "*", err)
		} else {
			s.afterChange(&t, changes)
		}
		s.preMeta = nil
	}
	if s.caps().has(capMetadata) {
		w.mu.RLock()
		values := s.srv.metaValues(&t)
		w.mu.RUnlock()
		s.inMetaBatch("metadata", t.name, func(a *metaAnswer) {
			for _, k := range slices.Sorted(maps.Keys(values)) {
				a.push(t.name, k, values[k])
			}
		})
	}
}

// afterChange tells of changes, and shows an avatar to the other networks too.
func (s *session) afterChange(t *metaTarget, changes map[string]*string) {
	w := s.srv.world
	w.mu.RLock()
	p := core.Profile{}
	if t.user != nil {
		p = t.user.profile
	}
	for _, k := range slices.Sorted(maps.Keys(changes)) {
		value := ""
		if v := changes[k]; v != nil {
			value = *v
		}
		if k != "avatar" || t.ch != nil {
			s.srv.notifyMeta(t, k, value, s)
		}
	}
	w.mu.RUnlock()
	v, touched := changes["avatar"]
	if t.user != s.user || !touched {
		return
	}
	old := p.Avatar
	p.Avatar = ""
	if v != nil && strings.HasPrefix(*v, "https://") {
		p.Avatar = *v
	}
	if p.Avatar != old {
		s.changeProfile("METADATA", p) // tells the subscribers as well
	}
}
