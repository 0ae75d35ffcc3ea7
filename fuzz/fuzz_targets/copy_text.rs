//! Rows of COPY as text, a line each, into every type.
#![no_main]

mod columns;

use lakeward_postgres::decode::CopyFormat;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut lines = 0;
    let rows = columns::decode(CopyFormat::Text, data, |rest| {
        let whole = |line: &&[u8]| line.ends_with(b"\n");
        let messages: Vec<&[u8]> = rest.split_inclusive(|byte| *byte == b'\n').filter(whole).collect();
        lines = messages.len();
        messages
    });
    // A row for each line, unless they are refused.
    assert!(rows.is_none_or(|rows| rows == lines), "{rows:?} rows of {lines} lines");
});
