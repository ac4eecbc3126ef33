package main

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"certctl/server/defect"
)

// names are those of all defects, from the source: a program that lists them
// would hold them.
func names() (all []string) {
	src, err := parser.ParseFile(token.NewFileSet(), "../../server/defect/defect.go", nil, 0)
	if err != nil {
		panic(err)
	}
	ast.Inspect(src, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		if typ, ok := v.Type.(*ast.Ident); ok && typ.Name == "Name" {
			name, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				panic(err)
			}
			all = append(all, name)
		}
		return true
	})
	if len(all) == 0 {
		panic("no defect has a name")
	}
	return all
}

// A server that is not of the laboratory has no switch of a defect.
func TestServerHoldsNoDefect(t *testing.T) {
	for name, tt := range map[string]struct {
		flags []string
		holds bool
	}{"a server": {nil, false}, "one of the laboratory": {[]string{"-tags", "defects"}, true}} {
		t.Run(name, func(t *testing.T) {
			binary := filepath.Join(t.TempDir(), "certctl-server")
			out, err := exec.CommandContext(t.Context(), "go", append(append([]string{"build"}, tt.flags...), "-o", binary, ".")...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			program, err := os.ReadFile(binary)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range append([]string{defect.ClockOffset, defect.Switch}, names()...) {
				if bytes.Contains(program, []byte(name)) != tt.holds {
					t.Errorf("it holds %s: %v", name, !tt.holds)
				}
			}
		})
	}
}
