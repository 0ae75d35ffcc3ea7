//! A stream at a Parquet destination.

use std::path::Path;
use std::sync::Arc;

use lakeward_core::{
    Column, ConfiguredStream, MemoryBudget, NullCursor, OnBadValue, OnPartitionChange, OnSchemaChange, Run,
    Schema, SourceIdentity, StreamId, SyncMode, SystemColumns, UnitSpec,
};
use lakeward_parquet::ParquetDestination;
use serde_json::{Map, json};

/// A stream with these columns and the key `id`.
pub fn stream(columns: Vec<Column>) -> Arc<ConfiguredStream> {
    let id = StreamId::new("public", "trips");
    Arc::new(ConfiguredStream {
        id: id.clone(),
        target: id,
        sync_mode: SyncMode::Cdc,
        schema: Schema { columns },
        retired: Schema::default(),
        written_as: Default::default(),
        left_out: Vec::new(),
        columns_made: None,
        system: SystemColumns::default(),
        key: vec!["id".to_owned()],
        cursor: None,
        null_cursor: NullCursor::Include,
        filter: None,
        partition: Vec::new(),
        chunk_column: None,
        on_bad_value: OnBadValue::Clamp,
        on_schema_change: OnSchemaChange::Evolve,
        on_partition_change: OnPartitionChange::Keep,
        insert_only: false,
    })
}

/// A run that writes to it.
pub fn run(id: &str) -> Run {
    let source = SourceIdentity { kind: "bench".to_owned(), facts: Map::new() };
    Run { id: id.to_owned(), pipeline: "bench".to_owned(), source }
}

/// A destination below a directory.
///
/// # Panics
/// Where its config is refused.
pub fn destination(path: &Path) -> ParquetDestination {
    ParquetDestination::from_config(json!({"type": "parquet", "path": path})).unwrap()
}

/// A unit of a stream's first generation.
pub fn unit(stream: &Arc<ConfiguredStream>, name: &str) -> UnitSpec {
    UnitSpec {
        stream: stream.clone(),
        generation: 1,
        unit: name.to_owned(),
        read_position: 0,
        budget: MemoryBudget::new(512 << 20),
        open_writers: 1,
    }
}
