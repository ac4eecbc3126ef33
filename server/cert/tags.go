package cert

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"certctl/server/fault"
)

// The bounds of tags.
const (
	maxTags     = 50
	maxTagValue = 255 // characters
)

var tagKey = regexp.MustCompile(`^[a-z0-9][a-z0-9._/-]{0,62}$`)

// CheckTags refuses tags that cannot be kept or searched for.
func CheckTags(tags map[string]string) error {
	if len(tags) > maxTags {
		return fault.New(fault.Invalid, "body.tags has more than %d", maxTags)
	}
	for k, v := range tags {
		if !tagKey.MatchString(k) {
			return fault.New(fault.Invalid, "body.tags has a key that is not made of up to 63 lower-case letters, digits, dots, dashes, slashes and underscores, a letter or digit first")
		}
		if !utf8.ValidString(v) || utf8.RuneCountInString(v) > maxTagValue {
			return fault.New(fault.Invalid, "body.tags has a value of more than %d characters, or one that is no text", maxTagValue)
		}
	}
	return nil
}

// CheckName refuses names that people could not tell from others, or that could
// be taken for an id with the prefix: requests name things by either.
func CheckName(name, prefix string) error {
	switch {
	case strings.TrimSpace(name) != name || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fault.New(fault.Invalid, "body.name has spaces around it, or a character that cannot be seen; leave them out")
	case strings.HasPrefix(name, prefix+"_"):
		return fault.New(fault.Invalid, "body.name begins with %s_, as ids do; choose another", prefix)
	}
	return nil
}
