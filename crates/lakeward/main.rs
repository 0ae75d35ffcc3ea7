//! The `lakeward` command.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    lakeward_cli::main().into()
}
