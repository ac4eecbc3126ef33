package evidence

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/aymanbagabas/go-udiff"
)

// A Problem is something in a file that is not as it must be.
type Problem struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`
	What   string `json:"what"`
	Repair string `json:"repair,omitempty"` // what to do, or the command that does it
	Diff   string `json:"diff,omitempty"`
}

// String is the problem for people: where and what, the diff, the way out.
func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s = fmt.Sprintf("%s:%d", s, p.Line)
	}
	s += ": " + p.What + "\n"
	for l := range strings.Lines(p.Diff) {
		s += "    " + l
	}
	if p.Diff != "" && !strings.HasSuffix(p.Diff, "\n") {
		s += "\n"
	}
	if p.Repair != "" {
		s += "    repair: " + p.Repair + "\n"
	}
	return s
}

// A Section is a generated block as it stands in a file.
type Section struct {
	Name       string
	Sum        string // of the content, as the begin marker states it
	Content    string
	Line       int // of the begin marker
	Begin, End int // bytes of the file from the begin marker to after the end marker
}

// Edited reports whether the content is not what was rendered.
func (s Section) Edited() bool { return s.Sum != checksum(s.Content) }

func checksum(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

func marked(name, content string) string {
	return fmt.Sprintf("<!-- certctl:begin %s sha256:%s -->\n%s<!-- certctl:end %s -->\n", name, checksum(content), content, name)
}

const markerStart = "<!-- certctl:"

var (
	beginMarker = regexp.MustCompile(`^<!-- certctl:begin ([a-z][a-z0-9-]*) sha256:([0-9a-f]{64}) -->\n?$`)
	endMarker   = regexp.MustCompile(`^<!-- certctl:end ([a-z][a-z0-9-]*) -->\n?$`)
)

// Sections finds the generated blocks of a file. Every line that begins like a
// marker has to be one.
func Sections(file string, src []byte) (sections []Section, problems []Problem) {
	bad := func(line int, format string, args ...any) {
		problems = append(problems, Problem{File: file, Line: line, What: fmt.Sprintf(format, args...), Repair: repairMarker})
	}
	seen := map[string]int{}
	var open *Section
	start, offset, n := 0, 0, 0 // start of the open block's content
	for l := range strings.Lines(string(src)) {
		at := offset
		offset += len(l)
		n++
		if !strings.HasPrefix(strings.TrimSpace(l), markerStart) {
			continue
		}
		if m := beginMarker.FindStringSubmatch(l); m != nil {
			if open != nil {
				bad(n, "block %s begins inside block %s, which began on line %d", m[1], open.Name, open.Line)
				continue
			}
			if first, twice := seen[m[1]]; twice {
				bad(n, "block %s is here for the second time, the first is on line %d", m[1], first)
			}
			seen[m[1]] = n
			open, start = &Section{Name: m[1], Sum: m[2], Line: n, Begin: at}, offset
			continue
		}
		m := endMarker.FindStringSubmatch(l)
		switch {
		case m == nil:
			bad(n, "this is no marker of a generated block: %s", strings.TrimSpace(l))
		case open == nil:
			bad(n, "block %s ends and did not begin", m[1])
		case m[1] != open.Name:
			bad(n, "block %s ends inside block %s, which began on line %d", m[1], open.Name, open.Line)
		default:
			open.Content, open.End = string(src[start:at]), offset
			sections = append(sections, *open)
			open = nil
		}
	}
	if open != nil {
		bad(open.Line, "block %s begins and does not end", open.Name)
	}
	return sections, problems
}

const repairMarker = "restore the markers, or delete the file and run `make docs`, which makes it anew without its prose"

// splice puts rendered blocks in the place of those of a page. It refuses a
// page with a block that is not declared, missing or edited by hand.
func splice(p Page, old []byte, rendered map[string]string, discard bool) ([]byte, []Problem) {
	sections, problems := Sections(p.Path, old)
	if len(problems) > 0 {
		return nil, problems
	}
	var b strings.Builder
	last := 0
	found := map[string]bool{}
	for _, s := range sections {
		content, ok := rendered[s.Name]
		switch {
		case !ok:
			problems = append(problems, Problem{
				File: p.Path, Line: s.Line, What: fmt.Sprintf("this page has no block %s; it has %s", s.Name, strings.Join(p.names(), ", ")),
				Repair: "correct its name, or delete the block with its markers",
			})
		case s.Edited() && !discard:
			problems = append(problems, Problem{
				File: p.Path, Line: s.Line, What: fmt.Sprintf("block %s was edited by hand; it is rendered from %s", s.Name, p.From),
				Diff:   diff(p.Path+" (rendered)", p.Path+" (edited)", content, s.Content),
				Repair: "move the edit to where it is declared or out of the block, then `make docs DISCARD=1`",
			})
		}
		found[s.Name] = true
		b.Write(old[last:s.Begin])
		b.WriteString(marked(s.Name, content))
		last = s.End
	}
	b.Write(old[last:])
	for _, name := range p.names() {
		if !found[name] {
			problems = append(problems, Problem{
				File: p.Path, What: "block " + name + " is missing",
				Repair: fmt.Sprintf("put these lines where it belongs, then `make docs`:\n%s", indent(marked(name, ""))),
			})
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return []byte(b.String()), nil
}

func diff(from, to, a, b string) string { return udiff.Unified(from, to, a, b) }

func indent(s string) string {
	return "        " + strings.TrimSuffix(strings.ReplaceAll(s, "\n", "\n        "), "        ")
}
