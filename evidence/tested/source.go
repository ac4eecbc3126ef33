package tested

import (
	"go/ast"
	"go/build"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"certctl/evidence"
	"certctl/server/table"
)

// read says of each cited test, from its source alone, whether it is there and
// whether anything in it can fail. No record says that its test ran.
func read(dir string, cited []evidence.Test) (records []evidence.TestRecord, there []bool, err error) {
	module, err := modulePath(dir)
	if err != nil {
		return nil, nil, err
	}
	s := &source{
		dir: dir, module: module, files: token.NewFileSet(), packages: map[string]*types.Package{}, bodies: map[types.Object]ast.Node{},
		info: types.Info{Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}, Types: map[ast.Expr]types.TypeAndValue{}},
	}
	suites := map[string]*suite{}
	for _, t := range cited {
		if suites[t.Package] == nil {
			suites[t.Package] = s.suite(t.Package)
		}
		r := evidence.TestRecord{Test: t, Outcome: evidence.TestNotRun}
		test, why := suites[t.Package].find(t.Name)
		switch {
		case why != "":
			r.Why = why
		case s.canFail(test):
			r.Asserts = true
		default:
			r.Why = "it reaches no call of t.Error, t.Fatal, t.Fail or their like"
		}
		records, there = append(records, r), append(there, test != nil)
	}
	return records, there, nil
}

// A source is a module as types know it. What it imports from elsewhere is
// empty: whether a test can fail is between it and package testing.
type source struct {
	dir, module string
	files       *token.FileSet
	info        types.Info
	packages    map[string]*types.Package
	bodies      map[types.Object]ast.Node // of functions, and the values of variables of packages
}

// A suite is the tests of a package.
type suite struct {
	exists bool
	tests  map[string]types.Object
	unset  map[string]string // tests in files that are not built, by name: the file
}

func (s *source) suite(pkg string) *suite {
	all := &suite{tests: map[string]types.Object{}, unset: map[string]string{}}
	entries, err := os.ReadDir(filepath.Join(s.dir, filepath.FromSlash(pkg)))
	if err != nil {
		return all
	}
	var inside, outside []*ast.File
	for _, e := range entries {
		f, built := s.parse(pkg, e.Name())
		switch {
		case f == nil:
			continue
		case !built:
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasSuffix(e.Name(), "_test.go") {
					all.unset[fn.Name.Name] = e.Name()
				}
			}
		case strings.HasSuffix(f.Name.Name, "_test"):
			outside = append(outside, f)
		default:
			inside = append(inside, f)
		}
		all.exists = true
	}
	own := s.check(path.Join(s.module, pkg), inside, s)
	checked := []*types.Package{own, s.check(path.Join(s.module, pkg)+"_test", outside, instead{s, own})}
	for _, p := range checked {
		for _, name := range p.Scope().Names() {
			f, ok := p.Scope().Lookup(name).(*types.Func)
			if ok && isTest(f) && strings.HasSuffix(s.files.Position(f.Pos()).Filename, "_test.go") {
				all.tests[name] = f
			}
		}
	}
	return all
}

func isTest(f *types.Func) bool {
	params := f.Signature().Params()
	return params.Len() == 1 && params.At(0).Type().String() == "*testing.T"
}

var testName = regexp.MustCompile(`^Test\w*$`)

// find finds a test, or says why it is not there.
func (a *suite) find(name string) (test types.Object, why string) {
	if test, ok := a.tests[name]; ok && testName.MatchString(name) {
		return test, ""
	}
	if file, ok := a.unset[name]; ok {
		return nil, "it is in " + file + ", which is not built: its build constraint is not met"
	}
	if !a.exists {
		return nil, "the module has no such package"
	}
	nearest, least := "", len(name)
	for other := range a.tests {
		d := table.Edits(name, other)
		if strings.Contains(other, name) {
			d = 1
		}
		if d < least || d == least && other < nearest {
			nearest, least = other, d
		}
	}
	if least <= len(name)/3 {
		return nil, "the package has no test of that name; " + nearest + " may be it, renamed"
	}
	return nil, "the package has no test of that name, nor one that is like it"
}

// parse parses a Go file, if it is one, and says whether it is built.
func (s *source) parse(pkg, name string) (f *ast.File, built bool) {
	if path.Ext(name) != ".go" {
		return nil, false
	}
	folder := filepath.Join(s.dir, filepath.FromSlash(pkg))
	// What does not parse does not build, and go says so.
	f, _ = parser.ParseFile(s.files, filepath.Join(folder, name), nil, parser.SkipObjectResolution)
	built, _ = build.Default.MatchFile(folder, name)
	return f, built
}

// Import is what the checker of types asks for.
func (s *source) Import(name string) (*types.Package, error) {
	if p, ok := s.packages[name]; ok {
		return p, nil
	}
	if src, ok := standIns[name]; ok {
		f, err := parser.ParseFile(s.files, name, src, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		s.packages[name] = s.check(name, []*ast.File{f}, s)
		return s.packages[name], nil
	}
	below, ours := strings.CutPrefix(name, s.module+"/")
	if !ours {
		p := types.NewPackage(name, packageName(name))
		p.MarkComplete()
		s.packages[name] = p
		return p, nil
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, filepath.FromSlash(below)))
	if err != nil {
		return nil, err
	}
	var files []*ast.File
	for _, e := range entries {
		if f, built := s.parse(below, e.Name()); f != nil && built && !strings.HasSuffix(e.Name(), "_test.go") {
			files = append(files, f)
		}
	}
	s.packages[name] = nil // a cycle is an error
	s.packages[name] = s.check(name, files, s)
	return s.packages[name], nil
}

// instead imports a package as its own tests see it.
type instead struct {
	*source
	own *types.Package
}

func (i instead) Import(name string) (*types.Package, error) {
	if name == i.own.Path() {
		return i.own, nil
	}
	return i.source.Import(name)
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

// packageName guesses the name of a package from its import path.
func packageName(p string) string {
	base := path.Base(p)
	if majorVersion.MatchString(base) {
		base = path.Base(path.Dir(p))
	}
	return strings.TrimPrefix(base, "go-")
}

// standIns are what tests need of other modules in order to fail.
var standIns = map[string]string{
	"testing": `package testing
type common struct{}
func (*common) Error(args ...any) {}
func (*common) Errorf(format string, args ...any) {}
func (*common) Fatal(args ...any) {}
func (*common) Fatalf(format string, args ...any) {}
func (*common) Fail() {}
func (*common) FailNow() {}
func (*common) Skip(args ...any) {}
func (*common) Skipf(format string, args ...any) {}
func (*common) SkipNow() {}
func (*common) Log(args ...any) {}
func (*common) Logf(format string, args ...any) {}
func (*common) Name() string { return "" }
func (*common) Helper() {}
func (*common) Cleanup(f func()) {}
func (*common) TempDir() string { return "" }
type TB interface {
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Fail()
	FailNow()
	Skip(args ...any)
	Skipf(format string, args ...any)
	SkipNow()
	Log(args ...any)
	Logf(format string, args ...any)
	Name() string
	Helper()
	Cleanup(f func())
	TempDir() string
}
type T struct{ common }
func (*T) Run(name string, f func(t *T)) bool { return true }
func (*T) Parallel() {}
type B struct{ common }
type F struct{ common }
type M struct{}
func (*M) Run() int { return 0 }
`,
	"pgregory.net/rapid": `package rapid
import "testing"
type T = testing.T
func Check(t testing.TB, prop func(*T)) {}
`,
}

// failing are the methods of package testing that make a test fail, and ending
// those that end it.
var (
	failing = map[string]bool{"Error": true, "Errorf": true, "Fatal": true, "Fatalf": true, "Fail": true, "FailNow": true}
	ending  = map[string]bool{"Skip": true, "Skipf": true, "SkipNow": true}
)

// check finds out what the names in files stand for. That a name of another
// module stands for nothing is no error here.
func (s *source) check(name string, files []*ast.File, from types.Importer) *types.Package {
	conf := types.Config{Importer: from, Error: func(error) {}, IgnoreFuncBodies: !ofTests(files)}
	p, _ := conf.Check(name, s.files, files, &s.info)
	for _, f := range files {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Body != nil {
					s.bodies[s.info.Defs[d.Name]] = d.Body
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if v, ok := spec.(*ast.ValueSpec); ok && d.Tok == token.VAR {
						for i, n := range v.Names {
							if len(v.Values) == len(v.Names) {
								s.bodies[s.info.Defs[n]] = v.Values[i]
							}
						}
					}
				}
			}
		}
	}
	return p
}

// ofTests reports whether one of the files can name a test: it imports testing.
func ofTests(files []*ast.File) bool {
	for _, f := range files {
		for _, i := range f.Imports {
			if i.Path.Value == `"testing"` {
				return true
			}
		}
	}
	return false
}

// canFail reports whether a test reaches something that makes it fail.
func (s *source) canFail(test types.Object) bool {
	w := walker{source: s, seen: map[types.Object]bool{}}
	w.reach(test)
	return w.fails
}

// A walker goes along what can be reached.
type walker struct {
	*source
	seen  map[types.Object]bool
	fails bool
}

// reach goes into a function, or the value of a variable.
func (w *walker) reach(o types.Object) {
	if f, ok := o.(*types.Func); ok {
		o = f.Origin()
		if o.Pkg() != nil && o.Pkg().Path() == "testing" {
			w.fails = w.fails || failing[o.Name()]
			return
		}
	}
	if body, ok := w.bodies[o]; ok && !w.seen[o] {
		w.seen[o] = true
		w.walk(body)
	}
}

func (w *walker) walk(n ast.Node) {
	ast.Inspect(n, func(n ast.Node) bool {
		if w.fails {
			return false
		}
		switch n := n.(type) {
		case *ast.Ident:
			if o := w.info.Uses[n]; o != nil {
				w.reach(o)
			}
		case *ast.BlockStmt:
			w.list(n.List)
			return false
		case *ast.CaseClause:
			for _, e := range n.List {
				w.walk(e)
			}
			w.list(n.Body)
			return false
		case *ast.CommClause:
			if n.Comm != nil {
				w.walk(n.Comm)
			}
			w.list(n.Body)
			return false
		case *ast.IfStmt:
			if n.Init != nil {
				w.walk(n.Init)
			}
			w.walk(n.Cond)
			is, known := w.known(n.Cond)
			if !known || is {
				w.walk(n.Body)
			}
			if n.Else != nil && (!known || !is) {
				w.walk(n.Else)
			}
			return false
		case *ast.ForStmt:
			is, known := w.known(n.Cond)
			return !known || is
		case *ast.RangeStmt:
			return !w.empty(n.X)
		case *ast.AssignStmt: // what is given to nobody is not called
			return !blank(n.Lhs) || !literals(n.Rhs)
		}
		return true
	})
}

// list goes along statements, up to one that lets none follow.
func (w *walker) list(all []ast.Stmt) {
	for _, s := range all {
		w.walk(s)
		if w.ends(s) {
			return
		}
	}
}

func (w *walker) ends(s ast.Stmt) bool {
	switch s := s.(type) {
	case *ast.ReturnStmt:
		return true
	case *ast.BranchStmt:
		return s.Tok != token.GOTO
	case *ast.BlockStmt:
		return len(s.List) > 0 && w.ends(s.List[len(s.List)-1])
	case *ast.IfStmt:
		is, known := w.known(s.Cond)
		if known && !is {
			return s.Else != nil && w.ends(s.Else)
		}
		return known && w.ends(s.Body)
	case *ast.ExprStmt:
		call, ok := s.X.(*ast.CallExpr)
		if !ok {
			return false
		}
		switch f := call.Fun.(type) {
		case *ast.Ident:
			_, builtin := w.info.Uses[f].(*types.Builtin)
			return builtin && f.Name == "panic"
		case *ast.SelectorExpr:
			o := w.info.Uses[f.Sel]
			return o != nil && o.Pkg() != nil && o.Pkg().Path() == "testing" && ending[o.Name()]
		}
	}
	return false
}

// known is what a condition is, if that does not depend on anything.
func (w *walker) known(e ast.Expr) (is, known bool) {
	if e == nil {
		return true, true // a loop without a condition
	}
	if v := w.info.Types[e].Value; v != nil && v.Kind() == constant.Bool {
		return constant.BoolVal(v), true
	}
	switch e := e.(type) {
	case *ast.ParenExpr:
		return w.known(e.X)
	case *ast.UnaryExpr:
		is, known = w.known(e.X)
		return !is, known && e.Op == token.NOT
	case *ast.BinaryExpr:
		if e.Op != token.LAND && e.Op != token.LOR {
			return false, false
		}
		a, knownA := w.known(e.X)
		b, knownB := w.known(e.Y)
		decides := e.Op == token.LOR // whichever side is that decides
		if knownA && a == decides || knownB && b == decides {
			return decides, true
		}
		return !decides, knownA && knownB
	}
	return false, false
}

// empty reports whether there is nothing to range over.
func (w *walker) empty(e ast.Expr) bool {
	if v := w.info.Types[e].Value; v != nil && v.Kind() == constant.Int {
		return constant.Sign(v) <= 0
	}
	c, ok := e.(*ast.CompositeLit)
	return ok && len(c.Elts) == 0
}

func blank(all []ast.Expr) bool {
	for _, e := range all {
		if id, ok := e.(*ast.Ident); !ok || id.Name != "_" {
			return false
		}
	}
	return true
}

func literals(all []ast.Expr) bool {
	for _, e := range all {
		if _, ok := e.(*ast.FuncLit); !ok {
			return false
		}
	}
	return true
}
