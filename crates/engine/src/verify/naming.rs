//! What differs, by its key and its columns.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use lakeward_core::{Op, Result, Session};

use super::compare::Judge;
use super::digest::{Digester, shown_key};
use super::source::Found;
use super::{Difference, Extent, KeyDifference, Verifier};

/// A row of the log whose key differs.
#[derive(Debug, Clone)]
struct Version {
    order: u128,
    deleted: bool,
    shown: Vec<(String, String)>,
    values: Vec<Option<u64>>,
}

impl Verifier {
    /// Looks the rows of some keys up again, to name them and the columns in which they differ.
    pub(super) async fn name(
        &self,
        session: &Session,
        extent: &Extent,
        judge: &Judge,
        digester: &Arc<Digester>,
        keys: &[u128],
    ) -> Result<Vec<KeyDifference>> {
        let wanted: Arc<HashSet<u128>> = Arc::new(keys.iter().copied().collect());
        let source = self.find_in_source(session, digester, wanted.clone()).await?;
        let log: HashMap<u128, Vec<Version>> = self
            .each_reading(
                extent,
                |_| HashMap::new(),
                |found: &mut HashMap<u128, Vec<Version>>, rows| {
                    let digests = digester.digests(rows.values.columns(), rows.values.num_rows())?;
                    for row in (0..rows.values.num_rows()).filter(|row| wanted.contains(&digests.keys[*row]))
                    {
                        let (op, order) = (rows.op(row), rows.order(row)?);
                        if op == Op::Truncate.as_str() || order > extent.last || order <= judge.ended {
                            continue;
                        }
                        let unchanged = rows.unchanged(row);
                        let values = digests.row(row).zip(&self.stream.schema.columns);
                        found.entry(digests.keys[row]).or_default().push(Version {
                            order,
                            deleted: op == Op::Delete.as_str(),
                            shown: shown_key(&rows.values, &self.stream, row),
                            values: values
                                .map(|(value, column)| {
                                    let name = self.stream.name_in_files(&column.name);
                                    (!unchanged.contains(name)).then_some(value)
                                })
                                .collect(),
                        });
                    }
                    Ok(())
                },
            )
            .await?;
        let named = keys
            .iter()
            .filter_map(|key| self.difference(source.get(key), log.get(key).cloned(), &judge.nulls));
        Ok(named.collect())
    }

    fn difference(
        &self,
        source: Option<&Found>,
        log: Option<Vec<Version>>,
        nulls: &[u64],
    ) -> Option<KeyDifference> {
        let mut versions = log.unwrap_or_default();
        versions.sort_by_key(|version| version.order);
        // Values from before the row was deleted are no longer its own.
        let came = versions.iter().rposition(|version| version.deleted).map_or(0, |deleted| deleted + 1);
        let versions = &versions[came..];
        let difference = |key: &[(String, String)], what, columns| {
            Some(KeyDifference { key: key.to_vec(), what, columns })
        };
        match (source, versions.last()) {
            (None, None) => None,
            (Some(source), None) => difference(&source.shown, Difference::Missing, Vec::new()),
            (None, Some(last)) => difference(&last.shown, Difference::Extra, Vec::new()),
            (Some(source), Some(last)) => {
                let sent = |column: usize| versions.iter().rev().find_map(|version| version.values[column]);
                let columns: Vec<String> = (0..last.values.len())
                    .filter(|column| sent(*column).unwrap_or(nulls[*column]) != source.values[*column])
                    .map(|column| self.stream.schema.columns[column].name.clone())
                    .collect();
                // Of rows with one key that are all alike, only their number can be wrong.
                let what = if columns.is_empty() { Difference::Repeated } else { Difference::Different };
                difference(&source.shown, what, columns)
            }
        }
    }
}
