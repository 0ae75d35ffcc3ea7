//! The beginning of a run: who is who, does the state belong here, and does it know what the destination holds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use lakeward_core::{
    Destination, DestinationIdentity, DriverInterface, Error, ErrorKind, Pipeline, Result, Run,
    SourceIdentity, StreamHead, StreamId,
};
use lakeward_state::{State, StateStore};

/// Joins source, destination and state, or refuses.
///
/// A fresh pipeline is saved before anything is written anywhere else.
///
/// # Errors
/// `State` where the state belongs to another source or destination, or where there is none although the
/// destination holds commits of one of `targets`.
pub(crate) async fn join(
    driver: &Arc<dyn DriverInterface>,
    destination: &Arc<dyn Destination>,
    store: &Arc<StateStore>,
    targets: &[StreamId],
) -> Result<(State, Run)> {
    let source = driver.identity().await?;
    let identity = destination.identity().await?;
    let state = store.load()?;
    fit(state.as_ref(), store.path(), &source, Some(&identity), destination.as_ref(), targets).await?;
    let state = match state {
        Some(state) => state,
        None => {
            let pipeline = Pipeline { id: ulid::Ulid::new().to_string(), source, destination: identity };
            let state = State::new(pipeline);
            store.save(&state)?;
            state
        }
    };
    let run = begin_run(&state);
    Ok((state, run))
}

/// Whether a state, or that there is none at `path`, goes with source and destination. Without an `identity` the
/// destination is one where nothing is yet.
///
/// # Errors
/// As [`join`].
pub(crate) async fn fit(
    state: Option<&State>,
    path: &Path,
    source: &SourceIdentity,
    identity: Option<&DestinationIdentity>,
    destination: &dyn Destination,
    targets: &[StreamId],
) -> Result<()> {
    let Some(state) = state else { return refuse_unknown_commits(destination, targets).await };
    same_source(&state.pipeline.source, source).map_err(|error| error.at("file", path.display()))?;
    identity.map_or(Ok(()), |identity| same_destination(state, path, identity))
}

/// A new run of the state's pipeline.
pub(crate) fn begin_run(state: &State) -> Run {
    let Pipeline { id, source, .. } = state.pipeline.clone();
    Run { id: ulid::Ulid::new().to_string(), pipeline: id, source }
}

/// Whether the state knows this destination: whoever acts on two that do not belong together loses one of them.
///
/// # Errors
/// `State`, naming the state's file.
pub(crate) fn same_destination(state: &State, path: &Path, identity: &DestinationIdentity) -> Result<()> {
    if state.pipeline.destination == *identity {
        return Ok(());
    }
    Err(Error::new(ErrorKind::State, "the state belongs to another destination")
        .hint(
            "use the destination it was made with, or another --state; where that destination is gone for good, \
             let go of the source's log by `lakeward clear --log`, then remove the state file to begin anew",
        )
        .at("file", path.display()))
}

/// Whether the state knows this source.
///
/// # Errors
/// `State`, naming what differs.
pub(crate) fn same_source(known: &SourceIdentity, now: &SourceIdentity) -> Result<()> {
    if known == now {
        return Ok(());
    }
    let differing: Vec<&str> = known
        .facts
        .iter()
        .filter(|(name, value)| now.facts.get(*name) != Some(value))
        .map(|(name, _)| name.as_str())
        .collect();
    let what = if known.kind == now.kind { differing.join(", ") } else { "kind".to_owned() };
    Err(Error::new(ErrorKind::State, "the state belongs to another source")
        .at("differing", what)
        .hint("use the source it was made with, or another --state and another destination"))
}

/// Without a state nothing says how far a stream had come: that must never read as "first run".
async fn refuse_unknown_commits(destination: &dyn Destination, targets: &[StreamId]) -> Result<()> {
    let heads = destination.heads().await?;
    match heads.iter().find(|(id, head)| head.commit > 0 && targets.contains(id)) {
        None => Ok(()),
        Some((id, head)) => Err(Error::new(
            ErrorKind::State,
            "there is no state, but the destination holds commits of a stream",
        )
        .at("stream", id)
        .at("last commit", head.commit)
        .hint(
            "put the state file back, make it anew with `lakeward state rebuild`, or remove the stream's \
                     data with `lakeward clear`",
        )),
    }
}

/// Whether the destination has all commits of a stream, of which the state knows so many.
///
/// # Errors
/// `Config` where they are there under another name, `State` where some are missing.
pub(crate) fn refuse_missing_commits(
    known: u64,
    source: &StreamId,
    target: &StreamId,
    heads: &BTreeMap<StreamId, StreamHead>,
) -> Result<()> {
    let found = heads.get(target).map_or(0, |head| head.commit);
    if known <= found {
        return Ok(());
    }
    let is_it = |head: &StreamHead| {
        let definition = head.definition.as_ref();
        head.commit >= known
            && definition.is_some_and(|known| known.source_stream == [&*source.namespace, &*source.name])
    };
    if let Some((before, _)) = heads.iter().find(|(_, head)| is_it(head)) {
        return Err(Error::new(
            ErrorKind::Config,
            "a stream keeps its name at the destination once it has begun there",
        )
        .at("name there", before)
        .at("in streams.json", target)
        .hint(format!(
            "set destination_table back to {:?}; to read the stream anew under another name, remove it with \
                 `lakeward clear {source}` before you change the name",
            before.name
        )));
    }
    Err(Error::new(ErrorKind::State, "the destination is behind the state: commits are missing")
        .at("state's last commit", known)
        .at("destination's last commit", found)
        .hint("restore the destination, or remove the stream's data and state with `lakeward clear`"))
}
