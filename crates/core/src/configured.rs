//! A stream together with what the user chose for it, checked against the source's columns.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::nearest;
use crate::{
    Column, ColumnType, DefinedColumn, Definition, Error, ErrorKind, Filter, NewColumns, Result, Schema,
    Selection, Stream, StreamId, SyncMode, SystemColumns,
};

/// What happens to a value that its column cannot hold. The original always ends up in `_lw_rescued`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBadValue {
    /// The nearest value that fits, null where there is none.
    #[default]
    Clamp,
    /// Null.
    Null,
    /// The run stops.
    Fail,
}

/// What happens when a stream's columns change in a way that existing rows would feel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnSchemaChange {
    /// The destination follows; rows are read again only where nothing less is exact.
    #[default]
    Evolve,
    /// All rows are read again.
    Resnapshot,
    /// The run stops.
    Fail,
}

/// What happens when a partition is detached or truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnPartitionChange {
    /// Its rows stay at the destination.
    #[default]
    Keep,
    /// All rows are read again.
    Resnapshot,
    /// The run stops.
    Fail,
}

impl OnPartitionChange {
    /// Why all rows are to be read again once a partition of `stream` was detached or dropped; `None` where its rows
    /// stay.
    ///
    /// # Errors
    /// `Schema` where the run is to stop.
    pub fn part_gone(self, stream: &StreamId) -> Result<Option<&'static str>> {
        self.part_lost(stream, "a partition is none of it any more")
    }

    /// The same of a partition that was truncated.
    ///
    /// # Errors
    /// `Schema` where the run is to stop.
    pub fn part_emptied(self, stream: &StreamId) -> Result<Option<&'static str>> {
        self.part_lost(stream, "one of its partitions was truncated")
    }

    fn part_lost(self, stream: &StreamId, what: &'static str) -> Result<Option<&'static str>> {
        match self {
            Self::Keep => Ok(None),
            Self::Resnapshot => Ok(Some(what)),
            Self::Fail => Err(Error::new(ErrorKind::Schema, what)
                .at("stream", stream)
                .hint("set on_partition_change to keep or resnapshot, or clear the stream")),
        }
    }
}

/// What happens to rows whose cursor is null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NullCursor {
    /// They are read at every pass and told apart by their hash.
    #[default]
    Include,
    /// They are not read after the backfill.
    Skip,
}

/// The cursor of an incremental stream: COALESCE(primary, fallback).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The column that orders the rows.
    pub primary: String,
    /// The column that stands in where the primary one is null; of the same type.
    pub fallback: Option<String>,
    /// The type of both.
    pub column_type: ColumnType,
    /// How far behind the greatest cursor a pass begins again.
    pub lookback: Lookback,
}

impl Cursor {
    /// Its columns: the primary one, then the fallback.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.primary.as_str()).chain(self.fallback.as_deref())
    }
}

/// How far behind the greatest cursor a pass begins, in the cursor's own terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookback {
    /// For dates and times.
    Microseconds(i64),
    /// For numbers.
    Units(i64),
    /// For text and the like, which have no distance.
    None,
}

/// How a partition field is made of its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionTransform {
    /// The value itself.
    Identity,
    /// `YYYY`, UTC.
    Year,
    /// `YYYY-MM`, UTC.
    Month,
    /// `YYYY-MM-DD`, UTC.
    Day,
    /// `YYYY-MM-DD-HH`, UTC.
    Hour,
}

/// One partition field: `column` or `year|month|day|hour(column)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionField {
    /// The column.
    pub column: String,
    /// What is made of it.
    pub transform: PartitionTransform,
}

impl PartitionField {
    /// The directory's name: `<column>_<transform>`, or `<column>_value` for the value itself. It differs from
    /// the column's own, because the column stays in the file and readers refuse two of one name.
    pub fn directory_name(&self) -> String {
        let suffix = match self.transform {
            PartitionTransform::Identity => "value",
            PartitionTransform::Year => "year",
            PartitionTransform::Month => "month",
            PartitionTransform::Day => "day",
            PartitionTransform::Hour => "hour",
        };
        format!("{}_{suffix}", self.column)
    }
}

impl fmt::Display for PartitionField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transform {
            PartitionTransform::Identity => f.write_str(&self.column),
            PartitionTransform::Year => write!(f, "year({})", self.column),
            PartitionTransform::Month => write!(f, "month({})", self.column),
            PartitionTransform::Day => write!(f, "day({})", self.column),
            PartitionTransform::Hour => write!(f, "hour({})", self.column),
        }
    }
}

impl FromStr for PartitionField {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        for (name, transform) in [
            ("year", PartitionTransform::Year),
            ("month", PartitionTransform::Month),
            ("day", PartitionTransform::Day),
            ("hour", PartitionTransform::Hour),
        ] {
            if let Some(column) =
                text.strip_prefix(name).and_then(|rest| rest.strip_prefix('(')?.strip_suffix(')'))
            {
                return Ok(Self { column: column.trim().to_owned(), transform });
            }
        }
        if text.is_empty() || text.contains(['(', ')']) {
            return Err(Error::new(ErrorKind::Config, format!("\"{text}\" is no partition field"))
                .hint("write a column, or year(column), month(column), day(column), hour(column)"));
        }
        Ok(Self { column: text.to_owned(), transform: PartitionTransform::Identity })
    }
}

/// A stream with the user's choices, every one of them checked against the source's columns.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfiguredStream {
    /// Its name at the source.
    pub id: StreamId,
    /// Its name at the destination.
    pub target: StreamId,
    /// How it is replicated.
    pub sync_mode: SyncMode,
    /// The columns that its files have after the system columns, with the types that the user chose. Columns
    /// that a generation has and the source lost are kept by the engine as [`retired`](Self::retired).
    pub schema: Schema,
    /// Columns at the end of the files that the source no longer has, named as they are there; always null.
    pub retired: Schema,
    /// What columns of the source are called in the files, where files of before have another type under their name.
    pub written_as: BTreeMap<String, String>,
    /// Columns that the source has and the user leaves out, by identity.
    pub left_out: Vec<String>,
    /// How many columns it was ever given ([`Stream::columns_made`](crate::Stream::columns_made)).
    pub columns_made: Option<u32>,
    /// The names of the system columns.
    pub system: SystemColumns,
    /// The columns that identify a row; empty where none do.
    pub key: Vec<String>,
    /// In incremental mode, its cursor.
    pub cursor: Option<Cursor>,
    /// What happens to rows whose cursor is null.
    pub null_cursor: NullCursor,
    /// Which rows are replicated.
    pub filter: Option<Filter>,
    /// How files are laid out in directories.
    pub partition: Vec<PartitionField>,
    /// The column whose ranges chunks are to be, where the user names one.
    pub chunk_column: Option<String>,
    /// Values that do not fit.
    pub on_bad_value: OnBadValue,
    /// Columns that change.
    pub on_schema_change: OnSchemaChange,
    /// Partitions that change.
    pub on_partition_change: OnPartitionChange,
    /// In a change stream: only inserts are followed.
    pub insert_only: bool,
}

const DEFAULT_LOOKBACK_MICROSECONDS: i64 = 600_000_000;

impl ConfiguredStream {
    /// Joins what the user selected with what the source offers.
    ///
    /// `accepts` says whether the source can read a column as another type.
    ///
    /// # Errors
    /// `Config`, naming the stream, the field and the remedy.
    pub fn resolve(
        selection: &Selection,
        stream: &Stream,
        accepts: impl Fn(&Column, &ColumnType) -> bool,
    ) -> Result<Self> {
        Self::resolve_inner(selection, stream, accepts).map_err(|error| error.at("stream", &stream.id))
    }

    fn resolve_inner(
        selection: &Selection,
        stream: &Stream,
        accepts: impl Fn(&Column, &ColumnType) -> bool,
    ) -> Result<Self> {
        let fail = |message: String, hint: String| Err(Error::new(ErrorKind::Config, message).hint(hint));
        let require = |field: &str, name: &str| -> Result<&Column> {
            stream.column(name).ok_or_else(|| {
                let error = Error::new(ErrorKind::Config, format!("{field} names no column: \"{name}\""));
                match nearest(name, stream.schema.columns.iter().map(|column| column.name.as_str())) {
                    Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                    None => error.hint("run `lakeward discover` to see the stream's columns"),
                }
            })
        };
        let sync_mode = selection.sync_mode.or_else(|| stream.sync_modes.first().copied());
        let wants_log = sync_mode.is_some_and(SyncMode::follows_log);
        let inserts_only = stream.inserts_only.as_ref().filter(|_| wants_log);
        if let Some(unfit) = inserts_only
            && !selection.insert_only
        {
            return fail(
                format!("{}: once published, its updates and deletes would fail", unfit.why),
                format!("{} Or set insert_only, where nothing but inserts is wanted.", unfit.remedy),
            );
        }
        if let Some(why) = stream.unlogged.as_ref().filter(|_| wants_log) {
            return fail(why.clone(), "replicate it with full_refresh or incremental".to_owned());
        }
        let offered = |mode: &SyncMode| stream.sync_modes.contains(mode) || inserts_only.is_some();
        let Some(sync_mode) = sync_mode.filter(offered) else {
            let offered: Vec<_> = stream.sync_modes.iter().map(|mode| mode.as_str()).collect();
            return fail(
                format!("the stream does not offer sync_mode {}", sync_mode.map_or("", SyncMode::as_str)),
                format!("it offers {}", offered.join(", ")),
            );
        };
        if selection.append_mode == Some(false) && sync_mode == SyncMode::StrictCdc {
            return fail(
                "strict_cdc keeps a log and cannot upsert".to_owned(),
                "set append_mode to true".to_owned(),
            );
        }

        let excluded = &selection.columns.exclude;
        // A column that discover saw and the source has dropped since is no mistake of the user's.
        for name in excluded.iter().chain(selection.columns.types.keys()) {
            if !selection.known_columns.contains(name) {
                require("columns", name)?;
            }
        }
        let known = &selection.known_columns;
        if selection.columns.new_columns == NewColumns::Ignore && known.is_empty() {
            return fail(
                "new_columns is \"ignore\", but which columns are new is not known".to_owned(),
                "run `lakeward discover`, which writes the known ones into the file, or name columns.exclude"
                    .to_owned(),
            );
        }
        let mut columns = Vec::new();
        let mut left_out = Vec::new();
        for column in &stream.schema.columns {
            let ignored =
                selection.columns.new_columns == NewColumns::Ignore && !known.contains(&column.name);
            if ignored || excluded.contains(&column.name) {
                left_out.push(column.identity.clone());
                continue;
            }
            let mut column = column.clone();
            if let Some(target) = selection.columns.types.get(&column.name) {
                let target: ColumnType = target.parse()?;
                if target != column.column_type && !accepts(&column, &target) {
                    return fail(
                        format!(
                            "column \"{}\" ({}) cannot be read as {target}",
                            column.name, column.source_type
                        ),
                        "every type can be read as text".to_owned(),
                    );
                }
                column.column_type = target;
            }
            columns.push(column);
        }
        let selected = |field: &str, name: &str| -> Result<&Column> {
            let column = require(field, name)?;
            columns.iter().find(|selected| selected.name == column.name).ok_or_else(|| {
                Error::new(ErrorKind::Config, format!("{field} names column \"{name}\", which is excluded"))
                    .hint("remove it from columns.exclude")
            })
        };

        let (key, what) = match &stream.log_key {
            Some(key) if sync_mode.follows_log() => (key, "the replica identity"),
            // A stream whose changes cannot be followed does not offer these modes.
            _ => (&stream.primary_key, "the primary key"),
        };
        for name in key {
            selected(what, name)?;
        }
        let cursor = match (&selection.cursor_field, sync_mode) {
            (Some(text), SyncMode::Incremental) => {
                let (primary, fallback) = match text.split_once(':') {
                    Some((primary, fallback)) => (primary.trim(), Some(fallback.trim())),
                    None => (text.trim(), None),
                };
                let column_type = selected("cursor_field", primary)?.column_type.clone();
                if let Some(fallback) = fallback
                    && selected("cursor_field", fallback)?.column_type != column_type
                {
                    return fail(
                        format!("cursor_field \"{text}\" joins columns of two types"),
                        "primary and fallback cursor need the same type".to_owned(),
                    );
                }
                if !stream.cursor_fields.iter().any(|name| name == primary) {
                    return fail(
                        format!("column \"{primary}\" has no order that can serve as a cursor"),
                        format!("this stream's cursor candidates: {}", stream.cursor_fields.join(", ")),
                    );
                }
                Some(Cursor {
                    primary: primary.to_owned(),
                    fallback: fallback.map(str::to_owned),
                    lookback: Lookback::parse(selection.cursor_lookback.as_deref(), &column_type)?,
                    column_type,
                })
            }
            (None, SyncMode::Incremental) => {
                return fail(
                    "an incremental stream needs a cursor_field".to_owned(),
                    format!("set cursor_field to one of: {}", stream.cursor_fields.join(", ")),
                );
            }
            _ => None,
        };
        let partition =
            selection.partition.iter().map(|text| text.parse()).collect::<Result<Vec<PartitionField>>>()?;
        for field in &partition {
            let column = selected("partition", &field.column)?;
            let temporal = matches!(
                column.column_type,
                ColumnType::Date | ColumnType::Timestamp | ColumnType::TimestampTz
            );
            if field.transform != PartitionTransform::Identity && !temporal {
                return fail(
                    format!("partition \"{field}\" needs a date or a timestamp"),
                    format!("\"{}\" is of type {}", field.column, column.column_type),
                );
            }
            if matches!(column.column_type, ColumnType::List(_) | ColumnType::Binary | ColumnType::Json) {
                return fail(
                    format!("a column of type {} cannot be a partition", column.column_type),
                    "partition by a scalar column".to_owned(),
                );
            }
        }
        if let Some(name) = &selection.chunk_column {
            require("chunk_column", name)?;
        }
        let filter = match &selection.filter {
            Some(text) => Some(Filter::parse(text, &stream.schema)?),
            None => None,
        };
        let system = SystemColumns::default();
        let schema = Schema { columns };
        system.file_schema(&schema)?;
        if selection.destination_table.as_deref() == Some("") {
            return Err(Error::new(ErrorKind::Config, "destination_table is empty")
                .hint("name the stream as it is to be called at the destination, or leave the field out"));
        }
        let target = StreamId {
            namespace: stream.id.namespace.clone(),
            name: selection.destination_table.clone().unwrap_or_else(|| stream.id.name.clone()),
        };
        Ok(Self {
            id: stream.id.clone(),
            target,
            sync_mode,
            schema,
            retired: Schema::default(),
            written_as: BTreeMap::new(),
            left_out,
            columns_made: stream.columns_made,
            system,
            key: key.clone(),
            cursor,
            null_cursor: selection.null_cursor,
            filter,
            partition,
            chunk_column: selection.chunk_column.clone(),
            on_bad_value: selection.on_bad_value,
            on_schema_change: selection.on_schema_change,
            on_partition_change: selection.on_partition_change,
            insert_only: selection.insert_only && sync_mode.follows_log(),
        })
    }

    /// Whether a bad value in this column stops the run whatever the policy: two clamped keys would be one row.
    pub fn is_strict(&self, column: &str) -> bool {
        self.key.iter().any(|name| name == column)
            || self.partition.iter().any(|field| field.column == column)
            || self
                .cursor
                .as_ref()
                .is_some_and(|cursor| cursor.primary == column || cursor.fallback.as_deref() == Some(column))
    }

    /// What happens to a bad value in this column.
    pub fn bad_value_policy(&self, column: &str) -> OnBadValue {
        if self.is_strict(column) { OnBadValue::Fail } else { self.on_bad_value }
    }

    /// What a column of the source is called in the files.
    pub fn name_in_files<'a>(&'a self, column: &'a str) -> &'a str {
        self.written_as.get(column).map_or(column, String::as_str)
    }

    /// The source's columns, named as in the files.
    pub fn written_columns(&self) -> Schema {
        let named =
            |column: &Column| Column { name: self.name_in_files(&column.name).to_owned(), ..column.clone() };
        Schema { columns: self.schema.columns.iter().map(named).collect() }
    }

    /// All columns of the files after the system columns, named as there: those of the source, in its order, then the
    /// retired ones.
    pub fn file_columns(&self) -> Schema {
        let mut columns = self.written_columns();
        columns.columns.extend(self.retired.columns.iter().cloned());
        columns
    }

    /// How files are laid out in directories, by the names that columns have in them.
    pub fn file_partition(&self) -> Vec<PartitionField> {
        let named = |field: &PartitionField| PartitionField {
            column: self.name_in_files(&field.column).to_owned(),
            transform: field.transform,
        };
        self.partition.iter().map(named).collect()
    }

    /// The same stream as one that is merely read: for that it need not join the source's log.
    #[must_use]
    pub fn merely_read(&self) -> Self {
        Self { sync_mode: SyncMode::FullRefresh, ..self.clone() }
    }

    /// What makes a generation of this stream one thing.
    pub fn definition(&self) -> Definition {
        let in_files = |name: &str| self.name_in_files(name).to_owned();
        let source_of = |column: &Column| {
            let (source, _) = self.written_as.iter().find(|(_, name)| **name == column.name)?;
            Some(source.clone())
        };
        Definition {
            source_stream: [self.id.namespace.clone(), self.id.name.clone()],
            sync_mode: self.sync_mode,
            key: self.key.iter().map(String::as_str).map(in_files).collect(),
            cursor: self.cursor.iter().flat_map(Cursor::columns).map(in_files).collect(),
            filter: self.filter.as_ref().map(Filter::to_string),
            partition: self.file_partition().iter().map(PartitionField::to_string).collect(),
            columns: self
                .file_columns()
                .columns
                .iter()
                .map(|column| DefinedColumn {
                    name: column.name.clone(),
                    source: source_of(column),
                    column_type: column.column_type.to_string(),
                    identity: column.identity.clone(),
                    stored_as: column.stored_as.clone(),
                })
                .collect(),
            left_out: self.left_out.clone(),
            columns_made: self.columns_made,
        }
    }
}

impl Lookback {
    /// Reads `10m`, `90s`, `2h`, `1d` for dates and times, a whole number for numbers.
    fn parse(text: Option<&str>, column_type: &ColumnType) -> Result<Self> {
        let refuse = |text: &str, hint: &str| {
            Err(Error::new(ErrorKind::Config, format!("cursor_lookback \"{text}\" does not fit the cursor"))
                .hint(hint))
        };
        match column_type {
            ColumnType::Date | ColumnType::Timestamp | ColumnType::TimestampTz | ColumnType::Time => {
                let Some(text) = text else {
                    return Ok(Self::Microseconds(DEFAULT_LOOKBACK_MICROSECONDS));
                };
                let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
                let unit: i64 = match &text[digits.len()..] {
                    "us" => 1,
                    "ms" => 1_000,
                    "s" => 1_000_000,
                    "m" => 60_000_000,
                    "h" => 3_600_000_000,
                    "d" => 86_400_000_000,
                    _ if text == "0" => 0,
                    _ => return refuse(text, "write a time such as 90s, 10m, 2h or 1d"),
                };
                match digits.parse::<i64>().ok().filter(|n| *n >= 0).and_then(|n| n.checked_mul(unit)) {
                    Some(microseconds) => Ok(Self::Microseconds(microseconds)),
                    None => refuse(text, "write a time such as 90s, 10m, 2h or 1d"),
                }
            }
            ColumnType::Int8
            | ColumnType::Int16
            | ColumnType::Int32
            | ColumnType::Int64
            | ColumnType::UInt8
            | ColumnType::UInt16
            | ColumnType::UInt32
            | ColumnType::UInt64
            | ColumnType::Decimal { .. } => match text.unwrap_or("0").parse::<i64>() {
                Ok(units) if units >= 0 => Ok(Self::Units(units)),
                _ => refuse(text.unwrap_or_default(), "a numeric cursor takes a whole number"),
            },
            _ => match text {
                None | Some("0") => Ok(Self::None),
                Some(text) => refuse(text, "a text cursor has no distance: leave cursor_lookback out"),
            },
        }
    }
}
