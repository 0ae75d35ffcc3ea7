//! The command line of Lakeward, and the one place where connectors, engine and state meet.
//!
//! Guaranteed: standard output carries results only; everything else goes to standard error. Exit codes are those
//! of `lakeward --help`. No secret and no row value is printed, at any log level, except the rows that
//! `lakeward peek` is asked for and the keys of rows that `lakeward verify` finds to differ.

#![forbid(unsafe_code)]

mod args;
mod bench;
mod commands;
mod config;

mod failure;
mod messages;
mod output;
mod progress;
mod quantity;
mod registry;
mod signals;

use std::ffi::OsString;
use std::io::Write;

use clap::Parser;
use lakeward_core::{Error, ErrorKind, ResultExt};

use crate::args::Cli;
use crate::messages::Console;

pub use crate::failure::ExitCode;

/// Threads that drive connections and timers. Decoding and encoding need no more than the machine has, and a
/// machine with many cores should not pay for stacks that nothing runs on.
const MOST_WORKERS: usize = 8;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Runs one command: the program's name, then its arguments.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(refusal) => {
            // `--help` and `--version` come here too; clap knows which stream each belongs to.
            let _ = refusal.print();
            return if refusal.use_stderr() { ExitCode::USAGE } else { ExitCode::DONE };
        }
    };
    lakeward_allocator::bound_arenas(cli.command.memory_limit());
    std::panic::set_hook(Box::new(on_panic));
    let console = Console::new(&cli.speech);
    console.install_logs(cli.speech.log_level);
    // Installing twice in one process is the only way to fail, and harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, MOST_WORKERS)))
        .enable_all()
        .build()
        .or_fail(ErrorKind::Bug, || "the async runtime cannot be started".to_owned());
    let outcome = runtime.and_then(|runtime| {
        let outcome = runtime.block_on(commands::run(cli.command, &console));
        // A blocked thread (a name look-up, a stalled file system) must not hold the process.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            console.fail(&error);
            ExitCode::of(error.kind())
        }
    }
}

/// A panic is a bug, and ends the process at once: every durable step is safe to be cut off at, and a run whose
/// tasks vanish one by one is not.
fn on_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    // A formatted message may quote the data that broke it; a literal one cannot.
    let what = panic.payload().downcast_ref::<&'static str>().copied();
    let error = Error::bug(what.unwrap_or(
        "something happened that should be impossible (the message is withheld: it may hold data)",
    ))
    .at("at", place);
    let mut message = format!("\n{}\n", failure::text(&error));
    let trace = std::backtrace::Backtrace::capture();
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        message.push_str(&format!("{trace}\n"));
    }
    // Not through the console: the panic may have happened while it was being written to.
    let _ = std::io::stderr().write_all(message.as_bytes());
    std::process::exit(i32::from(ExitCode::BUG.code()));
}
