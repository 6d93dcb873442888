package irc

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"net/netip"
	"strings"
	"testing"
)

// proxyV2 builds a header from its parts.
func proxyV2(command, family byte, addresses []byte, tlvs ...[]byte) []byte {
	body := append([]byte(nil), addresses...)
	for _, t := range tlvs {
		body = append(body, t...)
	}
	h := append([]byte(nil), proxySignature...)
	h = append(h, 0x20|command, family)
	h = binary.BigEndian.AppendUint16(h, uint16(len(body)))
	return append(h, body...)
}

func makeTLV(kind byte, value []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(value)))
	return append(b, value...)
}

// withChecksum fills the checksum TLV that h ends with (§2.2.3).
func withChecksum(h []byte) []byte {
	clear(h[len(h)-4:])
	binary.BigEndian.PutUint32(h[len(h)-4:], crc32.Checksum(h, crc32.MakeTable(crc32.Castagnoli)))
	return h
}

var (
	v4Pair = []byte{192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x34, 0x1a, 0x0b}
	v6Pair = append(append(netip.MustParseAddr("2001:db8::1").AsSlice(), netip.MustParseAddr("2001:db8::2").AsSlice()...), 1, 2, 3, 4)
)

func TestReadProxy(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	ssl := append([]byte{sslClient, 0, 0, 0, 0}, makeTLV(0x21, []byte("TLSv1.3"))...)
	for name, c := range map[string]struct {
		in   []byte
		want proxied
	}{
		"v1 tcp4":       {[]byte("PROXY TCP4 192.0.2.1 198.51.100.1 4660 6667\r\n"), proxied{from: v4}},
		"v1 tcp6":       {[]byte("PROXY TCP6 2001:db8::1 2001:db8::2 4660 6667\r\n"), proxied{from: v6}},
		"v1 unknown":    {[]byte("PROXY UNKNOWN\r\n"), proxied{}},
		"v1 unknown+":   {[]byte("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), proxied{}},
		"v2 local":      {proxyV2(proxyLocal, 0, nil), proxied{}},
		"v2 tcp4":       {proxyV2(proxyProxy, proxyTCP4, v4Pair), proxied{from: v4}},
		"v2 tcp6":       {proxyV2(proxyProxy, proxyTCP6, v6Pair), proxied{from: v6}},
		"v2 unix":       {proxyV2(proxyProxy, 0x31, make([]byte, 216)), proxied{}},
		"v2 tls":        {proxyV2(proxyProxy, proxyTCP4, v4Pair, makeTLV(tlvSSL, ssl)), proxied{from: v4, secure: true}},
		"v2 plain ssl":  {proxyV2(proxyProxy, proxyTCP4, v4Pair, makeTLV(tlvSSL, make([]byte, 5))), proxied{from: v4}},
		"v2 unknown":    {proxyV2(proxyProxy, proxyTCP4, v4Pair, makeTLV(0xEA, []byte("vpc"))), proxied{from: v4}},
		"v2 checksum":   {withChecksum(proxyV2(proxyProxy, proxyTCP4, v4Pair, makeTLV(tlvCRC32C, make([]byte, 4)))), proxied{from: v4}},
		"v2 mapped":     {proxyV2(proxyProxy, proxyTCP6, append(netip.MustParseAddr("::ffff:192.0.2.1").AppendTo(nil)[:0], append(append(as16("192.0.2.1"), as16("192.0.2.2")...), 0, 1, 0, 2)...)), proxied{from: v4}},
		"v2 clientcert": {proxyV2(proxyProxy, proxyTCP4, v4Pair, makeTLV(tlvSSL, append(ssl[:len(ssl):len(ssl)], makeTLV(tlvClientCert, []byte("DER"))...))), proxied{from: v4, secure: true, cert: []byte("DER")}},
	} {
		r := bytes.NewReader(append(append([]byte(nil), c.in...), "NICK a\r\n"...))
		got, err := readProxy(r)
		if err != nil || got.from != c.want.from || got.secure != c.want.secure || !bytes.Equal(got.cert, c.want.cert) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "NICK a\r\n" {
			t.Errorf("%s: %q is left", name, rest)
		}
	}
}

func as16(s string) []byte { b := netip.MustParseAddr(s).As16(); return b[:] }

func TestReadProxyRefuses(t *testing.T) {
	sum := withChecksum(proxyV2(proxyProxy, proxyTCP4, v4Pair, makeTLV(tlvCRC32C, make([]byte, 4))))
	sum[17] ^= 1
	long := proxyV2(proxyProxy, proxyTCP4, append(v4Pair, make([]byte, maxProxyV2)...))
	version := proxyV2(proxyProxy, proxyTCP4, v4Pair)
	version[12] = 0x11
	for name, in := range map[string][]byte{
		"nothing":         nil,
		"irc":             []byte("NICK alice\r\nUSER a 0 * :a\r\n"),
		"v1 endless":      []byte("PROXY TCP4 " + strings.Repeat("1", 200)),
		"v1 wrong family": []byte("PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n"),
		"v1 mixed":        []byte("PROXY TCP6 2001:db8::1 192.0.2.1 1 2\r\n"),
		"v1 zone":         []byte("PROXY TCP6 fe80::1%lo fe80::2 1 2\r\n"),
		"v1 port":         []byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n"),
		"v1 port zeros":   []byte("PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n"),
		"v1 blanks":       []byte("PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
		"v1 no cr":        []byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\nNICK a\n"),
		"v2 short":        proxyV2(proxyProxy, proxyTCP4, v4Pair[:11]),
		"v2 cut":          proxyV2(proxyProxy, proxyTCP4, v4Pair)[:20],
		"v2 command":      proxyV2(2, proxyTCP4, v4Pair),
		"v2 long":         long,
		"v2 tlv":          proxyV2(proxyProxy, proxyTCP4, v4Pair, []byte{tlvSSL, 0, 9, 1}),
		"v2 tlv head":     proxyV2(proxyProxy, proxyTCP4, v4Pair, []byte{tlvSSL, 0}),
		"v2 ssl":          proxyV2(proxyProxy, proxyTCP4, v4Pair, makeTLV(tlvSSL, []byte{1})),
		"v2 ssl inside":   proxyV2(proxyProxy, proxyTCP4, v4Pair, makeTLV(tlvSSL, []byte{1, 0, 0, 0, 0, tlvClientCert, 0, 9})),
		"v2 checksum":     sum,
		"v2 version":      version,
	} {
		if got, err := readProxy(bytes.NewReader(in)); err == nil {
			t.Errorf("%s: accepted as %+v", name, got)
		}
	}
}

func FuzzReadProxy(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 198.51.100.1 4660 6667\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add(proxyV2(proxyProxy, proxyTCP6, v6Pair))
	f.Add(withChecksum(proxyV2(proxyProxy, proxyTCP4, v4Pair, makeTLV(tlvCRC32C, make([]byte, 4)))))
	f.Add(proxyV2(proxyProxy, proxyTCP4, v4Pair, makeTLV(tlvSSL, []byte{1, 0, 0, 0, 0, tlvClientCert, 0, 1, 'x'})))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		p, err := readProxy(r)
		read := len(in) - r.Len()
		if read > 16+maxProxyV2 {
			t.Fatalf("read %d octets", read)
		}
		if err != nil {
			return
		}
		if p.from.Zone() != "" || p.from.Is4In6() || !p.from.IsValid() && (p.secure || p.cert != nil) {
			t.Fatalf("%+v", p)
		}
		again, err := readProxy(bytes.NewReader(in[:read])) // what follows plays no part
		if err != nil || again.from != p.from || again.secure != p.secure {
			t.Fatalf("%+v, then %+v, %v", p, again, err)
		}
	})
}
