//! The columns that Lakeward adds to every stream, first and in this order.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ListArray, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray,
    new_null_array,
};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::{Field, Schema as ArrowSchema, SchemaRef};

use crate::{Batch, ColumnType, Error, ErrorKind, Result, Schema, Sequence};

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Read by a backfill or an incremental pass.
    Read,
    /// Inserted.
    Create,
    /// Updated.
    Update,
    /// Deleted; only the key is set.
    Delete,
    /// All earlier rows are gone.
    Truncate,
}

impl Op {
    /// The letter in the `_lw_op` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "r",
            Self::Create => "c",
            Self::Update => "u",
            Self::Delete => "d",
            Self::Truncate => "t",
        }
    }
}

/// The names and types of the system columns under one prefix.
///
/// In order: `op` (text), `seq` (text, 32 characters, see [`Sequence`]), `commit_ts` and `synced_at`
/// (timestamptz), `unchanged` (list of text: columns whose value the source did not send) and `rescued`
/// (JSON text: an object by column name of the values that did not fit, in the source's own text).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemColumns {
    prefix: String,
}

impl Default for SystemColumns {
    fn default() -> Self {
        Self { prefix: Self::DEFAULT_PREFIX.to_owned() }
    }
}

impl SystemColumns {
    /// The prefix where the user names none.
    pub const DEFAULT_PREFIX: &str = "_lw_";
    const NAMES: [&str; 6] = ["op", "seq", "commit_ts", "synced_at", "unchanged", "rescued"];

    /// System columns under a prefix of the user's choice.
    pub fn with_prefix(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// The names, in file order.
    pub fn names(&self) -> [String; 6] {
        Self::NAMES.map(|name| format!("{}{name}", self.prefix))
    }

    /// The Arrow schema of a stream's files: the system columns, then the data columns.
    ///
    /// # Errors
    /// `Schema` where a data column bears the name of a system column.
    pub fn file_schema(&self, data: &Schema) -> Result<SchemaRef> {
        let names = self.names();
        if let Some(column) = data.columns.iter().find(|column| names.contains(&column.name)) {
            return Err(Error::new(ErrorKind::Schema, "a column bears the name of a system column")
                .at("column", &column.name)
                .hint("exclude the column in streams.json (columns.exclude), or rename it at the source"));
        }
        let [op, seq, commit_ts, synced_at, unchanged, rescued] = names;
        let mut fields: Vec<Field> = vec![
            ColumnType::Text.field(&op),
            ColumnType::Text.field(&seq),
            ColumnType::TimestampTz.field(&commit_ts),
            ColumnType::TimestampTz.field(&synced_at),
            ColumnType::List(Box::new(ColumnType::Text)).field(&unchanged),
            ColumnType::Json.field(&rescued),
        ];
        fields.extend(data.arrow().fields().iter().map(|field| field.as_ref().clone()));
        Ok(Arc::new(ArrowSchema::new(fields)))
    }

    /// A batch as it stands in the file: system columns first.
    ///
    /// `schema` comes from [`file_schema`](Self::file_schema); `read` is the sequence of rows that were read
    /// rather than decoded from a log; `synced_at` is in microseconds since the epoch.
    pub fn attach(schema: &SchemaRef, batch: Batch, read: &Sequence, synced_at: i64) -> Result<RecordBatch> {
        let rows = batch.rows.num_rows();
        let timestamps =
            |values: TimestampMicrosecondArray| -> ArrayRef { Arc::new(values.with_timezone("UTC")) };
        let (op, seq, commit_ts, unchanged): (ArrayRef, ArrayRef, ArrayRef, Option<ListArray>) =
            match batch.changes {
                Some(changes) => (
                    Arc::new(changes.op),
                    Arc::new(changes.seq),
                    timestamps(changes.commit_ts),
                    changes.unchanged,
                ),
                None => (
                    Arc::new(constant(Op::Read.as_str(), rows)?),
                    Arc::new(constant(&read.to_string(), rows)?),
                    new_null_array(&ColumnType::TimestampTz.arrow(), rows),
                    None,
                ),
            };
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
        columns.push(op);
        columns.push(seq);
        columns.push(commit_ts);
        columns.push(timestamps(TimestampMicrosecondArray::from_value(synced_at, rows)));
        columns.push(match unchanged {
            Some(list) => Arc::new(list),
            None => new_null_array(schema.field(4).data_type(), rows),
        });
        columns.push(match batch.rescued {
            Some(rescued) => Arc::new(rescued),
            None => new_null_array(schema.field(5).data_type(), rows),
        });
        columns.extend(batch.rows.columns().iter().cloned());
        // What is left are columns that the source has dropped: they stay, and are null.
        for field in schema.fields().iter().skip(columns.len()) {
            columns.push(new_null_array(field.data_type(), rows));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(schema.clone(), columns, &options)
            .map_err(|e| Error::bug("a batch does not have its stream's schema").source(e))
    }
}

/// The same value in every row, made by copying memory rather than value by value.
fn constant(value: &str, rows: usize) -> Result<StringArray> {
    let offsets = OffsetBuffer::from_repeated_length(value.len(), rows);
    StringArray::try_new(offsets, Buffer::from_vec(value.repeat(rows).into_bytes()), None)
        .map_err(|e| Error::bug("a constant column cannot be made").source(e))
}
