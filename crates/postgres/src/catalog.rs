//! Reading the server's catalog: tables, columns, types, keys and statistics, each in one query however many
//! tables are asked for.

use std::collections::{BTreeSet, HashMap};

use lakeward_core::{Result, StreamId};
use tokio_postgres::Row;

use crate::connect::{Connection, Connector};
use crate::mapping::{TypeRow, Types};
use crate::replication::GENERATED_VERSION;

/// What is offered: tables, partitioned roots, views, materialised views and foreign tables outside the
/// system's schemas. Partitions are read through their root.
const OFFERED: &str = "c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition \
    AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";

/// A table, view or the like, with the sums of its partitions where it has any.
#[derive(Debug, Clone)]
pub(crate) struct RelationRow {
    pub(crate) oid: u32,
    pub(crate) id: StreamId,
    pub(crate) kind: RelationKind,
    pub(crate) rows: Option<u64>,
    pub(crate) bytes: Option<u64>,
    pub(crate) comment: Option<String>,
    /// Whether row-level security would hide rows from this role.
    pub(crate) row_security: bool,
    /// A materialised view that was never filled cannot be read.
    pub(crate) populated: bool,
    /// How many columns it was ever given.
    pub(crate) columns_made: u16,
}

/// `pg_class.relkind`, as far as it can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RelationKind {
    Table,
    Partitioned,
    View,
    MaterializedView,
    Foreign,
}

impl RelationKind {
    pub(crate) fn of(relkind: i8) -> Option<Self> {
        match relkind as u8 {
            b'r' => Some(Self::Table),
            b'p' => Some(Self::Partitioned),
            b'v' => Some(Self::View),
            b'm' => Some(Self::MaterializedView),
            b'f' => Some(Self::Foreign),
            _ => None,
        }
    }
}

/// A column as the catalog has it.
#[derive(Debug, Clone)]
pub(crate) struct ColumnRow {
    pub(crate) attnum: i16,
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) typmod: i32,
    pub(crate) collation: u32,
    /// The type as people write it.
    pub(crate) source_type: String,
    /// The type without its modifier, as a literal is cast to it.
    pub(crate) sql_type: String,
    pub(crate) not_null: bool,
    pub(crate) generated: bool,
    /// Whether it is computed and the log has no value of it: before 18 none, virtual columns never.
    pub(crate) unlogged: bool,
    pub(crate) comment: Option<String>,
    /// What rows written before the column was added have in it.
    pub(crate) missing: Option<String>,
    /// A partitioned table's column with a default: its partitions, not it, keep missing values.
    pub(crate) default_in_partitions: bool,
}

/// A key: the primary one, or another that is unique.
#[derive(Debug, Clone)]
pub(crate) struct KeyRow {
    pub(crate) primary: bool,
    pub(crate) columns: Vec<String>,
}

/// The names of all streams that the role may read. No schemas means all.
pub(crate) async fn stream_names(connection: &Connection, schemas: &[String]) -> Result<Vec<StreamId>> {
    let sql = format!(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE {OFFERED} AND (cardinality($1::text[]) = 0 OR n.nspname::text = ANY ($1)) \
         AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') \
         ORDER BY n.nspname, c.relname"
    );
    let rows = connection.rows(&sql, &[&schemas]).await?;
    Ok(rows.iter().map(|row| StreamId::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}

/// The names of streams that would be offered if the role could read them.
pub(crate) async fn unreadable(connection: &Connection, schemas: &[String]) -> Result<Vec<StreamId>> {
    let sql = format!(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE {OFFERED} AND (cardinality($1::text[]) = 0 OR n.nspname::text = ANY ($1)) \
         AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')) \
         ORDER BY n.nspname, c.relname"
    );
    let rows = connection.rows(&sql, &[&schemas]).await?;
    Ok(rows.iter().map(|row| StreamId::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}

/// How sizes are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// From the files, where no DDL has the table's lock or waits for it.
    Files,
    /// From the planner's numbers, as old as the last VACUUM or ANALYZE.
    Planner,
}

/// Describes relations by name. One that is gone, or that cannot be read as a stream, is left out.
pub(crate) async fn relations(
    connection: &Connection,
    ids: &[StreamId],
    sizes: Sizes,
) -> Result<Vec<RelationRow>> {
    let schemas: Vec<&str> = ids.iter().map(|id| id.namespace.as_str()).collect();
    let names: Vec<&str> = ids.iter().map(|id| id.name.as_str()).collect();
    let planned = "(c.relpages + coalesce((SELECT t.relpages FROM pg_catalog.pg_class t \
        WHERE t.oid = c.reltoastrelid), 0))::int8 * current_setting('block_size')::int8";
    let bytes = match sizes {
        // To ask for a file's size is to ask for a lock. Behind DDL that waits for a snapshot of ours, both would wait, and
        // everybody else with them.
        Sizes::Files => format!(
            "CASE WHEN c.oid IN (SELECT l.relation FROM pg_catalog.pg_locks l WHERE l.mode = 'AccessExclusiveLock' \
               AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())) \
             THEN {planned} ELSE pg_catalog.pg_table_size(c.oid) END"
        ),
        Sizes::Planner => planned.to_owned(),
    };
    // Names are cast to what they are in the catalog, or its indexes would not be used; a longer one is cut off by that.
    // 0 pages and 0 rows are what a table has that was never analysed; from 14 on it says -1.
    let sql = format!(
        "WITH RECURSIVE root AS (SELECT c.oid, c.relkind \
           FROM unnest($1::text[], $2::text[]) named(nspname, relname) \
           JOIN pg_catalog.pg_namespace n ON n.nspname = named.nspname::name \
           JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = named.relname::name \
           WHERE {OFFERED} AND n.nspname::text = named.nspname AND c.relname::text = named.relname), \
         tree(root, oid, relkind) AS (SELECT oid, oid, relkind FROM root \
           UNION ALL SELECT t.root, c.oid, c.relkind FROM tree t \
           JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid AND t.relkind = 'p' \
           JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid), \
         size(root, rows, bytes) AS (SELECT t.root, \
           sum(c.reltuples) FILTER (WHERE c.relkind IN ('r', 'm') \
             AND (c.reltuples > 0 OR c.reltuples = 0 AND c.relpages > 0)), \
           sum({bytes}) FILTER (WHERE c.relkind IN ('r', 'm'))::int8 \
           FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid GROUP BY 1) \
         SELECT r.oid, n.nspname, r.relname, r.relkind, s.rows::float8, s.bytes, d.description, \
           r.relrowsecurity AND row_security_active(r.oid), r.relispopulated, r.relnatts \
         FROM size s JOIN pg_catalog.pg_class r ON r.oid = s.root \
         JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace \
         LEFT JOIN pg_catalog.pg_description d ON d.objoid = r.oid AND d.objsubid = 0 \
           AND d.classoid = 'pg_catalog.pg_class'::regclass"
    );
    let rows = connection.rows(&sql, &[&schemas, &names]).await?;
    let unsigned = |number: i64| u64::try_from(number).ok();
    Ok(rows
        .iter()
        .filter_map(|row| {
            Some(RelationRow {
                oid: row.get(0),
                id: StreamId::new(row.get::<_, String>(1), row.get::<_, String>(2)),
                kind: RelationKind::of(row.get(3))?,
                rows: row.get::<_, Option<f64>>(4).and_then(|rows| unsigned(rows as i64)),
                bytes: row.get::<_, Option<i64>>(5).and_then(unsigned),
                comment: row.get(6),
                row_security: row.get::<_, Option<bool>>(7).unwrap_or(false),
                populated: row.get(8),
                columns_made: row.get::<_, i16>(9).unsigned_abs(),
            })
        })
        .collect())
}

/// The columns of relations, in order. Dropped ones and the system's are left out.
pub(crate) async fn columns(
    connection: &Connection,
    version: u32,
    relations: &[u32],
) -> Result<HashMap<u32, Vec<ColumnRow>>> {
    let generated = if version >= 12 { "a.attgenerated <> ''" } else { "false" };
    let unlogged = if version >= GENERATED_VERSION { "a.attgenerated = 'v'" } else { generated };
    let missing = if version >= 11 {
        "CASE WHEN a.atthasmissing THEN coalesce(a.attmissingval::text, '') END"
    } else {
        "NULL::text"
    };
    let sql = format!(
        "SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation, \
           format_type(a.atttypid, a.atttypmod), format_type(a.atttypid, -1), a.attnotnull, {generated}, \
           (SELECT d.description FROM pg_catalog.pg_description d WHERE d.objoid = a.attrelid \
             AND d.objsubid = a.attnum AND d.classoid = 'pg_catalog.pg_class'::regclass), {missing}, \
           a.atthasdef AND (SELECT r.relkind = 'p' FROM pg_catalog.pg_class r WHERE r.oid = a.attrelid), \
           {unlogged} \
         FROM pg_catalog.pg_attribute a \
         WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped \
         ORDER BY a.attrelid, a.attnum"
    );
    let rows = connection.rows(&sql, &[&relations]).await?;
    let mut result: HashMap<u32, Vec<ColumnRow>> = HashMap::new();
    for row in &rows {
        result.entry(row.get(0)).or_default().push(ColumnRow {
            attnum: row.get(1),
            name: row.get(2),
            type_oid: row.get(3),
            typmod: row.get(4),
            collation: row.get(5),
            source_type: row.get(6),
            sql_type: row.get(7),
            not_null: row.get(8),
            generated: row.get(9),
            comment: row.get(10),
            missing: row.get(11),
            default_in_partitions: row.get(12),
            unlogged: row.get(13),
        });
    }
    Ok(result)
}

/// From this OID on types are the user's (`FirstNormalObjectId` in the server's sources). Those below are the server's
/// own: made of each other alone, and the same for as long as the server has its version.
const FIRST_USER_OID: u32 = 16_384;

/// The types named, and all that they are made of: base types, elements, attributes, range bounds.
const USED_TYPES: &str = "WITH RECURSIVE used(oid) AS (SELECT unnest($1::oid[]) UNION \
    SELECT part.oid FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.oid CROSS JOIN LATERAL ( \
      SELECT t.typbasetype AS oid UNION ALL SELECT t.typelem UNION ALL \
      SELECT a.atttypid FROM pg_catalog.pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid \
        AND a.attnum > 0 AND NOT a.attisdropped UNION ALL \
      SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid) part WHERE part.oid <> 0)";

/// What [`TypeRow`] is made from.
const TYPE_ROW: &str = "t.oid, t.typtype, t.typbasetype, t.typtypmod, \
    CASE WHEN t.typoutput = 'pg_catalog.array_out'::regproc AND e.typdelim = ',' \
      THEN t.typelem ELSE 0::oid END, \
    t.typtype = 'e' OR (t.typsend = 'pg_catalog.textsend'::regproc) OR (t.typname = 'citext' AND t.typsend <> 0), \
    coalesce((SELECT string_agg(a.attnum || ':' || a.atttypid || ':' || a.atttypmod, ',' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a \
      WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped), '')";

/// The types that the server brings with it.
pub(crate) async fn own_types(connection: &Connection) -> Result<Types> {
    let sql = format!(
        "SELECT {TYPE_ROW} FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem \
         WHERE t.oid < $1"
    );
    Ok(connection.rows(&sql, &[&FIRST_USER_OID]).await?.iter().map(type_row).collect())
}

/// The server's own types, and those of columns with what they are made of.
pub(crate) async fn types(
    connector: &Connector,
    connection: &Connection,
    columns: impl Iterator<Item = u32>,
) -> Result<Types> {
    let mut types = connector.own_types(connection).await?.clone();
    let users = users(columns);
    if !users.is_empty() {
        let sql = format!(
            "{USED_TYPES} SELECT {TYPE_ROW} FROM used JOIN pg_catalog.pg_type t ON t.oid = used.oid \
             LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem"
        );
        types.extend(connection.rows(&sql, &[&users]).await?.iter().map(type_row));
    }
    Ok(types)
}

fn type_row(row: &Row) -> (u32, TypeRow) {
    let facts = TypeRow {
        kind: row.get(1),
        base: row.get(2),
        typmod: row.get(3),
        element: row.get(4),
        sends_text: row.get(5),
        attributes: row.get(6),
    };
    (row.get(0), facts)
}

/// What decides how values of the user's types among these print besides the types themselves: enum labels, attributes
/// of composites, base types of domains. Sorted, so that it can be hashed.
pub(crate) async fn type_facts(
    connection: &Connection,
    columns: impl Iterator<Item = u32>,
) -> Result<Vec<String>> {
    let users = users(columns);
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "{USED_TYPES} SELECT t.oid::text || ' ' || t.typtype::text || ' ' || t.typbasetype || ' ' \
           || t.typtypmod || ' ' || coalesce( \
             (SELECT string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder) \
              FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid), \
             (SELECT string_agg(a.attnum || ':' || a.atttypid || ':' || a.atttypmod, ',' ORDER BY a.attnum) \
              FROM pg_catalog.pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid \
              AND a.attnum > 0 AND NOT a.attisdropped), '') \
         FROM used JOIN pg_catalog.pg_type t ON t.oid = used.oid ORDER BY t.oid"
    );
    let rows = connection.rows(&sql, &[&users]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Unique keys of relations that hold at every moment and for every row: immediate, valid, whole.
pub(crate) async fn keys(
    connection: &Connection,
    version: u32,
    relations: &[u32],
) -> Result<HashMap<u32, Vec<KeyRow>>> {
    let count = if version >= 11 { "i.indnkeyatts" } else { "i.indnatts" };
    let sql = format!(
        "SELECT i.indrelid, i.indisprimary, ARRAY(SELECT a.attname::text \
           FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n) \
           JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
           WHERE k.n <= {count} ORDER BY k.n) \
         FROM pg_catalog.pg_index i WHERE i.indrelid = ANY ($1::oid[]) AND i.indisunique AND i.indimmediate \
           AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL"
    );
    let rows = connection.rows(&sql, &[&relations]).await?;
    let mut result: HashMap<u32, Vec<KeyRow>> = HashMap::new();
    for row in &rows {
        result.entry(row.get(0)).or_default().push(KeyRow { primary: row.get(1), columns: row.get(2) });
    }
    Ok(result)
}

/// Statistics of columns as text: for each `(relation, column)` that has any, its arrays of values.
pub(crate) async fn statistics(
    connection: &Connection,
    columns: &[(&StreamId, &str)],
) -> Result<HashMap<(StreamId, String), Vec<String>>> {
    if columns.is_empty() {
        return Ok(HashMap::new());
    }
    let schemas: Vec<&str> = columns.iter().map(|(id, _)| id.namespace.as_str()).collect();
    let tables: Vec<&str> = columns.iter().map(|(id, _)| id.name.as_str()).collect();
    let names: Vec<&str> = columns.iter().map(|(_, name)| *name).collect();
    let sql = "SELECT s.schemaname, s.tablename, s.attname, s.most_common_vals::text, s.histogram_bounds::text \
        FROM pg_catalog.pg_stats s WHERE (s.schemaname::text, s.tablename::text, s.attname::text) \
        IN (SELECT * FROM unnest($1::text[], $2::text[], $3::text[]))";
    let rows = connection.rows(sql, &[&schemas, &tables, &names]).await?;
    let mut result: HashMap<(StreamId, String), Vec<String>> = HashMap::new();
    for row in &rows {
        let id = StreamId::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let texts = [row.get::<_, Option<String>>(3), row.get::<_, Option<String>>(4)];
        result.entry((id, row.get(2))).or_default().extend(texts.into_iter().flatten());
    }
    Ok(result)
}

/// The types among these that are not the server's own, each once.
fn users(types: impl Iterator<Item = u32>) -> Vec<u32> {
    let users: BTreeSet<u32> = types.filter(|oid| *oid >= FIRST_USER_OID).collect();
    users.into_iter().collect()
}
