//! The commands, a file each; `bench` has a folder of its own.

mod check;
mod clear;
mod compact;
mod discover;
mod peek;
mod rebuild;
pub(crate) mod selected;
mod spec;
mod status;
mod stream;
mod sync;
mod verify;

use clap::CommandFactory;
use lakeward_core::Result;

use crate::args::{BenchCommand, Cli, Command, StateCommand};
use crate::bench;
use crate::failure::ExitCode;
use crate::messages::Console;
use crate::signals::abandon_on_signal;

/// Runs a command.
pub(crate) async fn run(command: Command, console: &Console) -> Result<ExitCode> {
    match command {
        Command::Spec(args) => spec::run(&args),
        Command::Check(args) => abandon_on_signal(check::run(&args)).await,
        Command::Discover(args) => abandon_on_signal(discover::run(&args, console)).await,
        Command::Sync(args) => sync::run(&args, console).await,
        Command::Status(args) => status::run(&args).await,
        Command::Files(args) => abandon_on_signal(stream::files(&args)).await,
        Command::View(args) => abandon_on_signal(stream::view(&args)).await,
        Command::Compact(args) => compact::run(&args, console).await,
        Command::Verify(args) => abandon_on_signal(verify::run(&args, console)).await,
        Command::Peek(args) => peek::run(&args),
        Command::Bench(BenchCommand::ChunkSize(args)) => bench::chunk_size(&args, console).await,
        Command::Bench(BenchCommand::Run(args)) => bench::run_once(&args).await,
        Command::State(StateCommand::Rebuild(args)) => rebuild::run(&args, console).await,
        Command::Clear(args) => clear::run(&args, console).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lakeward", &mut script);
            crate::output::print(&String::from_utf8_lossy(&script))?;
            Ok(ExitCode::DONE)
        }
    }
}
