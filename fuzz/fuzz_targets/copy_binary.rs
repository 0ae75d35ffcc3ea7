//! Messages of COPY in binary, each behind two bytes of length, into every type.
#![no_main]

mod columns;

use lakeward_postgres::decode::CopyFormat;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    columns::decode(CopyFormat::Binary, data, |mut rest| {
        let mut messages = Vec::new();
        while let Some((length, more)) = rest.split_first_chunk::<2>() {
            let (message, more) = more.split_at(usize::from(u16::from_be_bytes(*length)).min(more.len()));
            messages.push(message);
            rest = more;
        }
        messages
    });
});
