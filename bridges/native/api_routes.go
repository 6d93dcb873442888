package native

import (
	"reflect"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// A caller says who may use a route.
type caller uint8

const (
	anybody caller = iota // no session needed
	user                  // a session of a device, or of a user with a password
	device                // a session of a device
)

// A route is one line of the device API (PROTOCOL §9).
type route struct {
	method, path string
	who          caller
	max          int64    // octets of the body
	query        []string // parameters
	endpoint
}

// An endpoint is what a route does, with the bodies that it takes and gives; nil
// where there is none.
type endpoint struct {
	in, out reflect.Type
	serve   func(*api, *call) (any, error)
	waits   bool // for news, on purpose
}

// nothing is the body of requests and answers that have none.
type nothing struct{ _ byte }

// take makes an endpoint of a handler with a body.
func take[In, Out any](f func(*api, *call, *In) (*Out, error)) endpoint {
	e := give(func(a *api, c *call) (*Out, error) {
		in := new(In)
		if err := decode(c.r, c.body, in); err != nil {
			return nil, err
		}
		return f(a, c, in)
	})
	e.in = reflect.TypeFor[In]()
	return e
}

// give makes an endpoint of a handler without a body.
func give[Out any](f func(*api, *call) (*Out, error)) endpoint {
	e := endpoint{serve: func(a *api, c *call) (any, error) {
		out, err := f(a, c)
		if err != nil || out == nil {
			return nil, err
		}
		return out, nil
	}}
	if t := reflect.TypeFor[Out](); t != reflect.TypeFor[nothing]() {
		e.out = t
	}
	return e
}

// stream makes an endpoint of a handler that writes its answer, of type Out,
// itself and many times.
func stream[In, Out any](f func(*api, *call) error) endpoint {
	return endpoint{in: reflect.TypeFor[In](), out: reflect.TypeFor[Out](), waits: true,
		serve: func(a *api, c *call) (any, error) { return answered, f(a, c) }}
}

// waiting marks an endpoint that may wait for news.
func waiting(e endpoint) endpoint {
	e.waits = true
	return e
}

// Bodies with octets in them: base64 makes four of three.
const (
	messagesBody  = 16 << 20
	handshakeBody = core.MaxHandshake/3*4 + smallBody
	packagesBody  = core.MaxKeyPackages*core.MaxKeyPackage/3*4 + smallBody
	letterBody    = 8 << 20 // 22 of the largest letters, or one for each of 64 devices of 96 KiB
)

// routes is the device API: the one place where its paths are listed.
// docs/openapi.yaml says the same, and TestOpenAPI compares.
var routes []route

func init() { // handlers refer to routes
	routes = []route{
		{"GET", "/.well-known/isthmus", anybody, 0, nil, give((*api).ownHomeserver)},

		{"POST", "/v1/devices", anybody, smallBody, nil, take((*api).registerDevice)},
		{"GET", "/v1/devices", user, 0, nil, give((*api).listDevices)},
		{"PUT", "/v1/devices/self", device, smallBody, nil, take((*api).putRecord)},
		{"DELETE", "/v1/devices/{device}", device, 0, nil, give((*api).revokeDevice)},
		{"POST", "/v1/sessions", anybody, smallBody, nil, take((*api).openSession)},
		{"DELETE", "/v1/sessions/self", user, 0, nil, give((*api).closeSession)},
		{"GET", "/v1/users/{user}", user, 0, nil, give((*api).showUser)},
		{"GET", "/v1/homeservers/{domain}", user, 0, nil, give((*api).showHomeserver)},

		{"PUT", "/v1/key-packages", device, packagesBody, nil, take((*api).putKeyPackages)},
		{"GET", "/v1/key-packages", device, 0, nil, give((*api).countKeyPackages)},
		{"POST", "/v1/key-packages/claim", device, smallBody, nil, take((*api).claim)},
		{"GET", "/v1/consent", device, 0, nil, give((*api).listConsents)},
		{"PUT", "/v1/consent", device, smallBody, nil, take((*api).putConsent)},
		{"POST", "/v1/inbox/{user}", device, letterBody, nil, take((*api).putInbox)},

		{"POST", "/v1/rooms", user, handshakeBody, nil, take((*api).createRoom)},
		{"GET", "/v1/rooms", user, 0, nil, give((*api).listRooms)},
		{"GET", "/v1/rooms/{room}", user, 0, nil, give((*api).showRoom)},
		{"POST", "/v1/rooms/{room}/join", user, smallBody, nil, take((*api).joinRoom)},
		{"POST", "/v1/rooms/{room}/leave", user, 0, nil, give((*api).leaveRoom)},
		{"POST", "/v1/rooms/{room}/messages", user, messagesBody, nil, takeMessages()},
		{"GET", "/v1/rooms/{room}/history", user, 0, []string{"before", "after", "limit"}, give((*api).history)},
		{"POST", "/v1/rooms/{room}/typing", user, smallBody, nil, take((*api).typing)},

		{"POST", "/v1/rooms/{room}/handshakes", device, handshakeBody, nil, take((*api).handshake)},
		{"POST", "/v1/rooms/{room}/group-info", device, smallBody, nil, take((*api).groupInfo)},
		{"GET", "/v1/rooms/{room}/tree", device, 0, []string{"epoch"}, give((*api).tree)},
		{"GET", "/v1/rooms/{room}/certificates", device, 0, []string{"epoch"}, give((*api).certificates)},
		{"POST", "/v1/rooms/{room}/join-codes", device, smallBody, nil, take((*api).makeJoinCode)},
		{"DELETE", "/v1/rooms/{room}/join-codes", device, smallBody, nil, take((*api).dropJoinCode)},

		{"GET", "/v1/sync", user, 0, []string{"since", "wait", "limit"}, waiting(give((*api).getSync))},
		{"POST", "/v1/sync", user, 1 << 20, nil, waiting(take((*api).postSync))},
		{"GET", "/v1/stream", user, 0, []string{"since", "limit"}, stream[wire.GetSync, wire.Sync]((*api).stream)},
	}
}

// takeMessages is take for messages, which may also come as plain text.
func takeMessages() endpoint {
	e := take((*api).sendMessages)
	structured := e.serve
	e.serve = func(a *api, c *call) (any, error) {
		if text, ok := textOf(c); ok {
			out, err := a.sendMessages(c, &wire.Send{Messages: []wire.Message{{Text: text}}})
			if err != nil {
				return nil, err
			}
			return out, nil
		}
		return structured(a, c)
	}
	return e
}
