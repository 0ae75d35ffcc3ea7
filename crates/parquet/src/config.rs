//! The destination's config.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use lakeward_core::{Error, ErrorKind, Result};
use parquet::basic::{Compression, ZstdLevel};
use schemars::JsonSchema;
use serde::Deserialize;

/// The compression where the config names none.
pub const DEFAULT_COMPRESSION: &str = "zstd(1)";
/// The size at which a file is closed where the config names none.
pub const DEFAULT_TARGET_FILE_SIZE: &str = "256MiB";
/// The rows at which a row group is closed where the config names none.
pub const DEFAULT_ROW_GROUP_ROWS: usize = 1_000_000;

const MIN_TARGET_FILE_SIZE: u64 = 1 << 20;

/// Parquet files in a directory.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParquetConfig {
    /// Always "parquet".
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The directory, with or without `file://` before it. It is made where it does not exist.
    pub path: String,
    /// `zstd(1)` to `zstd(22)`, `snappy`, `lz4` or `uncompressed`.
    #[serde(default = "default_compression")]
    pub compression: String,
    /// The size at which a file is closed and the next begun: bytes, or text such as `256MiB`.
    #[serde(default = "default_target_file_size")]
    pub target_file_size: Size,
    /// The rows at which a row group is closed. Memory may close it sooner.
    #[serde(default = "default_row_group_rows")]
    pub row_group_rows: usize,
}

/// The connector's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Parquet files.
    Parquet,
}

/// A number of bytes, or text with a unit.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// A number and one of B, KB, KiB, MB, MiB, GB, GiB.
    Text(String),
}

fn default_compression() -> String {
    DEFAULT_COMPRESSION.to_owned()
}

fn default_target_file_size() -> Size {
    Size::Text(DEFAULT_TARGET_FILE_SIZE.to_owned())
}

fn default_row_group_rows() -> usize {
    DEFAULT_ROW_GROUP_ROWS
}

/// A config whose every value has been checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// The directory.
    pub(crate) root: PathBuf,
    /// The codec.
    pub(crate) compression: Compression,
    /// Bytes at which a file is closed.
    pub(crate) target_file_size: u64,
    /// Rows at which a row group is closed.
    pub(crate) row_group_rows: usize,
}

impl ParquetConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// `Config`, naming the field and what it takes.
    pub(crate) fn validate(&self) -> Result<Settings> {
        let refuse = |field: &'static str, hint: String| {
            Err(Error::new(ErrorKind::Config, "a value of the destination's config does not fit")
                .at("field", field)
                .hint(hint))
        };
        let path = self.path.strip_prefix("file://").unwrap_or(&self.path);
        if path.is_empty() {
            return refuse("path", "name a directory".to_owned());
        }
        if path.contains("://") {
            return refuse("path", "this destination writes to a local directory".to_owned());
        }
        if self.row_group_rows == 0 {
            return refuse("row_group_rows", "at least 1".to_owned());
        }
        let target_file_size = self.target_file_size.bytes()?;
        if target_file_size < MIN_TARGET_FILE_SIZE {
            return refuse("target_file_size", "at least 1MiB".to_owned());
        }
        Ok(Settings {
            root: PathBuf::from(path),
            compression: parse_compression(&self.compression)?,
            target_file_size,
            row_group_rows: self.row_group_rows,
        })
    }
}

impl Size {
    fn bytes(&self) -> Result<u64> {
        match self {
            Self::Bytes(bytes) => Ok(*bytes),
            Self::Text(text) => text.parse::<Bytes>().map(|bytes| bytes.0),
        }
    }
}

struct Bytes(u64);

impl FromStr for Bytes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let trimmed = text.trim();
        let digits = trimmed.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor: Option<u64> = match trimmed[digits.len()..].to_ascii_lowercase().as_str() {
            "" | "b" => Some(1),
            "kb" => Some(1_000),
            "mb" => Some(1_000_000),
            "gb" => Some(1_000_000_000),
            "kib" => Some(1 << 10),
            "mib" => Some(1 << 20),
            "gib" => Some(1 << 30),
            _ => None,
        };
        let number = digits.trim().parse::<u64>().ok();
        factor.zip(number).and_then(|(factor, number)| number.checked_mul(factor)).map(Bytes).ok_or_else(
            || {
                Error::new(ErrorKind::Config, "target_file_size is no size")
                    .hint("write a number of bytes, or text such as 256MiB")
            },
        )
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

fn parse_compression(text: &str) -> Result<Compression> {
    let level = |text: &str| -> Option<ZstdLevel> {
        let digits = text.strip_prefix("zstd(")?.strip_suffix(')')?;
        ZstdLevel::try_new(digits.trim().parse().ok()?).ok()
    };
    Ok(match text {
        "uncompressed" => Compression::UNCOMPRESSED,
        "snappy" => Compression::SNAPPY,
        "lz4" => Compression::LZ4_RAW,
        _ => match level(text) {
            Some(level) => Compression::ZSTD(level),
            None => {
                return Err(Error::new(ErrorKind::Config, "no compression is called so")
                    .at("field", "compression")
                    .hint("zstd(1) to zstd(22), snappy, lz4 or uncompressed"));
            }
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn settings(value: Value) -> Result<Settings> {
        let config: ParquetConfig = serde_json::from_value(value).unwrap();
        config.validate()
    }

    #[test]
    fn defaults_and_units() -> Result<()> {
        let settings_of = settings(json!({"type": "parquet", "path": "file:///lake"}))?;
        assert_eq!(settings_of.root, PathBuf::from("/lake"));
        assert_eq!(settings_of.target_file_size, 256 << 20);
        assert_eq!(settings_of.row_group_rows, 1_000_000);
        assert_eq!(settings_of.compression, Compression::ZSTD(ZstdLevel::try_new(1).unwrap()));
        let sized = settings(json!({"type": "parquet", "path": "x", "target_file_size": 1 << 21}))?;
        assert_eq!(sized.target_file_size, 1 << 21);
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (field, value) in [
            ("compression", json!("zstd(23)")),
            ("compression", json!("gzip")),
            ("target_file_size", json!("12 parsecs")),
            ("target_file_size", json!("1KiB")),
            ("row_group_rows", json!(0)),
            ("path", json!("s3://bucket")),
            ("path", json!("")),
        ] {
            let mut config = json!({"type": "parquet", "path": "x"});
            config[field] = value;
            assert_eq!(settings(config).unwrap_err().kind(), ErrorKind::Config, "{field}");
        }
    }
}
