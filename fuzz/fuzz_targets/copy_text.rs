//! Rows of COPY as text, a line each, into every type.
#![no_main]

mod columns;

use lakeward_postgres::decode::CopyFormat;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| columns::decode(CopyFormat::Text, data, |rest| {
    rest.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}));
