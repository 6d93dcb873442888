package identity

import "testing"

func BenchmarkParseRecord(b *testing.B) {
	env := first(1, func(r *Record) { r.Links = ids(2, 3, 4) }).Encode()
	b.ReportAllocs()
	b.SetBytes(int64(len(env)))
	for b.Loop() {
		if _, err := ParseRecord(env); err != nil {
			b.Fatal(err)
		}
	}
}

// What a flood of garbage costs: a record whose last octet is missing.
func BenchmarkParseRecordRefused(b *testing.B) {
	env := first(1, nil).Encode()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseRecord(env[:len(env)-1]); err == nil {
			b.Fatal("accepted")
		}
	}
}

func BenchmarkUsable(b *testing.B) {
	r, a, c := first(1, nil), attest(1, nil), chain(3)
	if err := c.Extend(must(SignHomeserver(key(102), home(4, c.Head().Hash(), 100)))); err != nil {
		b.Fatal(err)
	}
	block := must(ParseBlocklist([]string{"evil.example", "*.bad.example"}))
	b.ReportAllocs()
	for b.Loop() {
		if err := Usable(r, a, c, block, now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckStrict(b *testing.B) {
	body := first(1, func(r *Record) { r.Links = ids(2, 3, 4) }).Bytes
	b.ReportAllocs()
	for b.Loop() {
		if err := checkStrict(body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSafetyWords(b *testing.B) {
	x, y := pub(1), pub(2)
	for b.Loop() {
		if len(SafetyWords(x, y)) != SafetyWordCount {
			b.Fatal("words are missing")
		}
	}
}
