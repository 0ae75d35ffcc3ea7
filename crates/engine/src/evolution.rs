//! What becomes of a stream's newest generation when its definition is no longer the same.

use lakeward_core::{
    Column, ColumnType, ConfiguredStream, DefinedColumn, Definition, Error, ErrorKind, Meaning,
    OnSchemaChange, PartitionField, Result, Schema, keeps_values,
};

/// The answer.
#[derive(Debug, PartialEq)]
pub(crate) enum Evolution {
    /// The generation goes on as it is.
    Unchanged,
    /// The generation goes on; files written from now on have other columns too.
    Widened,
    /// Rows that are there already would feel the change: all are read again into a new generation.
    NewGeneration(String),
}

/// Adds the columns that the generation has and the source lost: they stay at the end of the files, and are null.
pub(crate) fn with_retired_columns(
    stream: &ConfiguredStream,
    before: &Definition,
) -> Result<ConfiguredStream> {
    let mut columns = Vec::new();
    for column in before.columns.iter().filter(|column| stream.schema.column(&column.name).is_none()) {
        let column_type = column.column_type.parse()?;
        columns.push(Column {
            identity: column.identity.clone(),
            ..Column::new(column.name.as_str(), column_type)
        });
    }
    Ok(ConfiguredStream { retired: Schema { columns }, ..stream.clone() })
}

/// The stream as a new generation behind this one, whose files are kept as history: all of them have to be read
/// together, so columns that the source lost stay. A type that only got wider is given to the history too when the
/// generation is shown; any other change of a type replaces it.
pub(crate) fn successor(
    stream: &ConfiguredStream,
    before: &Definition,
    unfinished: bool,
) -> Result<ConfiguredStream> {
    let conflict = before.columns.iter().any(|known| {
        let column = stream.schema.column(&known.name);
        column.is_some_and(|column| !reads_as(stream, before, known, column))
    });
    // What an unfinished generation would have replaced says nothing of what is there.
    let replaces = before.replaces_history || !before.sync_mode.follows_log();
    if conflict || (unfinished && replaces) {
        return Ok(ConfiguredStream { replaces_history: true, ..stream.clone() });
    }
    with_retired_columns(stream, before)
}

/// Whether files that have a column as it was can be read, or rewritten, as it is now.
fn reads_as(stream: &ConfiguredStream, before: &Definition, known: &DefinedColumn, column: &Column) -> bool {
    if column.column_type.to_string() == known.column_type {
        return true;
    }
    // The names of partition directories are made of the values, which a rewritten file does not leave.
    let of_before = before.partition.iter().filter_map(|field| field.parse::<PartitionField>().ok());
    let mut fields = stream.partition.iter().cloned().chain(of_before);
    let partitions = fields.any(|field| field.column == known.name);
    let known = known.column_type.parse::<ColumnType>();
    !partitions && known.is_ok_and(|known| known.widens_to(&column.column_type))
}

/// Compares what a generation is with what the stream is now, under the stream's policy.
///
/// `storage_changed` says whether the source rewrote the stream's storage since, as an `ADD COLUMN` with a
/// volatile default does.
///
/// # Errors
/// `Schema` where columns changed and the policy is to fail.
pub(crate) fn evolution(
    before: &Definition,
    stream: &ConfiguredStream,
    storage_changed: bool,
) -> Result<Evolution> {
    let now = stream.definition();
    for (what, same) in [
        ("the source stream", before.source_stream == now.source_stream),
        ("sync_mode", before.sync_mode == now.sync_mode),
        ("the cursor", before.cursor == now.cursor),
        ("the filter", before.filter == now.filter),
        ("the partition", before.partition == now.partition),
    ] {
        if !same {
            return Ok(Evolution::NewGeneration(format!("{what} changed")));
        }
    }
    // What the user takes in or leaves out holds for all rows; only what the source drops stays as it was.
    // What was left out before may still be a column of the history.
    let newly_left_out = |known: &&DefinedColumn| {
        stream.left_out.contains(&known.identity) && !before.left_out.contains(&known.identity)
    };
    if let Some(column) = before.columns.iter().find(newly_left_out) {
        return Ok(Evolution::NewGeneration(format!("column \"{}\" is left out now", column.name)));
    }
    if let Some(column) =
        stream.schema.columns.iter().find(|column| before.left_out.contains(&column.identity))
    {
        return Ok(Evolution::NewGeneration(format!("column \"{}\" is no longer left out", column.name)));
    }
    let felt = if before.key == now.key {
        stream.schema.columns.iter().find_map(|column| felt_by_existing_rows(before, column, storage_changed))
    } else {
        Some("the key changed".to_owned())
    };
    // A column that is dropped hurts no row that stands, but where rows are known by all of their columns: one that is
    // deleted now no longer says what it had in this one. (A retired one was dropped before.)
    let unknown = before
        .columns
        .iter()
        .filter(|_| now.meaning() == Meaning::Multiset && !stream.insert_only)
        .find(|known| !known.stored_as.is_empty() && stream.schema.column(&known.name).is_none())
        .map(|known| format!("column \"{}\" was dropped, and rows have no key", known.name));
    let felt = felt.or_else(|| told_of_another(before, &now)).or(unknown);
    let added: Vec<String> = stream
        .schema
        .columns
        .iter()
        .filter(|column| !before.columns.iter().any(|known| known.name == column.name))
        .map(|column| format!("{:?}", column.name))
        .collect();
    // That a new column is left out has to be known when it is taken in later.
    let left_out = stream.left_out.iter().any(|identity| !before.left_out.contains(identity));
    let quiet = match (added.is_empty(), left_out) {
        (true, false) => Evolution::Unchanged,
        _ => Evolution::Widened,
    };
    let added = (!added.is_empty()).then(|| format!("columns were added: {}", added.join(", ")));
    let Some(what) = felt.clone().or(added) else { return Ok(quiet) };
    match stream.on_schema_change {
        OnSchemaChange::Fail => Err(Error::new(ErrorKind::Schema, "the stream's columns changed")
            .at("stream", &stream.id)
            .at("change", what)
            .hint("set on_schema_change to evolve or resnapshot, or clear the stream")),
        OnSchemaChange::Resnapshot => Ok(Evolution::NewGeneration(what)),
        OnSchemaChange::Evolve => Ok(felt.map_or(quiet, Evolution::NewGeneration)),
    }
}

/// Why what the log says of an added column may be another one's: one of its name that came and went before it.
fn told_of_another(before: &Definition, now: &Definition) -> Option<String> {
    let known = |identity: &String| {
        before.columns.iter().any(|column| column.identity == *identity) || before.left_out.contains(identity)
    };
    let added: Vec<&DefinedColumn> = now.columns.iter().filter(|column| !known(&column.identity)).collect();
    let new = added.len() + now.left_out.iter().filter(|identity| !known(identity)).count();
    let made = now.columns_made?.saturating_sub(before.columns_made?);
    let gone = now.sync_mode.follows_log() && made as usize > new;
    let column = added.first().filter(|_| gone)?;
    Some(format!(
        "column \"{}\" is new, and others came and went meanwhile that may have borne its name",
        column.name
    ))
}

/// Why rows that were read before would read differently now because of this column.
fn felt_by_existing_rows(before: &Definition, column: &Column, storage_changed: bool) -> Option<String> {
    let name = &column.name;
    if let Some(known) = before.columns.iter().find(|known| known.name == *name) {
        let column_type = column.column_type.to_string();
        return if known.column_type != column_type {
            Some(format!("column \"{name}\" was {}, is {column_type}", known.column_type))
        } else if known.identity != column.identity {
            Some(format!("column \"{name}\" was dropped and added again"))
        } else if !known.stored_as.is_empty() && !keeps_values(&known.stored_as, &column.stored_as) {
            Some(format!("the type of column \"{name}\" at the source changed, and values may have with it"))
        } else {
            None
        };
    }
    if let Some(known) = before.columns.iter().find(|known| known.identity == column.identity) {
        return Some(format!("column \"{}\" was renamed to \"{name}\"", known.name));
    }
    let filled = column.existing_default || column.generated || storage_changed;
    filled.then(|| format!("column \"{name}\" is new and existing rows may have a value in it"))
}
