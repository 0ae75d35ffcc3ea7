//! Incremental sync: a backfill once, then at each run the rows at and after the greatest cursor.
//!
//! Guaranteed: each row version that the source shows at or behind the cursor within the look-back is delivered
//! once. What the window means is in `window.rs`.

use std::sync::Arc;

use lakeward_core::{
    ConfiguredStream, CursorState, Error, ErrorKind, IncrementalDriver, IncrementalPass, NullCursor,
    OpenStep, Progress, Result, Retry, Session, StreamCommit, StreamHead,
};

use crate::events::Event;
use crate::evolution::{Evolution, as_known, evolution};
use crate::stream_run::StreamRun;
use crate::window::{Window, row_hashes};

/// How a pass ended.
enum PassEnd {
    /// What was new is committed, or nothing was.
    Done,
    /// The stream has to be read anew.
    StartOver(String),
}

impl StreamRun {
    /// A pass over what is new, or the backfill where there is no whole generation to add to.
    pub(crate) async fn incremental(&self) -> Result<()> {
        let head = self.head();
        if head.open.is_some() || head.visible.is_none() {
            return self.backfill().await;
        }
        let mut backoff = self.backoff();
        loop {
            match self.pass_in_one_session().await {
                Ok(PassEnd::Done) => return Ok(()),
                Ok(PassEnd::StartOver(reason)) => {
                    self.context.events.event(&Event::Warning {
                        stream: Some(self.stream.id.clone()),
                        message: format!("all rows are read again: {reason}"),
                    });
                    return self.backfill().await;
                }
                Err(error) => backoff.after(error, Retry::NewSession).await?,
            }
        }
    }

    async fn pass_in_one_session(&self) -> Result<PassEnd> {
        let _reader = self.context.reader().await?;
        let session = self.context.driver.begin_backfill(&self.stream).await?;
        let outcome = self.pass_under(&session).await;
        self.context.driver.end_backfill(session).await;
        outcome
    }

    async fn pass_under(&self, session: &Session) -> Result<PassEnd> {
        let head = self.head();
        let before =
            head.definition.as_ref().ok_or_else(|| Error::bug("a generation without a definition"))?;
        if head.fingerprint.as_ref().is_some_and(|then| then.is_replaced_by(&session.fingerprint)) {
            return Ok(PassEnd::StartOver("its name stands for another table".to_owned()));
        }
        let stream = as_known(&self.stream, before)?;
        let rewritten = head
            .fingerprint
            .as_ref()
            .is_none_or(|fingerprint| fingerprint.storage != session.fingerprint.storage);
        let widened = match evolution(before, &stream, rewritten)? {
            Evolution::Unchanged => false,
            Evolution::Widened => true,
            Evolution::NewGeneration(reason) => return Ok(PassEnd::StartOver(reason)),
        };
        let stream = Arc::new(stream);
        let since = head.progress.cursor.clone();
        let until = self.ability()?.fetch_max_cursor_values(&stream, session, since.as_ref()).await?;
        let pass = head.progress.pass + 1;
        self.read_pass(&head, stream, session, IncrementalPass { since, until }, pass, widened).await?;
        Ok(PassEnd::Done)
    }

    async fn read_pass(
        &self,
        head: &StreamHead,
        stream: Arc<ConfiguredStream>,
        session: &Session,
        bounds: IncrementalPass,
        pass: u64,
        widened: bool,
    ) -> Result<()> {
        let stop = &self.context.options.cancel;
        let former = match &head.window {
            Some(window) => self.context.destination.window(&self.stream.target, window).await?,
            None => Window::to_bytes(Vec::new()),
        };
        let mut window = Window::from_bytes(&former)?;
        let mut next = Vec::new();
        let unit = format!("incremental/{}/{pass}", self.stream.target);
        let writer = self.context.pool.open(stream.clone(), head.generation, unit.clone(), pass).await?;
        let until = bounds.until.clone();
        let batches = self
            .ability()?
            .stream_incremental_changes(
                stream.clone(),
                session,
                bounds.clone(),
                self.context.read_context(stop),
            )
            .await;
        let copied = match batches {
            Ok(batches) => {
                self.copy(batches, writer, false, stop, |batch| window.admit(batch, &mut next)).await?
            }
            Err(error) => {
                writer.abort().await;
                return Err(error);
            }
        };
        let next = Window::to_bytes(next);
        if copied.rows == 0 && next == former && until == bounds.since && !widened {
            return Ok(());
        }
        let mut commit = StreamCommit::new(self.stream.target.clone(), head.generation, unit);
        commit.files = copied.files.clone();
        commit.progress = Some(Progress { position: session.position.clone(), cursor: until, pass });
        commit.window = Some(next);
        if widened {
            let (fingerprint, snapshot) = (session.fingerprint.clone(), session.snapshot.clone());
            commit.open = Some(OpenStep::redefined(stream.definition(), fingerprint, snapshot));
        }
        self.commit(commit, |_| Vec::new()).await?;
        self.count(&copied);
        Ok(())
    }

    /// The greatest cursor under the session of a backfill; the next pass begins there.
    pub(crate) async fn first_cursor(&self, session: &Session) -> Result<Option<CursorState>> {
        if self.stream.cursor.is_none() {
            return Ok(None);
        }
        let _reader = self.context.reader().await?;
        self.ability()?.fetch_max_cursor_values(&self.stream, session, None).await
    }

    /// The window that a backfill leaves behind: one query under the session that is about to be shown.
    pub(crate) async fn first_window(
        &self,
        session: &Session,
        progress: &Progress,
    ) -> Result<Option<Vec<u8>>> {
        if self.stream.cursor.is_none() {
            return Ok(None);
        }
        if progress.cursor.is_none() && self.stream.null_cursor == NullCursor::Skip {
            return Ok(Some(Window::to_bytes(Vec::new())));
        }
        let _reader = self.context.reader().await?;
        let stop = &self.context.options.cancel;
        let bounds = IncrementalPass { since: progress.cursor.clone(), until: progress.cursor.clone() };
        let mut batches = self
            .ability()?
            .stream_incremental_changes(self.stream.clone(), session, bounds, self.context.read_context(stop))
            .await?;
        let mut hashes = Vec::new();
        while let Some(batch) = futures::StreamExt::next(&mut batches).await {
            let batch = batch?;
            hashes.extend(row_hashes(&batch.rows, batch.rescued.as_ref())?);
        }
        Ok(Some(Window::to_bytes(hashes)))
    }

    fn ability(&self) -> Result<&dyn IncrementalDriver> {
        self.context.driver.incremental().ok_or_else(|| {
            Error::new(ErrorKind::Config, "this source cannot read what is new by a cursor")
                .at("stream", &self.stream.id)
                .hint("choose full_refresh")
        })
    }
}
