package app_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"certctl/server/config"
)

// canary stands in every bad value: an answer that refuses one must not hold
// it, for it could have been a secret.
const canary = "c4n4ryc4n4ry"

// TestEveryFieldRefusesBadInput sends bad values to every field of every
// request in the OpenAPI document, one at a time, the other fields good.
func TestEveryFieldRefusesBadInput(t *testing.T) {
	t.Parallel()
	r := run(t, config.Values{config.MaxBodyBytes.Name: 64 << 10})
	doc := r.document(t)
	sent := 0
	try := func(what, method, target, contentType, body string, header ...string) {
		sent++
		a := r.raw(t, method, target, contentType, body, header...)
		switch {
		case a.status >= 500:
			t.Errorf("%s: %s %.200s: status %d: %s", what, method, target, a.status, a.body)
		case a.status == http.StatusBadRequest && a.body == "400 Bad Request":
			// Go's server refuses a request line that is none before it has a handler.
		case a.status >= 400 && a.header.Get("Content-Type") != "application/problem+json":
			t.Errorf("%s: %s %.200s: refused as %s", what, method, target, a.header.Get("Content-Type"))
		case a.status >= 400 && strings.Contains(a.body, canary):
			t.Errorf("%s: %s %.200s: the refusal repeats the value: %s", what, method, target, a.body)
		case a.status >= 400 && !json.Valid([]byte(a.body)):
			t.Errorf("%s: %s %.200s: the refusal is no JSON: %s", what, method, target, a.body)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			op := doc.Paths[path][method]
			verb := strings.ToUpper(method)
			g := generator{doc}
			// good builds the request with one parameter replaced by raw text.
			good := func(bad, with string) string {
				target, query := path, []string{}
				for _, p := range op.Parameters {
					v := g.goodText(p.Schema)
					if p.Name == bad {
						v = with
					}
					switch {
					case p.In == "path":
						target = strings.ReplaceAll(target, "{"+p.Name+"}", v)
					case p.In == "query" && (p.Required || p.Name == bad):
						query = append(query, p.Name+"="+v)
					}
				}
				if len(query) > 0 {
					target += "?" + strings.Join(query, "&")
				}
				return target
			}
			for _, p := range op.Parameters {
				for _, bad := range badTexts() {
					if p.In == "path" && bad == "" {
						continue // another path
					}
					if p.In == "header" {
						try(op.OperationID+" header."+p.Name, verb, good("", ""), "application/json", g.body(op), p.Name, strings.ReplaceAll(bad, "\x00", ""))
						continue
					}
					try(op.OperationID+" "+p.In+"."+p.Name, verb, good(p.Name, bad), "application/json", g.body(op))
				}
			}
			target := good("", "")
			sep := "?"
			if strings.Contains(target, "?") {
				sep = "&"
			}
			for _, q := range []string{"unknown=" + canary, "%zz", "a=%00" + canary, "a=%ff" + canary, ";" + canary, strings.Repeat("&a=1", 2000)} {
				try(op.OperationID+" query", verb, target+sep+q, "application/json", g.body(op))
			}
			if op.RequestBody == nil {
				continue
			}
			s := g.resolve(op.RequestBody.Content["application/json"].Schema)
			for _, body := range g.bad(s, g.good(s)) {
				raw, err := json.Marshal(body)
				if err != nil {
					t.Fatal(err)
				}
				try(op.OperationID+" body", verb, target, "application/json", string(raw))
			}
			for _, raw := range rawBodies() {
				try(op.OperationID+" raw body", verb, target, "application/json", raw)
			}
			for _, ct := range []string{"", "text/plain", "application/xml", "multipart/form-data", canary, "application/json; charset=" + canary} {
				try(op.OperationID+" content type", verb, target, ct, g.body(op))
			}
		}
	}
	for _, e := range r.logs.All() {
		if strings.Contains(e.Message, "panick") {
			t.Errorf("the log says %q: %v", e.Message, e.ContextMap())
		}
	}
	if sent < 1000 {
		t.Errorf("only %d requests were sent: is the document empty?", sent)
	}
	t.Logf("%d requests", sent)
}

// badTexts are values for a parameter, as they stand in a URL.
func badTexts() []string {
	return []string{
		"", canary, "-1", "0", "1e309", "99999999999999999999999999", "-9223372036854775809", "0x10", "1.5", "NaN", "null", "true",
		"%00" + canary, "%ff%fe" + canary, "%0a%0d" + canary, "%E2%80%AE" + canary, "..%2f..%2f" + canary, "%zz" + canary,
		url.QueryEscape("'; drop table api_keys; --" + canary), url.QueryEscape("💥" + canary), url.QueryEscape(`"\` + canary),
		"0000-00-00T00:00:00Z", "9999-12-31T23:59:60Z", "292277026597-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "-4713-01-01T00:00:00Z",
		strings.Repeat("a", 5000) + canary, "a&x=" + canary, "%25" + canary,
	}
}

// rawBodies are bodies that are no JSON of any form.
func rawBodies() []string {
	return []string{
		"", canary, `{`, `{"` + canary, `[]`, `null`, `"` + canary + `"`, `{"a":}`, "\x00" + canary, "\xff\xfe" + canary,
		strings.Repeat("[", 100000), strings.Repeat(`{"a":`, 20000), `{"name":"` + strings.Repeat(canary, 20000) + `"}`,
		`{"name":"a"} {"name":"` + canary + `"}`, `{"name":1e400}`, `{"name":"\ud800` + canary + `"}`,
	}
}

// generator makes values for the schemas of a document.
type generator struct{ doc document }

func (g generator) resolve(s *schema) *schema {
	for s.Ref != "" {
		s = g.doc.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
	}
	return s
}

// body is a good body of op, empty if it takes none.
func (g generator) body(op operation) string {
	if op.RequestBody == nil {
		return ""
	}
	raw, err := json.Marshal(g.good(op.RequestBody.Content["application/json"].Schema))
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// good returns a value that the schema takes.
func (g generator) good(s *schema) any {
	s = g.resolve(s)
	switch s.Type {
	case "object":
		o := map[string]any{}
		for _, name := range s.Required {
			o[name] = g.good(s.Properties[name])
		}
		return o
	case "array":
		return []any{g.good(s.Items)}
	case "integer", "number":
		if s.Minimum != nil {
			return *s.Minimum
		}
		return 1
	case "boolean":
		return false
	}
	if s.Format == "date-time" {
		return "2030-01-02T03:04:05Z"
	}
	return "viewer"
}

func (g generator) goodText(s *schema) string {
	switch v := g.good(s).(type) {
	case string:
		return v
	case bool:
		return "false"
	default:
		return "1"
	}
}

// bad returns bodies in which one field is bad, at whatever depth.
func (g generator) bad(s *schema, good any) []any {
	s = g.resolve(s)
	values := []any{
		nil, true, 1, -1, 1.5, 1e18, -1e18, 1e30, "", canary, "\x00" + canary, "\u202e" + canary, "💥" + canary,
		"'; drop table api_keys; --" + canary, strings.Repeat(canary, 1000), "9999-12-31T23:59:60Z", "0000-01-01T00:00:00Z",
		[]any{},
		[]any{nil},
		[]any{canary, canary},
		[]any{[]any{canary}},
		slices.Repeat([]any{canary}, 1000),
		map[string]any{},
		map[string]any{"a": canary},
		map[string]any{"a": map[string]any{"b": canary}},
	}
	var bodies []any
	bodies = append(bodies, values...)
	o, ok := good.(map[string]any)
	if !ok {
		return bodies
	}
	for name, p := range s.Properties {
		inner := values
		if g.resolve(p).Type == "array" {
			for _, v := range values {
				inner = append(inner, []any{v})
			}
		}
		for _, v := range inner {
			changed := maps.Clone(o)
			changed[name] = v
			bodies = append(bodies, changed)
		}
		without := maps.Clone(o)
		delete(without, name)
		bodies = append(bodies, without)
	}
	extra := maps.Clone(o)
	extra["unknown"] = canary
	return append(bodies, extra)
}

func TestBodyLimit(t *testing.T) {
	t.Parallel()
	r := run(t, config.Values{config.MaxBodyBytes.Name: 2000})
	body := `{"name":"` + strings.Repeat("a", 3000) + `","token":"x"}`
	if a := r.raw(t, http.MethodPost, "/api/v1/bootstrap", "application/json", body); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a body over the limit got %d %s", a.status, a.body)
	}
}
