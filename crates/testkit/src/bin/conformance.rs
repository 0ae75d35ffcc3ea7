//! Prints the conformance matrix: `conformance TEST-OUTPUT… > tests/CONFORMANCE.md`, each file the
//! output of a `cargo test`.
#![allow(clippy::print_stdout)]

use anyhow::{Context, Result, ensure};
use lakeward_testkit::conformance::{markdown, outcomes};

fn main() -> Result<()> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    ensure!(!files.is_empty(), "usage: conformance TEST-OUTPUT…");
    let mut output = String::new();
    for file in files {
        output += &std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        output.push('\n');
    }
    print!("{}", markdown(&outcomes(&output)));
    Ok(())
}
