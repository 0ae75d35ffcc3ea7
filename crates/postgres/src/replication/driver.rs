//! The ability to follow the log, behind its contract.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use lakeward_core::{
    CdcDriver, ChangeMode, ChangeRequest, ChangeScope, ChangeStream, ConfiguredStream, Error, ErrorKind, Lag,
    Position, Prepared, ReadContext, Result, ResultExt, Session, Standing, Stream, StreamId, StreamPhase,
    Until,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::assemble::Assembler;
use super::batches::{Batches, Lookups, Outlet};
use super::feedback::Feedback;
use super::lsn::{LogPosition, Lsn, Names};
use super::phases::Phases;
use super::reader::{Reader, Start, Work};
use super::slot::{self, Place, blocking};
use super::spill::InProgress;
use super::tables::Tables;
use super::{peek, prepare, publication};
use crate::PostgresDriver;
use crate::backfill::{self, Behind};
use crate::connect::Connector;
use crate::reports::listen;
use crate::{sql, wire};

/// Events that wait to be taken.
const EVENTS_AHEAD: usize = 1;
/// How often at least the server is told how far we are.
const FEEDBACK: Duration = Duration::from_secs(10);
/// How long the server may take to note the last word.
const GOODBYE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);
/// From here on transactions in progress are sent.
const STREAMING_VERSION: u32 = 14;

/// What this driver knows of the pipeline that it follows the log for.
#[derive(Default)]
pub(crate) struct Replication {
    state: Mutex<State>,
    /// The columns that streams had when they were described last.
    described: Mutex<HashMap<StreamId, HashSet<String>>>,
}

#[derive(Default)]
struct State {
    names: Option<Names>,
    released: Lsn,
    reading: Option<Arc<Reading>>,
}

/// A reading: its connection lives until [`end`](Reading::end), so that what is committed after the last event
/// can still be released.
struct Reading {
    phases: Arc<Phases>,
    feedback: Arc<Feedback>,
    handle: wire::CancelHandle,
    stop: CancellationToken,
    ended: CancellationToken,
    slot: String,
    /// Why nobody can read the log from where this reading ended.
    unreadable: Arc<OnceLock<String>>,
}

impl Replication {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pipeline's names.
    ///
    /// # Errors
    /// `Bug`, before [`CdcDriver::pre_cdc`].
    pub(crate) fn names(&self) -> Result<Names> {
        let names = self.state().names.clone();
        names.ok_or_else(|| Error::bug("a stream is to join a log that was not made followable"))
    }

    /// Remembers what streams looked like when they were configured.
    pub(crate) fn described<'a>(&self, streams: impl Iterator<Item = &'a Stream>) {
        let mut described = self.described.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in streams {
            let columns = stream.schema.columns.iter().map(|column| column.name.clone()).collect();
            described.insert(stream.id.clone(), columns);
        }
    }

    fn columns(&self, stream: &StreamId) -> Option<HashSet<String>> {
        self.described.lock().unwrap_or_else(PoisonError::into_inner).get(stream).cloned()
    }

    /// Ends the reading that there is, if any.
    async fn end(&self, connector: &Connector) -> Result<()> {
        let reading = self.state().reading.take();
        match reading {
            Some(reading) => reading.end(connector).await,
            None => Ok(()),
        }
    }
}

impl Reading {
    /// Says the last word and hangs up when the server has heard it.
    async fn end(&self, connector: &Connector) -> Result<()> {
        self.stop.cancel();
        let feedback = self.feedback.clone();
        blocking(move || {
            feedback.stop();
            Ok(())
        })
        .await?;
        let released = self.feedback.released();
        if released > Lsn::default() {
            let heard = async {
                let connection = connector.connect().await?;
                while let Some(slot) = slot::find(&connection, &self.slot).await? {
                    if slot.confirmed_flush_lsn >= Some(released) || !slot.active {
                        break;
                    }
                    tokio::time::sleep(POLL).await;
                }
                Ok::<(), Error>(())
            };
            // Not to be heard is no loss: it is said again at the next start.
            if let Ok(Err(error)) = tokio::time::timeout(GOODBYE, heard).await {
                tracing::debug!(%error, "it is not known whether the server heard the last position");
            }
        }
        self.handle.hang_up();
        Ok(())
    }
}

#[async_trait]
impl CdcDriver for PostgresDriver {
    fn modes(&self) -> &[ChangeMode] {
        &[ChangeMode::Concurrent, ChangeMode::Parallel, ChangeMode::Sequential]
    }

    fn scope(&self) -> ChangeScope {
        ChangeScope::SharedLog
    }

    async fn intent(&self, pipeline: &str, saved: Option<&Position>) -> Result<Position> {
        let saved = saved.map(LogPosition::of).transpose()?;
        Ok(prepare::intent(&self.connector, pipeline, saved).await?.to_position())
    }

    async fn pre_cdc(
        &self,
        streams: &[Arc<ConfiguredStream>],
        kept: &[String],
        saved: &Position,
    ) -> Result<Prepared> {
        let saved = LogPosition::of(saved)?;
        let before = self.replication.state().reading.clone();
        self.replication.end(&self.connector).await?;
        let unreadable = before.and_then(|reading| reading.unreadable.get().cloned());
        let prepared = prepare::prepare(&self.connector, streams, kept, &saved, unreadable).await?;
        let mut state = self.replication.state();
        state.names = Some(LogPosition::of(&prepared.position)?.names()?);
        state.released = Lsn::default();
        Ok(prepared)
    }

    async fn stream_changes(&self, request: ChangeRequest) -> Result<ChangeStream> {
        self.replication.end(&self.connector).await?;
        let pipeline = LogPosition::of(&request.from)?;
        let names = pipeline.names()?;
        let from = pipeline.lsn.ok_or_else(|| Error::bug("a reading begins nowhere"))?;
        let connection = self.connector.connect().await?;
        let target = match request.until {
            Until::Now => Some(Place::current(&connection).await?.target()),
            Until::Forever => None,
        };
        let streams = request.streams.iter().map(|(stream, _)| stream.clone());
        let described = |stream: &StreamId| self.replication.columns(stream);
        let tables = match Tables::load(&self.connector, &names, streams, described).await? {
            Ok(tables) => tables,
            Err(change) => {
                return Ok(stream::once(async { Ok(change.into()) }).boxed());
            }
        };
        let (log, writer) = self.follow(&connection, &names, from).await?;
        let handle = log.cancel_handle();
        let released = self.replication.state().released;
        let interval = interval(&connection, self.connector.settings().silence_limit).await?;
        let feedback = Arc::new(Feedback::start(writer, released, interval)?);
        let phases = request.streams.iter().map(|(stream, phase)| (stream.id.clone(), phase.clone()));
        let phases = Arc::new(Phases::new(phases));
        let stop = request.context.cancel.child_token();
        let ended = CancellationToken::new();
        let (sender, receiver) = mpsc::channel(EVENTS_AHEAD);
        let outlet = Outlet {
            context: request.context.clone(),
            runtime: Handle::current(),
            stop: stop.clone(),
            sender,
        };
        let lookups = Lookups { connector: self.connector.clone(), connection: None };
        let batches = Batches::new(tables.tables.len(), outlet, lookups);
        let work = Work::new(
            Start { from, target, pipeline, interval: request.checkpoint },
            Assembler::new(tables, batches, phases.clone()),
            in_progress(&request.context),
            phases.clone(),
            feedback.clone(),
        );
        let unreadable = Arc::new(OnceLock::new());
        let (finished, judged) = (ended.clone().drop_guard(), unreadable.clone());
        std::thread::Builder::new()
            .name("postgres-log".to_owned())
            .spawn(move || {
                let _finished = finished;
                Reader { log, work, unreadable: judged }.run();
            })
            .or_fail(ErrorKind::Source, || "no thread can be started to read the log".to_owned())?;
        if let Some(period) = prepare::settings(&self.connector).heartbeat {
            tokio::spawn(heartbeat(self.connector.clone(), period.duration(), stop.clone(), ended.clone()));
        }
        let stopped = stop.clone();
        let reading =
            Reading { phases, feedback, handle, stop: stopped, ended, slot: names.slot, unreadable };
        self.replication.state().reading = Some(Arc::new(reading));
        Ok(listen(receiver, stop))
    }

    async fn enter_phase(&self, stream: &StreamId, phase: StreamPhase) -> Result<Option<u64>> {
        let reading = self.replication.state().reading.clone();
        match reading {
            Some(reading) if !reading.ended.is_cancelled() => reading.phases.enter(stream, phase).map(Some),
            _ => Ok(None),
        }
    }

    async fn post_cdc(&self) -> Result<()> {
        self.replication.end(&self.connector).await
    }

    async fn release(&self, position: &Position) -> Result<()> {
        let Some(lsn) = LogPosition::of(position)?.lsn else { return Ok(()) };
        let mut state = self.replication.state();
        state.released = state.released.max(lsn);
        if let Some(reading) = &state.reading {
            reading.feedback.release(lsn);
        }
        Ok(())
    }

    async fn released(&self, committed: &Position) -> Result<Option<Position>> {
        let committed = LogPosition::of(committed)?;
        let connection = self.connector.connect().await?;
        let slot = slot::find(&connection, &committed.names()?.slot).await?;
        let confirmed = slot.and_then(|slot| slot.confirmed_flush_lsn);
        Ok(confirmed.map(|lsn| committed.at(lsn).to_position()))
    }

    async fn lag(&self, committed: &Position) -> Result<Lag> {
        let committed = LogPosition::of(committed)?;
        let connection = self.connector.connect().await?;
        let place = Place::current(&connection).await?;
        let slot = match &committed.slot {
            Some(name) => slot::find(&connection, name).await?,
            None => None,
        };
        let since = |lsn: Lsn| place.lsn.0.saturating_sub(lsn.0);
        Ok(Lag {
            source: committed.at(place.lsn).to_position(),
            behind_bytes: committed.lsn.map_or(0, since),
            lost: prepare::lost(&self.connector, &connection, &committed, slot.as_ref(), &place).await?,
            retained_bytes: slot.and_then(|slot| slot.restart_lsn).map(since),
        })
    }

    async fn begin_view(&self, stream: &ConfiguredStream) -> Result<Session> {
        backfill::begin(&self.connector, &self.holders, stream, &Behind::APlace).await
    }

    async fn has_pending(
        &self,
        stream: &StreamId,
        log: &Position,
        committed: &Position,
        until: &Position,
    ) -> Result<Option<bool>> {
        let lsn = |position| Ok::<_, Error>(LogPosition::of(position)?.lsn.unwrap_or_default());
        let names = LogPosition::of(log)?.names()?;
        let connection = self.connector.connect().await?;
        peek::has_changes(&connection, &names, stream, lsn(committed)?, lsn(until)?).await
    }

    async fn clear(&self, saved: &Position) -> Result<Vec<String>> {
        self.replication.end(&self.connector).await?;
        prepare::clear(&self.connector, &LogPosition::of(saved)?).await
    }

    fn standing(&self, known: &str, now: &str) -> Standing {
        publication::standing(known, now)
    }

    fn compare(&self, a: &Position, b: &Position) -> Option<Ordering> {
        let lsn = |position| LogPosition::of(position).ok()?.lsn;
        Some(lsn(a)?.cmp(&lsn(b)?))
    }

    fn covers(&self, position: &Position, change: &Position) -> bool {
        self.compare(change, position) == Some(Ordering::Less)
    }
}

impl PostgresDriver {
    /// Opens the log at a place.
    async fn follow(
        &self,
        connection: &crate::connect::Connection,
        names: &Names,
        from: Lsn,
    ) -> Result<(wire::LogReader, wire::LogWriter)> {
        let lost = |reason: String| {
            Error::new(ErrorKind::Source, format!("changes since {from} are lost: {reason}"))
                .at("slot", &names.slot)
                .hint("start again, with replication.on_slot_lost set to what is to be done then")
        };
        let Some(found) = slot::await_idle(connection, &names.slot).await? else {
            return Err(lost("the slot is gone".to_owned()));
        };
        // Asked to begin before what it was told, the server begins there all the same.
        if let Some(reason) = found.loss(&names.slot, from) {
            return Err(lost(reason));
        }
        let publications = publication::existing(connection, names).await?;
        let list: Vec<String> = publications.iter().map(|name| sql::ident(name)).collect();
        let options = match self.connector.version().await? >= STREAMING_VERSION {
            true => "proto_version '2', streaming 'on'",
            false => "proto_version '1'",
        };
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {from} ({options}, publication_names '{}')",
            sql::ident(&names.slot),
            list.join(",").replace('\'', "''")
        );
        let endpoint = slot::replication_endpoint(&self.connector).await?;
        blocking(move || wire::Connection::connect(&endpoint)?.follow(&command))
            .await
            .map_err(|error| error.at("slot", &names.slot))
    }
}

fn in_progress(context: &ReadContext) -> InProgress {
    InProgress::new(context.budget.clone(), std::env::temp_dir())
}

/// How often the server must hear of us, so that it does not take us for dead, and answer, so that we do not take it
/// for silent.
async fn interval(connection: &crate::connect::Connection, silence: Duration) -> Result<Duration> {
    let sql = "SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'";
    let rows = connection.rows(sql, &[]).await?;
    let limit = rows.first().map_or(0, |row| row.get::<_, i64>(0).cast_unsigned());
    let limit = match limit {
        0 => silence,
        limit => silence.min(Duration::from_millis(limit)),
    };
    Ok(FEEDBACK.min((limit / 4).max(Duration::from_millis(10))))
}

/// Writes something into the log now and then, so that it moves where captured tables are idle.
async fn heartbeat(
    connector: Arc<Connector>,
    period: Duration,
    stop: CancellationToken,
    ended: CancellationToken,
) {
    let mut connection = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = ended.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        let beat = async {
            let connection = match &mut connection {
                Some(connection) => connection,
                none => none.insert(connector.connect().await?),
            };
            connection.rows("SELECT pg_logical_emit_message(false, 'lakeward', '')", &[]).await
        };
        if let Err(error) = beat.await {
            tracing::warn!(%error, "no heartbeat could be written");
            connection = None;
        }
    }
}
