package irc

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/isthmus-chat/isthmus/core"
)

// cmdMetadata answers METADATA as draft/metadata-2 has it, and to clients of
// draft/metadata-3 (https://github.com/ircv3/ircv3-specifications/pull/613) as that
// has it: changes are pushed as numerics, and the FAIL codes have other names.
func cmdMetadata(s *session, l *line) {
	sub := upper(l.params[1])
	keys := l.params[2:]
	switch sub {
	case "GET", "SET", "SUB", "UNSUB":
		if len(keys) == 0 {
			s.num("461", "METADATA", "Not enough parameters")
			return
		}
	case "LIST", "CLEAR", "SUBS", "SYNC":
	default:
		if s.metaDraft() == 3 {
			s.fail("METADATA", "INVALID_PARAMS", l.params[1], "Unknown subcommand")
		} else {
			s.fail("METADATA", "SUBCOMMAND_INVALID", l.params[1], "Unknown subcommand")
		}
		return
	}
	switch sub {
	case "SUB", "UNSUB", "SUBS":
		s.metaSubs(sub, l.params[0], keys)
		return
	case "SYNC":
		if upper(l.params[0]) == "*ALL" && s.reg == nil {
			s.syncAll(nil)
			return
		}
	}
	if s.reg != nil {
		s.earlyMeta(sub, l.params[0], keys)
		return
	}
	t, ok := s.metaTarget(l.params[0])
	if !ok {
		s.fail("METADATA", "INVALID_TARGET", l.params[0], "Invalid metadata target")
		return
	}
	if _, err := s.loadMeta(&t); err != nil {
		s.refuse("METADATA", t.name, err)
		return
	}
	switch sub {
	case "GET":
		s.metaGet(&t, keys)
	case "LIST":
		s.metaList(&t)
	case "SET":
		s.metaSet(&t, keys)
	case "CLEAR":
		s.metaClear(&t)
	case "SYNC":
		s.inMetaBatch("metadata", t.name, func(a *metaAnswer) { s.syncTarget(a, &t) })
	}
}

// metaDraft is which of the two drafts the client speaks.
func (s *session) metaDraft() int {
	if s.caps().has(capMetadata3) {
		return 3
	}
	return 2
}

// metaCode translates a FAIL code of draft 2 to what the client's draft calls it.
func (s *session) metaCode(code string) string {
	if s.metaDraft() == 2 {
		return code
	}
	switch code {
	case "KEY_INVALID":
		return "INVALID_KEY"
	case "VALUE_INVALID":
		return "INVALID_VALUE"
	case "TOO_MANY_SUBS":
		return "LIMIT_REACHED"
	}
	return code
}

// A metaAnswer is lines about metadata, in a batch if ref is set.
type metaAnswer struct {
	s   *session
	ref string
	b   []byte
}

func (a *metaAnswer) begin() (from int) {
	from = len(a.b)
	if a.ref != "" {
		a.b = append(appendTag(a.b, from, "batch", a.ref), ' ')
	}
	body := len(a.b)
	a.b = append(append(a.b, ':'), a.s.srv.cfg.ServerName...)
	return body
}

// num writes a numeric.
func (a *metaAnswer) num(number string, params ...string) {
	body := a.begin()
	a.b = append(append(a.b, ' '), number...)
	a.b = appendMiddle(a.b, a.s.shownNick())
	a.b = endLine(appendParams(a.b, params), body)
}

// push writes the value of a key as the client's draft has it; "" for a key that
// is not set.
func (a *metaAnswer) push(target, key, value string) {
	switch {
	case a.s.metaDraft() == 3 && value == "":
		a.num("766", target, key, "key not set")
	case a.s.metaDraft() == 3:
		a.num("761", target, key, "*", value)
	default:
		body := a.begin()
		a.b = appendMiddle(append(a.b, " METADATA"...), target)
		a.b = append(appendMiddle(a.b, key), " *"...)
		if value != "" {
			a.b = appendTrailing(a.b, value)
		}
		a.b = endLine(a.b, body)
	}
}

// fault writes a FAIL, or the WARN that draft 3 has inside of batches.
func (a *metaAnswer) fault(code string, params ...string) {
	body := a.begin()
	kind := " FAIL METADATA "
	if a.s.metaDraft() == 3 {
		kind = " WARN METADATA "
	}
	a.b = append(append(a.b, kind...), a.s.metaCode(code)...)
	a.b = endLine(appendParams(a.b, params), body)
}

// inMetaBatch sends what f writes as a batch, to clients that have them.
func (s *session) inMetaBatch(kind, param string, f func(*metaAnswer)) {
	a := metaAnswer{s: s}
	if s.caps().has(capBatch) {
		a.ref = s.srv.batchRef()
		a.b = s.appendBatch(a.b, "", a.ref, kind, param)
	}
	f(&a)
	if a.ref != "" {
		a.b = s.appendBatchEnd(a.b, a.ref)
	}
	s.out = append(s.out, a.b...)
	s.ended(0)
}

func (s *session) metaGet(t *metaTarget, keys []string) {
	values := s.shownMeta(t)
	s.inMetaBatch("metadata", t.name, func(a *metaAnswer) {
		for _, k := range keys {
			v, ok := values[k]
			switch {
			case !validMetaKey(k):
				a.fault("KEY_INVALID", k, "Invalid key")
			case ok:
				a.num("761", t.name, k, "*", v)
			default:
				a.num("766", t.name, k, "key not set")
			}
		}
	})
}

func (s *session) metaList(t *metaTarget) {
	values := s.shownMeta(t)
	s.inMetaBatch("metadata", t.name, func(a *metaAnswer) {
		for _, k := range slices.Sorted(maps.Keys(values)) {
			a.num("761", t.name, k, "*", values[k])
		}
	})
}

func (s *session) shownMeta(t *metaTarget) map[string]string {
	s.srv.world.mu.RLock()
	defer s.srv.world.mu.RUnlock()
	return s.srv.metaValues(t)
}

// checkMeta answers a key or value that cannot be; it reports whether both can.
func (s *session) checkMeta(keys []string) bool {
	switch {
	case !validMetaKey(keys[0]):
		s.fail("METADATA", s.metaCode("KEY_INVALID"), orWord(keys[0], "*"), "Invalid key")
	case len(keys) > 1 && (len(keys[1]) > maxMetaValue || !utf8.ValidString(keys[1])):
		if s.metaDraft() == 3 {
			s.fail("METADATA", "INVALID_VALUE", keys[0], "Value is too long or not UTF-8")
		} else {
			s.fail("METADATA", "VALUE_INVALID", "Value is too long or not UTF-8")
		}
	default:
		return true
	}
	return false
}

func (s *session) metaSet(t *metaTarget, keys []string) {
	if !s.checkMeta(keys) {
		return
	}
	key := keys[0]
	if !s.mayChange(t) {
		s.fail("METADATA", "KEY_NO_PERMISSION", t.name, key, "You do not have permission to set that key there")
		return
	}
	changes := map[string]*string{key: nil}
	if len(keys) > 1 && keys[1] != "" {
		changes[key] = &keys[1]
	}
	if _, set := s.shownMeta(t)[key]; !set && changes[key] == nil && s.metaDraft() == 2 {
		s.fail("METADATA", "KEY_NOT_SET", t.name, key, "key not set")
		return
	}
	if err := s.changeMeta(t, changes); err != nil {
		s.metaFault(t, key, err)
		return
	}
	if v := changes[key]; v != nil {
		s.num("761", t.name, key, "*", *v)
	} else {
		s.num("766", t.name, key, "key not set")
	}
	s.afterChange(t, changes)
}

// metaFault says why a change was refused.
func (s *session) metaFault(t *metaTarget, key string, err error) {
	if core.CodeOf(err) == core.TooLarge {
		if s.metaDraft() == 3 {
			s.fail("METADATA", "LIMIT_REACHED", t.name, itoa(maxMetaKeys), "Metadata limit reached")
		} else {
			s.fail("METADATA", "LIMIT_REACHED", t.name, "Metadata limit reached")
		}
		return
	}
	s.refuse("METADATA", key, err)
}

func (s *session) metaClear(t *metaTarget) {
	if !s.mayChange(t) {
		s.fail("METADATA", "KEY_NO_PERMISSION", t.name, "*", "You do not have permission to clear the keys there")
		return
	}
	values := s.shownMeta(t)
	changes := map[string]*string{}
	for k := range values {
		changes[k] = nil
	}
	if err := s.changeMeta(t, changes); err != nil {
		s.metaFault(t, "*", err)
		return
	}
	s.inMetaBatch("metadata", t.name, func(a *metaAnswer) {
		for _, k := range slices.Sorted(maps.Keys(values)) {
			a.num("766", t.name, k, "key not set")
		}
	})
	s.afterChange(t, changes)
}

// earlyMeta is METADATA before registration: the client's own, kept until then.
func (s *session) earlyMeta(sub, target string, keys []string) {
	if target != "*" {
		s.fail("METADATA", "INVALID_TARGET", target, "Only your own metadata before you are registered")
		return
	}
	list := func(keys []string) {
		s.inMetaBatch("metadata", "*", func(a *metaAnswer) {
			for _, k := range keys {
				if v, ok := s.preMeta[k]; ok {
					a.num("761", "*", k, "*", v)
				} else {
					a.num("766", "*", k, "key not set")
				}
			}
		})
	}
	switch sub {
	case "GET":
		list(keys)
	case "LIST":
		list(slices.Sorted(maps.Keys(s.preMeta)))
	case "CLEAR":
		was := slices.Sorted(maps.Keys(s.preMeta))
		s.preMeta = nil
		list(was)
	case "SYNC":
		s.num("774", "*", "5", "Synchronize metadata once you are registered")
	case "SET":
		if !s.checkMeta(keys) {
			return
		}
		if len(keys) < 2 || keys[1] == "" {
			delete(s.preMeta, keys[0])
			s.num("766", "*", keys[0], "key not set")
			return
		}
		if _, known := s.preMeta[keys[0]]; !known && len(s.preMeta) >= maxMetaKeys {
			s.metaFault(&metaTarget{name: "*"}, keys[0], core.Errorf(core.TooLarge, "too many keys"))
			return
		}
		if s.preMeta == nil {
			s.preMeta = map[string]string{}
		}
		s.preMeta[keys[0]] = keys[1]
		s.num("761", "*", keys[0], "*", keys[1])
	}
}

// metaSubs answers SUB, UNSUB and SUBS, which are about the session alone.
func (s *session) metaSubs(sub, target string, keys []string) {
	if target != "*" && s.srv.world.fold.fold(target) != s.srv.world.fold.fold(s.shownNick()) {
		s.fail("METADATA", "INVALID_TARGET", target, "Only your own subscriptions")
		return
	}
	switch sub {
	case "SUB":
		s.metaSub(keys)
	case "UNSUB":
		var done []string
		s.srv.metaMu.Lock()
		for _, k := range keys {
			if validMetaKey(k) {
				delete(s.subs, k)
				done = append(done, k)
			}
		}
		s.srv.metaMu.Unlock()
		s.numWords("771", done)
		s.badKeys(keys)
	case "SUBS":
		have := slices.Sorted(maps.Keys(s.subscribed()))
		s.inMetaBatch("metadata-subs", "", func(a *metaAnswer) {
			for len(have) > 0 {
				n := wordsOnLine(have)
				a.num("772", have[:n]...)
				have = have[n:]
			}
		})
	}
}

// subscribed returns a copy of the keys s has subscribed to.
func (s *session) subscribed() map[string]struct{} {
	s.srv.metaMu.Lock()
	defer s.srv.metaMu.Unlock()
	return maps.Clone(s.subs)
}

func (s *session) metaSub(keys []string) {
	var done []string
	added := map[string]struct{}{}
	over := ""
	s.srv.metaMu.Lock()
	for _, k := range keys {
		if !validMetaKey(k) {
			continue
		}
		if _, known := s.subs[k]; !known {
			if len(s.subs) >= maxMetaSubs {
				over = k
				break
			}
			if s.subs == nil {
				s.subs = map[string]struct{}{}
			}
			s.subs[k] = struct{}{}
			added[k] = struct{}{}
		}
		done = append(done, k)
	}
	s.srv.metaMu.Unlock()
	s.numWords("770", done)
	s.badKeys(keys)
	switch {
	case over != "" && s.metaDraft() == 3:
		s.fail("METADATA", "LIMIT_REACHED", over, itoa(maxMetaSubs), "Too many subscriptions")
	case over != "":
		s.fail("METADATA", "TOO_MANY_SUBS", over, "Too many subscriptions")
	}
	if s.reg == nil && len(added) > 0 {
		s.syncAll(added)
	}
}

func (s *session) badKeys(keys []string) {
	for _, k := range keys {
		if validMetaKey(k) {
			continue
		}
		if s.metaDraft() == 3 {
			s.warn("METADATA", "INVALID_KEY", orWord(k, "*"), "Invalid key")
		} else {
			s.fail("METADATA", "KEY_INVALID", orWord(k, "*"), "Invalid key")
		}
	}
}

// numWords sends words as parameters on as many numerics as it takes.
func (s *session) numWords(number string, words []string) {
	for len(words) > 0 {
		n := wordsOnLine(words)
		s.num(number, words[:n]...)
		words = words[n:]
	}
}

func wordsOnLine(words []string) int {
	n, size := 0, 0
	for n < len(words) && (n == 0 || n < 13 && size+len(words[n]) < listRoom) {
		size += len(words[n]) + 1
		n++
	}
	return n
}

// maxSync bounds the octets of one SYNC: what does not fit is asked for nick by
// nick, and a quarter of the send queue stays free for what is said meanwhile.
const maxSync = 128 << 10

// syncTarget writes the values of the keys that s has subscribed to: t's, and if
// t is a channel, those of everybody in it.
func (s *session) syncTarget(a *metaAnswer, t *metaTarget) {
	subs := s.subscribed()
	w := s.srv.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	a.values(t, subs)
	if t.ch != nil && len(subs) > 0 {
		for _, m := range t.ch.members {
			u := s.srv.userTarget(m.user)
			a.values(&u, subs)
		}
	}
}

// values writes those of t's values that are among keys. The world's lock is held.
func (a *metaAnswer) values(t *metaTarget, keys map[string]struct{}) {
	if len(keys) == 0 || len(a.b) > maxSync {
		return
	}
	values := a.s.srv.metaValues(t)
	for _, k := range slices.Sorted(maps.Keys(values)) {
		if _, ok := keys[k]; ok {
			a.push(t.name, k, values[k])
		}
	}
}

// syncAll writes the values of keys for everything s is told of: channels, who
// is in them, and whom it monitors; nil means all keys it has subscribed to.
func (s *session) syncAll(keys map[string]struct{}) {
	if keys == nil {
		keys = s.subscribed()
	}
	w := s.srv.world
	w.mu.RLock()
	var in []metaTarget
	for _, m := range s.user.in {
		in = append(in, metaTarget{name: m.ch.name(), ch: m.ch, key: string(m.ch.room.ID)})
	}
	w.mu.RUnlock()
	for i := range in {
		if _, err := s.loadMeta(&in[i]); err != nil {
			s.num("774", "*ALL", "5", "Synchronize metadata later")
			return
		}
	}
	write := func(a *metaAnswer) {
		w.mu.RLock()
		defer w.mu.RUnlock()
		seen := map[*user]struct{}{}
		show := func(u *user) {
			if _, twice := seen[u]; u == nil || twice {
				return
			}
			seen[u] = struct{}{}
			t := s.srv.userTarget(u)
			a.values(&t, keys)
		}
		show(s.user)
		for _, m := range s.user.in {
			a.values(&metaTarget{name: m.ch.name(), ch: m.ch}, keys)
			for _, o := range m.ch.members {
				show(o.user)
			}
		}
		for _, nick := range s.watched() {
			show(w.userByNick(nick))
		}
	}
	if s.metaDraft() == 3 {
		s.inMetaBatch("metadata", "*ALL", write)
		return
	}
	a := metaAnswer{s: s}
	write(&a)
	s.out = append(s.out, a.b...)
	s.ended(0)
}

// joinMetadata follows a JOIN: the metadata of the channel and of who is in it.
func (s *session) joinMetadata(ch *channel) {
	if !s.caps().has(capMetadata) || len(s.subscribed()) == 0 && s.metaDraft() == 2 {
		return
	}
	s.srv.world.mu.RLock()
	t := metaTarget{name: ch.name(), ch: ch, key: string(ch.room.ID)}
	s.srv.world.mu.RUnlock()
	if _, err := s.loadMeta(&t); err != nil {
		s.num("774", t.name, "5", "Synchronize metadata later")
		return
	}
	s.inMetaBatch("metadata", t.name, func(a *metaAnswer) { s.syncTarget(a, &t) })
}

// whoisMetadata adds the keys s has subscribed to to a WHOIS. The world's lock is
// held.
func (s *session) whoisMetadata(u *user) {
	subs := s.subscribed()
	if !s.caps().has(capMetadata) || len(subs) == 0 {
		return
	}
	t := s.srv.userTarget(u)
	values := s.srv.metaValues(&t)
	for _, k := range slices.Sorted(maps.Keys(values)) {
		if _, ok := subs[k]; ok && !strings.ContainsAny(values[k], "\r\n\x00") {
			s.num("760", t.name, k, "*", values[k])
		}
	}
}
