//! Compares a table of a test server with its stream in a lake, for scripts and by hand:
//! prints the report as JSON and exits with 1 if they differ.
#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use lakeward_testkit::reconcile::{Mode, Options, reconcile};
use lakeward_testkit::server::{PgServer, TestDatabase, Version};

#[derive(Parser)]
struct Arguments {
    /// The server, as scripts/servers names it: postgres15 or postgres18.
    #[arg(long, default_value = "postgres18")]
    server: String,
    /// The database that holds the source.
    #[arg(long)]
    database: String,
    /// The root of the lake.
    #[arg(long)]
    lake: PathBuf,
    /// The table, as schema.table.
    #[arg(long)]
    table: String,
    /// How the rows of the lake make a table.
    #[arg(long, value_enum, default_value = "full-refresh")]
    mode: ModeName,
    /// A column to leave out; may be repeated.
    #[arg(long)]
    exclude: Vec<String>,
    /// COLUMN=TYPE: compare the column as values of this SQL type; may be repeated.
    #[arg(long)]
    compare_as: Vec<String>,
}

#[derive(Clone, ValueEnum)]
enum ModeName {
    FullRefresh,
    Incremental,
    Cdc,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let version = Version::ALL.into_iter().find(|version| version.name() == arguments.server);
    let server = PgServer::shared(version.ok_or_else(|| anyhow::anyhow!("no server {}", arguments.server))?);
    let mut options = Options::new(match arguments.mode {
        ModeName::FullRefresh => Mode::FullRefresh,
        ModeName::Incremental => Mode::Incremental,
        ModeName::Cdc => Mode::Cdc,
    });
    for column in &arguments.exclude {
        options = options.exclude(column);
    }
    for pair in &arguments.compare_as {
        let (column, sql_type) =
            pair.split_once('=').ok_or_else(|| anyhow::anyhow!("{pair} is no COLUMN=TYPE"))?;
        options = options.compare_as(column, sql_type);
    }
    let db = TestDatabase::existing(&server, &arguments.database);
    let report = reconcile(&db, &arguments.lake, arguments.table.as_str(), &options).await?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(if report.is_same() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
