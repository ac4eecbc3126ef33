package observe

import (
	"context"

	"github.com/jackc/pgx/v5"

	"certctl/evidence"
	"certctl/server/migrate"
)

// ofExtension is the condition of a row c of a catalog that an extension owns:
// it is the operator's.
const ofExtension = `exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')`

// Catalog reads what PostgreSQL says of the tables in the public schema.
func Catalog(ctx context.Context, conn *pgx.Conn) (c evidence.Catalog, err error) {
	rows, err := migrate.Ledger(ctx, conn)
	if err != nil {
		return c, err
	}
	for _, r := range rows {
		c.Migrations = append(c.Migrations, evidence.CatalogMigration{Version: r.Version, SHA256: r.SHA256})
	}
	tables, _ := conn.Query(ctx, `
		select c.relname as name, coalesce(obj_description(c.oid, 'pg_class'), '') as comment, c.oid,
		       c.relrowsecurity as row_security, c.relpersistence = 'u' as unlogged
		from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname = 'public' and c.relkind in ('r', 'p') and not `+ofExtension+` order by c.relname`)
	type row struct {
		Name, Comment string
		OID           uint32 `db:"oid"`
		RowSecurity   bool
		Unlogged      bool
	}
	found, err := pgx.CollectRows(tables, pgx.RowToStructByName[row])
	if err != nil {
		return c, err
	}
	// One batch for all tables: what takes a query each would take four.
	b := &pgx.Batch{}
	c.Tables = make([]evidence.CatalogTable, len(found))
	for i, t := range found {
		table := &c.Tables[i]
		table.Name, table.Comment, table.RowSecurity, table.Unlogged = t.Name, t.Comment, t.RowSecurity, t.Unlogged
		queue(b, &table.Columns, t.OID, `
			select a.attname as name, format_type(a.atttypid, a.atttypmod) as type, not a.attnotnull as nullable,
			       coalesce(case a.attidentity when 'a' then 'identity' when 'd' then 'identity by default' else pg_get_expr(d.adbin, d.adrelid) end, '') as default
			from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
			where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped order by a.attnum`)
		queue(b, &table.Constraints, t.OID, `
			select conname as name, pg_get_constraintdef(oid) as definition
			from pg_constraint where conrelid = $1 order by conname`)
		queue(b, &table.Indexes, t.OID, `
			select c.relname as name, pg_get_indexdef(i.indexrelid) || case when i.indisvalid then '' else ' -- invalid' end as definition
			from pg_index i join pg_class c on c.oid = i.indexrelid where i.indrelid = $1 order by c.relname`)
		queue(b, &table.Triggers, t.OID, `
			select tgname as name, pg_get_triggerdef(oid) || case tgenabled when 'O' then '' when 'D' then ' -- disabled' else ' -- enabled for ' || tgenabled::text end as definition
			from pg_trigger where tgrelid = $1 and not tgisinternal order by tgname`)
		queue(b, &table.Rules, t.OID, `
			select rulename as name, pg_get_ruledef(oid) as definition
			from pg_rewrite where ev_class = $1 and rulename <> '_RETURN' order by rulename`)
	}
	// OID 2200 is the schema public in every database.
	queue(b, &c.Views, 2200, `
		select relname as name, pg_get_viewdef(oid) as definition
		from pg_class c where relnamespace = $1 and relkind in ('v', 'm') and not `+ofExtension+` order by relname`)
	queue(b, &c.Functions, 2200, `
		select p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' as name, pg_get_functiondef(p.oid) as definition
		from pg_proc c join pg_proc p on p.oid = c.oid
		where p.pronamespace = $1 and p.prokind in ('f', 'p') and not `+ofExtension+` order by 1`)
	return c, conn.SendBatch(ctx, b).Close()
}

func queue[T any](b *pgx.Batch, to *[]T, oid uint32, sql string) {
	b.Queue(sql, oid).Query(func(rows pgx.Rows) (err error) {
		*to, err = pgx.CollectRows(rows, pgx.RowToStructByName[T])
		return err
	})
}
