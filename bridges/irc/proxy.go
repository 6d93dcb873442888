package irc

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of the PROXY protocol
// (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt).
const (
	maxProxyV1 = 107  // octets with CRLF: the specification's worst case
	maxProxyV2 = 8192 // octets after the fixed part: addresses and a client certificate
)

var proxySignature = []byte("\r\n\r\n\x00\r\nQUIT\n")

// A proxied is what a PROXY header says.
type proxied struct {
	from   netip.Addr // invalid: the proxy speaks for itself (LOCAL, UNKNOWN)
	secure bool       // the client came over TLS
	cert   []byte     // the client's certificate, DER, if the proxy passed it on
}

var errProxy = &core.Error{Code: core.Invalid, Text: "malformed PROXY header"}

// readProxy reads one header, version 1 or 2, and not an octet more. Errors are
// Invalid, or r's.
func readProxy(r io.Reader) (proxied, error) {
	var head [16]byte
	if _, err := io.ReadFull(r, head[:12]); err != nil { // version 1 has 15 at least
		return proxied{}, err
	}
	if !bytes.Equal(head[:12], proxySignature) {
		return readProxyV1(r, head[:12])
	}
	if _, err := io.ReadFull(r, head[12:]); err != nil {
		return proxied{}, err
	}
	n := int(binary.BigEndian.Uint16(head[14:]))
	if n > maxProxyV2 || head[12]>>4 != 2 {
		return proxied{}, errProxy
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return proxied{}, err
	}
	return parseProxyV2(head[:], body)
}

// readProxyV1 reads the rest of a text header octet by octet, because what
// follows it belongs to somebody else.
func readProxyV1(r io.Reader, start []byte) (proxied, error) {
	if !bytes.HasPrefix(start, []byte("PROXY ")) {
		return proxied{}, errProxy
	}
	line := append(make([]byte, 0, maxProxyV1), start...)
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		if len(line) == maxProxyV1 {
			return proxied{}, errProxy
		}
		var c [1]byte
		if _, err := io.ReadFull(r, c[:]); err != nil {
			return proxied{}, err
		}
		line = append(line, c[0])
	}
	return parseProxyV1(string(line[:len(line)-2]))
}

func parseProxyV1(line string) (proxied, error) {
	f := strings.Split(line, " ")
	if len(f) >= 2 && f[0] == "PROXY" && f[1] == "UNKNOWN" {
		return proxied{}, nil // what follows MUST be ignored
	}
	if len(f) != 6 || f[0] != "PROXY" || f[1] != "TCP4" && f[1] != "TCP6" {
		return proxied{}, errProxy
	}
	from, err1 := netip.ParseAddr(f[2])
	to, err2 := netip.ParseAddr(f[3])
	if err1 != nil || err2 != nil || from.Zone() != "" || from.Is4() != (f[1] == "TCP4") || to.Is4() != from.Is4() {
		return proxied{}, errProxy
	}
	for _, port := range f[4:] {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
			return proxied{}, errProxy
		}
	}
	return proxied{from: from.Unmap()}, nil
}

// Types of version 2 (§2.2).
const (
	proxyLocal = 0x0
	proxyProxy = 0x1
	proxyTCP4  = 0x11
	proxyTCP6  = 0x21

	tlvCRC32C     = 0x03
	tlvSSL        = 0x20
	tlvClientCert = 0x28 // inside tlvSSL
	sslClient     = 0x01 // flag: the client came over TLS
)

func parseProxyV2(head, body []byte) (p proxied, err error) {
	switch head[12] & 0xf {
	case proxyLocal:
		return p, nil
	case proxyProxy:
	default:
		return p, errProxy
	}
	size := 0
	switch head[13] {
	case proxyTCP4:
		size = 4
	case proxyTCP6:
		size = 16
	default:
		return p, nil // other families: as LOCAL
	}
	tlvs := 2*size + 4
	if len(body) < tlvs {
		return p, errProxy
	}
	p.from, _ = netip.AddrFromSlice(body[:size])
	p.from = p.from.Unmap()
	for at := tlvs; at < len(body); {
		kind, value, next, ok := tlv(body, at)
		if !ok {
			return proxied{}, errProxy
		}
		switch kind {
		case tlvSSL:
			if err := p.readSSL(value); err != nil {
				return proxied{}, err
			}
		case tlvCRC32C:
			if !proxyChecksum(head, body, next-len(value), value) {
				return proxied{}, errProxy
			}
		}
		at = next
	}
	return p, nil
}

// tlv reads type, length and value at b[at:].
func tlv(b []byte, at int) (kind byte, value []byte, next int, ok bool) {
	if len(b)-at < 3 {
		return 0, nil, 0, false
	}
	n := int(binary.BigEndian.Uint16(b[at+1:]))
	if n > len(b)-at-3 {
		return 0, nil, 0, false
	}
	return b[at], b[at+3 : at+3+n], at + 3 + n, true
}

// readSSL reads PP2_TYPE_SSL (§2.2.6): flags, the result of verification, and
// parts of which only the certificate matters here.
func (p *proxied) readSSL(b []byte) error {
	if len(b) < 5 {
		return errProxy
	}
	p.secure = b[0]&sslClient != 0
	for at := 5; at < len(b); {
		kind, value, next, ok := tlv(b, at)
		if !ok {
			return errProxy
		}
		if kind == tlvClientCert && p.secure {
			p.cert = value
		}
		at = next
	}
	return nil
}

// proxyChecksum checks PP2_TYPE_CRC32C (§2.2.3): the header with zeros in place
// of the checksum at body[at:].
func proxyChecksum(head, body []byte, at int, sum []byte) bool {
	if len(sum) != 4 {
		return false
	}
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	h.Write(head)
	h.Write(body[:at])
	h.Write(make([]byte, 4))
	h.Write(body[at+4:])
	return h.Sum32() == binary.BigEndian.Uint32(sum)
}
