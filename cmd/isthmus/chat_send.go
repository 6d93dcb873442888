package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of sending.
const (
	sendBatch   = 64 // texts that are sent before their results are written
	sendWaits   = 10 // times that send waits for a homeserver that wants it, for so long each
	minSendWait = 100 * time.Millisecond
	maxSendWait = 5 * time.Second
)

func (a *chatApp) sendCommand() *cobra.Command {
	return &cobra.Command{
		Use: "send ROOM [TEXT…]", Short: "Say something: the text, or each line of the input", Args: cobra.MinimumNArgs(1),
		Long: `Say something in a room: the text, or without one each line of the input.

It ends when the homeserver has accepted everything. What it could not hand over
(exit code 4) is kept on this device, and goes out with the next command: do not send
it again. Of lines it says up to which they are accepted or kept. What cannot be kept,
because this device is not in the room for instance, is refused (exit code 1).`,
		RunE: a.run(func(ctx context.Context, chat chatter, args []string) error {
			s := sending{chatApp: a, chat: chat, text: len(args) > 1}
			if s.away = a.sync(ctx, chat); s.away != nil && !core.Temporary(s.away) {
				return s.away
			}
			var err error
			if s.away != nil {
				s.room, err = roomArg(chat, args[0])
			} else {
				s.room, err = enteredArg(ctx, chat, args[0])
			}
			if err != nil {
				return s.beside(s.notKept(ctx, err))
			}
			var in io.Reader = a.in
			if s.text {
				in = strings.NewReader(strings.ReplaceAll(strings.Join(args[1:], " "), "\n", "\x00"))
			}
			return s.lines(ctx, in)
		}),
	}
}

// A sending is what becomes of texts on their way into a room.
type sending struct {
	*chatApp
	chat chatter
	room core.RoomID
	text bool  // there is one, of the command line
	away error // why nothing was asked of the homeserver: what is said is kept

	line, sent, kept, refused int
}

// lines sends each line, in batches of what is there already. In one text of the
// command line a NUL stands for a line break.
func (s *sending) lines(ctx context.Context, in io.Reader) error {
	r := bufio.NewReaderSize(in, 1<<16)
	var batch []string
	for {
		b, err := readPeerLine(r, maxChatText+2)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return s.beside(core.Errorf(core.TooLarge, "line %d is over %d octets", s.line+len(batch)+1, maxChatText))
		}
		l := strings.TrimRight(string(b), "\r\n")
		if s.text {
			l = strings.ReplaceAll(l, "\x00", "\n")
		}
		if batch = append(batch, l); len(batch) >= sendBatch || r.Buffered() == 0 {
			if err := s.flush(ctx, batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	if err := s.flush(ctx, batch); err != nil {
		return err
	}
	if !s.json && (s.sent > 0 || s.line != 1 && s.kept == 0) { // else the error says it all
		fmt.Fprintf(s.out, "Sent %d.\n", s.sent)
	}
	switch {
	case s.kept > 0 && s.text:
		return later(ctx, s.away, "it is kept and goes out with the next command")
	case s.kept > 0:
		return later(ctx, s.away, "%d lines are kept and go out with the next command", s.kept)
	case s.refused > 0:
		return errSaid
	}
	return nil
}

// flush sends texts, or keeps them, and says what became of each.
func (s *sending) flush(ctx context.Context, batch []string) error {
	var results []chatSent
	var err error
	if s.away == nil {
		results, err = sendPatiently(ctx, s.chat, s.room, batch)
	} else if results, err = s.chat.Keep(s.room, batch); err == nil {
		why := wireErrorOf(later(ctx, s.away, "it is kept"))
		for i := range results {
			if results[i].Waiting {
				results[i].Error = &why
			}
		}
	}
	for _, res := range results {
		switch res.Line += s.line; {
		case res.Waiting:
			s.kept++
		case res.Error == nil:
			s.sent++
		case err == nil:
			s.refused++
		}
		if (s.text && err != nil || s.away != nil && res.Waiting) && !s.json {
			continue // it is said once, as the error
		}
		if werr := s.writeSent(res, s.text); werr != nil {
			return werr
		}
	}
	s.line += len(batch)
	n := len(results)
	switch {
	case err == nil:
		return nil
	case n == 0 || !results[n-1].Waiting:
		return s.beside(s.notKept(ctx, err))
	case s.text:
		return later(ctx, err, "it is kept and goes out with the next command")
	}
	return later(ctx, err, "line %d is kept and goes out with the next command, what follows it was not read", s.line-len(batch)+n)
}

// later is why something that is kept is not sent yet: exit code 4 promises that it is
// kept, whatever it was that came between.
func later(ctx context.Context, err error, kept string, args ...any) error {
	why, code := core.TextOf(err), core.Unavailable
	if core.CodeOf(err) == core.Limited {
		code = core.Limited
	}
	if ctx.Err() != nil {
		why = "interrupted"
	}
	return &core.Error{Code: code, Err: err, Text: why + "; " + fmt.Sprintf(kept, args...)}
}

// notKept is why something was neither sent nor kept: what sounds as if it were, is
// another code.
func (s *sending) notKept(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return &core.Error{Code: core.Conflict, Err: err, Text: "interrupted; it was not kept"}
	case core.Temporary(err):
		return &core.Error{Code: core.Conflict, Err: err, Text: explain(err) + "; it was not kept"}
	case s.away != nil:
		return &core.Error{Code: core.CodeOf(err), Err: err, Text: core.TextOf(err) + ", as far as this device knows; it was not kept. " + core.TextOf(s.away)}
	}
	return err
}

// beside says with an error what is kept all the same.
func (s *sending) beside(err error) error {
	if s.kept == 0 {
		return err
	}
	return &core.Error{Code: core.CodeOf(err), Err: err, Text: fmt.Sprintf("%s; %d lines before it are kept and go out with the next command: do not send them again", core.TextOf(err), s.kept)}
}

// sendPatiently sends texts, and waits where the homeserver asks for it: a file is more
// at once than people say.
func sendPatiently(ctx context.Context, chat chatter, room core.RoomID, texts []string) (out []chatSent, err error) {
	for {
		sent, err := chat.Send(ctx, room, texts[len(out):], "")
		for i := range sent {
			sent[i].Line = len(out) + i + 1
		}
		out = append(out, sent...)
		e, ok := errors.AsType[*core.Error](err)
		if !ok || e.Code != core.Limited || len(sent) == 0 || !out[len(out)-1].Waiting {
			return out, err
		}
		seq, ok := awaitSent(ctx, chat, room, e.RetryAfter)
		if !ok {
			return out, err
		}
		if out[len(out)-1] = (chatSent{Line: len(out), Seq: seq}); len(out) == len(texts) {
			return out, nil
		}
	}
}

// awaitSent waits until nothing waits to be sent in a room, but not for ever, and returns
// the place of what went out last.
func awaitSent(ctx context.Context, chat chatter, room core.RoomID, pause time.Duration) (seq uint64, ok bool) {
	for range sendWaits {
		if sleepFor(ctx, min(max(pause, minSendWait), maxSendWait)) != nil {
			return 0, false
		}
		if err := goesOn(chat.Sync(ctx)); err != nil && !core.Temporary(err) {
			return 0, false
		}
		lines, err := chat.History(room, 0, sendBatch)
		if err != nil {
			return 0, false
		}
		if slices.ContainsFunc(lines, func(l chatLine) bool { return l.Waiting }) {
			continue
		}
		for _, l := range slices.Backward(lines) {
			if l.Own {
				return l.Seq, true
			}
		}
		return 0, true
	}
	return 0, false
}

// writeSent says what became of a line, or of the one text: with JSON always, else
// if it was refused.
func (a *chatApp) writeSent(s chatSent, text bool) error {
	if a.json {
		return writeJSONLine(a.out, s)
	}
	if s.Error != nil && text {
		fmt.Fprintf(a.err, "isthmus: %s\n", screenLine(s.Error.Text))
	} else if s.Error != nil {
		fmt.Fprintf(a.err, "isthmus: line %d: %s\n", s.Line, screenLine(s.Error.Text))
	}
	return nil
}
