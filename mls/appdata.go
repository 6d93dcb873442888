package mls

import (
	"sort"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
)

// ComponentID is the number of an application component, by which components
// that share a group keep apart, draft-ietf-mls-extensions-10 §4.1.
type ComponentID uint16

// The components of draft-ietf-mls-extensions-10 §8.6.
const (
	ComponentAppComponents     ComponentID = 1 // ComponentsList: which components a leaf supports or a group requires
	ComponentSafeAAD           ComponentID = 2 // ComponentsList: which of them have items in authenticated data
	ComponentContentMediaTypes ComponentID = 3 // MediaTypeList: which media types a leaf receives or a group requires
	ComponentLastResort        ComponentID = 4 // empty; marks a key package
	ComponentAppAck            ComponentID = 5 // AppAck, in AppEphemeral proposals
	firstPrivateComponent      ComponentID = 0x8000
)

// Private reports whether the number is one that applications give out
// themselves, draft-ietf-mls-extensions-10 §8.6.
func (c ComponentID) Private() bool { return c >= firstPrivateComponent }

// GREASE reports whether the number is reserved so that nobody forgets to
// ignore what it does not know, draft-ietf-mls-extensions-10 §5.1.
func (c ComponentID) GREASE() bool { return c < firstPrivateComponent && GREASE(uint16(c)) }

// MaxComponents bounds the components of one dictionary, and the items of one
// SafeAAD.
const MaxComponents = 1 << 12

// ComponentData is what a component keeps in a dictionary or puts into a
// message's authenticated data. The form of the data is the component's own.
type ComponentData struct {
	ID   ComponentID
	Data []byte
}

// AppData is an AppDataDictionary, the content of the app_data_dictionary
// extension, draft-ietf-mls-extensions-10 §4.6: in ascending order of the
// components, each once. Its methods do not change it.
type AppData []ComponentData

// ParseAppData reads an AppDataDictionary; it aliases b. Refusals: rule 119
// for the order, rules 1, 2, 4 and 116 for the encoding.
func ParseAppData(b []byte) (AppData, error) {
	r := codec.NewReader(b)
	d := readComponents(&r, RuleAppDataDictionary)
	if err := r.Finish(); err != nil {
		return nil, WireError(err)
	}
	return AppData(d), nil
}

// readComponents reads a vector of numbers with data in ascending order; what
// is out of order breaks the given rule.
func readComponents(r *codec.Reader, order Rule) []ComponentData {
	in := r.Sub()
	count := 0
	for scan := in; scan.Len() > 0; count++ {
		scan.Uint16()
		scan.Vec()
	}
	if count > MaxComponents {
		r.Fail(int(RuleBounds), "too many components")
		return nil
	}
	if count == 0 {
		r.Join(&in)
		return nil
	}
	out := make([]ComponentData, 0, count)
	for in.Len() > 0 {
		c := ComponentData{ComponentID(in.Uint16()), in.Vec()}
		if n := len(out); in.Err() == nil && n > 0 && out[n-1].ID >= c.ID {
			in.Fail(int(order), "components are not in ascending order, each once")
		}
		if in.Err() == nil {
			out = append(out, c)
		}
	}
	r.Join(&in)
	return out
}

func appendComponents(dst []byte, list []ComponentData) []byte {
	dst, mark := codec.Begin(dst)
	for _, c := range list {
		dst = codec.AppendVec(codec.Uint16(dst, uint16(c.ID)), c.Data)
	}
	return codec.End(dst, mark)
}

// place is where the component is or would stand, and whether it is there.
func place(list []ComponentData, id ComponentID) (int, bool) {
	i := sort.Search(len(list), func(i int) bool { return list[i].ID >= id })
	return i, i < len(list) && list[i].ID == id
}

// Find returns the component's data, and whether it has an entry; the data of
// an entry may be empty.
func (d AppData) Find(id ComponentID) ([]byte, bool) {
	if i, ok := place(d, id); ok {
		return d[i].Data, true
	}
	return nil, false
}

// With returns a copy in which the component has this data.
func (d AppData) With(id ComponentID, data []byte) AppData {
	return AppData(insertComponent(d, ComponentData{id, data}))
}

func insertComponent(list []ComponentData, c ComponentData) []ComponentData {
	i, ok := place(list, c.ID)
	out := make([]ComponentData, 0, len(list)+1)
	out = append(append(out, list[:i]...), c)
	if ok {
		i++
	}
	return append(out, list[i:]...)
}

// Without returns a copy that has no entry of the component.
func (d AppData) Without(id ComponentID) AppData {
	i, ok := place(d, id)
	out := make(AppData, 0, len(d))
	out = append(out, d[:i]...)
	if ok {
		i++
	}
	return append(out, d[i:]...)
}

// AppendTo appends the encoding: the content of the extension.
func (d AppData) AppendTo(dst []byte) []byte { return appendComponents(dst, d) }

// AppData is the dictionary among these extensions; empty if there is none.
func (e Extensions) AppData() (AppData, error) {
	data, ok := e.Find(ExtAppDataDictionary)
	if !ok {
		return nil, nil
	}
	return ParseAppData(data)
}

// WithAppData returns a copy with this dictionary in the place of the one that
// was, or at the end, draft-ietf-mls-extensions-10 §4.7. An empty dictionary
// stays as an extension: the draft removes entries, never the extension.
func (e Extensions) WithAppData(d AppData) Extensions {
	return e.With(ExtAppDataDictionary, d.AppendTo(nil))
}

// Component returns the data of one component in the dictionary among these
// extensions, and whether it has an entry. A dictionary that cannot be read
// has none: whoever took the extensions in has refused it.
func (e Extensions) Component(id ComponentID) ([]byte, bool) {
	data, ok := e.Find(ExtAppDataDictionary)
	if !ok {
		return nil, false
	}
	r := codec.NewReader(data)
	for in := r.Sub(); in.Len() > 0; {
		at, value := ComponentID(in.Uint16()), in.Vec()
		if at == id && in.Err() == nil {
			return value, true
		}
	}
	return nil, false
}

// ParseComponentsList reads a ComponentsList, the data of app_components and
// safe_aad, draft-ietf-mls-extensions-10 §5; it aliases b. The draft does not
// order it. Refusals: rules 1, 2, 4 and 116.
func ParseComponentsList(b []byte) (List, error) { return parseList(b) }

// ComponentsList is the encoding of a ComponentsList, draft-ietf-mls-extensions-10 §5.
func ComponentsList(ids ...ComponentID) []byte { return NewList(ids...).AppendTo(nil) }

// componentBase is the base_label of a ComponentOperationLabel.
const componentBase = "MLS Component"

// ComponentLabel is the ComponentOperationLabel, draft-ietf-mls-extensions-10
// §4.1: given as the label to SignWithLabel and EncryptWithLabel it keeps what
// a component signs and encrypts apart from MLS and all other components.
func ComponentLabel(id ComponentID, label string) string {
	b := make([]byte, 0, len(componentBase)+len(label)+8)
	b = codec.Uint16(codec.AppendVec(b, componentBase), uint16(id))
	return string(codec.AppendVec(b, label))
}
