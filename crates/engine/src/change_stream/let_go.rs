//! Streams that are followed no longer.
//!
//! The log goes on without them, and what it says of them meanwhile nobody reads. The source need not know: a
//! publication that somebody else manages still names them. So their own commits say it, before the log moves on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lakeward_core::{
    Destination, Error, ErrorKind, Fingerprint, OpenStep, Result, Run, StreamCommit, StreamHead, StreamId,
};

use crate::commit::{CommitPath, StateEntry};

/// Commits for every stream that has a place in the log that it has none any more, unless the log is read or kept for
/// it: `kept` has those by their names at the source. One that comes back is read anew. `heads` is brought up to date.
pub(crate) async fn let_go(
    destination: &dyn Destination,
    commits: &Arc<CommitPath>,
    run: &Run,
    heads: &mut BTreeMap<StreamId, StreamHead>,
    kept: &BTreeSet<StreamId>,
) -> Result<()> {
    let mut left = Vec::new();
    for (target, head) in heads.iter() {
        let (Some(definition), Some(fingerprint)) = (&head.definition, &head.fingerprint) else { continue };
        let [namespace, name] = &definition.source_stream;
        let source = StreamId::new(namespace, name);
        // Of one that is being read anew the changes are dropped when that goes on.
        let followed = definition.sync_mode.follows_log() && fingerprint.is_in_log();
        let ours = head.pipeline == run.pipeline;
        if ours && followed && head.open.is_none() && !kept.contains(&source) {
            let unit = format!("generation/{target}/{}/let go", head.generation);
            let mut commit = StreamCommit::new(target.clone(), head.generation, unit);
            let fingerprint = Fingerprint { log: String::new(), ..fingerprint.clone() };
            commit.open = Some(OpenStep::redefined(definition.clone(), fingerprint, Default::default()));
            left.push((StateEntry { source, sync_mode: definition.sync_mode }, commit));
        }
    }
    for (entry, commit) in left {
        let target = commit.stream.clone();
        let gone = async {
            commits
                .refuse_missing_commits(&entry.source, &target, heads)
                .map_err(|error| error.at("stream", &entry.source))?;
            destination.prepare(&target, run).await?;
            commits.commit(&entry, commit, |_| Vec::new()).await
        };
        let head = gone.await.map_err(|error: Error| match error.kind() {
            ErrorKind::Destination | ErrorKind::State => error.hint(format!(
                "restore what is missing from a backup, or remove the stream with `lakeward clear {}`",
                entry.source
            )),
            _ => error,
        })?;
        heads.insert(target, head);
        tracing::info!(stream = %entry.source, "no longer followed");
    }
    Ok(())
}
