package prose

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/text"
)

// link checks where a link of the page leads. Outside of the tree only its
// form is looked at.
func (c *checker) link(d *document, at int, dest string) error {
	bad := func(repair, format string, args ...any) {
		c.report(d, at, repair, "the link %q %s", dest, fmt.Sprintf(format, args...))
	}
	u, ok := parseURL(dest)
	switch {
	case !ok:
		bad("write a path or a URL", "cannot be read")
		return nil
	case u.Scheme == "mailto":
		return nil
	case u.Scheme != "" && (u.Scheme != "http" && u.Scheme != "https" || u.Host == ""):
		bad("write a path, or a URL with https:// and a host", "leads nowhere")
		return nil
	case u.Scheme != "":
		return nil
	case u.Host != "" || strings.HasPrefix(u.Path, "/"):
		bad("write it relative to this page", "is relative to a host that this page does not have")
		return nil
	}
	target := d.file
	if u.Path != "" {
		target = path.Join(path.Dir(d.file), u.Path)
	}
	if target == ".." || strings.HasPrefix(target, "../") {
		bad("link to a file of the repository, or to a URL", "leaves the repository")
		return nil
	}
	info, err := fs.Stat(c.tree, target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		bad("correct the path", "leads to %s, which does not exist%s", target, nearest(target, c.names.src.files))
		return nil
	case err != nil:
		return err
	case u.Fragment == "":
		return nil
	case info.IsDir() || path.Ext(target) != ".md":
		bad("link to the file, and name the symbol", "has an anchor, and only pages have those")
		return nil
	}
	anchors, err := c.anchorsOf(target)
	if err == nil && !slices.Contains(anchors, u.Fragment) {
		known := map[string]bool{}
		for _, a := range anchors {
			known[a] = true
		}
		bad("correct the anchor", "leads to #%s, which %s does not have%s", u.Fragment, target, nearest(u.Fragment, known))
	}
	return err
}

func parseURL(s string) (*url.URL, bool) {
	u, err := url.Parse(s)
	return u, err == nil
}

var (
	htmlLink   = regexp.MustCompile(`(?is)<(?:a|img)\s[^>]*?\b(?:href|src)\s*=\s*["']([^"']*)["']`)
	htmlAnchor = regexp.MustCompile(`(?is)<[a-z][a-z0-9]*\s[^>]*?\b(?:id|name)\s*=\s*["']([^"']*)["']`)
)

func (c *checker) html(d *document, lines *text.Segments) error {
	for i := range lines.Len() {
		l := lines.At(i)
		for _, m := range htmlLink.FindAllSubmatch(l.Value(d.src), -1) {
			if err := c.link(d, l.Start, string(m[1])); err != nil {
				return err
			}
		}
	}
	return nil
}

// anchorsOf returns the anchors of a page as GitHub makes them.
func (c *checker) anchorsOf(file string) ([]string, error) {
	if a, ok := c.anchors[file]; ok {
		return a, nil
	}
	src, err := fs.ReadFile(c.tree, file)
	if err != nil {
		return nil, err
	}
	anchors := []string{}
	used := map[string]int{}
	add := func(lines *text.Segments) {
		for i := range lines.Len() {
			l := lines.At(i)
			for _, m := range htmlAnchor.FindAllSubmatch(l.Value(src), -1) {
				anchors = append(anchors, string(m[1]))
			}
		}
	}
	err = ast.Walk(parse(file, src).root, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Heading:
			anchors = append(anchors, unique(slug(content(n, src)), used))
		case *ast.RawHTML:
			add(n.Segments)
		case *ast.HTMLBlock:
			add(n.Lines())
		}
		return ast.WalkContinue, nil
	})
	c.anchors[file] = anchors
	return anchors, err
}

// slug is the anchor of a heading by GitHub's rule: lower case, spaces as
// hyphens, and of the rest only letters, marks, digits, hyphens and underscores.
func slug(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-', r == '_', unicode.IsLetter(r), unicode.IsMark(r), unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, strings.TrimSpace(heading))
}

// unique numbers the second and later headings of a page that share a slug.
func unique(slug string, used map[string]int) string {
	s := slug
	for {
		if _, taken := used[s]; !taken {
			break
		}
		used[slug]++
		s = fmt.Sprintf("%s-%d", slug, used[slug])
	}
	used[s] = 0
	return s
}
