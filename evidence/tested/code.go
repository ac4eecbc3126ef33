package tested

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// Code is the hash of what a build and its tests are made of: the Go and SQL
// files of the tree, its modules, its test data, and what is embedded.
func Code(tree fs.FS) (string, error) {
	files := map[string]bool{}
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		case path.Ext(name) == ".go", path.Ext(name) == ".sql", d.Name() == "go.mod", d.Name() == "go.sum",
			slices.Contains(strings.Split(name, "/"), "testdata"):
			files[name] = true
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	for _, name := range slices.Collect(maps.Keys(files)) {
		if path.Ext(name) != ".go" {
			continue
		}
		src, err := fs.ReadFile(tree, name)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(src)) {
			patterns, ok := strings.CutPrefix(line, "//go:embed ")
			if !ok {
				continue
			}
			for pattern := range strings.FieldsSeq(patterns) {
				found, err := fs.Glob(tree, path.Join(path.Dir(name), pattern))
				if err != nil {
					return "", err
				}
				for _, f := range found {
					files[f] = true
				}
			}
		}
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		content, err := fs.ReadFile(tree, name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n", name, len(content))
		h.Write(content)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
