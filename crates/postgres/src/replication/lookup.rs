//! Values that the log did not send, asked of the source by key.
//!
//! What the source says is at least as new as the change: where it is newer, a later change in the log says the
//! same.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write;
use std::pin::pin;

use arrow::array::{Array, StringArray};
use arrow::compute::interleave;
use futures::TryStreamExt;
use lakeward_core::{Batch, Error, Result};
use tokio_postgres::SimpleQueryMessage;

use super::tables::Table;
use crate::connect::Connection;
use crate::decode::{CopyFormat, RowDecoder};
use crate::error::from_client;
use crate::sql;

/// How many rows one query asks for at most.
const AT_ONCE: usize = 500;
/// By how much more rows than the last one a query asks for, while nobody knows how large they are.
const GROWTH: usize = 8;

/// A row whose values are wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Where it stands in its batch.
    pub(super) row: usize,
    /// Its key, as text.
    pub(super) key: Vec<Vec<u8>>,
    /// The columns that were not sent.
    pub(super) columns: Vec<usize>,
}

/// What the source has of rows that are wanted.
pub(super) struct Answers {
    /// How many of them were asked for, the first ones.
    pub(super) asked: usize,
    /// Which columns were.
    columns: Vec<usize>,
    found: Batch,
    /// By position among those asked for, the row that was found.
    rows: HashMap<usize, usize>,
}

/// Asks for rows that are wanted, until about `most` bytes were found.
pub(super) async fn ask(
    connection: &Connection,
    table: &Table,
    wanted: &[Wanted],
    most: usize,
) -> Result<Answers> {
    let columns: BTreeSet<usize> = wanted.iter().flat_map(|wanted| wanted.columns.iter().copied()).collect();
    let columns: Vec<usize> = columns.into_iter().collect();
    let wire: Vec<_> = columns.iter().map(|column| table.columns[*column].wire.clone()).collect();
    let mut decoder = RowDecoder::new(CopyFormat::Text, &wire)?;
    let mut rows = HashMap::new();
    let (mut asked, mut bytes, mut at_once) = (0, 0, 1);
    while asked < wanted.len() && (asked == 0 || bytes < most) {
        let part = &wanted[asked..wanted.len().min(asked + at_once)];
        let answer =
            connection.simple_query_raw(&query(table, &columns, part)?).await.map_err(from_client)?;
        let mut answer = pin!(answer);
        let mut answered = part.len();
        while let Some(message) = answer.try_next().await.map_err(from_client)? {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let number = row.get(0).and_then(|number| number.parse::<usize>().ok());
            let number = number.ok_or_else(|| Error::bug("a row that was looked up has no number"))?;
            // The values of a row may be larger than all that the log said of it. What comes after it is asked for again.
            if bytes >= most {
                answered = number;
                break;
            }
            if rows.insert(asked + number, decoder.rows()).is_none() {
                bytes += (1..row.len()).filter_map(|value| row.get(value)).map(str::len).sum::<usize>();
                decoder.push_values(|column| row.get(column + 1).map(str::as_bytes))?;
            }
        }
        asked += answered;
        let each = (bytes / asked).max(1);
        at_once = (most.saturating_sub(bytes) / each).min(part.len() * GROWTH).clamp(1, AT_ONCE);
    }
    Ok(Answers { asked, columns, found: decoder.finish_batch()?, rows })
}

/// Puts answers into a batch whose first row stands at `first`, and says which values were found, by row and column.
/// A row that is gone keeps its nulls: what made it go comes later in the log.
pub(super) fn fill(
    batch: &mut Batch,
    first: usize,
    wanted: &[Wanted],
    answers: &Answers,
) -> Result<HashSet<(usize, usize)>> {
    let Answers { columns, found, rows, .. } = answers;
    let mut filled = HashSet::new();
    let mut arrays = batch.rows.columns().to_vec();
    for (at, column) in columns.iter().enumerate() {
        let mut sources: Vec<(usize, usize)> = (0..batch.rows.num_rows()).map(|row| (0, row)).collect();
        for (number, wanted) in wanted.iter().enumerate().filter(|(_, w)| w.columns.contains(column)) {
            let Some(answer) = rows.get(&number) else { continue };
            sources[wanted.row - first] = (1, *answer);
            filled.insert((wanted.row, *column));
        }
        arrays[*column] = interleave(&[&arrays[*column], found.rows.column(at)], &sources)
            .map_err(|error| Error::bug("looked-up values do not fit their column").source(error))?;
    }
    batch.rows = arrow::array::RecordBatch::try_new(batch.rows.schema(), arrays)
        .map_err(|error| Error::bug("looked-up values do not make a batch").source(error))?;
    if let Some(rescued) = &found.rescued {
        let answers =
            wanted.iter().enumerate().filter_map(|(n, wanted)| Some((wanted.row - first, *rows.get(&n)?)));
        batch.rescued = Some(with_rescued(batch, rescued, answers));
        found.bad_values.iter().for_each(|(column, count)| batch.bad_values.add(columns[column], count));
    }
    Ok(filled)
}

/// The rescued values of a batch with those of looked-up rows: JSON objects that have no name in common, because what
/// was looked up was not sent.
fn with_rescued(
    batch: &Batch,
    found: &StringArray,
    answers: impl Iterator<Item = (usize, usize)>,
) -> StringArray {
    let mut rows: Vec<Option<String>> = match &batch.rescued {
        Some(rescued) => rescued.iter().map(|row| row.map(str::to_owned)).collect(),
        None => vec![None; batch.rows.num_rows()],
    };
    for (row, answer) in answers.filter(|(_, answer)| found.is_valid(*answer)) {
        let more = found.value(answer);
        rows[row] = Some(match &rows[row] {
            Some(known) => format!(
                "{},{}",
                known.strip_suffix('}').unwrap_or(known),
                more.strip_prefix('{').unwrap_or(more)
            ),
            None => more.to_owned(),
        });
    }
    StringArray::from(rows)
}

fn query(table: &Table, columns: &[usize], wanted: &[Wanted]) -> Result<String> {
    let mut values = String::new();
    for (number, wanted) in wanted.iter().enumerate() {
        let comma = if number == 0 { "" } else { ", " };
        let _ = write!(values, "{comma}({number}");
        for (column, text) in table.key.iter().zip(&wanted.key) {
            let _ = write!(values, ", {}", literal(text, &table.columns[*column].sql_type)?);
        }
        values.push(')');
    }
    let list: Vec<String> =
        columns.iter().map(|column| format!("t.{}", sql::ident(&table.columns[*column].wire.name))).collect();
    let aliases: Vec<String> = (0..table.key.len()).map(|n| format!("k{n}")).collect();
    let join: Vec<String> = table
        .key
        .iter()
        .enumerate()
        .map(|(n, column)| format!("t.{} = w.k{n}", sql::ident(&table.columns[*column].wire.name)))
        .collect();
    Ok(format!(
        "SELECT w.n, {} FROM (VALUES {values}) w(n, {}) JOIN {} t ON {} ORDER BY 1",
        list.join(", "),
        aliases.join(", "),
        table.from,
        join.join(" AND ")
    ))
}

fn literal(text: &[u8], sql_type: &str) -> Result<String> {
    let text = std::str::from_utf8(text).map_err(|_| Error::bug("a key is not UTF-8"))?;
    Ok(sql::typed(text, sql_type))
}

/// Whether a row is there and passes its stream's filter.
pub(super) async fn passes(connection: &Connection, table: &Table, key: &[Vec<u8>]) -> Result<bool> {
    let mut conditions: Vec<String> =
        table.stream.filter.iter().map(|filter| sql::filter(filter.expr())).collect();
    for (column, text) in table.key.iter().zip(key) {
        let column = &table.columns[*column];
        conditions.push(format!("{} = {}", sql::ident(&column.wire.name), literal(text, &column.sql_type)?));
    }
    let sql = format!("SELECT FROM {} WHERE {}", table.from, conditions.join(" AND "));
    Ok(!connection.rows_once(&sql).await?.is_empty())
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int32Array, RecordBatch};

    use super::*;

    #[test]
    fn what_was_looked_up_and_does_not_fit_is_rescued_beside_what_was_sent() {
        let column: ArrayRef = std::sync::Arc::new(Int32Array::from(vec![1, 2, 3]));
        let mut batch = Batch::read(RecordBatch::try_from_iter([("n", column)]).unwrap());
        let found = StringArray::from(vec![None, Some(r#"{"b":"{}"}"#)]);
        let merged = with_rescued(&batch, &found, [(0, 0), (1, 1)].into_iter());
        assert_eq!(merged, StringArray::from(vec![None, Some(r#"{"b":"{}"}"#), None]));
        batch.rescued = Some(StringArray::from(vec![None, Some(r#"{"a":"}"}"#), None]));
        let merged = with_rescued(&batch, &found, [(1, 1)].into_iter());
        assert_eq!(merged.value(1), r#"{"a":"}","b":"{}"}"#);
    }
}
