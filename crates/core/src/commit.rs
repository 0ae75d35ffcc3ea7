//! What a commit says, and what a stream's commits amount to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Chunk, DoneChunk, Fingerprint, Position, StreamId, SyncMode};

/// What makes a generation one thing. Where any of it changes in a way that existing rows would feel, a new
/// generation begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// Namespace and name of the stream at the source: at the destination it may be called otherwise.
    pub source_stream: [String; 2],
    /// The stream's mode.
    pub sync_mode: SyncMode,
    /// The key's columns; empty where rows have none.
    pub key: Vec<String>,
    /// Primary and fallback cursor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cursor: Vec<String>,
    /// The row filter, as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Partition fields, as written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition: Vec<String>,
    /// Every column that files of the generation have, in file order. Columns that the source dropped stay.
    pub columns: Vec<DefinedColumn>,
    /// Columns that the source has and the user leaves out, by [`Column::identity`](crate::Column::identity): a
    /// column that is taken in later was there already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// How many columns the source had ever given the stream: of those that came and went since, the log has values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns_made: Option<u32>,
}

/// What the rows of a stream's log amount to, once those before its last `t` are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Every row stands.
    AllRows,
    /// The last row of each key, unless it is a delete.
    LastOfKey,
    /// Every row stands; a delete takes one equal row away.
    Multiset,
}

impl Definition {
    /// The source's name for a column that has this one in the files.
    pub fn source_name<'a>(&'a self, column: &'a str) -> &'a str {
        let known = self.columns.iter().find(|known| known.name == column);
        known.map_or(column, DefinedColumn::source_name)
    }

    /// What its rows amount to.
    pub fn meaning(&self) -> Meaning {
        match (self.sync_mode, self.key.is_empty()) {
            (SyncMode::FullRefresh, _) | (SyncMode::Incremental, true) => Meaning::AllRows,
            (_, false) => Meaning::LastOfKey,
            (SyncMode::Cdc | SyncMode::StrictCdc, true) => Meaning::Multiset,
        }
    }
}

/// A column of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinedColumn {
    /// Its name in the files.
    pub name: String,
    /// The source's name for it, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Its type's name ([`ColumnType`](crate::ColumnType)).
    #[serde(rename = "type")]
    pub column_type: String,
    /// What the source keeps when it is renamed ([`Column::identity`](crate::Column::identity)). Empty where another
    /// column of the files has taken its place, because the source's got another type.
    pub identity: String,
    /// What its values are at the source ([`Column::stored_as`](crate::Column::stored_as)); empty where the source had
    /// lost it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stored_as: String,
}

impl DefinedColumn {
    /// The source's name for it.
    pub fn source_name(&self) -> &str {
        self.source.as_deref().unwrap_or(&self.name)
    }

    /// Whether it has what a column of that name at the source has, or had before the source lost it.
    pub fn is_of(&self, column: &str) -> bool {
        !self.identity.is_empty() && self.source_name() == column
    }
}

/// How far a stream has come, as committed with its data.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    /// The position in the source's log.
    pub position: Option<Position>,
    /// The greatest cursor read; `None` inside where no row had one.
    pub cursor: Option<CursorState>,
    /// The number of the incremental pass; the backfill is pass 0.
    pub pass: u64,
}

/// A cursor: a column and the greatest value that was read of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorState {
    /// The primary cursor column.
    pub column: String,
    /// The value, as text in the source's canonical form.
    pub value: String,
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// Rows.
    Data,
    /// Keys of rows to delete.
    EqualityDeletes,
    /// Places of rows to delete.
    PositionDeletes,
}

/// A finished file of a unit, written and synced but not committed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WrittenFile {
    /// Where the destination left it, in the destination's own terms.
    pub staged: String,
    /// What it holds.
    pub kind: FileKind,
    /// Directory name and value of each partition field, in order; `None` for null.
    pub partition: Vec<(String, Option<String>)>,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 of the contents, hex.
    pub sha256: String,
}

/// A file that takes the place of a committed one: the same rows, in the types that a column has now.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewritten {
    /// The committed file, in the destination's own terms.
    pub replaces: String,
    /// What it becomes.
    pub file: WrittenFile,
}

/// The beginning of a generation, or the resumption of its backfill.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenStep {
    /// What the generation is.
    pub definition: Definition,
    /// What its chunks depend on.
    pub fingerprint: Fingerprint,
    /// The snapshot under which it is read from now on.
    pub snapshot: Value,
    /// The whole plan. A committed chunk whose number is not in it is dropped.
    pub plan: Vec<Chunk>,
    /// Whether the backfill begins or goes on: change files of the open generation are then dropped, all being
    /// older than the snapshot. `false` only widens the schema of a generation.
    pub backfill: bool,
}

impl OpenStep {
    /// A generation that goes on, as something else than it was: no row of it is read for that.
    pub fn redefined(definition: Definition, fingerprint: Fingerprint, snapshot: Value) -> Self {
        Self { definition, fingerprint, snapshot, plan: Vec::new(), backfill: false }
    }
}

/// How a generation becomes visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwapStep {
    /// The generation before is replaced.
    Replace,
    /// The generation before stays as history, ended by a `t` row.
    KeepHistory,
}

/// One atomic step of one stream. What is `None` or empty is not part of it; everything a record must repeat
/// from the one before is the destination's to repeat.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamCommit {
    /// The stream.
    pub stream: StreamId,
    /// The generation it belongs to.
    pub generation: u32,
    /// The unit's name: `backfill/<stream>/<generation>/<chunk>`, `incremental/<stream>/<pass>` and so on.
    pub unit: String,
    /// Begins or resumes the generation.
    pub open: Option<OpenStep>,
    /// A chunk that these files are the whole of; files committed for it before are replaced.
    pub chunk: Option<(u32, DoneChunk)>,
    /// Files of the unit.
    pub files: Vec<WrittenFile>,
    /// Sets position, cursor and pass. Only an open, or change and incremental data, do.
    pub progress: Option<Progress>,
    /// The window of an incremental pass, whole, replacing the one before.
    pub window: Option<Vec<u8>>,
    /// Makes the generation visible.
    pub swap: Option<SwapStep>,
    /// Files of the history that a swap keeps, in the types of the generation that it shows.
    pub rewritten: Vec<Rewritten>,
    /// The global position of this moment.
    pub global: Option<Position>,
}

impl StreamCommit {
    /// A commit of a unit that does nothing yet.
    pub fn new(stream: StreamId, generation: u32, unit: String) -> Self {
        Self {
            stream,
            generation,
            unit,
            open: None,
            chunk: None,
            files: Vec::new(),
            progress: None,
            window: None,
            swap: None,
            rewritten: Vec::new(),
            global: None,
        }
    }

    /// The name of a backfill chunk's unit.
    pub fn backfill_unit(stream: &StreamId, generation: u32, chunk: u32) -> String {
        format!("backfill/{stream}/{generation}/{chunk}")
    }
}

/// A window side file that a commit names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowRef {
    /// Its place at the destination.
    pub path: String,
    /// SHA-256 of the contents, hex.
    pub sha256: String,
}

/// A generation whose backfill is not complete; nothing of it is visible.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenGeneration {
    /// The whole plan.
    pub plan: Vec<Chunk>,
    /// Chunks that stand committed, by number.
    pub done: BTreeMap<u32, DoneChunk>,
}

/// What the commits of a stream amount to. Everything that the state keeps of a stream is in it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StreamHead {
    /// The number of the last commit; 0 where there is none.
    pub commit: u64,
    /// The pipeline that made it; empty where there is none.
    pub pipeline: String,
    /// The newest generation, hidden or visible; 0 where there is none.
    pub generation: u32,
    /// The generation that readers see; `None` where there is none yet.
    pub visible: Option<u32>,
    /// The newest generation's backfill, until its swap.
    pub open: Option<OpenGeneration>,
    /// What the newest generation is.
    pub definition: Option<Definition>,
    /// What the generation is that readers see.
    pub shown: Option<Definition>,
    /// What the newest generation's chunks depend on.
    pub fingerprint: Option<Fingerprint>,
    /// Its progress.
    pub progress: Progress,
    /// Its window.
    pub window: Option<WindowRef>,
    /// The greatest global position that any commit carries.
    pub global: Option<Position>,
    /// Rows that all its committed data files hold, those of the open generation included.
    pub rows: u64,
}
