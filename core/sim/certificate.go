package sim

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"slices"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/epoch"
	"github.com/isthmus-chat/isthmus/core/identity"
)

// checkEpochs looks at the commit and the certificate of every epoch at every
// homeserver that has it.
func (w *world) checkEpochs(f *final) {
	for _, h := range w.homes {
		err := h.view(func(r core.Reader) error {
			head, err := core.GroupOf(r, f.room)
			if core.CodeOf(err) == core.NotFound && err != nil {
				return nil
			}
			if err != nil {
				return err
			}
			for e := uint64(1); e <= head.Authority.Epoch; e++ {
				id, _, err := core.EpochEnd(r, f.room, e-1)
				if err != nil {
					continue // before it came
				}
				w.began(h, f.room, e, id, nil)
				if slices.Contains(f.homes, h) {
					w.checkCertificate(r, h, f.room, e, id)
				}
			}
			return nil
		})
		if err != nil {
			w.wrong("%s unreadable: %v", h.domain, err)
		}
	}
}

func (w *world) checkCertificate(r core.Reader, h *home, room core.RoomID, e uint64, commit core.HandshakeID) {
	before := []string{room.Domain()}
	rule := uint8(0)
	if e > 1 {
		known := w.facts.register[epochName{room, e - 1}]
		if known == nil || known.partial {
			return // several epochs began in one transaction: whose they were was not seen
		}
		before, rule = known.head.Authority.Voters, known.head.Authority.Rule
	}
	b, err := epoch.CertificateOf(r, room, e)
	if err != nil {
		w.wrong("%s has no certificate of epoch %d of %s: %v", h.domain, e, room, err)
		return
	}
	c, err := epoch.ParseCertificate(b)
	if err == nil {
		err = c.Verify(before, rule, w.signedBy)
	}
	if err == nil && !enough(c.Domains(), before, rule) {
		err = fmt.Errorf("%v are not enough of %v", c.Domains(), before)
	}
	if err == nil && (c.Facts().Room != room || c.Facts().Epoch != e || !bytes.Equal(c.Facts().Commit, commit[:])) {
		err = fmt.Errorf("it is of another commit")
	}
	if err != nil {
		w.wrong("%s: certificate of epoch %d of %s: %v", h.domain, e, room, err)
	}
}

// enough says whether those who approve are more than half of the voters, or with
// rule 1 more than two thirds.
func enough(who, voters []string, rule uint8) bool {
	n := 0
	for _, d := range voters {
		if slices.Contains(who, d) {
			n++
		}
	}
	if rule == 1 {
		return 3*n > 2*len(voters)
	}
	return 2*n > len(voters)
}

// signedBy says whether a homeserver signed an approval.
func (w *world) signedBy(domain string, signed, sig []byte) error {
	by := w.homeOf(domain)
	if by == nil || !identity.Verify(by.key.Public().(ed25519.PublicKey), epoch.ApprovalLabel, sig, signed) {
		return fmt.Errorf("not signed by %s", domain)
	}
	return nil
}
