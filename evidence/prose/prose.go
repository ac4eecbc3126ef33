// Package prose checks hand-written pages against the code: every name in a
// code span exists, every link leads somewhere, nothing is counted by hand, and on
// governed pages nothing is stated that no receipt and no cited test binds.
package prose

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"

	"certctl/evidence"
)

// Check reads every page of the source tree and returns what is not so. The
// error says that it could not look.
func Check(tree fs.FS, in evidence.Inputs) ([]evidence.Problem, error) {
	files, err := pages(tree)
	if err != nil {
		return nil, err
	}
	src, err := readSource(tree)
	if err != nil {
		return nil, err
	}
	n, err := gather(in, src)
	if err != nil {
		return nil, err
	}
	c := &checker{tree: tree, names: n, anchors: map[string][]string{}, counts: countPattern(in)}
	for _, file := range files {
		if err := c.page(file); err != nil {
			return nil, err
		}
	}
	evidence.Sort(c.problems)
	return c.problems, nil
}

// pages lists the pages that are checked.
func pages(tree fs.FS) ([]string, error) {
	var files []string
	if _, err := fs.Stat(tree, "README.md"); err == nil {
		files = append(files, "README.md")
	}
	for _, dir := range []string{"docs", evidence.PacketDir} {
		err := fs.WalkDir(tree, dir, func(name string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && path.Ext(name) == ".md" {
				files = append(files, name)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return files, nil
}

type checker struct {
	tree     fs.FS
	names    *names
	anchors  map[string][]string // of pages, once they were read
	counts   *regexp.Regexp
	problems []evidence.Problem
}

// A document is one parsed page.
type document struct {
	file     string
	src      []byte
	root     ast.Node
	sections []evidence.Section
}

func parse(file string, src []byte) *document {
	return &document{file: file, src: src, root: markdown.Parse(text.NewReader(src))}
}

var markdown = func() parser.Parser { return goldmark.New(goldmark.WithExtensions(extension.Table)).Parser() }()

// line is the line of a byte of the page.
func (d *document) line(at int) int {
	return 1 + strings.Count(string(d.src[:max(0, min(at, len(d.src)))]), "\n")
}

// generated reports whether a byte of the page is in a generated block.
func (d *document) generated(at int) bool {
	return slices.ContainsFunc(d.sections, func(s evidence.Section) bool { return s.Begin <= at && at < s.End })
}

func (c *checker) report(d *document, at int, repair, format string, args ...any) {
	c.problems = append(c.problems, evidence.Problem{File: d.file, Line: d.line(at), What: fmt.Sprintf(format, args...), Repair: repair})
}

func (c *checker) page(file string) error {
	src, err := fs.ReadFile(c.tree, file)
	if err != nil {
		return err
	}
	d := parse(file, src)
	sections, problems := evidence.Sections(file, src)
	d.sections = sections
	// Pages with declared blocks are compared with their rendering elsewhere.
	if !slices.ContainsFunc(evidence.Pages, func(p evidence.Page) bool { return p.Path == file }) {
		c.problems = append(c.problems, problems...)
		for _, s := range sections {
			c.report(d, s.Begin, "delete the markers", "block %s is not declared for this page, so nothing renders it", s.Name)
		}
	}
	if slices.ContainsFunc(evidence.Pages, func(p evidence.Page) bool { return p.Path == file && p.Governed }) {
		if err := c.govern(d); err != nil {
			return err
		}
	}
	return ast.Walk(d.root, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.CodeSpan:
			if what, ok := c.names.span(d.file, content(n, src)); !ok {
				c.report(d, n.Pos(), repairName, "%s", what)
			}
		case *ast.FencedCodeBlock, *ast.CodeBlock:
			for i := range n.Lines().Len() {
				l := n.Lines().At(i)
				for _, what := range c.names.command(string(l.Value(src))) {
					c.report(d, l.Start, repairName, "%s", what)
				}
			}
		case *ast.Link:
			return ast.WalkContinue, c.link(d, n.Pos(), string(n.Destination))
		case *ast.Image:
			return ast.WalkContinue, c.link(d, n.Pos(), string(n.Destination))
		case *ast.AutoLink:
			if n.AutoLinkType == ast.AutoLinkURL {
				return ast.WalkContinue, c.link(d, n.Pos(), string(n.URL(src)))
			}
		case *ast.RawHTML:
			return ast.WalkContinue, c.html(d, n.Segments)
		case *ast.HTMLBlock:
			return ast.WalkContinue, c.html(d, n.Lines())
		}
		if n.Type() == ast.TypeBlock {
			c.count(d, n)
		}
		return ast.WalkContinue, nil
	})
}

const repairName = "correct the name, declare it, or leave it out"

// content is the text of a node and all below it.
func content(n ast.Node, src []byte) string {
	b, _ := flatten(n, src)
	return string(b)
}

// flatten returns the text of a node, and for each byte of it where in the
// page it is.
func flatten(n ast.Node, src []byte) (b []byte, at []int) {
	for c := n.FirstChild(); c != nil; c = c.NextSibling() {
		switch c := c.(type) {
		case *ast.Text:
			for i, char := range c.Segment.Value(src) {
				b, at = append(b, char), append(at, c.Segment.Start+i)
			}
			if c.SoftLineBreak() || c.HardLineBreak() {
				b, at = append(b, ' '), append(at, c.Segment.Stop)
			}
		case *ast.String:
			for _, char := range c.Value {
				b, at = append(b, char), append(at, c.Pos())
			}
		default:
			if c.Type() == ast.TypeInline {
				inner, where := flatten(c, src)
				b, at = append(b, inner...), append(at, where...)
			}
		}
	}
	for i, char := range b {
		if char == '\n' {
			b[i] = ' '
		}
	}
	return b, at
}
