//! What a stream's records amount to: a pure function of the log.

use std::collections::BTreeMap;

use lakeward_core::{
    Chunk, CursorState, Definition, DoneChunk, FileKind, Fingerprint, OpenGeneration, Position, Progress,
    SourceIdentity, StreamHead, SwapStep,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::record::{FileFacts, Record, StreamName, Swap, Window};

/// The log so far. As a checkpoint it stands in a record, so its JSON is part of that format.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fold {
    /// The number of the last record; 0 where there is none.
    pub(crate) number: u64,
    pub(crate) term: u64,
    pub(crate) run: String,
    pub(crate) pipeline: String,
    pub(crate) source: Option<SourceIdentity>,
    pub(crate) stream: StreamName,
    pub(crate) at: String,
    /// The newest generation; 0 where there is none.
    pub(crate) generation: u32,
    /// The generations whose files readers see: several where a re-snapshot kept history.
    pub(crate) visible: Vec<u32>,
    pub(crate) open: Option<OpenBackfill>,
    /// The newest generation's swap, until its witness is merged into another file: only what a finished swap
    /// has shown is merged, so nothing of it is left to do then.
    pub(crate) swap: Option<Swap>,
    /// What the newest generation is.
    pub(crate) definition: Option<Definition>,
    /// What the generation was that readers see, where a newer one was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shown: Option<Definition>,
    pub(crate) fingerprint: Option<Fingerprint>,
    pub(crate) position: Option<Position>,
    pub(crate) cursor: Option<CursorState>,
    pub(crate) pass: u64,
    pub(crate) global: Option<Position>,
    pub(crate) window: Option<Window>,
    /// The window before: kept until the next one is committed, when the state surely names a later one.
    pub(crate) previous_window: Option<Window>,
    /// All files that make the stream, hidden ones included, by path within their generation's directory.
    pub(crate) files: BTreeMap<String, LiveFile>,
}

/// A generation whose backfill is not complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct OpenBackfill {
    pub(crate) plan: Vec<Chunk>,
    pub(crate) done: BTreeMap<u32, DoneChunk>,
    /// The snapshot of the last opening.
    pub(crate) snapshot: Value,
}

/// A file that is part of the stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LiveFile {
    pub(crate) generation: u32,
    /// The record that added it.
    pub(crate) commit: u64,
    /// The backfill chunk it belongs to; `None` for changes.
    pub(crate) chunk: Option<u32>,
    #[serde(flatten)]
    pub(crate) facts: FileFacts,
}

impl Fold {
    /// Adds one record to what the ones before amount to.
    pub(crate) fn apply(&mut self, record: &Record) {
        self.number = record.number;
        self.term = record.term;
        self.run.clone_from(&record.run);
        self.pipeline.clone_from(&record.pipeline);
        self.source = Some(record.source.clone());
        self.stream = record.stream.clone();
        self.at.clone_from(&record.at);

        if let Some(open) = &record.open {
            if open.backfill {
                if record.generation != self.generation {
                    // An older generation that never became visible is given up.
                    self.files.retain(|_, file| self.visible.contains(&file.generation));
                    self.open = None;
                    self.swap = None;
                    if self.is_visible(self.generation) {
                        self.shown = self.definition.take();
                    }
                }
                let done = self.open.take().map(|open| open.done).unwrap_or_default();
                let planned = |number: &u32| open.plan.iter().any(|chunk| chunk.number == *number);
                self.open = Some(OpenBackfill {
                    plan: open.plan.clone(),
                    done: done.into_iter().filter(|(number, _)| planned(number)).collect(),
                    snapshot: open.snapshot.clone(),
                });
            }
            self.definition = Some(open.definition.clone());
            self.fingerprint = Some(open.fingerprint.clone());
        }
        self.generation = record.generation;

        for path in &record.remove {
            self.files.remove(path);
        }
        if self.swap.as_ref().is_some_and(|swap| record.remove.contains(&swap.witness)) {
            self.swap = None;
        }
        let chunk = record.chunk.as_ref().map(|chunk| chunk.number);
        for added in &record.add {
            let file = LiveFile {
                generation: added.generation.unwrap_or(record.generation),
                commit: record.number,
                chunk: chunk.filter(|_| added.generation.is_none()),
                facts: added.file.clone(),
            };
            self.files.insert(added.path.clone(), file);
        }
        if let (Some(open), Some(chunk)) = (&mut self.open, &record.chunk) {
            open.done.insert(chunk.number, chunk.done.clone());
        }

        if let Some(swap) = &record.swap {
            if swap.mode == SwapStep::Replace {
                self.files.retain(|_, file| file.generation == record.generation);
                self.visible.clear();
            }
            self.visible.push(record.generation);
            self.swap = Some(swap.clone());
            self.open = None;
            self.shown = None;
        }

        self.position.clone_from(&record.position);
        self.cursor.clone_from(&record.cursor);
        self.pass = record.pass;
        if record.global.is_some() {
            self.global.clone_from(&record.global);
        }
        if record.window != self.window {
            self.previous_window = std::mem::replace(&mut self.window, record.window.clone());
        }
    }

    /// What the engine is told.
    pub(crate) fn head(&self) -> StreamHead {
        StreamHead {
            commit: self.number,
            pipeline: self.pipeline.clone(),
            generation: self.generation,
            visible: self.visible.last().copied(),
            open: self
                .open
                .as_ref()
                .map(|open| OpenGeneration { plan: open.plan.clone(), done: open.done.clone() }),
            definition: self.definition.clone(),
            shown: self.shown().cloned(),
            fingerprint: self.fingerprint.clone(),
            progress: Progress {
                position: self.position.clone(),
                cursor: self.cursor.clone(),
                pass: self.pass,
            },
            window: self.window.as_ref().map(Window::reference),
            global: self.global.clone(),
            rows: self
                .files
                .values()
                .filter(|file| file.facts.kind == FileKind::Data)
                .map(|file| file.facts.rows)
                .sum(),
        }
    }

    /// What the newest generation is that readers see.
    pub(crate) fn shown(&self) -> Option<&Definition> {
        if self.is_visible(self.generation) { self.definition.as_ref() } else { self.shown.as_ref() }
    }

    /// The paths of a generation's files.
    pub(crate) fn paths_of(&self, generation: u32) -> impl Iterator<Item = (&String, &LiveFile)> {
        self.files.iter().filter(move |(_, file)| file.generation == generation)
    }

    /// Whether readers see a generation's files (as soon as its swap is finished).
    pub(crate) fn is_visible(&self, generation: u32) -> bool {
        self.visible.contains(&generation)
    }
}

/// Reads records and folds those that can be read, as the log of some stream might hold them. For fuzzing: it
/// must take whatever comes.
#[doc(hidden)]
pub fn fold_records<'a>(records: impl Iterator<Item = &'a [u8]>) {
    let mut fold = Fold::default();
    for bytes in records {
        if let Ok(record) = Record::parse(bytes, std::path::Path::new("record")) {
            fold.apply(&record);
            let _ = fold.head();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{AddedFile, ChunkDone, Kind, Open, VERSION};
    use lakeward_core::{DefinedColumn, SyncMode};
    use serde_json::json;

    fn record(number: u64, generation: u32) -> Record {
        let source = SourceIdentity { kind: "test".to_owned(), facts: serde_json::Map::new() };
        Record {
            version: VERSION,
            number,
            term: 1,
            run: "run".to_owned(),
            pipeline: "pipeline".to_owned(),
            source,
            stream: StreamName { namespace: "public".to_owned(), name: "t".to_owned() },
            kind: vec![Kind::Data],
            unit: None,
            generation,
            open: None,
            chunk: None,
            add: Vec::new(),
            remove: Vec::new(),
            swap: None,
            position: None,
            cursor: None,
            pass: 0,
            global: None,
            window: None,
            checkpoint: None,
            at: "2026-01-01T00:00:00Z".to_owned(),
        }
    }

    fn open(snapshot: &str, numbers: &[u32]) -> Option<Open> {
        let chunk = |number: &u32| Chunk { number: *number, relation: None, min: None, max: None, bytes: 0 };
        Some(Open {
            definition: Definition {
                source_stream: ["public".to_owned(), "t".to_owned()],
                sync_mode: SyncMode::Cdc,
                key: vec!["id".to_owned()],
                cursor: Vec::new(),
                filter: None,
                partition: Vec::new(),
                columns: vec![DefinedColumn {
                    name: "id".to_owned(),
                    source: None,
                    column_type: "int64".to_owned(),
                    identity: "1".to_owned(),
                    stored_as: String::new(),
                }],
                left_out: Vec::new(),
                columns_made: None,
            },
            fingerprint: Fingerprint::default(),
            snapshot: json!(snapshot),
            plan: numbers.iter().map(chunk).collect(),
            backfill: true,
        })
    }

    fn add(path: &str, rows: u64) -> AddedFile {
        let file = FileFacts {
            kind: FileKind::Data,
            rows,
            bytes: 1,
            partition: Vec::new(),
            sha256: String::new(),
            staged: format!("staging/run/{path}"),
        };
        AddedFile { path: path.to_owned(), generation: None, file }
    }

    fn done(number: u32, snapshot: &str) -> Option<ChunkDone> {
        Some(ChunkDone { number, done: DoneChunk { rows: 1, snapshot: json!(snapshot) } })
    }

    fn fold(records: &[Record]) -> Fold {
        let mut fold = Fold::default();
        records.iter().for_each(|record| fold.apply(record));
        fold
    }

    #[test]
    fn a_table_of_one_chunk_is_one_record() {
        let swap = Some(Swap { mode: SwapStep::Replace, witness: "a".to_owned() });
        let head = fold(&[Record {
            open: open("s1", &[0]),
            chunk: done(0, "s1"),
            add: vec![add("a", 7)],
            swap,
            ..record(1, 1)
        }])
        .head();
        assert_eq!((head.commit, head.generation, head.visible, head.rows), (1, 1, Some(1), 7));
        assert_eq!(head.open, None);
    }

    #[test]
    fn a_resumed_backfill_keeps_the_chunks_of_its_plan() {
        let mut records = vec![
            Record { open: open("s1", &[0, 1, 2]), ..record(1, 1) },
            Record { chunk: done(0, "s1"), add: vec![add("c0", 1)], ..record(2, 1) },
            Record { chunk: done(1, "s1"), add: vec![add("c1", 1)], ..record(3, 1) },
            Record { chunk: done(2, "s1"), add: vec![add("c2", 1)], ..record(4, 1) },
            Record { add: vec![add("change", 5)], position: Some(Position(json!("0/1"))), ..record(5, 1) },
        ];
        assert_eq!(fold(&records).head().rows, 8);
        records.push(Record {
            open: open("s2", &[0, 1]),
            remove: vec!["change".to_owned(), "c2".to_owned()],
            position: Some(Position(json!("0/2"))),
            ..record(6, 1)
        });
        let folded = fold(&records);
        let open = folded.open.as_ref().unwrap();
        assert_eq!(open.done.keys().copied().collect::<Vec<_>>(), vec![0, 1]);
        assert_eq!((&open.done[&0].snapshot, &open.done[&1].snapshot), (&json!("s1"), &json!("s1")));
        assert_eq!(folded.files.keys().collect::<Vec<_>>(), vec!["c0", "c1"]);
        assert_eq!(folded.head().progress.position, Some(Position(json!("0/2"))));
    }

    #[test]
    fn a_new_generation_drops_an_older_hidden_one_and_keeps_what_is_visible() {
        let swap = |witness: &str, mode| Some(Swap { mode, witness: witness.to_owned() });
        let mut records = vec![
            Record {
                open: open("s", &[0]),
                add: vec![add("g1", 1)],
                chunk: done(0, "s"),
                swap: swap("g1", SwapStep::Replace),
                ..record(1, 1)
            },
            Record { open: open("s", &[0, 1]), add: vec![add("g2", 2)], chunk: done(0, "s"), ..record(2, 2) },
            Record { open: open("s", &[0]), ..record(3, 3) },
        ];
        let folded = fold(&records);
        assert_eq!(folded.files.keys().collect::<Vec<_>>(), vec!["g1"]);
        assert_eq!((folded.head().visible, folded.head().generation), (Some(1), 3));
        records.push(Record {
            add: vec![add("g3", 3)],
            chunk: done(0, "s"),
            swap: swap("g3", SwapStep::KeepHistory),
            ..record(4, 3)
        });
        let kept = fold(&records);
        assert_eq!((kept.visible.clone(), kept.head().rows), (vec![1, 3], 4));
        records.push(Record {
            open: open("s", &[0]),
            add: vec![add("g4", 4)],
            chunk: done(0, "s"),
            swap: swap("g4", SwapStep::Replace),
            ..record(5, 4)
        });
        let replaced = fold(&records);
        assert_eq!((replaced.visible.clone(), replaced.head().rows), (vec![4], 4));
    }

    #[test]
    fn a_checkpoint_is_what_the_records_before_it_amount_to() {
        let window = |path: &str| {
            Some(crate::record::Window {
                path: path.to_owned(),
                sha256: String::new(),
                staged: String::new(),
            })
        };
        let folded = fold(&[
            Record {
                open: open("s", &[0]),
                add: vec![add("a", 1)],
                chunk: done(0, "s"),
                window: window("w1"),
                ..record(1, 1)
            },
            Record { window: window("w2"), global: Some(Position(json!(9))), ..record(2, 1) },
        ]);
        assert_eq!(folded.previous_window.as_ref().map(|window| window.path.as_str()), Some("w1"));
        let text = serde_json::to_string(&folded).unwrap();
        let again: Fold = serde_json::from_str(&text).unwrap();
        assert_eq!(again, folded);
    }
}
