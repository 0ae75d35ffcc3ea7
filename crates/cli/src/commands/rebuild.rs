//! `lakeward state rebuild`: a state from the destination's own commits.

use lakeward_core::Result;
use lakeward_engine::AbstractDriver;
use lakeward_state::StateStore;

use crate::args::RebuildArgs;
use crate::commands::status::position as plain;
use crate::config;
use crate::failure::ExitCode;
use crate::messages::Console;
use crate::progress;
use crate::quantity::counted;

/// Makes the state anew; the file that was there is set aside.
pub(crate) async fn run(args: &RebuildArgs, console: &Console) -> Result<ExitCode> {
    let driver = config::source(&args.source.config)?;
    let destination = config::destination(&args.destination.destination)?;
    let store = StateStore::open(&args.state)?;
    let sink = progress::sink(console);
    let rebuilt =
        AbstractDriver::rebuild_state(driver, destination, store, args.accept_slot, sink.clone()).await;
    drop(sink);
    let rebuilt = rebuilt?;
    if let Some(path) = rebuilt.set_aside {
        console.say(&format!("the earlier state was set aside as {}", path.display()));
    }
    console.say(&format!(
        "state of {} written to {}; `lakeward status` shows it",
        counted(rebuilt.streams.len(), "stream"),
        args.state.display(),
    ));
    if let (Some(position), Some(released)) = (rebuilt.position, rebuilt.released) {
        console.say(&format!(
            "the last commit stands at {} in the source's log, and the source may forget it up to {}. What lies between \
             was nothing of this pipeline's, or it is lost: the next sync stops and says so. Where you know that no slot \
             was made anew, run this again with --accept-slot; else set replication.on_slot_lost to \"resnapshot\"",
            plain(&position),
            plain(&released),
        ));
    }
    Ok(ExitCode::DONE)
}
