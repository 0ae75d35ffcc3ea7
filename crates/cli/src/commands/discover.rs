//! `lakeward discover`: what the source offers, merged into streams.json.

use std::io::Write;
use std::path::Path;

use lakeward_core::{Catalog, Error, ErrorKind, Result, ResultExt, Severity};
use lakeward_engine::AbstractDriver;

use crate::args::DiscoverArgs;
use crate::config;
use crate::failure::ExitCode;
use crate::messages::Console;
use crate::output;
use crate::quantity::{counted, listed};

/// More changes than this are counted, not listed.
const MOST_CHANGES: usize = 100;

/// Writes the merged catalog and says what changed.
pub(crate) async fn run(args: &DiscoverArgs, console: &Console) -> Result<ExitCode> {
    let output = args.output.as_deref().unwrap_or(&args.streams);
    let earlier = match args.streams.try_exists() {
        Ok(true) => Some(config::load_catalog(&args.streams)?),
        _ => None,
    };
    let first = earlier.is_none();
    let driver = config::source(&args.source.config)?;
    let (catalog, changes) = AbstractDriver::discover(driver.as_ref(), earlier, !args.no_select).await?;
    // A schema that is not there offers nothing, without a word; nor does one that the role may not look into.
    let least = if catalog.streams.is_empty() { Severity::Warning } else { Severity::Error };
    for finding in driver.check(&[]).await?.iter().filter(|finding| finding.severity >= least) {
        let remedy = finding.remedy.as_deref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        console.say(&output::harmless(&format!("{}: {}{remedy}", finding.subject, finding.message)));
    }
    if output == Path::new("-") {
        output::print_json(&catalog)?;
    } else {
        write(output, &catalog)?;
    }
    if let Some(warning) = unlogged(&catalog) {
        console.say(&output::harmless(&warning));
    }
    let selected: usize = catalog.selected_streams.values().map(Vec::len).sum();
    if !first {
        for change in changes.iter().take(MOST_CHANGES) {
            console.say(&output::harmless(change));
        }
        if changes.len() > MOST_CHANGES {
            console.say(&format!("… and {} more changes", changes.len() - MOST_CHANGES));
        }
        if changes.is_empty() {
            console.say("nothing changed at the source");
        }
    }
    console.say(&format!(
        "{} offered, {selected} selected; written to {}",
        counted(catalog.streams.len(), "stream"),
        if output == Path::new("-") { "standard output".to_owned() } else { output.display().to_string() },
    ));
    Ok(ExitCode::DONE)
}

/// What is to be said of columns that a backfill reads and no change has, before somebody follows their streams.
fn unlogged(catalog: &Catalog) -> Option<String> {
    let followable = catalog
        .streams
        .iter()
        .map(|entry| &entry.stream)
        .filter(|stream| stream.supported_sync_modes.iter().any(|mode| mode.follows_log()));
    let named: Vec<String> = followable
        .filter_map(|stream| {
            let columns = stream.type_schema.columns().filter(|(_, column)| column.unlogged);
            let columns: Vec<&str> = columns.map(|(name, _)| name).collect();
            (!columns.is_empty())
                .then(|| format!("{}.{} ({})", stream.namespace, stream.name, listed(&columns)))
        })
        .collect();
    (!named.is_empty()).then(|| {
        format!(
            "changes have no value for generated columns of {}: where these streams are followed, name them in \
             columns.exclude",
            listed(&named)
        )
    })
}

/// Writes the file whole or not at all: the user's choices are in it.
fn write(path: &Path, catalog: &Catalog) -> Result<()> {
    let text = if config::is_yaml(path) {
        serde_norway::to_string(catalog)
            .or_fail(ErrorKind::Bug, || "the streams cannot be written as YAML".to_owned())?
    } else {
        output::json(catalog)?
    };
    replace(path, text.as_bytes()).map_err(|error| {
        Error::new(ErrorKind::Config, "the streams file cannot be written")
            .at("file", path.display())
            .source(error)
            .hint("its directory must exist and be writable; --output names another place, - standard output")
    })
}

/// Puts a file in the place of another in one step, synced, with the other's permissions.
fn replace(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    // A link is followed, so that the file it names is replaced and not the link.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut name = target.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = target.with_file_name(name);
    let written = std::fs::File::create(&temporary)
        .and_then(|mut file| {
            if let Ok(earlier) = std::fs::metadata(&target) {
                file.set_permissions(earlier.permissions())?;
            }
            file.write_all(contents)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&temporary, &target));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
