//! Commit records, a line each: read or refused, and folded in their order.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| lakeward_parquet::fold_records(data.split(|byte| *byte == b'\n')));
