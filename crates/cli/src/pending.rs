//! Stands in for connectors until they are part of the workspace: their schemas are empty and they do not build.

use std::sync::Arc;

use lakeward_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};

pub(crate) fn spec() -> Value {
    json!({ "type": "object", "properties": { "type": { "type": "string" } } })
}

pub(crate) fn build<T: ?Sized>(_config: Value) -> Result<Arc<T>> {
    Err(Error::new(ErrorKind::Config, "this connector is not part of this build"))
}
