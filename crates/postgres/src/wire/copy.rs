//! A COPY on a thread of its own, as a stream of batches.

use std::ops::ControlFlow;
use std::sync::Arc;

use futures::{FutureExt, StreamExt, stream};
use lakeward_core::{Batch, BatchStream, Error, ErrorKind, ReadContext, Reservation, Result, ResultExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connection::CopySink;
use super::{CancelHandle, Connection, Endpoint};
use crate::decode::RowDecoder;
use crate::reports::{Report, listen};
use crate::resting::Resting;

/// Batches that wait to be taken; with the one in the making and the one with the consumer, three are alive.
const BATCHES_AHEAD: usize = 1;
/// After so many bytes from the server, the size of the batch is looked at.
const CHECK_EVERY: usize = 16 << 10;

/// Makes connections for COPY to one endpoint, and has those that are done rest until the next one is needed. Clones
/// share them.
#[derive(Clone)]
pub struct Readers {
    endpoint: Arc<Endpoint>,
    resting: Arc<Resting<Connection>>,
}

impl Readers {
    /// Readers of an endpoint. Nothing is connected yet.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint: Arc::new(endpoint), resting: Arc::default() }
    }
}

/// Runs `setup` one by one, then the COPY `sql`, and decodes what it sends.
///
/// The connection is made when the stream is first polled, which must be within a Tokio runtime. Each batch
/// holds a reservation that was made before it was built; a value too large for what is reserved is waited
/// for with nothing held. The stream ends without an error only if the server said that the COPY is complete and
/// its count is that of the rows handed over.
///
/// When `context.cancel` fires or the stream is dropped, the query is cancelled at the server.
pub fn copy_batches(
    readers: Readers,
    setup: Vec<String>,
    sql: String,
    decoder: RowDecoder,
    context: ReadContext,
) -> BatchStream {
    let job = Job { readers, setup, sql, decoder, context };
    async move {
        match job.start() {
            Ok(batches) => batches,
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }
    .flatten_stream()
    .boxed()
}

struct Job {
    readers: Readers,
    setup: Vec<String>,
    sql: String,
    decoder: RowDecoder,
    context: ReadContext,
}

impl Job {
    fn start(self) -> Result<BatchStream> {
        let runtime = Handle::current();
        let cancel = self.context.cancel.child_token();
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        let stop = cancel.clone();
        std::thread::Builder::new()
            .name("postgres-copy".to_owned())
            .spawn(move || {
                let result = self.run(&runtime, &stop, &sender);
                // Nobody listens any more where the stream was dropped.
                let _ = sender.blocking_send(Report::End(result));
            })
            .or_fail(ErrorKind::Source, || "no thread can be started for a COPY".to_owned())?;
        Ok(listen(receiver, cancel))
    }

    fn run(
        self,
        runtime: &Handle,
        stop: &CancellationToken,
        sender: &mpsc::Sender<Report<Batch>>,
    ) -> Result<()> {
        let (mut connection, watched) = self.begin(runtime, stop)?;
        let outlet = Outlet { context: &self.context, runtime, stop, sender, reservation: None, sent: 0 };
        let mut batches = Batches { decoder: self.decoder, outlet, unchecked: 0 };
        let promised = connection.copy_to(&self.sql, &mut batches)?;
        drop(watched);
        // Before the last batch is waited for: nothing of the snapshot is held any more.
        if let Some(connection) = connection.renew() {
            self.readers.resting.put(connection, runtime);
        }
        let decoded = batches.finish()?;
        if decoded != promised {
            return Err(Error::new(ErrorKind::Connection, "the server counted other rows than arrived")
                .at("sent", promised)
                .at("arrived", decoded));
        }
        Ok(())
    }

    /// A connection on which the setup is done, and what keeps an eye on `stop` for it.
    fn begin(&self, runtime: &Handle, stop: &CancellationToken) -> Result<(Connection, DropGuard)> {
        let mut rested = self.readers.resting.take();
        loop {
            let may_be_stale = rested.is_some();
            let mut connection = match rested.take() {
                Some(connection) => connection,
                None => Connection::connect(&self.readers.endpoint)?,
            };
            let watched = watch(runtime, stop, connection.cancel_handle());
            match self.setup.iter().try_for_each(|statement| connection.simple(statement)) {
                Ok(()) => return Ok((connection, watched)),
                // Its server may have gone while it rested: that is not the chunk's failure.
                Err(error) if may_be_stale && error.kind() == ErrorKind::Connection => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Cancels at the server when `stop` fires, until what is returned is dropped.
fn watch(runtime: &Handle, stop: &CancellationToken, handle: CancelHandle) -> DropGuard {
    let finished = CancellationToken::new();
    let (ended, stopped) = (finished.clone(), stop.clone());
    runtime.spawn(async move {
        tokio::select! {
            biased;
            () = ended.cancelled() => {}
            () = stopped.cancelled() => {
                // It connects to the server, and blocks.
                let _ = tokio::task::spawn_blocking(move || handle.cancel()).await;
            }
        }
    });
    finished.drop_guard()
}

/// Cuts the rows of a COPY into batches.
struct Batches<'a> {
    decoder: RowDecoder,
    outlet: Outlet<'a>,
    /// Bytes from the server since the batch's size was looked at.
    unchecked: usize,
}

impl CopySink for Batches<'_> {
    /// A large value stands in memory twice for a while, in the buffer and in its column.
    fn announce(&mut self, bytes: usize) -> Result<()> {
        let needed = bytes.saturating_mul(2);
        if self.outlet.reserved() >= self.decoder.bytes().saturating_add(needed) {
            return Ok(());
        }
        // To wait for memory with some in hand might be for ever: what there is goes first.
        self.flush()?;
        self.outlet.reserve(needed)
    }

    fn data(&mut self, payload: &[u8]) -> Result<ControlFlow<()>> {
        if self.outlet.reservation.is_none() {
            self.outlet.reserve(0)?;
        }
        self.decoder.push(payload)?;
        self.unchecked += payload.len();
        if self.unchecked >= CHECK_EVERY {
            self.unchecked = 0;
            if self.decoder.bytes() >= self.outlet.context.batch_bytes {
                self.flush()?;
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl Batches<'_> {
    /// Hands over the rows that are in the builders, if any.
    fn flush(&mut self) -> Result<()> {
        if self.decoder.rows() == 0 {
            return Ok(());
        }
        let batch = self.decoder.finish_batch()?;
        self.outlet.send(batch)
    }

    /// Hands over the last rows and says how many there were in all.
    fn finish(self) -> Result<u64> {
        let Self { decoder, mut outlet, .. } = self;
        if let Some(batch) = decoder.finish()? {
            outlet.send(batch)?;
        }
        Ok(outlet.sent)
    }
}

/// Where batches go, and what pays for them.
struct Outlet<'a> {
    context: &'a ReadContext,
    runtime: &'a Handle,
    stop: &'a CancellationToken,
    sender: &'a mpsc::Sender<Report<Batch>>,
    /// For the batch that is being built.
    reservation: Option<Reservation>,
    /// Rows handed over.
    sent: u64,
}

impl Outlet<'_> {
    fn reserved(&self) -> usize {
        self.reservation.as_ref().map_or(0, Reservation::bytes)
    }

    /// Waits for the memory of a batch, or of more than that, with nothing in hand.
    fn reserve(&mut self, at_least: usize) -> Result<()> {
        self.reservation = None;
        let reservation = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => Err(Error::cancelled()),
                reservation = self.context.budget.reserve(self.context.batch_bytes.max(at_least)) => reservation,
            }
        })?;
        self.reservation = Some(reservation);
        Ok(())
    }

    fn send(&mut self, mut batch: Batch) -> Result<()> {
        self.sent += batch.rows.num_rows() as u64;
        batch.reservation = self.reservation.take();
        if let Some(reservation) = &mut batch.reservation {
            let taken = batch.rows.get_array_memory_size();
            reservation.shrink_to(taken);
            // What the last rows took beyond the estimate is charged where that is possible at once.
            if let Some(more) = taken.checked_sub(reservation.bytes()).filter(|more| *more > 0)
                && let Some(more) = self.context.budget.try_reserve(more)
            {
                reservation.merge(more);
            }
        }
        self.sender.blocking_send(Report::Item(batch)).map_err(|_| Error::cancelled())
    }
}
