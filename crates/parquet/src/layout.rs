//! Where everything lies: names, escaping, paths.
//!
//! ```text
//! <root>/<namespace>/<stream>/[<column>_<transform>=<value>/]<generation>-<commit>-<unit hash>-<n>.parquet
//! <root>/_lakeward/destination.json
//! <root>/_lakeward/<namespace>/<stream>/commits/<12 digits>.json
//!                                       staging/<run id>/*.part
//!                                       gen-<N>/            a hidden generation
//!                                       window-<commit>.bin
//! ```
//!
//! A name keeps the place that it got at first sight: of two that differ only in case, the later one has a hash
//! behind it. Files whose names do not match the pattern are never touched.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lakeward_core::{Result, StreamId};
use sha2::{Digest, Sha256};

use crate::durable;

/// The directory of everything that is not for readers.
pub(crate) const LOG_ROOT: &str = "_lakeward";
/// What Hive calls the directory of nulls.
const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";
/// Names are cut here: file systems allow 255 bytes, and a hash must fit behind.
const MAX_NAME: usize = 200;

/// The first `digits` hex digits of a text's SHA-256.
fn short_hash(text: &str, digits: usize) -> String {
    let mut hex = hex(&Sha256::digest(text.as_bytes()));
    hex.truncate(digits);
    hex
}

/// Bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A name as a path component: what is outside `[A-Za-z0-9_-]` percent-encoded, never a leading `_` or `.`.
pub(crate) fn escape(name: &str) -> String {
    let escaped = escape_value(name);
    let escaped = match escaped.strip_prefix('_') {
        Some(rest) => format!("%5F{rest}"),
        None => escaped,
    };
    cut(escaped, name)
}

fn escape_value(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn cut(mut escaped: String, name: &str) -> String {
    if escaped.len() > MAX_NAME {
        escaped.truncate(MAX_NAME);
        escaped.push('~');
        escaped.push_str(&short_hash(name, 6));
    }
    escaped
}

/// The directory of one partition value, Hive's way.
pub(crate) fn partition_dir(field: &str, value: Option<&str>) -> String {
    let field = escape(field);
    match value {
        None => format!("{field}={NULL_PARTITION}"),
        Some(value) => {
            let room = MAX_NAME.saturating_sub(field.len());
            let mut escaped = escape_value(value);
            // A text that says so is no null.
            if escaped == NULL_PARTITION {
                escaped.replace_range(..1, "%5F");
            }
            if escaped.len() > room {
                escaped.truncate(room);
                escaped.push('~');
                escaped.push_str(&short_hash(value, 6));
            }
            format!("{field}={escaped}")
        }
    }
}

/// A data file's name.
pub(crate) fn file_name(generation: u32, commit: u64, unit: &str, n: usize) -> String {
    format!("{generation}-{commit:012}-{}-{n}.parquet", short_hash(unit, 8))
}

/// Whether a file is one of ours, by its name.
pub(crate) fn is_ours(path: &Path) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Option<Vec<&str>> = path
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.strip_suffix(".parquet"))
        .map(|stem| stem.split('-').collect());
    match parts.as_deref() {
        Some([generation, commit, unit, n]) => {
            digits(generation)
                && commit.len() == 12
                && digits(commit)
                && unit.len() == 8
                && unit.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
                && digits(n)
        }
        _ => false,
    }
}

/// A glob of the same pattern, as engines understand it.
pub(crate) const FILE_GLOB: &str = "*-????????????-????????-*.parquet";

/// The directories of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamPaths {
    /// What readers see.
    pub(crate) visible: PathBuf,
    /// What they do not.
    pub(crate) meta: PathBuf,
}

impl StreamPaths {
    pub(crate) fn commits(&self) -> PathBuf {
        self.meta.join("commits")
    }

    pub(crate) fn record(&self, number: u64) -> PathBuf {
        self.commits().join(format!("{number:012}.json"))
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.meta.join("staging")
    }

    pub(crate) fn staging_of(&self, run: &str) -> PathBuf {
        self.staging().join(escape(run))
    }

    pub(crate) fn hidden(&self, generation: u32) -> PathBuf {
        self.meta.join(format!("gen-{generation}"))
    }

    /// Where the former visible directory goes while two renames stand in for an exchange.
    pub(crate) fn retired(&self, generation: u32) -> PathBuf {
        self.meta.join(format!("old-{generation}"))
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.meta.join("lock")
    }
}

/// The root directory and the names that are taken in it.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    /// By directory, the names seen in it.
    taken: Mutex<HashMap<PathBuf, HashSet<String>>>,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, taken: Mutex::default() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn log_root(&self) -> PathBuf {
        self.root.join(LOG_ROOT)
    }

    pub(crate) fn identity_file(&self) -> PathBuf {
        self.log_root().join("destination.json")
    }

    /// The directories of a stream, which need not exist. The answer is the same ever after.
    pub(crate) fn stream(&self, id: &StreamId) -> Result<StreamPaths> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let namespace = Self::place(&mut taken, &self.log_root(), &id.namespace)?;
        let log = self.log_root().join(&namespace);
        let stream = Self::place(&mut taken, &log, &id.name)?;
        Ok(StreamPaths { visible: self.root.join(namespace).join(&stream), meta: log.join(stream) })
    }

    fn place(taken: &mut HashMap<PathBuf, HashSet<String>>, parent: &Path, name: &str) -> Result<String> {
        let names = match taken.get_mut(parent) {
            Some(names) => names,
            None => {
                let names = durable::names(parent)?.into_iter().collect();
                taken.entry(parent.to_owned()).or_insert(names)
            }
        };
        let exact = escape(name);
        let hashed = format!("{exact}~{}", short_hash(name, 6));
        let chosen = if names.contains(&hashed) {
            hashed
        } else if names.contains(&exact) || !names.iter().any(|other| other.eq_ignore_ascii_case(&exact)) {
            exact
        } else {
            hashed
        };
        names.insert(chosen.clone());
        Ok(chosen)
    }

    /// Forgets the names seen, after a stream was cleared.
    pub(crate) fn forget(&self) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_path_components() {
        assert_eq!(escape("orders"), "orders");
        assert_eq!(escape("_hidden"), "%5Fhidden");
        assert_eq!(escape(".."), "%2E%2E");
        assert_eq!(escape("a/b c\"é"), "a%2Fb%20c%22%C3%A9");
        assert!(escape(&"é".repeat(63)).len() < 255);
        assert_ne!(escape(&"é".repeat(63)), escape(&"é".repeat(62)));
    }

    #[test]
    fn partitions_are_hives() {
        assert_eq!(partition_dir("created_at_month", Some("2024-01")), "created_at_month=2024-01");
        assert_eq!(partition_dir("_r_value", Some("a/b")), "%5Fr_value=a%2Fb");
        assert_eq!(partition_dir("r_value", None), "r_value=__HIVE_DEFAULT_PARTITION__");
        assert!(partition_dir("r_value", Some(&"x".repeat(999))).len() < 255);
    }

    #[test]
    fn our_files_are_told_by_their_names() {
        let ours = file_name(3, 17, "backfill/public.t/3/0", 0);
        assert!(is_ours(Path::new(&ours)), "{ours}");
        assert!(is_ours(Path::new("a_month=2024-01/1-000000000001-0123abcd-12.parquet")));
        for foreign in [
            "notes.txt",
            "part-0.parquet",
            "1-000000000001-0123ABCD-0.parquet",
            "1-1-0123abcd-0.parquet",
            "1-000000000001-0123abcd-0.parquet.part",
            "-000000000001-0123abcd-0.parquet",
        ] {
            assert!(!is_ours(Path::new(foreign)), "{foreign}");
        }
    }

    #[test]
    fn names_that_differ_in_case_only_keep_their_places() -> Result<()> {
        let root = tempfile::tempdir().unwrap();
        let id = |name: &str| StreamId::new("public", name);
        let layout = Layout::new(root.path().to_owned());
        let first = layout.stream(&id("Orders"))?;
        let second = layout.stream(&id("orders"))?;
        assert!(first.meta.ends_with("public/Orders"));
        assert!(second.meta.to_string_lossy().contains("public/orders~"), "{second:?}");
        std::fs::create_dir_all(&first.meta).unwrap();
        std::fs::create_dir_all(&second.meta).unwrap();
        // Asked in the other order, after a restart, both answers stand.
        let later = Layout::new(root.path().to_owned());
        assert_eq!(later.stream(&id("orders"))?, second);
        assert_eq!(later.stream(&id("Orders"))?, first);
        Ok(())
    }
}
