package native

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/core"
)

// The forms that a body can have (PROTOCOL §9). Text is for people: a message in,
// lines out.
const (
	typeJSON   = "application/json"
	typeCBOR   = "application/cbor"
	typeText   = "text/plain"
	typeEvents = "text/event-stream"
	typeForm   = "application/x-www-form-urlencoded" // what curl says when nobody told it
)

// Bounds of what a body may make a decoder build. Each item of a body of 16 MiB
// could be three octets, and cost two hundred.
const (
	maxItems = 1 << 14 // of all lists and maps of a JSON body, of each in CBOR
	maxDepth = 8
)

var (
	cborOut = func() cbor.EncMode {
		m, err := cbor.CoreDetEncOptions().EncMode()
		if err != nil {
			panic(err) // constants
		}
		return m
	}()
	cborIn = core.StrictCBOR(maxDepth, maxItems, maxItems)
)

// decode reads a body into v: CBOR if the request says so, else JSON. An empty
// body is an empty object.
func decode(r *http.Request, body []byte, v any) error {
	if len(body) == 0 {
		return nil
	}
	if contentType(r) == typeCBOR {
		if err := cborIn.Unmarshal(body, v); err != nil {
			return core.Errorf(core.Invalid, "the body is not the CBOR that belongs here")
		}
		return nil
	}
	if !smallJSON(body) {
		return core.Errorf(core.TooLarge, "a body with more than %d items", maxItems)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return core.Errorf(core.Invalid, "the body is not the JSON that belongs here")
	}
	return nil
}

func contentType(r *http.Request) string {
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return typeJSON
	}
	return t
}

// smallJSON reports whether b has at most maxItems items and maxDepth levels, if it
// is JSON at all: each item but the first of a list stands after a comma.
func smallJSON(b []byte) bool {
	items, depth := 0, 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			if i = endOfString(b, i+1); i < 0 {
				return true // not JSON: the decoder says so
			}
		case ',':
			if items++; items > maxItems {
				return false
			}
		case '[', '{':
			if depth++; depth > maxDepth {
				return false
			}
		case ']', '}':
			depth--
		}
	}
	return true
}

// endOfString returns where the string that goes on at i ends, -1 if nowhere.
func endOfString(b []byte, i int) int {
	for {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		slashes := 0
		for j := i + n - 1; j >= i && b[j] == '\\'; j-- {
			slashes++
		}
		if i += n; slashes%2 == 0 {
			return i
		}
		i++
	}
}

// readAll reads a body whose size is known, or not (-1), without growing twice.
func readAll(r io.Reader, size int64) ([]byte, error) {
	if size == 0 {
		return nil, nil
	}
	buf := bytes.NewBuffer(make([]byte, 0, max(size, 511)+1))
	_, err := buf.ReadFrom(r)
	return buf.Bytes(), err
}

// accepted returns the first form of the Accept header that is ours; JSON if none.
func accepted(r *http.Request) string {
	for t := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		t, _, _ = strings.Cut(t, ";")
		switch t = strings.ToLower(strings.TrimSpace(t)); t {
		case typeJSON, typeCBOR, typeText, typeEvents:
			return t
		}
	}
	return typeJSON
}

// encode says v in a form; what has no text is JSON.
func encode(form string, v any) (contentType string, body []byte, err error) {
	switch form {
	case typeCBOR:
		body, err = cborOut.Marshal(v)
		return typeCBOR, body, err
	case typeText:
		if text, ok := plainText(v); ok {
			return typeText + "; charset=utf-8", text, nil
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // "<" is no danger in application/json, and people read it
	err = enc.Encode(v)
	return typeJSON, b.Bytes(), err
}

// writeAnswer answers with v, or that there is nothing to say.
func writeAnswer(w http.ResponseWriter, r *http.Request, v any) {
	if v == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	write(w, accepted(r), http.StatusOK, v)
}

func write(w http.ResponseWriter, form string, status int, v any) {
	t, b, err := encode(form, v)
	if err != nil { // strings, octets and numbers: only a fault of ours gets here
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", t)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(b) // a client that went away needs no answer
}
