//! The `lakeward` command.

fn main() {}
