package native

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// What is looked at of an OpenAPI 3.1 document.
type (
	openAPIDoc struct {
		OpenAPI string                          `yaml:"openapi"`
		Paths   map[string]map[string]operation `yaml:"paths"`
		Comps   struct {
			Schemas map[string]schema `yaml:"schemas"`
		} `yaml:"components"`
	}
	operation struct {
		ID         string                 `yaml:"operationId"`
		Summary    string                 `yaml:"summary"`
		Security   *[]map[string][]string `yaml:"security"`
		Parameters []parameter            `yaml:"parameters"`
		Body       *message               `yaml:"requestBody"`
		Responses  map[string]message     `yaml:"responses"`
	}
	parameter struct {
		Name     string `yaml:"name"`
		In       string `yaml:"in"`
		Required bool   `yaml:"required"`
		Schema   schema `yaml:"schema"`
	}
	message struct {
		Ref     string                             `yaml:"$ref"`
		Content map[string]struct{ Schema schema } `yaml:"content"`
	}
	schema struct {
		Ref        string            `yaml:"$ref"`
		Type       string            `yaml:"type"`
		Encoding   string            `yaml:"contentEncoding"`
		Items      *schema           `yaml:"items"`
		More       *schema           `yaml:"additionalProperties"`
		Properties map[string]schema `yaml:"properties"`
		Required   []string          `yaml:"required"`
		Text       string            `yaml:"description"`
	}
)

const schemaPath = "#/components/schemas/"

// docs/openapi.yaml says what routes and package wire say: every path, method,
// parameter, body and property, with its type.
func TestOpenAPI(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "openapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var doc openAPIDoc
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1.") {
		t.Errorf("openapi: %q", doc.OpenAPI)
	}
	named := map[string]reflect.Type{"Error": reflect.TypeFor[wire.Error]()}
	listed := map[string]bool{}
	for _, r := range routes {
		name := strings.ToLower(r.method) + " " + r.path
		listed[name] = true
		op, ok := doc.Paths[r.path][strings.ToLower(r.method)]
		if !ok {
			t.Errorf("%s is not described", name)
			continue
		}
		for _, problem := range checkOperation(&r, &op, named) {
			t.Errorf("%s: %s", name, problem)
		}
	}
	for path, ops := range doc.Paths {
		for method := range ops {
			if !listed[method+" "+path] {
				t.Errorf("%s %s is described, and is no route", method, path)
			}
		}
	}
	for name, typ := range named {
		collect(typ, named)
		_ = name
	}
	for name, typ := range named {
		s, ok := doc.Comps.Schemas[name]
		if !ok {
			t.Errorf("schema %s is missing", name)
			continue
		}
		for _, problem := range checkStruct(&s, typ) {
			t.Errorf("schema %s: %s", name, problem)
		}
	}
	for name := range doc.Comps.Schemas {
		if named[name] == nil {
			t.Errorf("schema %s is of nothing", name)
		}
	}
}

var pathParameter = regexp.MustCompile(`\{(\w+)\}`)

func checkOperation(r *route, op *operation, named map[string]reflect.Type) (problems []string) {
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if op.ID == "" || op.Summary == "" {
		say("no operationId or summary")
	}
	if open := op.Security != nil && len(*op.Security) == 0; open != (r.who == anybody) {
		say("a session is needed: %v, described as %v", r.who != anybody, !open)
	}
	var path, query []string
	for _, p := range op.Parameters {
		switch {
		case p.In == "path" && p.Required:
			path = append(path, p.Name)
		case p.In == "query":
			query = append(query, p.Name)
		case p.In != "header":
			say("parameter %s is in %q", p.Name, p.In)
		}
	}
	var inPath []string
	for _, m := range pathParameter.FindAllStringSubmatch(r.path, -1) {
		inPath = append(inPath, m[1])
	}
	if !slices.Equal(path, inPath) || !slices.Equal(query, r.query) {
		say("parameters %v %v, described as %v %v", inPath, r.query, path, query)
	}
	check := func(what string, typ reflect.Type, m *message, forms ...string) {
		if m == nil || (typ == nil) != (len(m.Content) == 0) {
			say("%s: a body is described where there is none, or the other way round", what)
			return
		}
		if typ == nil {
			return
		}
		named[typ.Name()] = typ
		for _, form := range forms {
			if s := m.Content[form].Schema; s.Ref != schemaPath+typ.Name() {
				say("%s as %s is %s, described as %s", what, form, typ.Name(), s.Ref)
			}
		}
	}
	if r.method == "GET" {
		r.in = nil // a stream hears what its device says, after it is open
	}
	if r.in != nil {
		check("request", r.in, op.Body, typeJSON, typeCBOR)
	} else if op.Body != nil {
		say("a request body is described")
	}
	answer, ok := op.Responses["200"]
	if r.out == nil {
		answer, ok = op.Responses["204"]
	}
	if !ok {
		say("the answer is not described")
	}
	if r.path == "/v1/stream" {
		check("answer", r.out, &answer, typeEvents)
	} else {
		check("answer", r.out, &answer, typeJSON, typeCBOR)
	}
	if op.Responses["default"].Ref != "#/components/responses/Error" {
		say("refusals are not described")
	}
	return problems
}

// collect adds the structs that typ is made of.
func collect(typ reflect.Type, named map[string]reflect.Type) {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		collect(typ.Elem(), named)
	case reflect.Struct:
		if typ.Name() != "Claim" || typ.PkgPath() == reflect.TypeFor[wire.Claim]().PkgPath() {
			named[typ.Name()] = typ
		} else {
			named["ClaimResult"] = typ // core.Claim; wire has a Claim of its own
		}
		for i := range typ.NumField() {
			collect(typ.Field(i).Type, named)
		}
	}
}

// checkStruct compares a schema with a struct, field by field.
func checkStruct(s *schema, typ reflect.Type) (problems []string) {
	if s.Type != "object" || s.Text == "" {
		problems = append(problems, "is no object, or has no description")
	}
	fields, required := map[string]reflect.Type{}, []string{}
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields[name] = f.Type
		if options != "omitempty" {
			required = append(required, name)
		}
	}
	if got := slices.Sorted(slices.Values(s.Required)); !slices.Equal(got, slices.Sorted(slices.Values(required))) {
		problems = append(problems, fmt.Sprintf("always there are %v, described as %v", required, s.Required))
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		p, ok := s.Properties[name]
		if want, got := schemaOf(fields[name]), kindOf(&p); !ok || want != got {
			problems = append(problems, fmt.Sprintf("%s is %s, described as %s", name, want, got))
		}
	}
	for name := range s.Properties {
		if fields[name] == nil {
			problems = append(problems, name+" does not exist")
		}
	}
	return problems
}

// schemaOf says a Go type in the words of kindOf.
func schemaOf(typ reflect.Type) string {
	switch typ.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int64, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "integer"
	case reflect.Pointer:
		return schemaOf(typ.Elem())
	case reflect.Slice:
		if typ.Elem().Kind() == reflect.Uint8 {
			return "string of base64"
		}
		return "array of " + schemaOf(typ.Elem())
	case reflect.Map:
		return "object of " + schemaOf(typ.Elem())
	case reflect.Struct:
		if typ == reflect.TypeFor[core.Claim]() {
			return schemaPath + "ClaimResult"
		}
		return schemaPath + typ.Name()
	}
	return typ.String()
}

func kindOf(s *schema) string {
	switch {
	case s.Ref != "":
		return s.Ref
	case s.Encoding != "":
		return s.Type + " of " + s.Encoding
	case s.Items != nil:
		return s.Type + " of " + kindOf(s.Items)
	case s.More != nil:
		return s.Type + " of " + kindOf(s.More)
	}
	return s.Type
}

// A test that finds nothing wrong is only worth something if it sees what is.
func TestOpenAPISeesErrors(t *testing.T) {
	r := route{"GET", "/v1/x/{room}", user, 0, []string{"limit"}, endpoint{out: reflect.TypeFor[wire.Tree]()}}
	if problems := checkOperation(&r, &operation{}, map[string]reflect.Type{}); len(problems) < 4 {
		t.Errorf("an empty operation has these problems: %q", problems)
	}
	s := schema{Type: "object", Text: "x", Required: []string{"tree"}, Properties: map[string]schema{"tree": {Type: "string"}, "more": {Type: "string"}}}
	if problems := checkStruct(&s, reflect.TypeFor[wire.Tree]()); len(problems) != 4 {
		t.Errorf("a wrong schema has these problems: %q", problems)
	}
}
