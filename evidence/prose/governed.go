package prose

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/yuin/goldmark/ast"

	"certctl/evidence"
)

// A statement that can be false has one of these words, a digit or a code span.
var governedWord = regexp.MustCompile(`(?i)\b(?:` + strings.Join([]string{
	`every\w*`, `each`, `all`, `only`, `none`, `no`, `no[ -]one`, `never`, `always`, `any\w*`, `both`, `at\s+most`, `at\s+least`, `exactly`, `once`,
	`nothing`, `nobody`, `nowhere`, `neither`, `nor`, `either`, `who(?:m|so)?ever`, `whichever`, `whatever`, `whenever`, `wherever`, `entire`, `entirely`,
	`zero`, `one`, `two`, `three`, `four`, `five`, `six`, `seven`, `eight`, `nine`, `ten`, `eleven`, `twelve`, `thirteen`, `fourteen`, `fifteen`,
	`sixteen`, `seventeen`, `eighteen`, `nineteen`, `twenty`, `thirty`, `forty`, `fifty`, `sixty`, `seventy`, `eighty`, `ninety`,
	`(?:hundred|thousand|million|billion|dozen)s?`, `half`, `twice`, `thrice`, `single`, `double`, `triple`,
	`\pL*\pN[\pL\pN.,:%/-]*`,
}, "|") + `)\b|\pN+`)

const repairGoverned = "link the receipt that shows it in the same sentence, name a test that a claim cites, have a block render it, or delete it"

// A sentence is a part of a page's prose, with what it names and leads to.
type sentence struct {
	text  string // a code span is one mark in it
	at    int    // in the page
	spans []string
	links []string
}

// codeMark stands for a code span in the text of a sentence.
const codeMark = '\x00'

// govern refuses what is stated on a governed page, outside of its generated
// blocks, and bound to nothing.
func (c *checker) govern(d *document) error {
	return ast.Walk(d.root, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering || n.Type() != ast.TypeBlock {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.FencedCodeBlock, *ast.CodeBlock:
			if lines := n.Lines(); lines.Len() > 0 && !d.generated(lines.At(0).Start) {
				c.report(d, lines.At(0).Start, repairGoverned, "this code is bound to nothing")
			}
		case *ast.HTMLBlock:
			for i := range n.Lines().Len() {
				l := n.Lines().At(i)
				shown := strings.TrimSpace(htmlTag.ReplaceAllString(string(l.Value(d.src)), ""))
				if shown != "" && !d.generated(l.Start) {
					c.report(d, l.Start, "write it in Markdown", "this HTML is not read, and so is bound to nothing: %s", shown)
				}
			}
		default:
			for _, s := range sentences(n, d.src) {
				if what := c.unbound(d, s); len(what) > 0 && !d.generated(s.at) {
					c.report(d, s.at, repairGoverned, "%s: no receipt and no test binds this sentence: %s", strings.Join(what, ", "), s.show())
				}
			}
		}
		return ast.WalkContinue, nil
	})
}

var htmlTag = regexp.MustCompile(`(?s)<!--.*?-->|</?[A-Za-z][^>]*>`)

// unbound returns what of a sentence would have to be bound, if it is not.
func (c *checker) unbound(d *document, s sentence) (what []string) {
	for _, l := range s.links {
		u, ok := parseURL(l)
		if !ok || u.Scheme != "" || u.Host != "" {
			continue
		}
		target := path.Join(path.Dir(d.file), u.Path)
		if path.Dir(target) == path.Join(evidence.PacketDir, "receipts") && c.names.receipts[target] {
			return nil
		}
	}
	if slices.ContainsFunc(s.spans, func(span string) bool { return c.names.cited[span] }) {
		return nil
	}
	for _, span := range s.spans {
		what = append(what, "`"+span+"`")
	}
	for _, w := range governedWord.FindAllString(s.text, -1) {
		if w = `"` + w + `"`; !slices.Contains(what, w) {
			what = append(what, w)
		}
	}
	return what
}

// show is the beginning of a sentence.
func (s sentence) show() string {
	text := s.text
	for _, span := range s.spans {
		text = strings.Replace(text, string(codeMark), "`"+span+"`", 1)
	}
	if runes := []rune(text); len(runes) > 80 {
		text = string(runes[:80]) + " ..."
	}
	return text
}

var sentenceEnd = regexp.MustCompile(`[.!?]['")\]]*\s+`)

// sentences are those of the text that stands in a block itself.
func sentences(n ast.Node, src []byte) (all []sentence) {
	var f flow
	f.read(n, src)
	begin := 0
	add := func(end int) {
		s := sentence{text: strings.TrimSpace(string(f.text[begin:end]))}
		inside := func(m mark) bool { return begin <= m.at && m.at < end }
		for _, m := range f.spans {
			if inside(m) {
				s.spans = append(s.spans, m.what)
			}
		}
		for _, m := range f.links {
			if inside(m) {
				s.links = append(s.links, m.what)
			}
		}
		for i := begin; i < end; i++ {
			if s.at = f.where[i]; f.text[i] != ' ' {
				break
			}
		}
		if s.text != "" {
			all = append(all, s)
		}
		begin = end
	}
	for _, m := range sentenceEnd.FindAllIndex(f.text, -1) {
		add(m[1])
	}
	add(len(f.text))
	return all
}

// A flow is the text of a block, with code spans and links beside it.
type flow struct {
	text  []byte
	where []int // in the page
	spans []mark
	links []mark
}

// A mark is something at a byte of the text.
type mark struct {
	at   int
	what string
}

func (f *flow) add(text string, where int) {
	for i := range len(text) {
		f.text, f.where = append(f.text, text[i]), append(f.where, where)
	}
}

func (f *flow) read(n ast.Node, src []byte) {
	for c := n.FirstChild(); c != nil; c = c.NextSibling() {
		switch c := c.(type) {
		case *ast.Text:
			for i, b := range c.Segment.Value(src) {
				f.text, f.where = append(f.text, b), append(f.where, c.Segment.Start+i)
			}
			if c.SoftLineBreak() || c.HardLineBreak() {
				f.add(" ", c.Segment.Stop)
			}
		case *ast.String:
			f.add(string(c.Value), c.Pos())
		case *ast.CodeSpan:
			f.spans = append(f.spans, mark{len(f.text), content(c, src)})
			f.add(string(codeMark), c.Pos())
		case *ast.Link:
			f.links = append(f.links, mark{len(f.text), string(c.Destination)})
			f.read(c, src)
			f.title(c.Title, c.Pos())
		case *ast.Image:
			f.read(c, src)
			f.title(c.Title, c.Pos())
		default:
			if c.Type() == ast.TypeInline {
				f.read(c, src)
			}
		}
	}
}

// title is what a link says when it is pointed at.
func (f *flow) title(title []byte, where int) {
	if len(title) > 0 {
		f.add(" ("+string(title)+")", where)
	}
}
