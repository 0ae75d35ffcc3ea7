//! streams.json against its promises: its schema is the one in `state/`, and files of old are read and written alike.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use lakeward_core::Catalog;

const GOLDEN: &str = include_str!("../../../state/golden/streams.json");
const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../state/streams.schema.json");

#[test]
fn a_file_of_old_is_read_and_written_as_it_was() {
    let catalog: Catalog = serde_json::from_str(GOLDEN).unwrap();
    let mut text = serde_json::to_string_pretty(&catalog).unwrap();
    text.push('\n');
    assert_eq!(text, GOLDEN);
}

/// With `LAKEWARD_BLESS` set the file is written anew.
#[test]
fn the_schema_file_is_that_of_the_types() {
    let mut schema = serde_json::to_string_pretty(&Catalog::json_schema()).unwrap();
    schema.push('\n');
    if std::env::var_os("LAKEWARD_BLESS").is_some() {
        std::fs::write(SCHEMA, &schema).unwrap();
    }
    assert_eq!(std::fs::read_to_string(SCHEMA).unwrap(), schema, "run this test with LAKEWARD_BLESS=1");
}
