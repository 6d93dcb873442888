package policy

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/isthmus-chat/isthmus/mls"
)

func number(n uint32) *uint32 { return &n }

// samples has a value of every component, with every field set.
func samples() map[mls.ComponentID][]byte {
	caps := ClientCapabilities{[]uint16{1}, []uint16{1, 2}, []uint16{6}, []uint16{8, 10}, []uint16{1}, []uint16{2},
		[]mls.ComponentID{0x22}, []mls.ComponentID{0x20}, []mls.MediaType{{Type: []byte("text/plain"), Parameters: []mls.Parameter{{Name: []byte("charset"), Value: []byte("utf-8")}}}}, []uint8{1}}
	types := []mls.MediaType{{Type: []byte("image/png")}}
	return map[mls.ComponentID][]byte{
		ComponentParticipants:       ParticipantList{{user(0), RoleOwner}, {user(1), RoleBanned}}.AppendTo(nil),
		ComponentMetadata:           Metadata{"mimi://a.example/r/x", "X", []Description{{"text/markdown", "en", "**x**"}}, "https://a.example/x.png", "about x", "calm"}.AppendTo(nil),
		ComponentOperational:        Operational{caps, caps, ClientCapabilities{}, []uint16{1}, true, true, StrategyRandomDelay, 10, 20, Span{1, 2, 3}, 7, 256, 1000, 1, 2, 3, Span{4, 5, 6}, 9, Span{7, 8, 9}, 11}.AppendTo(nil),
		ComponentRoles:              (&blueprint{open: true}).roles().AppendTo(nil),
		ComponentPreauth:            Preauth{{[]Claim{{1, "id", "x"}}, Role{Index: 2, Name: "member", Maximum: number(3)}}}.AppendTo(nil),
		ComponentBaseRoom:           BaseRoom{false, true, "mimi://a.example/r/y", true, number(100), number(50), false, true, false, []mls.ComponentID{0x25}}.AppendTo(nil),
		ComponentStatusNotification: StatusNotification{Required, Forbidden}.AppendTo(nil),
		ComponentJoinLinkPolicy:     JoinLinkPolicy{true, "https://a.example/j", true, 3600}.AppendTo(nil),
		ComponentJoinLinks:          JoinLinks{"https://a.example/1", "https://a.example/2"}.AppendTo(nil),
		ComponentLinkPreview:        LinkPreview{Optional, Required, Forbidden, Required, []string{"https://p.example"}}.AppendTo(nil),
		ComponentAsset:              Asset{1, []UploadDomains{{"a.example", []string{"files.a.example"}}}, []uint8{1, 2}, []uint8{0}, 2, 1, 2, 3, 4, types, &types}.AppendTo(nil),
		ComponentLogging:            Logging{Required, []string{"mimi://a.example/d/log"}, "https://m", "https://h"}.AppendTo(nil),
		ComponentHistory:            History{Optional, []uint32{5, 7}, true, 86400}.AppendTo(nil),
		ComponentBots:               Bots{{"poker", "deals", "https://bot", false, 2, true, true}}.AppendTo(nil),
		ComponentExpiration:         Expiration{Required, 60, 3600, number(600)}.AppendTo(nil),
		ComponentAuthority:          Authority{[]string{"a.example", "b.example"}, TwoThirds}.AppendTo(nil),
	}
}

// recode reads and writes a component again.
func recode(c mls.ComponentID, b []byte) ([]byte, error) {
	type encoder interface{ AppendTo([]byte) []byte }
	var v encoder
	var err error
	switch c {
	case ComponentParticipants:
		v, err = ParseParticipantList(b)
	case ComponentMetadata:
		v, err = ParseMetadata(b)
	case ComponentOperational:
		v, err = ParseOperational(b)
	case ComponentRoles:
		v, err = ParseRoles(b)
	case ComponentPreauth:
		v, err = ParsePreauth(b)
	case ComponentBaseRoom:
		v, err = ParseBaseRoom(b)
	case ComponentStatusNotification:
		v, err = ParseStatusNotification(b)
	case ComponentJoinLinkPolicy:
		v, err = ParseJoinLinkPolicy(b)
	case ComponentJoinLinks:
		v, err = ParseJoinLinks(b)
	case ComponentLinkPreview:
		v, err = ParseLinkPreview(b)
	case ComponentAsset:
		v, err = ParseAsset(b)
	case ComponentLogging:
		v, err = ParseLogging(b)
	case ComponentHistory:
		v, err = ParseHistory(b)
	case ComponentBots:
		v, err = ParseBots(b)
	case ComponentExpiration:
		v, err = ParseExpiration(b)
	case ComponentAuthority:
		v, err = ParseAuthority(b)
	default:
		return nil, ErrComponent
	}
	if err != nil {
		return nil, err
	}
	return v.AppendTo(nil), nil
}

func TestEveryComponentIsReadAndWritten(t *testing.T) {
	all := samples()
	dict := mls.AppData{}
	for _, c := range Components() {
		b, ok := all[c]
		if !ok {
			t.Fatalf("no sample of component %#x", c)
		}
		if again, err := recode(c, b); err != nil || !bytes.Equal(again, b) {
			t.Errorf("component %#x: %v, %x", c, err, again)
		}
		// A prefix is never whole, and neither is more.
		for n := range b {
			if _, err := recode(c, b[:n]); !errors.Is(err, ErrMalformed) {
				t.Errorf("component %#x: the first %d octets: %v", c, n, err)
			}
		}
		if _, err := recode(c, append(bytes.Clone(b), 0)); !errors.Is(err, ErrMalformed) {
			t.Errorf("component %#x: an octet more: %v", c, err)
		}
		dict = dict.With(c, b)
	}
	op, err := ParseOperational(all[ComponentOperational])
	if err != nil {
		t.Fatal(err)
	}
	op.Mandatory = ClientCapabilities{} // that would be refused
	s := mustParse(t, dict.With(ComponentBaseRoom, BaseRoom{MaxUsers: number(50)}.AppendTo(nil)).With(ComponentOperational, op.AppendTo(nil)))
	if s.EpochTolerance() != 7 || s.Metadata().Name != "X" || s.Authority().Rule != TwoThirds || !s.Banned(user(1)) || *s.Base().MaxUsers != 50 {
		t.Errorf("%+v", s)
	}
	if diff := cmp.Diff([]string{"a.example"}, s.Domains()); diff != "" {
		t.Error(diff)
	}
	if links, policy := s.JoinLinks(); len(links) != 2 || policy.Expiration != 3600 || len(s.Preauth()) != 1 || len(s.Roles()) != 8 {
		t.Error("join links, preauthorization or roles are not those of the dictionary")
	}
}

// room-policy §3 to §7: but for lists that are patched, the update is the data.
func TestComponentReplaces(t *testing.T) {
	for c, b := range samples() {
		if c == ComponentParticipants || c == ComponentJoinLinks {
			continue
		}
		got, err := Component(c, nil, false, [][]byte{b})
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("component %#x: %v", c, err)
		}
		if _, err := Component(c, b, true, [][]byte{b, b}); !errors.Is(err, ErrMalformed) {
			t.Errorf("component %#x is replaced twice: %v", c, err)
		}
		if _, err := Component(c, b, true, [][]byte{b[:len(b)-1]}); !errors.Is(err, ErrMalformed) {
			t.Errorf("component %#x takes half of an update: %v", c, err)
		}
	}
	if _, err := Component(0x0031, nil, false, [][]byte{{0}}); !errors.Is(err, ErrComponent) {
		t.Errorf("an unknown component: %v", err)
	}
}

func TestJoinLinksArePatched(t *testing.T) {
	current := JoinLinks{"a", "b", "c"}.AppendTo(nil)
	update := func(removed []uint32, added ...string) []byte { return JoinLinksUpdate{removed, added}.AppendTo(nil) }
	got, err := Component(ComponentJoinLinks, current, true, [][]byte{update([]uint32{2, 0}, "d"), update(nil, "e")})
	if diff := cmp.Diff(JoinLinks{"b", "d", "e"}.AppendTo(nil), got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	for _, bad := range [][][]byte{
		{update([]uint32{3})}, {update([]uint32{1, 1})}, {update([]uint32{0}), update([]uint32{1})}, {{1}},
	} {
		if _, err := Component(ComponentJoinLinks, current, true, bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %v", bad, err)
		}
	}
	if got, err = Component(ComponentJoinLinks, nil, false, [][]byte{update(nil, "a")}); err != nil || len(got) != 3 {
		t.Errorf("%x, %v", got, err)
	}
}

func TestMalformedComponents(t *testing.T) {
	banned := Role{Index: 1, Name: "banned"}
	for name, err := range map[string]error{
		"canOpenJoin on role 2 (§8.1.1)":            check(ParseRoles)(Roles{{Index: 2, Capabilities: []Capability{CanOpenJoin}}}.AppendTo(nil)),
		"a role twice":                              check(ParseRoles)(Roles{banned, banned}.AppendTo(nil)),
		"role 1 by another name (§8.1.3)":           check(ParseRoles)(Roles{{Index: 1, Name: "guest"}}.AppendTo(nil)),
		"the banned by another number (§8.1.3)":     check(ParseRoles)(Roles{{Index: 2, Name: "banned"}}.AppendTo(nil)),
		"a parent and no dependence (§5)":           check(ParseBaseRoom)(BaseRoom{Parent: "mimi://a/r/x"}.AppendTo(nil)),
		"dependence and no parent (§5)":             check(ParseBaseRoom)(BaseRoom{ParentDependent: true}.AppendTo(nil)),
		"autodetection is mandatory (§6.3)":         check(ParseLinkPreview)(LinkPreview{Autodetect: Required, ProxyUse: Forbidden}.AppendTo(nil)),
		"a proxy that is not there (§6.3)":          check(ParseLinkPreview)(LinkPreview{}.AppendTo(nil)),
		"logging by nobody (§6.5)":                  check(ParseLogging)(Logging{Logging: Required}.AppendTo(nil)),
		"history from the banned (§6.6)":            check(ParseHistory)(History{Roles: []uint32{1}}.AppendTo(nil)),
		"a local bot with a role (§6.7)":            check(ParseBots)(Bots{{Local: true, Role: 2}}.AppendTo(nil)),
		"an optionality of 3":                       check(ParseStatusNotification)([]byte{3, 0}),
		"a truth of 2":                              check(ParseJoinLinkPolicy)([]byte{2, 0, 0, 0, 0, 0, 0}),
		"text with NUL (protocol-06 §7.6)":          check(ParseMetadata)(Metadata{Name: "a\x00"}.AppendTo(nil)),
		"text that is not UTF-8 (protocol-06 §7.6)": check(ParseMetadata)(Metadata{Name: "\xff"}.AppendTo(nil)),
		"an authority of none":                      check(ParseAuthority)(Authority{}.AppendTo(nil)),
		"an authority of one twice":                 check(ParseAuthority)(Authority{Domains: []string{"a", "a"}}.AppendTo(nil)),
		"an authority of eight":                     check(ParseAuthority)(Authority{Domains: []string{"a", "b", "c", "d", "e", "f", "g", "h"}}.AppendTo(nil)),
		"an authority of no host":                   check(ParseAuthority)(Authority{Domains: []string{"a/b"}}.AppendTo(nil)),
	} {
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestListsAreBounded(t *testing.T) {
	long := make(JoinLinks, MaxJoinLinks+1)
	if err := check(ParseJoinLinks)(long.AppendTo(nil)); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	if _, err := ParseMetadata(Metadata{Name: string(make([]byte, MaxText+1))}.AppendTo(nil)); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	full := make(JoinLinks, MaxJoinLinks)
	_, err := Component(ComponentJoinLinks, full.AppendTo(nil), true, [][]byte{JoinLinksUpdate{Added: []string{"x"}}.AppendTo(nil)})
	if !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

func TestStatesThatDoNotFit(t *testing.T) {
	good := roomOf(3)
	roles, _ := good.Find(ComponentRoles)
	edit := func(f func(Roles)) []byte {
		r, err := ParseRoles(roles)
		if err != nil {
			t.Fatal(err)
		}
		f(r)
		return r.AppendTo(nil)
	}
	for name, dict := range map[string]mls.AppData{
		"no participants":  good.Without(ComponentParticipants),
		"no roles":         good.Without(ComponentRoles),
		"no authority":     good.Without(ComponentAuthority),
		"an unknown role":  good.With(ComponentParticipants, ParticipantList{{user(0), 9}}.AppendTo(nil)),
		"too few (§3)":     good.With(ComponentRoles, edit(func(r Roles) { r[RoleOwner].Minimum = 2 })),
		"too many (§3)":    good.With(ComponentRoles, edit(func(r Roles) { r[RoleMember].Maximum = number(1) })),
		"max_users (§5)":   good.With(ComponentBaseRoom, BaseRoom{MaxUsers: number(2)}.AppendTo(nil)),
		"fixed, open (§5)": good.With(ComponentBaseRoom, BaseRoom{FixedMembership: true}.AppendTo(nil)),
		"a bad component":  good.With(ComponentExpiration, []byte{7}),
	} {
		if _, err := ParseState(dict); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, base := range map[string]BaseRoom{
		"a parent's participants": {ParentDependent: true, Parent: "mimi://a.example/r/x"},
		"pseudonyms":              {Pseudonyms: true},
	} {
		next := good.With(ComponentBaseRoom, base.AppendTo(nil))
		if _, err := ParseState(next); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := mustParse(t, good).Next(next, []mls.ComponentID{ComponentBaseRoom}); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s, later: %v", name, err)
		}
	}
	for name, c := range map[string]Operational{
		"mandatory capabilities":      {Mandatory: ClientCapabilities{Suites: []uint16{1}}},
		"mandatory content":           {Mandatory: ClientCapabilities{ContentTypes: []uint8{1}}},
		"forbidden capabilities":      {Forbidden: ClientCapabilities{Components: []mls.ComponentID{1}}},
		"a policy that cannot change": {Forbidden: ClientCapabilities{Proposals: []uint16{uint16(mls.ProposalAppDataUpdate)}}},
	} {
		next := good.With(ComponentOperational, c.AppendTo(nil))
		if _, err := ParseState(next); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := mustParse(t, good).Next(next, []mls.ComponentID{ComponentOperational}); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s, later: %v", name, err)
		}
	}
	fine := Operational{Default: ClientCapabilities{Suites: []uint16{1}}, Forbidden: ClientCapabilities{Proposals: []uint16{5}}}
	if _, err := ParseState(good.With(ComponentOperational, fine.AppendTo(nil))); err != nil {
		t.Errorf("defaults, and forbidden proposals: %v", err)
	}
	banned := good.With(ComponentParticipants, ParticipantList{{user(0), 7}, {user(1), 2}, {user(2), 1}}.AppendTo(nil))
	if _, err := ParseState(banned.With(ComponentBaseRoom, BaseRoom{MaxUsers: number(2)}.AppendTo(nil))); err != nil {
		t.Errorf("the banned do not count against max_users (§5): %v", err)
	}
	if _, err := ParseState(good.With(0x0001, []byte("whatever"))); err != nil {
		t.Errorf("other components are others' concern: %v", err)
	}
	s := mustParse(t, good)
	if n, err := s.Next(good, nil); err != nil || n != s {
		t.Error("nothing changed, and the state did")
	}
	if s.EpochTolerance() != DefaultEpochTolerance || s.Base().MultiDevice != true {
		t.Error("defaults")
	}
}
