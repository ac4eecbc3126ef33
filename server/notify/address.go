package notify

import (
	"net/mail"
	"regexp"
	"strings"
	"unicode"
)

// What is not ASCII needs a server that takes it, and every other server on the
// way. What would have to stand in quotes nobody has.
var plain = regexp.MustCompile("^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+$")

// Address reads one mail address that messages can go to, perhaps behind a name.
func Address(s string) (*mail.Address, bool) {
	a, err := mail.ParseAddress(s)
	if err != nil || !plain.MatchString(a.Address) || a.Name != Line(a.Name) {
		return nil, false
	}
	return a, true
}

// Line returns s as one line, without what could end or hide it.
func Line(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, " "))
	return strings.Join(strings.Fields(s), " ")
}
