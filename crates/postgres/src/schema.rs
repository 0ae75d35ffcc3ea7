//! Streams as this source describes them.

use std::collections::HashMap;

use lakeward_core::{
    Column, ColumnType, ConfiguredStream, ErrorKind, InsertsOnly, Result, Schema, Stream, StreamId, SyncMode,
};

use crate::catalog::{self, ColumnRow, RelationRow, Sizes};
use crate::connect::{Connection, Connector};
use crate::error::sqlstate;
use crate::mapping::{self, Mapped};
use crate::replication::{LogKey, log_keys};
use crate::sql;

/// A stream with what its readers need to know and its users do not.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) stream: Stream,
    pub(crate) relation: RelationRow,
    /// In the order of the stream's columns.
    pub(crate) columns: Vec<(ColumnRow, Mapped)>,
}

impl Described {
    /// The stream's columns of which changes have no value.
    pub(crate) fn unlogged(&self, stream: &ConfiguredStream) -> Vec<&str> {
        let unlogged = self.columns.iter().filter(|(column, _)| column.unlogged);
        let names = unlogged.map(|(column, _)| column.name.as_str());
        names.filter(|name| stream.schema.column(name).is_some()).collect()
    }
}

/// Describes streams for their user: with sizes, and types suggested from statistics.
pub(crate) async fn discover(connector: &Connector, ids: &[StreamId]) -> Result<Vec<Described>> {
    let connection = connector.connect().await?;
    connection.run(sql::AT_ONE_MOMENT).await?;
    let mut described = match describe_sized(connector, &connection, ids, Sizes::Files).await {
        // Some table is locked by DDL: discovery does without exact sizes rather than wait for it.
        Err(error) if error.kind() == ErrorKind::Connection && sqlstate(&error) == Some("55P03") => {
            connection.run("ROLLBACK").await?;
            connection.run(sql::AT_ONE_MOMENT).await?;
            describe_sized(connector, &connection, ids, Sizes::Planner).await?
        }
        other => other?,
    };
    if connector.settings().unconstrained_numeric == ColumnType::Text {
        suggest(&connection, &mut described).await?;
    }
    connection.run("COMMIT").await?;
    connector.rest(connection);
    Ok(described)
}

/// Describes streams in a handful of queries however many are named. One that is gone is left out.
///
/// The connection is in a transaction that sees one moment ([`sql::AT_ONE_MOMENT`]): a table that is dropped and made
/// anew between two queries would seem to have no columns and no key.
pub(crate) async fn describe(
    connector: &Connector,
    connection: &Connection,
    ids: &[StreamId],
) -> Result<Vec<Described>> {
    describe_sized(connector, connection, ids, Sizes::Planner).await
}

async fn describe_sized(
    connector: &Connector,
    connection: &Connection,
    ids: &[StreamId],
    sizes: Sizes,
) -> Result<Vec<Described>> {
    let version = connector.version().await?;
    let mut relations = catalog::relations(connection, ids, sizes).await?;
    let order: HashMap<&StreamId, usize> = ids.iter().enumerate().map(|(n, id)| (id, n)).collect();
    relations.sort_by_key(|relation| order.get(&relation.id).copied());
    let oids: Vec<u32> = relations.iter().map(|relation| relation.oid).collect();
    let mut columns = catalog::columns(connection, version, &oids).await?;
    let types =
        catalog::types(connector, connection, columns.values().flatten().map(|column| column.type_oid))
            .await?;
    let mut keys = catalog::keys(connection, version, &oids).await?;

    let mut log_keys = log_keys(connection, version, &oids, |oid| {
        let primary = keys.get(&oid).into_iter().flatten().find(|key| key.primary);
        primary.map(|key| key.columns.clone()).unwrap_or_default()
    })
    .await?;

    let unconstrained = &connector.settings().unconstrained_numeric;
    let mut result = Vec::with_capacity(relations.len());
    for relation in relations {
        let columns: Vec<(ColumnRow, Mapped)> = columns
            .remove(&relation.oid)
            .unwrap_or_default()
            .into_iter()
            .map(|column| {
                let mapped = mapping::map(&types, column.type_oid, column.typmod, unconstrained);
                (column, mapped)
            })
            .collect();
        let keys = keys.remove(&relation.oid).unwrap_or_default();
        let unique = |name: &str| keys.iter().any(|key| key.columns.len() == 1 && key.columns[0] == name);
        let schema = Schema {
            columns: columns
                .iter()
                .map(|(column, mapped)| Column {
                    name: column.name.clone(),
                    identity: column.attnum.to_string(),
                    column_type: mapped.column_type.clone(),
                    source_type: column.source_type.clone(),
                    stored_as: match column.unlogged {
                        // Changes had no value of it: one that is an ordinary column later is another.
                        true => format!("computed {}", column.type_oid),
                        false => mapping::stored_with_parts(&types, column.type_oid, column.typmod),
                    },
                    nullable: !column.not_null,
                    generated: column.generated,
                    unlogged: column.unlogged,
                    existing_default: column.missing.is_some() || column.default_in_partitions,
                    unique: unique(&column.name),
                    comment: column.comment.clone(),
                    suggested_type: None,
                })
                .collect(),
        };
        let primary_key =
            keys.iter().find(|key| key.primary).map(|key| key.columns.clone()).unwrap_or_default();
        let cursor_fields = cursor_fields(&columns, &primary_key);
        // full_refresh comes first: an incremental stream needs a cursor that only the user can vouch for.
        let mut sync_modes = vec![SyncMode::FullRefresh];
        if !cursor_fields.is_empty() {
            sync_modes.push(SyncMode::Incremental);
        }
        let (log_key, inserts_only, unlogged) = match log_keys.remove(&relation.oid) {
            Some(LogKey::Columns(columns)) => (Some(columns), None, None),
            Some(LogKey::Unfit { why, remedy }) => (None, Some(InsertsOnly { why, remedy }), None),
            Some(LogKey::Unlogged(why)) => (None, None, Some(why)),
            None => (None, None, Some("only tables have changes that can be followed".to_owned())),
        };
        if log_key.is_some() {
            sync_modes.extend([SyncMode::Cdc, SyncMode::StrictCdc]);
        }
        let stream = Stream {
            id: relation.id.clone(),
            schema,
            primary_key,
            log_key,
            inserts_only,
            unlogged,
            cursor_fields,
            sync_modes,
            estimated_rows: relation.rows,
            estimated_bytes: relation.bytes,
            comment: relation.comment.clone(),
            columns_made: Some(relation.columns_made.into()),
        };
        result.push(Described { stream, relation, columns });
    }
    Ok(result)
}

/// Suggests decimals for numerics without precision, from the statistics that the role may see.
async fn suggest(connection: &Connection, described: &mut [Described]) -> Result<()> {
    let wanted: Vec<(&StreamId, &str)> = described
        .iter()
        .flat_map(|stream| {
            let numerics = stream.columns.iter().filter(|(_, mapped)| mapped.unconstrained);
            numerics.map(|(column, _)| (&stream.relation.id, column.name.as_str()))
        })
        .collect();
    let statistics = catalog::statistics(connection, &wanted).await?;
    for stream in described {
        for column in &mut stream.stream.schema.columns {
            let key = (stream.relation.id.clone(), column.name.clone());
            if let Some(texts) = statistics.get(&key) {
                column.suggested_type = mapping::suggest_decimal(texts.iter().map(String::as_str));
            }
        }
    }
    Ok(())
}

/// Columns that can serve as a cursor, the likeliest first: times of change, then the key, then the rest, with
/// text (whose order is the collation's) last.
fn cursor_fields(columns: &[(ColumnRow, Mapped)], key: &[String]) -> Vec<String> {
    let rank = |column: &ColumnRow, mapped: &Mapped| {
        let name = column.name.to_lowercase();
        let time = matches!(mapped.column_type, ColumnType::Timestamp | ColumnType::TimestampTz);
        let changed = ["updated", "modified", "changed"].iter().any(|word| name.contains(word));
        match () {
            () if time && changed => 0,
            () if time && name.ends_with("_at") => 1,
            () if key.len() == 1 && key[0] == column.name => 2,
            () if mapped.column_type == ColumnType::Text && !mapped.unconstrained => 4,
            () => 3,
        }
    };
    let mut ranked: Vec<(i32, &str)> = columns
        .iter()
        .filter(|(_, mapped)| mapped.ordered)
        .map(|(column, mapped)| (rank(column, mapped), column.name.as_str()))
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, name)| name.to_owned()).collect()
}
