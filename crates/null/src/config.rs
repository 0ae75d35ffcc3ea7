//! The destination's config.

use schemars::JsonSchema;
use serde::Deserialize;

/// Nothing is kept.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NullConfig {
    /// Always "null".
    #[serde(rename = "type")]
    pub kind: Kind,
}

/// The connector's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Nothing is kept.
    Null,
}
