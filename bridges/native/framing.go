package native

import "encoding/binary"

// endsEpoch reads from an MLSMessage whether it is a commit in public framing, and
// which epoch that ends (RFC 9420 §6). Nothing else of it is looked at: the core
// has validated what is in a log.
func endsEpoch(m []byte) (epoch uint64, ok bool) {
	const (
		version, publicMessage = 1, 1 // mls10, mls_public_message
		commit                 = 3
	)
	if len(m) < 4 || binary.BigEndian.Uint16(m) != version || binary.BigEndian.Uint16(m[2:]) != publicMessage {
		return 0, false
	}
	m, ok = skipVector(m[4:]) // group_id
	if !ok || len(m) < 9 {
		return 0, false
	}
	epoch, sender := binary.BigEndian.Uint64(m), m[8]
	if m = m[9:]; sender == 1 || sender == 2 { // member, external: an index follows
		if len(m) < 4 {
			return 0, false
		}
		m = m[4:]
	}
	m, ok = skipVector(m) // authenticated_data
	return epoch, ok && len(m) > 0 && m[0] == commit
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
