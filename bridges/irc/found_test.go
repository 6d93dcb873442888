package irc

import (
	"fmt"
	"testing"
)

// Many of one address who join a channel that is not there yet make one room, so
// that is what is counted: a house of five hundred once could not enter its
// twentieth channel.
func TestOneRoomIsCountedOnce(t *testing.T) {
	h := openHouse(t, nil)
	var cs []*client
	for i := range 40 {
		cs = append(cs, h.user(fmt.Sprintf("u%d", i)))
	}
	for n := range 20 { // 800 joins, 20 rooms
		for _, c := range cs {
			c.send(fmt.Sprintf("JOIN #room%d", n))
		}
		for _, c := range cs {
			c.until(fmt.Sprintf(" 366 %s #room%d ", c.nick, n))
		}
	}
}
