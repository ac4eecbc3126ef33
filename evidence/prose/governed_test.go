package prose_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"certctl/evidence"
	"certctl/evidence/prose"
)

const governed = "docs/operator/scheduler-ha.md"

// govern checks a tree whose governed page holds page.
func govern(t *testing.T, page string) []evidence.Problem {
	t.Helper()
	tree := fstest.MapFS{}
	for name, content := range sources {
		tree[name] = &fstest.MapFile{Data: []byte(content)}
	}
	tree["audit-packet/receipts/scan-sees-hosts.md"] = &fstest.MapFile{Data: []byte("# Seen\n")}
	tree["server/scan/more_test.go"] = &fstest.MapFile{Data: []byte("package scan\n\nfunc TestNobodyCites(t *testing.T) {}\n")}
	tree[governed] = &fstest.MapFile{Data: []byte(page)}
	in := inputs(t)
	in.Receipts[0].Claim.Tests = []evidence.Test{{Package: "server/scan", Name: "TestHostIsSeen"}}
	problems, err := prose.Check(tree, in)
	if err != nil {
		t.Fatal(err)
	}
	return problems
}

const receipt = "(../../audit-packet/receipts/scan-sees-hosts.md)"

func TestGovernedPagesStateNothingUnbound(t *testing.T) {
	for page, want := range map[string]string{
		"Every replica scans.":              `"Every"`,
		"A host is seen by each of them.":   `"each"`,
		"They see all hosts.":               `"all"`,
		"It is only seen.":                  `"only"`,
		"Of them none is lost.":             `"none"`,
		"There is no leader.":               `"no"`,
		"It never sleeps.":                  `"never"`,
		"It always wakes.":                  `"always"`,
		"It takes any host.":                `"any"`,
		"Anybody may look.":                 `"Anybody"`,
		"It sees both.":                     `"both"`,
		"A pass sees at most a host.":       `"at most"`,
		"A pass sees at\nleast a host.":     `"at least"`,
		"That is exactly so.":               `"exactly"`,
		"A host is seen once.":              `"once"`,
		"It is done twice.":                 `"twice"`,
		"It forgets nothing.":               `"nothing"`,
		"It is known to nobody.":            `"nobody"`,
		"Neither is lost.":                  `"Neither"`,
		"It is whoever comes.":              `"whoever"`,
		"Take whichever is near.":           `"whichever"`,
		"It is looked at by a replica of 3": `"3"`,
		"It takes 2.5s.":                    `"2.5s"`,
		"It takes ½ of them.":               `"½"`,
		"It speaks IPv6.":                   `"IPv6"`,
		"There are three replicas.":         `"three"`,
		"A dozen hosts.":                    `"dozen"`,
		"It is `net-scan`.":                 "`net-scan`",
		"It is **every** host.":             `"every"`,
		"It is ev*ery* host.":               `"every"`,
		"- in a list, all of it":            `"all"`,
		"## Every host":                     `"Every"`,
		"> Nobody said so.":                 `"Nobody"`,
		"| a |\n| --- |\n| all |":           `"all"`,
		"[all of it](../other.md)":          `"all"`,
		"[it](../other.md \"all of it\")":   `"all"`,
		"![all](../reference/settings.md)":  `"all"`,
		"```\nmake docs\n```":               "this code is bound to nothing",
		"    make docs":                     "this code is bound to nothing",
		"<p>Every host</p>":                 "this HTML is not read, and so is bound to nothing: Every host",

		// A binding is that of its own sentence, and has to be one.
		"All of it. [Seen]" + receipt + ".":                                                `"All"`,
		"It is [seen]" + receipt + ". All of it.":                                          `"All"`,
		"It is [seen]" + receipt + "!\nAll of it.":                                         `"All"`,
		"All is seen by `TestNobodyCites`.":                                                "`TestNobodyCites`, \"All\"",
		"All is seen by `server/scan.TestNobodyCites`.":                                    "`server/scan.TestNobodyCites`, \"All\"",
		"[All](../../audit-packet/receipts/x.md) of it.":                                   `"All"`,
		"[All](../../audit-packet/README.md) of it.":                                       `"All"`,
		"[All](https://example.com/audit-packet/receipts/scan-sees-hosts.md) of it.":       `"All"`,
		"[All](https://example.com/../../audit-packet/receipts/scan-sees-hosts.md) of it.": `"All"`,
		"TestHostIsSeen sees all.":                                                         `"all"`,
		"Look at the claim `scan/sees-hosts`: all is seen.":                                "`scan/sees-hosts`, \"all\"",
		"All of it.\n\n[Seen]" + receipt + ".":                                             `"All"`,
		"- all of it\n- [seen]" + receipt:                                                  `"all"`,
		"It is so (all of it.) [Seen]" + receipt + ".":                                     `"all"`,
	} {
		t.Run(want+" of "+page, func(t *testing.T) {
			problems := govern(t, "# Page\n\nIt scans.\n"+"\n"+page+"\n")
			if len(problems) != 1 || !strings.HasPrefix(problems[0].What, want) || problems[0].Line < 5 || problems[0].Repair == "" {
				t.Errorf("got %v, want %s", problems, want)
			}
		})
	}
}

func TestGovernedPagesMayStateWhatIsBound(t *testing.T) {
	for _, page := range []string{
		"Replicas scan hosts.",
		"It is said what a host is, and where it was seen.",
		"Another replica takes over; that is the bone of the company, and an alloy.",
		"## What is deleted, and when",
		"Read [the other page](../other.md#again-1).",
		"<https://example.com/404>",
		"<!-- every, each, all -->",
		"<a id=\"here\"></a>",
		"[Every host]" + receipt + " is seen.",
		"Every host is [seen]" + receipt + ", by all 3 of them, as `net-scan`.",
		"Every host is seen, at\nmost [once]" + receipt + ".",
		"Every host of yours [is seen](../../audit-packet/receipts/scan-sees-hosts.md#seen).",
		"Every host is seen (`TestHostIsSeen`).",
		"Every host is seen (`server/scan.TestHostIsSeen`).",
		"Each is `net-scan`, and `TestHostIsSeen` shows it.",
		"Nobody said [so](../other.md), which [is seen]" + receipt + ".",
		"- [all of it]" + receipt + "\n- every host (`TestHostIsSeen`)",
		"> Nobody [said]" + receipt + " so.",
		"| a |\n| --- |\n| [all]" + receipt + " |",
		"**Only [so]" + receipt + "**.",
		"Version `v1.2. No. 3` [is]" + receipt + " seen.",
		"It is [seen][r], always.\n\n[r]: ../../audit-packet/receipts/scan-sees-hosts.md",
		"It scans! It looks? It sees.",
		"<!-- certctl:begin loops sha256:" + strings.Repeat("0", 64) + " -->\nThere are 20 loops, all of them `net-scan`.\n\n    make docs\n\n<b>All</b>\n<!-- certctl:end loops -->",
	} {
		t.Run(page, func(t *testing.T) {
			if problems := govern(t, "# Page\n\n"+page+"\n"); len(problems) > 0 {
				t.Errorf("got %v", problems)
			}
		})
	}
}

func TestOtherPagesAreNotGoverned(t *testing.T) {
	if got := check(t, "Every replica looks once at `net-scan`, which takes 3 seconds.\n"); len(got) > 0 {
		t.Errorf("got %q", got)
	}
}

func TestAGovernedSentenceIsShownWithItsLineAndTheWayOut(t *testing.T) {
	problems := govern(t, "# Page\n\nIt scans. It looks\nand looks. Then\nevery `net-scan` ends, and that is that.\n")
	if len(problems) != 1 {
		t.Fatalf("got %v", problems)
	}
	p := problems[0]
	if want := "`net-scan`, \"every\": no receipt and no test binds this sentence: Then every `net-scan` ends, and that is that."; p.File != governed || p.Line != 4 || p.What != want {
		t.Errorf("got %s", p)
	}
	if !strings.Contains(p.Repair, "link the receipt") || !strings.Contains(p.Repair, "test that a claim cites") {
		t.Errorf("the way out is %q", p.Repair)
	}
}

func TestACitedTestIsAName(t *testing.T) {
	for span, want := range map[string]string{
		"server/scan.TestHostIsSeen": "",
		"server/scan.TestHostIsGone": "`TestHostIsGone` is no test; the nearest is `TestHostIsSeen`",
		"server/scam.TestHostIsSeen": "`server/scam` is no file or directory",
	} {
		got := check(t, "`"+span+"`\n")
		if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.Contains(got[0], want)) {
			t.Errorf("of %s got %q, want %q", span, got, want)
		}
	}
}
