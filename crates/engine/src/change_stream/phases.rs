//! What is done with each stream's changes, and when a stream may take its snapshot.
//!
//! A snapshot may be taken only while nothing is read and everything that was read is committed: the stream's
//! `open` record, which sets its position, would otherwise be overtaken by changes that are older than it.

use std::collections::BTreeMap;
use std::sync::Arc;

use lakeward_core::{
    CdcDriver, ChangeRequest, ChangeStream, DriverInterface, Error, Position, Result, StreamId, StreamPhase,
};
use tokio::sync::{Mutex, watch};

/// How far the reading has come to rest.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    /// Raised when a reading begins and when it has ended with all its commits.
    epoch: u64,
    active: bool,
    /// The latest ticket for which it rests.
    rested: u64,
}

/// The phases of all streams that follow a log, and the reading that goes by them.
pub(crate) struct Phases {
    driver: Arc<dyn DriverInterface>,
    /// Held while a reading is begun too, so that it begins with phases that nobody changes meanwhile.
    streams: Mutex<BTreeMap<StreamId, StreamPhase>>,
    reading: watch::Sender<Reading>,
}

impl Phases {
    pub(crate) fn new(driver: Arc<dyn DriverInterface>) -> Self {
        Self { driver, streams: Mutex::default(), reading: watch::Sender::default() }
    }

    fn log(&self) -> Result<&dyn CdcDriver> {
        self.driver.change_stream().ok_or_else(|| Error::bug("a source without a log is followed"))
    }

    /// Sets all phases, where nothing is being read.
    pub(crate) async fn set(&self, streams: BTreeMap<StreamId, StreamPhase>) {
        *self.streams.lock().await = streams;
    }

    /// Begins a reading with the phases of this moment.
    pub(crate) async fn begin(
        &self,
        request: impl FnOnce(&BTreeMap<StreamId, StreamPhase>) -> ChangeRequest,
    ) -> Result<ChangeStream> {
        let streams = self.streams.lock().await;
        let events = self.log()?.stream_changes(request(&streams)).await?;
        self.reading.send_modify(|reading| {
            *reading = Reading { epoch: reading.epoch + 1, active: true, rested: 0 };
        });
        Ok(events)
    }

    /// The reader rests for all up to this ticket, and what it read before is committed.
    pub(crate) fn rests(&self, ticket: u64) {
        self.reading.send_modify(|reading| reading.rested = reading.rested.max(ticket));
    }

    /// The reading has ended, and nothing of it is being committed any more.
    pub(crate) fn ended(&self) {
        self.reading.send_modify(|reading| {
            *reading = Reading { epoch: reading.epoch + 1, active: false, rested: 0 };
        });
    }

    /// A stream is about to take its snapshot. Returns when it may.
    pub(crate) async fn opening(&self, stream: &StreamId) -> Result<()> {
        let (epoch, ticket) = {
            let mut streams = self.streams.lock().await;
            streams.insert(stream.clone(), StreamPhase::Opening);
            let ticket = self.log()?.enter_phase(stream, StreamPhase::Opening).await?;
            let reading = *self.reading.borrow();
            if !reading.active {
                return Ok(());
            }
            (reading.epoch, ticket)
        };
        // A reading that has ended, be it that the driver only knows so yet, is over in the next epoch.
        let may = |reading: &Reading| {
            reading.epoch != epoch || ticket.is_some_and(|ticket| reading.rested >= ticket)
        };
        let waited = self.reading.subscribe().wait_for(may).await.map(|_| ());
        waited.map_err(|_| Error::bug("the reading of a log is nowhere"))
    }

    /// A stream's snapshot stands committed at a position: its changes count from there.
    pub(crate) async fn opened(&self, stream: &StreamId, position: Position, generation: u32) -> Result<()> {
        self.enter(stream, StreamPhase::Open { position, generation }).await
    }

    /// A stream waits for another snapshot: the one before came to nothing.
    pub(crate) async fn queued(&self, stream: &StreamId) -> Result<()> {
        self.enter(stream, StreamPhase::Queued).await
    }

    async fn enter(&self, stream: &StreamId, phase: StreamPhase) -> Result<()> {
        let mut streams = self.streams.lock().await;
        streams.insert(stream.clone(), phase.clone());
        self.log()?.enter_phase(stream, phase).await.map(|_| ())
    }
}
