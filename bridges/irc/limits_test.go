package irc

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

func TestTableIsBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	tab := table[int, string]{max: 100}
	for i := range 10_000 {
		tab.put(i, "x", now.Add(time.Hour), now)
		if len(tab.m) > 100 {
			t.Fatalf("%d entries after %d", len(tab.m), i)
		}
	}
	if _, ok := tab.get(9_999, now); !ok {
		t.Error("the newest entry is not there")
	}
	if _, ok := tab.get(9_999, now.Add(time.Hour)); ok {
		t.Error("an entry outlives its end")
	}
	tab.put(-1, "stays", never, now)
	for i := range 10_000 {
		tab.put(i, "x", now.Add(time.Hour), now)
	}
	if v, ok := tab.get(-1, now); !ok || v != "stays" {
		t.Error("an entry that never ends was dropped")
	}
	later := now.Add(2 * time.Hour)
	for i := range 200 { // what has ended goes as new ones come
		tab.put(20_000+i, "x", later.Add(time.Minute), later)
	}
	old := 0
	for _, e := range tab.m {
		if e.end <= later.UnixNano() {
			old++
		}
	}
	if old > 0 {
		t.Errorf("%d ended entries left", old)
	}
}

func TestLimiterAtOnce(t *testing.T) {
	c := newClock()
	l := newLimiter(ConnLimits{PerAddress: 3, Burst: 100, Total: 5, Exempt: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, c.now)
	var places []*ticket
	admit := func(a string) error {
		p, err := l.admit(netip.MustParseAddr(a))
		if err == nil {
			places = append(places, p)
		}
		return err
	}
	for _, a := range []string{"2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::"} { // one /64
		if err := admit(a); err != nil {
			t.Fatal(err)
		}
	}
	if err := admit("2001:db8::4"); err != errTooManyHere {
		t.Errorf("fourth of a /64: %v", err)
	}
	if err := admit("2001:db8:0:1::1"); err != nil {
		t.Errorf("the next /64: %v", err)
	}
	if err := admit("127.0.0.1"); err != nil {
		t.Errorf("exempt: %v", err)
	}
	if err := admit("127.0.0.1"); err != errFull {
		t.Errorf("over the total: %v", err)
	}
	for _, p := range places {
		p.release()
		p.release() // twice is once
	}
	if l.total != 0 {
		t.Errorf("%d places left", l.total)
	}
	for range 5 { // exempt ones do not know the limit per address
		if err := admit("127.0.0.1"); err != nil {
			t.Error(err)
		}
	}
}

func TestLimiterOverTime(t *testing.T) {
	c := newClock()
	l := newLimiter(ConnLimits{Burst: 4, Interval: time.Second, PerAddress: 100}, c.now)
	a, mapped := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::ffff:192.0.2.1")
	try := func(a netip.Addr) error {
		p, err := l.admit(a)
		p.release()
		return err
	}
	for range 4 {
		if err := try(a); err != nil {
			t.Fatal(err)
		}
	}
	if err := try(mapped); err != errTooManyNew {
		t.Errorf("the same address as IPv6: %v", err)
	}
	if err := try(netip.MustParseAddr("192.0.2.2")); err != nil {
		t.Errorf("the neighbour: %v", err)
	}
	c.add(time.Second)
	if err := try(a); err != nil {
		t.Errorf("after an interval: %v", err)
	}
	if err := try(a); err != errTooManyNew {
		t.Errorf("two after one interval: %v", err)
	}
	l.set(ConnLimits{Burst: 100, Interval: time.Second, PerAddress: 100})
	if err := try(a); err != nil {
		t.Errorf("after the limit was raised: %v", err)
	}
}

func TestTicketMoves(t *testing.T) {
	l := newLimiter(ConnLimits{PerAddress: 1, Burst: 100}, newClock().now)
	gateway, person := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	p, _ := l.admit(gateway)
	if err := p.move(person); err != nil {
		t.Fatal(err)
	}
	q, err := l.admit(gateway)
	if err != nil {
		t.Fatalf("the gateway still counts: %v", err)
	}
	if err := q.move(person); err != errTooManyHere {
		t.Errorf("a second one of the person: %v", err)
	}
	q.release()
	p.release()
	if l.total != 0 {
		t.Errorf("%d places left", l.total)
	}
	if p, err = l.admit(person); err != nil {
		t.Error(err)
	}
}

// A million addresses, each once, and ten thousand tries from one: the table
// stays bounded and a refusal costs no memory.
func TestLimiterUnderAttack(t *testing.T) {
	l := newLimiter(ConnLimits{Total: 100, Interval: time.Hour}, newClock().now)
	for i := range 1_000_000 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(i))
		p, err := l.admit(netip.AddrFrom4(b))
		if err != nil {
			t.Fatal(err)
		}
		p.release()
	}
	if n := len(l.loads.m); n > maxIdleAddresses+100 {
		t.Errorf("%d addresses remembered", n)
	}
	a := netip.MustParseAddr("192.0.2.1")
	for range 16 {
		l.admit(a)
	}
	if n := testing.AllocsPerRun(10_000, func() {
		if _, err := l.admit(a); core.CodeOf(err) != core.Limited {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("a refusal allocates %v times", n)
	}
}

func TestCloaks(t *testing.T) {
	c := cloaker{key: testKey, network: "example"}
	a := c.address(netip.MustParseAddr("192.0.2.1"))
	again := cloaker{key: append([]byte(nil), testKey...), network: "example"}.address(netip.MustParseAddr("::ffff:192.0.2.1"))
	if a != again {
		t.Errorf("%s, then %s", a, again)
	}
	if strings.Contains(a, "192") && strings.Contains(a, "0.2.1") || !strings.HasSuffix(a, ".example.ip") || len(a) > 63 {
		t.Errorf("cloak %s", a)
	}
	if other := (cloaker{key: []byte("another secret!!"), network: "example"}).address(here); other == a {
		t.Error("the secret plays no part")
	}
	near := c.address(netip.MustParseAddr("192.0.2.2")) // same /24: same tail, other head
	_, tail, _ := strings.Cut(a, ".")
	head, nearTail, _ := strings.Cut(near, ".")
	if tail != nearTail || strings.HasPrefix(a, head+".") {
		t.Errorf("%s and %s", a, near)
	}
	if c.address(netip.MustParseAddr("2001:db8::1")) != c.address(netip.MustParseAddr("2001:db8::ffff")) {
		t.Error("one /64 has two hosts")
	}
	if got := c.account("Alice"); got != "alice.example.user" {
		t.Errorf("account host %s", got)
	}
	x, y := c.account("a_b"), c.account("a`b")
	if x == y || strings.ContainsAny(x+y, "_`") || x != c.account("A_B") {
		t.Errorf("%s and %s", x, y)
	}
}

func BenchmarkRefuse(b *testing.B) {
	l := newLimiter(ConnLimits{}, time.Now)
	for range 16 {
		l.admit(here)
	}
	b.ReportAllocs()
	for b.Loop() {
		l.admit(here)
	}
}
