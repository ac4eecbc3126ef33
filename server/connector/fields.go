package connector

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"certctl/server/config"
	"certctl/server/fault"
	"certctl/server/table"
)

// A Field is one setting of a type.
type Field struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	Default string `json:"default"`          // empty if there is none
	Bounds  string `json:"bounds"`           // what values are taken, in words
	Does    string `json:"does"`             // what it changes
	Secret  bool   `json:"secret,omitempty"` // sealed, and never shown
	Fixed   bool   `json:"fixed,omitempty"`  // cannot change after creation
}

type field struct {
	Field
	index    int
	def      reflect.Value
	values   []string // all of them; any if empty
	min, max int64    // of a number, or of the length of a text; max 0 is no bound
}

type fields []field

// fieldsOf reads the tags of C. It panics on one that is wrong, which is a
// mistake in the source.
func fieldsOf[C any](name string) fields {
	named := table.By(func(f field) string { return f.Name })
	t := reflect.TypeFor[C]()
	for i := range t.NumField() {
		f, err := fieldOf(t.Field(i), i)
		if err != nil {
			panic(fmt.Sprintf("connector: setting %s of %s: %v", t.Field(i).Name, name, err))
		}
		named.Add(f)
	}
	return named.Rows()
}

func fieldOf(sf reflect.StructField, index int) (field, error) {
	f := field{index: index, def: reflect.Zero(sf.Type)}
	f.Name, f.Does, f.Default = sf.Tag.Get("json"), sf.Tag.Get("doc"), sf.Tag.Get("default")
	f.Secret, f.Fixed = sf.Tag.Get("secret") == "true", sf.Tag.Get("fixed") == "true"
	if f.Name == "" || f.Does == "" || !sf.IsExported() {
		return f, errors.New("it is unnamed, undocumented or unexported")
	}
	for tag, bound := range map[string]*int64{"minimum": &f.min, "maximum": &f.max, "maxLength": &f.max} {
		s, ok := sf.Tag.Lookup(tag)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return f, err
		}
		*bound = n
	}
	if v, ok := reflect.Zero(sf.Type).Interface().(interface{ Values() []string }); ok {
		f.values = v.Values()
	}
	switch k := sf.Type.Kind(); {
	case k == reflect.String:
		f.Type, f.Bounds = "text", "any text"
		if f.max > 0 {
			f.Bounds = fmt.Sprintf("at most %d characters", f.max)
		}
		if f.values != nil {
			f.Bounds = "one of " + strings.Join(f.values, ", ")
		}
	case f.Secret:
		return f, errors.New("a secret is text")
	case k == reflect.Int, k == reflect.Int64:
		f.Type, f.Bounds = "number", "a whole number"
		if f.max > 0 {
			f.Bounds = fmt.Sprintf("a whole number from %d to %d", f.min, f.max)
		}
	case k == reflect.Bool:
		f.Type, f.Bounds = "truth value", "true or false"
	case k == reflect.Slice && sf.Type.Elem().Kind() == reflect.String:
		f.Type, f.Bounds = "list of text", "a list of text"
	default:
		return f, errors.New("it has a type that no setting has")
	}
	if f.Default == "" {
		return f, nil
	}
	raw := []byte(f.Default)
	if f.Type == "text" {
		raw = strconv.AppendQuote(nil, f.Default)
	}
	var problem string
	if f.def, problem = f.parse(sf.Type, raw); problem != "" {
		return f, fmt.Errorf("the default %s", problem)
	}
	return f, nil
}

// parse returns the value, or what is wrong with it and the way out.
func (f *field) parse(t reflect.Type, raw json.RawMessage) (reflect.Value, string) {
	v := reflect.New(t)
	if err := json.Unmarshal(raw, v.Interface()); err != nil {
		return v.Elem(), "has another type; give " + f.Bounds
	}
	ok := true
	switch v := v.Elem(); f.Type {
	case "text":
		ok = (f.max == 0 || int64(utf8.RuneCountInString(v.String())) <= f.max) &&
			(f.values == nil || slices.Contains(f.values, v.String()))
	case "number":
		ok = f.max == 0 || f.min <= v.Int() && v.Int() <= f.max
	}
	if !ok {
		return v.Elem(), "is out of bounds; give " + f.Bounds
	}
	return v.Elem(), ""
}

// of is the setting in c, which points to a struct of settings.
func (f *field) of(c any) reflect.Value { return reflect.ValueOf(c).Elem().Field(f.index) }

func (fs fields) reset(c any) {
	for _, f := range fs {
		f.of(c).Set(f.def)
	}
}

// read sets what an object names in c. In a patch a secret that is withheld
// stays as it is.
func (fs fields) read(c any, settings json.RawMessage, patch bool) error {
	names, values, err := object(settings)
	if err != nil {
		return fault.New(fault.Invalid, "body.settings is not an object; give settings by their names")
	}
	var problems []string
	seen := map[string]bool{}
	for i, name := range names {
		at := slices.IndexFunc(fs, func(f field) bool { return f.Name == name })
		if at < 0 {
			problems = append(problems, fs.unknown(name))
			continue
		}
		f := fs[at]
		if problem := f.set(c, values[i], patch); problem != "" {
			problems = append(problems, "body.settings."+f.Name+" "+problem)
		}
		if seen[name] {
			problems = append(problems, "body.settings."+f.Name+" is given twice; give it once")
		}
		seen[name] = true
	}
	return invalid(problems)
}

func (f *field) set(c any, raw json.RawMessage, patch bool) (problem string) {
	into := f.of(c)
	if string(raw) == "null" {
		into.Set(f.def)
		return ""
	}
	v, problem := f.parse(into.Type(), raw)
	switch withheld := f.Secret && problem == "" && v.String() == config.Withheld; {
	case problem != "":
		return problem
	case !withheld:
		into.Set(v)
	case !patch || into.String() == "":
		return "is the word that stands for a secret, and none is set; give the secret itself, or leave it out"
	}
	return ""
}

// unknown names the setting that was most likely meant. It does not repeat the
// name that was given, which may be a secret in the wrong place.
func (fs fields) unknown(name string) string {
	if len(fs) == 0 {
		return "body.settings is not empty; this type has no settings"
	}
	name = name[:min(len(name), 64)]
	near := slices.MinFunc(fs, func(a, b field) int {
		return cmp.Compare(table.Edits(name, a.Name), table.Edits(name, b.Name))
	})
	return "body.settings has an unknown field; the nearest that the type has is body.settings." + near.Name
}

// unchanged refuses changes of what is fixed.
func (fs fields) unchanged(was, is any) error {
	var problems []string
	for _, f := range fs {
		// A list that is null and an empty one are the same.
		same := f.of(was).Kind() == reflect.Slice && f.of(was).Len() == 0 && f.of(is).Len() == 0 ||
			reflect.DeepEqual(f.of(was).Interface(), f.of(is).Interface())
		if f.Fixed && !same {
			problems = append(problems, "body.settings."+f.Name+" cannot be changed after creation; leave it out, or create another one with it")
		}
	}
	return invalid(problems)
}

func (fs fields) withhold(c any) {
	for _, f := range fs {
		if v := f.of(c); f.Secret && v.String() != "" {
			v.SetString(config.Withheld)
		}
	}
}

func invalid(problems []string) error {
	if len(problems) == 0 {
		return nil
	}
	return fault.New(fault.Invalid, "%s", strings.Join(slices.Compact(problems), "; "))
}

// object reads the names and values of an object as they were given. Nothing at
// all is an empty object.
func object(raw json.RawMessage) (names []string, values []json.RawMessage, err error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil, nil
	}
	if raw[0] != '{' || !json.Valid(raw) {
		return nil, nil, errors.New("not an object")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if _, err := d.Token(); err != nil {
		return nil, nil, err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, nil, err
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, nil, err
		}
		names, values = append(names, name.(string)), append(values, v)
	}
	return names, values, nil
}
