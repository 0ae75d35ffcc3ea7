//! What a checkpoint holds: one unit of work per stream that changed since the last one.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use lakeward_core::{BadValues, Batch, Error, Result, StreamId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::events::Event;
use crate::stream_run::{Copied, StreamRun};
use crate::writer_pool::PooledWriter;

/// Batches that wait for their writer.
const BATCHES_AHEAD: usize = 1;

/// Files that are finished and synced at once: most of it is waiting for the disk.
const FINISHED_AT_ONCE: usize = 8;

/// The open units, by stream.
pub(super) struct Units {
    open: BTreeMap<StreamId, Unit>,
    /// Whether each stream's rows are encoded by a task of their own.
    fan_out: bool,
}

/// A finished unit.
pub(super) struct Finished {
    pub(super) run: Arc<StreamRun>,
    pub(super) generation: u32,
    pub(super) unit: String,
    pub(super) copied: Copied,
}

struct Unit {
    run: Arc<StreamRun>,
    generation: u32,
    name: String,
    rows: u64,
    bad_values: BadValues,
    writing: Writing,
}

enum Writing {
    Here(PooledWriter),
    Apart { batches: mpsc::Sender<Batch>, task: JoinHandle<Result<PooledWriter>> },
}

impl Units {
    pub(super) fn new(fan_out: bool) -> Self {
        Self { open: BTreeMap::new(), fan_out }
    }

    /// Takes all units out.
    pub(super) fn take(&mut self) -> Self {
        Self { open: std::mem::take(&mut self.open), fan_out: self.fan_out }
    }

    /// Writes a batch of changes to its stream's unit.
    pub(super) async fn write(&mut self, run: &Arc<StreamRun>, number: u64, batch: Batch) -> Result<()> {
        let id = &run.stream.id;
        if !self.open.contains_key(id) {
            let unit = Unit::begin(run.clone(), number, self.open.len() + 1, self.fan_out).await?;
            self.open.insert(id.clone(), unit);
        }
        let unit = self.open.get_mut(id).ok_or_else(|| Error::bug("a unit was opened and is nowhere"))?;
        unit.write(batch).await
    }

    /// Finishes and syncs the files of all units.
    pub(super) async fn finish(self) -> Result<Vec<Finished>> {
        let mut finished = Vec::with_capacity(self.open.len());
        let mut failure = None;
        // All of them, whatever becomes of one: what is not committed is removed by its writer.
        let mut finishing = futures::stream::iter(self.open)
            .map(|(id, unit)| async move { unit.finish().await.map_err(|error| error.at("stream", id)) })
            .buffer_unordered(FINISHED_AT_ONCE);
        while let Some(unit) = finishing.next().await {
            match unit {
                Ok(unit) => finished.push(unit),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(finished), Err)
    }

    /// Gives all units up.
    pub(super) async fn abort(self) {
        for unit in self.open.into_values() {
            match unit.writing {
                Writing::Here(writer) => writer.abort().await,
                Writing::Apart { batches, task } => {
                    drop(batches);
                    if let Ok(Ok(writer)) = task.await {
                        writer.abort().await;
                    }
                }
            }
        }
    }
}

impl Unit {
    async fn begin(run: Arc<StreamRun>, number: u64, open: usize, apart: bool) -> Result<Self> {
        let head = run.head();
        let generation = head.generation;
        // For people: what decides after a crash is the position.
        let name = format!("cdc/{}/{generation}/{}-{number}", run.stream.target, run.context.run.id);
        let writer = run.context.pool.open_beside(run.stream.clone(), generation, name.clone(), open).await?;
        let writing = match apart {
            false => Writing::Here(writer),
            true => {
                let (batches, mut waiting) = mpsc::channel(BATCHES_AHEAD);
                let task = tokio::spawn(async move {
                    let mut writer = writer;
                    while let Some(batch) = waiting.recv().await {
                        if let Err(error) = writer.write(batch).await {
                            writer.abort().await;
                            return Err(error);
                        }
                    }
                    Ok(writer)
                });
                Writing::Apart { batches, task }
            }
        };
        Ok(Self { run, generation, name, rows: 0, bad_values: BadValues::default(), writing })
    }

    async fn write(&mut self, batch: Batch) -> Result<()> {
        let rows = batch.rows.num_rows() as u64;
        self.rows += rows;
        self.bad_values.merge(&batch.bad_values);
        self.run.context.events.event(&Event::RowsRead {
            stream: self.run.stream.id.clone(),
            rows,
            bytes: batch.rows.get_array_memory_size() as u64,
        });
        match &mut self.writing {
            Writing::Here(writer) => writer.write(batch).await,
            Writing::Apart { batches, .. } => {
                // A writer that failed says why when the unit is finished.
                let _ = batches.send(batch).await;
                Ok(())
            }
        }
    }

    async fn finish(self) -> Result<Finished> {
        let Self { run, generation, name, rows, bad_values, writing } = self;
        let writer = match writing {
            Writing::Here(writer) => writer,
            Writing::Apart { batches, task } => {
                drop(batches);
                task.await.map_err(|error| Error::bug("a writing task ended early").source(error))??
            }
        };
        let files = writer.finish(false).await?;
        Ok(Finished { run, generation, unit: name, copied: Copied { files, rows, bad_values } })
    }
}
