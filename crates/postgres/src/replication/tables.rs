//! The streams as they are at the source, and how tables in the log relate to them.
//!
//! The catalog is read once, at a place in the log. What the log says of a table before that place may be an older
//! shape of it, whose rows are read as what they are now as far as that goes; what it says after that place and the
//! catalog did not know is a change of the stream.
//!
//! Guarantee: a change is only told once a row depends on it that the stream does not hold yet. Otherwise one that
//! was read anew behind the change would meet it again, for ever.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use lakeward_core::{
    ChangeEvent, ConfiguredStream, Error, ErrorKind, OnPartitionChange, Result, Standing, StreamId, SyncMode,
    keeps_values,
};
use tokio::time::Instant;

use super::filter::{FilterColumn, RowFilter};
use super::identity::{LogKey, log_keys};
use super::lsn::{Lsn, Names};
use super::pgoutput::Relation;
use super::publication::{self, GENERATED_VERSION, MADE_AS_PARTITION};
use super::slot::Place;
use crate::connect::{Connection, Connector};
use crate::decode::WireColumn;
use crate::mapping::{holds_more, stored_as};
use crate::schema::{Described, describe};
use crate::sql;

/// How long a table that is being altered is waited for.
const ALTERING: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// A stream that is followed.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) stream: Arc<ConfiguredStream>,
    oid: u32,
    /// Its columns, in its order.
    pub(super) columns: Vec<TableColumn>,
    /// Which of them are the key.
    pub(super) key: Vec<usize>,
    pub(super) filter: Option<RowFilter>,
    /// The types of the filter's columns.
    filter_types: Vec<u32>,
    /// Its own rows in a FROM clause.
    pub(super) from: String,
    partitioned: bool,
    /// All columns that the catalog has, and where each stands among them.
    known: HashMap<String, usize>,
}

/// A column of a stream.
#[derive(Debug)]
pub(super) struct TableColumn {
    pub(super) wire: WireColumn,
    pub(super) sql_type: String,
    type_oid: u32,
    typmod: i32,
    generated: bool,
}

/// How a table's rows in the log become a stream's.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) table: usize,
    /// By column of the stream, which value of a row it is; none where the table has no such column.
    pub(super) values: Vec<Option<usize>>,
    /// The same by column of the filter.
    pub(super) filter: Vec<Option<usize>>,
    /// How many values a row has.
    pub(super) width: usize,
    /// Whether it is a part of a partitioned table.
    pub(super) part: bool,
}

/// The stream is no longer what it was.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) stream: StreamId,
    pub(super) what: String,
    /// Whether the stream's place says it too.
    pub(super) placed: bool,
}

impl From<Change> for ChangeEvent {
    fn from(change: Change) -> Self {
        let Change { stream, what, placed } = change;
        Self::Changed { stream, what, placed }
    }
}

/// All streams that are followed.
pub(super) struct Tables {
    pub(super) tables: Vec<Table>,
    by_oid: HashMap<u32, (usize, Part)>,
    /// Of partitions that have their columns in another order than their root, where each stands among them.
    orders: HashMap<u32, HashMap<String, usize>>,
    /// Where the log was when the catalog was read.
    read_at: Lsn,
    /// As the log described tables last.
    relations: HashMap<u32, Known>,
    connection: Connection,
    publications: Vec<String>,
    names: Names,
    /// Where streams stand in the log, of those that have joined it.
    places: HashMap<StreamId, String>,
    version: u32,
    /// What was warned of already.
    warned: HashSet<String>,
}

/// What is said of a table that is not the one that the reading began with.
const REPLACED: &str = "its name stands for another table, or for none";

/// A table in the log.
#[derive(Debug)]
pub(super) enum Known {
    /// It is no stream's.
    Foreign,
    /// Its rows are these.
    Mapped(Mapping),
    /// Its rows are this stream's, which is no longer what it was.
    Changed {
        /// The stream.
        table: usize,
        /// What happened.
        what: String,
        /// Whether it is that a part of it is gone.
        gone: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Root,
    Partition,
}

impl Tables {
    /// Reads the catalog. `Err` inside where a stream is not what it was configured from; `described` says which
    /// columns its description had.
    pub(super) async fn load(
        connector: &Connector,
        names: &Names,
        streams: impl Iterator<Item = Arc<ConfiguredStream>>,
        described: impl Fn(&StreamId) -> Option<HashSet<String>>,
    ) -> Result<Result<Self, Change>> {
        let connection = connector.connect().await?;
        let version = connector.version().await?;
        let streams: Vec<_> = streams.collect();
        let ids: Vec<StreamId> = streams.iter().map(|stream| stream.id.clone()).collect();
        let read_at = quiet(&connection, &ids).await?;
        connection.run(sql::AT_ONE_MOMENT).await?;
        let mut found: HashMap<StreamId, Described> = describe(connector, &connection, &ids)
            .await?
            .into_iter()
            .map(|described| (described.relation.id.clone(), described))
            .collect();
        let (mut tables, mut by_oid) = (Vec::with_capacity(streams.len()), HashMap::new());
        for stream in streams {
            let change = |what: String| Change { stream: stream.id.clone(), what, placed: false };
            let Some(now) = found.remove(&stream.id) else {
                return Ok(Err(change("the table is gone".to_owned())));
            };
            if let Some(what) = difference(&stream, &now, described(&stream.id)) {
                return Ok(Err(change(what)));
            }
            by_oid.insert(now.relation.oid, (tables.len(), Part::Root));
            tables.push(table(&connection, version, stream, &now).await?);
        }
        let parts = partitions(&connection, by_oid.keys().copied().collect()).await?;
        for (oid, root) in &parts {
            if let Some((table, _)) = by_oid.get(root).copied() {
                by_oid.entry(*oid).or_insert((table, Part::Partition));
            }
        }
        let mut orders = orders(&connection, &parts.iter().map(|(oid, _)| *oid).collect::<Vec<_>>()).await?;
        orders.retain(|oid, order| by_oid.get(oid).is_some_and(|(table, _)| tables[*table].known != *order));
        connection.run("COMMIT").await?;
        let publications = vec![names.publication_for(false), names.publication_for(true)];
        let mut loaded = Self {
            tables,
            by_oid,
            orders,
            read_at,
            relations: HashMap::new(),
            connection,
            publications,
            names: names.clone(),
            places: HashMap::new(),
            version,
            warned: HashSet::new(),
        };
        // What changed since the catalog was read is seen at the next look.
        loaded.places = loaded.places_now().await?;
        Ok(Ok(loaded))
    }

    async fn places_now(&self) -> Result<HashMap<StreamId, String>> {
        let members = publication::members(&self.connection, &self.names).await?;
        let streams = self.tables.iter().map(|table| table.stream.as_ref());
        Ok(publication::places(&members, &self.names, streams).into_iter().collect())
    }

    /// Looks for what the log never tells: that a name stands for another table now, that a column is another one
    /// of the same name, that a partition is none any more, or that a table was not published for a while.
    pub(super) async fn altered(&mut self) -> Result<Option<Change>> {
        let oids: Vec<u32> = self.tables.iter().map(|table| table.oid).collect();
        let sql = "SELECT c.oid, n.nspname::text, c.relname::text, ARRAY(SELECT a.attnum::text || ' ' || a.attname::text \
              FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) \
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
            WHERE c.oid = ANY ($1::oid[])";
        let rows = self.connection.rows(sql, &[&oids]).await?;
        let found: HashMap<u32, (StreamId, HashSet<String>)> = rows
            .iter()
            .map(|row| {
                let id = StreamId::new(row.get::<_, String>(1), row.get::<_, String>(2));
                (row.get(0), (id, row.get::<_, Vec<String>>(3).into_iter().collect()))
            })
            .collect();
        let parts: HashSet<u32> =
            partitions(&self.connection, oids).await?.into_iter().map(|(part, _)| part).collect();
        let places = self.places_now().await?;
        for (index, table) in self.tables.iter().enumerate() {
            let stream = &table.stream;
            let change = |what: &str, placed| {
                Ok(Some(Change { stream: stream.id.clone(), what: what.to_owned(), placed }))
            };
            let changed = |what: &str| change(what, false);
            let Some((name, columns)) = found.get(&table.oid).filter(|(name, _)| *name == stream.id) else {
                return changed(REPLACED);
            };
            let known = |column: &lakeward_core::Column| {
                columns.contains(&format!("{} {}", column.identity, column.name))
            };
            if !stream.schema.columns.iter().all(known) {
                return changed("a column was dropped, renamed or made anew");
            }
            let lost = |(oid, (owner, part)): (&u32, &(usize, Part))| {
                *owner == index && *part == Part::Partition && !parts.contains(oid)
            };
            if stream.on_partition_change != OnPartitionChange::Keep
                && self.by_oid.iter().any(lost)
                && let Some(what) = stream.on_partition_change.part_gone(&stream.id)?
            {
                return changed(what);
            }
            let now = places.get(name).map(String::as_str).unwrap_or_default();
            let Some(before) = self.places.get(name) else { continue };
            match publication::standing(before, now) {
                Standing::Broken(why) => return changed(&why),
                // Once it has rows, nothing tells that it had none when it was attached.
                Standing::Grown if publication::has_attached(before, now) => {
                    return change("an empty partition was attached", true);
                }
                _ => {}
            }
        }
        self.places = places;
        self.warn_of_failing_changes().await?;
        Ok(None)
    }

    /// Says whose updates and deletes fail because they are published: of a partition that was added without a
    /// replica identity, most of all, since partitions do not take that of their parent.
    async fn warn_of_failing_changes(&mut self) -> Result<()> {
        let changing = self.tables.iter().filter(|table| !table.stream.insert_only);
        let oids: Vec<u32> = changing.map(|table| table.oid).collect();
        for (_, key) in log_keys(&self.connection, self.version, &oids, |_| Vec::new()).await? {
            if let LogKey::Unfit { why, remedy } = key
                && self.warned.insert(why.clone())
            {
                tracing::warn!(remedy, "{why}: its updates and deletes fail at the source");
            }
        }
        Ok(())
    }

    /// What is known of a table that rows in the log are of.
    pub(super) fn known(&self, relation: u32) -> &Known {
        self.relations.get(&relation).unwrap_or(&Known::Foreign)
    }

    pub(super) fn index(&self, stream: &StreamId) -> Option<usize> {
        self.tables.iter().position(|table| table.stream.id == *stream)
    }

    /// Where the log was when the catalog was read.
    pub(super) fn read_at(&self) -> Lsn {
        self.read_at
    }

    /// Up to where the log could be read now, and from where on it is kept for a slot.
    pub(super) async fn log_extent(&self, slot: Option<&str>) -> Result<(Lsn, Option<Lsn>)> {
        // CASE keeps a standby from calling what only a primary may.
        let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
            ELSE pg_current_wal_flush_lsn() END::text, \
            (SELECT restart_lsn::text FROM pg_catalog.pg_replication_slots WHERE slot_name = $1)";
        let row = self.connection.row(sql, &[&slot]).await?;
        let kept_from = row.get::<_, Option<&str>>(1).map(str::parse).transpose()?;
        Ok((row.get::<_, &str>(0).parse()?, kept_from))
    }

    /// The first of these tables whose name stands for another one now, or for none.
    pub(super) async fn replaced(&self, tables: &[usize]) -> Result<Option<Change>> {
        if tables.is_empty() {
            return Ok(None);
        }
        let of = |table: &usize| &self.tables[*table];
        let schemas: Vec<&str> = tables.iter().map(|table| of(table).stream.id.namespace.as_str()).collect();
        let names: Vec<&str> = tables.iter().map(|table| of(table).stream.id.name.as_str()).collect();
        let oids: Vec<u32> = tables.iter().map(|table| of(table).oid).collect();
        let sql = "SELECT n.place FROM unnest($1::text[], $2::text[], $3::oid[]) WITH ORDINALITY n(schema, name, oid, place) \
            WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace \
              WHERE c.oid = n.oid AND c.relname::text = n.name AND s.nspname::text = n.schema) ORDER BY 1 LIMIT 1";
        let rows = self.connection.rows(sql, &[&schemas, &names, &oids]).await?;
        Ok(rows.first().and_then(|row| usize::try_from(row.get::<_, i64>(0)).ok()).map(|place| Change {
            stream: of(&tables[place - 1]).stream.id.clone(),
            what: REPLACED.to_owned(),
            placed: false,
        }))
    }

    /// Takes note of a table as the log describes it, in a transaction that was committed at `commit`.
    pub(super) async fn note(&mut self, relation: &Relation<'_>, commit: Lsn) -> Result<()> {
        let known = match self.by_oid.get(&relation.oid).copied() {
            Some((table, part)) => self.map(relation, table, part, commit),
            None => self.resolve(relation, commit).await?,
        };
        self.relations.insert(relation.oid, known);
        Ok(())
    }

    /// What a table is that the catalog did not have when it was read.
    async fn resolve(&mut self, relation: &Relation<'_>, commit: Lsn) -> Result<Known> {
        let sql = format!(
            "WITH RECURSIVE up(oid, depth, made) AS (SELECT c.oid, 0, true FROM pg_catalog.pg_class c \
               WHERE c.oid = $1 UNION ALL \
             SELECT i.inhparent, up.depth + 1, up.made AND {MADE_AS_PARTITION} FROM up \
               JOIN pg_catalog.pg_class c ON c.oid = up.oid AND c.relispartition \
               JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid \
               JOIN pg_catalog.pg_attribute a ON a.attrelid = up.oid AND a.attnum = -1) \
             SELECT oid, made FROM up ORDER BY depth"
        );
        let rows = self.connection.rows(&sql, &[&relation.oid]).await?;
        for row in &rows {
            let Some((table, _)) = self.by_oid.get(&row.get(0)).copied() else { continue };
            if !row.get::<_, bool>(1) {
                let what = format!("partition {} was attached, with the rows that it had", relation.name);
                return Ok(Known::Changed { table, what, gone: false });
            }
            self.by_oid.insert(relation.oid, (table, Part::Partition));
            return Ok(self.map(relation, table, Part::Partition, commit));
        }
        let chain: Vec<u32> = rows.iter().map(|row| row.get(0)).collect();
        self.former(relation, &chain, commit).await
    }

    /// What a table is that is no partition any more: published by itself, or as a partition of one that this reading
    /// leaves out, it was none; otherwise it was one when its rows were written. Whose it was the catalog no longer says.
    /// `chain`: the table and those that it is a partition of.
    async fn former(&mut self, relation: &Relation<'_>, chain: &[u32], commit: Lsn) -> Result<Known> {
        let sql = "SELECT FROM pg_catalog.pg_publication p WHERE p.pubname::text = ANY ($1) AND (p.puballtables OR EXISTS \
            (SELECT FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = ANY ($2::oid[])))";
        if !self.connection.rows(sql, &[&self.publications, &chain]).await?.is_empty() {
            return Ok(Known::Foreign);
        }
        let names: HashSet<&str> = relation.columns.iter().map(|column| column.name).collect();
        let origins: Vec<usize> = (0..self.tables.len())
            .filter(|index| {
                let table = &self.tables[*index];
                let mut logged = table.columns.iter().filter(|column| !column.generated);
                table.partitioned && logged.all(|column| names.contains(column.wire.name.as_str()))
            })
            .collect();
        Ok(match origins.as_slice() {
            [] => Known::Foreign,
            [table] if self.tables[*table].stream.on_partition_change == OnPartitionChange::Keep => {
                self.orders.extend(orders(&self.connection, &[relation.oid]).await?);
                self.map(relation, *table, Part::Partition, commit)
            }
            [table, ..] => {
                let what = format!("{} may have been a partition of it and is none any more", relation.name);
                Known::Changed { table: *table, what, gone: true }
            }
        })
    }

    /// Whether these are all the partitions with rows that a table had when a transaction emptied them: the log
    /// names no partitioned table whose partitions it names.
    pub(super) async fn are_all_parts(&self, table: usize, parts: &[u32], transaction: u32) -> Result<bool> {
        let sql = "WITH RECURSIVE tree(oid, relkind, attached) AS ( \
              SELECT c.oid, c.relkind, '{}'::text[] FROM pg_catalog.pg_class c WHERE c.oid = $1 \
            UNION ALL SELECT c.oid, c.relkind, t.attached || i.xmin::text FROM tree t \
              JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid AND t.relkind = 'p' \
              JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid) \
            SELECT attached FROM tree WHERE relkind <> 'p' AND oid <> ALL ($2::oid[])";
        let others = self.connection.rows(sql, &[&self.tables[table].oid, &parts]).await?;
        // Both took locks that exclude each other, so that a later transaction attached what was spared.
        Ok(others.iter().all(|row| {
            row.get::<_, Vec<&str>>(0)
                .iter()
                .filter_map(|xid| xid.parse().ok())
                .any(|xid: u32| is_later(xid, transaction))
        }))
    }

    fn map(&self, relation: &Relation<'_>, table: usize, part: Part, commit: Lsn) -> Known {
        match self.mapping(relation, table, part, commit < self.read_at) {
            Ok(mapping) => Known::Mapped(mapping),
            Err(what) => Known::Changed { table, what, gone: false },
        }
    }

    /// `older`: rows that were written before the catalog was read, so that it may be ahead of them. A stream whose
    /// columns are others now than its rows so far were read with is read again, and these are passed over. What is left
    /// are columns that came later, and such as were something else for a while and are again what they were.
    fn mapping(
        &self,
        relation: &Relation<'_>,
        index: usize,
        part: Part,
        older: bool,
    ) -> Result<Mapping, String> {
        let table = &self.tables[index];
        let position = |name: &str| relation.columns.iter().position(|column| column.name == name);
        // A name that neither the catalog nor the stream has a column for.
        let unknown = relation.columns.iter().find(|column| {
            table.stream.schema.column(column.name).is_none()
                && !table.known.contains_key(column.name)
                && table.stream.retired.column(table.stream.name_in_files(column.name)).is_none()
        });
        let mut values = Vec::with_capacity(table.columns.len());
        for (number, column) in table.columns.iter().enumerate() {
            let name = &column.wire.name;
            let value = position(name);
            match value.map(|at| relation.columns[at]) {
                None if column.generated && !table.key.contains(&number) => {}
                None if older && !table.key.contains(&number) => {
                    if let Some(other) = unknown {
                        return Err(format!("column {name} may have been called {} for a while", other.name));
                    }
                }
                None => return Err(format!("column {name} was dropped")),
                Some(logged) if logged.type_oid != column.type_oid => {
                    if !(older && widens(logged.type_oid, column.type_oid)) {
                        return Err(format!("the type of column {name} changed"));
                    }
                }
                Some(logged) if logged.typmod != column.typmod => {
                    let stored = |typmod| stored_as(column.type_oid, typmod);
                    // Rows that exist may have been rounded meanwhile; where none is read nobody asks.
                    let unread = table.stream.sync_mode == SyncMode::StrictCdc;
                    let fits = keeps_values(&stored(logged.typmod), &stored(column.typmod))
                        || unread && holds_more(column.type_oid, logged.typmod, column.typmod);
                    if !(older && fits) {
                        return Err(format!("the type of column {name} changed"));
                    }
                }
                Some(_) => {}
            }
            values.push(value);
        }
        if let Some(unknown) = unknown.filter(|_| !older) {
            return Err(format!("column {} was added", unknown.name));
        }
        // The log has columns in their order in the table, which a name leaves only with another column's. A partition
        // may have an order of its own.
        let order = self.orders.get(&relation.oid).unwrap_or(&table.known);
        let places: Vec<usize> =
            relation.columns.iter().filter_map(|column| order.get(column.name).copied()).collect();
        if !places.is_sorted() {
            return Err("columns had each other's names for a while".to_owned());
        }
        // What stands before a column was made before it, and cannot be missing where that one is.
        let absent = table.columns.iter().zip(&values).find(|(column, value)| {
            let before = order.get(&column.wire.name).is_some_and(|place| places.last() > Some(place));
            value.is_none() && !column.generated && before
        });
        if let Some((column, _)) = absent {
            return Err(format!("column {} had another's name for a while", column.wire.name));
        }
        let mut filter = Vec::with_capacity(table.filter_types.len());
        let names = table.filter.iter().flat_map(|filter| &filter.columns);
        for (name, type_oid) in names.zip(&table.filter_types) {
            let value = position(name);
            match value.map(|at| relation.columns[at]) {
                None => return Err(format!("column {name}, which its filter names, was dropped")),
                Some(logged) if logged.type_oid != *type_oid => {
                    return Err(format!("the type of column {name}, which its filter names, changed"));
                }
                Some(_) => {}
            }
            filter.push(value);
        }
        identity(table, relation)?;
        let part = part == Part::Partition;
        Ok(Mapping { table: index, values, filter, width: relation.columns.len(), part })
    }
}

/// Whether the text of every value of a type is the same value of another one. OIDs as in `pg_type.dat`.
fn widens(from: u32, to: u32) -> bool {
    match from {
        // int2, int4, int8
        21 => matches!(to, 23 | 20 | 1700),
        23 => matches!(to, 20 | 1700),
        20 => to == 1700,
        // name, text, varchar
        19 | 25 | 1043 => matches!(to, 25 | 1043),
        _ => false,
    }
}

/// Whether a transaction began after another one, in numbers that wrap.
fn is_later(xid: u32, than: u32) -> bool {
    /// Below are those that are before all others.
    const FIRST_NORMAL: u32 = 3;
    xid >= FIRST_NORMAL && xid.wrapping_sub(than).cast_signed() > 0
}

/// Whether old rows in the log still are named by the stream's key.
fn identity(table: &Table, relation: &Relation<'_>) -> Result<(), String> {
    if table.stream.insert_only || relation.replica_identity == b'f' {
        return Ok(());
    }
    let logged: HashSet<&str> =
        relation.columns.iter().filter(|column| column.key).map(|column| column.name).collect();
    let expected: HashSet<&str> = table.stream.key.iter().map(String::as_str).collect();
    // A partitioned root has no rows, so that what identifies them is its partitions' matter.
    let rootless = table.partitioned && logged.is_empty();
    if logged == expected || rootless { Ok(()) } else { Err("its replica identity changed".to_owned()) }
}

/// How a stream differs from what it was configured from.
fn difference(
    stream: &ConfiguredStream,
    now: &Described,
    described: Option<HashSet<String>>,
) -> Option<String> {
    for column in &stream.schema.columns {
        let Some((found, _)) = now.columns.iter().find(|(found, _)| found.name == column.name) else {
            return Some(format!("column {} was dropped", column.name));
        };
        if found.source_type != column.source_type {
            return Some(format!("the type of column {} changed", column.name));
        }
        if found.attnum.to_string() != column.identity {
            return Some(format!("column {} is another one of that name", column.name));
        }
    }
    if let Some(described) = described
        && let Some((added, _)) = now.columns.iter().find(|(column, _)| !described.contains(&column.name))
    {
        return Some(format!("column {} was added", added.name));
    }
    let same_key = now.stream.log_key.as_ref().is_some_and(|key| *key == stream.key);
    (!same_key && !stream.insert_only).then(|| "its replica identity changed".to_owned())
}

async fn table(
    connection: &Connection,
    version: u32,
    stream: Arc<ConfiguredStream>,
    now: &Described,
) -> Result<Table> {
    let mut columns = Vec::with_capacity(stream.schema.columns.len());
    for column in &stream.schema.columns {
        let Some((found, mapped)) = now.columns.iter().find(|(found, _)| found.name == column.name) else {
            continue;
        };
        columns.push(TableColumn {
            wire: WireColumn {
                name: column.name.clone(),
                written_as: stream.name_in_files(&column.name).to_owned(),
                pg_type: mapped.pg_type.clone(),
                target: column.column_type.clone(),
                on_bad_value: stream.bad_value_policy(&column.name),
            },
            sql_type: found.sql_type.clone(),
            type_oid: found.type_oid,
            typmod: found.typmod,
            // Before 18 the log has none of them; of those computed when read it has none at all.
            generated: found.generated,
        });
    }
    let needed = |name: &str| {
        stream.key.iter().any(|key| key == name)
            || stream.filter.as_ref().is_some_and(|filter| filter.columns().contains(&name))
    };
    let unlogged =
        now.columns.iter().map(|(column, _)| column).find(|column| column.unlogged && needed(&column.name));
    if let Some(column) = unlogged {
        return Err(Error::new(
            ErrorKind::Config,
            "changes have no value for a generated column that the key or the filter needs",
        )
        .at("stream", &stream.id)
        .at("column", &column.name)
        .hint(format!(
            "use full_refresh or incremental; PostgreSQL {GENERATED_VERSION} has those that are stored in its log"
        )));
    }
    let mut filter_types = Vec::new();
    let filter = match &stream.filter {
        None => None,
        Some(filter) => {
            let names = filter.columns();
            let columns: Vec<FilterColumn> = now
                .columns
                .iter()
                .filter(|(column, _)| names.contains(&column.name.as_str()))
                .map(|(column, _)| FilterColumn {
                    name: column.name.clone(),
                    type_oid: column.type_oid,
                    collation: column.collation,
                    sql_type: column.sql_type.clone(),
                })
                .collect();
            filter_types = columns.iter().map(|column| column.type_oid).collect();
            let compiled = RowFilter::compile(connection, version, filter.expr(), &columns).await;
            Some(compiled.map_err(|error| error.at("stream", &stream.id))?)
        }
    };
    let partitioned = now.relation.kind == crate::catalog::RelationKind::Partitioned;
    let name = sql::qualified(&stream.id.namespace, &stream.id.name);
    Ok(Table {
        key: stream.key.iter().filter_map(|name| stream.schema.index_of(name)).collect(),
        oid: now.relation.oid,
        from: if partitioned { name } else { format!("ONLY {name}") },
        partitioned,
        known: now.columns.iter().zip(0..).map(|((column, _), place)| (column.name.clone(), place)).collect(),
        columns,
        filter,
        filter_types,
        stream,
    })
}

/// A place in the log before which all that altered the tables is in the catalog.
///
/// Between a commit's place in the log and its showing in the catalog there is a moment, and with synchronous
/// replication a long one. What alters a table holds its lock until then.
async fn quiet(connection: &Connection, ids: &[StreamId]) -> Result<Lsn> {
    let sql = "WITH RECURSIVE tree(oid) AS (SELECT c.oid FROM unnest($1::text[], $2::text[]) w(namespace, name) \
          JOIN pg_catalog.pg_namespace n ON n.nspname = w.namespace::name \
          JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name::name \
        UNION SELECT i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid) \
        SELECT FROM tree t JOIN pg_catalog.pg_locks l ON l.relation = t.oid \
        WHERE l.granted AND l.mode = 'AccessExclusiveLock' \
          AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) LIMIT 1";
    let namespaces: Vec<&str> = ids.iter().map(|id| id.namespace.as_str()).collect();
    let names: Vec<&str> = ids.iter().map(|id| id.name.as_str()).collect();
    let deadline = Instant::now() + ALTERING;
    loop {
        let place = Place::current(connection).await?.lsn;
        // What takes longer has hardly been committed yet.
        if connection.rows(sql, &[&namespaces, &names]).await?.is_empty() || Instant::now() > deadline {
            return Ok(place);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// All partitions below roots, at every level, with their roots.
async fn partitions(connection: &Connection, roots: Vec<u32>) -> Result<Vec<(u32, u32)>> {
    let sql = "WITH RECURSIVE tree(root, oid) AS (SELECT c.oid, c.oid FROM pg_catalog.pg_class c \
          WHERE c.oid = ANY ($1::oid[]) AND c.relkind = 'p' \
        UNION ALL SELECT t.root, i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid \
          JOIN pg_catalog.pg_class p ON p.oid = i.inhparent AND p.relkind = 'p') \
        SELECT oid, root FROM tree WHERE oid <> root";
    Ok(connection.rows(sql, &[&roots]).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Where each column of tables stands.
async fn orders(connection: &Connection, tables: &[u32]) -> Result<HashMap<u32, HashMap<String, usize>>> {
    let sql = "SELECT a.attrelid, array_agg(a.attname::text ORDER BY a.attnum) FROM pg_catalog.pg_attribute a \
        WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped GROUP BY 1";
    let rows = connection.rows(sql, &[&tables]).await?;
    let order = |names: Vec<String>| names.into_iter().zip(0..).collect();
    Ok(rows.iter().map(|row| (row.get(0), order(row.get(1)))).collect())
}

impl Table {
    /// What its values can be decoded as.
    pub(super) fn wire(&self) -> Vec<WireColumn> {
        self.columns.iter().map(|column| column.wire.clone()).collect()
    }
}
