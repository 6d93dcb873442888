package irc

import (
	"strings"
)

// A capSet is a set of negotiated capabilities.
type capSet uint64

// The capabilities this package knows. A capability is offered only when the
// file that implements it has put it into the table (offer) and it is ready.
const (
	capMessageTags capSet = 1 << iota
	capServerTime
	capAccountTag
	capEchoMessage
	capBatch
	capLabels
	capAccountNotify
	capExtendedJoin
	capAwayNotify
	capChghost
	capSetname
	capInviteNotify
	capMultiPrefix
	capUserhostInNames
	capStandardReplies
	capNotify
	capSASL
	capSTS
	capNoImplicitNames
	capDraftNoImplicitNames
	capExtendedMonitor
	capChatHistory
	capEventPlayback
	capRedaction
	capReadMarker
	capMultiline
	capRelaymsg
	capPreAway
	capChannelRename
	capExtendedISupport
	capAccountRegistration
	capMetadata2
	capMetadata3
	capPlayback    // znc.in/playback
	capSelfMessage // znc.in/self-message
)

func (s capSet) has(c capSet) bool { return s&c != 0 }

// A capability is one entry of the table.
type capability struct {
	bit   capSet
	name  string
	value func(*Server) string           // nil = none; shown to clients of CAP LS 302
	info  func(*session) string          // as value, where it differs between sessions
	ready func(*Server, *session) bool   // nil = always; whether this session can use it
	fixed bool                           // shown, but nobody may ask for it
	on    func(s *session, enabled bool) // nil = nothing to do on change
}

var capTable []capability

// offer puts capabilities into the table, in the order clients see.
func offer(cs ...capability) { capTable = append(capTable, cs...) }

func init() {
	offer(
		capability{bit: capMessageTags, name: "message-tags"},
		capability{bit: capServerTime, name: "server-time"},
		capability{bit: capAccountTag, name: "account-tag"},
		capability{bit: capEchoMessage, name: "echo-message"},
		capability{bit: capBatch, name: "batch"},
		capability{bit: capLabels, name: "labeled-response"},
		capability{bit: capAccountNotify, name: "account-notify"},
		capability{bit: capExtendedJoin, name: "extended-join"},
		capability{bit: capAwayNotify, name: "away-notify"},
		capability{bit: capChghost, name: "chghost"},
		capability{bit: capSetname, name: "setname"},
		capability{bit: capInviteNotify, name: "invite-notify"},
		capability{bit: capMultiPrefix, name: "multi-prefix"},
		capability{bit: capUserhostInNames, name: "userhost-in-names"},
		capability{bit: capStandardReplies, name: "standard-replies"},
		capability{bit: capNotify, name: "cap-notify"},
		capability{bit: capNoImplicitNames, name: "no-implicit-names"},
		capability{bit: capDraftNoImplicitNames, name: "draft/no-implicit-names"},
		capability{bit: capPreAway, name: "draft/pre-away"},
		capability{bit: capExtendedISupport, name: "draft/extended-isupport"},
	)
	addCommands(commandTable{
		"CAP": {min: 1, early: true, run: cmdCap},
	})
}

func findCap(name string) *capability {
	for i := range capTable {
		if capTable[i].name == name {
			return &capTable[i]
		}
	}
	return nil
}

// cmdCap answers CAP (https://ircv3.net/specs/extensions/capability-negotiation).
func cmdCap(s *session, l *line) {
	switch sub := upper(l.params[0]); sub {
	case "LS":
		if s.reg != nil {
			s.reg.negotiating = true
		}
		if v := l.param(1); len(v) >= 3 && v >= "302" && v <= "999" {
			s.cap302 = true
			s.setCaps(s.caps() | capNotify)
		}
		s.capList("LS", true)
	case "LIST":
		s.capList("LIST", false)
	case "REQ":
		if s.reg != nil {
			s.reg.negotiating = true
		}
		s.capRequest(l.param(1))
	case "END":
		if s.reg != nil {
			s.reg.negotiating = false
			s.tryRegister()
		}
	default:
		s.num("410", sub, "Invalid CAP command")
	}
}

// capRoom is what names on one CAP line may take.
const capRoom = 400

// capList sends what there is (all) or what is on, on as many lines as needed.
func (s *session) capList(sub string, all bool) {
	var b strings.Builder
	on := s.caps()
	for _, c := range capTable {
		if c.ready != nil && !c.ready(s.srv, s) || !all && !on.has(c.bit) {
			continue
		}
		word := c.name
		if all && s.cap302 && c.value != nil {
			if v := c.value(s.srv); v != "" {
				word += "=" + v
			}
		}
		if all && s.cap302 && c.info != nil {
			word += "=" + c.info(s)
		}
		if b.Len()+len(word) > capRoom {
			if s.cap302 {
				s.reply("CAP", sub, "*", b.String())
			} else {
				s.reply("CAP", sub, b.String())
			}
			b.Reset()
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(word)
	}
	s.reply("CAP", sub, b.String())
}

// capRequest changes all capabilities asked for, or none.
func (s *session) capRequest(list string) {
	add, drop := capSet(0), capSet(0)
	var changed []*capability
	for _, word := range strings.Fields(list) {
		name, off := strings.CutPrefix(word, "-")
		c := findCap(name)
		if c == nil || c.fixed || c.ready != nil && !c.ready(s.srv, s) || off && c.bit == capNotify && s.cap302 {
			s.reply("CAP", "NAK", list)
			return
		}
		if off {
			drop |= c.bit
		} else {
			add |= c.bit
		}
		changed = append(changed, c)
	}
	before := s.caps()
	s.setCaps(before&^drop | add)
	s.reply("CAP", "ACK", list)
	for _, c := range changed {
		if now := s.caps().has(c.bit); c.on != nil && now != before.has(c.bit) {
			c.on(s, now)
		}
	}
}
