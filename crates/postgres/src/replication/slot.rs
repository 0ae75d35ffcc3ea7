//! Replication slots: looked at, made within a time limit, dropped.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lakeward_core::{Error, ErrorKind, Result, ResultExt};
use serde::Deserialize;
use tokio::time::Instant;

use super::lsn::{LogPosition, Lsn};
use super::timeline::History;
use crate::connect::{Connection, Connector};
use crate::{sql, wire};

/// How long a slot may still be in use by a session of ours that was killed.
const LINGERING: Duration = Duration::from_secs(10);
/// How long a query that was cancelled may take to end.
const GOODBYE: Duration = Duration::from_secs(5);
/// How long others wait for a lock of ours, at most, while a slot is made.
const GIVE_WAY: Duration = Duration::from_millis(500);
/// How long a slot may take before whom it waits for is told.
const SILENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(200);
/// Standbys take slots over from here on.
const FAILOVER_VERSION: u32 = 17;

/// A slot, as far as its server's version tells.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Slot {
    plugin: Option<String>,
    database: Option<String>,
    pub(crate) active: bool,
    active_pid: Option<i32>,
    pub(crate) restart_lsn: Option<Lsn>,
    pub(crate) confirmed_flush_lsn: Option<Lsn>,
    wal_status: Option<String>,
    #[serde(default)]
    two_phase: bool,
    conflicting: Option<bool>,
    invalidation_reason: Option<String>,
}

/// Where the server is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The end of its log.
    pub(crate) lsn: Lsn,
    pub(crate) timeline: u32,
    pub(crate) system_identifier: String,
    page: u64,
}

impl Place {
    pub(crate) async fn current(connection: &Connection) -> Result<Self> {
        // CASE keeps a standby from calling what only a primary may.
        let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
              ELSE pg_current_wal_insert_lsn() END::text, \
            CASE WHEN pg_is_in_recovery() \
              THEN (SELECT greatest(c.timeline_id, r.min_recovery_end_timeline) \
                FROM pg_control_checkpoint() c, pg_control_recovery() r) \
              ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END, \
            (SELECT system_identifier::text FROM pg_control_system()), \
            current_setting('wal_block_size')::int8";
        let row = connection.row(sql, &[]).await?;
        Ok(Self {
            lsn: row.get::<_, &str>(0).parse()?,
            timeline: row.get::<_, i32>(1).cast_unsigned(),
            system_identifier: row.get(2),
            page: row.get::<_, i64>(3).cast_unsigned(),
        })
    }

    /// Where a reading up to now ends.
    pub(crate) fn target(&self) -> Lsn {
        self.lsn.before_page_header(self.page)
    }
}

/// The slot of that name, if there is one.
pub(crate) async fn find(connection: &Connection, name: &str) -> Result<Option<Slot>> {
    // As JSON, because every version has columns that the one before had not.
    let sql =
        "SELECT row_to_json(s)::text FROM pg_catalog.pg_replication_slots s WHERE s.slot_name::text = $1";
    let rows = connection.rows(sql, &[&name]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    serde_json::from_str(row.get(0))
        .map(Some)
        .map_err(|error| Error::bug("pg_replication_slots is not what it was").source(error))
}

impl Slot {
    /// Whether it can be read by us at all. What cannot was never ours: it is not dropped either.
    pub(crate) fn check_kind(&self, name: &str, database: &str) -> Result<()> {
        let refuse = |what: String| {
            Err(Error::new(ErrorKind::Source, what)
                .at("slot", name)
                .hint("name another slot in replication.slot"))
        };
        if self.plugin.as_deref() != Some("pgoutput") {
            return refuse("the slot is not one of the plugin pgoutput".to_owned());
        }
        match self.database.as_deref() {
            Some(other) if other != database => {
                return refuse(format!("the slot belongs to the database {other}"));
            }
            _ => {}
        }
        if self.two_phase {
            return refuse("the slot was made with two_phase: prepared rows would be sent once".to_owned());
        }
        Ok(())
    }

    /// Why what follows `saved` cannot be had from it.
    pub(crate) fn loss(&self, name: &str, saved: Lsn) -> Option<String> {
        if let Some(reason) = &self.invalidation_reason {
            return Some(format!("the server has invalidated slot {name}: {reason}"));
        }
        if self.conflicting == Some(true) {
            return Some(format!("the server has invalidated slot {name}: it conflicted with recovery"));
        }
        if self.wal_status.as_deref() == Some("lost") || self.restart_lsn.is_none() {
            return Some(format!("slot {name} has lost log that it needs"));
        }
        match self.confirmed_flush_lsn {
            Some(confirmed) if confirmed > saved => Some(format!(
                "slot {name} stands at {confirmed}, behind which it sends nothing, and the last commit at {saved}"
            )),
            _ => None,
        }
    }
}

/// Why the server's log is not the one that `saved` is a place of. A server that was promoted goes on with the log of
/// the one before it from where it left that one's timeline.
pub(crate) async fn foreign_log(
    connector: &Connector,
    saved: &LogPosition,
    lsn: Lsn,
    place: &Place,
) -> Result<Option<String>> {
    if saved.system_identifier.as_ref().is_some_and(|saved| *saved != place.system_identifier) {
        return Ok(Some("this is another server".to_owned()));
    }
    if let Some(before) = saved.timeline.filter(|timeline| *timeline != place.timeline) {
        let now = place.timeline;
        match History::of(connector, now).await?.left(before) {
            Some(left) if lsn <= left => {}
            Some(left) => {
                return Ok(Some(format!(
                    "the server was promoted, and its timeline {now} left timeline {before} at {left}, before the last \
                     commit at {lsn}: what was committed at the source in between is not in it"
                )));
            }
            None => {
                return Ok(Some(format!(
                    "the server is on timeline {now}, which does not come from timeline {before} of the last commit"
                )));
            }
        }
    }
    Ok((place.lsn < lsn).then(|| {
        format!("the server's log ends at {}, before the last commit at {lsn}: it was restored", place.lsn)
    }))
}

/// Waits until nobody reads a slot: what was killed is noticed late.
pub(crate) async fn await_idle(connection: &Connection, name: &str) -> Result<Option<Slot>> {
    let deadline = Instant::now() + LINGERING;
    loop {
        match find(connection, name).await? {
            Some(slot) if slot.active => {
                if Instant::now() > deadline {
                    let pid = slot.active_pid.unwrap_or_default();
                    return Err(Error::new(
                        ErrorKind::Connection,
                        format!("another session reads the slot: pid {pid}"),
                    )
                    .at("slot", name)
                    .hint(format!(
                        "stop the other run, or end its session: SELECT pg_terminate_backend({pid});"
                    )));
                }
                tokio::time::sleep(POLL).await;
            }
            other => return Ok(other),
        }
    }
}

/// Makes a slot for good and returns where it begins.
pub(crate) async fn create(connector: &Connector, name: &str) -> Result<Lsn> {
    let version = connector.version().await?;
    let connection = connector.connect().await?;
    connection.run("SET lock_timeout = 0").await?;
    let pid = connection.pid().await?;
    let recovery: bool = connection.row("SELECT pg_is_in_recovery()", &[]).await?.get(0);
    let sql = format!(
        "SELECT lsn::text FROM pg_catalog.pg_create_logical_replication_slot({}, 'pgoutput'{})",
        sql::literal(name),
        if version >= FAILOVER_VERSION && !recovery { ", failover => true" } else { "" }
    );
    let made = within(connector, pid, None, connection.long_rows(&sql)).await;
    if made.is_err() {
        // The server tells that it failed before it has dropped what there was of the slot, and is ready only afterwards.
        let _ = tokio::time::timeout(GOODBYE, connection.run("SELECT 1")).await;
    }
    let rows = made.map_err(|error| error.at("slot", name))?.unwrap_or_default();
    rows.first().ok_or_else(|| Error::bug("a slot was made and is nowhere"))?.get::<_, &str>(0).parse()
}

/// Drops a slot, if it is there.
pub(crate) async fn drop(connection: &Connection, name: &str) -> Result<()> {
    if await_idle(connection, name).await?.is_some() {
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
            WHERE slot_name::text = $1";
        connection.rows(sql, &[&name]).await?;
    }
    Ok(())
}

/// A slot that goes with its session, and the snapshot from which it begins.
pub(crate) struct Snapshot {
    pub(crate) lsn: Lsn,
    /// Its name; good until [`close`](Self::close).
    pub(crate) name: String,
    session: wire::Connection,
}

impl Snapshot {
    /// Takes a snapshot at a place in the log. `None` where somebody waits for the locks of `holder`, a process of ours,
    /// meanwhile.
    pub(crate) async fn take(connector: &Connector, holder: i32) -> Result<Option<Self>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let moment = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let name = format!(
            "lakeward_snapshot_{}_{}_{:x}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed),
            moment.as_nanos() & u128::from(u64::MAX)
        );
        let endpoint = replication_endpoint(connector).await?;
        let mut session = blocking(move || wire::Connection::connect(&endpoint)).await?;
        let handle = session.cancel_handle();
        let making = blocking(move || {
            let sql =
                format!("CREATE_REPLICATION_SLOT \"{name}\" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT");
            let rows = session.query_rows(&sql)?;
            Ok((session, rows))
        });
        let made = within(connector, handle.process_id(), Some(holder), making).await.map_err(all_in_use);
        let Some((session, rows)) = made? else {
            return Ok(None);
        };
        let text = |index: usize| rows.first().and_then(|row| row.get(index)?.clone());
        match (text(1), text(2)) {
            (Some(lsn), Some(name)) => Ok(Some(Self { lsn: lsn.parse()?, name, session })),
            _ => Err(Error::bug("a slot was made without a snapshot")),
        }
    }

    /// Lets go of the slot, and of the snapshot where nobody else holds it.
    pub(crate) async fn close(self) {
        let _ = blocking(move || {
            self.session.close();
            Ok(())
        })
        .await;
    }
}

/// Where connections that speak the replication protocol lead.
pub(crate) async fn replication_endpoint(connector: &Connector) -> Result<wire::Endpoint> {
    let mut endpoint = connector.endpoint().await?;
    endpoint.options.retain(|(name, _)| name != "lock_timeout");
    endpoint.options.push(("lock_timeout".to_owned(), "0".to_owned()));
    endpoint.options.push(("replication".to_owned(), "database".to_owned()));
    Ok(endpoint)
}

/// Runs what blocks on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .or_fail(ErrorKind::Bug, || "a blocking task did not end by itself".to_owned())?
}

/// Waits for process `pid` to make a slot, which waits for every transaction that is running, and says whose they are
/// when that takes longer than a lock may.
///
/// `None` where one of those may wait for `holder`: neither would ever end, and the server sees no deadlock, because it
/// does not know that the one waits for the other.
async fn within<T>(
    connector: &Connector,
    pid: i32,
    holder: Option<i32>,
    work: impl Future<Output = Result<T>>,
) -> Result<Option<T>> {
    let limit = connector.settings().lock_timeout;
    tokio::pin!(work);
    let (began, mut told) = (Instant::now(), false);
    let connection = loop {
        if let Ok(result) = tokio::time::timeout(GIVE_WAY, &mut work).await {
            return result.map(Some);
        }
        let late = !limit.is_zero() && began.elapsed() > limit;
        let connection = match connector.connect().await {
            Ok(connection) => connection,
            // Without one nothing is known, and nothing can be ended.
            Err(_) if !late => continue,
            Err(error) => return Err(error),
        };
        if let Some(holder) = holder
            && in_the_way(&connection, holder).await.unwrap_or(false)
        {
            cancel(&connection, pid, work).await?;
            connector.rest(connection);
            return Ok(None);
        }
        if late {
            break connection;
        }
        if !told && began.elapsed() > SILENCE {
            told = true;
            let whom = blockers(&connection, pid).await.unwrap_or_default().join(", ");
            tracing::warn!(limit = ?limit, "a replication slot waits for running transactions: {whom}");
        }
        connector.rest(connection);
    };
    let blockers = blockers(&connection, pid).await.unwrap_or_default();
    cancel(&connection, pid, work).await?;
    let who = if blockers.is_empty() { "running transactions".to_owned() } else { blockers.join(", ") };
    Err(Error::new(
        ErrorKind::Connection,
        format!("a replication slot could not be made in time: it waits for {who}"),
    )
    .hint("end those transactions (SELECT pg_terminate_backend(pid)), or raise lock_timeout in the config"))
}

/// Ends the making of a slot. What there is of it goes with the query.
async fn cancel<T>(connection: &Connection, pid: i32, work: impl Future<Output = T>) -> Result<()> {
    connection.rows("SELECT pg_cancel_backend($1)", &[&pid]).await?;
    let _ = tokio::time::timeout(GOODBYE, work).await;
    Ok(())
}

/// A server that has no slot left says so, but not what it is wanted for.
fn all_in_use(error: Error) -> Error {
    if !format!("{error:?}").contains("replication slots are in use") {
        return error;
    }
    error.hint(
        "a stream needs a slot while its snapshot is taken, beside the pipeline's own: drop one that nobody needs (SELECT \
         slot_name, active FROM pg_replication_slots), or raise max_replication_slots and restart the server",
    )
}

/// Whether somebody waits for a lock of this process.
async fn in_the_way(connection: &Connection, pid: i32) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l \
        WHERE NOT l.granted AND $1 = ANY (pg_catalog.pg_blocking_pids(l.pid)))";
    Ok(connection.row(sql, &[&pid]).await?.get(0))
}

/// Transactions that a slot waits for.
async fn blockers(connection: &Connection, pid: i32) -> Result<Vec<String>> {
    let sql = "SELECT 'pid ' || a.pid || ' (' || coalesce(a.datname, '') || ', ' || coalesce(a.application_name, '') \
          || coalesce(', since ' || date_trunc('second', a.xact_start)::text, '') || ')' \
        FROM pg_catalog.pg_stat_activity a WHERE a.backend_xid IS NOT NULL AND a.pid <> $1 \
          AND (NOT EXISTS (SELECT FROM unnest(pg_blocking_pids($1)) b WHERE b <> 0) OR a.pid = ANY (pg_blocking_pids($1))) \
        UNION ALL SELECT 'prepared transaction of ' || p.owner || ' in ' || p.database \
        FROM pg_catalog.pg_prepared_xacts p LIMIT 5";
    Ok(connection.rows(sql, &[&pid]).await?.iter().map(|row| row.get(0)).collect())
}
