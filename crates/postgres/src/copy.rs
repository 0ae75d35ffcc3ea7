//! Reading rows: the COPY that a reader sends, and in which format.

use futures::StreamExt;
use lakeward_core::{
    BatchStream, ColumnType, ConfiguredStream, Error, ErrorKind, OnBadValue, ReadContext, Result, Session,
};

use crate::config::CopyChoice;
use crate::connect::{Connection, Connector};
use crate::decode::{CopyFormat, PgType, RowDecoder, WireColumn};
use crate::error::{in_session, sqlstate};
use crate::session::{Detail, Holders, ReadColumn, ReadRelation, join};
use crate::{sql, wire};

/// What the server pays for a value as text beyond what it pays for it in binary, in tens of nanoseconds, roughly: the one table
/// of these weights. Times, floats and bytes are dear to print; numbers are dear to pack, and texts cost a call
/// more to pack than to print.
fn text_cost(pg_type: &PgType) -> i32 {
    match pg_type {
        PgType::Timestamp | PgType::Timestamptz => 12,
        PgType::Float4 | PgType::Float8 => 8,
        PgType::Date | PgType::Time => 6,
        PgType::Bytea => 6,
        PgType::Uuid => 5,
        PgType::Bool | PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Oid => -1,
        PgType::Text | PgType::Json => -2,
        PgType::Jsonb => 0,
        PgType::Numeric => -8,
        PgType::Array(element) => 2 * text_cost(element),
        PgType::TextOnly => 0,
    }
}

/// The format in which a stream is asked for. Binary only where every column can be read so.
pub(crate) fn format(choice: CopyChoice, stream: &ConfiguredStream, columns: &[ReadColumn]) -> CopyFormat {
    let decodable = columns.iter().zip(&stream.schema.columns).all(|(column, target)| {
        column.name == target.name && RowDecoder::binary_decodable(&column.pg_type, &target.column_type)
    });
    let cheaper = columns.iter().map(|column| text_cost(&column.pg_type)).sum::<i32>() > 0;
    match choice {
        CopyChoice::Binary if decodable => CopyFormat::Binary,
        CopyChoice::Auto if decodable && cheaper => CopyFormat::Binary,
        _ => CopyFormat::Text,
    }
}

/// What a reader reads.
pub(crate) struct Rows<'a> {
    /// Relations whose storage the reader guards.
    pub(crate) relations: Vec<&'a ReadRelation>,
    /// The FROM clause.
    pub(crate) from: String,
    /// The relation that it names.
    pub(crate) named: &'a ReadRelation,
    /// Conditions, all of which hold; the stream's filter is added.
    pub(crate) conditions: Vec<String>,
    /// An expression behind the stream's columns, never null, and of type boolean.
    pub(crate) extra: Option<String>,
}

/// The name of the extra column on the wire.
pub(crate) const EXTRA: &str = "_lw_in_next_window";

/// Reads rows of a stream under a session. Errors are those of a reader in a session.
pub(crate) async fn read(
    connector: &Connector,
    holders: &Holders,
    stream: &ConfiguredStream,
    session: &Session,
    detail: &Detail,
    rows: Rows<'_>,
    context: ReadContext,
) -> Result<BatchStream> {
    holders.require(&session.token)?;
    let mut columns: Vec<WireColumn> = detail
        .columns
        .iter()
        .zip(&stream.schema.columns)
        .map(|(column, target)| WireColumn {
            name: column.name.clone(),
            written_as: stream.name_in_files(&column.name).to_owned(),
            pg_type: column.pg_type.clone(),
            target: target.column_type.clone(),
            on_bad_value: stream.bad_value_policy(&column.name),
        })
        .collect();
    let mut list: Vec<String> = detail.columns.iter().map(|column| sql::ident(&column.name)).collect();
    if let Some(extra) = rows.extra {
        list.push(extra);
        columns.push(WireColumn::new(EXTRA, PgType::Bool, ColumnType::Boolean, OnBadValue::Fail));
    }
    let format = match detail.format {
        CopyFormat::Text => "text",
        CopyFormat::Binary => "binary",
    };
    let mut conditions = rows.conditions;
    conditions.push(rows.named.still_named());
    let copy = format!(
        "COPY (SELECT {} FROM {}{}) TO STDOUT (FORMAT {format})",
        list.join(", "),
        rows.from,
        condition(stream, conditions)
    );
    let readers = connector.readers().await.map_err(|error| in_session(error, false))?;
    let decoder = RowDecoder::new(detail.format, &columns)?;
    let batches = wire::copy_batches(readers, join(&session.token, &rows.relations), copy, decoder, context);
    let lost = holders.lost(&session.token);
    let id = stream.id.clone();
    Ok(batches
        .map(move |batch| {
            batch.map_err(|error| {
                in_session(error, lost.as_ref().is_some_and(|lost| lost.is_cancelled())).at("stream", &id)
            })
        })
        .boxed())
}

/// Asks the server whether it understands a stream's filter. No row is read.
///
/// # Errors
/// `Config`, naming the filter, where a value in it is none of its column's type.
pub(crate) async fn check_filter(connection: &Connection, stream: &ConfiguredStream) -> Result<()> {
    let Some(filter) = &stream.filter else { return Ok(()) };
    let table = sql::qualified(&stream.id.namespace, &stream.id.name);
    let explain = format!("EXPLAIN SELECT FROM {table}{}", condition(stream, Vec::new()));
    connection.run(&explain).await.map_err(|error| {
        let value = sqlstate(&error).is_some_and(|code| code.starts_with("22"));
        match value {
            true => Error::new(
                ErrorKind::Config,
                "the filter compares a column with what is no value of its type",
            )
            .hint("write the value as the server itself prints values of that column"),
            false => error,
        }
        .at("filter", filter)
        .at("stream", &stream.id)
    })
}

/// The WHERE clause: all conditions and the stream's filter; empty where there is none.
pub(crate) fn condition(stream: &ConfiguredStream, mut conditions: Vec<String>) -> String {
    conditions.extend(stream.filter.as_ref().map(|filter| sql::filter(filter.expr())));
    if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
}
