//! The look-back window of an incremental stream: which row versions a pass has already delivered.
//!
//! A window is a multiset of 128-bit hashes of whole rows (key included). A pass reads a little behind the
//! greatest cursor again; a row version whose hash is in the former window was delivered, unless it stands there
//! more often than before. So a row stands once, a second update with the same cursor is seen, and a row that was
//! committed late is caught.

use arrow::array::{Array, BooleanArray, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use lakeward_core::{Batch, Error, ErrorKind, Result};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

const MAGIC: &[u8; 8] = b"LWWINDO1";

/// The hashes of a pass, sorted, and which of them a following pass has met again.
#[derive(Debug, Default)]
pub(crate) struct Window {
    hashes: Vec<u128>,
    met: Vec<bool>,
}

impl Window {
    /// Reads a window file: 8 bytes of magic, then the hashes, 16 bytes each, little-endian and sorted.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let torn = || Error::new(ErrorKind::Destination, "a window file is torn");
        let body = bytes.strip_prefix(MAGIC).ok_or_else(torn)?;
        let (chunks, rest) = body.as_chunks::<16>();
        let hashes: Vec<u128> = chunks.iter().map(|hash| u128::from_le_bytes(*hash)).collect();
        if !rest.is_empty() || !hashes.is_sorted() {
            return Err(torn());
        }
        Ok(Self { met: vec![false; hashes.len()], hashes })
    }

    /// The file of a window.
    pub(crate) fn to_bytes(mut hashes: Vec<u128>) -> Vec<u8> {
        hashes.sort_unstable();
        let mut bytes = Vec::with_capacity(MAGIC.len() + hashes.len() * 16);
        bytes.extend_from_slice(MAGIC);
        for hash in hashes {
            bytes.extend_from_slice(&hash.to_le_bytes());
        }
        bytes
    }

    /// Whether a row with this hash was delivered before. Each entry answers for one row.
    fn meet(&mut self, hash: u128) -> bool {
        let start = self.hashes.partition_point(|other| *other < hash);
        for index in start..self.hashes.len() {
            if self.hashes[index] != hash {
                break;
            }
            if !self.met[index] {
                self.met[index] = true;
                return true;
            }
        }
        false
    }

    /// Takes out of a batch the rows that were delivered before, and adds to `next` the hashes of all its rows
    /// that lie in the next window. `None` where nothing is left.
    pub(crate) fn admit(&mut self, batch: Batch, next: &mut Vec<u128>) -> Result<Option<Batch>> {
        let in_next = batch.in_next_window.as_ref().ok_or_else(|| {
            Error::bug("an incremental batch does not say which rows are in the next window")
        })?;
        let hashes = row_hashes(&batch.rows, batch.rescued.as_ref())?;
        let mut keep = Vec::with_capacity(hashes.len());
        for (index, hash) in hashes.iter().enumerate() {
            if in_next.value(index) {
                next.push(*hash);
            }
            keep.push(!self.meet(*hash));
        }
        if keep.iter().all(|kept| *kept) {
            return Ok(Some(batch));
        }
        let mask = BooleanArray::from(keep);
        if mask.true_count() == 0 {
            return Ok(None);
        }
        let fail = |error| Error::bug("a batch cannot be filtered").source(error);
        let rows = arrow::compute::filter_record_batch(&batch.rows, &mask).map_err(fail)?;
        let rescued = match &batch.rescued {
            Some(rescued) => {
                let filtered = arrow::compute::filter(rescued, &mask).map_err(fail)?;
                filtered.as_any().downcast_ref::<StringArray>().cloned()
            }
            None => None,
        };
        Ok(Some(Batch { rows, rescued, in_next_window: None, ..batch }))
    }
}

/// A 128-bit hash per row, over the values that are not null, each with its column's name: a column added later,
/// null in a row, does not change the row's hash.
pub(crate) fn row_hashes(rows: &RecordBatch, rescued: Option<&StringArray>) -> Result<Vec<u128>> {
    let mut hashers = vec![Xxh3::new(); rows.num_rows()];
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        let name = xxh3_64(field.name().as_bytes());
        hash_column(column.as_ref(), name, &mut hashers)?;
    }
    if let Some(rescued) = rescued {
        hash_column(rescued, 0, &mut hashers)?;
    }
    Ok(hashers.iter().map(Xxh3::digest128).collect())
}

fn hash_column(column: &dyn Array, name: u64, hashers: &mut [Xxh3]) -> Result<()> {
    use arrow::array::AsArray;
    use arrow::datatypes as types;
    macro_rules! each {
        ($array:expr, $value:ident => $bytes:expr) => {{
            let array = $array;
            for (index, hasher) in hashers.iter_mut().enumerate() {
                if array.is_valid(index) {
                    let $value = array.value(index);
                    let bytes = $bytes;
                    hasher.update(&name.to_le_bytes());
                    // With its length, so that two neighbouring values never read as two others.
                    hasher.update(&(bytes.as_ref() as &[u8]).len().to_le_bytes());
                    hasher.update(bytes.as_ref());
                }
            }
        }};
    }
    macro_rules! number {
        ($type:ty) => {
            each!(column.as_primitive::<$type>(), value => value.to_le_bytes())
        };
    }
    match column.data_type() {
        DataType::Null => {}
        DataType::Boolean => each!(column.as_boolean(), value => [u8::from(value)]),
        DataType::Int8 => number!(types::Int8Type),
        DataType::Int16 => number!(types::Int16Type),
        DataType::Int32 => number!(types::Int32Type),
        DataType::Int64 => number!(types::Int64Type),
        DataType::UInt8 => number!(types::UInt8Type),
        DataType::UInt16 => number!(types::UInt16Type),
        DataType::UInt32 => number!(types::UInt32Type),
        DataType::UInt64 => number!(types::UInt64Type),
        DataType::Float32 => number!(types::Float32Type),
        DataType::Float64 => number!(types::Float64Type),
        DataType::Decimal128(..) => number!(types::Decimal128Type),
        DataType::Decimal256(..) => number!(types::Decimal256Type),
        DataType::Date32 => number!(types::Date32Type),
        DataType::Time64(_) => number!(types::Time64MicrosecondType),
        DataType::Timestamp(..) => number!(types::TimestampMicrosecondType),
        DataType::Utf8 => each!(column.as_string::<i32>(), value => value.as_bytes()),
        DataType::Binary => each!(column.as_binary::<i32>(), value => value),
        DataType::FixedSizeBinary(_) => each!(column.as_fixed_size_binary(), value => value),
        DataType::List(_) => {
            let lists = column.as_list::<i32>();
            for (index, hasher) in hashers.iter_mut().enumerate() {
                if lists.is_valid(index) {
                    let items = lists.value(index);
                    hasher.update(&name.to_le_bytes());
                    hasher.update(&items.len().to_le_bytes());
                    let mut inner = vec![Xxh3::new(); items.len()];
                    hash_column(items.as_ref(), name, &mut inner)?;
                    for item in inner {
                        hasher.update(&item.digest128().to_le_bytes());
                    }
                }
            }
        }
        other => return Err(Error::bug(format!("rows of type {other} cannot be hashed"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};
    use std::sync::Arc;

    fn batch(ids: &[i64], names: &[Option<&str>], in_next: &[bool]) -> Batch {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from(ids.to_vec()))),
            ("name", Arc::new(StringArray::from(names.to_vec()))),
        ];
        let mut batch = Batch::read(RecordBatch::try_from_iter(columns).unwrap());
        batch.in_next_window = Some(BooleanArray::from(in_next.to_vec()));
        batch
    }

    #[test]
    fn a_row_version_is_delivered_once_and_a_changed_one_again() {
        let mut next = Vec::new();
        let mut first = Window::default();
        let all = first.admit(batch(&[1, 2], &[Some("a"), None], &[true, true]), &mut next).unwrap().unwrap();
        assert_eq!(all.rows.num_rows(), 2);

        let mut second = Window::from_bytes(&Window::to_bytes(next)).unwrap();
        let mut next = Vec::new();
        let rows = batch(&[1, 2, 3], &[Some("a"), Some("b"), None], &[false, true, true]);
        let left = second.admit(rows, &mut next).unwrap().unwrap();
        assert_eq!(left.rows.num_rows(), 2, "2 changed, 3 is new");
        assert_eq!(next.len(), 2, "1 has left the window");
    }

    #[test]
    fn equal_rows_without_a_key_are_counted() {
        let mut next = Vec::new();
        let twins = || batch(&[1, 1], &[None, None], &[true, true]);
        Window::default().admit(twins(), &mut next).unwrap();
        let mut window = Window::from_bytes(&Window::to_bytes(next)).unwrap();
        let triplets = batch(&[1, 1, 1], &[None, None, None], &[true, true, true]);
        let left = window.admit(triplets, &mut Vec::new()).unwrap().unwrap();
        assert_eq!(left.rows.num_rows(), 1);
    }

    #[test]
    fn null_and_empty_text_differ_and_an_added_null_column_changes_nothing() {
        let hash = |batch: &Batch| row_hashes(&batch.rows, None).unwrap()[0];
        assert_ne!(hash(&batch(&[1], &[None], &[true])), hash(&batch(&[1], &[Some("")], &[true])));
        let narrow =
            RecordBatch::try_from_iter(vec![("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
        assert_eq!(hash(&batch(&[1], &[None], &[true])), row_hashes(&narrow.unwrap(), None).unwrap()[0]);
    }

    #[test]
    fn a_torn_window_is_refused() {
        let bytes = Window::to_bytes(vec![3, 1, 2]);
        assert!(Window::from_bytes(&bytes).is_ok());
        assert!(Window::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        assert!(Window::from_bytes(b"").is_err());
    }
}
