//! `lakeward peek`: what is in a Parquet file.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayData, RecordBatch};
use arrow::datatypes::{DataType, FieldRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use lakeward_core::{Error, ErrorKind, Result, ResultExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::ParquetMetaData;

use crate::args::PeekArgs;
use crate::failure::ExitCode;
use crate::output::{Surface, harmless, print, table};
use crate::quantity::{counted, human_bytes, human_count};

/// A batch never has more rows than this, however many are asked for.
const BATCH_ROWS: usize = 1024;
/// Columns of a terminal that a cell needs to say anything.
const LEAST_CELL_WIDTH: usize = 12;
/// What Arrow and pandas put into a footer for themselves: long, and shown by the schema already.
const SCHEMA_KEYS: [&str; 2] = ["ARROW:schema", "pandas"];

/// Prints facts, columns and first rows.
pub(crate) fn run(args: &PeekArgs) -> Result<ExitCode> {
    let text = describe(&args.file, args.rows, usize::from(args.width), Surface::stdout())
        .map_err(|error| error.at("file", args.file.display()))?;
    print(&text)?;
    Ok(ExitCode::DONE)
}

fn describe(path: &Path, rows: usize, width: usize, surface: Surface) -> Result<String> {
    let unreadable = "is it a Parquet file, whole and readable by this user?";
    let failed = || "the file cannot be read as Parquet".to_owned();
    let file = File::open(path)
        .or_fail(ErrorKind::Config, || "the file cannot be opened".to_owned())
        .map_err(|error| error.hint("name a Parquet file, such as `lakeward files STREAM` lists"))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)
        .or_fail(ErrorKind::Data, failed)
        .map_err(|error| error.hint(unreadable))?;
    let metadata = builder.metadata().clone();
    let mut text = facts(&metadata);
    text.push_str(&columns(&metadata, &builder, surface));
    if rows > 0 {
        let reader = builder
            .with_batch_size(rows.min(BATCH_ROWS))
            .with_limit(rows)
            .build()
            .or_fail(ErrorKind::Data, failed)?;
        let batches = reader
            .map(|batch| batch.or_fail(ErrorKind::Data, failed).map_err(|error| error.hint(unreadable)))
            .collect::<Result<Vec<_>>>()?;
        text.push('\n');
        text.push_str(&first_rows(&batches, width, surface)?);
    }
    Ok(text)
}

fn facts(metadata: &ParquetMetaData) -> String {
    let file = metadata.file_metadata();
    let groups = metadata.row_groups();
    let stored: i64 = groups.iter().map(|group| group.compressed_size()).sum();
    let plain: i64 = groups.iter().map(|group| group.total_byte_size()).sum();
    let mut codecs: Vec<String> = groups
        .iter()
        .flat_map(|group| group.columns())
        .map(|column| column.compression().to_string())
        .collect();
    codecs.sort();
    codecs.dedup();
    let mut text = format!(
        "{} rows in {}, {} ({} decompressed), {}\n",
        human_count(size(file.num_rows())),
        counted(groups.len(), "row group"),
        human_bytes(size(stored)),
        human_bytes(size(plain)),
        if codecs.is_empty() { "no data".to_owned() } else { codecs.join(", ") },
    );
    text.push_str(&format!(
        "written by {}, format version {}\n",
        harmless(file.created_by().unwrap_or("an unnamed writer")),
        file.version()
    ));
    for entry in file.key_value_metadata().into_iter().flatten() {
        if !SCHEMA_KEYS.contains(&entry.key.as_str()) {
            let value = entry.value.as_deref().unwrap_or_default();
            text.push_str(&format!("{}: {}\n", harmless(&entry.key), cut(&harmless(value), 200)));
        }
    }
    text
}

/// Sizes in a footer are signed; a negative one is nonsense from a broken file.
fn size(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn columns<T>(
    metadata: &ParquetMetaData,
    builder: &parquet::arrow::arrow_reader::ArrowReaderBuilder<T>,
    surface: Surface,
) -> String {
    let parquet_schema = metadata.file_metadata().schema_descr();
    let rows = builder.schema().fields().iter().enumerate().map(|(index, field)| {
        // A nested column has several leaves: its size is theirs together, its stored type that of a lone one.
        let leaves: Vec<usize> = (0..parquet_schema.num_columns())
            .filter(|leaf| parquet_schema.get_column_root_idx(*leaf) == index)
            .collect();
        let stored = match leaves.as_slice() {
            [leaf] => {
                let leaf = parquet_schema.column(*leaf);
                let physical = leaf.physical_type().to_string();
                match leaf.logical_type_ref() {
                    Some(logical) => format!("{physical}, {}", variant(&format!("{logical:?}"))),
                    None => physical,
                }
            }
            _ => "group".to_owned(),
        };
        let bytes: i64 = metadata
            .row_groups()
            .iter()
            .flat_map(|group| leaves.iter().map(|leaf| group.column(*leaf).compressed_size()))
            .sum();
        vec![
            harmless(field.name()),
            field.data_type().to_string(),
            stored,
            if field.is_nullable() { "yes" } else { "no" }.to_owned(),
            human_bytes(size(bytes)),
        ]
    });
    table(surface, &["column", "type", "stored as", "null", "#size"], rows)
}

/// A logical type's name without its parameters, which the column's type shows already.
fn variant(debug: &str) -> &str {
    debug.split([' ', '(', '{']).next().unwrap_or(debug)
}

fn first_rows(batches: &[RecordBatch], width: usize, surface: Surface) -> Result<String> {
    let Some(first) = batches.first() else {
        return Ok("no rows\n".to_owned());
    };
    let schema = first.schema();
    let headers: Vec<String> = schema.fields().iter().map(|field| harmless(field.name())).collect();
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let options = FormatOptions::default().with_null("∅").with_display_error(true);
    let mut rows: Vec<Vec<String>> = Vec::new();
    for batch in batches {
        let columns = batch
            .columns()
            .iter()
            .map(|column| in_utc(column.to_data()).map(arrow::array::make_array))
            .collect::<Result<Vec<_>>>()?;
        let formatters = columns
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::new(ErrorKind::Data, "a column cannot be shown").source(error))?;
        rows.extend((0..batch.num_rows()).map(|row| {
            formatters.iter().map(|column| cut(&harmless(&column.value(row).to_string()), width)).collect()
        }));
    }
    Ok(match surface {
        Surface::Terminal(width) if headers.len() * LEAST_CELL_WIDTH > usize::from(width) => {
            records(&headers, &rows)
        }
        _ => table(surface, &headers, rows),
    })
}

/// A row is a block of lines where a terminal is too narrow for all columns side by side.
fn records(headers: &[&str], rows: &[Vec<String>]) -> String {
    let longest = headers.iter().map(|header| header.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        text.push_str(&format!("── row {}\n", number + 1));
        for (header, cell) in headers.iter().zip(row) {
            text.push_str(&format!("{header:longest$}  {cell}\n"));
        }
    }
    text
}

/// The same instants with the offset of UTC for their zone: Arrow can print those without a zone database, and a
/// zone says nothing about the instant.
fn in_utc(data: ArrayData) -> Result<ArrayData> {
    let data_type = type_in_utc(data.data_type());
    if data_type == *data.data_type() {
        return Ok(data);
    }
    let children = data.child_data().iter().cloned().map(in_utc).collect::<Result<Vec<_>>>()?;
    let data = data.into_builder().data_type(data_type).child_data(children).build();
    data.or_fail(ErrorKind::Data, || "a column cannot be shown".to_owned())
}

fn type_in_utc(data_type: &DataType) -> DataType {
    let field = |field: &FieldRef| -> FieldRef {
        Arc::new(field.as_ref().clone().with_data_type(type_in_utc(field.data_type())))
    };
    match data_type {
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some("+00:00".into())),
        DataType::List(item) => DataType::List(field(item)),
        DataType::LargeList(item) => DataType::LargeList(field(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(field(item), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(field(entries), *sorted),
        other => other.clone(),
    }
}

fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        None => text.to_owned(),
        Some(_) => {
            let end = text.char_indices().nth(width - 1).map_or(text.len(), |(end, _)| end);
            format!("{}…", &text[..end])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use arrow::array::{ArrayRef, Int64Array, ListBuilder, StringArray};
    use arrow::array::{TimestampMicrosecondArray, TimestampMicrosecondBuilder};
    use parquet::arrow::ArrowWriter;

    #[test]
    fn shows_columns_and_first_rows_with_long_cells_cut() {
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from_iter_values(0..100)) as ArrayRef),
            (
                "note",
                Arc::new(StringArray::from_iter((0..100).map(|n| (n > 0).then(|| "z\x1b[2J".repeat(50))))),
            ),
        ])
        .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.parquet");
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let text = describe(&path, 2, 10, Surface::Plain).unwrap();
        assert!(text.starts_with("100 rows in 1 row group,"), "{text}");
        assert!(text.contains("Int64") && text.contains("∅") && text.contains("z\\u{1b}[2…"), "{text}");
        assert_eq!(text.matches("z\\u{1b}").count(), 1, "{text}");
        assert!(!text.contains('\x1b'));

        let truncated = directory.path().join("y.parquet");
        std::fs::write(&truncated, b"PAR1").unwrap();
        assert_eq!(describe(&truncated, 2, 10, Surface::Plain).unwrap_err().kind(), ErrorKind::Data);
    }

    #[test]
    fn instants_are_shown_whatever_their_zone_and_depth() {
        let instant = 1_795_251_600_000_001;
        let zoned = TimestampMicrosecondArray::from_value(instant, 1).with_timezone("Europe/Warsaw");
        let items = TimestampMicrosecondBuilder::new()
            .with_data_type(DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into())));
        let mut list = ListBuilder::new(items);
        list.append_value([Some(instant), None]);
        let columns = [("a", Arc::new(zoned) as ArrayRef), ("b", Arc::new(list.finish()) as ArrayRef)];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let text = first_rows(&[batch], 80, Surface::Plain).unwrap();
        assert_eq!(text.matches("2026-11-21T09:00:00.000001").count(), 2, "{text}");
    }

    #[test]
    fn a_narrow_terminal_shows_rows_as_blocks() {
        let columns = (0..20)
            .map(|n| (format!("column_{n}"), Arc::new(Int64Array::from_iter_values([n, n + 1])) as ArrayRef));
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let text = first_rows(std::slice::from_ref(&batch), 80, Surface::Terminal(100)).unwrap();
        assert!(text.starts_with("── row 1\ncolumn_0   0\n"), "{text}");
        assert!(text.ends_with("column_19  20\n"), "{text}");
    }

    #[test]
    fn cutting_counts_characters() {
        assert_eq!(cut("żółw", 4), "żółw");
        assert_eq!(cut("żółwie", 4), "żół…");
    }
}
