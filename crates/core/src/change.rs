//! The contract of a source whose log can be followed.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::{Batch, ConfiguredStream, Position, ReadContext, Result, Session, StreamId};

/// In which order backfills and changes of several streams are worked off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeMode {
    /// All backfills, then the changes: of streams that share a log in its order, by one task.
    Sequential,
    /// All backfills, then the changes, each stream's by a task of its own.
    Parallel,
    /// Changes are read and committed while backfills run, each into the generation that is being filled.
    Concurrent,
}

/// Whether streams share one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeScope {
    /// One log and one position for all streams (PostgreSQL, MySQL).
    SharedLog,
    /// Each stream has a log of its own (MongoDB collections).
    PerStream,
}

/// Where a bounded run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Until {
    /// Where the source was when the run began.
    Now,
    /// Never.
    Forever,
}

/// What became of a stream's place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Same,
    /// Parts came whose rows are all in the log.
    Grown,
    /// Parts went, of which the log says nothing.
    Shrunk,
    /// Not all of its rows are in the log, and why.
    Broken(String),
}

impl Standing {
    /// Why a stream's rows are not all in the log where it left it and came back.
    pub const INTERRUPTED: &str = "it was not in the log all the time";

    /// It was not in the log for a while.
    pub fn interrupted() -> Self {
        Self::Broken(Self::INTERRUPTED.to_owned())
    }
}

/// How often a reading of the log comes to a boundary: at the first end of a transaction after either is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointInterval {
    /// Time since the last boundary.
    pub time: Duration,
    /// Bytes of changes since the last boundary.
    pub bytes: u64,
}

impl Default for CheckpointInterval {
    fn default() -> Self {
        Self { time: Duration::from_secs(1), bytes: 64 << 20 }
    }
}

/// What is to be done with a stream's changes.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamPhase {
    /// Still waiting for its backfill: its changes are dropped, because its snapshot will be later.
    Queued,
    /// Its snapshot is being taken. Meanwhile the reader rests at a boundary and reads nothing, so that no change
    /// has to be kept back until the stream's position is known ([`ChangeEvent::Resting`]).
    Opening,
    /// Changes that its position does not cover are emitted.
    Open {
        /// Where its snapshot, or its last commit, stands.
        position: Position,
        /// The generation, which is the epoch of `_lw_seq`.
        generation: u32,
    },
}

/// A reading of the log.
#[derive(Debug, Clone)]
pub struct ChangeRequest {
    /// The streams, each with its phase.
    pub streams: Vec<(Arc<ConfiguredStream>, StreamPhase)>,
    /// The global position to begin at.
    pub from: Position,
    /// Where to end.
    pub until: Until,
    /// How often to come to a boundary.
    pub checkpoint: CheckpointInterval,
    /// Memory and cancellation.
    pub context: ReadContext,
}

/// A boundary between transactions: everything before `position` has been emitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Boundary {
    /// The global position, and that of every open stream, once everything before it is committed.
    pub position: Position,
    /// How far the source is ahead of it, as far as the reader knows.
    pub lag: Lag,
    /// When everything that the source had to say stood before it, by the source's clock, in microseconds since the epoch:
    /// its last transaction was committed then, or the source said then that none is left.
    pub as_of: Option<i64>,
}

/// What comes out of the log.
#[derive(Debug)]
pub enum ChangeEvent {
    /// Changes of one stream, all of its schema.
    Changes(StreamId, Box<Batch>),
    /// Everything before has been emitted.
    Boundary(Boundary),
    /// The reader rests, everything before has been emitted with a boundary, and all phases up to this ticket of
    /// [`CdcDriver::enter_phase`] are known to it. It reads on when no stream is opening any more.
    Resting(u64),
    /// The stream is no longer what it was when the reading began: its columns, its key or its partitions changed.
    /// The last event: nothing after the last boundary counts, and the log is read again from there.
    Changed {
        /// The stream.
        stream: StreamId,
        /// What happened, in words.
        what: String,
        /// Whether its place in the log says it too ([`CdcDriver::standing`]), and with it what is to be done.
        placed: bool,
    },
}

/// Events in log order.
pub type ChangeStream = BoxStream<'static, Result<ChangeEvent>>;

/// A log that can be followed.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// Where to begin.
    pub position: Position,
    /// Per stream that has joined the log, its place in it ([`Fingerprint::log`](crate::Fingerprint::log)). Where
    /// it is another than before, changes were missed.
    pub places: Vec<(StreamId, String)>,
    /// Why changes since the saved position are lost, where they are and the source is told to go on all the same:
    /// every stream is read again.
    pub lost: Option<String>,
}

/// How far behind its source a pipeline is.
#[derive(Debug, Clone, PartialEq)]
pub struct Lag {
    /// Where the source's log ends.
    pub source: Position,
    /// Bytes that are not committed at the destination.
    pub behind_bytes: u64,
    /// Bytes of log that the source keeps for this pipeline.
    pub retained_bytes: Option<u64>,
    /// Why what follows cannot be had any more, where that is so: the other figures then say nothing.
    pub lost: Option<String>,
}

impl Lag {
    /// Seconds since what is committed was all that there was ([`Boundary::as_of`]); `None` where nobody knows, or where the
    /// log does not go on behind it. Clocks differ: never below zero.
    pub fn behind_seconds(&self, as_of: Option<i64>) -> Option<f64> {
        let as_of = as_of.filter(|_| self.behind_bytes > 0)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some((now.as_secs_f64() - as_of as f64 / 1e6).max(0.0))
    }
}

/// The ability to follow the source's log, exactly once.
///
/// In a run: [`intent`](Self::intent) is saved, [`pre_cdc`](Self::pre_cdc) makes the log followable,
/// [`begin_backfill`](crate::DriverInterface::begin_backfill) of a stream that has none yet lets it join the log
/// and fixes its position, [`stream_changes`](Self::stream_changes) reads, [`release`](Self::release) follows each
/// commit, [`post_cdc`](Self::post_cdc) ends.
#[async_trait]
pub trait CdcDriver: Send + Sync {
    /// The modes that the source offers, the default first.
    fn modes(&self) -> &[ChangeMode];

    /// Whether streams share one log.
    fn scope(&self) -> ChangeScope;

    /// What [`pre_cdc`](Self::pre_cdc) is going to make at the source. It is saved first, so that what a crash
    /// leaves behind is known to be ours. `saved` is what the state has: another intent gives way while nothing is
    /// made under it, and what rests on something that is made is returned as it is.
    ///
    /// # Errors
    /// `Config` where the config asks for other names than those under which something is made.
    async fn intent(&self, pipeline: &str, saved: Option<&Position>) -> Result<Position>;

    /// Makes the log followable (slot, publication) and lets go of streams that are no longer wanted. `kept` has the places
    /// of streams that cannot be read now and are to keep them. `saved` is the position of the state, or an intent. What a
    /// saved intent names is dropped and made again.
    ///
    /// # Errors
    /// `Source` where the log no longer holds what follows `saved` and the config says to stop then.
    async fn pre_cdc(
        &self,
        streams: &[Arc<ConfiguredStream>],
        kept: &[String],
        saved: &Position,
    ) -> Result<Prepared>;

    /// Reads the log.
    async fn stream_changes(&self, request: ChangeRequest) -> Result<ChangeStream>;

    /// Tells the reader that a stream's phase has changed. Returns a ticket, greater with every call during one
    /// reading: once it rests for a stream that opens it says so with this ticket or a later one. `None` where
    /// nothing is being read.
    async fn enter_phase(&self, stream: &StreamId, phase: StreamPhase) -> Result<Option<u64>>;

    /// Ends the reading and lets go of connections.
    async fn post_cdc(&self) -> Result<()>;

    /// Tells the source that everything before `position` is safe. The last step of a commit, never earlier.
    async fn release(&self, position: &Position) -> Result<()>;

    /// Up to where the source has been told that it may forget the log that `committed` is a place of: everything before
    /// is committed for every stream. Where that is behind `committed`, what lies between was committed and not saved,
    /// was empty, or is lost, and nothing at the source tells which.
    async fn released(&self, committed: &Position) -> Result<Option<Position>>;

    /// How far behind a committed position is.
    async fn lag(&self, committed: &Position) -> Result<Lag>;

    /// Opens a view of a stream at one place in the log, as
    /// [`begin_backfill`](crate::DriverInterface::begin_backfill) does, and leaves the log as it is: nothing joins
    /// it. It is ended like any other session.
    async fn begin_view(&self, stream: &ConfiguredStream) -> Result<Session>;

    /// Whether the log of a pipeline holds changes of a stream behind `committed` and before `until`. `None` where that
    /// cannot be told now, because somebody reads the log.
    async fn has_pending(
        &self,
        stream: &StreamId,
        log: &Position,
        committed: &Position,
        until: &Position,
    ) -> Result<Option<bool>>;

    /// Removes what was made at the source for a pipeline. Says what was kept and why, a line each.
    async fn clear(&self, saved: &Position) -> Result<Vec<String>>;

    /// What became of a stream in the log since it had the place `known`: `now` is the place that it has
    /// ([`Prepared::places`]).
    fn standing(&self, known: &str, now: &str) -> Standing {
        match known == now {
            true => Standing::Same,
            false => Standing::interrupted(),
        }
    }

    /// How two positions of one log relate; `None` where they do not (GTID sets).
    fn compare(&self, a: &Position, b: &Position) -> Option<Ordering>;

    /// Whether a stream at `position` already holds the change at `change`.
    fn covers(&self, position: &Position, change: &Position) -> bool;
}
