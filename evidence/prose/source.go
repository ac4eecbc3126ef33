package prose

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"

	"certctl/server/config"
)

// A source is what the tree holds that prose can name.
type source struct {
	tree     fs.FS
	module   string
	files    map[string]bool // files and directories, but for those below dot directories
	bases    map[string]bool // their last elements, with and without extension
	packages map[string]bool // names of the module's packages
	imports  map[string]bool // paths that the module imports
	symbols  map[string]bool // package.Name, package.Type.Member and Type.Member
	used     map[string]bool // package.Name, of other modules
	tests    map[string]bool // test functions
	strings  map[string]bool // literals outside of tests
	fields   map[string]bool // names in the tags of structs
	testEnv  map[string]bool // settings of tests
	targets  map[string]bool // of the Makefile
}

func readSource(tree fs.FS) (*source, error) {
	s := &source{
		tree: tree, files: map[string]bool{}, bases: map[string]bool{}, packages: map[string]bool{}, imports: map[string]bool{}, symbols: map[string]bool{},
		used: map[string]bool{}, tests: map[string]bool{}, strings: map[string]bool{}, testEnv: map[string]bool{}, targets: map[string]bool{}, fields: map[string]bool{},
	}
	mod, err := fs.ReadFile(tree, "go.mod")
	if err != nil {
		return nil, err
	}
	if m := moduleLine.FindSubmatch(mod); m != nil {
		s.module = string(m[1])
	}
	for _, m := range requireLine.FindAllSubmatch(mod, -1) {
		s.imports[string(m[1])] = true
	}
	if err := s.walk(tree, ".", true); err != nil {
		return nil, err
	}
	makefile, err := fs.ReadFile(tree, "Makefile")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, m := range targetLine.FindAllSubmatch(makefile, -1) {
		for target := range strings.FieldsSeq(string(m[1])) {
			s.targets[target] = true
		}
	}
	return s, nil
}

var (
	moduleLine  = regexp.MustCompile(`(?m)^module (\S+)`)
	requireLine = regexp.MustCompile(`(?m)^(?:require)?\s+(\S+) v[0-9]`)
	targetLine  = regexp.MustCompile(`(?m)^([A-Za-z0-9_][A-Za-z0-9_. -]*?)\s*::?(?:[^=]|$)`)
)

// walk reads dir. code says whether its Go files belong to the module.
func (s *source) walk(tree fs.FS, dir string, code bool) error {
	entries, err := fs.ReadDir(tree, dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if e.Name() == "go.mod" && dir != "." || path.Base(dir) == "testdata" {
			code = false
		}
		if e.IsDir() && strings.HasPrefix(e.Name(), ".") {
			continue
		}
		s.files[name], s.bases[e.Name()] = true, true
		s.bases[strings.TrimSuffix(e.Name(), path.Ext(e.Name()))] = true
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case e.IsDir():
			err = s.walk(tree, name, code)
		case code && path.Ext(name) == ".go":
			err = s.read(tree, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// read adds what a Go file declares and uses.
func (s *source) read(tree fs.FS, name string) error {
	src, err := fs.ReadFile(tree, name)
	if err != nil {
		return err
	}
	f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	test := strings.HasSuffix(name, "_test.go")
	pkg := strings.TrimSuffix(f.Name.Name, "_test")
	s.packages[pkg] = true
	for _, d := range f.Decls {
		s.declare(pkg, d, test)
	}
	foreign := map[string]bool{}
	for _, spec := range f.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		if p == s.module || strings.HasPrefix(p, s.module+"/") {
			continue
		}
		s.imports[p] = true
		foreign[packageName(p)] = true
		if spec.Name != nil {
			foreign[spec.Name.Name] = true
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && foreign[x.Name] {
				s.used[x.Name+"."+n.Sel.Name] = true
			}
		case *ast.BasicLit:
			if n.Kind != token.STRING {
				break
			}
			value, err := strconv.Unquote(n.Value)
			if err != nil {
				break
			}
			if !test {
				s.strings[value] = true
				for _, m := range tagName.FindAllStringSubmatch(value, -1) {
					s.fields[m[1]] = true
				}
			}
			for _, v := range settingToken.FindAllString(value, -1) {
				if strings.HasPrefix(v, testPrefix) {
					s.testEnv[v] = true
				}
			}
		}
		return true
	})
	return nil
}

var tagName = regexp.MustCompile(`\b(?:json|query|path|header):"([a-z0-9_]+)[",]`)

const testPrefix = config.Prefix + "TEST_"

// packageName guesses the name of a package from its import path.
func packageName(p string) string {
	base := path.Base(p)
	if majorVersion.MatchString(base) {
		base = path.Base(path.Dir(p))
	}
	return strings.TrimPrefix(base, "go-")
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

func (s *source) declare(pkg string, d ast.Decl, test bool) {
	add := func(typ, name string) {
		if typ != "" {
			s.symbols[pkg+"."+typ+"."+name] = true
			s.symbols[typ+"."+name] = true
			return
		}
		s.symbols[pkg+"."+name] = true
	}
	switch d := d.(type) {
	case *ast.FuncDecl:
		typ := ""
		if d.Recv != nil {
			typ = typeName(d.Recv.List[0].Type)
		}
		add(typ, d.Name.Name)
		if test && typ == "" && testName.MatchString(d.Name.Name) {
			s.tests[d.Name.Name] = true
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.ValueSpec:
				for _, n := range spec.Names {
					add("", n.Name)
				}
			case *ast.TypeSpec:
				add("", spec.Name.Name)
				var members *ast.FieldList
				switch t := spec.Type.(type) {
				case *ast.StructType:
					members = t.Fields
				case *ast.InterfaceType:
					members = t.Methods
				default:
					continue
				}
				for _, m := range members.List {
					for _, n := range m.Names {
						add(spec.Name.Name, n.Name)
					}
					if len(m.Names) == 0 {
						add(spec.Name.Name, typeName(m.Type))
					}
				}
			}
		}
	}
}

// typeName is the bare name of a receiver's or an embedded field's type.
func typeName(t ast.Expr) string {
	switch t := t.(type) {
	case *ast.Ident:
		return t.Name
	case *ast.StarExpr:
		return typeName(t.X)
	case *ast.SelectorExpr:
		return t.Sel.Name
	case *ast.IndexExpr:
		return typeName(t.X)
	case *ast.IndexListExpr:
		return typeName(t.X)
	}
	return ""
}
