//! A state made anew from the destination's own commits.

use std::path::PathBuf;
use std::sync::Arc;

use lakeward_core::{Destination, DriverInterface, Error, ErrorKind, Result, StreamId};
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
}

impl crate::AbstractDriver {
    /// Makes the state from the destination's commits. A file that is there already is set aside, not lost.
    ///
    /// # Errors
    /// `State` where the destination holds no commits.
    pub async fn rebuild_state(
        driver: Arc<dyn DriverInterface>,
        destination: Arc<dyn Destination>,
        store: StateStore,
        events: Arc<dyn EventSink>,
    ) -> Result<Rebuilt> {
        let pipeline = destination.pipeline().await?.ok_or_else(|| {
            Error::new(ErrorKind::State, "the destination holds no commits to make a state of")
                .hint("without commits no state is needed: run `lakeward sync`")
        })?;
        let state = State::new(pipeline);
        let store = Arc::new(store);
        let set_aside = store.set_aside()?;
        store.save(&state)?;
        let commits = CommitPath::new(destination.clone(), Some(driver), store, state, events);
        let mut streams = Vec::new();
        for (_, head) in destination.heads().await? {
            let Some(definition) = &head.definition else {
                continue;
            };
            let [namespace, name] = &definition.source_stream;
            let entry =
                StateEntry { source: StreamId::new(namespace, name), sync_mode: definition.sync_mode };
            commits.record(&entry, &head);
            streams.push(entry.source);
        }
        commits.finish().await?;
        Ok(Rebuilt { streams, set_aside })
    }
}
