package cert_test

import (
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"certctl/server/cert"
)

func TestNamesHaveOneForm(t *testing.T) {
	long := strings.Repeat("a", 63)
	for text, want := range map[string]string{
		"a.example":             "dns:a.example",
		"dns:a.example":         "dns:a.example",
		"DNS:A.Example":         "dns:a.example",
		"*.a.example":           "dns:*.a.example",
		"localhost":             "dns:localhost",
		"*.internal":            "dns:*.internal", // no public suffix
		"*.github.io":           "dns:*.github.io",
		"bücher.example":        "dns:xn--bcher-kva.example",
		"bu\u0308cher.example":  "dns:xn--bcher-kva.example", // decomposed
		"XN--BCHER-KVA.example": "dns:xn--bcher-kva.example",
		"straße.example":        "dns:xn--strae-oqa.example",
		"пример.рф":             "dns:xn--e1afmkfd.xn--p1ai",
		"日本語ひらがなカタカナabc.example": "dns:xn--abc-o73b4fvb9jyka3rsey825eqqdvv8n.example",
		"한국abc.example":          "dns:xn--abc-lt8lk11n.example",
		"二〇.example":             "dns:xn--w6jt23g.example",
		"مثال.example":           "dns:xn--mgbh0fb.example",
		"ελλάδα.example":         "dns:xn--hxakic4aa.example",
		"\u1112\u1161.example":   "dns:xn--2q8b.example", // composes to a syllable
		strings.Repeat("a", 60) + "@" + strings.Repeat("b.", 94) + "examp": "email:" + strings.Repeat("a", 60) + "@" + strings.Repeat("b.", 94) + "examp",
		strings.Repeat("a.", 123) + "abcdefg":                              "dns:" + strings.Repeat("a.", 123) + "abcdefg",
		"1.a.example":                                                      "dns:1.a.example",
		long + ".example":                                                  "dns:" + long + ".example",
		"192.0.2.1":                                                        "ip:192.0.2.1",
		"ip:192.0.2.1":                                                     "ip:192.0.2.1",
		"::ffff:192.0.2.1":                                                 "ip:192.0.2.1",
		"2001:DB8:0::1":                                                    "ip:2001:db8::1",
		"127.0.0.1":                                                        "ip:127.0.0.1",
		"A.b+c@B.example":                                                  "email:A.b+c@b.example",
		"email:a@bücher.example":                                           "email:a@xn--bcher-kva.example",
		"spiffe://A.example/B":                                             "uri:spiffe://a.example/B",
		"uri:HTTPS://a.example":                                            "uri:https://a.example",
		"https://a.example:8443/b?c=d":                                     "uri:https://a.example:8443/b?c=d",
		"https://[2001:DB8::1]:1/":                                         "uri:https://[2001:db8::1]:1/",
		"https://192.0.2.1/":                                               "uri:https://192.0.2.1/",
		"https://[::ffff:192.0.2.1]/":                                      "uri:https://192.0.2.1/",
		`https://a.example/"b`:                                             "uri:https://a.example/%22b",
		"https://a.example/%2fb/%41...":                                    "uri:https://a.example/%2fb/%41...",
		"uri:https://a.example:/b":                                         "uri:https://a.example/b",
		"https://xn--bcher-kva.example/b":                                  "uri:https://xn--bcher-kva.example/b",
	} {
		names, violations := cert.ParseNames([]string{text})
		if violations != nil || names.Len() != 1 {
			t.Errorf("%s: %v", text, violations)
			continue
		}
		if got := names.Text(); got[0] != want {
			t.Errorf("%s is %s, not %s", text, got[0], want)
		}
		if uri, ok := strings.CutPrefix(want, "uri:"); ok {
			if u, err := url.Parse(uri); err != nil || !reflect.DeepEqual(names.URI[0], u) {
				t.Errorf("%s is %#v, not %#v", text, names.URI[0], u)
			}
		}
	}
}

func TestNamesAreSortedAndDistinct(t *testing.T) {
	names, violations := cert.ParseNames([]string{
		"b.example", "uri:https://b.example", "a.example", "::1", "192.0.2.2", "A.example", "uri:https://a.example", "b@a.example",
		"a@a.example", "192.0.2.1", "192.0.2.1", "https://a.example", "a@A.example",
	})
	if violations != nil {
		t.Fatal(violations)
	}
	want := []string{
		"dns:a.example", "dns:b.example", "email:a@a.example", "email:b@a.example", "ip:192.0.2.1", "ip:192.0.2.2", "ip:::1",
		"uri:https://a.example", "uri:https://b.example",
	}
	if got := names.Text(); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if names.Len() != len(want) || !slices.IsSorted(names.DNS) || !slices.IsSorted(names.Email) ||
		!slices.Equal([]string{names.IP[0].String(), names.IP[2].String()}, []string{"192.0.2.1", "::1"}) || names.URI[0].Host != "a.example" {
		t.Errorf("%+v", names)
	}
}

func TestNamesThatAreNoneAreRefused(t *testing.T) {
	long := strings.Repeat("a", 63)
	form, confusable, wildcard := cert.RuleNameForm, cert.RuleNameConfusable, cert.RuleWildcard
	for text, rule := range map[string]*cert.Rule{
		"":                                     form,
		"dns:":                                 form,
		".":                                    form,
		"a.example.":                           form,
		".a.example":                           form,
		"a..example":                           form,
		"a_b.example":                          form,
		"-a.example":                           form,
		"a-.example":                           form,
		"ab--cd.example":                       form,
		"a b.example":                          form,
		"a\x00.example":                        form,
		"\xff.example":                         form,
		"a.1":                                  form,
		"a.0x1f":                               form,
		"a.0x":                                 form,
		"dns:192.0.2.1":                        form,
		"dns:2001:db8::1":                      form,
		"192.0.2.256":                          form,
		long + "a.example":                     form,
		strings.Repeat("a.", 123) + "abcdefgh": form, // 254
		"*." + strings.Repeat("a.", 123) + "abcdef": form, // 254 with the wildcard
		strings.Repeat("a", 100000):                 form,
		"Bücher.bÜcher.example":                     form,       // capital letters beyond ASCII
		"xn--a.example":                             confusable, // U+0080
		"uri://a.example/b":                         form,
		"xn--99999999.example":                      form,
		"xn--abc-.example":                          form,
		"xn--n3h.example":                           form, // a snowman
		"💥.example":                                 form,
		"a℡.example":                                form, // another letter under the mappings of UTS #46
		"ａ.example":                                 form,
		"а·б.example":                               form,
		"ـب.example":                                form,
		"\u1113.example":                            form,
		"\u0300a.example":                           form, // begins with a mark
		"אa.example":                                confusable,
		"א1ب.example":                               confusable,
		"1א.example":                                form, // direction (RFC 5893)
		"a\u200bb.example":                          confusable,
		"a\u00adb.example":                          confusable,
		"a\u202eb.example":                          confusable,
		"a\ufe0fb.example":                          confusable,
		"a\u034fb.example":                          confusable,
		"\u3164.example":                            confusable,
		"a\u00a0b.example":                          confusable,
		"a@b\u200b.example":                         confusable,
		"xn--ab-m1t.example":                        confusable, // a, zero width joiner, b
		"pаypal.example":                            confusable, // Cyrillic а
		"xn--pypal-4ve.example":                     confusable,
		"раураӏ.example":                            confusable,
		"xn--80aa0cbo65f.example":                   confusable,
		"а1-с.example":                              confusable,
		"ορα.example":                               confusable,
		"ɡoogle.example":                            confusable,
		"mi\u0307x.example":                         confusable,
		"日本языка.example":                           confusable,
		"ひ한.example":                                confusable,
		"०1.example":                                confusable, // zero of Devanagari
		"१৪.example":                                confusable,
		"https://xn--pypal-4ve.example/":            confusable,
		"*":                                         wildcard,
		"a.*.example":                               wildcard,
		"*.*.example":                               wildcard,
		"a*.example":                                wildcard,
		"*.":                                        form,
		"*.com":                                     wildcard,
		"*.co.uk":                                   wildcard,
		"*.xn--p1ai":                                wildcard,
		"*.рф":                                      wildcard,
		"a@*.example":                               form,
		"ip:192.0.2.0/24":                           form,
		"ip:a.example":                              form,
		"ip:192.0.2.01":                             form,
		"0.0.0.0":                                   form,
		"::":                                        form,
		"224.0.0.1":                                 form,
		"ff02::1":                                   form,
		"fe80::1%eth0":                              form,
		"::ffff:0.0.0.0":                            form,
		"@a.example":                                form,
		"a@":                                        form,
		"a@@a.example":                              form,
		".a@a.example":                              form,
		"a..b@a.example":                            form,
		`"a"@a.example`:                             form,
		"ä@a.example":                               form,
		"a@a.example.":                              form,
		"a@[192.0.2.1]":                             form,
		"a\n@a.example":                             form,
		strings.Repeat("a", 65) + "@a.example":      form,
		strings.Repeat("a", 60) + "@" + strings.Repeat("b.", 94) + "exampl": form, // 255
		"uri:a":                      form,
		"uri:urn:a:b":                form,
		"uri:/a":                     form,
		"https://":                   form,
		"https:///a":                 form,
		"https://u@a.example/":       form,
		"https://a.example/#":        form,
		"https://a.example/#b":       form,
		"https://a.example/ä":        form,
		"https://a.example/a b":      form,
		"https://a_b.example/":       form,
		"https://a.example./":        form,
		"https://*.example/":         form,
		"https://a.example:65536/":   form,
		"https://a.example:x/":       form,
		"https://[fe80::1%25eth0]/":  form,
		"https://[::]/":              form,
		"https://224.0.0.1/":         form,
		"https://a.example/../b":     form,
		"https://a.example/%2e%2E/b": form,
		"https://a.example/b%2f..":   form,
		"https://a.example/.":        form,
		"https://a.example/%":        form,
		"https://a.example/" + strings.Repeat("a", 2048): form,
		"https://a.example/" + strings.Repeat(`"`, 1000): form, // longer when escaped
		"javascript://%0a": form,
	} {
		names, violations := cert.ParseNames([]string{"first.example", text})
		if len(violations) != 1 || violations[0].Rule != rule || violations[0].Field != "body.sans" || !strings.Contains(violations[0].Says, "(2nd)") {
			t.Errorf("%.80q is refused by %+v, not %s", text, violations, rule.Name)
		}
		if names.Len() != 1 {
			t.Errorf("%.80q is kept as %q", text, names.Text())
		}
	}
}

func TestMessagesNameFewPlaces(t *testing.T) {
	texts := slices.Repeat([]string{"a_b"}, 113)
	texts[0] = "a.example"
	_, violations := cert.ParseNames(texts)
	if len(violations) != 1 || !strings.HasPrefix(violations[0].Says, "has a name (2nd, 3rd, 4th, 5th, 6th, 7th, 8th, 9th and 104 more) that is no DNS name; ") {
		t.Error(violations)
	}
	for i, want := range map[int]string{0: "1st", 10: "11th", 11: "12th", 12: "13th", 20: "21st", 110: "111th", 111: "112th", 100: "101st"} {
		texts := slices.Repeat([]string{"a.example"}, 113)
		texts[i] = "a_b"
		if _, violations := cert.ParseNames(texts); len(violations) != 1 || !strings.Contains(violations[0].Says, "("+want+")") {
			t.Errorf("%d: %v", i, violations)
		}
	}
}

// What is read once is read again as the same, and is nothing but ASCII that can
// be seen.
func FuzzParseNames(f *testing.F) {
	for _, s := range []string{
		"a.example", "*.bücher.example", "192.0.2.1", "2001:db8::1", "a@b.example", "spiffe://a/b", "https://[::1]:80/%2f?a=b", "xn--bcher-kva", "uri:a://1\\2",
		"пример.рф", "日本語.example", "HTTP://A%2Fb", "://", "@", "ip:", "https://a.example?",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		names, violations := cert.ParseNames([]string{s})
		if names.Len()+len(violations) != 1 {
			t.Fatalf("%q is %q and %v", s, names.Text(), violations)
		}
		if names.Len() == 0 {
			if v := violations[0]; len(s) > 8 && strings.Contains(v.Says, s) || !utf8.ValidString(v.Says) || v.Rule == nil {
				t.Errorf("%q is refused with %+v", s, v)
			}
			return
		}
		text := names.Text()[0]
		if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) || len(text) > 2100 {
			t.Errorf("%q is %q", s, text)
		}
		again, violations := cert.ParseNames([]string{text})
		if violations != nil || again.Len() != 1 || again.Text()[0] != text {
			t.Errorf("%q is %q, and that is %q and %v", s, text, again.Text(), violations)
		}
	})
}
