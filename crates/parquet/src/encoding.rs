//! How each column is encoded, chosen from its type and from the first batch of a unit.
//!
//! Integers, dates and times are delta-packed without a dictionary; where the first batch shows few distinct
//! values the dictionary stays on, with the delta encoding behind it should it overflow. Text, decimals and floating
//! point keep their dictionary unless their values hardly repeat. Row groups carry statistics, not pages, and text
//! columns only where rows are likely to be sought by them: comparing all text takes a third of the encoder's time, and
//! the least and greatest text of a million unsorted rows exclude nothing. `cargo bench -p lakeward-bench --bench
//! parquet` measures the choices.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, SchemaRef, Time64MicrosecondType, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use foldhash::fast::RandomState;
use parquet::basic::{Compression, Encoding};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

/// Where the operation and the order stand in a file schema; see [`SystemColumns`](lakeward_core::SystemColumns).
pub(crate) const OP: usize = 0;
pub(crate) const SEQ: usize = 1;

/// Rows of the first batch that are looked at.
const SAMPLE: usize = 4096;

/// What all files of a unit have in common.
#[derive(Debug, Clone)]
pub(crate) struct Encoder {
    pub(crate) compression: Compression,
    pub(crate) row_group_rows: usize,
    /// Columns whose values are known to be distinct, by index in the file schema.
    pub(crate) unique: Vec<usize>,
    /// Text columns by which rows are likely to be sought: order, keys, cursors, partitions.
    pub(crate) sought: Vec<usize>,
}

impl Encoder {
    /// The properties for a unit whose first batch this is.
    pub(crate) fn properties(
        &self,
        schema: &SchemaRef,
        first: Option<&RecordBatch>,
        metadata: Vec<KeyValue>,
    ) -> Arc<WriterProperties> {
        let mut builder = WriterProperties::builder()
            .set_created_by(concat!("lakeward ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(self.compression)
            .set_max_row_group_row_count(Some(self.row_group_rows))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_key_value_metadata(Some(metadata));
        for (index, field) in schema.fields().iter().enumerate() {
            let column = first.map(|batch| batch.column(index));
            let distinct =
                if self.unique.contains(&index) { Some(1.0) } else { column.and_then(distinct_share) };
            builder = encode_column(builder, field.name(), field.data_type(), distinct);
            if index == SEQ {
                // Fixed width, ascending: neighbours share most of it. Constant in a dictionary where rows are read.
                let path = ColumnPath::new(vec![field.name().clone()]);
                builder = builder.set_column_encoding(path, Encoding::DELTA_BYTE_ARRAY);
            }
            let text = matches!(field.data_type(), DataType::Utf8 | DataType::Binary);
            if text && !self.sought.contains(&index) {
                let path = ColumnPath::new(vec![field.name().clone()]);
                builder = builder.set_column_statistics_enabled(path, EnabledStatistics::None);
            }
        }
        Arc::new(builder.build())
    }
}

/// Integers in a dictionary pay only where each value comes often.
const INTEGER_DICTIONARY: f64 = 0.1;
/// Text in a dictionary pays unless values hardly repeat.
const TEXT_DICTIONARY: f64 = 0.9;
/// Rows of a page. Parquet's default of 20,000 makes many small pages of columns that compress well.
const PAGE_ROWS: usize = 100_000;

fn encode_column(
    builder: WriterPropertiesBuilder,
    name: &str,
    data_type: &DataType,
    distinct: Option<f64>,
) -> WriterPropertiesBuilder {
    let path = ColumnPath::new(vec![name.to_owned()]);
    let repeats = distinct.is_none_or(|share| share <= TEXT_DICTIONARY);
    match data_type {
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Date32
        | DataType::Time64(_)
        | DataType::Timestamp(..) => {
            let dictionary = distinct.is_some_and(|share| share <= INTEGER_DICTIONARY);
            builder
                .set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED)
                .set_column_dictionary_enabled(path, dictionary)
        }
        DataType::Utf8 | DataType::Binary if !repeats => builder
            .set_column_encoding(path.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
            .set_column_dictionary_enabled(path, false),
        DataType::FixedSizeBinary(_) | DataType::Decimal128(..) | DataType::Float32 | DataType::Float64 => {
            builder.set_column_dictionary_enabled(path, repeats)
        }
        _ => builder,
    }
}

/// Distinct values among the first rows, as a share of those that are not null.
fn distinct_share(column: &ArrayRef) -> Option<f64> {
    let sample = column.slice(0, column.len().min(SAMPLE));
    macro_rules! share {
        ($($pattern:pat => $type:ty),*) => {
            match sample.data_type() {
                $($pattern => share_of(sample.as_primitive::<$type>().iter()),)*
                DataType::Utf8 => share_of(sample.as_string::<i32>().iter()),
                DataType::Binary => share_of(sample.as_binary::<i32>().iter()),
                DataType::FixedSizeBinary(_) => share_of(sample.as_fixed_size_binary().iter()),
                DataType::Float32 => {
                    share_of(sample.as_primitive::<Float32Type>().iter().map(|value| value.map(f32::to_bits)))
                }
                DataType::Float64 => {
                    share_of(sample.as_primitive::<Float64Type>().iter().map(|value| value.map(f64::to_bits)))
                }
                _ => None,
            }
        };
    }
    share!(
        DataType::Int8 => Int8Type, DataType::Int16 => Int16Type, DataType::Int32 => Int32Type,
        DataType::Int64 => Int64Type, DataType::UInt8 => UInt8Type, DataType::UInt16 => UInt16Type,
        DataType::UInt32 => UInt32Type, DataType::UInt64 => UInt64Type, DataType::Date32 => Date32Type,
        DataType::Time64(_) => Time64MicrosecondType, DataType::Timestamp(..) => TimestampMicrosecondType,
        DataType::Decimal128(..) => Decimal128Type
    )
}

fn share_of<T: Hash + Eq>(values: impl Iterator<Item = Option<T>>) -> Option<f64> {
    let mut distinct = HashSet::with_capacity_and_hasher(SAMPLE, RandomState::default());
    let mut count = 0u32;
    for value in values.flatten() {
        count += 1;
        distinct.insert(value);
    }
    // Too few values say nothing; none at all are cheapest in a dictionary.
    (count == 0 || count >= 100).then(|| distinct.len() as f64 / f64::from(count.max(1)))
}
