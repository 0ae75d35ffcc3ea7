//! Counts rows.

use async_trait::async_trait;
use lakeward_core::{Batch, FileKind, Result, Writer, WrittenFile};

/// A unit's writer.
#[derive(Debug, Default)]
pub(crate) struct NullWriter {
    rows: u64,
}

#[async_trait]
impl Writer for NullWriter {
    async fn write(&mut self, batch: Batch) -> Result<()> {
        self.rows += batch.rows.num_rows() as u64;
        Ok(())
    }

    async fn finish(self: Box<Self>, keep_empty: bool) -> Result<Vec<WrittenFile>> {
        if self.rows == 0 && !keep_empty {
            return Ok(Vec::new());
        }
        Ok(vec![WrittenFile {
            staged: String::new(),
            kind: FileKind::Data,
            partition: Vec::new(),
            rows: self.rows,
            bytes: 0,
            sha256: String::new(),
        }])
    }

    async fn abort(self: Box<Self>) {}
}
