//! What runs come to: medians, spreads, and which chunk size to take.

use serde::{Serialize, Serializer};

use crate::bench::child::Figures;
use crate::bench::sizes::Cut;
use crate::quantity::{exact_bytes, human_count};

/// Medians that are nearer than this to each other differ by chance on any machine.
const LEAST_NOISE: f64 = 0.03;
/// Runs that spread more than this say little, and no size is preferred for it.
const MOST_NOISE: f64 = 0.10;

/// The median of several runs, with the least and the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Spread {
    /// `None` of nothing.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (least, greatest) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { median, least, greatest })
    }

    /// Of a figure that was taken once.
    pub(crate) fn one(figure: f64) -> Self {
        Self { median: figure, least: figure, greatest: figure }
    }

    /// The same in another unit.
    pub(crate) fn divided_by(self, unit: f64) -> Self {
        Self { median: self.median / unit, least: self.least / unit, greatest: self.greatest / unit }
    }

    /// How far runs lie from their median at most, as a share of it.
    fn deviation(&self) -> f64 {
        if self.median > 0.0 { (self.greatest - self.least) / 2.0 / self.median } else { 0.0 }
    }
}

/// What a crash costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "how", content = "rows")]
pub(crate) enum ReadAgain {
    /// As a run did that was killed half way and started again.
    Measured(u64),
    /// As many as can have been read and not committed.
    AtMost(u64),
    /// The run was over before it could be killed.
    TooFast,
}

/// All about one chunk size.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    #[serde(serialize_with = "as_size")]
    pub(crate) chunk_size: u64,
    pub(crate) chunk_bytes: u64,
    pub(crate) chunks: usize,
    pub(crate) rows_per_second: Spread,
    pub(crate) mib_per_second: Spread,
    pub(crate) cpu_seconds_per_million_rows: Spread,
    pub(crate) peak_rss_bytes: Option<Spread>,
    pub(crate) files: Spread,
    pub(crate) file_bytes: Spread,
    pub(crate) read_again: ReadAgain,
    pub(crate) runs: Vec<Figures>,
}

impl Measured {
    /// Puts the runs of a size together; `source_bytes` are the whole stream's. `None` without a run.
    pub(crate) fn of(
        cut: &Cut,
        source_bytes: u64,
        read_again: ReadAgain,
        runs: Vec<Figures>,
    ) -> Option<Self> {
        let spread = |value: &dyn Fn(&Figures) -> f64| Spread::of(runs.iter().map(value));
        // A clock that stood still is no reason to divide by nothing.
        let seconds = |run: &Figures| run.seconds.max(1e-6);
        let memory = runs.iter().filter_map(|run| run.peak_rss_bytes).map(|bytes| bytes as f64);
        Some(Self {
            chunk_size: cut.chunk_bytes,
            chunk_bytes: cut.chunk_bytes,
            chunks: cut.chunks,
            rows_per_second: spread(&|run| run.rows as f64 / seconds(run))?,
            mib_per_second: spread(&|run| source_bytes as f64 / f64::from(1 << 20) / seconds(run))?,
            cpu_seconds_per_million_rows: spread(&|run| run.cpu_seconds * 1e6 / run.rows.max(1) as f64)?,
            peak_rss_bytes: Spread::of(memory),
            files: spread(&|run| run.files as f64)?,
            file_bytes: spread(&|run| run.file_bytes as f64)?,
            read_again,
            runs,
        })
    }
}

fn as_size<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&exact_bytes(*bytes))
}

/// Which chunk size to take, and why.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Recommendation {
    #[serde(serialize_with = "as_size")]
    pub(crate) chunk_size: u64,
    /// What counts as chance, as a share of the best.
    pub(crate) noise: f64,
    /// In one sentence.
    pub(crate) reason: String,
    /// How it is used.
    pub(crate) flag: String,
}

/// The smallest size that is as fast as any: a smaller chunk is less to read again after a crash.
///
/// `sizes` are in order. `None` without any.
pub(crate) fn recommend(sizes: &[Measured]) -> Option<Recommendation> {
    let rate = |size: &&Measured| size.rows_per_second.median;
    let best = sizes.iter().max_by(|a, b| rate(a).total_cmp(&rate(b)))?;
    let noise = Spread::of(sizes.iter().map(|size| size.rows_per_second.deviation()))?
        .median
        .clamp(LEAST_NOISE, MOST_NOISE);
    let enough = best.rows_per_second.median * (1.0 - noise);
    let chosen = sizes.iter().find(|size| rate(size) >= enough)?;
    let size = exact_bytes(chosen.chunk_bytes);
    let rows = human_count(rate(&chosen) as u64);
    let noise_text = format!("{:.0} %", noise * 100.0);
    let smaller = sizes.first().is_some_and(|first| first.chunk_bytes < chosen.chunk_bytes);
    let reason = match (chosen.chunk_bytes == best.chunk_bytes, smaller) {
        (true, true) => format!(
            "{size} is the fastest with {rows} rows/s, and every smaller size is slower by more than {noise_text}, \
             the noise of these runs"
        ),
        (true, false) => format!(
            "{size} is the fastest with {rows} rows/s and the smallest of all, so that a crash costs least"
        ),
        (false, _) => format!(
            "{size} gives {rows} rows/s, which is within {noise_text}, the noise of these runs, of the best \
             ({} at {}), and no smaller size does; smaller chunks are less to read again after a crash",
            human_count(rate(&best) as u64),
            exact_bytes(best.chunk_bytes)
        ),
    };
    Some(Recommendation {
        chunk_size: chosen.chunk_bytes,
        noise,
        reason,
        flag: format!("--chunk-size {size}"),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn measured(chunk_bytes: u64, seconds: &[f64]) -> Measured {
        let run = |seconds: &f64| Figures {
            rows: 1_000_000,
            rows_read: 1_000_000,
            chunks: 4,
            files: 4,
            file_bytes: 1 << 20,
            seconds: *seconds,
            cpu_seconds: 0.5,
            peak_rss_bytes: Some(100 << 20),
            retries: 0,
        };
        let cut = Cut { chunk_bytes, chunks: 4, share_at_risk: 0.5 };
        let runs = seconds.iter().map(run).collect();
        Measured::of(&cut, 100 << 20, ReadAgain::Measured(7), runs).unwrap()
    }

    #[test]
    fn a_median_stands_in_the_middle() {
        let odd = Spread::of([3.0, 1.0, 2.0].into_iter()).unwrap();
        assert_eq!((odd.median, odd.least, odd.greatest), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0].into_iter()).unwrap().median, 2.5);
        assert_eq!(Spread::of(std::iter::empty()), None);
        let size = measured(1 << 20, &[2.0]);
        assert_eq!((size.rows_per_second.median, size.mib_per_second.median), (500_000.0, 50.0));
        assert_eq!(size.cpu_seconds_per_million_rows.median, 0.5);
    }

    #[test]
    fn the_smallest_size_within_the_noise_of_the_best_is_taken() {
        let sizes = [measured(1 << 20, &[2.0]), measured(8 << 20, &[1.02]), measured(64 << 20, &[1.0])];
        let chosen = recommend(&sizes).unwrap();
        assert_eq!((chosen.chunk_size, chosen.noise), (8 << 20, 0.03));
        assert_eq!(chosen.flag, "--chunk-size 8MiB");
        assert!(
            chosen.reason.contains("within 3 %") && chosen.reason.contains("at 64MiB"),
            "{}",
            chosen.reason
        );
        let fastest = [measured(1 << 20, &[2.0]), measured(8 << 20, &[1.0])];
        assert!(recommend(&fastest).unwrap().reason.contains("every smaller size is slower"));
    }

    #[test]
    fn runs_that_spread_widen_the_noise_up_to_a_bound() {
        let sizes = [measured(1, &[1.0, 1.05, 1.12]), measured(2, &[0.98, 1.0, 1.1])];
        let chosen = recommend(&sizes).unwrap();
        assert!(chosen.noise > 0.05 && chosen.noise < 0.07, "{}", chosen.noise);
        assert_eq!(chosen.chunk_size, 1);
        let wild = [measured(1, &[1.0, 2.0]), measured(2, &[0.1, 1.0])];
        assert_eq!(recommend(&wild).unwrap().noise, MOST_NOISE);
        assert!(recommend(&[]).is_none());
    }
}
