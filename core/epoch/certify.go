package epoch

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of what is not complete.
const (
	maxOpen  = 64  // epochs of one room that wait for their certificates: then commits wait
	maxEarly = 256 // approvals kept for epochs that have not opened here
	maxAhead = 16  // epochs by which they may be ahead
	maxChase = 4   // epochs asked for at a time
)

// What this homeserver thinks of a commit.
const (
	judgedLater  = 0 // something to judge by is missing
	judgedSigned = 1
	judgedNever  = 2 // it does not approve, or has no vote
)

// A certRow is what is kept of one epoch.
type certRow struct {
	_      struct{} `cbor:",toarray"`
	Facts  Approval // without Domain
	Seq    uint64   // of the commit's event here
	Voters []string // whose approvals count
	Rule   uint8
	Judged uint8
	Given  []signed // verified, by voters
	Strays []signed // verified, of something else: they are one half of a proof
}

func (c *certRow) by(domain string) *signed {
	return find(c.Given, domain)
}

func find(list []signed, domain string) *signed {
	for i := range list {
		if list[i].a.Domain == domain {
			return &list[i]
		}
	}
	return nil
}

func (c *certRow) complete() bool { return len(c.Given) >= Quorum(len(c.Voters), c.Rule) }

func (c *certRow) certificate() *Certificate { return &Certificate{given: c.Given} }

// open reads what the approvals say.
func (c *certRow) open() error {
	for _, list := range [][]signed{c.Given, c.Strays} {
		if len(list) > maxApprovals {
			return core.Errorf(core.TooLarge, "approvals of one epoch")
		}
		for i := range list {
			if err := list[i].open(); err != nil {
				return err
			}
		}
	}
	return nil
}

func readCert(r core.Reader, key string) (*certRow, error) {
	b, err := r.Value(bucketCerts, key)
	if err != nil {
		return nil, err
	}
	c := new(certRow)
	if err = cbor.Unmarshal(b, c); err == nil {
		err = c.open()
	}
	if err != nil {
		return nil, core.Errorf(core.Internal, "stored certificate: %w", err)
	}
	return c, nil
}

func (m *Machine) writeCert(r *room, c *certRow) error {
	b, err := cbor.Marshal(c)
	if err != nil {
		return core.Errorf(core.Internal, "certificate: %w", err)
	}
	return m.tx.PutValue(bucketCerts, r.numbered(c.Facts.Epoch), b)
}

// checkPinned verifies by the keys that are pinned for domain.
func checkPinned(r core.Reader, now time.Time, domain string, signed, sig []byte) error {
	chain, err := core.HomeserverOf(r, domain)
	if err != nil {
		return err
	}
	return chain.Verify(ApprovalLabel, sig, now.Unix(), signed)
}

func (m *Machine) verify(s *signed) error {
	return m.cfg.Check(m.tx, m.now, s.a.Domain, s.Bytes, s.Signature)
}

// opened starts the certificate of an epoch that a commit opened here: with this
// homeserver's approval, if it has a vote and nothing against the commit.
func (m *Machine) opened(r *room, o *core.Opened, index uint64) error {
	c := &certRow{Facts: Approval{Room: r.id, Epoch: o.Epoch, Commit: o.Commit[:], Transcript: o.Transcript, Tree: o.Tree, Index: index,
		Voters: o.After.Voters, Rule: o.After.Rule},
		Seq: o.Seq, Voters: o.Before.Voters, Rule: o.Before.Rule, Judged: judgedNever}
	if slices.Contains(c.Voters, m.cfg.Homeserver) {
		c.Judged = judgedLater
	}
	if r.row.Open = append(r.row.Open, opening{Epoch: o.Epoch, Index: index}); len(r.row.Open) > 2*maxOpen {
		r.row.Open = slices.Delete(r.row.Open, 0, len(r.row.Open)-2*maxOpen)
	}
	m.touch(r)
	if err := m.turn(r, c); err != nil {
		return err
	}
	if err := m.judge(r, c); err != nil {
		return err
	}
	early := r.early
	r.early = nil
	for _, s := range early {
		if s.a.Epoch != o.Epoch {
			r.early = append(r.early, s)
		} else if err := m.add(r, c, s); err != nil {
			return err
		}
	}
	return m.settle(r, c, false)
}

// judge lets this homeserver approve c if it may.
func (m *Machine) judge(r *room, c *certRow) error {
	if c.Judged != judgedLater {
		return nil
	}
	switch err := m.cfg.Rooms.Judge(m.tx, m.now, r.id, c.Facts.Epoch); {
	case err == nil:
		a := c.Facts
		a.Domain = m.cfg.Homeserver
		s := sign(m.cfg.Key, a)
		c.Judged, c.Given = judgedSigned, append(c.Given, s)
		body := s.encode()
		for _, d := range c.Voters {
			if d != m.cfg.Homeserver {
				m.send(r, d, core.PeerApproval, body)
			}
		}
	case core.CodeOf(err) == core.Internal:
		return err
	case core.CodeOf(err) != core.Unavailable:
		c.Judged = judgedNever
	default:
		m.lackOf(err)
	}
	return nil
}

// lackOf says whose record would help against err.
func (m *Machine) lackOf(err error) {
	if e, ok := errors.AsType[*core.Error](err); ok && e.Missing != "" {
		m.lack(e.Missing)
	}
}

// lack says whose record would help, once for an input.
func (m *Machine) lack(domain string) {
	if !slices.Contains(m.out.Missing, domain) && domain != m.cfg.Homeserver {
		m.out.Missing = append(m.out.Missing, domain)
	}
}

// add takes another homeserver's approval into c, if it is what it says.
func (m *Machine) add(r *room, c *certRow, s signed) error {
	if !slices.Contains(c.Voters, s.a.Domain) {
		m.stats.Ignored++
		return nil
	}
	have, odd := c.by(s.a.Domain), find(c.Strays, s.a.Domain)
	same := s.a.same(&c.Facts)
	if same && have != nil || !same && odd != nil && odd.a.same(&s.a) {
		return nil
	}
	switch err := m.verify(&s); {
	case absent(err): // one that left before this homeserver came
		m.lack(s.a.Domain)
		return nil
	case err != nil:
		m.stats.Forged++
		return nil
	}
	for _, other := range []*signed{have, odd} {
		if other == nil || other.a.same(&s.a) {
			continue
		}
		m.stats.Proofs++
		p := Proof{A: *other, B: s}
		if err := m.tx.PutValue(bucketProofs, numbered(r.numbered(s.a.Epoch), memberID(s.a.Domain)), p.Encode()); err != nil {
			return err
		}
	}
	switch {
	case same:
		c.Given = append(c.Given, s)
	case odd == nil:
		c.Strays = append(c.Strays, s)
		if len(c.Given) > 0 && s.a.Domain != m.cfg.Homeserver { // somebody signed both: each of us may have one half of the proof
			m.send(r, s.a.Domain, core.PeerCertificate, c.certificate().Encode())
		}
		for _, d := range c.Voters { // whom it may have told what it did not tell us
			if d != m.cfg.Homeserver && d != s.a.Domain && have == nil {
				m.want(r, d, s.a.Epoch)
			}
		}
	}
	return nil
}

// leaseAgain is when a lease is to be asked for again that has to wait for approvals.
const leaseAgain = 100 * time.Millisecond

// lend adds to a lease the certificates that lead to its epoch: what a device enters
// by it is proven, and no device enters an epoch that is not approved.
func (m *Machine) lend(in core.LeaseGroupInfo) (core.Output, error) {
	var certs [][]byte
	a, err := m.cfg.Rooms.Authority(m.tx, in.Room)
	if err == nil {
		if certs, err = Chain(m.tx, in.Room, a.Epoch); absent(err) {
			return core.Output{}, &core.Error{Code: core.Limited, Text: "the room's homeservers have not signed its epoch yet", RetryAfter: leaseAgain}
		}
	}
	if core.Broken(err) {
		return core.Output{}, err
	}
	out, err := m.cfg.Rooms.Apply(m.tx, m.now, in)
	if out.Lease != nil {
		out.Lease.Certificates = certs
	}
	return out, err
}

// Chain returns the certificates that lead to an epoch: of the commits before it that
// changed who decides, as far as they are known here, rising, and of the one that
// opened it; none to epoch 0. Who knows who decided once follows it from there.
// NotFound while that epoch is not certified.
func Chain(r core.Reader, room core.RoomID, epoch uint64) ([][]byte, error) {
	if epoch == 0 {
		return nil, nil
	}
	last, err := CertificateOf(r, room, epoch)
	if err != nil {
		return nil, err
	}
	epochs, err := turns(r, core.RoomKey(room))
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for _, e := range epochs {
		if e >= epoch {
			break
		}
		switch c, err := CertificateOf(r, room, e); {
		case err == nil:
			out = append(out, c)
		case !absent(err):
			return nil, err
		}
	}
	return append(out, last), nil
}

// want asks a homeserver for its approvals of an epoch.
func (m *Machine) want(r *room, from string, epoch uint64) {
	m.send(r, from, core.PeerWant, binary.BigEndian.AppendUint64(nil, epoch))
}

// wanted answers who asks for the approvals of an epoch: the whole certificate if
// there is one, otherwise this homeserver's own approval.
func (m *Machine) wanted(r *room, from string, body []byte) error {
	if len(body) != 8 {
		m.stats.Ignored++
		return nil
	}
	epoch := binary.BigEndian.Uint64(body)
	c, err := readCert(m.tx, r.numbered(epoch))
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.complete() {
		m.send(r, from, core.PeerCertificate, c.certificate().Encode())
		return nil
	}
	if own := c.by(m.cfg.Homeserver); own != nil {
		m.send(r, from, core.PeerApproval, own.encode())
	}
	return nil
}

// settle writes c, and announces it when it has just become complete (was: it had
// been before): to the bridges, and by the leader to those who only follow.
func (m *Machine) settle(r *room, c *certRow, was bool) error {
	if c.complete() && !was {
		m.stats.Certified++
		m.out.Certified = append(m.out.Certified, core.Certified{Room: r.id, Epoch: c.Facts.Epoch, Seq: c.Seq})
		if r.leads() {
			body := c.certificate().Encode()
			for _, d := range slices.Concat(r.auth.Voters, r.auth.Followers) {
				if !slices.Contains(c.Voters, d) && d != m.cfg.Homeserver {
					m.send(r, d, core.PeerCertificate, body)
				}
			}
		}
	}
	if c.complete() && c.Judged != judgedLater {
		r.row.Open = slices.DeleteFunc(r.row.Open, func(o opening) bool { return o.Epoch == c.Facts.Epoch })
		m.touch(r)
	}
	return m.writeCert(r, c)
}

// approved takes a peer's approval.
func (m *Machine) approved(r *room, from string, body []byte) error {
	s, err := parseSigned(body)
	if err != nil || s.a.Domain != from || s.a.Room != r.id {
		m.stats.Ignored++
		return nil
	}
	return m.approve(r, s.a.Epoch, []signed{s})
}

// certified takes the approvals of a certificate.
func (m *Machine) certified(r *room, body []byte) error {
	c, err := ParseCertificate(body)
	if err != nil || c.given[0].a.Room != r.id {
		m.stats.Ignored++
		return nil
	}
	return m.approve(r, c.given[0].a.Epoch, c.given)
}

func (m *Machine) approve(r *room, epoch uint64, list []signed) error {
	c, err := readCert(m.tx, r.numbered(epoch))
	if absent(err) {
		return m.keepEarly(r, epoch, list)
	}
	if err != nil {
		return err
	}
	was, given, strays := c.complete(), len(c.Given), len(c.Strays)
	for _, s := range list {
		if err := m.add(r, c, s); err != nil {
			return err
		}
	}
	if !c.complete() && epoch < r.auth.Epoch {
		if done, err := m.correct(r, c, list); err != nil || done {
			return err
		}
	}
	if len(c.Given) == given && len(c.Strays) == strays {
		return nil
	}
	return m.settle(r, c, was)
}

// keepEarly keeps approvals that overtook the log.
func (m *Machine) keepEarly(r *room, epoch uint64, list []signed) error {
	if epoch <= r.auth.Epoch || epoch > r.auth.Epoch+maxAhead {
		return nil
	}
	for _, s := range list { // verified, so that nobody takes another's place
		if m.verify(&s) != nil {
			m.stats.Forged++
			continue
		}
		known := slices.ContainsFunc(r.early, func(o signed) bool { return o.a.Domain == s.a.Domain && o.a.Epoch == epoch })
		if !known && len(r.early) < maxEarly {
			r.early = append(r.early, s)
		}
	}
	return nil
}

// adopt takes up the certificate of an epoch that opened before this homeserver
// came, or while it was away, from a snapshot.
func (m *Machine) adopt(r *room, c *certRow) error {
	if c.open() != nil || c.Facts.Room != r.id || c.Facts.Epoch > r.auth.Epoch || len(c.Voters) > maxApprovals {
		return nil
	}
	given := c.Given
	if _, err := readCert(m.tx, r.numbered(c.Facts.Epoch)); !absent(err) {
		if err == nil {
			err = m.approve(r, c.Facts.Epoch, given)
		}
		return err
	}
	if err := m.turn(r, c); err != nil {
		return err
	}
	c.Given, c.Strays, c.Seq, c.Judged = nil, nil, 0, judgedNever
	for _, s := range given {
		if err := m.add(r, c, s); err != nil {
			return err
		}
	}
	if !c.complete() && len(r.row.Open) < maxOpen {
		r.row.Open = append(r.row.Open, opening{Epoch: c.Facts.Epoch, Index: c.Facts.Index})
	}
	return m.settle(r, c, false)
}

// chase asks for the approvals that are missing, and judges again what could not
// be judged: of the epochs that wait a few each time, in turn, for one whose voters
// are gone for good must not keep others from theirs.
func (m *Machine) chase(r *room) error {
	open := slices.Clone(r.row.Open)
	for range min(len(open), maxChase) {
		o, round := open[r.chased%len(open)], r.chased/len(open)
		r.chased++
		c, err := readCert(m.tx, r.numbered(o.Epoch))
		if err != nil {
			return err
		}
		was, given, judged := c.complete(), len(c.Given), c.Judged
		if err := m.judge(r, c); err != nil {
			return err
		}
		if len(c.Given) != given || c.Judged != judged {
			if err := m.settle(r, c, was); err != nil {
				return err
			}
		}
		if c.complete() {
			continue
		}
		r.uneasy = r.uneasy || r.node != nil && r.lead() == 0 // who has not approved may lack the log
		var missing []string
		if slices.Contains(c.Voters, m.cfg.Homeserver) {
			missing = slices.DeleteFunc(slices.Clone(c.Voters), func(d string) bool { return c.by(d) != nil })
		}
		all := slices.Concat(r.auth.Voters, r.auth.Followers, c.Voters) // any of them may have the whole
		if d := all[round%len(all)]; d != m.cfg.Homeserver && !slices.Contains(missing, d) {
			missing = append(missing, d)
		}
		for _, d := range missing {
			if d == m.cfg.Homeserver {
				continue
			}
			m.want(r, d, o.Epoch)
		}
	}
	return nil
}
