package mls

import (
	"strings"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
)

// TreeRepresentation is how a ratchet tree reaches those who need it,
// draft-mahy-mls-ratchet-tree-options-03 §3.
type TreeRepresentation uint8

// The representations.
const (
	TreeFull                TreeRepresentation = 1 // here
	TreeHTTPS               TreeRepresentation = 2 // at a URL
	TreeOutOfBand           TreeRepresentation = 3 // in a way of the application's
	TreeDistributionService TreeRepresentation = 4 // the service knows it from the handshake
)

// The bounds of what says where a tree is.
const (
	MaxTreeURL       = 1 << 11 // octets of a URL
	MaxSourceDomains = 1 << 8  // domains of a group
	MaxDomain        = 253     // octets of a domain, RFC 1035 §2.3.4 in text
)

// RatchetTreeOption brings a ratchet tree or says where it is,
// draft-mahy-mls-ratchet-tree-options-03 §3. The draft does not say what its
// signature covers, so it is carried and never verified.
type RatchetTreeOption struct {
	Representation TreeRepresentation
	Tree           []byte // of TreeFull: as in a ratchet_tree extension, RFC 9420 §12.4.3.3, for ParseTree
	URL            string // of TreeHTTPS
	Signature      []byte // of TreeHTTPS and TreeOutOfBand
}

// ParseRatchetTreeOption reads a RatchetTreeOption; it aliases b. The nodes of
// a full tree are left to ParseTree.
func ParseRatchetTreeOption(b []byte) (RatchetTreeOption, error) {
	r := codec.NewReader(b)
	o := ReadRatchetTreeOption(&r)
	if err := r.Finish(); err != nil {
		return RatchetTreeOption{}, WireError(err)
	}
	return o, nil
}

// ReadRatchetTreeOption reads a RatchetTreeOption that is a field of
// something else. The draft writes Node ratchet_tree<V> for a full tree; a
// tree with blank nodes needs the optional<Node> of RFC 9420 §12.4.3.3, which
// is what stands there.
func ReadRatchetTreeOption(r *codec.Reader) RatchetTreeOption {
	o := RatchetTreeOption{Representation: TreeRepresentation(r.Uint8())}
	switch o.Representation {
	case TreeFull:
		from := r.Offset()
		r.Vec()
		o.Tree = r.Since(from)
	case TreeHTTPS:
		url := r.Vec()
		if len(url) > MaxTreeURL {
			r.Fail(int(RuleBounds), "a URL is too long")
			return o
		}
		o.URL = string(url)
		if _, ok := hostOf(o.URL); !ok {
			r.Fail(int(RuleReservedValue), "ratchet_tree_url is no https URL")
		}
		o.Signature = r.Vec()
	case TreeOutOfBand:
		o.Signature = r.Vec()
	case TreeDistributionService:
	default:
		r.Fail(int(RuleReservedValue), "representation of a ratchet tree is not known")
	}
	return o
}

// AppendTo appends the encoding.
func (o RatchetTreeOption) AppendTo(dst []byte) []byte {
	dst = append(dst, byte(o.Representation))
	switch o.Representation {
	case TreeFull:
		if len(o.Tree) == 0 {
			return codec.AppendVec(dst, o.Tree)
		}
		dst = append(dst, o.Tree...)
	case TreeHTTPS:
		dst = codec.AppendVec(codec.AppendVec(dst, o.URL), o.Signature)
	case TreeOutOfBand:
		dst = codec.AppendVec(dst, o.Signature)
	}
	return dst
}

// hostOf is the host of an https URL, in lower case, without a port. It takes
// only URLs that every reader splits in the same place: no user, no backslash,
// nothing beyond printable ASCII.
func hostOf(url string) (string, bool) {
	const scheme = "https://"
	if len(url) < len(scheme) || !strings.EqualFold(url[:len(scheme)], scheme) {
		return "", false
	}
	for i := range len(url) {
		if c := url[i]; c <= ' ' || c > '~' || c == '\\' {
			return "", false
		}
	}
	host := url[len(scheme):]
	if end := strings.IndexAny(host, "/?#"); end >= 0 {
		host = host[:end]
	}
	if at := strings.LastIndexByte(host, ':'); at >= 0 && !strings.HasSuffix(host, "]") {
		for _, c := range host[at+1:] {
			if c < '0' || c > '9' {
				return "", false
			}
		}
		host = host[:at]
	}
	if host == "" || strings.ContainsAny(host, "@%") {
		return "", false
	}
	return strings.ToLower(host), true
}

// SourceDomains are the domains that a group lets its tree be fetched from:
// the content of a ratchet_tree_source_domains extension,
// draft-mahy-mls-ratchet-tree-options-03 §3.1, whose type has no number yet.
type SourceDomains []string

// ParseSourceDomains reads a list of at least one domain.
func ParseSourceDomains(b []byte) (SourceDomains, error) {
	r := codec.NewReader(b)
	in := r.Sub()
	var out SourceDomains
	for in.Len() > 0 {
		domain := in.Vec()
		switch {
		case in.Err() != nil:
		case len(out) == MaxSourceDomains || len(domain) > MaxDomain:
			in.Fail(int(RuleBounds), "too many domains, or one that is too long")
		case len(domain) == 0:
			in.Fail(int(RuleReservedValue), "a domain is empty")
		default:
			out = append(out, string(domain))
		}
	}
	r.Join(&in)
	if r.Err() == nil && len(out) == 0 {
		r.Fail(int(RuleReservedValue), "a list of domains is empty")
	}
	if err := r.Finish(); err != nil {
		return nil, WireError(err)
	}
	return out, nil
}

// AppendTo appends the encoding.
func (d SourceDomains) AppendTo(dst []byte) []byte {
	dst, mark := codec.Begin(dst)
	for _, domain := range d {
		dst = codec.AppendVec(dst, domain)
	}
	return codec.End(dst, mark)
}

// Allow reports whether the URL is an https one whose host is one of the
// domains; a domain does not stand for those beneath it.
func (d SourceDomains) Allow(url string) bool {
	host, ok := hostOf(url)
	if !ok {
		return false
	}
	for _, domain := range d {
		if strings.EqualFold(domain, host) {
			return true
		}
	}
	return false
}

// TreePresence says whether the GroupInfo of this epoch and that of the one
// before have a ratchet_tree extension, draft-mahy-mls-ratchet-tree-options-03 §4.
type TreePresence uint8

// The presences.
const (
	TreeAbsent  TreePresence = 0 // in neither
	TreePresent TreePresence = 1 // in both
	TreeRemoved TreePresence = 2 // in the one before only
	TreeAdded   TreePresence = 3 // in this one only
)

// PresenceOf is the presence for a tree before and now.
func PresenceOf(before, now bool) TreePresence {
	switch {
	case before && now:
		return TreePresent
	case before:
		return TreeRemoved
	case now:
		return TreeAdded
	}
	return TreeAbsent
}

// Before reports whether the GroupInfo of the epoch before had the extension.
func (p TreePresence) Before() bool { return p == TreePresent || p == TreeRemoved }

// Now reports whether the GroupInfo of this epoch has the extension.
func (p TreePresence) Now() bool { return p == TreePresent || p == TreeAdded }

// PartialGroupInfo is what a server that follows a group in the clear cannot
// know of the GroupInfo itself, draft-mahy-mls-ratchet-tree-options-03 §4.
type PartialGroupInfo struct {
	Presence   TreePresence
	Extensions Extensions // without ratchet_tree
	Signature  []byte     // of the GroupInfo, by the committer
}

// ParsePartialGroupInfo reads a PartialGroupInfo; it aliases b. It refuses
// under rule 124 one that carries a ratchet_tree extension.
func ParsePartialGroupInfo(b []byte) (*PartialGroupInfo, error) {
	r := codec.NewReader(b)
	p := ReadPartialGroupInfo(&r)
	if err := r.Finish(); err != nil {
		return nil, WireError(err)
	}
	return p, nil
}

// ReadPartialGroupInfo reads a PartialGroupInfo that is a field of something else.
func ReadPartialGroupInfo(r *codec.Reader) *PartialGroupInfo {
	p := &PartialGroupInfo{Presence: TreePresence(r.Uint8())}
	if p.Presence > TreeAdded {
		r.Fail(int(RuleReservedValue), "ratchet_tree_presence is not known")
	}
	p.Extensions = readExtensions(r)
	if _, ok := p.Extensions.Find(ExtRatchetTree); ok {
		r.Fail(int(RulePartialGroupInfo), "the extensions hold the ratchet tree")
	}
	p.Signature = r.Vec()
	return p
}

// AppendTo appends the encoding.
func (p *PartialGroupInfo) AppendTo(dst []byte) []byte {
	return codec.AppendVec(p.Extensions.AppendTo(append(dst, byte(p.Presence))), p.Signature)
}

// NewPartialGroupInfo takes out of a signed GroupInfo what a server lacks.
// before says whether the GroupInfo of the epoch before had the extension.
func NewPartialGroupInfo(g *GroupInfo, before bool) *PartialGroupInfo {
	_, now := g.Extensions.Find(ExtRatchetTree)
	return &PartialGroupInfo{
		Presence:   PresenceOf(before, now),
		Extensions: g.Extensions.Without(ExtRatchetTree),
		Signature:  g.Signature,
	}
}

// GroupInfoParts is what a server that follows a group in the clear knows of
// its GroupInfo after a commit.
type GroupInfoParts struct {
	Context         *GroupContext // of the epoch that the commit began
	ConfirmationTag []byte        // of the commit
	Signer          uint32        // the committer's leaf index
	SignatureKey    []byte        // of the committer's leaf after the commit
	Before          bool          // the GroupInfo of the epoch before had a ratchet_tree extension
	Tree            []byte        // what Tree.AppendTo gives; used only if the GroupInfo has the extension
}

// MaxPlaces bounds the places among the extensions where the tree is looked
// for: each costs a signature over the whole of it.
const MaxPlaces = 8

// GroupInfo puts the GroupInfo together again, so that the committer's
// signature verifies. The draft does not say where among the extensions the
// tree stood: the places are tried, the last and the first of them first.
// Refusals: rule 124 for a presence that is not what the server knows, rule 98
// for a signature that does not verify in any place.
func (p *PartialGroupInfo) GroupInfo(known GroupInfoParts) (*GroupInfo, error) {
	if p.Presence > TreeAdded {
		return nil, refuse(RuleReservedValue, "ratchet_tree_presence %d is not known", p.Presence)
	}
	if p.Presence.Before() != known.Before {
		return nil, refuse(RulePartialGroupInfo, "presence %d, but of a tree before the commit: %t", p.Presence, known.Before)
	}
	if _, ok := p.Extensions.Find(ExtRatchetTree); ok {
		return nil, refuse(RulePartialGroupInfo, "the extensions hold the ratchet tree")
	}
	if !p.Presence.Now() {
		return p.assemble(known, p.Extensions)
	}
	if len(known.Tree) == 0 {
		return nil, refuse(RulePartialGroupInfo, "presence %d, but there is no tree", p.Presence)
	}
	for try := range min(len(p.Extensions)+1, MaxPlaces) {
		at := try - 1
		if try == 0 {
			at = len(p.Extensions)
		}
		with := make(Extensions, 0, len(p.Extensions)+1)
		with = append(append(with, p.Extensions[:at]...), Extension{ExtRatchetTree, known.Tree})
		g, err := p.assemble(known, append(with, p.Extensions[at:]...))
		if err == nil || RuleOf(err) != RuleGroupInfoSignature {
			return g, err
		}
	}
	return nil, refuse(RuleGroupInfoSignature, "the committer's key does not verify it, wherever the tree stood")
}

// assemble makes the GroupInfo with these extensions and verifies it.
func (p *PartialGroupInfo) assemble(known GroupInfoParts, e Extensions) (*GroupInfo, error) {
	g := &GroupInfo{
		Context:         *known.Context,
		Extensions:      e,
		ConfirmationTag: known.ConfirmationTag,
		Signer:          known.Signer,
		Signature:       p.Signature,
	}
	if err := g.Verify(known.SignatureKey); err != nil {
		return nil, err
	}
	return g, nil
}
