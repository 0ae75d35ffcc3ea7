//! The source's side: every row of a snapshot, read as a backfill reads it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::{StreamExt, TryStreamExt};
use lakeward_core::{Chunk, Error, ErrorKind, Result, ResultExt, Retry, Session};

use super::Verifier;
use super::digest::{Digester, row_digest, shown_key};
use super::partitions::Partitions;
use super::records::source_record;
use crate::events::Event;
use crate::retry::Backoff;

/// Of the memory budget, what a chunk is at the source: its digests are kept until it is read whole.
const CHUNK_SHARE: usize = 8;
const LARGEST_CHUNK: u64 = 64 << 20;

/// A row of the source whose key differs.
pub(super) struct Found {
    pub(super) shown: Vec<(String, String)>,
    pub(super) values: Vec<u64>,
}

impl Verifier {
    /// The digests of all rows.
    pub(super) async fn read_source(
        &self,
        session: &Session,
        digester: &Arc<Digester>,
        into: &mut Partitions,
    ) -> Result<()> {
        let digester = digester.clone();
        let digests = move |rows: &RecordBatch, kept: &mut Vec<(u128, u128)>| {
            let digests = digester.digests(rows.columns(), rows.num_rows())?;
            kept.extend((0..rows.num_rows()).map(|row| (digests.keys[row], row_digest(digests.row(row)))));
            Ok(())
        };
        self.each_chunk(session, digests, |kept| {
            kept.into_iter().try_for_each(|(key, row)| into.push(key, &source_record(key, row)))
        })
        .await
    }

    /// The rows of some keys.
    pub(super) async fn find_in_source(
        &self,
        session: &Session,
        digester: &Arc<Digester>,
        wanted: Arc<HashSet<u128>>,
    ) -> Result<HashMap<u128, Found>> {
        let (digester, stream) = (digester.clone(), self.stream.clone());
        let search = move |rows: &RecordBatch, kept: &mut Vec<(u128, Found)>| {
            let digests = digester.digests(rows.columns(), rows.num_rows())?;
            let found = (0..rows.num_rows()).filter(|row| wanted.contains(&digests.keys[*row]));
            kept.extend(found.map(|row| {
                let found =
                    Found { shown: shown_key(rows, &stream, row), values: digests.row(row).collect() };
                (digests.keys[row], found)
            }));
            Ok(())
        };
        let mut all = HashMap::new();
        self.each_chunk(session, search, |kept| {
            all.extend(kept);
            Ok(())
        })
        .await?;
        Ok(all)
    }

    /// Reads all chunks, on all connections there are. What a chunk gives is taken when it was read whole, so that
    /// one that is read again after its connection was cut counts once.
    async fn each_chunk<T: Send + 'static>(
        &self,
        session: &Session,
        look: impl Fn(&RecordBatch, &mut Vec<T>) -> Result<()> + Clone + Send + 'static,
        mut take: impl FnMut(Vec<T>) -> Result<()>,
    ) -> Result<()> {
        let limits = &self.options.limits;
        let readers = limits.reader_count(self.driver.as_ref());
        let chunk_bytes =
            limits.chunk_bytes.min(LARGEST_CHUNK).min((self.budget.total() / CHUNK_SHARE) as u64);
        let chunks =
            self.driver.get_or_split_chunks(&self.alone, session, None, chunk_bytes.max(1 << 20)).await?;
        let mut reading = futures::stream::iter(chunks)
            .map(|chunk| self.read_chunk(chunk, session, readers, look.clone()))
            .buffer_unordered(readers);
        while let Some(kept) = reading.try_next().await? {
            take(kept)?;
        }
        Ok(())
    }

    async fn read_chunk<T: Send + 'static>(
        &self,
        chunk: Chunk,
        session: &Session,
        readers: usize,
        look: impl Fn(&RecordBatch, &mut Vec<T>) -> Result<()> + Clone + Send + 'static,
    ) -> Result<Vec<T>> {
        let limits = &self.options.limits;
        let mut backoff =
            Backoff::new(&self.stream.id, self.events.as_ref(), &limits.cancel, self.driver.max_retries());
        loop {
            let batches = self
                .driver
                .chunk_iterator(self.alone.clone(), chunk.clone(), session, self.context(readers))
                .await;
            let outcome = match batches {
                Err(error) => Err(error),
                Ok(mut batches) => {
                    let (look, events, stream) = (look.clone(), self.events.clone(), self.stream.id.clone());
                    // A task of its own, so that two connections keep two cores busy.
                    let reading = tokio::spawn(async move {
                        let mut kept = Vec::new();
                        while let Some(batch) = batches.try_next().await? {
                            look(&batch.rows, &mut kept)?;
                            let (rows, bytes) =
                                (batch.rows.num_rows() as u64, batch.rows.get_array_memory_size() as u64);
                            events.event(&Event::RowsRead { stream: stream.clone(), rows, bytes });
                        }
                        Ok::<_, Error>(kept)
                    });
                    reading.await.or_fail(ErrorKind::Bug, || "a reader did not end by itself".to_owned())?
                }
            };
            match outcome {
                Ok(kept) => return Ok(kept),
                Err(error) => backoff.after(error, Retry::Again).await?,
            }
        }
    }
}
