//! Sessions: what readers must know of a snapshot, what it is compared by, and who holds it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lakeward_core::{Error, ErrorKind, Result, Session};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::catalog::RelationKind;
use crate::connect::Connection;
use crate::decode::{CopyFormat, PgType};
use crate::error::session_lost;
use crate::resting::Resting;
use crate::sql;

/// How often a holder asks its server for a sign of life.
const PING: Duration = Duration::from_secs(5);
/// How long a holder may take to give its snapshot up in order.
const GOODBYE: Duration = Duration::from_secs(5);
/// Above this distance two transaction numbers are not compared by their 32 bits (half the circle is 2³¹).
const MAX_DISTANCE: u64 = 2_000_000_000;

/// What readers need to read a stream under a session ([`Session::detail`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Detail {
    /// The server's major version.
    pub(crate) version: u32,
    /// The stream's own relation: what is read where a chunk names none.
    pub(crate) root: ReadRelation,
    /// The stream's columns, in its order.
    pub(crate) columns: Vec<ReadColumn>,
    /// By name of every column that the table has, the type that its literals are cast to.
    pub(crate) sql_types: BTreeMap<String, String>,
    /// The primary key.
    pub(crate) key: Vec<String>,
    /// What is asked of COPY.
    pub(crate) format: CopyFormat,
    /// The relations that hold rows: the table itself or its leaves; none for what has no storage.
    pub(crate) relations: Vec<ReadRelation>,
}

/// A column as it is read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReadColumn {
    pub(crate) name: String,
    pub(crate) pg_type: PgType,
}

/// A relation as it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReadRelation {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) kind: RelationKind,
    /// Whether its rows lie in a heap, whose row places (`ctid`) and row versions (`xmin`) mean something.
    pub(crate) heap: bool,
    /// The file that holds its rows under the snapshot.
    pub(crate) filenode: Option<u32>,
}

impl ReadRelation {
    /// Its name in SQL.
    pub(crate) fn sql(&self) -> String {
        sql::qualified(&self.schema, &self.name)
    }

    /// Its own rows in a FROM clause, without those of inheritance children.
    pub(crate) fn from(&self) -> String {
        match self.kind {
            RelationKind::View => self.sql(),
            _ => format!("ONLY {}", self.sql()),
        }
    }

    /// A condition that is true of every row, and fails where the name stands for another relation by now: renaming a
    /// schema waits for no lock. It belongs into the statement that reads by the name, where the planner reckons it
    /// once.
    pub(crate) fn still_named(&self) -> String {
        // Division by zero is the guard: it needs no language that the database may lack.
        format!(
            "1 / ({}::pg_catalog.regclass::pg_catalog.oid = {})::int = 1",
            sql::literal(&self.sql()),
            self.oid
        )
    }
}

impl Detail {
    /// What a session carries.
    ///
    /// # Errors
    /// `Bug`, where another driver's session came in.
    pub(crate) fn of(session: &Session) -> Result<Self> {
        Self::deserialize(&session.detail)
            .map_err(|error| Error::bug("a session is not of this driver").source(error))
    }

    /// The relation that a chunk reads.
    pub(crate) fn relation(&self, name: Option<&str>) -> Result<&ReadRelation> {
        match name {
            None => Ok(&self.root),
            Some(name) => {
                self.relations.iter().find(|relation| relation.oid.to_string() == name).ok_or_else(|| {
                    Error::bug("a chunk names a relation that its session does not have").at("relation", name)
                })
            }
        }
    }

    /// The cast type of a column's literals.
    pub(crate) fn sql_type(&self, column: &str) -> Result<&str> {
        self.sql_types.get(column).map(String::as_str).ok_or_else(|| {
            Error::new(ErrorKind::Schema, "a column is gone")
                .at("column", column)
                .hint("run `lakeward discover` again")
        })
    }
}

/// Statements by which a reader joins a session, before it reads `relations`.
///
/// The table is locked and its file compared once more, so that even where the holder died in this very moment
/// no row is missed: what fails here is `SessionLost` (see `error::in_session`).
pub(crate) fn join(token: &str, relations: &[&ReadRelation]) -> Vec<String> {
    let mut statements =
        vec![sql::AT_ONE_MOMENT.to_owned(), format!("SET TRANSACTION SNAPSHOT {}", sql::literal(token))];
    statements.extend(lock(relations.iter().copied(), Wait::Not));
    let stored: Vec<_> =
        relations.iter().filter_map(|relation| Some((relation.oid, relation.filenode?))).collect();
    if !stored.is_empty() {
        let list = |items: Vec<u32>| items.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let (oids, files): (Vec<u32>, Vec<u32>) = stored.into_iter().unzip();
        // A guard as in `still_named`.
        statements.push(format!(
            "SELECT 1 / bool_and(pg_relation_filenode(t.oid) IS NOT DISTINCT FROM t.file)::int \
             FROM unnest('{{{}}}'::oid[], '{{{}}}'::oid[]) t(oid, file)",
            list(oids),
            list(files)
        ));
    }
    statements
}

/// Whether a lock is worth waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Up to `lock_timeout`.
    UntilTimeout,
    /// The session's holder has the lock already, so what is in the way is DDL that waits for the holder: a reader
    /// that queued behind it would wait for ever, unseen by the server's search for deadlocks, and with it
    /// everyone else. The session gives way instead.
    Not,
}

/// Statements that lock relations against everything but reading and writing rows, until the transaction ends.
pub(crate) fn lock<'a>(relations: impl Iterator<Item = &'a ReadRelation>, wait: Wait) -> Vec<String> {
    let (mut tables, mut statements) = (Vec::new(), Vec::new());
    for relation in relations {
        match relation.kind {
            RelationKind::Table | RelationKind::Partitioned => tables.push(relation.from()),
            // LOCK does not take one of these, but reading nothing of it locks it all the same.
            RelationKind::MaterializedView => {
                statements.push(format!("SELECT FROM {} LIMIT 0", relation.sql()));
            }
            RelationKind::View | RelationKind::Foreign => {}
        }
    }
    if !tables.is_empty() {
        // First: LOCK takes no snapshot, so that the snapshot is younger than the lock.
        let nowait = if wait == Wait::Not { " NOWAIT" } else { "" };
        statements.insert(0, format!("LOCK TABLE {} IN ACCESS SHARE MODE{nowait}", tables.join(", ")));
    }
    statements
}

/// A snapshot's identity ([`Session::snapshot`]), in 64-bit transaction numbers.
///
/// Guarantee: a row version visible under a later snapshot S2 was visible under this one, unless it is new. It is
/// new iff its `xmin` is not below [`xmin`](Self::xmin): every transaction below that had ended when this
/// snapshot was taken, and a row whose version is visible now had not been deleted before. The transactions that
/// were open at and above it could not tell more: a snapshot does not name their subtransactions, whose numbers
/// rows carry too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// All transactions below had ended.
    #[serde(with = "text")]
    pub(crate) xmin: u64,
    /// No transaction at or above had ended.
    #[serde(with = "text")]
    pub(crate) xmax: u64,
    /// The server's timeline, and whether it was a standby: transaction numbers of one timeline mean the same.
    pub(crate) node: String,
}

impl Snapshot {
    /// Reads it in the current transaction. No function of it is a primary's only.
    pub(crate) async fn current(connection: &Connection) -> Result<Self> {
        // CASE keeps a standby from calling what only a primary may. A primary's checkpoint can be older than its
        // promotion, so its timeline comes from the name of the file that it writes.
        let sql = "SELECT txid_snapshot_xmin(s), txid_snapshot_xmax(s), CASE WHEN pg_is_in_recovery() \
              THEN 'standby ' || (SELECT greatest(c.timeline_id, r.min_recovery_end_timeline)::text \
                FROM pg_control_checkpoint() c, pg_control_recovery() r) \
              ELSE 'primary ' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END \
            FROM txid_current_snapshot() s";
        let row = connection.row(sql, &[]).await?;
        Ok(Self {
            xmin: row.get::<_, i64>(0).cast_unsigned(),
            xmax: row.get::<_, i64>(1).cast_unsigned(),
            node: row.get(2),
        })
    }

    /// What a session or a done chunk carries, if it is one of these.
    pub(crate) fn of(value: &Value) -> Option<Self> {
        Self::deserialize(value).ok()
    }

    /// As a session carries it.
    pub(crate) fn to_value(&self) -> Value {
        json!({"xmin": self.xmin.to_string(), "xmax": self.xmax.to_string(), "node": self.node})
    }

    /// Whether row versions may be judged new by their `xmin` against `earlier`, under this snapshot.
    ///
    /// Not across timelines, where numbers are used twice; not over so many transactions that 32 bits have gone
    /// round; and on standbys only where this snapshot surely is the later one, since another standby behind the
    /// same address may lag.
    pub(crate) fn can_judge(&self, earlier: &Self) -> bool {
        let later = if self.node.starts_with("standby") {
            self.xmin >= earlier.xmax
        } else {
            self.xmin >= earlier.xmin && self.xmax >= earlier.xmax
        };
        later && self.node == earlier.node && self.xmax - earlier.xmin < MAX_DISTANCE
    }
}

/// 64-bit numbers as text: JSON's own are doubles to many readers.
mod text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The sessions that this process holds open, by token.
#[derive(Default)]
pub(crate) struct Holders {
    open: Mutex<HashMap<String, Holder>>,
}

struct Holder {
    stop: DropGuard,
    lost: CancellationToken,
    connection: Weak<tokio::sync::Mutex<Connection>>,
    task: JoinHandle<()>,
}

impl Holders {
    /// Keeps a connection's transaction, and with it its exported snapshot, until [`release`](Self::release). Then
    /// the connection rests.
    pub(crate) fn keep(&self, token: &str, connection: Connection, rest: Arc<Resting<Connection>>) {
        let stop = CancellationToken::new();
        let lost = connection.closed();
        let shared = Arc::new(tokio::sync::Mutex::new(connection));
        let connection = Arc::downgrade(&shared);
        let task = tokio::spawn(hold(shared, lost.clone(), stop.clone(), rest));
        self.open().insert(token.to_owned(), Holder { stop: stop.drop_guard(), lost, connection, task });
    }

    /// Gives a session up and waits until its snapshot is gone. One that is not held here is none of ours.
    pub(crate) async fn release(&self, token: &str) {
        let holder = self.open().remove(token);
        if let Some(Holder { stop, mut task, .. }) = holder {
            drop(stop);
            let _ = tokio::time::timeout(GOODBYE, &mut task).await;
            task.abort();
        }
    }

    /// What is cancelled when the session's holder dies; `None` where another process holds it.
    pub(crate) fn lost(&self, token: &str) -> Option<CancellationToken> {
        self.open().get(token).map(|holder| holder.lost.clone())
    }

    /// The connection that holds a session, for what is asked under its snapshot and locks.
    ///
    /// # Errors
    /// `SessionLost`, where it is not held here any more.
    pub(crate) fn connection(&self, token: &str) -> Result<Arc<tokio::sync::Mutex<Connection>>> {
        let held = self.open().get(token).and_then(|holder| holder.connection.upgrade());
        held.ok_or_else(|| session_lost().at("snapshot", token))
    }

    /// Whether the session is known to be gone.
    ///
    /// # Errors
    /// `SessionLost`, where it is.
    pub(crate) fn require(&self, token: &str) -> Result<()> {
        match self.lost(token) {
            Some(lost) if lost.is_cancelled() => Err(session_lost().at("snapshot", token)),
            _ => Ok(()),
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Holder>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds a transaction open. In order: (1) stops when asked, (2) ends when the connection has, (3) pings.
async fn hold(
    connection: Arc<tokio::sync::Mutex<Connection>>,
    closed: CancellationToken,
    stop: CancellationToken,
    rest: Arc<Resting<Connection>>,
) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = closed.cancelled() => return,
            () = tokio::time::sleep(PING) => {
                // Whoever asks something else over it hears as well as we whether the server is there.
                let Ok(idle) = connection.try_lock() else { continue };
                // Dropping the connection is what tells readers.
                if let Err(error) = idle.run("SELECT 1").await {
                    tracing::warn!(%error, "the session that holds a snapshot does not answer");
                    return;
                }
            }
        }
    }
    let ended = connection.lock().await.run("COMMIT").await;
    if let (Ok(()), Some(connection)) = (ended, Arc::into_inner(connection)) {
        rest.put(connection.into_inner(), &Handle::current());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(xmin: u64, xmax: u64, node: &str) -> Snapshot {
        Snapshot { xmin, xmax, node: node.to_owned() }
    }

    #[test]
    fn snapshots_are_judged_only_where_numbers_mean_the_same() {
        let earlier = snapshot(100, 110, "primary 1");
        assert!(snapshot(100, 110, "primary 1").can_judge(&earlier));
        assert!(!snapshot(99, 110, "primary 1").can_judge(&earlier));
        assert!(!snapshot(200, 210, "primary 2").can_judge(&earlier));
        assert!(!snapshot(100, 100 + MAX_DISTANCE, "primary 1").can_judge(&earlier));
        let standby = snapshot(100, 110, "standby 1");
        assert!(!snapshot(105, 110, "standby 1").can_judge(&standby));
        assert!(snapshot(110, 110, "standby 1").can_judge(&standby));
    }

    #[test]
    fn snapshots_survive_json() {
        let value = snapshot(u64::MAX, 1, "primary 1");
        assert_eq!(Snapshot::of(&value.to_value()), Some(value));
        assert_eq!(Snapshot::of(&Value::Null), None);
    }
}
