//! What a sync would do, without doing it.

use lakeward_core::{Catalog, Destination, DriverInterface, Result, StreamId, SyncMode};
use serde::Serialize;

use crate::abstract_driver::AbstractDriver;

/// What a sync would do for one stream.
#[derive(Debug, Clone, Serialize)]
pub struct StreamPlan {
    /// Namespace and name.
    pub stream: String,
    /// Its mode.
    pub mode: SyncMode,
    /// What would happen, in words.
    pub action: String,
    /// Chunks that would be read; 0 for an incremental pass.
    pub chunks: usize,
    /// The source's estimate of all rows.
    pub estimated_rows: Option<u64>,
    /// Bytes as stored at the source.
    pub estimated_bytes: Option<u64>,
}

impl AbstractDriver {
    /// What [`read`](Self::read) would do now, with chunks of about `chunk_bytes`. Nothing is written anywhere,
    /// not even a lock, so it may be asked while a sync runs; the source is asked for its chunks under a
    /// snapshot that is given up again.
    pub async fn plan(
        driver: &dyn DriverInterface,
        destination: &dyn Destination,
        chunk_bytes: u64,
        catalog: &Catalog,
    ) -> Result<Vec<StreamPlan>> {
        let streams = Self::resolve(driver, Some(destination), catalog).await?;
        let heads = destination.heads().await?;
        let mut plans = Vec::with_capacity(streams.len());
        for (stream, offered) in streams {
            let head = heads.iter().find(|(id, _)| *id == stream.target).map(|(_, head)| head);
            let (action, reads_chunks) = describe(head, &stream.target, stream.sync_mode);
            let chunks = if reads_chunks {
                let session = driver.begin_backfill(&stream.merely_read()).await?;
                let earlier = head.and_then(|head| head.open.as_ref()).map(|open| open.plan.as_slice());
                let split = driver.get_or_split_chunks(&stream, &session, earlier, chunk_bytes).await;
                driver.end_backfill(session).await;
                split?.len()
            } else {
                0
            };
            plans.push(StreamPlan {
                stream: stream.id.to_string(),
                mode: stream.sync_mode,
                action,
                chunks,
                estimated_rows: offered.estimated_rows,
                estimated_bytes: offered.estimated_bytes,
            });
        }
        Ok(plans)
    }
}

fn describe(head: Option<&lakeward_core::StreamHead>, target: &StreamId, mode: SyncMode) -> (String, bool) {
    let name = target.to_string();
    match head {
        None if mode == SyncMode::StrictCdc => (format!("changes from now on into {name}"), false),
        None => (format!("backfill into {name}"), true),
        Some(head) => match (&head.open, head.visible, mode) {
            (Some(open), _, _) => (
                format!(
                    "go on with the backfill of generation {}: {} chunks done",
                    head.generation,
                    open.done.len()
                ),
                true,
            ),
            (None, Some(_), SyncMode::Incremental) => {
                (format!("incremental pass {}", head.progress.pass + 1), false)
            }
            (None, Some(_), SyncMode::Cdc | SyncMode::StrictCdc) => {
                ("changes since the last sync".to_owned(), false)
            }
            (None, Some(_), SyncMode::FullRefresh) => (
                format!("full refresh: generation {} replaces {}", head.generation + 1, head.generation),
                true,
            ),
            (None, None, _) => (format!("backfill into {name}"), true),
        },
    }
}
