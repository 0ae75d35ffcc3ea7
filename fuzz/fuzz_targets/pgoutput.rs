//! Messages of the log, each behind two bytes of length; the first bit of the input says whether they stream.
#![no_main]

use lakeward_postgres::pgoutput::{Body, OldTuple, Tuple, parse};
use libfuzzer_sys::fuzz_target;

fn read(tuple: &Tuple<'_>) {
    assert_eq!(tuple.values().count(), tuple.len());
}

fuzz_target!(|data: &[u8]| {
    let Some((first, mut rest)) = data.split_first() else { return };
    while let Some((length, more)) = rest.split_first_chunk::<2>() {
        let (message, more) = more.split_at(usize::from(u16::from_be_bytes(*length)).min(more.len()));
        rest = more;
        let Ok(message) = parse(message, first & 1 == 1) else { continue };
        let old = |old: OldTuple<'_>| read(&old.tuple());
        match message.body {
            Body::Insert { new, .. } => read(&new),
            Body::Update { old: before, new, .. } => {
                before.map(old);
                read(&new);
            }
            Body::Delete { old: before, .. } => old(before),
            Body::Truncate(relations) => _ = relations.iter().count(),
            _ => {}
        }
    }
});
