package app

import (
	"os"

	"certctl/migrations"
	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/bulk"
	"certctl/server/cert"
	"certctl/server/config"
	"certctl/server/fault"
	"certctl/server/job"
	"certctl/server/limit"
	"certctl/server/metric"
	"certctl/server/migrate"
	"certctl/server/outbox"
	"certctl/server/perm"
	"certctl/server/schedule"
)

// Declared is every table of this build.
func Declared() api.Declared {
	d := api.Declared{
		Settings:    config.Keys(),
		Permissions: perm.All(),
		Metrics:     metric.All(),
		Faults:      fault.Kinds(),
		Actions:     audit.Actions(),
	}
	for _, r := range perm.Roles() {
		d.Roles = append(d.Roles, api.DeclaredRole{Name: r.Name, Does: r.Does, Permissions: perm.Names(r.Can)})
	}
	for _, l := range schedule.All() {
		d.Loops = append(d.Loops, api.DeclaredLoop{
			Name: l.Name, Does: l.Does, Every: l.Every.Default().String(), Setting: l.Every.Name,
			Timeout: l.Timeout.String(), HA: l.HA, Why: l.Why, Effects: l.Effects,
		})
	}
	for _, r := range retentions {
		d.Retentions = append(d.Retentions, api.DeclaredRetention{
			Table: r.Table, Setting: r.Keep.Name, Keep: r.Keep.Default().String(), Does: r.Does,
		})
	}
	for _, r := range api.Routes() {
		row := api.DeclaredRoute{Name: r.Name, Method: r.Method, Path: r.Path, Does: r.Does, Public: r.Public, Out: r.Content}
		if r.Needs != nil {
			row.Permission = r.Needs.Name
		}
		if r.In != nil {
			row.In = r.In.String()
		}
		if r.Out != nil {
			row.Out = r.Out.String()
		}
		row.Limits, row.Unlimited = []string{}, r.Unlimited
		for _, l := range r.Limits() {
			row.Limits = append(row.Limits, l.Name)
		}
		d.Routes = append(d.Routes, row)
	}
	ms, err := migrate.Read(migrations.Files)
	if err != nil {
		panic(err) // the embedded files are part of the build, and a test reads them
	}
	d.Migrations = ms
	declareLife(&d)
	declareLimits(&d)
	return d
}

func declareLimits(d *api.Declared) {
	d.LimitScopes, d.LimitAlgorithms, d.LimitKeys = limit.Scopes(), limit.Algorithms(), limit.Keys()
	for _, l := range limit.All() {
		row := api.DeclaredLimit{
			Name: l.Name, Does: l.Does, Key: l.Key.Name, Algorithm: l.Algorithm.Name, Cap: l.Cap.Default(), CapBy: l.Cap.Name,
			Durable: l.Durable, Failure: l.Failure,
		}
		if l.Rate != nil {
			row.Rate, row.RateBy = l.Rate.Default(), l.Rate.Name
		} else {
			row.Window = l.Window.String()
		}
		d.Limits = append(d.Limits, row)
	}
}

// declareLife adds the tables of certificates and jobs.
func declareLife(d *api.Declared) {
	for _, s := range cert.States() {
		d.CertStates = append(d.CertStates, api.DeclaredState{Name: s.Name, Does: s.Does, Moves: s.Moves})
	}
	d.Reasons = cert.Reasons()
	for _, r := range cert.Rules() {
		d.Rules = append(d.Rules, api.DeclaredWord{Name: r.Name, Does: r.Does})
	}
	for _, k := range cert.KeyAlgorithms() {
		d.KeyAlgorithms = append(d.KeyAlgorithms, api.DeclaredWord{Name: k.Name, Does: k.Does})
	}
	for _, u := range cert.ExtKeyUsages() {
		d.ExtKeyUsages = append(d.ExtKeyUsages, api.DeclaredWord{Name: u.Name, Does: u.Does})
	}
	for _, k := range cert.SANKinds() {
		d.SANKinds = append(d.SANKinds, api.DeclaredWord{Name: k.Name, Does: k.Does})
	}
	for _, s := range job.States() {
		d.JobStates = append(d.JobStates, api.DeclaredState{Name: s.Name, Does: s.Does, Moves: s.Moves})
	}
	for _, k := range job.Kinds() {
		d.JobKinds = append(d.JobKinds, api.DeclaredJobKind{
			Name: k.Name, Does: k.Does, Attempts: k.Attempts, RetryEvery: k.RetryEvery.String(), Timeout: k.Timeout.String(), Priority: k.Priority,
		})
	}
	for _, b := range bulk.Actions() {
		d.BulkActions = append(d.BulkActions, api.DeclaredBulkAction{Name: b.Name, Does: b.Does, Permission: b.Needs.Name})
	}
	for _, t := range issuerTypes {
		d.IssuerTypes = append(d.IssuerTypes, api.DeclaredIssuer{Name: t.Name, Does: t.Does, Can: t.Can, Settings: t.Settings})
	}
	declareTold(d)
}

// declareTold adds the tables of notifications.
func declareTold(d *api.Declared) {
	d.Severities, d.Events = outbox.Severities(), outbox.Events()
	for _, s := range outbox.States() {
		d.NotificationStates = append(d.NotificationStates, api.DeclaredState{Name: s.Name, Does: s.Does, Moves: s.Moves})
	}
	d.ChannelTypes = []api.DeclaredChannel{}
	for _, t := range channelTypes {
		d.ChannelTypes = append(d.ChannelTypes, api.DeclaredChannel{Name: t.Name, Does: t.Does, Settings: t.Settings})
	}
}

func (a *App) self() api.Replica {
	return api.Replica{Name: a.replica, PID: os.Getpid(), StartedAt: a.started.UTC(), Database: a.database}
}
