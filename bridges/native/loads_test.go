package native

import "testing"

// One that announces much and sends nothing leaves room for the others.
func TestLoadsHaveShares(t *testing.T) {
	l := newLoads(1000)
	var free []func()
	for {
		f, ok := l.take("greedy", 100)
		if !ok {
			break
		}
		free = append(free, f)
	}
	if len(free) != 2 {
		t.Errorf("%d bodies of one at a time", len(free))
	}
	f, ok := l.take("large", 700) // alone of its kind
	if !ok {
		t.Fatal("no room beside a greedy one")
	}
	if _, ok := l.take("late", 200); ok {
		t.Error("more than there is room for")
	}
	for _, f := range append(free, f) {
		f()
	}
	if l.total() != 0 || len(l.by) != 0 {
		t.Errorf("%d octets of %d are still counted", l.total(), len(l.by))
	}
	if f, ok = l.take("huge", 5000); !ok {
		t.Fatal("a lone body finds no room")
	}
	if f(); l.total() != 0 {
		t.Error("not given back")
	}
}
