package secret

import "github.com/isthmus-chat/isthmus/mls/internal/suite"

// Components is the width of an exporter tree: a ComponentID has 16 bits.
const Components = 1 << 16

// ExporterTree gives each application component one secret of the epoch, and
// forgets it: the forward-secure exporter of mls-extensions, "Exported
// Secrets". It is a secret tree (RFC 9420 §9) with 2^16 leaves, lazy as well.
// It is not safe for concurrent use.
type ExporterTree struct{ tree tree }

// NewExporterTree returns the tree over an application_export_secret, Nh
// octets, of which the caller wipes its own copy.
func NewExporterTree(s *suite.Suite, applicationExport []byte) *ExporterTree {
	t := &ExporterTree{newTree(s, Components)}
	t.tree.put(Components-1, applicationExport)
	return t
}

// Export appends SafeExportSecret(component), Nh octets, and deletes it with
// all that it was derived from. A second call for a component fails with
// ErrConsumed, as does every call after Wipe.
func (t *ExporterTree) Export(dst []byte, component uint16) ([]byte, error) {
	if t.Consumed(component) {
		return nil, ErrConsumed
	}
	n := len(dst)
	dst = append(dst, zeros[:t.tree.slots.size]...)
	t.tree.leaf(dst[n:], uint32(component), true)
	return dst, nil
}

// Consumed tells whether the secret of a component was exported.
func (t *ExporterTree) Consumed(component uint16) bool {
	if t.tree.width == 0 {
		return true
	}
	_, ok := t.tree.above(uint32(component))
	return !ok
}

// Wipe deletes everything.
func (t *ExporterTree) Wipe() { t.tree.wipe() }
