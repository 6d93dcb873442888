package core

import "testing"

// framed is a message as RFC 9420 §6 frames it, of epoch 7.
func framed(wireFormat, sender, content byte, index bool) []byte {
	b := []byte{0, 1, 0, wireFormat, 3, 'g', 'i', 'd', 0, 0, 0, 0, 0, 0, 0, 7, sender}
	if index {
		b = append(b, 0, 0, 0, 1)
	}
	return append(b, 2, 'a', 'd', content, 9, 9)
}

func TestFraming(t *testing.T) {
	for name, c := range map[string]struct {
		m        []byte
		of, ends bool
	}{
		"commit":          {framed(1, 1, 3, true), true, true},
		"external commit": {framed(1, 4, 3, false), true, true},
		"proposal":        {framed(1, 1, 2, true), true, false},
		"private":         {framed(2, 1, 3, true), true, false},
		"welcome":         {framed(3, 1, 3, true), false, false},
		"no index":        {framed(1, 1, 3, true)[:19], true, false},
		"cut":             {framed(1, 1, 3, true)[:15], false, false},
		"empty":           {nil, false, false},
	} {
		if epoch, ok := EpochOf(c.m); ok != c.of || ok && epoch != 7 {
			t.Errorf("%s is of epoch %d, %v", name, epoch, ok)
		}
		if epoch, ok := EndsEpoch(c.m); ok != c.ends || ok && epoch != 7 {
			t.Errorf("%s ends epoch %d, %v", name, epoch, ok)
		}
	}
}

func FuzzFraming(f *testing.F) {
	f.Add(framed(1, 1, 3, true))
	f.Add(framed(2, 1, 3, true))
	f.Fuzz(func(t *testing.T, b []byte) {
		of, known := EpochOf(b)
		if ends, ok := EndsEpoch(b); ok && (!known || ends != of || len(b) < 16) {
			t.Errorf("%x ends epoch %d, and is of %d", b, ends, of)
		}
	})
}
