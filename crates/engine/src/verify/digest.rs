//! Rows as numbers: of a key, of a value, of a whole row.
//!
//! Two values of one column have one digest if they are equal down to their bits (−0 is not 0, a null is nothing
//! else). Different ones share it by chance: 64 bits for a value, of which only those of one key and one column are
//! ever compared; 128 bits for a key.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use arrow::row::{RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use lakeward_core::{ConfiguredStream, Error, Result, Schema};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Makes digests of a stream's rows.
pub(super) struct Digester {
    columns: Vec<RowConverter>,
    /// The key's columns; `None` where rows have none.
    key: Option<(RowConverter, Vec<usize>)>,
}

/// The digests of a batch.
pub(super) struct Digests {
    /// Of each row's key; of the whole row where there is none.
    pub(super) keys: Vec<u128>,
    /// Column by column, of each row's value.
    pub(super) values: Vec<Vec<u64>>,
}

impl Digester {
    pub(super) fn new(schema: &Schema, key: &[String]) -> Result<Self> {
        let arrow = schema.arrow();
        let converter = |columns: &[usize]| {
            let fields = columns.iter().map(|index| SortField::new(arrow.field(*index).data_type().clone()));
            RowConverter::new(fields.collect()).map_err(cannot_compare)
        };
        let columns = (0..schema.columns.len()).map(|index| converter(&[index])).collect::<Result<_>>()?;
        let key = match key {
            [] => None,
            names => {
                let indices: Option<Vec<usize>> = names.iter().map(|name| schema.index_of(name)).collect();
                let indices = indices.ok_or_else(|| Error::bug("a key is not among its stream's columns"))?;
                Some((converter(&indices)?, indices))
            }
        };
        Ok(Self { columns, key })
    }

    /// The digests of a batch that has the stream's columns, in their order.
    pub(super) fn digests(&self, columns: &[ArrayRef], rows: usize) -> Result<Digests> {
        let mut values = Vec::with_capacity(columns.len());
        for (converter, column) in self.columns.iter().zip(columns) {
            let converted =
                converter.convert_columns(std::slice::from_ref(column)).map_err(cannot_compare)?;
            values.push(converted.iter().map(|row| xxh3_64(row.as_ref())).collect::<Vec<u64>>());
        }
        let keys = match &self.key {
            None => (0..rows).map(|row| row_digest(values.iter().map(|column| column[row]))).collect(),
            Some((converter, indices)) => {
                let key: Vec<ArrayRef> = indices.iter().map(|index| columns[*index].clone()).collect();
                let converted = converter.convert_columns(&key).map_err(cannot_compare)?;
                converted.iter().map(|row| xxh3_128(row.as_ref())).collect()
            }
        };
        Ok(Digests { keys, values })
    }

    /// What a row of nulls has in each column.
    pub(super) fn nulls(&self, schema: &Schema) -> Result<Vec<u64>> {
        let arrow = schema.arrow();
        let nulls: Vec<ArrayRef> =
            arrow.fields().iter().map(|field| arrow::array::new_null_array(field.data_type(), 1)).collect();
        let digests = self.digests(&nulls, 1)?;
        Ok(digests.values.iter().map(|column| column[0]).collect())
    }
}

impl Digests {
    /// One row's values.
    pub(super) fn row(&self, row: usize) -> impl Iterator<Item = u64> {
        self.values.iter().map(move |column| column[row])
    }
}

/// The digest of a row by those of its values.
pub(super) fn row_digest(values: impl Iterator<Item = u64>) -> u128 {
    let bytes: Vec<u8> = values.flat_map(u64::to_le_bytes).collect();
    xxh3_128(&bytes)
}

/// A key as people read it: its columns with their values.
pub(super) fn shown_key(batch: &RecordBatch, stream: &ConfiguredStream, row: usize) -> Vec<(String, String)> {
    let shown = |name: &String| {
        let column = stream.schema.index_of(name).map(|index| batch.column(index));
        let value = column.map(|column| match column.is_null(row) {
            true => "null".to_owned(),
            false => shown_value(column, row),
        });
        (name.clone(), value.unwrap_or_default())
    };
    stream.key.iter().map(shown).collect()
}

fn shown_value(column: &ArrayRef, row: usize) -> String {
    let text = |column: &dyn Array| {
        let options = FormatOptions::default();
        ArrayFormatter::try_new(column, &options)?.value(row).try_to_string()
    };
    let shown = match column.data_type() {
        // What shows values knows no zone by its name.
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
            let utc =
                column.as_primitive::<TimestampMicrosecondType>().clone().with_timezone_opt(None::<&str>);
            text(&utc).map(|text| text + "Z")
        }
        DataType::FixedSizeBinary(16) => {
            let bytes = column.as_fixed_size_binary().value(row);
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            return [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
        }
        _ => text(column),
    };
    shown.unwrap_or_else(|_| "(out of the range that can be shown)".to_owned())
}

fn cannot_compare(error: arrow::error::ArrowError) -> Error {
    Error::bug("values of a column cannot be compared").source(error)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{FixedSizeBinaryArray, TimestampMicrosecondArray};

    use super::*;

    #[test]
    fn keys_are_shown_as_the_source_writes_them() -> std::result::Result<(), arrow::error::ArrowError> {
        let shown = |column: ArrayRef| shown_value(&column, 0);
        let at = |micros| TimestampMicrosecondArray::from(vec![micros]);
        assert_eq!(shown(Arc::new(at(1_500_000))), "1970-01-01T00:00:01.500");
        assert_eq!(shown(Arc::new(at(1_500_000).with_timezone("UTC"))), "1970-01-01T00:00:01.500Z");
        assert_eq!(
            shown(Arc::new(at(i64::MAX).with_timezone("UTC"))),
            "(out of the range that can be shown)"
        );
        let uuid = FixedSizeBinaryArray::try_from_iter([[0x5a; 16]].into_iter())?;
        assert_eq!(shown(Arc::new(uuid)), "5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a");
        Ok(())
    }
}
