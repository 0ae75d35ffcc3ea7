//! I/O failures as errors that name the path and what to do.

use std::io;
use std::path::Path;

use lakeward_core::{Error, ErrorKind};
use parquet::errors::ParquetError;

/// A failed file operation.
pub(crate) fn io_error(action: &str, path: &Path, error: io::Error) -> Error {
    let failure =
        Error::new(ErrorKind::Destination, format!("could not {action}")).at("path", path.display());
    let failure = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => failure.hint(
            "free space on the destination's file system and run again: what was committed is whole, and the \
             next run goes on from there",
        ),
        io::ErrorKind::PermissionDenied => {
            failure.hint("let the user that runs lakeward write to the destination's directory")
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => failure
            .hint("a part of the path is a file: correct \"path\" in the destination's config, or move the file away"),
        io::ErrorKind::NotFound => failure.hint("something removed the directory: look what, and run again"),
        io::ErrorKind::InvalidFilename => {
            failure.hint("the file system takes no name as long as this: set destination_table in streams.json")
        }
        io::ErrorKind::ReadOnlyFilesystem => failure.hint("mount the destination's file system for writing"),
        _ => failure,
    };
    failure.source(error)
}

/// A failure of the Parquet encoder, which wraps those of the file below it.
pub(crate) fn parquet_error(path: &Path, error: ParquetError) -> Error {
    let error = match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(inner) => return io_error("write a Parquet file", path, *inner),
            Err(inner) => ParquetError::External(inner),
        },
        other => other,
    };
    Error::new(ErrorKind::Destination, "could not write a Parquet file")
        .at("path", path.display())
        .source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_with_its_path_through_the_encoder_too() {
        let full = || io::Error::from_raw_os_error(28);
        let path = Path::new("/lake/x.part");
        for error in
            [io_error("write", path, full()), parquet_error(path, ParquetError::External(Box::new(full())))]
        {
            assert_eq!(error.kind(), ErrorKind::Destination);
            assert!(error.to_string().contains("/lake/x.part"), "{error}");
            assert!(error.remedy().unwrap().contains("free space"), "{error:?}");
        }
    }
}
