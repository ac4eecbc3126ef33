package prose

import (
	"reflect"
	"regexp"
	"strings"

	"github.com/yuin/goldmark/ast"

	"certctl/evidence"
)

// countPattern matches a number and, within two words, the plural of something
// that is declared or seen.
func countPattern(in evidence.Inputs) *regexp.Regexp {
	nouns := []string{
		"tables", "columns", "indexes", "triggers", "errors", "receipts", "claims", "probes", "controls", "pages",
		"findings", "tests", "commands", "packages", "tiers", "classes",
	}
	tables := reflect.TypeOf(in.Declared)
	for i := range tables.NumField() {
		name, _, _ := strings.Cut(tables.Field(i).Tag.Get("json"), ",")
		nouns = append(nouns, name[strings.LastIndexByte(name, '_')+1:])
	}
	return regexp.MustCompile(`(?i)(?:^|[\s(])(` + number + `(?:\s+[\pL'-]+)?\s+(?:` + strings.Join(nouns, "|") + `))\b`)
}

const number = `(?:[0-9]+(?:,[0-9]{3})*|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|twenty(?:-[a-z]+)?)`

// count refuses numbers of declared things in the hand-written text of a block.
// The packet's own pages are written by the tool, numbers and all.
func (c *checker) count(d *document, n ast.Node) {
	if strings.HasPrefix(d.file, evidence.PacketDir+"/") {
		return
	}
	b, at := flatten(n, d.src)
	for _, m := range c.counts.FindAllSubmatchIndex(b, -1) {
		if where := at[m[2]]; !d.generated(where) {
			c.report(d, where, "derive it or delete it", "%q is a count in prose", b[m[2]:m[3]])
		}
	}
}
