//! The one explicit list of connectors. Nothing else in Lakeward knows a concrete one.

use std::sync::Arc;

use lakeward_core::{Destination, DriverInterface, Error, ErrorKind, Result, nearest};
use serde_json::Value;

/// A connector: what a config's `type` calls it, its config's JSON Schema, and how it is built.
pub(crate) struct Connector<T: ?Sized> {
    /// What `type` says.
    pub(crate) kind: &'static str,
    /// One line for the list of connectors.
    pub(crate) about: &'static str,
    /// The JSON Schema of its config.
    pub(crate) spec: fn() -> Value,
    /// The config's field that names a directory of this machine to write below, where it has one.
    pub(crate) directory: Option<&'static str>,
    build: fn(Value) -> Result<Arc<T>>,
}

impl<T: ?Sized> Connector<T> {
    /// Builds it from a config whose variables are resolved. Nothing is connected to yet.
    ///
    /// # Errors
    /// `Config`, naming the field, never its value.
    pub(crate) fn build(&self, config: Value) -> Result<Arc<T>> {
        (self.build)(config)
    }
}

/// Every source of this build.
pub(crate) static SOURCES: &[Connector<dyn DriverInterface>] = &[Connector {
    kind: "postgres",
    about: "PostgreSQL: tables, partitioned tables and views; full refresh, incremental and changes from the log",
    spec: lakeward_postgres::spec,
    directory: None,
    build: |config| Ok(Arc::new(lakeward_postgres::PostgresDriver::from_config(config)?)),
}];

/// Every destination of this build.
pub(crate) static DESTINATIONS: &[Connector<dyn Destination>] = &[
    Connector {
        kind: "parquet",
        about: "Parquet files in a directory, with a commit log: exactly once",
        spec: lakeward_parquet::spec,
        directory: Some("path"),
        build: |config| Ok(Arc::new(lakeward_parquet::ParquetDestination::from_config(config)?)),
    },
    Connector {
        kind: "null",
        about: "keeps nothing: measures a source alone",
        spec: lakeward_null::spec,
        directory: None,
        build: |config| Ok(Arc::new(lakeward_null::NullDestination::from_config(config)?)),
    },
];

/// The source of that kind.
///
/// # Errors
/// `Config`, with the nearest known name.
pub(crate) fn source(kind: &str) -> Result<&'static Connector<dyn DriverInterface>> {
    find(SOURCES, "source", kind).map_err(|error| match known(DESTINATIONS).contains(&kind) {
        true => error.hint(format!("{kind} is a destination: are the two configs mixed up?")),
        false => error,
    })
}

/// The destination of that kind.
///
/// # Errors
/// As [`source`].
pub(crate) fn destination(kind: &str) -> Result<&'static Connector<dyn Destination>> {
    find(DESTINATIONS, "destination", kind).map_err(|error| match known(SOURCES).contains(&kind) {
        true => error.hint(format!("{kind} is a source: are the two configs mixed up?")),
        false => error,
    })
}

/// The config schema of a connector of either sort.
///
/// # Errors
/// As [`source`].
pub(crate) fn spec(kind: &str) -> Result<Value> {
    let source = SOURCES.iter().find(|connector| connector.kind == kind).map(|connector| connector.spec);
    let destination = DESTINATIONS.iter().find(|connector| connector.kind == kind).map(|it| it.spec);
    match source.or(destination) {
        Some(spec) => Ok(spec()),
        None => Err(unknown("connector", kind, &[known(SOURCES), known(DESTINATIONS)].concat())),
    }
}

fn known<T: ?Sized>(connectors: &[Connector<T>]) -> Vec<&'static str> {
    connectors.iter().map(|connector| connector.kind).collect()
}

fn find<T: ?Sized>(
    connectors: &'static [Connector<T>],
    role: &str,
    kind: &str,
) -> Result<&'static Connector<T>> {
    connectors
        .iter()
        .find(|connector| connector.kind == kind)
        .ok_or_else(|| unknown(role, kind, &known(connectors)))
}

fn unknown(role: &str, kind: &str, known: &[&str]) -> Error {
    let list = known.join(", ");
    Error::new(ErrorKind::Config, format!("no {role} is called \"{kind}\"")).hint(
        match nearest(kind, known.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"? this build knows: {list}"),
            None => format!("this build knows: {list}"),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_type_is_answered_with_the_nearest_name_and_the_list() {
        let error = source("postgresql").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.remedy().unwrap().contains("did you mean \"postgres\"?"), "{:?}", error.remedy());
        let error = destination("iceberg").err().unwrap();
        assert_eq!(error.remedy(), Some("this build knows: parquet, null"));
        assert!(spec("parqet").unwrap_err().remedy().unwrap().contains("\"parquet\""));
    }

    #[test]
    fn mixed_up_configs_are_recognised() {
        assert!(source("parquet").err().unwrap().remedy().unwrap().contains("mixed up"));
        assert!(destination("postgres").err().unwrap().remedy().unwrap().contains("mixed up"));
    }
}
