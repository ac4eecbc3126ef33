package app

import (
	"os"

	"certctl/migrations"
	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/config"
	"certctl/server/fault"
	"certctl/server/metric"
	"certctl/server/migrate"
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
		d.Routes = append(d.Routes, row)
	}
	ms, err := migrate.Read(migrations.Files)
	if err != nil {
		panic(err) // the embedded files are part of the build, and a test reads them
	}
	d.Migrations = ms
	return d
}

func (a *App) self() api.Replica {
	return api.Replica{Name: a.replica, PID: os.Getpid(), StartedAt: a.started.UTC(), Database: a.database}
}
