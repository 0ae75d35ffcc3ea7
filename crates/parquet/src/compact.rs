//! Which files are merged or rewritten: a pure function of the log.
//!
//! Files of a partition directory are told apart by their size, in steps of eight from 16 KiB on. Where enough of
//! one step have gathered they become one file, which as a rule is of the next: so a row is rewritten about once a
//! step, and of each step fewer than [`GATHERED`] files stay, however many commits there are.

use std::collections::BTreeMap;

use lakeward_core::{Eagerness, FileKind};

use crate::fold::{Fold, LiveFile};

/// Files of one step that are worth merging by themselves.
const GATHERED: usize = 16;
/// The upper bounds of the steps, in bytes; the last one has none but that of full files.
const STEPS: [u64; 5] = [16 << 10, 128 << 10, 1 << 20, 8 << 20, 64 << 20];
/// A file of so many bytes is left alone, however large the files of new units may become.
const MOST_FULL: u64 = 128 << 20;
/// Files of one merge: unlinking them all must not keep a commit waiting.
const MOST_INPUTS: usize = 512;

/// Files that are to be merged, in the order of their commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) generation: u32,
    /// The unit's name, for people.
    pub(crate) unit: String,
    /// Directory name and value of each partition field: all are of one partition.
    pub(crate) partition: Vec<(String, Option<String>)>,
    pub(crate) inputs: Vec<Input>,
    /// Columns by which rows are likely to be sought: key, cursor and partitions.
    pub(crate) sought: Vec<String>,
}

/// A file that is to be merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    /// Relative to the visible directory.
    pub(crate) path: String,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

impl Input {
    fn of(path: &str, file: &LiveFile) -> Self {
        Self {
            path: path.to_owned(),
            rows: file.facts.rows,
            bytes: file.facts.bytes,
            sha256: file.facts.sha256.clone(),
        }
    }
}

/// The size from which a file is left alone, where files of new units have up to so many bytes.
pub(crate) fn full(target_file_size: u64) -> u64 {
    (target_file_size / 2).min(MOST_FULL)
}

fn step(bytes: u64) -> usize {
    STEPS.iter().take_while(|bound| **bound <= bytes).count()
}

/// Where a file stands among those of one commit: the number at the end of its name.
fn ordinal(path: &str) -> u64 {
    let number = path.strip_suffix(".parquet").and_then(|stem| stem.rsplit_once('-'));
    number.and_then(|(_, number)| number.parse().ok()).unwrap_or(u64::MAX)
}

fn directory(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

impl Choice {
    /// The files that are to be merged next, the smallest first; `None` where there are none.
    pub(crate) fn of(fold: &Fold, eagerness: Eagerness, full: u64) -> Option<Self> {
        // Only what every reader sees, and no later chunk or rewritten file replaces.
        if fold.open.is_some() || !fold.is_visible(fold.generation) {
            return None;
        }
        let mut gathered: BTreeMap<(usize, u32, &str), Vec<_>> = BTreeMap::new();
        let small = |file: &LiveFile| {
            file.facts.kind == FileKind::Data && file.facts.bytes < full && fold.is_visible(file.generation)
        };
        for (path, file) in fold.files.iter().filter(|(_, file)| small(file)) {
            let key = (step(file.facts.bytes), file.generation, directory(path));
            gathered.entry(key).or_default().push((path, file));
        }
        // To a generation that is history nothing comes any more: waiting would not gather more.
        let enough = |generation: u32| match eagerness {
            Eagerness::Gathered if generation == fold.generation => GATHERED,
            Eagerness::Gathered | Eagerness::Any => 2,
        };
        let ((_, generation, _), mut files) =
            gathered.into_iter().find(|((_, generation, _), files)| files.len() >= enough(*generation))?;
        files.sort_by_key(|(path, file)| (file.commit, ordinal(path)));
        // A quarter more than a full file has: merged they take less room than apart.
        let mut bytes = 0;
        let room = full.saturating_add(full / 4);
        let taken = files.iter().take(MOST_INPUTS).take_while(|(_, file)| {
            let before = bytes;
            bytes += file.facts.bytes;
            before < room
        });
        let inputs = taken.map(|(path, file)| Input::of(path, file)).collect();
        let partition = files.first().map(|(_, file)| file.facts.partition.clone()).unwrap_or_default();
        Some(Self { generation, unit: unit("merge", fold), partition, inputs, sought: sought(fold) })
    }

    /// Whether all of the files are still part of their generation, and nothing is being filled or rewritten.
    pub(crate) fn still_stands(&self, fold: &Fold) -> bool {
        let live = |input: &Input| {
            fold.files
                .get(&input.path)
                .is_some_and(|file| file.generation == self.generation && file.facts.sha256 == input.sha256)
        };
        fold.open.is_none()
            && fold.is_visible(fold.generation)
            && fold.is_visible(self.generation)
            && self.inputs.iter().all(live)
    }

    pub(crate) fn rows(&self) -> u64 {
        self.inputs.iter().map(|input| input.rows).sum()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.inputs.iter().map(|input| input.bytes).sum()
    }
}

/// Each file that readers see, to be written anew by itself.
pub(crate) fn each_visible_file(fold: &Fold) -> Vec<(String, Choice)> {
    let rewritten = |(path, file): (&String, &LiveFile)| {
        let choice = Choice {
            generation: file.generation,
            unit: unit("rewrite", fold),
            partition: file.facts.partition.clone(),
            inputs: vec![Input::of(path, file)],
            sought: sought(fold),
        };
        (path.clone(), choice)
    };
    let visible = |file: &LiveFile| file.facts.kind == FileKind::Data && fold.is_visible(file.generation);
    fold.files.iter().filter(|(_, file)| visible(file)).map(rewritten).collect()
}

fn unit(what: &str, fold: &Fold) -> String {
    let stream = format!("{}.{}", fold.stream.namespace, fold.stream.name);
    format!("{what}/{stream}/{}/{}", fold.generation, fold.number)
}

fn sought(fold: &Fold) -> Vec<String> {
    let Some(definition) = &fold.definition else { return Vec::new() };
    let partition = definition
        .partition
        .iter()
        .filter_map(|field| field.parse::<lakeward_core::PartitionField>().ok())
        .map(|field| field.column);
    definition.key.iter().chain(&definition.cursor).cloned().chain(partition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fold::OpenBackfill;
    use crate::record::FileFacts;

    const FULL: u64 = 128 << 20;

    fn fold(files: &[(&str, u64, u64)]) -> Fold {
        let mut fold = Fold { generation: 1, visible: vec![1], number: 99, ..Fold::default() };
        for (path, commit, bytes) in files {
            let facts = FileFacts {
                kind: FileKind::Data,
                rows: 1,
                bytes: *bytes,
                partition: Vec::new(),
                sha256: String::new(),
                staged: String::new(),
            };
            let file = LiveFile { generation: 1, commit: *commit, chunk: None, facts };
            fold.files.insert((*path).to_owned(), file);
        }
        fold
    }

    fn chosen(fold: &Fold, eagerness: Eagerness) -> Vec<String> {
        let choice = Choice::of(fold, eagerness, FULL);
        choice.map(|choice| choice.inputs.into_iter().map(|input| input.path).collect()).unwrap_or_default()
    }

    #[test]
    fn files_of_one_size_and_directory_are_merged_in_the_order_of_their_commits() {
        let files = [
            ("a/1-000000000009-00000000-0.parquet", 9, 100),
            ("a/1-000000000002-00000000-10.parquet", 2, 100),
            ("a/1-000000000002-00000000-9.parquet", 2, 200),
            ("a/1-000000000001-00000000-0.parquet", 1, 20 << 10),
            ("b/1-000000000001-00000000-0.parquet", 1, 100),
            ("b/1-000000000003-00000000-0.parquet", 3, FULL),
            ("b/1-000000000004-00000000-0.parquet", 4, FULL + 1),
        ];
        let expected = [files[2].0, files[1].0, files[0].0];
        assert_eq!(chosen(&fold(&files), Eagerness::Any), expected);
        assert!(chosen(&fold(&files), Eagerness::Gathered).is_empty());
        assert!(chosen(&fold(&files[3..]), Eagerness::Any).is_empty());
    }

    #[test]
    fn many_are_merged_by_themselves_up_to_a_full_file() {
        let names: Vec<String> = (1..40).map(|commit| format!("1-{commit:012}-00000000-0.parquet")).collect();
        let of_size = |count: usize, bytes: u64| {
            let files: Vec<(&str, u64, u64)> = names
                .iter()
                .zip(1..)
                .take(count)
                .map(|(name, commit)| (name.as_str(), commit, bytes))
                .collect();
            chosen(&fold(&files), Eagerness::Gathered).len()
        };
        assert_eq!(of_size(GATHERED - 1, 100), 0);
        assert_eq!(of_size(GATHERED, 100), GATHERED);
        assert_eq!(of_size(39, 100), 39);
        assert_eq!(of_size(39, 40 << 20), 4);
    }

    #[test]
    fn of_a_history_few_files_stay_and_generations_stay_apart() {
        let files = [
            ("1-000000000001-00000000-0.parquet", 1, 1),
            ("1-000000000002-00000000-0.parquet", 2, 1),
            ("2-000000000003-00000000-0.parquet", 3, 1),
            ("2-000000000004-00000000-0.parquet", 4, 1),
            ("3-000000000005-00000000-0.parquet", 5, 1),
        ];
        let mut history = Fold { generation: 2, visible: vec![1, 2], ..fold(&files) };
        for (path, file) in &mut history.files {
            file.generation = u32::from(path.as_bytes()[0] - b'0');
        }
        let choice = Choice::of(&history, Eagerness::Gathered, FULL).unwrap();
        assert_eq!((choice.generation, choice.inputs.len()), (1, 2));
        assert!(choice.still_stands(&history));
        for input in choice.inputs {
            history.files.remove(&input.path);
        }
        assert_eq!(Choice::of(&history, Eagerness::Gathered, FULL), None);
        let choice = Choice::of(&history, Eagerness::Any, FULL).unwrap();
        assert_eq!((choice.generation, choice.inputs.len()), (2, 2));
    }

    #[test]
    fn what_is_hidden_or_being_filled_is_left_alone() {
        let files =
            [("1-000000000001-00000000-0.parquet", 1, 1), ("1-000000000002-00000000-0.parquet", 2, 1)];
        let whole = fold(&files);
        let choice = Choice::of(&whole, Eagerness::Any, FULL).unwrap();
        assert!(choice.still_stands(&whole));
        let open =
            Some(OpenBackfill { plan: Vec::new(), done: BTreeMap::new(), snapshot: Default::default() });
        for other in [
            Fold { open, ..whole.clone() },
            Fold { visible: Vec::new(), ..whole.clone() },
            Fold { generation: 2, visible: vec![2], ..whole.clone() },
        ] {
            assert_eq!(Choice::of(&other, Eagerness::Any, FULL), None);
            assert!(!choice.still_stands(&other));
        }
        let mut gone = whole;
        gone.files.pop_last();
        assert!(!choice.still_stands(&gone));
    }

    #[test]
    fn a_row_is_rewritten_about_once_a_step_and_few_files_stay() {
        // Commits of 6 KiB for a day: each merge keeps nine tenths of the bytes.
        let mut files: Vec<(u64, u64)> = Vec::new();
        let (mut rewritten, mut written, mut most) = (0, 0, 0);
        for commit in 1..=86_400u64 {
            files.push((commit, 6 << 10));
            written += 6 << 10;
            if commit % 32 > 0 {
                continue;
            }
            most = most.max(files.len());
            loop {
                let named: Vec<(String, u64, u64)> = files
                    .iter()
                    .map(|(commit, bytes)| (format!("1-{commit:012}-00000000-0.parquet"), *commit, *bytes))
                    .collect();
                let listed: Vec<(&str, u64, u64)> =
                    named.iter().map(|(path, commit, bytes)| (path.as_str(), *commit, *bytes)).collect();
                let Some(choice) = Choice::of(&fold(&listed), Eagerness::Gathered, FULL) else { break };
                let merged: std::collections::BTreeSet<String> =
                    choice.inputs.iter().map(|input| input.path.clone()).collect();
                files.retain(|(commit, _)| !merged.contains(&format!("1-{commit:012}-00000000-0.parquet")));
                // The newest of its commits stands for it.
                let last = merged.last().unwrap()[2..14].parse().unwrap();
                files.push((last, choice.bytes() / 10 * 9));
                rewritten += choice.bytes();
            }
        }
        assert!(most < 150, "{most} files");
        assert!(rewritten < written * 6, "{rewritten} bytes rewritten of {written}");
    }
}
