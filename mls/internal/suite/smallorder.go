package suite

import (
	"bytes"
	"encoding/hex"
)

// Under a public key of small order one signature verifies for every content,
// or for one in eight, so that nobody is bound by what is signed. RFC 8032 does
// not demand that such keys are refused, RFC 9420 §5.1.1 leaves it to the
// scheme. Honest signers never make one, nor a commitment R of small order, so
// both are refused: then all that follow a group agree, whatever library they
// verify with.

// smallOrder25519 are the y-coordinates of the eight points whose order divides
// the cofactor of Ed25519, with those that are not reduced: 0 and 1 can also
// be written as p and p+1. The sign bit is left out: with either, also where x
// is zero, it is a point of the same kind.
var smallOrder25519 = [...][32]byte{
	point25519("0000000000000000000000000000000000000000000000000000000000000000"), // order 4
	point25519("0100000000000000000000000000000000000000000000000000000000000000"), // the neutral element
	point25519("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), // order 8
	point25519("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), // order 8
	point25519("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"), // order 2: -1
	point25519("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"), // p
	point25519("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"), // p+1
}

func point25519(digits string) (out [32]byte) {
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != len(out) {
		panic("suite: not a point")
	}
	return [32]byte(b)
}

// isSmall25519 reports whether an encoded point is of small order. It only
// looks at public values.
func isSmall25519(point []byte) bool {
	y := [32]byte(point)
	y[31] &= 0x7f
	for i := range smallOrder25519 {
		if y == smallOrder25519[i] {
			return true
		}
	}
	return false
}

// size448 is the octets of a coordinate of Ed448; the sign stands in another.
const size448 = 56

// smallOrder448 are the y-coordinates of the four points whose order divides
// the cofactor of Ed448: 0, 1 and -1, and p and p+1.
var smallOrder448 = points448()

func points448() (out [5][size448]byte) {
	p := out[0]
	for i := range p {
		p[i] = 0xff
	}
	p[size448/2] = 0xfe // p = 2^448 - 2^224 - 1
	out[1][0] = 1
	out[2], out[3] = p, p
	out[2][0]--
	for i := size448 / 2; i < size448; i++ {
		out[4][i] = 0xff
	}
	return out
}

// isSmall448 is isSmall25519 for Ed448.
func isSmall448(point []byte) bool {
	for i := range smallOrder448 {
		if bytes.Equal(point[:size448], smallOrder448[i][:]) {
			return true
		}
	}
	return false
}
