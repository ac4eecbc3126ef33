// Package config declares every setting of the server and reads them from the
// environment.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"certctl/server/table"
)

// A Key is one setting. Other declarations point at keys, so a page about
// loops can say which setting changes a number.
type Key[T any] struct {
	Spec
	def   T
	parse func(string) (T, error) // the error names the way out, never the value of a secret
}

// A Spec describes a key without its type.
type Spec struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	Default string `json:"default"`          // empty if there is none
	Bounds  string `json:"bounds"`           // what values are taken, in words
	Does    string `json:"does"`             // what it changes
	Effect  string `json:"effect"`           // where a change of it would be seen, outside of introspection
	Secret  bool   `json:"secret,omitempty"` // never printed, logged or rendered
}

// FileSuffix after the name of a secret setting names a file that holds it.
const FileSuffix = "_FILE"

// Default is the key's value where nothing is set.
func (k *Key[T]) Default() T { return k.def }

// In returns the key's value in v, or its default.
func (k *Key[T]) In(v Values) T {
	if x, ok := v[k.Name]; ok {
		return x.(T)
	}
	return k.def
}

func (k *Key[T]) spec() Spec { return k.Spec }

func (k *Key[T]) in(v Values) string { return fmt.Sprint(k.In(v)) }

func (k *Key[T]) read(s string, v Values) error {
	x, err := k.parse(s)
	if err != nil {
		return err
	}
	v[k.Name] = x
	return nil
}

// Values holds the settings that were given; the zero value is all defaults.
type Values map[string]any

type anyKey interface {
	spec() Spec
	in(Values) string
	read(string, Values) error
}

var keys = table.By(func(k anyKey) string { return k.spec().Name })

// Keys describes every key, in declaration order.
func Keys() []Spec {
	var specs []Spec
	for _, k := range keys.Rows() {
		specs = append(specs, k.spec())
	}
	return specs
}

// Load reads every key and reports every bad value, not just the first.
func Load(lookup func(string) (string, bool)) (Values, error) {
	v := Values{}
	var errs []error
	for _, k := range keys.Rows() {
		spec := k.spec()
		s, ok, err := find(spec, lookup)
		if err == nil && ok {
			err = k.read(s, v)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", spec.Name, err))
		}
	}
	return v, errors.Join(errs...)
}

// find looks a setting up, a secret one also in the file that NAME_FILE names.
func find(spec Spec, lookup func(string) (string, bool)) (string, bool, error) {
	s, ok := lookup(spec.Name)
	if !spec.Secret {
		return s, ok, nil
	}
	path, inFile := lookup(spec.Name + FileSuffix)
	switch {
	case !inFile:
		return s, ok, nil
	case ok:
		return "", false, fmt.Errorf("is set, and so is %s%s; unset one of them", spec.Name, FileSuffix)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", false, err
	}
	return strings.TrimRight(string(text), "\r\n"), true, nil
}

// Unknown returns the variables in environ (as os.Environ gives them) that
// begin like a setting and are none, each with the setting it may have meant.
func Unknown(environ []string) []string {
	var unknown []string
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, Prefix) || strings.HasPrefix(name, Prefix+"TEST_") {
			continue
		}
		if _, ok := keys.Row(name); ok {
			continue
		}
		if k, ok := keys.Row(strings.TrimSuffix(name, FileSuffix)); ok && k.spec().Secret {
			continue
		}
		near := slices.MinFunc(keys.Rows(), func(a, b anyKey) int {
			return cmp.Compare(table.Edits(name, a.spec().Name), table.Edits(name, b.spec().Name))
		})
		unknown = append(unknown, fmt.Sprintf("%s is no setting; the nearest is %s", name, near.spec().Name))
	}
	slices.Sort(unknown)
	return unknown
}

// Prefix begins the name of every setting.
const Prefix = "CERTCTL_"

// A Shown setting is one that is in force, fit to be read by anybody who may
// read the others.
type Shown struct {
	Name  string `json:"name"`
	Value string `json:"value"` // "withheld" for a secret that is set
	Set   bool   `json:"set"`   // given, and not the default
}

// Withheld stands for the value of a secret.
const Withheld = "withheld"

// Show returns every setting in force, secrets withheld.
func Show(v Values) []Shown {
	var shown []Shown
	for _, k := range keys.Rows() {
		spec := k.spec()
		_, set := v[spec.Name]
		value := k.in(v)
		if spec.Secret && value != "" {
			value = Withheld
		}
		shown = append(shown, Shown{spec.Name, value, set})
	}
	return shown
}

func declare[T any](spec Spec, def T, parse func(string) (T, error)) *Key[T] {
	spec.Default = fmt.Sprint(def)
	k := &Key[T]{spec, def, parse}
	keys.Add(k)
	return k
}

func duration(name string, def, low, high time.Duration, does, effect string) *Key[time.Duration] {
	return declare(Spec{
		Name: name, Type: "duration", Does: does, Effect: effect,
		Bounds: fmt.Sprintf("%s to %s", low, high),
	}, def, func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil || d < low || d > high {
			return 0, fmt.Errorf("%q is not a duration from %s to %s, such as %s", s, low, high, def)
		}
		return d, nil
	})
}

func integer(name string, def, low, high int, does, effect string) *Key[int] {
	return declare(Spec{
		Name: name, Type: "integer", Does: does, Effect: effect,
		Bounds: fmt.Sprintf("%d to %d", low, high),
	}, def, func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < low || n > high {
			return 0, fmt.Errorf("%q is not a whole number from %d to %d", s, low, high)
		}
		return n, nil
	})
}

// text declares a string that check takes; its error says what is wanted.
func text(name, def, bounds, does, effect string, check func(string) error) *Key[string] {
	return declare(Spec{Name: name, Type: "text", Bounds: bounds, Does: does, Effect: effect}, def,
		func(s string) (string, error) {
			if err := check(s); err != nil {
				return "", fmt.Errorf("%q is not %s: %w", s, bounds, err)
			}
			return s, nil
		})
}

// secret declares a string that no error, log or page may hold. check gets the
// value and its error must not repeat it.
func secret(name, bounds, does, effect string, check func(string) error) *Key[string] {
	return declare(Spec{Name: name, Type: "secret", Bounds: bounds, Does: does, Effect: effect, Secret: true}, "",
		func(s string) (string, error) { return s, check(s) })
}

// CIDRs are ranges of addresses. Those of IPv4 are never written as IPv6, and no
// address has bits behind the length of its range.
type CIDRs []netip.Prefix

// String is the list as a setting holds it.
func (c CIDRs) String() string {
	var texts []string
	for _, p := range c {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ",")
}

// cidrs declares a list of ranges, empty by default.
func cidrs(name, does, effect string) *Key[CIDRs] {
	return declare(Spec{
		Name: name, Type: "ranges of addresses", Does: does, Effect: effect,
		Bounds: "CIDRs with commas between them",
	}, nil, func(s string) (CIDRs, error) {
		if strings.TrimSpace(s) == "" {
			return nil, nil
		}
		var all CIDRs
		var problems []string
		for text := range strings.SplitSeq(s, ",") {
			text = strings.TrimSpace(text)
			p, err := netip.ParsePrefix(text)
			a, errAddr := netip.ParseAddr(text)
			switch {
			case errAddr == nil && a.Zone() == "":
				problems = append(problems, fmt.Sprintf("%q is one address; write %s for it alone", text, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())))
			case err != nil:
				problems = append(problems, fmt.Sprintf("%q is no CIDR, such as 10.0.0.0/8 or fd00::/8", text))
			case p.Addr().Is4In6():
				problems = append(problems, fmt.Sprintf("%q is of IPv4; write it as such", text))
			case p != p.Masked():
				problems = append(problems, fmt.Sprintf("%q has bits behind its length; write %s if that is meant", text, p.Masked()))
			default:
				all = append(all, p)
			}
		}
		if len(problems) > 0 {
			return nil, errors.New(strings.Join(problems, "; "))
		}
		return all, nil
	})
}

func oneOf(name, def, does, effect string, values ...string) *Key[string] {
	return text(name, def, "one of "+strings.Join(values, ", "), does, effect, func(s string) error {
		if !slices.Contains(values, s) {
			return errors.New("choose one of them")
		}
		return nil
	})
}
