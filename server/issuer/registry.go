package issuer

import (
	"fmt"
	"sync"

	"certctl/server/connector"
	"certctl/server/seal"
)

// Registry opens issuers from their rows and keeps them open, one for each row,
// until the row changes.
type Registry struct {
	Types  []Type
	Box    *seal.Box
	PKIURL string // where relying parties reach the server's public routes; empty if nowhere

	mu   sync.Mutex
	open map[string]opened
}

type opened struct {
	revision int64
	issuer   Issuer
}

// Type returns the type with the given name.
func (r *Registry) Type(name string) (Type, bool) {
	for _, t := range r.Types {
		if t.Name == name {
			return t, true
		}
	}
	return Type{}, false
}

// Purpose is what the settings of the issuer with the id are sealed for.
func Purpose(id string) string { return "issuer " + id }

// Open returns the issuer of a row, whose settings are sealed.
func (r *Registry) Open(id, typ string, revision int64, sealed []byte) (Issuer, error) {
	r.mu.Lock()
	o, ok := r.open[id]
	r.mu.Unlock()
	if ok && o.revision == revision {
		return o.issuer, nil
	}
	t, ok := r.Type(typ)
	if !ok {
		return nil, fmt.Errorf("issuer %s is of the type %s, which this build does not have", id, typ)
	}
	settings, err := r.Box.Open(sealed, Purpose(id))
	if err != nil {
		return nil, fmt.Errorf("settings of the issuer %s: %w", id, err)
	}
	i, err := t.New(settings, connector.Env{ID: id, PKIURL: r.PKIURL})
	if err != nil {
		return nil, fmt.Errorf("issuer %s: %w", id, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		r.open = map[string]opened{}
	}
	// Another call may have opened a later revision in the meantime.
	if o, ok := r.open[id]; !ok || o.revision < revision {
		r.open[id] = opened{revision, i}
	}
	return i, nil
}
