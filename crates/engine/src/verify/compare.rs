//! What a log amounts to, against what the source has.

use std::collections::HashSet;

use lakeward_core::Meaning;

use super::digest::row_digest;
use super::records::{LogRow, Values};

/// How the two differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) source_rows: u64,
    pub(super) destination_rows: u64,
    /// Rows that the source has and the log has not.
    pub(super) missing: u64,
    /// Rows that the log has and the source has not.
    pub(super) extra: u64,
    /// Keys that both have, with other values.
    pub(super) different: u64,
    /// Keys that differ because the source changed after the last sync, or have a value that a later change brings.
    pub(super) pending: u64,
    /// Keys that differ and lack a value that was not sent up to here: whether it comes later is to be found out.
    pub(super) lacking: Vec<u128>,
    /// Rows that stand twice in the log, at one place of its order.
    pub(super) repeated: u64,
    /// Keys of what is missing, extra, different or repeated, the first so many.
    pub(super) keys: Vec<u128>,
}

/// What is found on the way to the rows that a log amounts to.
#[derive(Default)]
struct Noted {
    /// Rows that stand twice, at one place of the order.
    repeated: u64,
    /// Their keys.
    twice: Vec<u128>,
    /// Keys of rows that lack a value.
    lacking: HashSet<u128>,
}

/// What is known of a stream beside its rows.
pub(super) struct Judge {
    pub(super) meaning: Meaning,
    /// The order of the last row that ended all before it.
    pub(super) ended: u128,
    /// What each column of a row of nulls is.
    pub(super) nulls: Vec<u64>,
    /// How many differing keys are noted.
    pub(super) most_keys: usize,
}

impl Judge {
    /// Adds what one part of the keys amounts to.
    pub(super) fn compare(
        &self,
        mut source: Vec<(u128, u128)>,
        log: Vec<LogRow>,
        pending: &HashSet<u128>,
        total: &mut Comparison,
    ) {
        source.sort_unstable();
        let mut noted = Noted::default();
        let mut found = self.amount(log, &mut noted);
        found.sort_unstable();
        total.repeated += noted.repeated;
        total.source_rows += source.len() as u64;
        total.destination_rows += found.len() as u64;
        let (mut ours, mut theirs) = (source.as_slice(), found.as_slice());
        while let Some(key) = ours.first().into_iter().chain(theirs.first()).map(|row| row.0).min() {
            let (a, b);
            (a, ours) = ours.split_at(ours.partition_point(|row| row.0 == key));
            (b, theirs) = theirs.split_at(theirs.partition_point(|row| row.0 == key));
            if a == b {
                continue;
            }
            if pending.contains(&key) {
                total.pending += 1;
                continue;
            }
            // A row that the source has not lacks more than a value.
            if !a.is_empty() && noted.lacking.contains(&key) {
                total.lacking.push(key);
                continue;
            }
            match a.len().cmp(&b.len()) {
                std::cmp::Ordering::Greater => total.missing += (a.len() - b.len()) as u64,
                std::cmp::Ordering::Less => total.extra += (b.len() - a.len()) as u64,
                std::cmp::Ordering::Equal => total.different += 1,
            }
            self.note(key, total);
        }
        noted.twice.into_iter().for_each(|key| self.note(key, total));
    }

    /// Adds the rows that lack a value, of which `never` get none.
    pub(super) fn count_lacking(&self, never: &[u128], total: &mut Comparison) {
        total.different += never.len() as u64;
        total.pending += (total.lacking.len() - never.len()) as u64;
        never.iter().for_each(|key| self.note(*key, total));
    }

    fn note(&self, key: u128, total: &mut Comparison) {
        if total.keys.len() < self.most_keys && !total.keys.contains(&key) {
            total.keys.push(key);
        }
    }

    /// The rows that a log amounts to.
    fn amount(&self, mut log: Vec<LogRow>, noted: &mut Noted) -> Vec<(u128, u128)> {
        log.retain(|row| row.order > self.ended);
        log.sort_unstable();
        match self.meaning {
            Meaning::AllRows => {
                log.iter().filter(|row| !row.deleted).map(|row| (row.key, self.digest(&row.values))).collect()
            }
            Meaning::Multiset => {
                let mut rows = Vec::with_capacity(log.len());
                for same in log.chunk_by(|a, b| a.key == b.key) {
                    let deleted = same.iter().filter(|row| row.deleted).count();
                    let left = (same.len() - deleted).saturating_sub(deleted);
                    rows.extend(std::iter::repeat_n((same[0].key, self.digest(&same[0].values)), left));
                }
                rows
            }
            Meaning::LastOfKey => {
                let mut rows = Vec::with_capacity(log.len());
                for versions in log.chunk_by(|a, b| a.key == b.key) {
                    let twice = versions.windows(2).filter(|pair| pair[0].order == pair[1].order).count();
                    if twice > 0 {
                        noted.repeated += twice as u64;
                        noted.twice.push(versions[0].key);
                    }
                    if let Some((row, complete)) = self.last(versions) {
                        rows.push((versions[0].key, row));
                        if !complete {
                            noted.lacking.insert(versions[0].key);
                        }
                    }
                }
                rows
            }
        }
    }

    /// The last version of a row, each value the last that was sent, and whether all were sent since the row came to
    /// be; `None` where it was deleted.
    ///
    /// A row whose key changes takes values with it that are not sent; they are looked up at the source. One that has
    /// moved on by then, or is gone, cannot be found there: the change that moved it comes later in the log.
    fn last(&self, versions: &[LogRow]) -> Option<(u128, bool)> {
        let last = versions.last().filter(|row| !row.deleted)?;
        let Values::Columns(columns) = &last.values else { return Some((self.digest(&last.values), true)) };
        let came = versions.iter().rposition(|row| row.deleted).map_or(0, |deleted| deleted + 1);
        let mut complete = true;
        let value = |column: usize| {
            let sent = versions[came..].iter().rev().find_map(|row| match &row.values {
                Values::Columns(values) => values[column],
                Values::Row(_) => None,
            });
            complete &= sent.is_some();
            sent.unwrap_or(self.nulls[column])
        };
        let row = row_digest((0..columns.len()).map(value));
        Some((row, complete))
    }

    fn digest(&self, values: &Values) -> u128 {
        match values {
            Values::Row(row) => *row,
            Values::Columns(values) => {
                row_digest(values.iter().zip(&self.nulls).map(|(value, null)| value.unwrap_or(*null)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(meaning: Meaning) -> Judge {
        Judge { meaning, ended: 0, nulls: vec![0, 0], most_keys: 10 }
    }

    fn row(key: u128, order: u128, values: [Option<u64>; 2]) -> LogRow {
        LogRow { key, order, deleted: false, values: Values::Columns(values.to_vec()) }
    }

    fn delete(key: u128, order: u128) -> LogRow {
        LogRow { key, order, deleted: true, values: Values::Columns(vec![Some(0), Some(0)]) }
    }

    fn source(key: u128, values: [u64; 2]) -> (u128, u128) {
        (key, row_digest(values.into_iter()))
    }

    fn compared(judge: &Judge, source: Vec<(u128, u128)>, log: Vec<LogRow>) -> Comparison {
        let mut total = Comparison::default();
        judge.compare(source, log, &HashSet::new(), &mut total);
        total
    }

    #[test]
    fn the_last_value_that_was_sent_counts() {
        let log = vec![
            row(1, 3, [Some(7), None]),
            row(1, 2, [Some(5), Some(6)]),
            row(2, 2, [Some(1), Some(1)]),
            delete(2, 4),
            row(3, 1, [Some(9), Some(9)]),
        ];
        let same =
            compared(&judge(Meaning::LastOfKey), vec![source(1, [7, 6]), source(3, [9, 9])], log.clone());
        assert_eq!((same.missing, same.extra, same.different, same.repeated), (0, 0, 0, 0));
        let other = compared(&judge(Meaning::LastOfKey), vec![source(1, [7, 5]), source(2, [1, 1])], log);
        assert_eq!((other.missing, other.extra, other.different), (1, 1, 1));
        assert_eq!(other.keys, [1, 2, 3]);
    }

    #[test]
    fn a_row_that_lacks_a_value_waits_for_it_if_it_comes() {
        let judge = judge(Meaning::LastOfKey);
        let log = vec![row(1, 1, [Some(5), Some(6)]), delete(1, 2), row(1, 3, [Some(7), None])];
        for (never, expected) in [(&[][..], (0, 1)), (&[1], (1, 0))] {
            let mut found = compared(&judge, vec![source(1, [7, 6])], log.clone());
            judge.count_lacking(never, &mut found);
            assert_eq!((found.different, found.pending), expected);
            assert_eq!(found.keys, never);
        }
    }

    #[test]
    fn rows_before_the_end_of_history_do_not_count() {
        let judge = Judge { ended: 5, ..judge(Meaning::LastOfKey) };
        let found = compared(
            &judge,
            vec![source(1, [1, 1])],
            vec![row(2, 4, [Some(1), Some(1)]), row(1, 6, [Some(1), Some(1)])],
        );
        assert_eq!((found.source_rows, found.destination_rows, found.missing, found.extra), (1, 1, 0, 0));
    }

    #[test]
    fn a_row_that_stands_twice_at_one_place_is_told() {
        let twice = vec![row(1, 2, [Some(1), Some(1)]), row(1, 2, [Some(1), Some(1)])];
        let keyed = compared(&judge(Meaning::LastOfKey), vec![source(1, [1, 1])], twice.clone());
        assert_eq!((keyed.repeated, keyed.extra, keyed.keys), (1, 0, vec![1]));
        let all = compared(&judge(Meaning::AllRows), vec![source(1, [1, 1])], twice);
        assert_eq!(all.extra, 1);
    }

    #[test]
    fn multisets_are_counted() {
        let deleted = |order| LogRow { deleted: true, ..row(1, order, [Some(1), Some(1)]) };
        let log = vec![
            row(1, 1, [Some(1), Some(1)]),
            row(1, 2, [Some(1), Some(1)]),
            row(1, 3, [Some(1), Some(1)]),
            deleted(4),
        ];
        let two = vec![source(1, [1, 1]), source(1, [1, 1])];
        let same = compared(&judge(Meaning::Multiset), two.clone(), log.clone());
        assert_eq!((same.destination_rows, same.missing, same.extra), (2, 0, 0));
        let less = compared(&judge(Meaning::Multiset), two[..1].to_vec(), log);
        assert_eq!((less.missing, less.extra), (0, 1));
    }

    #[test]
    fn what_changed_since_the_last_sync_is_no_difference() {
        let mut total = Comparison::default();
        let log = vec![row(1, 1, [Some(1), Some(1)])];
        judge(Meaning::LastOfKey).compare(vec![source(1, [2, 2])], log, &HashSet::from([1]), &mut total);
        assert_eq!((total.pending, total.different), (1, 0));
    }
}
