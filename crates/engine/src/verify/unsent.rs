//! Values that the source did not send: on their way, or lost.
//!
//! A row whose key changed takes such values with it. They are looked up at the source, in vain where the row has moved
//! on by then. The change that moved it on was committed there before that, so it comes in the log before the place at
//! which the source is after the files were read.

use std::collections::HashSet;

use lakeward_core::{CdcDriver, Op, Result, SyncMode};

use super::digest::Digester;
use super::{Extent, Verifier};

/// What the log has behind the place that is compared.
#[derive(Default)]
struct Later {
    keys: HashSet<u128>,
    truncated: bool,
}

impl Verifier {
    /// Of rows that lack a value at the compared place, those to which no later change brings it.
    pub(super) async fn never_sent(
        &self,
        log: Option<&dyn CdcDriver>,
        extent: &Extent,
        digester: &Digester,
        lacking: &[u128],
    ) -> Result<Vec<u128>> {
        let Some(log) = log else { return Ok(lacking.to_vec()) };
        // What strict_cdc did not read nothing brings, and it is not to.
        if lacking.is_empty() || self.stream.sync_mode == SyncMode::StrictCdc {
            return Ok(Vec::new());
        }
        let now = log.lag(&self.global()?).await?.source;
        let committed = self.wait_for(log, &now).await?;
        let (head, _) = self.head().await?;
        // What is not committed yet, or is in other files now, cannot be told from what is lost.
        if !committed || head.generation != extent.generation {
            return Ok(Vec::new());
        }
        let wanted: HashSet<u128> = lacking.iter().copied().collect();
        let later = self
            .each_reading(
                extent,
                |_| Later::default(),
                |later, rows| {
                    let digests = digester.digests(rows.values.columns(), rows.values.num_rows())?;
                    for row in 0..rows.values.num_rows() {
                        if rows.order(row)? <= extent.last {
                            continue;
                        }
                        if rows.op(row) == Op::Truncate.as_str() {
                            later.truncated = true;
                        } else if wanted.contains(&digests.keys[row]) {
                            later.keys.insert(digests.keys[row]);
                        }
                    }
                    Ok(())
                },
            )
            .await?;
        let comes = |key: &u128| later.truncated || later.keys.contains(key);
        Ok(lacking.iter().filter(|key| !comes(key)).copied().collect())
    }
}
