//! `lakeward check`: the preflight.

use std::sync::Arc;

use lakeward_core::{Error, ErrorKind, Finding, Result, Severity};
use lakeward_engine::{AbstractDriver, Resolved};

use crate::args::{CheckArgs, OutputFormat};
use crate::config;
use crate::failure::ExitCode;
use crate::output::{Surface, harmless, print, print_json, table};
use crate::quantity::counted;

/// What findings about streams.json are filed under.
const STREAMS: &str = "streams";

/// Prints what was found; `SOURCE` where a sync would fail.
pub(crate) async fn run(args: &CheckArgs) -> Result<ExitCode> {
    let driver = config::source(&args.source.config)?;
    let destination = args.destination.as_deref().map(config::destination).transpose()?;
    let catalog = args.streams.as_deref().map(config::load_catalog).transpose()?;

    let resolved = match &catalog {
        Some(catalog) => {
            Some(AbstractDriver::resolve_offered(driver.as_ref(), destination.as_deref(), catalog).await)
        }
        None => None,
    };
    // What these need, or where there are none, what the config alone lets expect.
    let streams: Vec<_> = match &resolved {
        Some(Ok(Resolved { streams, .. })) => streams.iter().map(|(stream, _)| Arc::clone(stream)).collect(),
        Some(Err(_)) | None => Vec::new(),
    };
    let mut findings = driver.check(&streams).await?;
    let is_fit = !refused(&findings);
    if let Some(destination) = &destination {
        findings.extend(destination.check().await?);
    }
    match resolved {
        None => {}
        Some(Ok(Resolved { streams, unfit })) if streams.is_empty() && unfit.is_empty() => {
            findings.push(Finding::error(
                STREAMS,
                "no stream is selected",
                "name streams under selected_streams; `lakeward discover` writes the file",
            ));
        }
        Some(Ok(Resolved { unfit, .. })) => findings.extend(unfit.iter().map(|(_, error)| mistake(error))),
        // A source that is not fit is why, and has been named more clearly.
        Some(Err(_)) if !is_fit => {}
        // What the file asks for is not to be had: that is what a preflight is there to find.
        Some(Err(error)) if matches!(error.kind(), ErrorKind::Config | ErrorKind::Schema) => {
            findings.push(mistake(&error));
        }
        Some(Err(error)) => return Err(error),
    }
    match args.output {
        OutputFormat::Json => print_json(&findings)?,
        OutputFormat::Text => print(&text(&findings, Surface::stdout()))?,
    }
    Ok(if refused(&findings) { ExitCode::SOURCE } else { ExitCode::DONE })
}

/// What streams.json asks for and cannot have.
fn mistake(error: &Error) -> Finding {
    Finding::error(STREAMS, error.to_string(), error.remedy().unwrap_or("correct it in streams.json"))
}

fn refused(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}

fn text(findings: &[Finding], surface: Surface) -> String {
    let rows = findings.iter().map(|finding| {
        let mark = match finding.severity {
            Severity::Ok => "ok",
            Severity::Warning => "warning",
            Severity::Error => "ERROR",
        };
        vec![
            mark.to_owned(),
            harmless(&finding.subject),
            harmless(&finding.message),
            finding.remedy.as_deref().map(harmless).unwrap_or_default(),
        ]
    });
    let mut result = table(surface, &["", "what", "found", "remedy"], rows);
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (warnings, errors) = (count(Severity::Warning), count(Severity::Error));
    result.push_str(&match (errors, warnings) {
        (0, 0) => "all is fit for a sync\n".to_owned(),
        (0, warnings) => format!("fit for a sync, with {}\n", counted(warnings, "warning")),
        (errors, warnings) => {
            format!("a sync would fail: {}, {}\n", counted(errors, "error"), counted(warnings, "warning"))
        }
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_refuses_and_its_remedy_is_shown() {
        let findings = [
            Finding::ok("server", "PostgreSQL 18"),
            Finding::error("wal_level", "it is replica", "ALTER SYSTEM SET wal_level = logical"),
        ];
        assert!(refused(&findings));
        assert!(!refused(&findings[..1]));
        let text = text(&findings, Surface::Plain);
        assert!(text.contains("ALTER SYSTEM SET wal_level = logical"), "{text}");
        assert!(text.ends_with("a sync would fail: 1 error, 0 warnings\n"), "{text}");
    }
}
