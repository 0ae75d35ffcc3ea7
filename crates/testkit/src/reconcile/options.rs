//! What is compared with what.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// How the rows of a lake make a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All rows, as they are.
    FullRefresh,
    /// The last row of each key; without a key all versions of all rows.
    Incremental,
    /// The last row of each key that is no delete; without a key inserts minus deletes.
    Cdc,
}

/// A table's schema and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamName {
    /// The schema.
    pub namespace: String,
    /// The table.
    pub name: String,
}

impl StreamName {
    /// The directory of this stream below the destination's root, where no two streams' names
    /// collide: characters outside `[A-Za-z0-9_-]` and a leading `_` percent-encoded.
    pub fn directory(&self, root: &Path) -> PathBuf {
        root.join(encode(&self.namespace)).join(encode(&self.name))
    }
}

impl From<&str> for StreamName {
    /// `schema.table`, split at the first dot; `public` without one.
    fn from(text: &str) -> Self {
        let (namespace, name) = text.split_once('.').unwrap_or(("public", text));
        (namespace, name).into()
    }
}

impl From<(&str, &str)> for StreamName {
    fn from((namespace, name): (&str, &str)) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

fn encode(name: &str) -> String {
    let mut encoded = String::new();
    for (place, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || byte == b'-' || (byte == b'_' && place > 0);
        if plain {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// How to compare; each method returns the options with one thing set.
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) mode: Mode,
    pub(super) key: Option<Vec<String>>,
    pub(super) exclude: Vec<String>,
    pub(super) written_as: Vec<(String, String)>,
    pub(super) casts: Vec<(String, String)>,
    pub(super) expressions: Vec<(String, String)>,
    pub(super) filter: Option<String>,
    pub(super) directory: Option<PathBuf>,
}

impl Options {
    /// All columns of all rows, by the key that the catalog says the stream has in this mode.
    pub fn new(mode: Mode) -> Self {
        let (key, filter, directory) = (None, None, None);
        Self {
            mode,
            key,
            exclude: vec![],
            written_as: vec![],
            casts: vec![],
            expressions: vec![],
            filter,
            directory,
        }
    }

    /// A change stream.
    pub fn cdc() -> Self {
        Self::new(Mode::Cdc)
    }

    /// A full refresh.
    pub fn full_refresh() -> Self {
        Self::new(Mode::FullRefresh)
    }

    /// An incremental stream.
    pub fn incremental() -> Self {
        Self::new(Mode::Incremental)
    }

    /// The key of the log, instead of the catalog's; no columns: a stream without a key.
    pub fn key(mut self, columns: &[&str]) -> Self {
        self.key = Some(columns.iter().map(|&column| column.to_owned()).collect());
        self
    }

    /// A source column that the lake need not have.
    pub fn exclude(mut self, column: &str) -> Self {
        self.exclude.push(column.to_owned());
        self
    }

    /// What a source column is called in the lake; the last word counts.
    pub fn written_as(mut self, column: &str, name: &str) -> Self {
        self.written_as.push((column.to_owned(), name.to_owned()));
        self
    }

    pub(super) fn name_in_lake<'a>(&'a self, column: &'a str) -> &'a str {
        let found = self.written_as.iter().rfind(|(source, _)| source == column);
        found.map_or(column, |(_, name)| name)
    }

    /// Compares a column as values of this type on both sides, instead of the column's own: for
    /// overridden types, such as `numeric(18,2)` or `double precision`.
    pub fn compare_as(mut self, column: &str, sql_type: &str) -> Self {
        self.casts.push((column.to_owned(), sql_type.to_owned()));
        self
    }

    /// Expects what this SQL expression over the source's row says, instead of the column's value.
    pub fn expect(mut self, column: &str, expression: &str) -> Self {
        self.expressions.push((column.to_owned(), expression.to_owned()));
        self
    }

    /// Expects only the source's rows for which this SQL condition is true.
    pub fn filter(mut self, condition: &str) -> Self {
        self.filter = Some(condition.to_owned());
        self
    }

    /// The directory of the stream's files, where it does not follow from the table's name.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_no_character_that_a_file_system_or_a_glob_minds() {
        let name = StreamName::from(("Über", "_a.b\"c-1_"));
        assert_eq!(name.directory(Path::new("lake")), Path::new("lake/%C3%9Cber/%5Fa%2Eb%22c-1_"));
        assert_eq!(StreamName::from("public.orders"), StreamName::from("orders"));
    }
}
