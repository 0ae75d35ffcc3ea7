//! What `check` reports.

use serde::Serialize;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It works, with a cost or a risk.
    Warning,
    /// A sync would fail.
    Error,
}

/// One result of a preflight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What was looked at: a server, a setting, a stream.
    pub subject: String,
    /// What was found.
    pub message: String,
    /// What to do about it, exactly: an SQL statement, a setting, a privilege.
    pub remedy: Option<String>,
}

impl Finding {
    /// Something is as it should be.
    pub fn ok(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Ok, subject: subject.into(), message: message.into(), remedy: None }
    }

    /// Something works, with a cost or a risk.
    pub fn warning(
        subject: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            subject: subject.into(),
            message: message.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// A sync would fail.
    pub fn error(subject: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Error, ..Self::warning(subject, message, remedy) }
    }
}
