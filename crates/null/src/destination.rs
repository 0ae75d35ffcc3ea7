//! Heads in memory, files nowhere.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use lakeward_core::{
    Capabilities, Destination, DestinationIdentity, Error, Finding, MemoryBudget, OpenGeneration, Pipeline,
    Progress, Result, Rewritten, Run, Schema, StreamCommit, StreamHead, StreamId, SwapStep, UnitSpec,
    VisibleFile, WindowRef, Writer, parse_config,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::config::NullConfig;
use crate::writer::NullWriter;

/// The connector's kind.
pub const KIND: &str = "null";

/// The JSON Schema of the config.
pub fn spec() -> Value {
    schemars::schema_for!(NullConfig).to_value()
}

/// Keeps nothing but heads, and those only as long as it lives.
#[derive(Debug, Default)]
pub struct NullDestination {
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    pipeline: Option<Run>,
    streams: BTreeMap<StreamId, Stream>,
}

#[derive(Debug, Default)]
struct Stream {
    head: StreamHead,
    window: Vec<u8>,
    /// Rows by chunk, so that a chunk read again counts once.
    chunk_rows: BTreeMap<u32, u64>,
    /// Rows of generations that readers would see.
    visible_rows: u64,
    /// Rows of changes of the newest generation, while it is hidden.
    hidden_rows: u64,
}

impl NullDestination {
    /// A destination from its config.
    ///
    /// # Errors
    /// `Config`, where it has fields that are not known.
    pub fn from_config(config: Value) -> Result<Self> {
        let NullConfig { kind: _ } = parse_config(config, &spec(), "the destination's config")?;
        Ok(Self::default())
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn identity_now() -> DestinationIdentity {
        DestinationIdentity { kind: KIND.to_owned(), id: "null".to_owned() }
    }
}

impl Stream {
    fn apply(&mut self, commit: StreamCommit) -> StreamHead {
        let rows: u64 = commit.files.iter().map(|file| file.rows).sum();
        let head = &mut self.head;
        head.commit += 1;
        if let Some(open) = commit.open {
            if open.backfill {
                let begins = commit.generation != head.generation;
                if begins {
                    self.chunk_rows.clear();
                    head.progress = Progress::default();
                    head.window = None;
                }
                self.hidden_rows = 0;
                let mut done = head.open.take().filter(|_| !begins).map(|open| open.done).unwrap_or_default();
                done.retain(|number, _| open.plan.iter().any(|chunk| chunk.number == *number));
                self.chunk_rows.retain(|number, _| done.contains_key(number));
                head.open = Some(OpenGeneration { plan: open.plan, done });
            }
            head.definition = Some(open.definition);
            head.fingerprint = Some(open.fingerprint);
        }
        head.generation = commit.generation;
        match (commit.chunk, &mut head.open) {
            (Some((number, done)), Some(open)) => {
                self.chunk_rows.insert(number, rows);
                open.done.insert(number, done);
            }
            (_, Some(_)) => self.hidden_rows += rows,
            (_, None) => self.visible_rows += rows,
        }
        if let Some(progress) = commit.progress {
            head.progress = progress;
        }
        if let Some(window) = commit.window {
            self.window = window;
            head.window = Some(WindowRef { path: format!("window-{}", head.commit), sha256: String::new() });
        }
        if commit.global.is_some() {
            head.global = commit.global;
        }
        if let Some(swap) = commit.swap {
            let rows = self.chunk_rows.values().sum::<u64>() + self.hidden_rows;
            self.visible_rows = match swap {
                SwapStep::Replace => rows,
                SwapStep::KeepHistory => self.visible_rows + rows,
            };
            self.chunk_rows.clear();
            self.hidden_rows = 0;
            head.visible = Some(commit.generation);
            head.open = None;
            head.shown.clone_from(&head.definition);
        }
        head.rows = self.visible_rows + self.hidden_rows + self.chunk_rows.values().sum::<u64>();
        head.clone()
    }
}

#[async_trait]
impl Destination for NullDestination {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn spec(&self) -> Value {
        spec()
    }

    async fn check(&self) -> Result<Vec<Finding>> {
        Ok(vec![Finding::ok(KIND, "rows are counted and dropped")])
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { append: true, upsert: false, swap: true, hidden_log: true }
    }

    async fn identity(&self) -> Result<DestinationIdentity> {
        Ok(Self::identity_now())
    }

    async fn prepare(&self, stream: &StreamId, run: &Run) -> Result<StreamHead> {
        let mut memory = self.memory();
        memory.pipeline = Some(run.clone());
        Ok(memory.streams.entry(stream.clone()).or_default().head.clone())
    }

    async fn writer(&self, _unit: UnitSpec) -> Result<Box<dyn Writer>> {
        Ok(Box::new(NullWriter::default()))
    }

    async fn commit(&self, commits: Vec<StreamCommit>) -> Vec<Result<StreamHead>> {
        let mut memory = self.memory();
        commits
            .into_iter()
            .map(|commit| match memory.streams.get_mut(&commit.stream) {
                Some(stream) => Ok(stream.apply(commit)),
                None => Err(Error::bug("a stream was not prepared").at("stream", &commit.stream)),
            })
            .collect()
    }

    async fn rewrite(
        &self,
        _stream: &StreamId,
        _columns: &Schema,
        _budget: &MemoryBudget,
        _cancel: &CancellationToken,
    ) -> Result<Vec<Rewritten>> {
        Ok(Vec::new())
    }

    async fn head(&self, stream: &StreamId) -> Result<Option<StreamHead>> {
        let memory = self.memory();
        let head = memory.streams.get(stream).map(|stream| &stream.head);
        Ok(head.filter(|head| head.commit > 0).cloned())
    }

    async fn heads(&self) -> Result<Vec<(StreamId, StreamHead)>> {
        let memory = self.memory();
        let committed = memory.streams.iter().filter(|(_, stream)| stream.head.commit > 0);
        Ok(committed.map(|(id, stream)| (id.clone(), stream.head.clone())).collect())
    }

    async fn pipeline(&self) -> Result<Option<Pipeline>> {
        let memory = self.memory();
        let wrote = memory.streams.values().any(|stream| stream.head.commit > 0);
        Ok(memory.pipeline.clone().filter(|_| wrote).map(|run| Pipeline {
            id: run.pipeline,
            source: run.source,
            destination: Self::identity_now(),
        }))
    }

    async fn window(&self, stream: &StreamId, _window: &WindowRef) -> Result<Vec<u8>> {
        Ok(self.memory().streams.get(stream).map(|stream| stream.window.clone()).unwrap_or_default())
    }

    async fn files(&self, _stream: &StreamId) -> Result<Vec<VisibleFile>> {
        Ok(Vec::new())
    }

    async fn clear(&self, stream: &StreamId) -> Result<()> {
        self.memory().streams.remove(stream);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lakeward_core::{
        Chunk, Definition, DoneChunk, FileKind, Fingerprint, OpenStep, SyncMode, WrittenFile,
    };

    fn files(rows: u64) -> Vec<WrittenFile> {
        let staged = String::new();
        let sha256 = String::new();
        vec![WrittenFile { staged, kind: FileKind::Data, partition: Vec::new(), rows, bytes: 0, sha256 }]
    }

    #[test]
    fn a_chunk_read_again_counts_once() {
        let id = StreamId::new("public", "t");
        let commit = || StreamCommit::new(id.clone(), 1, "u".to_owned());
        let plan = vec![Chunk { number: 0, relation: None, min: None, max: None, bytes: 0 }];
        let definition = Definition {
            source_stream: ["public".to_owned(), "t".to_owned()],
            sync_mode: SyncMode::FullRefresh,
            key: Vec::new(),
            cursor: Vec::new(),
            filter: None,
            partition: Vec::new(),
            columns: Vec::new(),
            left_out: Vec::new(),
            columns_made: None,
        };
        let open = OpenStep {
            definition,
            fingerprint: Fingerprint::default(),
            snapshot: Value::Null,
            plan,
            backfill: true,
        };
        let chunk = || Some((0, DoneChunk { rows: 0, snapshot: Value::Null }));
        let mut stream = Stream::default();
        stream.apply(StreamCommit { open: Some(open.clone()), chunk: chunk(), files: files(3), ..commit() });
        let head = stream.apply(StreamCommit { chunk: chunk(), files: files(4), ..commit() });
        assert_eq!(head.rows, 4);
        let head = stream.apply(StreamCommit { swap: Some(SwapStep::Replace), ..commit() });
        assert_eq!((head.rows, head.visible, head.open), (4, Some(1), None));
        let again = StreamCommit {
            open: Some(open),
            chunk: chunk(),
            files: files(2),
            swap: Some(SwapStep::Replace),
            ..commit()
        };
        let head = stream.apply(StreamCommit { generation: 2, ..again });
        assert_eq!((head.rows, head.visible), (2, Some(2)));
    }
}
