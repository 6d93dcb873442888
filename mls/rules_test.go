package mls

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
)

var update = flag.Bool("update", false, "write the table of rules into docs/MLS.md")

// Every rule is described, by a name and a sentence of its own.
func TestRulesComplete(t *testing.T) {
	if Rules != 125 || RuleVarint != 1 || RuleBounds != 116 || RuleMembershipProof != Rules {
		t.Fatalf("the rules are numbered 1 to %d, the last of RFC 9420 is %d", Rules, RuleBounds)
	}
	name := regexp.MustCompile(`^[A-Z][A-Za-z0-9]+$`)
	section := regexp.MustCompile(`^(RFC (9420|9180)|draft-[a-z-]+[a-z]) §\d+(\.\d+)*(, §\d+(\.\d+)*)*$`)
	text := regexp.MustCompile(`^[A-Z][^|\n]+\.$`)
	names, texts := map[string]Rule{}, map[string]Rule{}
	for r := Rule(1); r <= Rules; r++ {
		if !name.MatchString(r.String()) || !section.MatchString(r.Section()) || !text.MatchString(r.Text()) || r.Checkers() == "" {
			t.Errorf("rule %d: name %q, section %q, text %q, checkers %q", r, r.String(), r.Section(), r.Text(), r.Checkers())
		}
		if (r > RuleBounds) != strings.HasPrefix(r.Section(), "draft-") {
			t.Errorf("rule %d is of %s", r, r.Section())
		}
		if other, ok := names[r.String()]; ok {
			t.Errorf("rules %d and %d are both named %s", other, r, r)
		}
		if other, ok := texts[r.Text()]; ok {
			t.Errorf("rules %d and %d say the same", other, r)
		}
		names[r.String()], texts[r.Text()] = r, r
	}
}

func TestRuleNumbers(t *testing.T) {
	decoding := [...]Rule{codec.RuleVarint, codec.RuleLength, codec.RuleOptional, codec.RuleTrailing}
	if decoding != [...]Rule{RuleVarint, RuleLength, RuleOptional, RuleMessage} {
		t.Errorf("package codec numbers its rules %d", decoding)
	}
	for r, want := range map[Rule]uint8{
		RuleVarint: 1, RuleLength: 2, RuleOptional: 3, RuleMessage: 4,
		RuleSenderType: 10, RuleReplay: 25, RuleRatchetDistance: 26, RuleGenerationExhausted: 27,
		RuleLeafSignature: 39, RuleMemberKeysUnique: 49, RuleTreeShape: 52, RuleTreeWidth: 53, RuleTreeHash: 54,
		RuleParentHash: 56, RuleUnmergedLeaves: 57, RuleUnmergedBelow: 58, RuleParentKeysUnique: 59, RuleEmptyParentHash: 60,
		RuleProposalReference: 70, RulePathRequired: 77, RuleConfirmationTag: 86, RuleExternalCommit: 93,
		RuleGroupInfoSignature: 98, RuleReInitJoin: 107, RuleGroupInfoUpload: 110, RuleSelfRemove: 117,
	} {
		if uint8(r) != want {
			t.Errorf("%s is rule %d, want %d", r, uint8(r), want)
		}
	}
}

func TestRuleOutOfRange(t *testing.T) {
	for _, r := range []Rule{0, Rules + 1, 255} {
		if r.String() != fmt.Sprintf("Rule(%d)", uint8(r)) || r.Section()+r.Text()+r.Checkers() != "" {
			t.Errorf("%d: %q, %q, %q, %q", uint8(r), r.String(), r.Section(), r.Text(), r.Checkers())
		}
	}
	if got, want := Rule(0).Err().Error(), "mls: rule 0"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestErrorWords(t *testing.T) {
	cause := errors.New("octet 3: input ends")
	for _, c := range []struct {
		err  error
		want string
	}{
		{refuse(RuleTreeWidth, "node %d", 5), "mls: tree width (rule 53, RFC 9420 §7.7, §12.4.3.3): node 5"},
		{Refuse(RuleSafeAAD, "unsorted"), "mls: safe AAD (rule 120, draft-ietf-mls-extensions §4.9): unsorted"},
		{refuse(RulePSKSecret, "decode: %w", cause), "mls: PSK secret (rule 111, RFC 9420 §8.4): decode: octet 3: input ends"},
		{&Error{Rule: RuleX509Key, Err: cause}, "mls: x509 key (rule 38, RFC 9420 §5.3): octet 3: input ends"},
		{RuleReInit.Err(), "mls: reinit (rule 65, RFC 9420 §12.1.5, §12.2)"},
		{RuleGroupInfoConfirmation.Err(), "mls: group info confirmation (rule 106, RFC 9420 §12.4.3.1)"},
	} {
		if c.err.Error() != c.want {
			t.Errorf("got  %q\nwant %q", c.err.Error(), c.want)
		}
	}
}

func TestErrorIs(t *testing.T) {
	inner := refuse(RuleKeyPackageSignature, "leaf %d", 3)
	outer := fmt.Errorf("commit: %w", refuse(RuleAdd, "proposal 0: %w", inner))
	for _, r := range []Rule{RuleAdd, RuleKeyPackageSignature} {
		if !errors.Is(outer, r.Err()) {
			t.Errorf("%v is not found in %v", r, outer)
		}
	}
	for _, other := range []error{RuleUpdate.Err(), refuse(RuleAdd, "proposal 0"), &Error{Rule: RuleAdd, Err: inner}, errors.ErrUnsupported} {
		if errors.Is(outer, other) {
			t.Errorf("%v is found in %v", other, outer)
		}
	}
	var e *Error
	if !errors.As(outer, &e) || e.Rule != RuleAdd || errors.Unwrap(e) != inner {
		t.Errorf("the outermost rejection of %v is %v", outer, e)
	}
}

func TestRuleOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Rule
	}{
		{nil, 0},
		{errors.New("no rule"), 0},
		{refuse(RuleReplay, "generation 7"), RuleReplay},
		{fmt.Errorf("open: %w", refuse(RuleReplay, "generation 7")), RuleReplay},
		{refuse(RuleAdd, "%w", refuse(RuleInitKey, "equal")), RuleAdd},
		{&codec.Error{Rule: codec.RuleLength}, RuleLength},
		{fmt.Errorf("message: %w", &codec.Error{Rule: int(RuleReservedValue)}), RuleReservedValue},
		{refuse(RuleKeyPackageLeaf, "%w", &codec.Error{Rule: codec.RuleVarint}), RuleKeyPackageLeaf},
		{&codec.Error{Rule: 0}, 0},
		{&codec.Error{Rule: -1}, 0},
		{&codec.Error{Rule: int(Rules) + 1}, 0},
		{&codec.Error{Rule: 256 + 1}, 0},
	} {
		if got := RuleOf(c.err); got != c.want {
			t.Errorf("RuleOf(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}

// The table of docs/MLS.md is the one of rules.go.
func TestRulesDocumented(t *testing.T) {
	const (
		page  = "../docs/MLS.md"
		begin = "<!-- rules: written by go test ./mls -run TestRulesDocumented -update -->\n"
		end   = "<!-- /rules -->\n"
	)
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, begins := strings.Cut(string(text), begin)
	_, tail, ends := strings.Cut(rest, end)
	if !begins || !ends {
		t.Fatalf("%s lacks the lines around the table of rules", page)
	}
	var b strings.Builder
	b.WriteString(head + begin + "\n| rule | name | section | what holds | checked by |\n|---|---|---|---|---|\n")
	for r := Rule(1); r <= Rules; r++ {
		fmt.Fprintf(&b, "| %d | `%s` | %s | %s | %s |\n", uint8(r), r, r.Section(), r.Text(), r.Checkers())
	}
	b.WriteString("\n" + end + tail)
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if b.String() != string(text) {
		t.Errorf("the table of rules in %s is not the one of rules.go; run the test with -update", page)
	}
}
