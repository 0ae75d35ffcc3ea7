//! A state made anew from the destination's own commits.

use std::cmp::Ordering;
use std::path::PathBuf;
use std::sync::Arc;

use lakeward_core::{
    CdcDriver, Destination, DriverInterface, Error, ErrorKind, Position, Result, StreamHead, StreamId,
};
use lakeward_state::{State, StateStore};

use crate::commit::{CommitPath, StateEntry};
use crate::events::EventSink;

/// What a rebuild found.
#[derive(Debug)]
pub struct Rebuilt {
    /// Streams that the new state knows.
    pub streams: Vec<StreamId>,
    /// Where the file that was there before has gone.
    pub set_aside: Option<PathBuf>,
    /// The place in the source's log that was taken, where streams follow it.
    pub position: Option<Position>,
    /// Where the source may have forgotten its log up to, behind what the commits tell.
    pub released: Option<Position>,
}

impl crate::AbstractDriver {
    /// Makes the state from the destination's commits. A file that is there already is set aside, not lost.
    ///
    /// The place in the source's log is the greatest that a commit names, but none behind what the source was told: the
    /// commits of a checkpoint name its place before all of them are made. A source that was told more (it moves on while
    /// nothing happens) is believed with `accept_released` alone: what lies between may as well be lost.
    ///
    /// # Errors
    /// `State` where the destination holds no commits.
    pub async fn rebuild_state(
        driver: Arc<dyn DriverInterface>,
        destination: Arc<dyn Destination>,
        store: StateStore,
        accept_released: bool,
        events: Arc<dyn EventSink>,
    ) -> Result<Rebuilt> {
        let pipeline = destination.pipeline().await?.ok_or_else(|| {
            Error::new(ErrorKind::State, "the destination holds no commits to make a state of")
                .hint("without commits no state is needed: run `lakeward sync`")
        })?;
        let heads = destination.heads().await?;
        let followed = heads.iter().filter(|(_, head)| follows(head));
        let mut position = match driver.change_stream() {
            Some(log) => greatest(log, followed.filter_map(|(_, head)| head.global.as_ref())),
            None => None,
        };
        let mut released = None;
        if let (Some(log), Some(committed)) = (driver.change_stream(), &position) {
            released = log.released(committed).await?;
            let order = released.as_ref().and_then(|released| log.compare(released, committed));
            match order {
                Some(Ordering::Less) => position = released.take(),
                Some(Ordering::Greater) if accept_released => position = released.take(),
                Some(Ordering::Greater) => {}
                Some(Ordering::Equal) | None => released = None,
            }
        }
        let state = State::new(pipeline);
        let store = Arc::new(store);
        let set_aside = store.set_aside()?;
        store.save(&state)?;
        let commits = CommitPath::new(destination.clone(), Some(driver), store, state, events);
        let (mut streams, mut following) = (Vec::new(), Vec::new());
        for (_, head) in heads {
            let Some(definition) = &head.definition else {
                continue;
            };
            let [namespace, name] = &definition.source_stream;
            let entry =
                StateEntry { source: StreamId::new(namespace, name), sync_mode: definition.sync_mode };
            commits.record(&entry, &head);
            if follows(&head) {
                following.push(entry.source.clone());
            }
            streams.push(entry.source);
        }
        if let Some(position) = &position {
            commits.save_global(position, following, false).await?;
        }
        commits.finish().await?;
        Ok(Rebuilt { streams, set_aside, position, released })
    }
}

fn follows(head: &StreamHead) -> bool {
    head.definition.as_ref().is_some_and(|definition| definition.sync_mode.follows_log())
}

/// The one behind all others; the first of those that cannot be told apart.
fn greatest<'a>(log: &dyn CdcDriver, positions: impl Iterator<Item = &'a Position>) -> Option<Position> {
    positions
        .reduce(|greatest, other| match log.compare(other, greatest) {
            Some(Ordering::Greater) => other,
            _ => greatest,
        })
        .cloned()
}
