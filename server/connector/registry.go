package connector

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"certctl/server/seal"
)

// A Registry opens systems from their rows and keeps them open, one for each
// row, until the row changes.
type Registry[T any] struct {
	Types []Type[T]
	Box   *seal.Box

	noun string
	env  Env

	mu   sync.Mutex
	open map[string]opened[T]
}

type opened[T any] struct {
	revision int64
	system   T
}

// NewRegistry returns a registry of the systems that noun is the word for. env
// is what all of them are told. Its box comes later, before anything is opened.
func NewRegistry[T any](noun string, types []Type[T], env Env) *Registry[T] {
	return &Registry[T]{Types: types, noun: noun, env: env, open: map[string]opened[T]{}}
}

// Type returns the type with the given name.
func (r *Registry[T]) Type(name string) (Type[T], bool) {
	at := slices.IndexFunc(r.Types, func(t Type[T]) bool { return t.Name == name })
	if at < 0 {
		return Type[T]{}, false
	}
	return r.Types[at], true
}

// Names are those of all types, in words.
func (r *Registry[T]) Names() string {
	var names []string
	for _, t := range r.Types {
		names = append(names, t.Name)
	}
	return strings.Join(names, ", ")
}

// purpose is what the settings of the row with the id are sealed for.
func (r *Registry[T]) purpose(id string) string { return r.noun + " " + id }

// Seal checks the settings of a row, and returns them sealed.
func (r *Registry[T]) Seal(t Type[T], id string, settings json.RawMessage) ([]byte, error) {
	if _, err := t.New(settings, r.told(id)); err != nil {
		return nil, err
	}
	return r.Box.Seal(settings, r.purpose(id)), nil
}

// Settings returns the settings of a row that Seal has sealed.
func (r *Registry[T]) Settings(id string, sealed []byte) (json.RawMessage, error) {
	settings, err := r.Box.Open(sealed, r.purpose(id))
	if err != nil {
		return nil, fmt.Errorf("settings of the %s %s: %w", r.noun, id, err)
	}
	return settings, nil
}

func (r *Registry[T]) told(id string) Env {
	env := r.env
	env.ID = id
	return env
}

// Open returns the system of a row, whose settings are sealed.
func (r *Registry[T]) Open(id, typ string, revision int64, sealed []byte) (T, error) {
	r.mu.Lock()
	o, ok := r.open[id]
	r.mu.Unlock()
	if ok && o.revision == revision {
		return o.system, nil
	}
	var none T
	t, ok := r.Type(typ)
	if !ok {
		return none, fmt.Errorf("the %s %s is of the type %s, which this build does not have", r.noun, id, typ)
	}
	settings, err := r.Settings(id, sealed)
	if err != nil {
		return none, err
	}
	system, err := t.New(settings, r.told(id))
	if err != nil {
		return none, fmt.Errorf("%s %s: %w", r.noun, id, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// Another call may have opened a later revision in the meantime.
	if o, ok := r.open[id]; !ok || o.revision < revision {
		r.open[id] = opened[T]{revision, system}
	}
	return system, nil
}
