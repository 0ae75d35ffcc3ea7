//! Splits batches by partition values, a column at a time.
//!
//! Values are text in UTC: `2024`, `2024-01`, `2024-01-31`, `2024-01-31-23`, or the value itself.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use lakeward_core::{Error, PartitionField, PartitionTransform, Result};

const MICROSECONDS_PER_HOUR: i64 = 3_600_000_000;
const HOURS_PER_DAY: i64 = 24;

/// One value per partition field; `None` for null.
pub(crate) type PartitionKey = Vec<Option<String>>;

/// The partition fields of a stream, found in its file schema.
#[derive(Debug, Clone)]
pub(crate) struct Partitioner {
    fields: Vec<(usize, PartitionTransform)>,
}

impl Partitioner {
    pub(crate) fn new(fields: &[PartitionField], schema: &SchemaRef) -> Result<Self> {
        let find = |field: &PartitionField| {
            let index = schema.index_of(&field.column);
            index
                .map(|index| (index, field.transform))
                .map_err(|e| Error::bug("a partition field names no column").at("field", field).source(e))
        };
        Ok(Self { fields: fields.iter().map(find).collect::<Result<_>>()? })
    }

    /// The rows of each partition, in the batch's order within each. One partition costs no copy.
    pub(crate) fn split(&self, batch: RecordBatch) -> Result<Vec<(PartitionKey, RecordBatch)>> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        if self.fields.is_empty() {
            return Ok(vec![(Vec::new(), batch)]);
        }
        let mut groups = Groups::all(batch.num_rows());
        for (index, transform) in &self.fields {
            groups.refine(&codes(batch.column(*index), *transform)?);
        }
        let Groups { of_row, keys } = groups;
        if keys.len() == 1 {
            return Ok(keys.into_iter().map(|key| (key, batch.clone())).collect());
        }
        // A counting sort by group: one copy of the batch, then slices.
        let mut starts = vec![0u32; keys.len() + 1];
        for group in &of_row {
            starts[*group as usize + 1] += 1;
        }
        for group in 0..keys.len() {
            starts[group + 1] += starts[group];
        }
        let mut next = starts.clone();
        let mut order = vec![0u32; of_row.len()];
        for (row, group) in (0u32..).zip(&of_row) {
            let place = &mut next[*group as usize];
            order[*place as usize] = row;
            *place += 1;
        }
        let sorted = take_record_batch(&batch, &UInt32Array::from(order))
            .map_err(|e| Error::bug("rows cannot be grouped by partition").source(e))?;
        let slice = |(group, key): (usize, PartitionKey)| {
            let (start, end) = (starts[group] as usize, starts[group + 1] as usize);
            (key, sorted.slice(start, end - start))
        };
        Ok(keys.into_iter().enumerate().map(slice).collect())
    }
}

/// Which partition each row belongs to.
struct Groups {
    of_row: Vec<u32>,
    keys: Vec<PartitionKey>,
}

impl Groups {
    fn all(rows: usize) -> Self {
        Self { of_row: vec![0; rows], keys: vec![Vec::new()] }
    }

    fn refine(&mut self, codes: &Codes) {
        let mut groups: HashMap<(u32, u32), u32> = HashMap::new();
        let mut keys: Vec<PartitionKey> = Vec::new();
        for (group, code) in self.of_row.iter_mut().zip(&codes.of_row) {
            let next = keys.len() as u32;
            *group = *groups.entry((*group, *code)).or_insert_with(|| {
                let mut key = self.keys[*group as usize].clone();
                key.push(codes.values[*code as usize].clone());
                keys.push(key);
                next
            });
        }
        self.keys = keys;
    }
}

/// A column's partition values, each distinct one once.
struct Codes {
    of_row: Vec<u32>,
    values: Vec<Option<String>>,
}

impl Codes {
    /// Codes of rows by a raw value, whose text is made once per distinct value.
    fn collect<K: std::hash::Hash + Eq + Copy>(
        rows: impl Iterator<Item = Option<K>>,
        text: impl Fn(K) -> String,
    ) -> Self {
        let mut known: HashMap<Option<K>, u32> = HashMap::new();
        let mut codes = Self { of_row: Vec::with_capacity(rows.size_hint().0), values: Vec::new() };
        let mut last: Option<(Option<K>, u32)> = None;
        for row in rows {
            // Neighbours often agree: hashing them all would cost more than the rest.
            let code = match last {
                Some((value, code)) if value == row => code,
                _ => *known.entry(row).or_insert_with(|| {
                    codes.values.push(row.map(&text));
                    codes.values.len() as u32 - 1
                }),
            };
            last = Some((row, code));
            codes.of_row.push(code);
        }
        codes
    }
}

fn codes(column: &ArrayRef, transform: PartitionTransform) -> Result<Codes> {
    if transform == PartitionTransform::Identity {
        let text = identity(column)?;
        return Ok(Codes::collect(text.iter(), str::to_owned));
    }
    let hours: Box<dyn Fn(i64) -> i64> = match column.data_type() {
        DataType::Date32 => Box::new(|days| days.saturating_mul(HOURS_PER_DAY)),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Box::new(|microseconds| microseconds.div_euclid(MICROSECONDS_PER_HOUR))
        }
        other => return Err(Error::bug(format!("{other} cannot be cut into years, months, days or hours"))),
    };
    // Rows are told apart by the hour or the day; only then are months and years made of it.
    let step = if transform == PartitionTransform::Hour { 1 } else { HOURS_PER_DAY };
    let bucket = |value: i64| hours(value).div_euclid(step);
    let codes = match column.data_type() {
        DataType::Date32 => collect_buckets::<Date32Type>(column.as_primitive(), bucket, step, transform),
        _ => collect_buckets::<TimestampMicrosecondType>(column.as_primitive(), bucket, step, transform),
    };
    Ok(merge_equal(codes))
}

fn collect_buckets<T: ArrowPrimitiveType>(
    column: &PrimitiveArray<T>,
    bucket: impl Fn(i64) -> i64,
    step: i64,
    transform: PartitionTransform,
) -> Codes
where
    T::Native: Into<i64>,
{
    Codes::collect(column.iter().map(|value| value.map(|value| bucket(value.into()))), |bucket| {
        text_of(bucket * step, transform)
    })
}

/// Days of one month, or of one year, have one text: they become one code.
fn merge_equal(codes: Codes) -> Codes {
    let mut values: Vec<Option<String>> = Vec::new();
    let merged: Vec<u32> = codes
        .values
        .into_iter()
        .map(|value| match values.iter().position(|known| *known == value) {
            Some(code) => code as u32,
            None => {
                values.push(value);
                values.len() as u32 - 1
            }
        })
        .collect();
    Codes { of_row: codes.of_row.iter().map(|code| merged[*code as usize]).collect(), values }
}

fn text_of(hours: i64, transform: PartitionTransform) -> String {
    let (year, month, day) = civil(hours.div_euclid(HOURS_PER_DAY));
    match transform {
        PartitionTransform::Year => format!("{year:04}"),
        PartitionTransform::Month => format!("{year:04}-{month:02}"),
        PartitionTransform::Hour => {
            format!("{year:04}-{month:02}-{day:02}-{:02}", hours.rem_euclid(HOURS_PER_DAY))
        }
        PartitionTransform::Day | PartitionTransform::Identity => format!("{year:04}-{month:02}-{day:02}"),
    }
}

/// Year, month and day of a day since 1970-01-01, in the proleptic Gregorian calendar. Sources hold dates far
/// outside what calendar libraries take.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn identity(column: &ArrayRef) -> Result<StringArray> {
    if let DataType::FixedSizeBinary(16) = column.data_type() {
        let uuids = column.as_fixed_size_binary();
        return Ok(uuids.iter().map(|value| value.map(uuid_text)).collect());
    }
    let text: Arc<dyn Array> = cast(column, &DataType::Utf8)
        .map_err(|e| Error::bug("a partition column has no text form").source(e))?;
    Ok(text.as_string::<i32>().clone())
}

fn uuid_text(bytes: &[u8]) -> String {
    let hex = crate::layout::hex(bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Date32Array, Int64Array, TimestampMicrosecondArray};
    use arrow::datatypes::{Field, Schema};

    const DAY: i64 = 86_400_000_000;

    fn split(fields: &[&str], columns: Vec<(&str, ArrayRef)>) -> Vec<(PartitionKey, RecordBatch)> {
        let schema = Arc::new(Schema::new(
            columns
                .iter()
                .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
                .collect::<Vec<_>>(),
        ));
        let fields: Vec<PartitionField> = fields.iter().map(|text| text.parse().unwrap()).collect();
        let batch =
            RecordBatch::try_new(schema.clone(), columns.into_iter().map(|(_, a)| a).collect()).unwrap();
        Partitioner::new(&fields, &schema).unwrap().split(batch).unwrap()
    }

    fn key(values: &[&str]) -> PartitionKey {
        values.iter().map(|value| Some((*value).to_owned())).collect()
    }

    #[test]
    fn rows_go_to_their_partitions_in_order() {
        let at = TimestampMicrosecondArray::from(vec![Some(0), Some(31 * DAY), None, Some(DAY), Some(-1)]);
        let id = Int64Array::from(vec![0, 1, 2, 3, 4]);
        let parts = split(&["month(at)"], vec![("id", Arc::new(id)), ("at", Arc::new(at))]);
        let ids: Vec<(PartitionKey, Vec<i64>)> = parts
            .into_iter()
            .map(|(key, rows)| {
                (key, rows.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec())
            })
            .collect();
        assert_eq!(
            ids,
            vec![
                (key(&["1970-01"]), vec![0, 3]),
                (key(&["1970-02"]), vec![1]),
                (vec![None], vec![2]),
                (key(&["1969-12"]), vec![4]),
            ]
        );
    }

    #[test]
    fn every_transform_is_in_utc() {
        let instant = TimestampMicrosecondArray::from(vec![1_704_067_199_999_999]).with_timezone("UTC");
        for (field, expected) in [
            ("year(at)", "2023"),
            ("month(at)", "2023-12"),
            ("day(at)", "2023-12-31"),
            ("hour(at)", "2023-12-31-23"),
        ] {
            let parts = split(&[field], vec![("at", Arc::new(instant.clone()))]);
            assert_eq!(parts[0].0, key(&[expected]));
        }
        let days = Date32Array::from(vec![-719_528, 2_932_896]);
        let parts = split(&["day(d)"], vec![("d", Arc::new(days))]);
        assert_eq!(parts[0].0, key(&["0000-01-01"]));
        assert_eq!(parts[1].0, key(&["9999-12-31"]));
    }

    #[test]
    fn several_fields_nest() {
        let region = StringArray::from(vec!["eu", "us", "eu"]);
        let number = Int64Array::from(vec![1, 1, 2]);
        let parts = split(&["r", "n"], vec![("r", Arc::new(region)), ("n", Arc::new(number))]);
        let keys: Vec<PartitionKey> = parts.into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, vec![key(&["eu", "1"]), key(&["us", "1"]), key(&["eu", "2"])]);
    }
}
