//! Change streams: where a source's log is followed.

use lakeward_core::{Error, ErrorKind, Result};

use crate::stream_run::StreamRun;

impl StreamRun {
    /// Follows the source's log for this stream.
    ///
    /// # Errors
    /// `Config` where the source has no log that can be followed. Sources do not offer the mode then, so a
    /// stream is refused before this is reached.
    pub(crate) async fn run_change_stream(&self) -> Result<()> {
        match self.context.driver.change_stream() {
            None => Err(Error::new(ErrorKind::Config, "this source offers no change stream")
                .at("stream", &self.stream.id)
                .hint("choose full_refresh or incremental")),
            Some(_) => Err(Error::bug("a change stream is offered that the engine cannot run")),
        }
    }
}
