//! The destination's writers, bounded in number.

use std::sync::Arc;

use lakeward_core::{
    Batch, ConfiguredStream, Destination, Error, MemoryBudget, Result, UnitSpec, Writer, WrittenFile,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Opens writers of one destination, at most so many at once.
///
/// Every writer may hold its share of half the memory budget; the other half is the readers', so neither can
/// starve the other.
#[derive(Clone)]
pub struct WriterPool {
    destination: Arc<dyn Destination>,
    permits: Arc<Semaphore>,
    budget: MemoryBudget,
    size: usize,
}

impl WriterPool {
    /// A pool of `size` writers.
    pub fn new(destination: Arc<dyn Destination>, budget: MemoryBudget, size: usize) -> Self {
        Self { destination, permits: Arc::new(Semaphore::new(size)), budget, size }
    }

    /// Waits for a place and opens a writer for a unit.
    pub async fn open(
        &self,
        stream: Arc<ConfiguredStream>,
        generation: u32,
        unit: String,
        read_position: u64,
    ) -> Result<PooledWriter> {
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| Error::bug("the writer pool was closed"))?;
        let writer = self
            .destination
            .writer(UnitSpec {
                stream,
                generation,
                unit,
                read_position,
                budget: self.budget.clone(),
                open_writers: self.size,
            })
            .await?;
        Ok(PooledWriter { writer, _permit: Some(permit) })
    }

    /// Opens a writer that keeps no other one waiting: units of a change stream stay open until their checkpoint,
    /// however many streams change. `beside` of them are open then.
    pub async fn open_beside(
        &self,
        stream: Arc<ConfiguredStream>,
        generation: u32,
        unit: String,
        beside: usize,
    ) -> Result<PooledWriter> {
        let unit = UnitSpec {
            stream,
            generation,
            unit,
            read_position: 0,
            budget: self.budget.clone(),
            open_writers: self.size + beside,
        };
        Ok(PooledWriter { writer: self.destination.writer(unit).await?, _permit: None })
    }
}

/// A writer with its place in the pool, given back when it ends.
pub struct PooledWriter {
    writer: Box<dyn Writer>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl PooledWriter {
    /// Writes a batch.
    pub async fn write(&mut self, batch: Batch) -> Result<()> {
        self.writer.write(batch).await
    }

    /// Finishes and syncs the unit's files.
    pub async fn finish(self, keep_empty: bool) -> Result<Vec<WrittenFile>> {
        self.writer.finish(keep_empty).await
    }

    /// Gives the unit up.
    pub async fn abort(self) {
        self.writer.abort().await;
    }
}
