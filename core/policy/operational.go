package policy

import (
	"fmt"
	"slices"

	"github.com/isthmus-chat/isthmus/mls"
)

// ClientCapabilities are lists of code points that a client supports or that a
// room demands, draft-ietf-mimi-room-policy-04 §7.
type ClientCapabilities struct {
	Versions, Suites, Extensions, Proposals, Credentials, WireFormats []uint16
	Components, SafeAAD                                               []mls.ComponentID
	MediaTypes                                                        []mls.MediaType
	ContentTypes                                                      []uint8
}

func readU16s(r *reader) []uint16 { return readList(r, MaxCapabilities, (*reader).u16) }

func readClientCapabilities(r *reader) ClientCapabilities {
	return ClientCapabilities{
		readU16s(r), readU16s(r), readU16s(r), readU16s(r), readU16s(r), readU16s(r),
		readComponents(r), readComponents(r),
		readMediaTypes(r), readList(r, MaxEntries, (*reader).u8),
	}
}

func (c ClientCapabilities) appendTo(dst []byte) []byte {
	for _, list := range [][]uint16{c.Versions, c.Suites, c.Extensions, c.Proposals, c.Credentials, c.WireFormats} {
		dst = appendList(dst, list, appendU16)
	}
	dst = appendComponents(appendComponents(dst, c.Components), c.SafeAAD)
	return appendList(appendMediaTypes(dst, c.MediaTypes), c.ContentTypes, appendU8)
}

// demands reports whether any list has an entry.
func (c ClientCapabilities) demands() bool {
	for _, list := range [][]uint16{c.Versions, c.Suites, c.Extensions, c.Proposals, c.Credentials, c.WireFormats} {
		if len(list) > 0 {
			return true
		}
	}
	return len(c.Components)+len(c.SafeAAD)+len(c.MediaTypes)+len(c.ContentTypes) > 0
}

// A Span is a shortest, usual and longest time; the draft gives no unit.
type Span struct{ Minimum, Default, Maximum uint64 }

func readSpan(r *reader) Span { return Span{r.u64(), r.u64(), r.u64()} }

func (s Span) appendTo(dst []byte) []byte {
	return appendU64(appendU64(appendU64(dst, s.Minimum), s.Default), s.Maximum)
}

// Strategy says when members commit the proposals of others.
type Strategy uint8

// The strategies of draft-ietf-mimi-room-policy-04 §7.1.
const (
	StrategyUnspecified Strategy = 0
	StrategyImmediate   Strategy = 1
	StrategyRandomDelay Strategy = 2
)

// Operational is the data and the update of the component
// mls_operational_policy, draft-ietf-mimi-room-policy-04 §7.1. Delays are in
// milliseconds and zero if the strategy has none; EpochTolerance is in epochs.
// Of what is mandatory and forbidden a State takes only forbidden proposals:
// what every client must support is for the group's required_capabilities to
// say, RFC 9420 §11.1, and nobody here would see to the rest.
type Operational struct {
	Mandatory, Default, Forbidden ClientCapabilities
	HandshakeFormats              []uint16
	ExternalProposal              bool
	ExternalCommit                bool
	Pending                       Strategy
	MinDelay, MaxDelay            uint64
	LeafUpdate                    Span
	EpochTolerance                uint8
	PadTo                         uint16
	MaxSkip                       uint32 // generations of a sender's ratchet
	MaxKeyPackageLifetime         uint64
	MaxCredentialLifetime         uint64
	ResumptionPSKLifetime         uint64
	SenderKeyLifetime             Span
	MaxKeyPairs                   uint32
	BufferTime                    Span
	MaxBuffered                   uint32
}

// ParseOperational reads it. Errors are ErrMalformed.
func ParseOperational(b []byte) (Operational, error) {
	return parse(b, func(r *reader) (p Operational) {
		p.Mandatory = readClientCapabilities(r)
		p.Default = readClientCapabilities(r)
		p.Forbidden = readClientCapabilities(r)
		p.HandshakeFormats = readU16s(r)
		p.ExternalProposal, p.ExternalCommit = r.bool(), r.bool()
		if p.Pending = Strategy(r.choice(2)); p.Pending == StrategyRandomDelay {
			p.MinDelay, p.MaxDelay = r.u64(), r.u64()
		}
		p.LeafUpdate = readSpan(r)
		p.EpochTolerance, p.PadTo, p.MaxSkip = r.u8(), r.u16(), r.u32()
		p.MaxKeyPackageLifetime, p.MaxCredentialLifetime, p.ResumptionPSKLifetime = r.u64(), r.u64(), r.u64()
		p.SenderKeyLifetime, p.MaxKeyPairs = readSpan(r), r.u32()
		p.BufferTime, p.MaxBuffered = readSpan(r), r.u32()
		return p
	})
}

// AppendTo appends the encoding.
func (p Operational) AppendTo(dst []byte) []byte {
	dst = p.Forbidden.appendTo(p.Default.appendTo(p.Mandatory.appendTo(dst)))
	dst = appendList(dst, p.HandshakeFormats, appendU16)
	dst = append(appendBool(appendBool(dst, p.ExternalProposal), p.ExternalCommit), byte(p.Pending))
	if p.Pending == StrategyRandomDelay {
		dst = appendU64(appendU64(dst, p.MinDelay), p.MaxDelay)
	}
	dst = append(p.LeafUpdate.appendTo(dst), p.EpochTolerance)
	dst = appendU32(appendU16(dst, p.PadTo), p.MaxSkip)
	dst = appendU64(appendU64(appendU64(dst, p.MaxKeyPackageLifetime), p.MaxCredentialLifetime), p.ResumptionPSKLifetime)
	dst = appendU32(p.SenderKeyLifetime.appendTo(dst), p.MaxKeyPairs)
	return appendU32(p.BufferTime.appendTo(dst), p.MaxBuffered)
}

// check refuses lists that nobody enforces.
func (p *Operational) check() error {
	forbidden := p.Forbidden
	forbidden.Proposals = nil // Forbids
	switch {
	case p.Mandatory.demands():
		return fmt.Errorf("%w: a policy of mandatory capabilities", ErrUnsupported)
	case forbidden.demands():
		return fmt.Errorf("%w: a policy that forbids more than proposals", ErrUnsupported)
	case p.Forbids(mls.ProposalAppDataUpdate):
		return fmt.Errorf("%w: a policy that nobody could ever change", ErrUnsupported)
	}
	return nil
}

// Forbids reports whether nobody may make such a proposal.
func (p *Operational) Forbids(t mls.ProposalType) bool {
	return t != 0 && slices.Contains(p.Forbidden.Proposals, uint16(t)) // 0 is no type
}
