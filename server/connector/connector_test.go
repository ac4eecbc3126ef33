package connector_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"certctl/server/config"
	"certctl/server/connector"
	"certctl/server/fault"
)

type colour string

func (colour) Values() []string { return []string{"red", "green"} }

type settings struct {
	Name    string   `json:"name" doc:"a name" maxLength:"5"`
	Colour  colour   `json:"colour" doc:"a colour" default:"red" fixed:"true"`
	Port    int      `json:"port" doc:"a port" default:"443" minimum:"1" maximum:"65535"`
	Verify  bool     `json:"verify" doc:"whether to verify" default:"true"`
	Hosts   []string `json:"hosts" doc:"some hosts" fixed:"true"`
	Token   string   `json:"token" doc:"a token" secret:"true"`
	Made    string   `json:"made" doc:"made by prepare" secret:"true" fixed:"true"`
	Skipped int64    `json:"skipped" doc:"any number"`
}

// system is what the settings make, to look at.
type system struct {
	settings
	env connector.Env
}

func open(s settings, env connector.Env) (*system, error) {
	if s.Name == "bad" {
		return nil, errors.New("cannot open")
	}
	return &system{s, env}, nil
}

func prepare(s settings) (settings, error) {
	if s.Name == "none" {
		return s, errors.New("cannot prepare")
	}
	s.Made = "made for " + s.Name
	return s, nil
}

var kind = connector.Declare("test", "A test.", []string{"jump"}, open, prepare)

func TestSettingsAreDescribed(t *testing.T) {
	want := []connector.Field{
		{Name: "name", Type: "text", Bounds: "at most 5 characters", Does: "a name"},
		{Name: "colour", Type: "text", Default: "red", Bounds: "one of red, green", Does: "a colour", Fixed: true},
		{Name: "port", Type: "number", Default: "443", Bounds: "a whole number from 1 to 65535", Does: "a port"},
		{Name: "verify", Type: "truth value", Default: "true", Bounds: "true or false", Does: "whether to verify"},
		{Name: "hosts", Type: "list of text", Bounds: "a list of text", Does: "some hosts", Fixed: true},
		{Name: "token", Type: "text", Bounds: "any text", Does: "a token", Secret: true},
		{Name: "made", Type: "text", Bounds: "any text", Does: "made by prepare", Secret: true, Fixed: true},
		{Name: "skipped", Type: "number", Bounds: "a whole number", Does: "any number"},
	}
	if !reflect.DeepEqual(kind.Settings, want) {
		t.Errorf("got %+v", kind.Settings)
	}
	if kind.Name != "test" || kind.Does != "A test." || len(kind.Can) != 1 {
		t.Errorf("the type is %q, %q, %v", kind.Name, kind.Does, kind.Can)
	}
}

func TestDeclarationThatIsWrongDoesNotStart(t *testing.T) {
	for name, declare := range map[string]func(){
		"no documentation": declaring[struct {
			A string `json:"a"`
		}],
		"no name": declaring[struct {
			A string `doc:"a"`
		}],
		"a type that none has": declaring[struct {
			A float64 `json:"a" doc:"a"`
		}],
		"a secret number": declaring[struct {
			A int `json:"a" doc:"a" secret:"true"`
		}],
		"a default out of bounds": declaring[struct {
			A int `json:"a" doc:"a" default:"7" minimum:"1" maximum:"5"`
		}],
		"a bound that is none": declaring[struct {
			A int `json:"a" doc:"a" maximum:"many"`
		}],
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: it is declared", name)
				}
			}()
			declare()
		}()
	}
}

func declaring[C any]() {
	connector.Declare("x", "x", nil, func(C, connector.Env) (int, error) { return 0, nil }, nil)
}

func TestNew(t *testing.T) {
	env := connector.Env{ID: "x_1", PKIURL: "https://pki.example"}
	for _, none := range []string{"", "null", "{}", ` {"name":null} `} {
		got, err := kind.New(json.RawMessage(none), env)
		if err != nil {
			t.Fatalf("%q: %v", none, err)
		}
		want := &system{settings{Colour: "red", Port: 443, Verify: true}, env}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q makes %+v, want %+v", none, got, want)
		}
	}
	got, err := kind.New(json.RawMessage(`{"name":"äöüßé","colour":"green","port":1,"verify":false,"hosts":["a","b"],"token":"t","skipped":-9}`), env)
	if err != nil {
		t.Fatal(err)
	}
	want := &system{settings{Name: "äöüßé", Colour: "green", Port: 1, Hosts: []string{"a", "b"}, Token: "t", Skipped: -9}, env}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, err := kind.New(json.RawMessage(`{"name":"bad"}`), env); err == nil {
		t.Error("what cannot be opened is opened")
	}
}

// canary stands in every bad value; no refusal holds it.
const canary = "c4n4ry"

func TestRefusalsNameTheFieldAndTheWayOut(t *testing.T) {
	for given, says := range map[string][]string{
		`[]`:                           {"body.settings is not an object"},
		`"c4n4ry"`:                     {"body.settings is not an object"},
		`{"name":"c4n4ry"`:             {"body.settings is not an object"},
		`{"name":"c4n4ry"} {}`:         {"body.settings is not an object"},
		`{"name":"c4n4ry!"}`:           {"body.settings.name is out of bounds; give at most 5 characters"},
		`{"name":1}`:                   {"body.settings.name has another type; give at most 5 characters"},
		`{"name":{"c4n4ry":1}}`:        {"body.settings.name has another type"},
		`{"colour":"c4n4ry"}`:          {"body.settings.colour is out of bounds; give one of red, green"},
		`{"port":0}`:                   {"body.settings.port is out of bounds; give a whole number from 1 to 65535"},
		`{"port":65536}`:               {"body.settings.port is out of bounds"},
		`{"port":1.5}`:                 {"body.settings.port has another type"},
		`{"port":"c4n4ry"}`:            {"body.settings.port has another type"},
		`{"port":1e400}`:               {"body.settings.port has another type"},
		`{"verify":"c4n4ry"}`:          {"body.settings.verify has another type; give true or false"},
		`{"hosts":["a",1]}`:            {"body.settings.hosts has another type; give a list of text"},
		`{"hosts":"c4n4ry"}`:           {"body.settings.hosts has another type"},
		`{"names":"c4n4ry"}`:           {"body.settings has an unknown field; the nearest that the type has is body.settings.name"},
		`{"c4n4ry":1}`:                 {"body.settings has an unknown field"},
		`{"Port":1}`:                   {"the nearest that the type has is body.settings.port"},
		`{"port":1,"port":2}`:          {"body.settings.port is given twice"},
		`{"token":"withheld"}`:         {"body.settings.token is the word that stands for a secret"},
		`{"port":0,"verify":1,"x":""}`: {"body.settings.port", "body.settings.verify", "body.settings has an unknown"},
	} {
		_, errNew := kind.New(json.RawMessage(given), connector.Env{})
		_, errPrepare := kind.Prepare(json.RawMessage(given))
		_, errMerge := kind.Merge(json.RawMessage(`{}`), json.RawMessage(given))
		for what, err := range map[string]error{"New": errNew, "Prepare": errPrepare, "Merge": errMerge} {
			if fault.Of(err) != fault.Invalid || strings.Contains(err.Error(), canary) {
				t.Errorf("%s of %s: got %v, want a refusal without the value", what, given, err)
				continue
			}
			for _, part := range says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%s of %s: %q does not say %q", what, given, err, part)
				}
			}
		}
	}
}

func TestPrepareMakesSettingsOnce(t *testing.T) {
	got, err := kind.Prepare(json.RawMessage(`{"name":"a"}`))
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"name":"a","colour":"red","port":443,"verify":true,"hosts":null,"token":"","made":"made for a","skipped":0}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, err := kind.Prepare(json.RawMessage(`{"name":"none"}`)); err == nil {
		t.Error("what cannot be prepared is")
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	old := json.RawMessage(`{"name":"a","token":"` + canary + `","made":"` + canary + `"}`)
	shown := string(kind.Redact(old))
	if strings.Contains(shown, canary) || strings.Count(shown, config.Withheld) != 2 || !strings.Contains(shown, `"name":"a"`) {
		t.Errorf("shown are %s", shown)
	}
	if shown := string(kind.Redact(nil)); strings.Contains(shown, config.Withheld) {
		t.Errorf("secrets that are not set are shown as %s", shown)
	}
	for _, bad := range []string{`[`, `{"token":"` + canary + `","x":1}`} {
		if shown := string(kind.Redact(json.RawMessage(bad))); shown != "{}" {
			t.Errorf("of what cannot be read %s is shown", shown)
		}
	}
}

func TestMerge(t *testing.T) {
	old, err := kind.Prepare(json.RawMessage(`{"name":"a","port":7,"token":"t","hosts":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		patch string
		want  settings
	}{
		"nothing":                     {``, settings{Name: "a", Port: 7, Token: "t"}},
		"what is given":               {`{"name":"b","port":8}`, settings{Name: "b", Port: 8, Token: "t"}},
		"a null is the default":       {`{"port":null,"token":null,"colour":null}`, settings{Name: "a", Port: 443}},
		"what was shown":              {string(kind.Redact(old)), settings{Name: "a", Port: 7, Token: "t"}},
		"a secret":                    {`{"token":"u"}`, settings{Name: "a", Port: 7, Token: "u"}},
		"a secret that is withheld":   {`{"token":"withheld"}`, settings{Name: "a", Port: 7, Token: "t"}},
		"what is fixed, as it is":     {`{"colour":"red","hosts":null}`, settings{Name: "a", Port: 7, Token: "t"}},
		"what is fixed, and withheld": {`{"made":"withheld"}`, settings{Name: "a", Port: 7, Token: "t"}},
	} {
		merged, err := kind.Merge(old, json.RawMessage(c.patch))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := kind.New(merged, connector.Env{})
		if err != nil {
			t.Fatal(err)
		}
		c.want.Colour, c.want.Verify, c.want.Made = "red", true, "made for a"
		s := got.settings
		if len(s.Hosts) == 0 {
			s.Hosts = nil
		}
		if !reflect.DeepEqual(s, c.want) {
			t.Errorf("%s: got %+v, want %+v", name, s, c.want)
		}
	}
	_, err = kind.Merge(old, json.RawMessage(`{"colour":"green","made":"`+canary+`","hosts":["a"],"name":"b"}`))
	if fault.Of(err) != fault.Invalid || strings.Contains(err.Error(), canary) {
		t.Fatalf("a change of what is fixed: %v", err)
	}
	for _, field := range []string{"colour", "made", "hosts"} {
		if !strings.Contains(err.Error(), "body.settings."+field+" cannot be changed after creation") {
			t.Errorf("%q does not name %s", err, field)
		}
	}
	if strings.Contains(err.Error(), "body.settings.name") {
		t.Errorf("%q names what may change", err)
	}
}
