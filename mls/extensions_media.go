package mls

import (
	"bytes"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
)

// The bounds of media types: no list in use comes near them.
const (
	MaxMediaTypes = 1 << 10 // in one list
	MaxParameters = 64      // of one media type
)

// Parameter is one parameter of a media type, draft-ietf-mls-extensions-10
// §6.2.2. The value is what stands inside the quotation marks of a text form,
// without the escapes.
type Parameter struct{ Name, Value []byte }

// MediaType is an IANA media type with its parameters,
// draft-ietf-mls-extensions-10 §6.2.2. The type is like "text/plain"; in an
// ApplicationFraming it may be empty, which stands for the group's first.
type MediaType struct {
	Type       []byte
	Parameters []Parameter
}

// AppendTo appends the encoding.
func (m MediaType) AppendTo(dst []byte) []byte {
	dst, mark := codec.Begin(codec.AppendVec(dst, m.Type))
	for _, p := range m.Parameters {
		dst = codec.AppendVec(codec.AppendVec(dst, p.Name), p.Value)
	}
	return codec.End(dst, mark)
}

// Equal reports whether both are the same octets, the parameters in the same order.
func (m MediaType) Equal(o MediaType) bool {
	if !bytes.Equal(m.Type, o.Type) || len(m.Parameters) != len(o.Parameters) {
		return false
	}
	for i, p := range m.Parameters {
		if !bytes.Equal(p.Name, o.Parameters[i].Name) || !bytes.Equal(p.Value, o.Parameters[i].Value) {
			return false
		}
	}
	return true
}

func readMediaType(r *codec.Reader) MediaType {
	m := MediaType{Type: r.Vec()}
	in := r.Sub()
	for in.Len() > 0 {
		if len(m.Parameters) == MaxParameters {
			in.Fail(int(RuleBounds), "too many parameters of a media type")
			break
		}
		m.Parameters = append(m.Parameters, Parameter{in.Vec(), in.Vec()})
	}
	r.Join(&in)
	return m
}

// named reports whether the type has both its parts.
func (m MediaType) named() bool {
	top, sub, ok := bytes.Cut(m.Type, []byte{'/'})
	return ok && len(top) > 0 && len(sub) > 0
}

// MediaTypeList is the data of the content_media_types component,
// draft-ietf-mls-extensions-10 §6.2.2: in a leaf the types that it receives,
// in a group those that every member has to receive. It has one type at least.
type MediaTypeList []MediaType

// ParseMediaTypeList reads a MediaTypeList; it aliases b. It refuses under
// rule 122 a list that is empty or has a type without one of its parts.
func ParseMediaTypeList(b []byte) (MediaTypeList, error) {
	r := codec.NewReader(b)
	in := r.Sub()
	var out MediaTypeList
	for in.Len() > 0 {
		if len(out) == MaxMediaTypes {
			in.Fail(int(RuleBounds), "too many media types")
			break
		}
		m := readMediaType(&in)
		if in.Err() == nil && !m.named() {
			in.Fail(int(RuleApplicationFraming), "a media type is not a type and a subtype")
		}
		out = append(out, m)
	}
	r.Join(&in)
	if r.Err() == nil && len(out) == 0 {
		r.Fail(int(RuleApplicationFraming), "a list of media types is empty")
	}
	if err := r.Finish(); err != nil {
		return nil, WireError(err)
	}
	return out, nil
}

// AppendTo appends the encoding.
func (l MediaTypeList) AppendTo(dst []byte) []byte {
	dst, mark := codec.Begin(dst)
	for _, m := range l {
		dst = m.AppendTo(dst)
	}
	return codec.End(dst, mark)
}

// Has reports whether the type, with the same parameters, is in the list.
func (l MediaTypeList) Has(m MediaType) bool {
	for _, o := range l {
		if o.Equal(m) {
			return true
		}
	}
	return false
}

// ApplicationFraming is application data that names its media type,
// draft-ietf-mls-extensions-10 §6.2.4.
type ApplicationFraming struct {
	MediaType MediaType
	Content   []byte
}

// ParseApplicationFraming reads an ApplicationFraming; it aliases b. It
// refuses under rule 122 what is framed otherwise.
func ParseApplicationFraming(b []byte) (ApplicationFraming, error) {
	r := codec.NewReader(b)
	f := ApplicationFraming{readMediaType(&r), r.Vec()}
	if err := r.Finish(); err != nil {
		return ApplicationFraming{}, refuse(RuleApplicationFraming, "%w", WireError(err))
	}
	if len(f.MediaType.Type) != 0 && !f.MediaType.named() {
		return ApplicationFraming{}, refuse(RuleApplicationFraming, "a media type is not a type and a subtype")
	}
	return f, nil
}

// AppendTo appends the encoding: the application data of a message.
func (f ApplicationFraming) AppendTo(dst []byte) []byte {
	return codec.AppendVec(f.MediaType.AppendTo(dst), f.Content)
}

// MediaTypes are those that the extensions of a leaf or a group name in their
// dictionary; nil if they have no content_media_types component.
func (e Extensions) MediaTypes() (MediaTypeList, error) {
	data, ok := e.Component(ComponentContentMediaTypes)
	if !ok {
		return nil, nil
	}
	return ParseMediaTypeList(data)
}

// ReadApplication reads the application data of a message,
// draft-ietf-mls-extensions-10 §6.2.4. Where the group has the
// content_media_types component the data is framed, an empty type becomes the
// group's first, and what is framed otherwise is refused under rule 122. In
// other groups all of it is content, of no media type.
func (c *GroupContext) ReadApplication(data []byte) (ApplicationFraming, error) {
	list, ok := c.Extensions.Component(ComponentContentMediaTypes)
	if !ok {
		return ApplicationFraming{Content: data}, nil
	}
	f, err := ParseApplicationFraming(data)
	if err != nil || len(f.MediaType.Type) != 0 {
		return f, err
	}
	types := codec.NewReader(list)
	in := types.Sub()
	f.MediaType = readMediaType(&in)
	if in.Err() != nil || !f.MediaType.named() {
		return ApplicationFraming{}, refuse(RuleApplicationFraming, "the group's list of media types cannot be read")
	}
	return f, nil
}

// AppendApplication appends content as application data of a message: framed
// where the group has the content_media_types component, plain in others. The
// media type may be empty, or the group's first, which is sent as the empty one.
func (c *GroupContext) AppendApplication(dst []byte, m MediaType, content []byte) ([]byte, error) {
	list, ok := c.Extensions.Component(ComponentContentMediaTypes)
	if !ok {
		return append(dst, content...), nil
	}
	if len(m.Type) != 0 && !m.named() {
		return dst, refuse(RuleApplicationFraming, "a media type is not a type and a subtype")
	}
	types := codec.NewReader(list)
	in := types.Sub()
	if first := readMediaType(&in); in.Err() == nil && first.Equal(m) {
		m = MediaType{}
	}
	return ApplicationFraming{m, content}.AppendTo(dst), nil
}
