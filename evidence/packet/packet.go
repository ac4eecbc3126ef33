// Package packet seals a directory of evidence: a manifest names every file
// with its size and hash, and Verify finds whatever was changed, added or
// removed since. It needs nothing but the directory.
package packet

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// ManifestName is the file of a packet that names all others.
const ManifestName = "manifest.json"

// A Manifest names every other file of a packet, by path.
type Manifest struct {
	Files []File `json:"files"`
}

// A File is one file of a packet.
type File struct {
	Path   string `json:"path"` // relative, with slashes
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// A Problem is something in a packet that is not as its manifest has it.
type Problem struct {
	File string `json:"file"`
	What string `json:"what"`
}

func (p Problem) String() string { return p.File + ": " + p.What }

// encode is the one form that a manifest has.
func (m Manifest) encode() ([]byte, error) {
	files := slices.SortedFunc(slices.Values(m.Files), func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(Manifest{append([]File{}, files...)})
	return b.Bytes(), err
}

// Write writes the manifest of the packet in dir. It refuses a packet that
// holds anything but regular files.
func Write(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	files, irregular, err := list(root.FS())
	if err != nil {
		return err
	}
	if len(irregular) > 0 {
		return errors.New(irregular[0].String())
	}
	var m Manifest
	for _, name := range files {
		f, err := sum(root, name)
		if err != nil {
			return err
		}
		m.Files = append(m.Files, f)
	}
	raw, err := m.encode()
	if err != nil {
		return err
	}
	return root.WriteFile(ManifestName, raw, 0o644)
}

// Verify compares the packet in dir with its manifest. If nothing is wrong it
// runs the extra checks, which thus read only what the manifest vouches for.
// The error says that it could not look.
func Verify(dir string, extra ...func(fs.FS) []Problem) ([]Problem, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	found, problems, err := list(root.FS())
	if err != nil {
		return nil, err
	}
	m, bad, err := read(root)
	if err != nil {
		return nil, err
	}
	problems = append(problems, bad...)
	if m == nil {
		return sorted(problems), nil
	}
	vouched := map[string]bool{}
	for _, want := range m.Files {
		if !fs.ValidPath(want.Path) || want.Path == "." || strings.ContainsAny(want.Path, `\:`) || want.Path == ManifestName {
			problems = append(problems, Problem{ManifestName, fmt.Sprintf("names %q, which is no path of a file in a packet", want.Path)})
			continue
		}
		if vouched[want.Path] {
			problems = append(problems, Problem{ManifestName, fmt.Sprintf("names %q twice", want.Path)})
			continue
		}
		vouched[want.Path] = true
		if !slices.Contains(found, want.Path) {
			info, err := root.Lstat(want.Path)
			switch {
			case err != nil:
				problems = append(problems, Problem{want.Path, "is in the manifest and not in the packet"})
			case info.IsDir():
				problems = append(problems, Problem{want.Path, "is in the manifest and is a directory"})
			}
			continue // list told of everything else that is no regular file
		}
		got, err := sum(root, want.Path)
		if err != nil {
			return nil, err
		}
		switch {
		case got.Size != want.Size:
			problems = append(problems, Problem{want.Path, fmt.Sprintf("has %d bytes, the manifest says %d", got.Size, want.Size)})
		case got.SHA256 != want.SHA256:
			problems = append(problems, Problem{want.Path, fmt.Sprintf("has the SHA-256 %s, the manifest says %q", got.SHA256, want.SHA256)})
		}
	}
	for _, name := range found {
		if !vouched[name] {
			problems = append(problems, Problem{name, "is in the packet and not in the manifest"})
		}
	}
	if len(problems) == 0 {
		for _, check := range extra {
			problems = append(problems, check(root.FS())...)
		}
	}
	return sorted(problems), nil
}

// list returns the regular files of a packet but for the manifest, and what is
// neither a regular file nor a directory.
func list(packet fs.FS) (files []string, irregular []Problem, err error) {
	err = fs.WalkDir(packet, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
		case !d.Type().IsRegular():
			irregular = append(irregular, Problem{name, "is no regular file (" + d.Type().String() + "); a packet holds nothing else"})
		case name != ManifestName:
			files = append(files, name)
		}
		return nil
	})
	return files, irregular, err
}

// read returns the manifest, or nil if it cannot be used.
func read(root *os.Root) (*Manifest, []Problem, error) {
	info, err := root.Lstat(ManifestName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, []Problem{{ManifestName, "is missing, so nothing says what the packet held"}}, nil
	case err != nil:
		return nil, nil, err
	case !info.Mode().IsRegular():
		return nil, nil, nil // list told of it
	}
	raw, err := root.ReadFile(ManifestName)
	if err != nil {
		return nil, nil, err
	}
	m, problem := decode(raw)
	if problem != "" {
		return nil, []Problem{{ManifestName, problem}}, nil
	}
	again, err := m.encode()
	if err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(raw, again) {
		return &m, []Problem{{ManifestName, "is not in the form in which manifests are written"}}, nil
	}
	return &m, nil, nil
}

// decode says what is wrong with a manifest that it cannot read.
func decode(raw []byte) (m Manifest, problem string) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, "cannot be read: " + err.Error()
	}
	return m, ""
}

func sum(root *os.Root, name string) (File, error) {
	f, err := root.Open(name)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return File{name, n, hex.EncodeToString(h.Sum(nil))}, err
}

func sorted(problems []Problem) []Problem {
	slices.SortStableFunc(problems, func(a, b Problem) int { return strings.Compare(a.File, b.File) })
	return problems
}
