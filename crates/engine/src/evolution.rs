//! What becomes of a stream's newest generation when its definition is no longer the same.

use std::collections::BTreeMap;

use lakeward_core::{
    Column, ColumnType, ConfiguredStream, Cursor, DefinedColumn, Definition, Error, ErrorKind, Meaning,
    OnSchemaChange, PartitionField, Result, Schema, StreamHead, keeps_values,
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

/// The stream as a generation has it, or as one behind it will whose files are to be read together with its own: with the
/// names that columns have in the files, and with columns that the source lost at the end, where they are null.
pub(crate) fn as_known(stream: &ConfiguredStream, before: &Definition) -> Result<ConfiguredStream> {
    let mut written_as = names_in_files(stream, before);
    let mut retired = Vec::new();
    for known in &before.columns {
        if written_as.values().any(|name| *name == known.name) {
            continue;
        }
        let mut column = Column::new(known.name.as_str(), known.column_type.parse()?);
        column.identity.clear();
        let lost =
            !known.identity.is_empty() && !stream.schema.columns.iter().any(|now| known.is_of(&now.name));
        if lost {
            column.identity.clone_from(&known.identity);
            written_as.entry(known.source_name().to_owned()).or_insert_with(|| known.name.clone());
        }
        retired.push(column);
    }
    written_as.retain(|source, name| source != name);
    Ok(ConfiguredStream { retired: Schema { columns: retired }, written_as, ..stream.clone() })
}

/// What every column of the source is called in the files: as it was, where files of before can be read as what it is
/// now, or rewritten; else by the first of `name`, `name__v2`, `name__v3`, … of which that is true, or that is new.
fn names_in_files(stream: &ConfiguredStream, before: &Definition) -> BTreeMap<String, String> {
    let columns = &stream.schema.columns;
    let mut names = BTreeMap::new();
    for column in columns {
        let same = |known: &&DefinedColumn| known.is_of(&column.name) && known.identity == column.identity;
        let known = before.columns.iter().find(same);
        if let Some(known) = known.filter(|known| reads_as(stream, before, known, column)) {
            names.insert(column.name.clone(), known.name.clone());
        }
    }
    for column in columns {
        if names.contains_key(&column.name) {
            continue;
        }
        let fits = |name: &String| {
            // Some engines do not tell names apart that differ only in case.
            let (plain, folded) = (*name == column.name, name.to_lowercase());
            let alike = |other: &str| other != name && other.to_lowercase() == folded;
            let others = !plain && columns.iter().any(|other| other.name == *name || alike(&other.name));
            let taken = others || names.values().any(|taken| taken == name || alike(taken));
            let known = before.columns.iter().find(|known| known.name == *name);
            !taken
                && !before.columns.iter().any(|known| alike(&known.name))
                && known.is_none_or(|known| reads_as(stream, before, known, column))
        };
        let later = (2..).map(|version: u32| format!("{}__v{version}", column.name));
        if let Some(name) = std::iter::once(column.name.clone()).chain(later).find(fits) {
            names.insert(column.name.clone(), name);
        }
    }
    names
}

/// The stream as the generation behind the one that readers see, whose files are kept as history: all of them have to be
/// read together ([`as_known`]). A type that only got wider is given to the history too when the generation is shown.
pub(crate) fn successor(stream: &ConfiguredStream, head: &StreamHead) -> Result<ConfiguredStream> {
    head.shown.as_ref().map_or_else(|| Ok(stream.clone()), |shown| as_known(stream, shown))
}

/// Whether what readers see of a stream is a log of its changes.
pub(crate) fn shows_changes(head: &StreamHead) -> bool {
    head.shown.as_ref().is_some_and(|shown| shown.sync_mode.follows_log())
}

/// What is said of columns that get another name in the files than they had; nothing where none does.
pub(crate) fn renamed_in_files(next: &ConfiguredStream, before: &Definition) -> String {
    let new = |(_, name): &(&String, &String)| !before.columns.iter().any(|known| known.name == **name);
    let names = next.written_as.iter().filter(new);
    let said: Vec<_> = names.map(|(source, name)| format!("{source:?} is written as {name:?}")).collect();
    if said.is_empty() { String::new() } else { format!("; from now on {}", said.join(", ")) }
}

/// Whether files that have a column as it was can be read, or rewritten, as it is now.
fn reads_as(stream: &ConfiguredStream, before: &Definition, known: &DefinedColumn, column: &Column) -> bool {
    if column.column_type.to_string() == known.column_type {
        return true;
    }
    // The names of partition directories are made of the values, which a rewritten file does not leave.
    let now = stream.partition.iter().any(|field| field.column == column.name);
    let partitions = now || fields(before).any(|field| field.column == known.name);
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
    let (key, cursor, partition) = at_source(before);
    for (what, same) in [
        ("the source stream", before.source_stream == now.source_stream),
        ("sync_mode", before.sync_mode == now.sync_mode),
        ("the cursor", cursor == stream.cursor.iter().flat_map(Cursor::columns).collect::<Vec<_>>()),
        ("the filter", before.filter == now.filter),
        ("the partition", partition == stream.partition),
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
        return Ok(Evolution::NewGeneration(format!("column \"{}\" is left out now", column.source_name())));
    }
    let columns = &stream.schema.columns;
    if let Some(column) = columns.iter().find(|column| before.left_out.contains(&column.identity)) {
        return Ok(Evolution::NewGeneration(format!("column \"{}\" is no longer left out", column.name)));
    }
    let felt = if key == stream.key {
        columns.iter().find_map(|column| felt_by_existing_rows(before, column, storage_changed))
    } else {
        Some("the key changed".to_owned())
    };
    // A column that is dropped hurts no row that stands, but where rows are known by all of their columns: one that is
    // deleted now no longer says what it had in this one. (A retired one was dropped before.)
    let unknown = before
        .columns
        .iter()
        .filter(|_| now.meaning() == Meaning::Multiset && !stream.insert_only)
        .find(|known| !known.stored_as.is_empty() && !columns.iter().any(|column| known.is_of(&column.name)))
        .map(|known| format!("column \"{}\" was dropped, and rows have no key", known.source_name()));
    let felt = felt.or_else(|| told_of_another(before, &now)).or(unknown);
    let added: Vec<String> = columns
        .iter()
        .filter(|column| !before.columns.iter().any(|known| known.is_of(&column.name)))
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

/// How a generation's files are laid out in directories.
fn fields(before: &Definition) -> impl Iterator<Item = PartitionField> {
    before.partition.iter().filter_map(|field| field.parse().ok())
}

/// Key, cursor and partition of a generation, by the names that the source has for their columns.
fn at_source(before: &Definition) -> (Vec<&str>, Vec<&str>, Vec<PartitionField>) {
    fn named<'a>(before: &'a Definition, columns: &'a [String]) -> Vec<&'a str> {
        columns.iter().map(|column| before.source_name(column)).collect()
    }
    let partition = fields(before).map(|field| PartitionField {
        column: before.source_name(&field.column).to_owned(),
        transform: field.transform,
    });
    (named(before, &before.key), named(before, &before.cursor), partition.collect())
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
    if let Some(known) = before.columns.iter().find(|known| known.is_of(name)) {
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
        return Some(format!("column \"{}\" was renamed to \"{name}\"", known.source_name()));
    }
    let filled = column.existing_default || column.generated || storage_changed;
    filled.then(|| format!("column \"{name}\" is new and existing rows may have a value in it"))
}
