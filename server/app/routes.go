package app

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/config"
	"certctl/server/fault"
	"certctl/server/metric"
	"certctl/server/migrate"
	"certctl/server/schedule"
	"certctl/server/web"
)

// routes binds every route to what serves it.
func (a *App) routes() []web.Binding {
	return []web.Binding{
		api.Healthz.Do(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, "ok\n") // the caller went away
		})),
		api.Readyz.Do(a.ready),
		api.Metrics.Do(a.metrics.Handler(a.measure)),
		api.OpenAPI.Do(a.openAPI()),
		api.Introspect.Do(a.introspect),

		api.Bootstrap.Do(a.access.Bootstrap),
		api.CreateKey.Do(a.access.CreateKey),
		api.ListKeys.Do(a.access.Keys),
		api.GetKey.Do(a.access.Key),
		api.RotateKey.Do(a.access.RotateKey),
		api.RevokeKey.Do(a.access.RevokeKey),
		api.GrantRole.Do(a.access.GrantRole),
		api.WithdrawRole.Do(a.access.WithdrawRole),
		api.ListRoles.Do(a.access.ListRoles),
		api.CreateRole.Do(a.access.CreateRole),
		api.DeleteRole.Do(a.access.DeleteRole),
		api.ListPermissions.Do(a.access.ListPermissions),

		api.ListEvents.Do(a.listEvents),
		api.ExportEvents.Do(a.exportEvents),
		api.GetCheckpoint.Do(a.checkpoint),
		api.ProveInclusion.Do(a.proveInclusion),
		api.ProveConsistency.Do(a.proveConsistency),
		api.VerifyLog.Do(a.verifyLog),
	}
}

// ready answers within two seconds, whatever the database does.
func (a *App) ready(ctx context.Context, _ *api.Empty) (api.Ready, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if !a.serving.Load() {
		return api.Ready{}, fault.New(fault.Unavailable, "this replica is stopping")
	}
	if err := a.db.Ping(ctx); err != nil {
		return api.Ready{}, &fault.Error{Kind: fault.Unavailable, Msg: "the database does not answer", Err: err}
	}
	return api.Ready{Ready: true, Replica: a.replica}, nil
}

// measure sets the gauges that are read rather than counted.
func (a *App) measure(r *http.Request) {
	s := a.db.Stat()
	a.metrics.Set(metric.DatabaseConnections, float64(s.AcquiredConns()), "busy")
	a.metrics.Set(metric.DatabaseConnections, float64(s.IdleConns()), "idle")
	a.metrics.Set(metric.DatabaseConnectionsMax, float64(s.MaxConns()))
	// A scrape must not hang on a database that does.
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if sizes, err := audit.Size(ctx, a.db); err == nil {
		a.metrics.Set(metric.AuditLogSize, float64(sizes.Logged))
		a.metrics.Set(metric.AuditQueueSize, float64(sizes.Queued))
	}
	if intact, at, err := audit.LastVerified(ctx, a.db); err == nil {
		value, when := math.NaN(), math.NaN()
		if !at.IsZero() {
			value, when = 0, float64(at.UnixMilli())/1000
		}
		if intact {
			value = 1
		}
		a.metrics.Set(metric.AuditIntact, value)
		a.metrics.Set(metric.AuditVerifiedAt, when)
	}
}

// openAPI serves the document, which is made once.
func (a *App) openAPI() http.Handler {
	document := sync.OnceValue(func() []byte {
		doc, err := a.Web.OpenAPI()
		if err != nil {
			panic(err) // it is made of Go types alone
		}
		return doc
	})
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", api.OpenAPI.Content)
		_, _ = w.Write(document()) // the caller went away
	})
}

func (a *App) introspect(ctx context.Context, _ *api.Empty) (api.Introspection, error) {
	in := api.Introspection{
		Build:    api.Build(a.build),
		Replica:  a.self(),
		Declared: Declared(),
		Settings: config.Show(a.settings),
	}
	var err error
	if in.Ledger, err = migrate.Ledger(ctx, a.db); err != nil {
		return in, err
	}
	if in.Leases, err = schedule.Leases(ctx, a.db); err != nil {
		return in, err
	}
	in.LastRuns, err = schedule.LastRuns(ctx, a.db)
	return in, err
}

func (a *App) listEvents(ctx context.Context, in *api.EventQuery) (api.EventPage, error) {
	entries, err := audit.List(ctx, a.db, filter(in.EventFilter), audit.Page{Before: in.Before, Limit: in.Limit + 1})
	page := api.EventPage{Items: entries}
	if len(entries) > in.Limit {
		page.Items = entries[:in.Limit]
		page.Next = page.Items[in.Limit-1].ID
	}
	return page, err
}

func filter(f api.EventFilter) audit.Filter {
	return audit.Filter{
		Category: f.Category, Action: f.Action, Actor: f.Actor,
		ResourceKind: f.ResourceKind, ResourceID: f.ResourceID, Since: f.Since, Until: f.Until,
	}
}

// exportEvents writes its own event first: what leaves the system is on record
// even if the stream breaks.
func (a *App) exportEvents(ctx context.Context, in *api.EventFilter) (func(io.Writer) error, error) {
	f := filter(*in)
	if err := f.Check(); err != nil {
		return nil, err
	}
	which, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	err = audit.Write(ctx, a.db, audit.Event{Action: audit.Exported, Details: map[string]string{"filter": string(which)}})
	if err != nil {
		return nil, err
	}
	return func(w io.Writer) error { return audit.Export(ctx, a.db, w, f) }, nil
}

func (a *App) checkpoint(ctx context.Context, _ *api.Empty) (api.Checkpoint, error) {
	note, err := audit.Checkpoint(ctx, a.db)
	return api.Checkpoint{Note: note, Verifier: a.trail.Verifier()}, err
}

func (a *App) proveInclusion(ctx context.Context, in *api.InclusionQuery) (api.Inclusion, error) {
	p, err := audit.Inclusion(ctx, a.db, in.Seq, in.Size)
	return api.Inclusion{
		Seq: p.Seq, Size: p.Size, Root: p.Root.String(), Leaf: p.Leaf.String(), Event: string(p.Event), Hashes: hashes(p.Proof),
	}, err
}

func (a *App) proveConsistency(ctx context.Context, in *api.ConsistencyQuery) (api.Consistency, error) {
	p, err := audit.Consistency(ctx, a.db, in.Old, in.New)
	return api.Consistency{
		Old: p.Old, New: p.New, OldRoot: p.OldRoot.String(), NewRoot: p.NewRoot.String(), Hashes: hashes(p.Proof),
	}, err
}

func hashes(proof []tlog.Hash) []string {
	text := []string{}
	for _, h := range proof {
		text = append(text, h.String())
	}
	return text
}

func (a *App) verifyLog(ctx context.Context, in *api.Verification) (api.VerifyReport, error) {
	var o audit.Options
	if in.Body != nil {
		o = audit.Options{Verifiers: in.Body.Verifiers, Checkpoints: in.Body.Checkpoints}
	}
	report, err := a.trail.Verify(ctx, a.db, o)
	if err != nil {
		return api.VerifyReport{}, err
	}
	return api.VerifyReport{Intact: report.Intact(), Says: report.String(), Report: report}, nil
}
