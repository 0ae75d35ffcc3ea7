//! The decoder: cuts the stream of a COPY into rows and the rows into columns.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema as ArrowSchema, SchemaRef};
use lakeward_core::{Batch, ColumnType, Error, ErrorKind, OnBadValue, Result};

use super::binary::{self, Part};
use super::cell::{Cell, Fault};
use super::columns::{Builder, LARGE_VALUE};
use super::rescue::Rescue;
use super::text::{self, Field};
use super::{CopyFormat, PgType, WireColumn, output, plan};

/// Turns the data of one COPY into batches.
///
/// It owns one builder per column. What it is given may be cut anywhere: the beginning of a row is kept until
/// its end comes. After an error the decoder is of no further use.
#[derive(Debug)]
pub struct RowDecoder {
    format: CopyFormat,
    columns: Vec<Column>,
    schema: SchemaRef,
    rows: usize,
    /// Bytes that every row takes.
    row_width: usize,
    /// The beginning of a row.
    carry: Vec<u8>,
    buffers: Buffers,
    rescue: Rescue,
    binary: BinaryState,
}

/// Room that is used again for every value that needs it.
#[derive(Debug, Default)]
struct Buffers {
    /// A field without its escapes.
    field: Vec<u8>,
    /// An array's element without its escapes, or the text of a binary value.
    scratch: Vec<u8>,
}

impl Buffers {
    /// Gives back what a large value took.
    fn release_large(&mut self) {
        for buffer in [&mut self.field, &mut self.scratch] {
            if buffer.capacity() > LARGE_VALUE {
                *buffer = Vec::new();
            }
        }
    }
}

/// How far a binary stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BinaryState {
    Header,
    Tuples,
    Trailer,
}

#[derive(Debug)]
struct Column {
    index: usize,
    name: String,
    written_as: String,
    pg_type: PgType,
    policy: OnBadValue,
    builder: Builder,
}

impl RowDecoder {
    /// A decoder of rows with exactly these columns.
    ///
    /// # Errors
    /// `Schema` where a column cannot become what it should.
    pub fn new(format: CopyFormat, columns: &[WireColumn]) -> Result<Self> {
        let schema = ArrowSchema::new(
            columns.iter().map(|column| column.target.field(&column.written_as)).collect::<Vec<_>>(),
        );
        let columns = columns
            .iter()
            .enumerate()
            .map(|(index, column)| Column::new(format, index, column))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            format,
            row_width: columns.iter().map(|column| column.builder.row_width()).sum::<usize>().max(1),
            columns,
            schema: Arc::new(schema),
            rows: 0,
            carry: Vec::new(),
            buffers: Buffers::default(),
            rescue: Rescue::default(),
            binary: BinaryState::Header,
        })
    }

    /// Whether values of the type can become the target, in text format at least.
    pub fn supports(pg_type: &PgType, target: &ColumnType) -> bool {
        plan::supports(pg_type, target)
    }

    /// Whether they can in binary format, with the same result.
    pub fn binary_decodable(pg_type: &PgType, target: &ColumnType) -> bool {
        plan::supports(pg_type, target) && plan::has_binary(pg_type)
    }

    /// Takes the payload of one `CopyData` message: a row, several, or a part of one.
    ///
    /// # Errors
    /// `Data`, naming the column, for a value that is malformed or that the policy refuses; `Source` where the
    /// stream is not what COPY sends for these columns.
    pub fn push(&mut self, row: &[u8]) -> Result<()> {
        match self.format {
            CopyFormat::Text => self.push_text(row),
            CopyFormat::Binary => self.push_binary(row),
        }
    }

    /// Puts in a row whose values are given one by one, by column: the type's text output without escapes.
    ///
    /// # Errors
    /// `Data`, naming the column, for a value that is malformed or that the policy refuses.
    pub fn push_values<'a>(&mut self, mut value: impl FnMut(usize) -> Option<&'a [u8]>) -> Result<()> {
        self.prepare();
        let Self { columns, buffers, rescue, .. } = self;
        for (index, column) in columns.iter_mut().enumerate() {
            let Some(text) = value(index) else {
                column.builder.push_null().map_err(|fault| column.error(fault))?;
                continue;
            };
            match column.builder.push_text(text, column.policy, &mut buffers.scratch) {
                Ok(Cell::Kept) => {}
                Ok(Cell::Replaced) => column.rescue(text, rescue)?,
                Err(fault) => return Err(column.error(fault)),
            }
        }
        self.end_row()
    }

    /// Bytes of the rows in the builders.
    pub fn bytes(&self) -> usize {
        let varying: usize = self.columns.iter().map(|column| column.builder.varying_bytes()).sum();
        self.rows * self.row_width + varying + self.rescue.bytes()
    }

    /// Rows in the builders.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Hands over the rows so far; the builders are empty again, and sized for another such batch.
    ///
    /// # Errors
    /// `Data`, naming the column, where text is not UTF-8.
    pub fn finish_batch(&mut self) -> Result<Batch> {
        let rows = std::mem::take(&mut self.rows);
        self.buffers.release_large();
        let mut arrays = Vec::with_capacity(self.columns.len());
        for (column, field) in self.columns.iter_mut().zip(self.schema.fields()) {
            let array = column.builder.take(field.data_type()).map_err(|source| {
                Error::new(ErrorKind::Data, "the server sent text that is not UTF-8")
                    .at("column", &column.name)
                    .source(source)
            })?;
            arrays.push(array);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let record_batch = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            .map_err(|source| Error::bug("decoded columns do not make a batch").source(source))?;
        let mut batch = Batch::read(record_batch);
        if let Some((rescued, bad_values)) = self.rescue.take(rows) {
            batch.rescued = Some(rescued);
            batch.bad_values = bad_values;
        }
        Ok(batch)
    }

    /// Hands over the last rows, if there are any.
    ///
    /// # Errors
    /// `Connection` where the stream ended within a row, or a binary one without its trailer.
    pub fn finish(mut self) -> Result<Option<Batch>> {
        let ended = match self.format {
            CopyFormat::Text => self.carry.is_empty(),
            CopyFormat::Binary => self.binary == BinaryState::Trailer,
        };
        if !ended {
            return Err(Error::new(ErrorKind::Connection, "the data of a COPY ended within a row"));
        }
        if self.rows == 0 {
            return Ok(None);
        }
        self.finish_batch().map(Some)
    }

    fn push_text(&mut self, mut data: &[u8]) -> Result<()> {
        if !self.carry.is_empty() {
            let Some(end) = memchr::memchr(b'\n', data) else {
                self.carry.extend_from_slice(data);
                return Ok(());
            };
            let (head, rest) = data.split_at(end + 1);
            let mut row = std::mem::take(&mut self.carry);
            row.extend_from_slice(head);
            self.text_rows(&row)?;
            data = rest;
        }
        // The server sends whole rows: the newline is the last byte.
        let end = memchr::memrchr(b'\n', data).map_or(0, |last| last + 1);
        let (rows, begun) = data.split_at(end);
        self.carry.extend_from_slice(begun);
        self.text_rows(rows)
    }

    fn text_rows(&mut self, mut rows: &[u8]) -> Result<()> {
        while !rows.is_empty() {
            self.prepare();
            rows = self.text_row(rows)?;
            self.end_row()?;
        }
        Ok(())
    }

    /// Decodes the row at the start of `data`, which ends with a newline, and returns what follows it.
    #[inline]
    fn text_row<'a>(&mut self, data: &'a [u8]) -> Result<&'a [u8]> {
        let Self { columns, buffers, rescue, .. } = self;
        let Some(last) = columns.len().checked_sub(1) else {
            return data.strip_prefix(b"\n").ok_or_else(foreign_row);
        };
        let mut start = 0;
        for (index, column) in columns.iter_mut().enumerate() {
            let (field, end) = text::field(data, start).ok_or_else(foreign_row)?;
            match field {
                Field::Plain(value) => {
                    if let Builder::Text(bytes) = &mut column.builder {
                        let stored = bytes.push_within(data, end - value.len(), value.len());
                        stored.map_err(|fault| column.error(fault))?;
                    } else {
                        match column.builder.push_text(value, column.policy, &mut buffers.scratch) {
                            Ok(Cell::Kept) => {}
                            Ok(Cell::Replaced) => column.rescue(value, rescue)?,
                            Err(fault) => return Err(column.error(fault)),
                        }
                    }
                }
                Field::Null => column.builder.push_null().map_err(|fault| column.error(fault))?,
                Field::Escaped(value) => column.push_escaped(value, buffers, rescue)?,
            }
            if data[end] != if index == last { b'\n' } else { b'\t' } {
                return Err(foreign_row());
            }
            start = end + 1;
        }
        Ok(&data[start..])
    }

    fn push_binary(&mut self, data: &[u8]) -> Result<()> {
        if self.carry.is_empty() {
            let used = self.binary_parts(data)?;
            self.carry.extend_from_slice(&data[used..]);
            return Ok(());
        }
        let mut carry = std::mem::take(&mut self.carry);
        carry.extend_from_slice(data);
        let used = self.binary_parts(&carry)?;
        carry.drain(..used);
        self.carry = carry;
        Ok(())
    }

    /// Decodes all whole parts at the start of `data` and returns how many bytes they were.
    fn binary_parts(&mut self, data: &[u8]) -> Result<usize> {
        let mut used = 0;
        while used < data.len() {
            let rest = &data[used..];
            let part = match self.binary {
                BinaryState::Header => binary::header(rest),
                BinaryState::Tuples => binary::tuple(rest, self.columns.len()),
                BinaryState::Trailer => Part::Malformed,
            };
            match part {
                Part::Incomplete => break,
                Part::Malformed => return Err(foreign_row()),
                Part::Trailer => {
                    self.binary = BinaryState::Trailer;
                    used += 2;
                }
                Part::Whole(length) => {
                    if self.binary == BinaryState::Header {
                        self.binary = BinaryState::Tuples;
                    } else {
                        self.prepare();
                        self.binary_row(&rest[2..length])?;
                        self.end_row()?;
                    }
                    used += length;
                }
            }
        }
        Ok(used)
    }

    #[inline]
    fn binary_row(&mut self, mut fields: &[u8]) -> Result<()> {
        let Self { columns, buffers: Buffers { scratch, .. }, rescue, .. } = self;
        for column in columns.iter_mut() {
            let (value, rest) = binary::field(fields).ok_or_else(foreign_row)?;
            fields = rest;
            let Some(value) = value else {
                column.builder.push_null().map_err(|fault| column.error(fault))?;
                continue;
            };
            match column.builder.push_binary(&column.pg_type, value, column.policy, scratch) {
                Ok(Cell::Kept) => {}
                Ok(Cell::Replaced) => {
                    scratch.clear();
                    output::write(&column.pg_type, value, scratch)
                        .ok_or_else(|| column.error(Fault::Malformed))?;
                    column.rescue(scratch, rescue)?;
                }
                Err(fault) => return Err(column.error(fault)),
            }
        }
        Ok(())
    }

    /// Makes room before the first row of a batch.
    #[inline]
    fn prepare(&mut self) {
        if self.rows == 0 {
            self.columns.iter_mut().for_each(|column| column.builder.prepare());
        }
    }

    #[inline]
    fn end_row(&mut self) -> Result<()> {
        self.rescue.end_row(self.rows)?;
        self.rows += 1;
        Ok(())
    }
}

impl Column {
    fn new(format: CopyFormat, index: usize, column: &WireColumn) -> Result<Self> {
        let WireColumn { name, written_as, pg_type, target, on_bad_value } = column;
        let impossible = |message| {
            Error::new(ErrorKind::Schema, message)
                .at("column", name)
                .at("as", target)
                .hint("every type can be read as \"text\" (columns.types in streams.json)")
        };
        if !plan::supports(pg_type, target) {
            return Err(impossible("a column cannot be read as the type that is asked for"));
        }
        if format == CopyFormat::Binary && !plan::has_binary(pg_type) {
            return Err(Error::bug("a type without binary output is to be read as binary").at("column", name));
        }
        let builder =
            Builder::new(target).ok_or_else(|| impossible("no PostgreSQL type becomes this one"))?;
        Ok(Self {
            index,
            name: name.clone(),
            written_as: written_as.clone(),
            pg_type: pg_type.clone(),
            policy: *on_bad_value,
            builder,
        })
    }

    /// Puts in a field with escapes.
    fn push_escaped(&mut self, value: &[u8], buffers: &mut Buffers, rescue: &mut Rescue) -> Result<()> {
        // Text, the largest of what has escapes, is not copied twice.
        if let Builder::Text(bytes) = &mut self.builder {
            bytes.reserve(value.len());
            let stored = text::unescape(value, &mut bytes.values)
                .ok_or(Fault::Malformed)
                .and_then(|()| bytes.close(true));
            return stored.map(drop).map_err(|fault| self.error(fault));
        }
        let Buffers { field, scratch } = buffers;
        field.clear();
        text::unescape(value, field).ok_or_else(|| self.error(Fault::Malformed))?;
        match self.builder.push_text(field, self.policy, scratch) {
            Ok(Cell::Kept) => Ok(()),
            Ok(Cell::Replaced) => self.rescue(field, rescue),
            Err(fault) => Err(self.error(fault)),
        }
    }

    #[cold]
    fn rescue(&self, text: &[u8], rescue: &mut Rescue) -> Result<()> {
        let text = std::str::from_utf8(text).map_err(|_| self.error(Fault::Malformed))?;
        rescue.add(self.index, &self.written_as, text);
        Ok(())
    }

    #[cold]
    fn error(&self, fault: Fault) -> Error {
        let error = match fault {
            Fault::Malformed => {
                Error::new(ErrorKind::Data, "the server sent a value that is none of its type")
                    .hint("the column's type may have changed since discover; report this if it has not")
            }
            Fault::Refused => Error::new(ErrorKind::Data, "a value does not fit its column").hint(
                "read the column as \"text\" (columns.types in streams.json), or choose another on_bad_value; keys, \
                 cursors and partitions have none and always fail: there choose another column",
            ),
            Fault::TooLarge => {
                Error::new(ErrorKind::Data, "one batch would hold more than 2 GiB of a column")
                    .hint("lower the memory limit, so that batches are smaller")
            }
        };
        error.at("column", &self.name)
    }
}

#[cold]
fn foreign_row() -> Error {
    Error::new(ErrorKind::Source, "the data of a COPY is not of the columns that were asked for")
        .hint("a proxy between here and the server may have changed it")
}
