//! `lakeward spec`: what stands in a config.

use lakeward_core::Result;
use serde_json::json;

use crate::args::{OutputFormat, SpecArgs};
use crate::failure::ExitCode;
use crate::output::{Surface, print, print_json, table};
use crate::registry;

/// Lists connectors, or prints one's schema.
pub(crate) fn run(args: &SpecArgs) -> Result<ExitCode> {
    if let Some(connector) = &args.connector {
        print_json(&registry::spec(connector)?)?;
        return Ok(ExitCode::DONE);
    }
    let sources = registry::SOURCES.iter().map(|it| (it.kind, "source", it.about));
    let destinations = registry::DESTINATIONS.iter().map(|it| (it.kind, "destination", it.about));
    let connectors = sources.chain(destinations);
    match args.output {
        OutputFormat::Json => {
            let list: Vec<_> = connectors
                .map(|(kind, role, about)| json!({ "connector": kind, "role": role, "about": about }))
                .collect();
            print_json(&list)?;
        }
        OutputFormat::Text => {
            let rows = connectors.map(|(kind, role, about)| vec![kind.into(), role.into(), about.into()]);
            print(&table(Surface::stdout(), &["connector", "role", "about"], rows))?;
        }
    }
    Ok(ExitCode::DONE)
}
