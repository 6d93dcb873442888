package matrix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// A client speaks the client-server API as our bot or, with user, as a ghost
// (application service API v1.19, §identity-assertion). It does not retry: the
// runtime does, in the room's order.
type client struct {
	base    string // homeserver URL without a slash at the end
	token   string
	timeout time.Duration
	http    *http.Client
	alarm   func(error) // told when the homeserver refuses our token
	count   func(result string)
}

func newClient(cfg Config) *client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = maxIdle, maxIdle // Go keeps 2: each link has two lanes
	t.Proxy = nil                                            // the homeserver is named in the config, not in the environment
	return &client{base: cfg.URL, token: cfg.ASToken, timeout: cfg.RequestTimeout, http: &http.Client{Transport: t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// call does one request. path is escaped and starts after /_matrix/client/;
// user "" is the bot. in and out may be nil. Errors are core errors.
func (c *client) call(ctx context.Context, method, path, user string, in, out any) error {
	body, ok := in.([]byte)
	if in != nil && !ok {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return core.Errorf(core.Internal, "request: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	u := c.base + "/_matrix/client/" + path
	if user != "" {
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		u += sep + "user_id=" + url.QueryEscape(user)
	}
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return core.Errorf(core.Internal, "request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		c.result("unreachable")
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // the URL holds names
		}
		return &core.Error{Code: core.Unavailable, Text: "the Matrix homeserver is not reachable", Err: err}
	}
	defer res.Body.Close()
	return c.read(res, out)
}

func (c *client) read(res *http.Response, out any) error {
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil || len(body) > maxAnswer {
		c.result("unreachable")
		return &core.Error{Code: core.Unavailable, Text: "the Matrix homeserver's answer broke off", Err: err}
	}
	if res.StatusCode/100 != 2 {
		err := refusal(res.StatusCode, res.Header, body, time.Now())
		c.result(core.CodeOf(err).String())
		if res.StatusCode == http.StatusUnauthorized && c.alarm != nil {
			c.alarm(err)
		}
		return err
	}
	c.result("ok")
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return &core.Error{Code: core.Unavailable, Text: "the Matrix homeserver's answer makes no sense", Err: err}
	}
	return nil
}

func (c *client) result(r string) {
	if c.count != nil {
		c.count(r)
	}
}

// path joins segments, each escaped.
func path(segments ...string) string {
	var b strings.Builder
	for i, s := range segments {
		if i > 0 {
			b.WriteByte('/')
		}
		b.WriteString(url.PathEscape(s))
	}
	return b.String()
}

type eventIDAnswer struct {
	EventID string `json:"event_id"`
}

// send puts a timeline event under txn, which must be the same on every try.
func (c *client) send(ctx context.Context, user, room, typ, txn string, content []byte) (string, error) {
	var out eventIDAnswer
	err := c.call(ctx, "PUT", "v3/rooms/"+path(room, "send", typ, txn), user, content, &out)
	return out.EventID, err
}

// redact removes event under txn.
func (c *client) redact(ctx context.Context, user, room, event, txn string, content []byte) (string, error) {
	if len(content) == 0 {
		content = []byte("{}")
	}
	var out eventIDAnswer
	err := c.call(ctx, "PUT", "v3/rooms/"+path(room, "redact", event, txn), user, content, &out)
	return out.EventID, err
}

// setState puts a state event; the same content twice is one event.
func (c *client) setState(ctx context.Context, user, room, typ, key string, content any) (string, error) {
	var out eventIDAnswer
	err := c.call(ctx, "PUT", "v3/rooms/"+path(room, "state", typ, key), user, content, &out)
	return out.EventID, err
}

// state reads a state event's content as our bot; NotFound if there is none.
func (c *client) state(ctx context.Context, room, typ, key string, out any) error {
	return c.call(ctx, "GET", "v3/rooms/"+path(room, "state", typ, key), "", nil, out)
}

// register makes a user of ours. One that exists is no error.
func (c *client) register(ctx context.Context, localpart string) error {
	err := c.call(ctx, "POST", "v3/register", "", map[string]any{
		"type": "m.login.application_service", "username": localpart, "inhibit_login": true}, nil)
	if hasCode(err, "M_USER_IN_USE") {
		return nil
	}
	return err
}

// join lets user enter a room, by ID or alias, and returns the room's ID.
func (c *client) join(ctx context.Context, user, room string) (string, error) {
	var out struct {
		RoomID string `json:"room_id"`
	}
	err := c.call(ctx, "POST", "v3/join/"+path(room), user, struct{}{}, &out)
	return out.RoomID, err
}

// member acts on a membership: verb is leave, invite, kick, ban or unban;
// target is "" for leave.
func (c *client) member(ctx context.Context, user, room, verb, target, reason string) error {
	in := map[string]string{}
	if target != "" {
		in["user_id"] = target
	}
	if reason != "" {
		in["reason"] = reason
	}
	return c.call(ctx, "POST", "v3/rooms/"+path(room, verb), user, in, nil)
}

// A profile is how a user is shown in a room.
type profile struct {
	Name   string `json:"display_name"`
	Avatar string `json:"avatar_url"`
}

// joined lists the joined members of a room.
func (c *client) joined(ctx context.Context, room string) (map[string]profile, error) {
	var out struct {
		Joined map[string]profile `json:"joined"`
	}
	err := c.call(ctx, "GET", "v3/rooms/"+path(room, "joined_members"), "", nil, &out)
	return out.Joined, err
}

// setProfile changes one field of a user's profile, displayname or avatar_url.
func (c *client) setProfile(ctx context.Context, user, field, value string) error {
	return c.call(ctx, "PUT", "v3/profile/"+path(user, field), user, map[string]string{field: value}, nil)
}

// A timelineEvent is what /messages tells, as far as we look.
type timelineEvent struct {
	EventID string          `json:"event_id"`
	Sender  string          `json:"sender"`
	Type    string          `json:"type"`
	Content json.RawMessage `json:"content"`
}

// latest returns the last n timeline events of a room, newest first.
func (c *client) latest(ctx context.Context, room string, n int) ([]timelineEvent, error) {
	var out struct {
		Chunk []timelineEvent `json:"chunk"`
	}
	err := c.call(ctx, "GET", "v3/rooms/"+path(room, "messages")+"?dir=b&limit="+strconv.Itoa(n), "", nil, &out)
	return out.Chunk, err
}

// hasCode reports whether the homeserver answered with errcode.
func hasCode(err error, errcode string) bool {
	e, ok := errors.AsType[*apiError](err)
	return ok && e.ErrCode == errcode
}
