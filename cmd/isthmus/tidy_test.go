package main

import (
	"bytes"
	"go/ast"
	"go/format"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Bounds of length: a reader sees a function on one screen and holds a file in
// mind. Tables are data and generated code is nobody's reading: a composite
// literal's lines do not count, and generated files are left out. A test file
// may be longer than a file: it is a list of cases.
const (
	maxFunction = 70
	maxLines    = 700
	maxTest     = 1200
)

// vagueNames say nothing about their content.
var vagueNames = []string{"util", "utils", "common", "types", "models", "pkg", "helpers", "misc", "lib", "shared"}

// lines counts the lines of n, less those inside composite literals.
func lines(n ast.Node) int {
	span := func(n ast.Node) int { return fset.Position(n.End()).Line - fset.Position(n.Pos()).Line }
	count := span(n) + 1
	ast.Inspect(n, func(c ast.Node) bool {
		if lit, ok := c.(*ast.CompositeLit); ok {
			if _, hasFunc := firstFunc(lit); !hasFunc {
				count -= span(lit)
				return false
			}
		}
		return true
	})
	return count
}

// firstFunc finds a function literal in n: a table of functions is code.
func firstFunc(n ast.Node) (f *ast.FuncLit, ok bool) {
	ast.Inspect(n, func(c ast.Node) bool {
		if lit, is := c.(*ast.FuncLit); is && f == nil {
			f, ok = lit, true
		}
		return f == nil
	})
	return f, ok
}

func TestTidyLengths(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated() {
			continue
		}
		limit := maxLines
		if s.test {
			limit = maxTest
		}
		if n := lines(s.ast) + fset.Position(s.ast.Pos()).Line - 1; n > limit {
			t.Errorf("%s: %d lines, at most %d", s.file, n, limit)
		}
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && !s.test {
				if n := lines(f); n >= maxFunction {
					t.Errorf("%v: %s has %d lines, fewer than %d are allowed", fset.Position(f.Pos()), f.Name.Name, n, maxFunction)
				}
			}
		}
	}
}

func TestTidyFormat(t *testing.T) {
	for _, s := range sources(t) {
		if want, err := format.Source(s.text); err != nil || !bytes.Equal(want, s.text) {
			t.Errorf("%s: not formatted by gofmt (%v)", s.file, err)
		}
	}
}

func TestTidyPromises(t *testing.T) {
	marks := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|X` + `XX)\b`)
	for _, s := range sources(t) {
		for _, g := range s.ast.Comments {
			if marks.MatchString(g.Text()) {
				t.Errorf("%v: a promise in a comment; keep it or delete it", fset.Position(g.Pos()))
			}
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
				if x, ok := sel.X.(*ast.Ident); ok && slices.Contains([]string{"t", "b", "f", "tb"}, x.Name) {
					t.Errorf("%v: a skipped test hides a missing peer", fset.Position(n.Pos()))
				}
			}
			return true
		})
	}
}

func TestTidyDocs(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if s.test || s.generated() {
			continue
		}
		documented[s.pkg] = documented[s.pkg] || s.ast.Doc != nil
		for _, d := range s.ast.Decls {
			for _, name := range undocumented(d) {
				t.Errorf("%v: exported %s has no docstring", fset.Position(d.Pos()), name)
			}
		}
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("package %s has no doc comment", pkg)
		}
	}
}

// undocumented lists the exported names that d declares without a comment. A
// comment on a group counts for what is in it; methods of unexported types,
// methods of one statement, and those that every Go reader knows need none.
func undocumented(d ast.Decl) (names []string) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Doc == nil && d.Name.IsExported() && ownMethod(d) {
			names = append(names, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if d.Doc == nil && spec.Doc == nil && spec.Comment == nil && spec.Name.IsExported() {
					names = append(names, spec.Name.Name)
				}
			case *ast.ValueSpec:
				if d.Doc == nil && spec.Doc == nil && spec.Comment == nil && spec.Names[0].IsExported() && !d.Lparen.IsValid() {
					names = append(names, spec.Names[0].Name)
				}
			}
		}
	}
	return names
}

func ownMethod(f *ast.FuncDecl) bool {
	if f.Recv == nil {
		return true
	}
	if len(f.Body.List) <= 1 && lines(f) <= 3 {
		return false
	}
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if index, ok := typ.(*ast.IndexExpr); ok {
		typ = index.X
	}
	id, ok := typ.(*ast.Ident)
	return ok && id.IsExported() && !slices.Contains([]string{"String", "Error", "Unwrap", "Len", "Less", "Swap"}, f.Name.Name)
}

func TestTidyNames(t *testing.T) {
	for _, s := range sources(t) {
		if slices.Contains(vagueNames, path.Base(s.pkg)) || slices.Contains(vagueNames, s.ast.Name.Name) {
			t.Errorf("%s: package name %s says nothing", s.file, s.ast.Name.Name)
		}
		if strings.Contains(s.pkg, "internal") {
			if _, ok := importTable[s.pkg]; !ok {
				t.Errorf("%s: internal only for what the import table names", s.file)
			}
		}
	}
}

var (
	requireLine = regexp.MustCompile(`^\s*(?:require )?([\w./~-]+\.[\w./~-]+) (v\S+)`)
	exactPin    = regexp.MustCompile(`^v\d+\.\d+\.\d+(-[\w.-]+)?(\+incompatible)?$`)
)

func TestTidyPins(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	pins := 0
	for line := range strings.Lines(string(mod)) {
		if strings.HasPrefix(line, "replace") || strings.HasPrefix(line, "exclude") {
			t.Errorf("go.mod: %s", strings.TrimSpace(line))
		}
		if m := requireLine.FindStringSubmatch(line); m != nil {
			pins++
			if !exactPin.MatchString(m[2]) {
				t.Errorf("go.mod: %s is pinned at %s", m[1], m[2])
			}
		}
	}
	if pins == 0 {
		t.Error("go.mod names no dependency: this test reads it wrongly")
	}
}

var (
	markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading      = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	notAnchor    = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors returns the link targets that the headings of a Markdown text make.
func anchors(text []byte) []string {
	var out []string
	for _, m := range heading.FindAllSubmatch(text, -1) {
		a := notAnchor.ReplaceAllString(strings.ToLower(string(m[1])), "")
		out = append(out, strings.ReplaceAll(a, " ", "-"))
	}
	return out
}

// Links in Markdown files lead to files and headings that exist.
func TestTidyLinks(t *testing.T) {
	for _, file := range tracked(t) {
		if !strings.HasSuffix(file, ".md") || strings.Contains(file, "testdata/") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range markdownLink.FindAllSubmatch(text, -1) {
			link := string(m[1])
			if strings.Contains(link, "://") || strings.HasPrefix(link, "mailto:") {
				continue
			}
			name, anchor, _ := strings.Cut(link, "#")
			target := text
			if name != "" {
				target, err = os.ReadFile(filepath.Join(root, path.Dir(file), name))
				if err != nil {
					if _, serr := os.Stat(filepath.Join(root, path.Dir(file), name)); serr != nil {
						t.Errorf("%s: link to %s leads nowhere", file, link)
					}
					continue
				}
			}
			if anchor != "" && strings.HasSuffix(name+".md", ".md") && !slices.Contains(anchors(target), anchor) {
				t.Errorf("%s: no heading for link %s", file, link)
			}
		}
	}
}
