package audit_test

import (
	"bytes"
	"testing"

	"certctl/server/audit"
)

func perSecond(b *testing.B, events int) {
	b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
}

// One event per transaction, which waits for the disk.
func BenchmarkWrite(b *testing.B) {
	tr := newTrail(b)
	event := audit.Event{Action: audit.RoleGranted, ResourceKind: "key", ResourceID: "key-1", Details: map[string]string{"role": "viewer"}}
	b.SetParallelism(8)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := audit.Write(tr.ctx, tr.db, event); err != nil {
				b.Error(err)
			}
		}
	})
	perSecond(b, b.N)
}

const many = 20_000

// fill queues events at once.
func (tr *trail) fill(n int) {
	tr.t.Helper()
	_, err := tr.db.Exec(tr.ctx, `
		with e as (
			insert into audit_events (actor_kind, actor_id, actor_name, action, resource_kind, resource_id, details, request_id, replica)
			select 'key', 'key-1', 'Ada', 'role.granted', 'key', 'key-' || n, '{"role": "viewer"}', 'req-' || n, 'replica-a'
			from generate_series(1, $1::int) n returning id)
		insert into audit_queue select id from e`, n)
	if err != nil {
		tr.t.Fatal(err)
	}
}

func BenchmarkSequence(b *testing.B) {
	tr := newTrail(b)
	for b.Loop() {
		b.StopTimer()
		tr.fill(many)
		b.StartTimer()
		tr.sequence()
	}
	perSecond(b, b.N*many)
}

func BenchmarkVerify(b *testing.B) {
	tr := newTrail(b)
	tr.fill(5 * many)
	tr.sequence()
	export := tr.export(audit.Filter{})
	o := audit.Options{Verifiers: []string{tr.log.Verifier()}}
	b.Run("database", func(b *testing.B) {
		for b.Loop() {
			if r, err := tr.log.Verify(tr.ctx, tr.db, o); err != nil || !r.Intact() {
				b.Fatal(err, r)
			}
		}
		perSecond(b, b.N*5*many)
	})
	b.Run("export", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if r, err := audit.VerifyStream(bytes.NewReader(export), o); err != nil || !r.Intact() {
				b.Fatal(err, r)
			}
		}
		perSecond(b, b.N*5*many)
	})
}
