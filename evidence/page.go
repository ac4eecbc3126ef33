package evidence

import (
	"fmt"
	"strings"
)

// page writes Markdown.
type page struct{ strings.Builder }

func (p *page) printf(format string, args ...any) { fmt.Fprintf(&p.Builder, format, args...) }

func (p *page) title(s string)     { p.printf("# %s\n\n", s) }
func (p *page) heading(s string)   { p.printf("## %s\n\n", s) }
func (p *page) entry(s string)     { p.printf("### %s\n\n", s) }
func (p *page) paragraph(s string) { p.printf("%s\n\n", s) }

// list writes one item a line.
func (p *page) list(items []string) {
	for _, item := range items {
		p.printf("- %s\n", item)
	}
	p.printf("\n")
}

// grid writes a table of rows, whose cells are Markdown, under head.
func (p *page) grid(head []string, rows [][]string) {
	p.printf("| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat(" --- |", len(head)))
	for _, row := range rows {
		for i, c := range row {
			p.printf("| %s ", cell.Replace(c))
			if i == len(row)-1 {
				p.printf("|\n")
			}
		}
	}
	p.printf("\n")
}

var cell = strings.NewReplacer("|", `\|`, "\n", " ")

// code returns s as a code span, whatever it holds.
func code(s string) string {
	if s == "" {
		return ""
	}
	fence, run := "`", 0
	for _, c := range s {
		if c != '`' {
			run = 0
			continue
		}
		if run++; run == len(fence) {
			fence += "`"
		}
	}
	s = strings.ReplaceAll(s, "\n", " ")
	if strings.HasPrefix(s, "`") || strings.HasSuffix(s, "`") {
		s = " " + s + " "
	}
	return fence + s + fence
}

// codes returns a list of code spans, or none if there is nothing to list.
func codes(names []string, none string) string {
	if len(names) == 0 {
		return none
	}
	spans := make([]string, len(names))
	for i, n := range names {
		spans[i] = code(n)
	}
	return strings.Join(spans, ", ")
}

func link(markdown, target string) string { return "[" + markdown + "](" + target + ")" }

// text escapes what Markdown would take for markup in a declared sentence; code
// spans in it stay.
func text(s string) string {
	parts := strings.Split(s, "`")
	if len(parts)%2 == 0 { // one backtick opens nothing
		return plain.Replace(s)
	}
	for i, part := range parts {
		if i%2 == 0 {
			parts[i] = plain.Replace(part)
		}
	}
	return strings.Join(parts, "`")
}

var plain = strings.NewReplacer(`\`, `\\`, "*", `\*`, "[", `\[`, "]", `\]`, "<", "&lt;", "`", "\\`")

// slug is the file name of an id.
func slug(id string) string { return strings.ReplaceAll(id, "/", "-") }
