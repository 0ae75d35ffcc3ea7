//! Which chunk sizes are worth comparing for a stream: those that cut it differently.

use lakeward_core::{Chunk, ConfiguredStream, DriverInterface, Error, ErrorKind, Result};

use crate::quantity::{exact_bytes, human_bytes};

/// Where the user names none: powers of 4, and what lies beyond them.
const SWEEP: [u64; 7] = [1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20, 1 << 30, 2 << 30];

/// A chunk size and what it makes of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cut {
    /// The size.
    pub(crate) chunk_bytes: u64,
    /// The chunks that the source cuts by it.
    pub(crate) chunks: usize,
    /// The share of the stream that may have been read and not been committed at any one moment.
    pub(crate) share_at_risk: f64,
}

/// A stream's cuts, and what there is to know about it.
#[derive(Debug)]
pub(crate) struct Cuts {
    /// By size, all of them different.
    pub(crate) cuts: Vec<Cut>,
    /// Bytes of the stream as stored at the source.
    pub(crate) bytes: u64,
    /// What the user should know about sizes that were left out.
    pub(crate) left_out: Vec<String>,
}

/// Sizes from the command line in order.
///
/// # Errors
/// `Config` where there is nothing to compare.
pub(crate) fn in_order(sizes: &[u64]) -> Result<Vec<u64>> {
    let mut sorted = sizes.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    match sorted.len() {
        1 => Err(Error::new(ErrorKind::Config, "one chunk size alone cannot be compared")
            .at("--sizes", exact_bytes(sorted[0]))
            .hint("name two or more, such as --sizes 8MiB,64MiB,512MiB, or leave --sizes out")),
        _ => Ok(sorted),
    }
}

/// Asks the source how it would cut the stream; of sizes that cut it alike the smallest is kept.
///
/// # Errors
/// What the source fails with; `Config` where all sizes cut the stream alike.
pub(crate) async fn cuts(
    driver: &dyn DriverInterface,
    stream: &ConfiguredStream,
    wanted: &[u64],
    readers: usize,
) -> Result<Cuts> {
    let session = driver.begin_backfill(stream).await?;
    let mut plans = Vec::new();
    let sizes = if wanted.is_empty() { &SWEEP[..] } else { wanted };
    let mut outcome = Ok(());
    // One chunk, or one for each partition: what every greater size comes to.
    for size in sizes.iter().chain([&u64::MAX]) {
        match driver.get_or_split_chunks(stream, &session, None, *size).await {
            Ok(plan) => plans.push((*size, plan)),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    driver.end_backfill(session).await;
    outcome?;
    let whole = plans.pop().map(|(_, plan)| plan).unwrap_or_default();
    compare(&plans, &whole, readers, wanted.is_empty())
}

fn compare(plans: &[(u64, Vec<Chunk>)], whole: &[Chunk], readers: usize, sweep: bool) -> Result<Cuts> {
    // Not by their bounds: those of a key are taken from a sample and differ every time.
    let extents = |plan: &[Chunk]| plan.iter().map(|chunk| chunk.bytes).collect::<Vec<_>>();
    let bytes = extents(whole).iter().sum();
    let mut cuts: Vec<Cut> = Vec::new();
    let mut left_out = Vec::new();
    let mut last: Option<(u64, Vec<u64>)> = None;
    for (size, plan) in plans {
        let extents = extents(plan);
        if let Some((alike, _)) = last.as_ref().filter(|(_, earlier)| *earlier == extents) {
            if !sweep {
                let (size, alike) = (exact_bytes(*size), exact_bytes(*alike));
                left_out.push(format!("{size} cuts it as {alike} does: not measured apart"));
            }
            continue;
        }
        cuts.push(Cut {
            chunk_bytes: *size,
            chunks: plan.len(),
            share_at_risk: share_at_risk(&extents, readers),
        });
        last = Some((*size, extents));
    }
    if cuts.len() > 1 {
        return Ok(Cuts { cuts, bytes, left_out });
    }
    let error = Error::new(ErrorKind::Config, "all sizes cut the stream alike: there is nothing to compare")
        .at("bytes at the source", human_bytes(bytes))
        .at("chunks", whole.len());
    Err(match bytes {
        0 => error.hint(
            "it holds nothing, or cannot be cut by size, as a view cannot: any chunk size does for it \
             (a view is cut where streams.json names its chunk_column)",
        ),
        _ if sweep => error.hint(
            "any size does for a table this small; --sizes with smaller ones, such as 64KiB,256KiB, compares all the same",
        ),
        _ => error.hint(format!("name sizes of which at least one is well below {}", human_bytes(bytes))),
    })
}

/// A chunk is being read on every connection while another one is being committed.
fn share_at_risk(extents: &[u64], readers: usize) -> f64 {
    let all: u64 = extents.iter().sum();
    let mut largest = extents.to_vec();
    largest.sort_unstable_by_key(|bytes| std::cmp::Reverse(*bytes));
    let risked: u64 = largest.iter().take(readers + 1).sum();
    if all == 0 { 1.0 } else { risked as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(bytes: &[u64]) -> Vec<Chunk> {
        let chunk = |(number, bytes): (usize, &u64)| Chunk {
            number: number as u32,
            relation: None,
            min: None,
            max: None,
            bytes: *bytes,
        };
        bytes.iter().enumerate().map(chunk).collect()
    }

    #[test]
    fn sizes_that_cut_alike_are_measured_once() {
        let plans = [(10, plan(&[10, 10, 10])), (30, plan(&[30])), (99, plan(&[30]))];
        let cuts = compare(&plans, &plan(&[30]), 1, false).unwrap();
        assert_eq!((cuts.bytes, cuts.left_out.len()), (30, 1));
        let sizes: Vec<u64> = cuts.cuts.iter().map(|cut| cut.chunk_bytes).collect();
        assert_eq!(sizes, [10, 30]);
        assert_eq!(cuts.cuts[1].share_at_risk, 1.0);
        assert!((cuts.cuts[0].share_at_risk - 2.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_table_that_all_sizes_cut_alike_is_refused_with_a_remedy() {
        let plans = [(30, plan(&[20])), (99, plan(&[20]))];
        let error = compare(&plans, &plan(&[20]), 4, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.remedy().unwrap().contains("below 20 B"), "{error}");
    }

    #[test]
    fn one_size_is_refused_and_several_are_sorted() {
        assert_eq!(in_order(&[8, 2, 8]).unwrap(), [2, 8]);
        assert_eq!(in_order(&[]).unwrap(), [0u64; 0]);
        assert_eq!(in_order(&[8, 8]).unwrap_err().kind(), ErrorKind::Config);
    }
}
