//! Comparing a source with what its files amount to.
//!
//! A snapshot of the source is compared with the log of its changes, read up to the same place: so it holds while
//! the source is written to and while a sync follows it. Every row of either side becomes a digest of its key and of
//! its values; digests are set apart by key, and one part after another is compared. Only the keys of what differs
//! are looked up again.

mod compare;
mod digest;
mod naming;
mod partitions;
mod records;
mod source;
mod unsent;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use futures::StreamExt;
use lakeward_core::{
    Catalog, CdcDriver, ConfiguredStream, Definition, Destination, DriverInterface, Error, ErrorKind,
    IncrementalPass, MemoryBudget, Op, Position, ReadContext, Result, Sequence, Session, StreamHead,
    StreamId, SyncMode,
};
use lakeward_state::StateStore;
use serde::Serialize;
use tokio::time::Instant;

use crate::abstract_driver::{AbstractDriver, Resolved};
use crate::events::{Event, EventSink, as_text};
use crate::evolution::{Evolution, as_known, evolution};
use crate::options::Options;
use compare::{Comparison, Judge};
use digest::Digester;
use partitions::Partitions;
use records::{LogLayout, source_rows};

/// How often the files are read anew because some of them were merged away meanwhile.
const READ_ATTEMPTS: usize = 5;
/// How often it is looked whether a sync has come far enough.
const POLL: Duration = Duration::from_millis(300);
/// Of the memory budget, what each side's records take before they go to disk.
const ROOM_SHARE: usize = 4;
/// How many parts of that size one part is, so that it can be sorted beside them.
const PART_SHARE: usize = 16;

/// How to verify.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Memory, connections and cancellation.
    pub limits: Options,
    /// How long a sync is waited for that has yet to commit what the source holds.
    pub wait: Duration,
    /// How many differing keys are named.
    pub most_keys: usize,
}

/// How a stream's files compare with its source.
#[derive(Debug, Clone, Serialize)]
pub struct StreamVerification {
    /// The stream.
    #[serde(serialize_with = "as_text")]
    pub stream: StreamId,
    /// Its mode.
    pub mode: SyncMode,
    /// The place in the source's log at which both were compared, where its changes are followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Rows of the source.
    pub source_rows: u64,
    /// Rows that the files amount to.
    pub destination_rows: u64,
    /// Rows that the source has and the files have not.
    pub missing: u64,
    /// Rows that the files have and the source has not.
    pub extra: u64,
    /// Rows whose values differ.
    pub different: u64,
    /// Rows that stand twice in the files, at one place of their order. A view shows them once.
    pub repeated: u64,
    /// Rows that differ and are no differences: in incremental mode those that the next pass will read; where changes
    /// are followed, those with a value that the source did not send and a later change brings.
    pub pending: u64,
    /// Rows that the mode lets stand: those deleted at the source, or superseded without a key, in incremental
    /// mode; those from before the beginning in strict_cdc. They are no differences.
    pub tolerated: u64,
    /// Some of the rows that differ.
    pub keys: Vec<KeyDifference>,
}

impl StreamVerification {
    /// Whether the files hold what they should.
    pub fn is_exact(&self) -> bool {
        self.missing == 0 && self.extra == 0 && self.different == 0 && self.repeated == 0
    }
}

/// A row that differs.
#[derive(Debug, Clone, Serialize)]
pub struct KeyDifference {
    /// The key's columns with their values, as text.
    pub key: Vec<(String, String)>,
    /// How it differs.
    pub what: Difference,
    /// The columns that differ, where both have the row.
    pub columns: Vec<String>,
}

/// How a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// The source has it, the files have not.
    Missing,
    /// The files have it, the source has not.
    Extra,
    /// Both have it.
    Different,
    /// Both have it, and the files have it more often.
    Repeated,
}

/// What a comparison of streams found.
#[derive(Debug)]
pub struct Verified {
    /// Those that were compared, or could not be.
    pub streams: Vec<(StreamId, Result<StreamVerification>)>,
    /// Those that nobody named and of which only inserts are followed: what their files hold is not what the table is.
    pub passed_over: Vec<StreamId>,
}

impl AbstractDriver {
    /// Compares selected streams (all that can be where `names` is empty) with their files, one after the other.
    /// Neither the state nor the destination is taken over, so a sync may be running.
    ///
    /// # Errors
    /// What concerns all streams; failures of single ones stand beside them.
    pub async fn verify(
        driver: Arc<dyn DriverInterface>,
        destination: Arc<dyn Destination>,
        state: &Path,
        catalog: &Catalog,
        names: &[StreamId],
        options: &VerifyOptions,
        events: Arc<dyn EventSink>,
    ) -> Result<Verified> {
        let asked = |id: &StreamId| names.is_empty() || names.contains(id);
        let Resolved { streams, unfit } = Self::resolve_offered(driver.as_ref(), None, catalog).await?;
        let unfit = unfit.into_iter().filter(|(id, _)| asked(id)).map(|(id, error)| (id, Err(error)));
        let mut verified = Verified { streams: unfit.collect(), passed_over: Vec::new() };
        for (stream, _) in streams.into_iter().filter(|(stream, _)| asked(&stream.id)) {
            let id = stream.id.clone();
            if stream.insert_only && names.is_empty() {
                verified.passed_over.push(id);
                continue;
            }
            let verifier = Verifier {
                driver: driver.clone(),
                destination: destination.clone(),
                state: state.to_owned(),
                alone: Arc::new(stream.merely_read()),
                stream,
                options: options.clone(),
                events: events.clone(),
                budget: MemoryBudget::new(options.limits.budget_bytes()),
            };
            let outcome = verifier.run().await;
            verified.streams.push((id.clone(), outcome.map_err(|error| error.at("stream", id))));
        }
        Ok(verified)
    }
}

/// One stream that is compared.
struct Verifier {
    driver: Arc<dyn DriverInterface>,
    destination: Arc<dyn Destination>,
    state: PathBuf,
    stream: Arc<ConfiguredStream>,
    /// The same stream as one that is merely read.
    alone: Arc<ConfiguredStream>,
    options: VerifyOptions,
    events: Arc<dyn EventSink>,
    budget: MemoryBudget,
}

/// Which rows of the log are compared.
struct Extent {
    generation: u32,
    /// The order of the last one.
    last: u128,
}

/// The log's rows, set apart.
struct Log {
    parts: Partitions,
    layout: LogLayout,
    ended: u128,
}

impl Verifier {
    async fn run(mut self) -> Result<StreamVerification> {
        let (head, definition) = self.head().await?;
        self.stream = Arc::new(as_known(&self.stream, &definition)?);
        let log = self.driver.change_stream().filter(|_| self.stream.sync_mode.follows_log());
        let session = match log {
            Some(log) => log.begin_view(&self.alone).await?,
            None => self.driver.begin_backfill(&self.alone).await?,
        };
        let outcome = self.under(&session, log, &head, &definition).await;
        self.driver.end_backfill(session).await;
        outcome
    }

    /// Where the stream stands, if there is something of it to compare.
    async fn head(&self) -> Result<(StreamHead, Definition)> {
        if self.stream.insert_only {
            return Err(Error::new(
                ErrorKind::Config,
                "only inserts of this stream are followed: its files are not what the table is now",
            )
            .hint("name the other streams on the command line"));
        }
        let head = self.destination.head(&self.stream.target).await?;
        let nothing = || {
            Error::new(ErrorKind::Config, "nothing of this stream is visible yet, or it is being read anew")
                .hint("let `lakeward sync` finish its backfill")
        };
        let head = head.filter(|head| head.visible.is_some() && head.open.is_none()).ok_or_else(nothing)?;
        let definition = head.definition.clone().ok_or_else(nothing)?;
        let place = head.fingerprint.as_ref().map(|fingerprint| fingerprint.log.as_str());
        if self.stream.sync_mode.follows_log() && place.is_none_or(str::is_empty) {
            return Err(Error::new(ErrorKind::Source, "the stream was not followed for a while")
                .hint("run `lakeward sync`: it reads all rows of it again"));
        }
        if evolution(&definition, &self.stream, false)? != Evolution::Unchanged {
            return Err(Error::new(ErrorKind::Schema, "the stream is no longer what was synced last")
                .hint("run `lakeward sync`: it follows what changed in the table or in streams.json"));
        }
        Ok((head, definition))
    }

    async fn under(
        &self,
        session: &Session,
        log: Option<&dyn CdcDriver>,
        head: &StreamHead,
        definition: &Definition,
    ) -> Result<StreamVerification> {
        let last = match (log, &session.position) {
            (Some(log), Some(position)) => {
                if !self.wait_for(log, position).await? {
                    return Err(behind());
                }
                Sequence::read(head.generation, session.sequence).order()
            }
            (Some(_), None) => return Err(Error::bug("a view of a place in the log has no position")),
            (None, _) => u128::MAX,
        };
        let extent = Extent { generation: head.generation, last };
        let room = self.budget.total() / ROOM_SHARE;
        let widest = LogLayout { columns: self.stream.schema.columns.len(), by_column: true }.width();
        let parts = Partitions::parts(head.rows * widest as u64, room / PART_SHARE);
        let digester = Arc::new(Digester::new(&self.stream.schema, &self.stream.key)?);
        let mut rows = self.read_log(&extent, &digester, parts).await?;
        let mut source = Partitions::new(parts, room);
        self.read_source(session, &digester, &mut source).await?;
        let mut pending = Partitions::new(parts, room / PART_SHARE);
        if self.stream.sync_mode == SyncMode::Incremental {
            self.read_pending(session, head, &digester, &mut pending).await?;
        }
        let judge = Judge {
            meaning: definition.meaning(),
            ended: rows.ended,
            nulls: digester.nulls(&self.stream.schema)?,
            most_keys: self.options.most_keys,
        };
        let mut found = Comparison::default();
        for part in 0..parts {
            let (ours, theirs) = (source.take(part)?, rows.parts.take(part)?);
            let waiting: HashSet<u128> =
                source_rows(&pending.take(part)?).into_iter().map(|(key, _)| key).collect();
            judge.compare(source_rows(&ours), rows.layout.rows(&theirs), &waiting, &mut found);
        }
        let never = self.never_sent(log, &extent, &digester, &found.lacking).await?;
        judge.count_lacking(&never, &mut found);
        let keys = match self.stream.key.is_empty() || found.keys.is_empty() {
            true => Vec::new(),
            false => self.name(session, &extent, &judge, &digester, &found.keys).await?,
        };
        Ok(self.report(session, found, keys))
    }

    fn report(
        &self,
        session: &Session,
        found: Comparison,
        mut keys: Vec<KeyDifference>,
    ) -> StreamVerification {
        let (missing, extra, tolerated) = match self.stream.sync_mode {
            SyncMode::Incremental => (found.missing, 0, found.extra),
            SyncMode::StrictCdc => (0, found.extra, found.missing),
            SyncMode::FullRefresh | SyncMode::Cdc => (found.missing, found.extra, 0),
        };
        keys.retain(|key| match key.what {
            Difference::Missing => missing > 0,
            Difference::Extra => extra > 0,
            Difference::Different | Difference::Repeated => true,
        });
        StreamVerification {
            stream: self.stream.id.clone(),
            mode: self.stream.sync_mode,
            position: session.position.clone(),
            source_rows: found.source_rows,
            destination_rows: found.destination_rows,
            missing,
            extra,
            different: found.different,
            repeated: found.repeated,
            pending: found.pending,
            tolerated,
            keys,
        }
    }

    /// Up to where the log is committed for all streams.
    fn global(&self) -> Result<Position> {
        let global = StateStore::read(&self.state)?.and_then(|state| state.global);
        global.map(|global| global.position).ok_or_else(|| {
            Error::new(ErrorKind::State, "the state knows nothing of the source's log")
                .at("file", self.state.display())
                .hint("run `lakeward sync` first; --state names another file")
        })
    }

    /// Waits until everything before a place in the log is committed; whether it is in time.
    async fn wait_for(&self, log: &dyn CdcDriver, until: &Position) -> Result<bool> {
        let deadline = Instant::now() + self.options.wait;
        let (mut asked, mut told) = (false, false);
        loop {
            let global = self.global()?;
            let (head, _) = self.head().await?;
            let own = head
                .progress
                .position
                .filter(|own| log.compare(own, &global) == Some(std::cmp::Ordering::Greater));
            let committed = own.as_ref().unwrap_or(&global);
            if log.compare(committed, until) != Some(std::cmp::Ordering::Less) {
                return Ok(true);
            }
            let late = Instant::now() >= deadline;
            // What a slot would send is not asked for again and again: it may be much.
            if (!asked || late)
                && log.has_pending(&self.stream.id, &global, committed, until).await? == Some(false)
            {
                return Ok(true);
            }
            asked = true;
            if late {
                return Ok(false);
            }
            if !std::mem::replace(&mut told, true) {
                self.events.event(&Event::Warning {
                    stream: Some(self.stream.id.clone()),
                    message: format!(
                        "changes wait in the source's log: waiting up to {} s for a sync to commit them",
                        self.options.wait.as_secs()
                    ),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn context(&self, readers: usize) -> ReadContext {
        ReadContext {
            budget: self.budget.clone(),
            batch_bytes: self.options.limits.batch_bytes(readers),
            cancel: self.options.limits.cancel.clone(),
        }
    }

    /// Rows that the next incremental pass is going to read.
    async fn read_pending(
        &self,
        session: &Session,
        head: &StreamHead,
        digester: &Digester,
        into: &mut Partitions,
    ) -> Result<()> {
        let driver =
            self.driver.incremental().ok_or_else(|| Error::bug("an incremental stream has no driver"))?;
        let since = head.progress.cursor.clone();
        let until = driver.fetch_max_cursor_values(&self.stream, session, since.as_ref()).await?;
        let pass = IncrementalPass { since, until };
        let mut batches =
            driver.stream_incremental_changes(self.stream.clone(), session, pass, self.context(1)).await?;
        while let Some(batch) = batches.next().await {
            let rows = batch?.rows;
            for key in digester.digests(rows.columns(), rows.num_rows())?.keys {
                into.push(key, &records::source_record(key, 0))?;
            }
        }
        Ok(())
    }

    /// The rows of the log, from the beginning again where files went meanwhile.
    async fn read_log(&self, extent: &Extent, digester: &Digester, parts: usize) -> Result<Log> {
        let room = self.budget.total() / ROOM_SHARE;
        let columns = self.stream.written_columns().columns;
        self.each_reading(
            extent,
            |partial| {
                let layout = LogLayout { columns: self.stream.schema.columns.len(), by_column: partial };
                Log { parts: Partitions::new(parts, room), layout, ended: 0 }
            },
            |log, rows| {
                let mut record = Vec::with_capacity(log.layout.width());
                let digests = digester.digests(rows.values.columns(), rows.values.num_rows())?;
                for row in 0..rows.values.num_rows() {
                    let (op, order) = (rows.op(row), rows.order(row)?);
                    if order > extent.last {
                        continue;
                    }
                    if op == Op::Truncate.as_str() {
                        log.ended = log.ended.max(order);
                        continue;
                    }
                    let unchanged = rows.unchanged(row);
                    let sent = |column: usize| !unchanged.contains(columns[column].name.as_str());
                    log.layout.record(digests.keys[row], order, op, digests.row(row), sent, &mut record);
                    log.parts.push(digests.keys[row], &record)?;
                }
                Ok(())
            },
        )
        .await
    }

    /// Reads the files, and again from the beginning where some went meanwhile.
    async fn each_reading<T>(
        &self,
        extent: &Extent,
        begin: impl Fn(bool) -> T,
        mut take: impl FnMut(&mut T, &LogBatch) -> Result<()>,
    ) -> Result<T> {
        let mut attempts = 0;
        let columns = self.stream.written_columns();
        loop {
            attempts += 1;
            let (before, _) = self.head().await?;
            if before.generation != extent.generation {
                return Err(
                    Error::new(ErrorKind::Schema, "the stream was read anew meanwhile").hint("verify again")
                );
            }
            let failed = match self.destination.rows(&self.stream.target, &columns).await {
                Err(error) => error,
                Ok(read) => {
                    let mut result = begin(read.partial);
                    let mut batches = read.batches;
                    loop {
                        match batches.next().await {
                            None => return Ok(result),
                            Some(Ok(batch)) => take(&mut result, &LogBatch::of(&batch)?)?,
                            Some(Err(error)) => break error,
                        }
                    }
                }
            };
            // What was merged into another file may go while it is read; what is damaged stays so.
            let (after, _) = self.head().await?;
            if attempts >= READ_ATTEMPTS || after.commit == before.commit {
                return Err(failed);
            }
        }
    }
}

fn behind() -> Error {
    Error::new(ErrorKind::Source, "changes wait in the source's log that no sync has committed yet").hint(
        "run `lakeward sync` and verify again; while the source is written to, leave `lakeward sync --follow` running \
         beside it",
    )
}

/// A batch as [`Destination::rows`] gives it.
struct LogBatch {
    system: RecordBatch,
    values: RecordBatch,
}

impl LogBatch {
    /// Operation, order, and columns that were not sent.
    const SYSTEM: [usize; 3] = [0, 1, 2];

    fn of(batch: &RecordBatch) -> Result<Self> {
        let project = |columns: &[usize]| {
            batch
                .project(columns)
                .map_err(|error| Error::bug("a batch that was read back has not its columns").source(error))
        };
        let values: Vec<usize> = (Self::SYSTEM.len()..batch.num_columns()).collect();
        Ok(Self { system: project(&Self::SYSTEM)?, values: project(&values)? })
    }

    fn op(&self, row: usize) -> &str {
        self.system.column(0).as_string::<i32>().value(row)
    }

    fn order(&self, row: usize) -> Result<u128> {
        Sequence::order_of(self.system.column(1).as_string::<i32>().value(row)).ok_or_else(|| {
            Error::new(ErrorKind::Destination, "a committed row has no place in its stream's order")
        })
    }

    fn unchanged(&self, row: usize) -> HashSet<String> {
        let list = self.system.column(2).as_list::<i32>();
        if list.is_null(row) {
            return HashSet::new();
        }
        let names = list.value(row);
        names.as_string::<i32>().iter().flatten().map(str::to_owned).collect()
    }
}
