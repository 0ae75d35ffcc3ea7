//! Rows shaped like the `trips` table: 29 columns, 15 of them unconstrained numerics as text.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use lakeward_core::{Column, ColumnType, Schema};

/// Numbers that are the same at every run.
pub struct Random(pub u64);

impl Random {
    /// The next one, from 0 up to 1.
    pub fn next_unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The columns of `trips.sql`, numerics as text.
pub fn columns() -> Vec<Column> {
    let int = |name: &str| Column::new(name, ColumnType::Int32);
    let text = |name: &str| Column::new(name, ColumnType::Text);
    let time = |name: &str| Column::new(name, ColumnType::Timestamp);
    let mut columns = vec![
        Column::new("id", ColumnType::Int64),
        int("cab_type_id"),
        int("vendor_id"),
        time("pickup_datetime"),
        time("dropoff_datetime"),
        Column::new("store_and_fwd_flag", ColumnType::Boolean),
        int("rate_code_id"),
        text("pickup_longitude"),
        text("pickup_latitude"),
        text("dropoff_longitude"),
        text("dropoff_latitude"),
        int("passenger_count"),
        text("trip_distance"),
        text("fare_amount"),
        text("extra"),
        text("mta_tax"),
        text("tip_amount"),
        text("tolls_amount"),
        text("ehail_fee"),
        text("improvement_surcharge"),
        text("congestion_surcharge"),
        text("airport_fee"),
        text("total_amount"),
        int("payment_type"),
        int("trip_type"),
        int("pickup_nyct2010_gid"),
        int("dropoff_nyct2010_gid"),
        int("pickup_location_id"),
        int("dropoff_location_id"),
    ];
    columns[0].unique = true;
    columns
}

/// Rows of `trips.sql` from one number to another.
///
/// # Panics
/// Where columns and rows do not fit.
pub fn rows(ids: std::ops::Range<i64>, random: &mut Random) -> RecordBatch {
    let g: Vec<i64> = ids.collect();
    let r: Vec<f64> = g.iter().map(|_| random.next_unit()).collect();
    let r2: Vec<f64> = g.iter().map(|_| random.next_unit()).collect();
    let rows =
        || g.iter().copied().zip(r.iter().copied()).zip(r2.iter().copied()).map(|((g, r), r2)| (g, r, r2));
    let int = |f: &dyn Fn(i64, f64, f64) -> i32| -> ArrayRef {
        Arc::new(Int32Array::from_iter_values(rows().map(|(g, r, r2)| f(g, r, r2))))
    };
    let maybe = |f: &dyn Fn(i64, f64, f64) -> Option<String>| -> ArrayRef {
        Arc::new(rows().map(|(g, r, r2)| f(g, r, r2)).collect::<StringArray>())
    };
    let start = 1_420_070_400_000_000i64;
    let pickup = |g: i64| start + g * 500_000;
    let time = |f: &dyn Fn(i64, f64) -> i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values(rows().map(|(g, r, _)| f(g, r))))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(g.clone())),
        int(&|g, _, _| 1 + (g % 2) as i32),
        int(&|g, _, _| 1 + (g % 3) as i32),
        time(&|g, _| pickup(g)),
        time(&|g, r| pickup(g) + ((60.0 + r * 3000.0) * 1e6) as i64),
        Arc::new(BooleanArray::from_iter(g.iter().map(|g| Some(g % 97 == 0)))),
        int(&|g, _, _| 1 + (g % 6) as i32),
        maybe(&|_, r, _| Some(format!("{:.6}", -73.9 - r * 0.1))),
        maybe(&|_, _, r2| Some(format!("{:.6}", 40.7 + r2 * 0.1))),
        maybe(&|g, _, r2| (g % 4 == 0).then(|| format!("{:.6}", -73.9 - r2 * 0.1))),
        maybe(&|g, r, _| (g % 4 == 0).then(|| format!("{:.6}", 40.7 + r * 0.1))),
        int(&|g, _, _| 1 + (g % 5) as i32),
        maybe(&|_, r, _| Some(format!("{:.2}", r * 12.0))),
        maybe(&|_, r, _| Some(format!("{:.2}", 3.0 + r * 50.0))),
        maybe(&|_, _, _| Some("0.5".to_owned())),
        maybe(&|_, _, _| Some("0.5".to_owned())),
        maybe(&|_, _, r2| Some(format!("{:.2}", r2 * 10.0))),
        maybe(&|g, _, _| Some(if g % 10 == 0 { "6.55" } else { "0" }.to_owned())),
        maybe(&|_, _, _| None),
        maybe(&|_, _, _| Some("0.3".to_owned())),
        maybe(&|_, _, _| Some("2.5".to_owned())),
        maybe(&|g, _, _| (g % 20 == 0).then(|| "1.25".to_owned())),
        maybe(&|_, r, _| Some(format!("{:.2}", 7.0 + r * 60.0))),
        int(&|g, _, _| 1 + (g % 4) as i32),
        Arc::new(Int32Array::from_iter(g.iter().map(|g| (g % 3 == 0).then_some(1)))),
        int(&|_, r, _| (r * 2000.0) as i32),
        int(&|_, _, r2| (r2 * 2000.0) as i32),
        int(&|_, r, _| (r * 265.0) as i32),
        int(&|_, _, r2| (r2 * 265.0) as i32),
    ];
    let schema = Arc::new(Schema { columns: self::columns() }.arrow());
    RecordBatch::try_new(schema, columns).unwrap()
}
