package client

import (
	"context"
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// The smallest letter, and how long one waits for what it needs.
const (
	minLetter     = 256
	heldLetterFor = 7 * 24 * time.Hour
	maxText       = 64 << 10
)

// The kinds of letters (PROTOCOL §10).
const (
	LetterInvitation = "invitation" // to Room, with Code if it takes one
	LetterConsent    = "consent"    // Text: "request", "grant", "revoke" or "cancel"
	LetterKnock      = "knock"      // From asks to be let into Room
	LetterText       = "text"       // anything else, said once
	LetterNotice     = "notice"     // of the own homeserver, unsealed
)

// A Letter is something said to a user outside of any room: sealed to each of the
// user's devices and signed by the sender's (PROTOCOL §10).
type Letter struct {
	Kind   string         `cbor:"1,keyasint" json:"kind"`
	From   core.UserURI   `cbor:"2,keyasint" json:"from"`
	Device core.DeviceURI `cbor:"3,keyasint" json:"device"`
	To     core.DeviceURI `cbor:"4,keyasint" json:"to"`
	Room   core.RoomID    `cbor:"5,keyasint,omitempty" json:"room,omitempty"`
	Code   string         `cbor:"6,keyasint,omitempty" json:"code,omitempty"`
	Text   string         `cbor:"7,keyasint,omitempty" json:"text,omitempty"`
	At     int64          `cbor:"8,keyasint" json:"at_ms"`
}

// signedLetter is what is sealed: the letter's octets and the sender's signature.
type signedLetter struct {
	_         struct{} `cbor:",toarray"`
	Letter    []byte
	Signature []byte
}

// heldLetter is a letter of the homeserver's queue that is not dealt with yet.
type heldLetter struct {
	wire.Letter
	Since int64 `cbor:"since"` // ms when it came
	again int64 // ms: of a Welcome that could not be proven yet, when to look again
}

// age is how long a letter is held. A clock that was put back does not make it wait.
func (c *Client) age(l *heldLetter) time.Duration {
	l.Since = min(l.Since, c.now())
	return time.Duration(c.now()-l.Since) * time.Millisecond
}

// position is where Sync goes on.
type position struct {
	Next   string `cbor:"1,keyasint"`
	Letter uint64 `cbor:"2,keyasint"` // the last letter that was taken
}

func (c *Client) loadPosition(ctx context.Context) error {
	b, err := c.cfg.Store.Get(ctx, tablePosition, 0)
	if err != nil || b == nil {
		return err
	}
	return decode(b, &c.at)
}

func (c *Client) loadLetters(ctx context.Context) error {
	err := c.each(ctx, tableHeld, func(row Row) error {
		l := new(heldLetter)
		if err := decode(row.Data, l); err != nil {
			return err
		}
		c.held = append(c.held, l)
		return nil
	})
	if err != nil {
		return err
	}
	return c.each(ctx, tableInbox, func(row Row) error {
		c.inbox = max(c.inbox, row.N+1)
		return nil
	})
}

// take keeps the letters that are new; the homeserver drops them when it is asked
// for what comes after.
func (c *Client) take(letters []wire.Letter) {
	for _, l := range letters {
		if l.ID <= c.at.Letter {
			continue
		}
		c.at.Letter = l.ID
		if len(c.held) >= maxHeld {
			c.release(c.held[0])
		}
		h := &heldLetter{Letter: l, Since: c.now()}
		c.held = append(c.held, h)
		c.putCBOR(tableHeld, l.ID, h)
	}
}

// release drops a letter that was dealt with.
func (c *Client) release(l *heldLetter) {
	if i := slices.Index(c.held, l); i >= 0 {
		c.held = slices.Delete(slices.Clone(c.held), i, i+1)
		c.put(tableHeld, l.ID, nil)
	}
}

// errHold keeps a letter for later.
var errHold = errors.New("not yet")

// read deals with the letters that are held. What needs somebody who does not answer
// stays for the next time.
func (c *Client) read(ctx context.Context) error {
	for _, l := range slices.Clone(c.held) {
		if !slices.Contains(c.held, l) {
			continue
		}
		var err error
		switch l.Kind {
		case "welcome":
			err = c.welcomed(ctx, l)
		case "sealed":
			err = c.unsealed(ctx, l)
		case "low water":
			c.low = true
		case "again":
			err = c.unheard(ctx, l)
		case "notice":
			c.receive(Letter{Kind: LetterNotice, Text: string(l.Body[:min(len(l.Body), maxText)]), At: l.At})
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !c.loaded {
			return err
		}
		if err == nil || c.age(l) > heldLetterFor {
			c.release(l)
		}
	}
	return c.flush(ctx)
}

// receive keeps an opened letter and tells of it.
func (c *Client) receive(l Letter) {
	c.putCBOR(tableInbox, c.inbox, l)
	c.inbox++
	c.tell(Update{Kind: NewLetter, Room: l.Room, User: l.From, Device: l.Device, Letter: &l})
}

// Letters lists the last letters that were received, rising, at most limit.
func (c *Client) Letters(ctx context.Context, limit int) ([]Letter, error) {
	if err := c.enter(ctx); err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	limit = min(max(limit, 1), pageRows)
	rows, err := c.cfg.Store.Rows(ctx, tableInbox, c.inbox-min(c.inbox, uint64(limit)), limit)
	if err != nil {
		return nil, err
	}
	var out []Letter
	for _, row := range rows {
		var l Letter
		if err := decode(row.Data, &l); err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// WriteLetter seals a letter to every device of a user and sends it. Kind, Room,
// Code and Text are the caller's.
func (c *Client) WriteLetter(ctx context.Context, to core.UserURI, l Letter) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.mu.Unlock()
	if c.self == nil {
		return core.Errorf(core.Invalid, "prepare the device first")
	}
	if len(l.Text) > maxText {
		return core.Errorf(core.TooLarge, "a letter over %d octets", maxText)
	}
	if err := c.meet(ctx, to); err != nil {
		return err
	}
	var request wire.PutInbox
	for _, k := range c.users[to] {
		r, err := k.record()
		if err != nil {
			return err
		}
		if k.Refused || r.Revoked || r.Inbox.KEM != identity.KEMX25519 || k.Device == c.self.device {
			continue
		}
		l.From, l.Device, l.To, l.At = c.self.user, c.self.device, k.Device, c.now()
		kem, ciphertext, err := c.sealLetter(l, r.Inbox.Public)
		if err != nil {
			return err
		}
		request.Letters = append(request.Letters, wire.SealedLetter{Device: k.Device, KEM: kem, Ciphertext: ciphertext})
	}
	if len(request.Letters) == 0 {
		return core.Errorf(core.NotFound, "the user has no device that letters can be sealed to")
	}
	_, err := ask(ctx, c, func(ctx context.Context) (struct{}, error) { return struct{}{}, c.cfg.Home.PutInbox(ctx, to, request) })
	return err
}

func letterInfo(to core.DeviceURI) []byte { return []byte("isthmus letter\x00" + string(to)) }

// sealLetter pads the signed letter to a power of two and seals it: its length, the
// letter, zeros.
func (c *Client) sealLetter(l Letter, public []byte) (kem, ciphertext []byte, err error) {
	body := encode(l)
	plain := encode(signedLetter{Letter: body, Signature: identity.Sign(c.self.key, labelLetter, body)})
	padded := make([]byte, max(minLetter, 1<<bits.Len(uint(len(plain)+3))))
	binary.BigEndian.PutUint32(padded, uint32(len(plain)))
	copy(padded[4:], plain)
	key, err := inboxKEM.Scheme().UnmarshalBinaryPublicKey(public)
	if err != nil {
		return nil, nil, core.Errorf(core.Invalid, "inbox key: %w", err)
	}
	sender, err := letterSuite.NewSender(key, letterInfo(l.To))
	if err != nil {
		return nil, nil, core.Errorf(core.Internal, "letter: %w", err)
	}
	kem, sealer, err := sender.Setup(c.cfg.Rand)
	if err != nil {
		return nil, nil, core.Errorf(core.Internal, "letter: %w", err)
	}
	ciphertext, err = sealer.Seal(padded, nil)
	return kem, ciphertext, err
}

// unsealed opens a letter and finds out who wrote it. What does not open, or is not
// signed by whom it says, is dropped without a word: anybody can send noise.
func (c *Client) unsealed(ctx context.Context, l *heldLetter) error {
	var sealed wire.SealedLetter
	if err := letterCBOR.Unmarshal(l.Body, &sealed); err != nil {
		return nil
	}
	signed, letter, err := openLetter(c.self.Inbox, c.self.device, sealed)
	if err != nil {
		return nil
	}
	if c.known[letter.Device] == nil {
		if err := c.meet(ctx, letter.From); err != nil {
			if core.Temporary(err) {
				return err
			}
			return nil
		}
	}
	k := c.known[letter.Device]
	if k == nil || k.User != letter.From || k.Refused {
		return nil
	}
	r, err := k.record()
	if err != nil {
		return err
	}
	if r.Revoked || !identity.Verify(r.Key, labelLetter, signed.Signature, signed.Letter) {
		return nil
	}
	if slices.Contains(c.held, l) {
		c.receive(letter)
		c.release(l)
	}
	return nil
}

// letterCBOR bounds what a stranger may make the decoder build.
var letterCBOR = core.StrictCBOR(4, 16, 32)

// openLetter decrypts a letter and reads it; who signed it is not looked at.
func openLetter(inbox []byte, self core.DeviceURI, sealed wire.SealedLetter) (s signedLetter, l Letter, err error) {
	private, err := inboxKEM.Scheme().UnmarshalBinaryPrivateKey(inbox)
	if err != nil {
		return s, l, err
	}
	receiver, err := letterSuite.NewReceiver(private, letterInfo(self))
	if err != nil {
		return s, l, err
	}
	opener, err := receiver.Setup(sealed.KEM)
	if err != nil {
		return s, l, err
	}
	plain, err := opener.Open(sealed.Ciphertext, nil)
	if err != nil {
		return s, l, err
	}
	return readLetter(plain, self)
}

// readLetter reads what was sealed.
func readLetter(plain []byte, self core.DeviceURI) (s signedLetter, l Letter, err error) {
	malformed := core.Errorf(core.Invalid, "not a letter to this device")
	if len(plain) < 4 || uint64(binary.BigEndian.Uint32(plain)) > uint64(len(plain)-4) {
		return s, l, malformed
	}
	n := binary.BigEndian.Uint32(plain)
	if err := letterCBOR.Unmarshal(plain[4:4+n], &s); err != nil {
		return s, l, malformed
	}
	if err := letterCBOR.Unmarshal(s.Letter, &l); err != nil {
		return s, l, malformed
	}
	if l.To != self || len(l.Text) > maxText || l.From.Domain() == "" || l.Device.Domain() != l.From.Domain() {
		return s, l, malformed
	}
	if _, err := core.ParseRoomID(string(l.Room)); err != nil && l.Room != "" {
		return s, l, malformed
	}
	return s, l, nil
}
