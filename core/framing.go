package core

import (
	"encoding/binary"

	"github.com/isthmus-chat/isthmus/mls"
)

// EpochOf reads from an MLSMessage with a PublicMessage or PrivateMessage the epoch
// that it is of (RFC 9420 §6); false if it is neither. Nothing else of it is looked at.
func EpochOf(message []byte) (epoch uint64, ok bool) {
	epoch, _, ok = framing(message)
	return epoch, ok
}

// EndsEpoch reads from an MLSMessage whether it is a commit in public framing, and
// which epoch that ends. Nothing else of it is looked at: what is in a log has been
// validated.
func EndsEpoch(message []byte) (epoch uint64, ok bool) {
	epoch, rest, ok := framing(message)
	if !ok || !(Sealed{Message: message}).Handshake() || len(rest) == 0 {
		return 0, false
	}
	sender := mls.SenderType(rest[0])
	if rest = rest[1:]; sender == mls.SenderMember || sender == mls.SenderExternal { // an index follows
		if len(rest) < 4 {
			return 0, false
		}
		rest = rest[4:]
	}
	rest, ok = skipVector(rest) // authenticated_data
	return epoch, ok && len(rest) > 0 && mls.ContentType(rest[0]) == mls.ContentCommit
}

// framing reads version, wire format, group_id and epoch, and returns what follows.
func framing(b []byte) (epoch uint64, rest []byte, ok bool) {
	if len(b) < 4 || binary.BigEndian.Uint16(b) != uint16(mls.Version10) {
		return 0, nil, false
	}
	if f := mls.WireFormat(binary.BigEndian.Uint16(b[2:])); f != mls.WirePublic && f != mls.WirePrivate {
		return 0, nil, false
	}
	if b, ok = skipVector(b[4:]); !ok || len(b) < 8 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint64(b), b[8:], true
}

// skipVector skips a variable-size vector (RFC 9420 §2.1.2).
func skipVector(b []byte) ([]byte, bool) {
	if len(b) == 0 || b[0]>>6 == 3 {
		return nil, false
	}
	width := 1 << (b[0] >> 6)
	if len(b) < width {
		return nil, false
	}
	n := uint64(b[0] & 0x3f)
	for _, c := range b[1:width] {
		n = n<<8 | uint64(c)
	}
	if n > uint64(len(b)-width) {
		return nil, false
	}
	return b[width+int(n):], true
}
