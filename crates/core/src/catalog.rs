//! streams.json: what the source offers, and what the user chose of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::nearest;
use crate::{
    Error, ErrorKind, NullCursor, OnBadValue, OnPartitionChange, OnSchemaChange, Result, Stream, StreamId,
    SyncMode,
};

/// The contents of streams.json.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// What the user chose, by namespace.
    #[serde(default)]
    pub selected_streams: BTreeMap<String, Vec<Selection>>,
    /// What the source offers, as `discover` last saw it.
    #[serde(default)]
    pub streams: Vec<CatalogEntry>,
}

/// One offered stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CatalogEntry {
    /// The stream.
    pub stream: DiscoveredStream,
}

/// A stream as `discover` saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiscoveredStream {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its columns.
    pub type_schema: TypeSchema,
    /// The primary key.
    #[serde(default)]
    pub source_defined_primary_key: Vec<String>,
    /// Columns that can serve as a cursor.
    #[serde(default)]
    pub available_cursor_fields: Vec<String>,
    /// Modes that it offers.
    pub supported_sync_modes: Vec<SyncMode>,
    /// The mode that is used where the user names none.
    pub sync_mode: SyncMode,
    /// The source's estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_rows: Option<u64>,
    /// Bytes as stored at the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_bytes: Option<u64>,
    /// The source's comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Columns by name, in the source's order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TypeSchema {
    /// Values are [`DiscoveredColumn`]s.
    #[schemars(with = "BTreeMap<String, DiscoveredColumn>")]
    pub properties: Map<String, Value>,
}

impl TypeSchema {
    /// The columns as they are known here: one that is written otherwise is left out.
    pub fn columns(&self) -> impl Iterator<Item = (&str, DiscoveredColumn)> {
        self.properties
            .iter()
            .filter_map(|(name, column)| Some((name.as_str(), serde_json::from_value(column.clone()).ok()?)))
    }
}

/// A column as `discover` saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiscoveredColumn {
    /// The type at the destination.
    #[serde(rename = "type")]
    pub column_type: String,
    /// The source's type.
    pub source_type: String,
    /// Whether the source allows null.
    pub nullable: bool,
    /// Whether the source computes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub generated: bool,
    /// Whether changes have no value of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unlogged: bool,
    /// The source's comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// A narrower type that fits the statistics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggested_type: Option<String>,
}

/// What the user chose for one stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// The stream's name within the namespace.
    pub stream_name: String,
    /// How it is replicated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_mode: Option<SyncMode>,
    /// For `incremental`: a column, or `primary:fallback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor_field: Option<String>,
    /// How far behind the greatest cursor each pass begins: `10m` for times, a whole number for numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor_lookback: Option<String>,
    /// The stream's name at the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_table: Option<String>,
    /// Partition fields: `column`, or `year|month|day|hour(column)`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition: Vec<String>,
    /// Whether all versions of a row are kept (the default where the destination can).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append_mode: Option<bool>,
    /// Which columns, as which types.
    #[serde(default, skip_serializing_if = "ColumnSelection::is_default")]
    pub columns: ColumnSelection,
    /// Which rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The column whose ranges chunks are to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_column: Option<String>,
    /// In a change stream: only inserts are followed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insert_only: bool,
    /// Values that do not fit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_bad_value: OnBadValue,
    /// Columns that change.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_schema_change: OnSchemaChange,
    /// Partitions that change.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_partition_change: OnPartitionChange,
    /// Rows whose cursor is null.
    #[serde(default, skip_serializing_if = "is_default")]
    pub null_cursor: NullCursor,
    /// The columns that `discover` had seen when the user chose; filled from the catalog, not written.
    #[serde(skip)]
    pub known_columns: Vec<String>,
}

/// Which columns of a stream, as which types.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColumnSelection {
    /// Columns that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Types that replace the default ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<String, String>,
    /// What happens to columns that appear later.
    #[serde(default, skip_serializing_if = "is_default")]
    pub new_columns: NewColumns,
}

impl ColumnSelection {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What happens to columns that appear at the source after `discover`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NewColumns {
    /// They are replicated.
    #[default]
    Include,
    /// They are not, until `discover` has been run again.
    Ignore,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl From<&Stream> for DiscoveredStream {
    fn from(stream: &Stream) -> Self {
        let properties = stream
            .schema
            .columns
            .iter()
            .map(|column| {
                let discovered = DiscoveredColumn {
                    column_type: column.column_type.to_string(),
                    source_type: column.source_type.clone(),
                    nullable: column.nullable,
                    generated: column.generated,
                    unlogged: column.unlogged,
                    comment: column.comment.clone(),
                    suggested_type: column.suggested_type.as_ref().map(ToString::to_string),
                };
                // Strings and bools alone: this cannot fail.
                (column.name.clone(), serde_json::to_value(discovered).unwrap_or(Value::Null))
            })
            .collect();
        Self {
            namespace: stream.id.namespace.clone(),
            name: stream.id.name.clone(),
            type_schema: TypeSchema { properties },
            source_defined_primary_key: stream.primary_key.clone(),
            available_cursor_fields: stream.cursor_fields.clone(),
            supported_sync_modes: stream.sync_modes.clone(),
            sync_mode: stream.sync_modes.first().copied().unwrap_or(SyncMode::FullRefresh),
            estimated_rows: stream.estimated_rows,
            estimated_bytes: stream.estimated_bytes,
            comment: stream.comment.clone(),
        }
    }
}

impl DiscoveredStream {
    /// Its name.
    pub fn id(&self) -> StreamId {
        StreamId::new(&self.namespace, &self.name)
    }
}

impl Catalog {
    /// Takes a stream out of the selected ones.
    pub fn deselect(&mut self, stream: &StreamId) {
        if let Some(selections) = self.selected_streams.get_mut(&stream.namespace) {
            selections.retain(|selection| selection.stream_name != stream.name);
        }
    }

    /// The JSON Schema of streams.json, as kept in `state/`.
    pub fn json_schema() -> Value {
        schemars::schema_for!(Self).to_value()
    }

    /// The selected streams, each with the columns that `discover` had seen of it.
    ///
    /// # Errors
    /// `Config` where a stream is selected twice.
    pub fn selections(&self) -> Result<Vec<(StreamId, Selection)>> {
        let mut result: Vec<(StreamId, Selection)> = Vec::new();
        for (namespace, selections) in &self.selected_streams {
            for selection in selections {
                let id = StreamId::new(namespace, &selection.stream_name);
                if result.iter().any(|(other, _)| *other == id) {
                    return Err(Error::new(ErrorKind::Config, "a stream is selected twice")
                        .at("stream", &id)
                        .hint("remove one of its entries from selected_streams"));
                }
                let mut selection = selection.clone();
                if let Some(entry) = self.streams.iter().find(|entry| entry.stream.id() == id) {
                    selection.known_columns = entry.stream.type_schema.properties.keys().cloned().collect();
                }
                result.push((id, selection));
            }
        }
        Ok(result)
    }

    /// Merges what the source offers now into an earlier catalog, and says what changed, a line each.
    ///
    /// The user's choices are kept; a stream that was never seen before is offered and, where `select_new`,
    /// selected with the source's default mode.
    pub fn merge(earlier: Option<Catalog>, streams: &[Stream], select_new: bool) -> (Catalog, Vec<String>) {
        let mut changes = Vec::new();
        let (mut selected_streams, old) = match earlier {
            Some(catalog) => (catalog.selected_streams, catalog.streams),
            None => (BTreeMap::new(), Vec::new()),
        };
        let mut offered = Vec::with_capacity(streams.len());
        let by_id: BTreeMap<StreamId, &DiscoveredStream> =
            old.iter().map(|entry| (entry.stream.id(), &entry.stream)).collect();
        for stream in streams {
            let now = DiscoveredStream::from(stream);
            match by_id.get(&stream.id) {
                Some(before) => describe_changes(before, &now, &mut changes),
                None => {
                    changes.push(format!("{}: new", stream.id));
                    let list: &mut Vec<Selection> =
                        selected_streams.entry(now.namespace.clone()).or_default();
                    if select_new && !list.iter().any(|selection| selection.stream_name == now.name) {
                        list.push(Selection {
                            stream_name: now.name.clone(),
                            sync_mode: Some(now.sync_mode),
                            ..Selection::default()
                        });
                    }
                }
            }
            offered.push(CatalogEntry { stream: now });
        }
        for entry in &old {
            let id = entry.stream.id();
            if !streams.iter().any(|stream| stream.id == id) {
                changes.push(format!("{id}: gone from the source"));
            }
        }
        selected_streams.retain(|_, list| !list.is_empty());
        (Catalog { selected_streams, streams: offered }, changes)
    }

    /// The offered stream whose name a mistyped one most likely meant.
    pub fn nearest_stream(&self, name: &str) -> Option<String> {
        let names: Vec<String> = self.streams.iter().map(|entry| entry.stream.id().to_string()).collect();
        nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
    }
}

fn describe_changes(before: &DiscoveredStream, now: &DiscoveredStream, changes: &mut Vec<String>) {
    let id = now.id();
    let (old, new) = (&before.type_schema.properties, &now.type_schema.properties);
    for (name, column) in new {
        match old.get(name) {
            None => changes.push(format!("{id}: column \"{name}\" is new")),
            Some(earlier) if earlier.get("source_type") != column.get("source_type") => {
                let show = |value: &Value| {
                    value.get("source_type").and_then(Value::as_str).unwrap_or("?").to_owned()
                };
                changes.push(format!("{id}: column \"{name}\" was {}, is {}", show(earlier), show(column)));
            }
            Some(_) => {}
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        changes.push(format!("{id}: column \"{name}\" is gone"));
    }
    if before.source_defined_primary_key != now.source_defined_primary_key {
        changes.push(format!("{id}: the primary key changed"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Column, ColumnType, Schema};

    fn stream(name: &str, columns: &[&str]) -> Stream {
        Stream {
            id: StreamId::new("public", name),
            schema: Schema {
                columns: columns
                    .iter()
                    .map(|name| Column {
                        source_type: "bigint".to_owned(),
                        ..Column::new(*name, ColumnType::Int64)
                    })
                    .collect(),
            },
            primary_key: vec![],
            log_key: None,
            inserts_only: None,
            unlogged: None,
            cursor_fields: vec![],
            sync_modes: vec![SyncMode::FullRefresh],
            estimated_rows: None,
            estimated_bytes: None,
            comment: None,
            columns_made: None,
        }
    }

    #[test]
    fn merging_keeps_the_users_choices_and_says_what_changed() {
        let (mut catalog, _) = Catalog::merge(None, &[stream("a", &["x", "y"]), stream("b", &["x"])], true);
        catalog.selected_streams.get_mut("public").unwrap()[0].filter = Some("x > 1".to_owned());
        let (merged, changes) =
            Catalog::merge(Some(catalog), &[stream("a", &["x", "z"]), stream("c", &["x"])], true);
        assert_eq!(merged.selected_streams["public"][0].filter.as_deref(), Some("x > 1"));
        assert_eq!(
            changes,
            [
                "public.a: column \"z\" is new",
                "public.a: column \"y\" is gone",
                "public.c: new",
                "public.b: gone from the source"
            ]
        );
    }

    #[test]
    fn a_stream_that_the_user_removed_is_not_selected_again() {
        let (mut catalog, _) = Catalog::merge(None, &[stream("a", &["x"])], true);
        catalog.selected_streams.clear();
        let (merged, changes) = Catalog::merge(Some(catalog), &[stream("a", &["x"])], true);
        assert!(merged.selected_streams.is_empty());
        assert!(changes.is_empty());
    }
}
