package app

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/config"
	"certctl/server/fault"
	"certctl/server/job"
	"certctl/server/metric"
	"certctl/server/migrate"
	"certctl/server/outbox"
	"certctl/server/revocation"
	"certctl/server/schedule"
	"certctl/server/store"
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

		api.CreateTeam.Do(a.inventory.CreateTeam),
		api.ListTeams.Do(a.inventory.Teams),
		api.GetTeam.Do(a.inventory.Team),
		api.UpdateTeam.Do(a.inventory.ChangeTeam),
		api.DeleteTeam.Do(a.inventory.DeleteTeam),
		api.CreateOwner.Do(a.inventory.CreateOwner),
		api.ListOwners.Do(a.inventory.Owners),
		api.GetOwner.Do(a.inventory.Owner),
		api.UpdateOwner.Do(a.inventory.ChangeOwner),
		api.DeleteOwner.Do(a.inventory.DeleteOwner),
		api.CreatePolicy.Do(a.inventory.CreatePolicy),
		api.ListPolicies.Do(a.inventory.Policies),
		api.GetPolicy.Do(a.inventory.Policy),
		api.UpdatePolicy.Do(a.inventory.ChangePolicy),
		api.DeletePolicy.Do(a.inventory.DeletePolicy),
		api.CreateProfile.Do(a.inventory.CreateProfile),
		api.ListProfiles.Do(a.inventory.Profiles),
		api.GetProfile.Do(a.inventory.Profile),
		api.UpdateProfile.Do(a.inventory.ChangeProfile),
		api.DeleteProfile.Do(a.inventory.DeleteProfile),
		api.CreateIssuer.Do(a.inventory.CreateIssuer),
		api.ListIssuers.Do(a.inventory.ListIssuers),
		api.GetIssuer.Do(a.inventory.Issuer),
		api.UpdateIssuer.Do(a.inventory.ChangeIssuer),
		api.DeleteIssuer.Do(a.inventory.DeleteIssuer),
		api.TestIssuer.Do(a.inventory.TestIssuer),

		api.IssueCertificate.Do(a.issuance.Create),
		api.IssueCertificates.Do(a.issuance.CreateMany),
		api.ListCertificates.Do(a.inventory.Certificates),
		api.GetCertificate.Do(a.inventory.Certificate),
		api.UpdateCertificate.Do(a.inventory.ChangeCertificate),
		api.ArchiveCertificate.Do(a.inventory.ArchiveCertificate),
		api.ListVersions.Do(a.inventory.Versions),
		api.ExportPEM.Do(a.inventory.Export),
		api.ExportTrustStore.Do(a.inventory.ExportP12),
		api.DownloadKey.Do(a.issuance.DownloadKey),
		api.RenewCertificate.Do(a.renewals.Renew),
		api.RevokeCertificate.Do(a.revocation.RevokeCertificate),
		api.ReleaseCertificate.Do(a.revocation.ReleaseCertificate),
		api.GetStats.Do(a.inventory.Stats),

		api.PreviewBulk.Do(a.bulk.Preview),
		api.StartBulk.Do(a.bulk.Start),
		api.ListBulk.Do(a.bulk.List),
		api.GetBulk.Do(a.bulk.Get),
		api.ListBulkItems.Do(a.bulk.Items),
		api.ResumeBulk.Do(a.bulk.Resume),
		api.ListJobs.Do(a.listJobs),
		api.GetJob.Do(a.getJob),
		api.CancelJob.Do(a.cancelJob),
		api.RetryJob.Do(a.retryJob),

		api.CreateChannel.Do(a.inventory.CreateChannel),
		api.ListChannels.Do(a.inventory.ListChannels),
		api.GetChannel.Do(a.inventory.Channel),
		api.UpdateChannel.Do(a.inventory.ChangeChannel),
		api.DeleteChannel.Do(a.inventory.DeleteChannel),
		api.TestChannel.Do(a.inventory.TestChannel),
		api.ListNotifications.Do(a.alerts.List),
		api.GetNotification.Do(a.alerts.Get),
		api.RequeueNotification.Do(a.alerts.Requeue),

		api.ListCRLs.Do(a.listCRLs),
		api.GetCRL.Do(a.public(a.revocation.ServeCRL)),
		api.GetCA.Do(a.public(a.revocation.ServeCA)),
	}
}

func (a *App) listCRLs(ctx context.Context, _ *api.Empty) (api.CRLs, error) {
	return a.revocation.List(ctx, &revocation.ListCRLs{})
}

// public serves what relying parties fetch. f has written nothing if it
// returns an error.
func (a *App) public(f func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := f(w, r); err != nil {
			a.Web.Refuse(w, r, err)
		}
	})
}

// ready answers within two seconds, whatever the database does.
func (a *App) ready(ctx context.Context, _ *api.Empty) (api.Ready, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if !a.serving.Load() {
		return api.Ready{}, fault.New(fault.Unavailable, "this replica is stopping")
	}
	// Whoever asks, and however many do: one ping is under way.
	_, _, err := a.pings.Do(ctx, struct{}{}, func(ctx context.Context, _ int64) (struct{}, error) { return struct{}{}, a.db.Ping(ctx) })
	if err != nil {
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
	a.measureCertificates(ctx)
	a.measureJobs(ctx)
	if age, err := outbox.QueueAge(ctx, a.db); err == nil {
		a.metrics.Set(metric.NotificationQueueAge, age.Seconds())
	}
}

// measureCertificates reads counts that the database has of certificates and of
// revocation lists.
func (a *App) measureCertificates(ctx context.Context) {
	if counts, err := store.StateCounts(ctx, a.db); err == nil {
		for state, n := range counts {
			a.metrics.Set(metric.CertsByState, float64(n), state)
		}
	}
	if counts, err := store.Ending(ctx, a.db); err == nil {
		for days, n := range counts {
			a.metrics.Set(metric.CertsEnding, float64(n), strconv.Itoa(days))
		}
	}
	if lists, err := store.CRLStates(ctx, a.db); err == nil {
		for _, l := range lists {
			if l.AgeSeconds == nil {
				continue // none was signed yet
			}
			a.metrics.Set(metric.CRLAge, *l.AgeSeconds, l.IssuerID)
			a.metrics.Set(metric.CRLEntries, float64(l.Entries), l.IssuerID)
			a.metrics.Set(metric.CRLNumber, float64(l.Number), l.IssuerID)
		}
	}
}

// measureJobs reads counts that the database has of jobs.
func (a *App) measureJobs(ctx context.Context) {
	if counts, err := job.Open(ctx, a.db); err == nil {
		for _, c := range counts {
			a.metrics.Set(metric.JobsByState, float64(c.Count), c.State)
		}
	}
	if age, err := job.QueueAge(ctx, a.db); err == nil {
		a.metrics.Set(metric.JobQueueAge, age.Seconds())
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
