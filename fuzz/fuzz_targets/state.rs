//! A state file: read or refused; what was read is written and read again as the same.
#![no_main]

use lakeward_state::State;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(state) = State::from_bytes(data) {
        let written = state.to_bytes().expect("what was read can be written");
        assert_eq!(State::from_bytes(&written).expect("what was written can be read"), state);
    }
});
