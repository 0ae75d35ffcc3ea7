//! Reading the log on a thread of its own: transactions in order, boundaries between them, and rests.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use lakeward_core::{Boundary, ChangeEvent, CheckpointInterval, Error, ErrorKind, Lag, Result};

use super::assemble::{Assembler, Halt};
use super::feedback::Feedback;
use super::lsn::{LogPosition, Lsn};
use super::pgoutput::{Body, parse};
use super::phases::Phases;
use super::spill::InProgress;
use crate::error::sqlstate;
use crate::reports::Report;
use crate::wire::{LogMessage, LogReader};

/// How often the catalog is looked at for what the log does not tell.
const CATALOG: Duration = Duration::from_secs(5);
/// How often the server is asked how far it is while an end is waited for.
const ASK: Duration = Duration::from_millis(200);
/// How often it is asked where its log ends.
const LOOK: Duration = Duration::from_secs(1);

/// What the server says where a publication is not there (SQLSTATE `undefined_object`).
const UNDEFINED_OBJECT: &str = "42704";

/// The half of a reading that has the socket.
pub(super) struct Reader {
    pub(super) log: LogReader,
    pub(super) work: Work,
    /// Set where nobody can read the log from here on, to why.
    pub(super) unreadable: std::sync::Arc<OnceLock<String>>,
}

/// All that is done with what was read.
pub(super) struct Work {
    assembler: Assembler,
    in_progress: InProgress,
    phases: std::sync::Arc<Phases>,
    feedback: std::sync::Arc<Feedback>,
    interval: CheckpointInterval,
    /// Where a bounded reading ends.
    target: Option<Lsn>,
    /// What positions are made of.
    pipeline: LogPosition,
    /// Whether a transaction has begun and not ended.
    open: bool,
    /// The transaction whose changes come while it is in progress.
    block: Option<u32>,
    /// Everything before it was read.
    position: Lsn,
    boundary: Lsn,
    boundary_at: Instant,
    /// Bytes of changes since the boundary.
    bytes: u64,
    /// As far as the server is known to have come.
    source: Lsn,
    /// From where on it keeps the log.
    kept_from: Option<Lsn>,
    /// A place where the log has ended, and when, in microseconds since 1970. Another one only when it is reached.
    ended_at: Option<(Lsn, i64)>,
    /// When everything that the server had stood before `position`, in microseconds since 1970.
    as_of: Option<i64>,
    asked_at: Option<Instant>,
    catalog_at: Instant,
    /// When the source's end was looked at.
    looked_at: Option<Instant>,
    ended: bool,
}

impl Reader {
    /// Reads until the end, and says so.
    pub(super) fn run(mut self) {
        let result = match self.read() {
            Ok(()) => Ok(()),
            Err(Halt::Failed(error)) => Err(error),
            Err(Halt::Changed(change)) => self.work.assembler.batches.outlet().send(change.into()),
        };
        // Nobody listens any more where the stream was dropped.
        let _ = self.work.assembler.batches.outlet().sender.blocking_send(Report::End(result));
    }

    fn read(&mut self) -> Result<(), Halt> {
        let Self { log, work, unreadable } = self;
        loop {
            if work.assembler.batches.outlet().stop.is_cancelled() {
                return Err(Error::cancelled().into());
            }
            if work.look_around()? {
                // What the server did not say meanwhile it was not asked for.
                log.rested();
            }
            if work.ended {
                return Ok(());
            }
            if let Some(bytes) = log.large() {
                // It stands in memory twice for a while, in the buffer and in its column.
                let Assembler { tables, batches, .. } = &mut work.assembler;
                batches.flush(tables)?;
                batches.charge(tables, bytes.saturating_mul(2))?;
            }
            match log.poll().map_err(|error| work.judge(error, unreadable))? {
                Some(LogMessage::Data(message)) => work.message(message)?,
                Some(LogMessage::Keepalive { end, sent, reply }) => work.keepalive(Lsn(end), sent, reply),
                None => work.idle(),
            }
        }
    }
}

/// What a reading begins with.
pub(super) struct Start {
    pub(super) from: Lsn,
    pub(super) target: Option<Lsn>,
    pub(super) pipeline: LogPosition,
    pub(super) interval: CheckpointInterval,
}

impl Work {
    pub(super) fn new(
        start: Start,
        assembler: Assembler,
        in_progress: InProgress,
        phases: std::sync::Arc<Phases>,
        feedback: std::sync::Arc<Feedback>,
    ) -> Self {
        let read_at = assembler.tables.read_at();
        Self {
            assembler,
            in_progress,
            phases,
            feedback,
            interval: start.interval,
            target: start.target,
            pipeline: start.pipeline,
            open: false,
            block: None,
            position: start.from,
            boundary: start.from,
            boundary_at: Instant::now(),
            bytes: 0,
            source: start.from.max(read_at),
            kept_from: None,
            ended_at: None,
            as_of: None,
            asked_at: None,
            catalog_at: Instant::now(),
            looked_at: None,
            ended: false,
        }
    }

    /// Whether the server failed at something that it would fail at again. It knows its publications as they were when
    /// the changes were written; since PostgreSQL 18 it goes without one that was not there.
    fn judge(&self, error: Error, unreadable: &OnceLock<String>) -> Error {
        if sqlstate(&error) != Some(UNDEFINED_OBJECT) {
            return error;
        }
        let publication = self.pipeline.publication.as_deref().unwrap_or_default();
        let why =
            format!("publication {publication}, or the one beside it, was not there when it was written");
        let error = error.with_kind(ErrorKind::Connection).hint(
            "a publication was dropped or renamed for a while: what was written meanwhile cannot be read any more; let go \
             of it with `lakeward clear --log`, or set replication.on_slot_lost to \"resnapshot\"",
        );
        // Who reads a log twice finds the same.
        let _ = unreadable.set(why);
        error
    }

    /// Between transactions: a boundary where one is due, then a rest where one is asked for. Says whether it
    /// rested.
    fn look_around(&mut self) -> Result<bool, Halt> {
        if self.open || self.block.is_some() {
            return Ok(false);
        }
        let opening = self.phases.any_opening();
        if self.catalog_at.elapsed() >= CATALOG {
            self.catalog_at = Instant::now();
            let Assembler { tables, batches, .. } = &mut self.assembler;
            if let Some(change) = batches.outlet().wait(tables.altered())? {
                if self.position > self.boundary {
                    self.come_to_boundary()?;
                }
                return Err(Halt::Changed(change));
            }
        }
        let reached = self.target.is_some_and(|target| self.position >= target);
        let moved = self.position > self.boundary;
        let due = self.bytes >= self.interval.bytes || self.boundary_at.elapsed() >= self.interval.time;
        if reached || (moved && (due || opening)) {
            self.come_to_boundary()?;
        }
        if reached && !opening {
            self.ended = true;
        }
        if opening {
            let outlet = self.assembler.batches.outlet();
            self.phases.rest(&outlet.stop, |ticket| outlet.send(ChangeEvent::Resting(ticket)))?;
        }
        Ok(opening)
    }

    fn come_to_boundary(&mut self) -> Result<(), Halt> {
        let Assembler { tables, batches, .. } = &mut self.assembler;
        batches.settle(tables)?;
        // A keepalive says how far the server has sent, not how far there is to go.
        if self.looked_at.is_none_or(|at| at.elapsed() >= LOOK) {
            let asked = microseconds_since_1970();
            let (end, kept_from) = batches.outlet().wait(tables.log_extent(self.pipeline.slot.as_deref()))?;
            (self.source, self.kept_from) = (self.source.max(end), kept_from);
            self.looked_at = Some(Instant::now());
            self.reach();
            self.ended_at.get_or_insert((end, asked));
        }
        self.reach();
        let source = self.source.max(self.position);
        self.assembler.batches.outlet().send(ChangeEvent::Boundary(Boundary {
            position: self.pipeline.at(self.position).to_position(),
            lag: Lag {
                source: self.pipeline.at(source).to_position(),
                behind_bytes: source.0 - self.position.0,
                retained_bytes: self.kept_from.map(|from| source.0.saturating_sub(from.0)),
                lost: None,
            },
            as_of: self.as_of,
        }))?;
        self.boundary = self.position;
        self.boundary_at = Instant::now();
        self.bytes = 0;
        Ok(())
    }

    /// Everything before `end` was sent. A transaction that is still in progress commits later, and is sent again
    /// by who begins there, so that it does not hold the position back.
    fn keepalive(&mut self, end: Lsn, sent: i64, reply: bool) {
        // It is how far the server has come with sending, which may be far from how far there is to go.
        let all = end >= self.source;
        self.source = self.source.max(end);
        if !self.open && self.block.is_none() && end >= self.position {
            self.position = end;
            self.reach();
            if all {
                self.as_of = Some(sent);
            }
        }
        if reply {
            self.feedback.say();
        }
    }

    /// Whoever has come to where the log once ended has all that there was then.
    fn reach(&mut self) {
        if let Some((_, then)) = self.ended_at.take_if(|(end, _)| *end <= self.position) {
            self.as_of = self.as_of.max(Some(then));
        }
    }

    /// Nothing came for a moment.
    fn idle(&mut self) {
        if self.target.is_some() && self.asked_at.is_none_or(|at| at.elapsed() >= ASK) {
            self.asked_at = Some(Instant::now());
            self.feedback.ask();
        }
    }

    fn message(&mut self, message: &[u8]) -> Result<(), Halt> {
        let parsed = parse(message, self.block.is_some())?;
        self.bytes += message.len() as u64;
        match parsed.body {
            Body::Begin { commit_lsn, commit_ts, xid } => {
                self.open = true;
                self.assembler.begin(xid, Lsn(commit_lsn), commit_ts)?;
                self.as_of = Some(commit_ts);
            }
            Body::Commit { end_lsn, .. } => {
                self.open = false;
                self.position = self.position.max(Lsn(end_lsn));
            }
            Body::StreamStart { xid, .. } => self.block = Some(xid),
            Body::StreamStop => self.block = None,
            Body::StreamAbort { xid, subxid } => self.in_progress.abort(xid, subxid),
            Body::StreamCommit { xid, commit_lsn, end_lsn, commit_ts } => {
                self.assembler.begin(xid, Lsn(commit_lsn), commit_ts)?;
                self.replay(xid)?;
                self.as_of = Some(commit_ts);
                self.position = self.position.max(Lsn(end_lsn));
            }
            body => match self.block {
                Some(xid) => self.in_progress.keep(xid, message)?,
                None => self.assembler.change(&body, message.len())?,
            },
        }
        Ok(())
    }

    /// Goes through a transaction that was kept, now that it is known to count.
    fn replay(&mut self, xid: u32) -> Result<(), Halt> {
        let mut replay = self.in_progress.commit(xid)?;
        let mut message = Vec::new();
        while replay.next(&mut message)? {
            if self.assembler.batches.outlet().stop.is_cancelled() {
                return Err(Error::cancelled().into());
            }
            let parsed = parse(&message, true)?;
            // What a table looks like is said once per transaction, be it in a part that was rolled back.
            let counts = parsed.xid.is_none_or(|xid| !replay.aborted.contains(&xid));
            if counts || matches!(parsed.body, Body::Relation(_)) {
                self.assembler.change(&parsed.body, message.len())?;
            }
        }
        Ok(())
    }
}

fn microseconds_since_1970() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
