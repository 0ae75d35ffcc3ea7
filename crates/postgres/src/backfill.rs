//! Backfills: one snapshot per stream, held by a connection of its own and read by many.
//!
//! Guarantee: what is read under a session is exactly what its snapshot sees. The tables are locked before the
//! snapshot is taken, so that nothing rewrites or empties them, and their files are compared with those that the
//! snapshot knows, because a table that was rewritten in between would silently show fewer rows.

use std::collections::BTreeMap;

use lakeward_core::{
    ConfiguredStream, Error, ErrorKind, Fingerprint, Result, Session, Stream, StreamId, SyncMode,
};
use xxhash_rust::xxh3::xxh3_128;

use crate::catalog::{self, RelationKind};
use crate::connect::{Connection, Connector};
use crate::copy;
use crate::decode::RowDecoder;
use crate::error::{UNFILLED, sqlstate};
use crate::replication::{self, LogPosition, Names, Place, Snapshot as LogSnapshot, publication};
use crate::schema::{Described, describe};
use crate::session::{Detail, Holders, ReadColumn, ReadRelation, Snapshot, Wait, lock};
use crate::sql;

/// How often a session is begun anew because a table changed its file or its partitions, or was made anew, in the
/// moment between.
const ATTEMPTS: usize = 5;

/// What a session has to do with the log.
#[derive(Debug, Clone)]
pub(crate) enum Behind {
    /// Nothing.
    NoLog,
    /// Its snapshot is that of a place in the log.
    APlace,
    /// So it is, and the stream joins the pipeline's log first.
    TheLogOf(Names),
}

/// Opens a session for a stream and keeps it open.
pub(crate) async fn begin(
    connector: &Connector,
    holders: &Holders,
    stream: &ConfiguredStream,
    behind: &Behind,
) -> Result<Session> {
    for _ in 0..ATTEMPTS {
        if let Some(session) = attempt(connector, holders, stream, behind).await? {
            return Ok(session);
        }
    }
    Err(Error::new(
        ErrorKind::Connection,
        "the table is rewritten or made anew again and again while a snapshot is taken",
    )
    .at("stream", &stream.id)
    .hint("wait for VACUUM FULL, TRUNCATE, CLUSTER, DROP and CREATE, or partition changes to end"))
}

/// `None` where the table changed under our hands and another attempt may do better.
async fn attempt(
    connector: &Connector,
    holders: &Holders,
    stream: &ConfiguredStream,
    behind: &Behind,
) -> Result<Option<Session>> {
    let version = connector.version().await?;
    let connection = connector.connect().await?;
    let place = match behind {
        Behind::NoLog | Behind::APlace => String::new(),
        // Committed before the snapshot is taken: from then on every transaction that it does not see is logged.
        Behind::TheLogOf(names) => {
            let manage = replication::settings(connector).manage;
            match publication::join(&connection, version, names, stream, manage).await? {
                Some(place) => place,
                None => return Ok(None),
            }
        }
    };
    let before = relations(&connection, version, &stream.id).await?;
    if before.is_empty() {
        return Err(gone(&stream.id));
    }
    // Asked for now: within the transaction it would be the query that takes the snapshot.
    let holder = connection.pid().await?;
    connection.run(sql::AT_ONE_MOMENT).await?;
    let lockable = before.iter().filter(|found| match found.relation.kind {
        // Only heaps are protected by their file's name; a partitioned root keeps its partitions.
        RelationKind::Table | RelationKind::Partitioned | RelationKind::MaterializedView => true,
        RelationKind::View | RelationKind::Foreign => false,
    });
    for statement in lock(lockable.map(|found| &found.relation), Wait::UntilTimeout) {
        if let Err(error) = connection.run(&statement).await {
            return Err(explain_lock(&connection, &before, error).await.at("stream", &stream.id));
        }
    }
    let origin = match behind {
        Behind::NoLog => None,
        Behind::APlace | Behind::TheLogOf(_) => {
            match take_over(connector, &connection, holder, stream).await? {
                Some(place) => Some(place),
                None => return give_way(connector, connection).await,
            }
        }
    };
    let found = relations(&connection, version, &stream.id).await?;
    let same = found.len() == before.len()
        && found.iter().zip(&before).all(|(a, b)| {
            a.relation.oid == b.relation.oid
                && a.relation.name == b.relation.name
                && a.relation.schema == b.relation.schema
        });
    if !same || found.iter().any(|found| found.relation.filenode != found.current) {
        return Ok(None);
    }
    let Some(described) = describe(connector, &connection, std::slice::from_ref(&stream.id)).await?.pop()
    else {
        return Err(gone(&stream.id));
    };
    check_readable(&described)?;
    check_columns(stream, &described)?;
    let unlogged = described.unlogged(stream);
    if matches!(behind, Behind::TheLogOf(_)) && !unlogged.is_empty() {
        let columns = unlogged.join(", ");
        tracing::warn!(stream = %stream.id, columns, "changes have no value for generated columns");
    }
    copy::check_filter(&connection, stream).await?;

    let snapshot = Snapshot::current(&connection).await?;
    let token: String = connection.row("SELECT pg_export_snapshot()", &[]).await?.get(0);
    let relations: Vec<ReadRelation> = found
        .iter()
        .map(|found| found.relation.clone())
        .filter(|relation| !matches!(relation.kind, RelationKind::Partitioned | RelationKind::View))
        .collect();
    let mut fingerprint = fingerprint(&connection, version, stream, &described, &relations, &token).await?;
    fingerprint.log = place;
    let columns = read_columns(stream, &described);
    let detail = Detail {
        version,
        format: copy::format(connector.settings().copy_format, stream, &columns),
        columns,
        sql_types: described
            .columns
            .iter()
            .map(|(column, _)| (column.name.clone(), column.sql_type.clone()))
            .collect(),
        key: described.stream.primary_key.clone(),
        // A table is its own only relation; what has none is read as a whole.
        root: found
            .into_iter()
            .find(|found| found.relation.oid == described.relation.oid)
            .map(|found| found.relation)
            .ok_or_else(|| gone(&stream.id))?,
        relations: relations
            .into_iter()
            .filter(|relation| relation.heap || relation.oid != described.relation.oid)
            .collect(),
    };
    let detail = serde_json::to_value(&detail)
        .map_err(|error| Error::bug("a session's detail cannot be written").source(error))?;
    holders.keep(&token, connection, connector.resting());
    Ok(Some(Session {
        token,
        sequence: origin.as_ref().and_then(|origin| origin.lsn).map_or(0, |lsn| lsn.0),
        position: origin.map(|origin| origin.to_position()),
        endpoint: connector.address(),
        expires_at: None,
        snapshot: snapshot.to_value(),
        fingerprint,
        detail,
    }))
}

/// Makes the connection's transaction, which has locks and no snapshot yet, one of a place in the log.
///
/// The transaction exports the snapshot again, so that the session that took it, and its slot, may go. `None` where its
/// locks are in somebody's way meanwhile.
async fn take_over(
    connector: &Connector,
    connection: &Connection,
    holder: i32,
    stream: &ConfiguredStream,
) -> Result<Option<LogPosition>> {
    let taken = LogSnapshot::take(connector, holder).await;
    let Some(snapshot) = taken.map_err(|error| error.at("stream", &stream.id))? else {
        return Ok(None);
    };
    let taken = connection.run(&format!("SET TRANSACTION SNAPSHOT {}", sql::literal(&snapshot.name))).await;
    let place = match taken {
        Ok(()) => Place::current(connection).await,
        Err(error) => Err(error),
    };
    let lsn = snapshot.lsn;
    snapshot.close().await;
    Ok(Some(LogPosition { lsn: Some(lsn), timeline: Some(place?.timeline), ..LogPosition::default() }))
}

/// Lets DDL have the table that waits for it; then it is looked at again.
async fn give_way(connector: &Connector, connection: Connection) -> Result<Option<Session>> {
    connection.run("ROLLBACK").await?;
    connector.rest(connection);
    Ok(None)
}

fn gone(id: &StreamId) -> Error {
    Error::new(ErrorKind::Schema, "the table is gone")
        .at("stream", id)
        .hint("run `lakeward discover` again, and take it out of streams.json")
}

/// A relation with the file that it has at this very moment, whatever the snapshot says.
struct Found {
    relation: ReadRelation,
    current: Option<u32>,
}

/// The stream's relation and all that hang below it if it is partitioned, by OID.
async fn relations(connection: &Connection, version: u32, id: &StreamId) -> Result<Vec<Found>> {
    // Before 12 there is one way only to store a table.
    let heap = if version >= 12 {
        "c.relam = (SELECT oid FROM pg_catalog.pg_am WHERE amname = 'heap')"
    } else {
        "true"
    };
    let sql = format!(
        "WITH RECURSIVE tree(oid, relkind) AS (SELECT c.oid, c.relkind FROM pg_catalog.pg_class c \
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
           WHERE n.nspname = $1::text::name AND c.relname = $2::text::name \
           UNION ALL SELECT c.oid, c.relkind FROM tree t \
           JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid AND t.relkind = 'p' \
           JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid) \
         SELECT c.oid, n.nspname, c.relname, c.relkind, c.relkind IN ('r', 'm') AND {heap}, \
           nullif(c.relfilenode, 0), pg_relation_filenode(c.oid) \
         FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY c.oid"
    );
    let rows = connection.rows(&sql, &[&id.namespace, &id.name]).await?;
    Ok(rows
        .iter()
        .filter_map(|row| {
            let kind = RelationKind::of(row.get(3))?;
            let stored = matches!(kind, RelationKind::Table | RelationKind::MaterializedView);
            let relation = ReadRelation {
                oid: row.get(0),
                schema: row.get(1),
                name: row.get(2),
                kind,
                heap: row.get(4),
                filenode: row.get::<_, Option<u32>>(5).filter(|_| stored),
            };
            Some(Found { relation, current: row.get::<_, Option<u32>>(6).filter(|_| stored) })
        })
        .collect())
}

/// Says who stands in the way of a lock.
async fn explain_lock(connection: &Connection, relations: &[Found], error: Error) -> Error {
    match sqlstate(&error) {
        Some("55P03") => {}
        Some("55000") => return error.hint(UNFILLED),
        _ => return error,
    }
    let oids: Vec<u32> = relations.iter().map(|found| found.relation.oid).collect();
    let sql = "SELECT DISTINCT l.pid, c.relname FROM pg_catalog.pg_locks l \
        JOIN pg_catalog.pg_class c ON c.oid = l.relation \
        WHERE l.relation = ANY ($1::oid[]) AND l.mode = 'AccessExclusiveLock' AND l.pid IS NOT NULL \
          AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())";
    let blockers = match connection.run("ROLLBACK").await {
        Ok(()) => connection.rows(sql, &[&oids]).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let names: Vec<String> = blockers
        .iter()
        .map(|row| format!("pid {} on {}", row.get::<_, i32>(0), row.get::<_, String>(1)))
        .collect();
    let message = match names.is_empty() {
        true => "the table could not be locked in time".to_owned(),
        false => format!("the table could not be locked in time: blocked by {}", names.join(", ")),
    };
    Error::new(error.kind(), message)
        .at("SQLSTATE", "55P03")
        .hint("wait for that session or end it (SELECT pg_terminate_backend(pid)), or raise lock_timeout")
}

fn check_readable(described: &Described) -> Result<()> {
    let relation = &described.relation;
    if relation.row_security {
        return Err(Error::new(ErrorKind::Source, "row-level security would hide rows from this role")
            .at("stream", &relation.id)
            .hint("ALTER ROLE <role> BYPASSRLS, or let the table's owner read it"));
    }
    Ok(())
}

/// The columns under the snapshot must be those that the stream was configured with.
fn check_columns(stream: &ConfiguredStream, described: &Described) -> Result<()> {
    let changed = |what: &str, name: &str| {
        Err(Error::new(ErrorKind::Schema, what.to_owned())
            .at("column", name)
            .at("stream", &stream.id)
            .hint("the table was altered since it was last described: run again"))
    };
    for column in &stream.schema.columns {
        let Some((now, mapped)) = described.columns.iter().find(|(now, _)| now.name == column.name) else {
            return changed("a column is gone", &column.name);
        };
        if now.source_type != column.source_type {
            return changed("a column's type changed", &column.name);
        }
        if mapped.column_type != column.column_type
            && !RowDecoder::supports(&mapped.pg_type, &column.column_type)
        {
            return changed("a column cannot be read as its configured type", &column.name);
        }
    }
    // One that came meanwhile would count as empty in all rows that are read without it, whatever they have in it, until
    // they are read again.
    if stream.sync_mode != SyncMode::FullRefresh && described.stream.columns_made != stream.columns_made {
        let new = described.columns.iter().find(|(now, _)| stream.schema.column(&now.name).is_none());
        return changed("columns came or went", new.map_or("one made anew", |(now, _)| &now.name));
    }
    for name in stream.filter.iter().flat_map(|filter| filter.columns()).chain(stream.chunk_column.as_deref())
    {
        if !described.columns.iter().any(|(now, _)| now.name == name) {
            return changed("a column that a filter or chunk_column names is gone", name);
        }
    }
    let Stream { primary_key, log_key, .. } = &described.stream;
    let same = match (stream.sync_mode.follows_log(), log_key) {
        (true, Some(key)) => stream.key == *key,
        // One that is followed and merely read here keeps the key of its changes.
        _ => stream.key == *primary_key || log_key.as_ref().is_some_and(|key| stream.key == *key),
    };
    if !stream.key.is_empty() && !same {
        return changed("the key changed", &stream.key.join(", "));
    }
    Ok(())
}

fn read_columns(stream: &ConfiguredStream, described: &Described) -> Vec<ReadColumn> {
    stream
        .schema
        .columns
        .iter()
        .filter_map(|column| {
            let (_, mapped) = described.columns.iter().find(|(now, _)| now.name == column.name)?;
            Some(ReadColumn { name: column.name.clone(), pg_type: mapped.pg_type.clone() })
        })
        .collect()
}

/// What done chunks depend on, in hashes that mean the same in every run and build.
async fn fingerprint(
    connection: &Connection,
    version: u32,
    stream: &ConfiguredStream,
    described: &Described,
    relations: &[ReadRelation],
    token: &str,
) -> Result<Fingerprint> {
    let used = |name: &str| {
        stream.schema.column(name).is_some()
            || stream.key.iter().any(|key| key == name)
            || stream.filter.as_ref().is_some_and(|filter| filter.columns().contains(&name))
            || stream.chunk_column.as_deref() == Some(name)
    };
    let line = |column: &catalog::ColumnRow| {
        let target = stream.schema.column(&column.name).map(|column| column.column_type.to_string());
        format!(
            "{:?}",
            (
                column.attnum,
                &column.name,
                column.type_oid,
                column.typmod,
                column.collation,
                &column.missing,
                target
            )
        )
    };
    let columns: Vec<&catalog::ColumnRow> =
        described.columns.iter().map(|(column, _)| column).filter(|column| used(&column.name)).collect();
    let mut lines: Vec<String> = columns.iter().map(|column| line(column)).collect();
    lines.extend(catalog::type_facts(connection, columns.iter().map(|column| column.type_oid)).await?);
    let schema = hash(&lines);

    let mut stored = BTreeMap::new();
    let oids: Vec<u32> = relations.iter().map(|relation| relation.oid).collect();
    let own = catalog::columns(connection, version, &oids).await?;
    for relation in relations.iter().filter(|relation| relation.heap) {
        let lines: Vec<String> = own
            .get(&relation.oid)
            .into_iter()
            .flatten()
            .filter(|column| used(&column.name))
            .map(line)
            .collect();
        let file = relation.filenode.unwrap_or_default();
        stored.insert(relation.oid.to_string(), format!("{file}-{}", &hash(&lines)[..16]));
    }
    // What has no storage of its own is never the same twice.
    for relation in
        relations.iter().filter(|relation| !relation.heap && relation.oid != described.relation.oid)
    {
        stored.insert(relation.oid.to_string(), token.to_owned());
    }
    if stored.is_empty() {
        stored.insert(String::new(), token.to_owned());
    }
    if described.relation.kind == RelationKind::Partitioned {
        // Partitions come and go, all of them in the end; the table is the same as long as its root is.
        stored.insert(described.relation.oid.to_string(), String::new());
    }
    let files: Vec<String> = relations
        .iter()
        .filter(|relation| relation.heap)
        .map(|relation| format!("{}:{}", relation.oid, relation.filenode.unwrap_or_default()))
        .collect();
    Ok(Fingerprint { schema, storage: hash(&files), log: String::new(), relations: stored })
}

fn hash(lines: &[String]) -> String {
    format!("{:032x}", xxh3_128(lines.join("\n").as_bytes()))
}
