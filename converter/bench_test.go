package converter

import (
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// IRC → event → Matrix JSON, and Matrix JSON → event → IRC: both directions
// make one operation (issue 2, "Numbers").
func BenchmarkIRCToMatrixAndBack(b *testing.B) {
	n := newRoom()
	in := ircSays("lunch at noon? the new place by the river has soup, and I hear it is good")
	back := matrixSays("m.room.message", `{"msgtype":"m.text","body":"yes, noon is fine; see you there, I will bring the others too","m.mentions":{}}`)
	b.ReportAllocs()
	for b.Loop() {
		e, err := IRC{}.Inbound(in, n)
		if err != nil {
			b.Fatal(err)
		}
		ev := core.Event{Envelope: e, ID: core.EventID{1}, Accepted: time.UnixMilli(testStart)}
		out, _, err := Matrix{}.Outbound(&ev, n)
		if err != nil || len(out) != 1 {
			b.Fatal(err)
		}
		es, err := Matrix{}.Inbound(back, n)
		if err != nil {
			b.Fatal(err)
		}
		ev = core.Event{Envelope: es[0], ID: core.EventID{1}, Accepted: time.UnixMilli(testStart)}
		o, _, err := IRC{}.Outbound(&ev, n)
		if err != nil || len(o.Lines) != 1 {
			b.Fatal(err)
		}
	}
}

func BenchmarkIRCFormattedToMatrix(b *testing.B) {
	n := newRoom()
	in := ircSays("\x02bold\x02 and \x1ditalic\x1d text, alice_: \x0304red\x03 and code \x11x := 1\x11")
	b.ReportAllocs()
	for b.Loop() {
		e, err := IRC{}.Inbound(in, n)
		if err != nil {
			b.Fatal(err)
		}
		ev := core.Event{Envelope: e, ID: core.EventID{1}}
		if _, _, err := (Matrix{}).Outbound(&ev, n); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseContent(b *testing.B) {
	e, err := IRC{}.Inbound(ircSays("lunch at noon?"), newRoom())
	if err != nil {
		b.Fatal(err)
	}
	s := e.Body.(core.Signed)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseContent(s.Content); err != nil {
			b.Fatal(err)
		}
	}
}
