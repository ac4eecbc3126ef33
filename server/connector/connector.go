// Package connector describes types of outside systems that can be configured:
// their settings, as the tags of a struct declare them, and what they can do.
package connector

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
)

// Env is what the server tells a connector about itself.
type Env struct {
	ID     string // of the row that has the settings
	PKIURL string // where relying parties reach the server's public routes; empty if nowhere

	// Dial connects to the outside, to where that is allowed. Every connection
	// that settings name goes through it.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// A Type is a kind of outside system that T is the contract of. Settings are
// JSON objects; what is wrong with them is a fault of kind Invalid, which names
// every field at once and never repeats a value.
type Type[T any] struct {
	Name     string
	Does     string
	Can      []string // names of the abilities beside those that every T has
	Settings []Field

	open    func(json.RawMessage, Env) (T, error)
	prepare func(json.RawMessage) (json.RawMessage, error)
	merge   func(old, patch json.RawMessage) (json.RawMessage, error)
	redact  func(json.RawMessage) (json.RawMessage, error)
}

// Declare returns the type whose settings are C. prepare completes the settings
// of a new system, once; it may be nil. open does no I/O.
//
// The fields of C are strings, whole numbers, truth values or lists of strings.
// Their tags are json, doc, default, minimum, maximum, maxLength, secret and
// fixed. A type of string with a method Values() []string takes only these.
func Declare[T, C any](name, does string, can []string, open func(C, Env) (T, error), prepare func(C) (C, error)) Type[T] {
	fields := fieldsOf[C](name)
	read := func(settings json.RawMessage) (c C, err error) {
		fields.reset(&c)
		err = fields.read(&c, settings, false)
		return c, err
	}
	t := Type[T]{Name: name, Does: does, Can: can}
	for _, f := range fields {
		t.Settings = append(t.Settings, f.Field)
	}
	t.open = func(settings json.RawMessage, env Env) (T, error) {
		c, err := read(settings)
		if err != nil {
			var none T
			return none, err
		}
		return open(c, env)
	}
	t.prepare = func(settings json.RawMessage) (json.RawMessage, error) {
		c, err := read(settings)
		if err == nil && prepare != nil {
			c, err = prepare(c)
		}
		if err != nil {
			return nil, err
		}
		return json.Marshal(c)
	}
	t.merge = func(old, patch json.RawMessage) (json.RawMessage, error) {
		was, err := read(old)
		if err != nil {
			return nil, fmt.Errorf("stored settings: %w", err)
		}
		c := was
		if err := fields.read(&c, patch, true); err != nil {
			return nil, err
		}
		if err := fields.unchanged(&was, &c); err != nil {
			return nil, err
		}
		return json.Marshal(c)
	}
	t.redact = func(settings json.RawMessage) (json.RawMessage, error) {
		c, err := read(settings)
		if err != nil {
			return nil, err
		}
		fields.withhold(&c)
		return json.Marshal(c)
	}
	return t
}

// Prepare returns the settings of a new system as they are to be kept: checked,
// complete with defaults, and with what the type generates.
func (t Type[T]) Prepare(settings json.RawMessage) (json.RawMessage, error) {
	return t.prepare(settings)
}

// New returns the system that the settings describe.
func (t Type[T]) New(settings json.RawMessage, env Env) (T, error) { return t.open(settings, env) }

// Merge returns the old settings with those of a patch in their place. A null
// stands for the default; a secret that is given as config.Withheld stays. What
// is fixed cannot change. Whether the result makes sense is for New to say.
func (t Type[T]) Merge(old, patch json.RawMessage) (json.RawMessage, error) {
	return t.merge(old, patch)
}

// Redact returns what may be shown of settings: config.Withheld in the place of
// each secret that is set. Of settings that cannot be read it shows nothing.
func (t Type[T]) Redact(settings json.RawMessage) json.RawMessage {
	shown, err := t.redact(settings)
	if err != nil {
		return json.RawMessage(`{}`)
	}
	return shown
}
