//! Incremental passes: what is at or after a cursor, as the server compares and subtracts.
//!
//! An infinite cursor (`infinity`, or NaN of a numeric) is refused: nothing could ever come after it, so the stream
//! would silently stand still. `-infinity` is below everything and harmless.

use arrow::array::{Array, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::Schema as ArrowSchema;
use futures::StreamExt;
use lakeward_core::{
    Batch, BatchStream, ColumnType, ConfiguredStream, Cursor, CursorState, Error, ErrorKind, IncrementalPass,
    Lookback, NullCursor, ReadContext, Result, Session,
};
use std::sync::Arc;

use crate::catalog::RelationKind;
use crate::connect::Connector;
use crate::copy::{self, Rows};
use crate::error::in_session;
use crate::session::{Detail, Holders, ReadRelation, join};
use crate::sql;

/// The greatest cursor under a session, or `since` where that is greater.
pub(crate) async fn max_cursor(
    connector: &Connector,
    holders: &Holders,
    stream: &ConfiguredStream,
    session: &Session,
    since: Option<&CursorState>,
) -> Result<Option<CursorState>> {
    holders.require(&session.token)?;
    let detail = Detail::of(session)?;
    let cursor = cursor(stream)?;
    let expression = expression(cursor);
    let infinite = match cursor.column_type {
        ColumnType::Date | ColumnType::Timestamp | ColumnType::TimestampTz => {
            "coalesce(m = 'infinity', false)"
        }
        _ if is_numeric(&detail, cursor)? => "coalesce(m = 'NaN' OR m::text = 'Infinity', false)",
        _ => "false",
    };
    let (from, relations) = source(&detail);
    let greatest = match since {
        // Nulls do not count in GREATEST.
        Some(since) => format!("greatest(max({expression}), {})", literal(&detail, cursor, since)?),
        None => format!("max({expression})"),
    };
    let query = format!(
        "SELECT m IS NULL, {infinite}, format('%s', m) FROM (SELECT {greatest} AS m FROM {from}{}) s",
        copy::condition(stream, vec![detail.root.still_named()])
    );
    let lost = || holders.require(&session.token).is_err();
    let read = async {
        let connection = connector.connect().await?;
        for statement in join(&session.token, &relations) {
            connection.run(&statement).await?;
        }
        let rows = connection.long_rows(&query).await?;
        connection.run("COMMIT").await?;
        connector.rest(connection);
        rows.into_iter().next().ok_or_else(|| Error::bug("an aggregate gave no row"))
    };
    let row = read.await.map_err(|error| in_session(error, lost()).at("stream", &stream.id))?;
    if row.get(0) {
        return Ok(None);
    }
    if row.get(1) {
        return Err(Error::new(
            ErrorKind::Data,
            "the greatest cursor is infinite: nothing would come after it",
        )
        .at("column", &cursor.primary)
        .at("stream", &stream.id)
        .hint("correct the row, leave it out with a filter, or choose another cursor_field"));
    }
    Ok(Some(CursorState { column: cursor.primary.clone(), value: row.get(2) }))
}

/// Reads a pass under a session.
pub(crate) async fn changes(
    connector: &Connector,
    holders: &Holders,
    stream: Arc<ConfiguredStream>,
    session: &Session,
    pass: IncrementalPass,
    context: ReadContext,
) -> Result<BatchStream> {
    let detail = Detail::of(session)?;
    let cursor = cursor(&stream)?;
    let expression = expression(cursor);
    let null = format!("{expression} IS NULL");
    let mut conditions = Vec::new();
    if let Some(since) = &pass.since {
        let reached = format!("{expression} >= {}", begin(&detail, cursor, since)?);
        conditions.push(match stream.null_cursor {
            NullCursor::Include => format!("({reached} OR {null})"),
            NullCursor::Skip => reached,
        });
    } else if stream.null_cursor == NullCursor::Skip {
        conditions.push(format!("{expression} IS NOT NULL"));
    }
    let extra = match &pass.until {
        Some(until) => format!("({expression} >= {} OR {null})", begin(&detail, cursor, until)?),
        None => "true".to_owned(),
    };
    let (from, relations) = source(&detail);
    let rows = Rows { relations, from, named: &detail.root, conditions, extra: Some(extra) };
    let batches = copy::read(connector, holders, &stream, session, &detail, rows, context).await?;
    Ok(batches.map(|batch| batch.and_then(take_window)).boxed())
}

fn cursor(stream: &ConfiguredStream) -> Result<&Cursor> {
    stream.cursor.as_ref().ok_or_else(|| Error::bug("a stream without a cursor is read by cursor"))
}

fn expression(cursor: &Cursor) -> String {
    match &cursor.fallback {
        Some(fallback) => format!("coalesce({}, {})", sql::ident(&cursor.primary), sql::ident(fallback)),
        None => sql::ident(&cursor.primary),
    }
}

/// Where rows come from: a partitioned table through its root, so that partitions are pruned by the cursor; any
/// other without its inheritance children.
fn source(detail: &Detail) -> (String, Vec<&ReadRelation>) {
    let from = match detail.root.kind {
        RelationKind::Partitioned => detail.root.sql(),
        _ => detail.root.from(),
    };
    (from, detail.relations.iter().collect())
}

fn is_numeric(detail: &Detail, cursor: &Cursor) -> Result<bool> {
    let read = detail.columns.iter().find(|column| column.name == cursor.primary);
    read.map(|column| column.pg_type == crate::decode::PgType::Numeric)
        .ok_or_else(|| Error::bug("a cursor is no column of its stream").at("column", &cursor.primary))
}

/// SQL for a cursor that was read before, as a value of the cursor's type.
fn literal(detail: &Detail, cursor: &Cursor, state: &CursorState) -> Result<String> {
    if state.column != cursor.primary {
        return Err(Error::new(ErrorKind::State, "the saved cursor is of another column")
            .at("column", &state.column)
            .hint("clear the stream with `lakeward clear` and read it again"));
    }
    Ok(sql::typed(&state.value, detail.sql_type(&cursor.primary)?))
}

/// SQL for `state − look-back`.
fn begin(detail: &Detail, cursor: &Cursor, state: &CursorState) -> Result<String> {
    let value = literal(detail, cursor, state)?;
    let sql_type = detail.sql_type(&cursor.primary)?;
    Ok(match cursor.lookback {
        Lookback::None | Lookback::Microseconds(0) | Lookback::Units(0) => value,
        Lookback::Microseconds(n) => format!("({value} - '{n} microseconds'::interval)"),
        Lookback::Units(n) => match integer_floor(&cursor.column_type) {
            // Reckoned here, because the server's own subtraction would leave the type at its end.
            Some(floor) => {
                let number: i128 = state.value.parse().map_err(|_| {
                    Error::new(ErrorKind::State, "the saved cursor is no number")
                        .at("column", &state.column)
                        .hint("clear the stream with `lakeward clear` and read it again")
                })?;
                sql::typed(&(number - i128::from(n)).max(floor).to_string(), sql_type)
            }
            None => format!("({value} - {n})"),
        },
    })
}

fn integer_floor(column_type: &ColumnType) -> Option<i128> {
    match column_type {
        ColumnType::Int16 => Some(i16::MIN.into()),
        ColumnType::Int32 => Some(i32::MIN.into()),
        ColumnType::Int64 => Some(i64::MIN.into()),
        ColumnType::UInt32 => Some(0),
        _ => None,
    }
}

/// Takes the last column out of a batch: it says which rows are in the next window.
fn take_window(mut batch: Batch) -> Result<Batch> {
    let rows = batch.rows.num_rows();
    let mut columns = batch.rows.columns().to_vec();
    let window = columns.pop().and_then(|column| column.as_any().downcast_ref::<BooleanArray>().cloned());
    let Some(window) = window.filter(|window| window.null_count() == 0) else {
        return Err(Error::bug("a batch lacks the column that says what is in the next window"));
    };
    let schema = batch.rows.schema();
    let fields: Vec<_> = schema.fields().iter().take(columns.len()).cloned().collect();
    let schema = Arc::new(ArrowSchema::new_with_metadata(fields, schema.metadata().clone()));
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    batch.rows = RecordBatch::try_new_with_options(schema, columns, &options)
        .map_err(|error| Error::bug("a batch cannot be narrowed").source(error))?;
    batch.in_next_window = Some(window);
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_column_is_taken_out() -> Result<()> {
        let column: Arc<dyn Array> = Arc::new(BooleanArray::from(vec![true, false]));
        let schema = ArrowSchema::new(vec![ColumnType::Boolean.field(copy::EXTRA)]);
        let rows = RecordBatch::try_new(Arc::new(schema), vec![column])
            .map_err(|error| Error::bug("test").source(error))?;
        let batch = take_window(Batch::read(rows))?;
        assert_eq!((batch.rows.num_columns(), batch.rows.num_rows()), (0, 2));
        assert_eq!(batch.in_next_window, Some(BooleanArray::from(vec![true, false])));
        Ok(())
    }
}
