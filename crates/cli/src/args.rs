//! What can be said on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use lakeward_core::{ChangeMode, CheckpointInterval};
use lakeward_engine::Options;

use crate::config;
use crate::quantity::{parse_bytes, parse_checkpoint_interval, parse_duration};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
A first replication:
  lakeward spec postgres                       what stands in source.json
  lakeward check                               whether source and role are fit for it
  lakeward discover                            writes streams.json; choose streams and modes in it
  lakeward sync --dry-run                      what would be done
  lakeward sync                                does it; run it again for what is new

Exit codes: 0 done · 1 bug · 2 usage or config · 3 connection · 4 source not fit · 5 data or schema
policy stopped it · 6 destination · 7 state · 130 interrupted, what was committed stands";

/// Replicates databases into open files: every row, then every change, exactly once.
#[derive(Debug, Parser)]
#[command(name = "lakeward", version, styles = STYLES, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How it speaks.
    #[command(flatten)]
    pub(crate) speech: Speech,
}

/// What standard error shows.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Messages (standard error)")]
pub(crate) struct Speech {
    /// How much is logged. Logs hold no row values and no secrets at any level.
    #[arg(long, global = true, value_enum, default_value_t = LogLevel::Info)]
    pub(crate) log_level: LogLevel,
    /// Text, or one JSON object per line. [default: text on a terminal, json elsewhere]
    #[arg(long, global = true, value_enum)]
    pub(crate) log_format: Option<LogFormat>,
    /// Progress: `auto` shows bars on a terminal and events elsewhere, `always` shows bars everywhere, `never`
    /// leaves bars and routine events out.
    #[arg(long, global = true, value_enum, default_value_t = ProgressWhen::Auto)]
    pub(crate) progress: ProgressWhen,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    /// Failures only.
    Error,
    /// And what people should know.
    Warn,
    /// And what happens.
    Info,
    /// And how.
    Debug,
    /// Everything.
    Trace,
}

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// When progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressWhen {
    /// Bars on a terminal, events elsewhere.
    Auto,
    /// Bars everywhere.
    Always,
    /// Neither bars nor routine events.
    Never,
}

/// How a result is written to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists connectors, or prints the JSON Schema of one's config
    #[command(after_help = "Examples:\n  lakeward spec\n  lakeward spec postgres | jq .properties")]
    Spec(SpecArgs),
    /// Connects and says whether everything is fit for a sync, with a remedy for what is not
    #[command(after_help = "Examples:\n  lakeward check --config source.json\n  \
        lakeward check --destination destination.json --streams streams.json --output json\n\n\
        Exits with 4 where a sync would fail, with 3 where the server cannot be reached at all.")]
    Check(CheckArgs),
    /// Finds the source's streams and writes streams.json, keeping what you chose in it
    #[command(after_help = "Examples:\n  lakeward discover\n  \
        lakeward discover --no-select                offers new streams without selecting them\n  \
        lakeward discover --output - | jq '.streams | length'")]
    Discover(DiscoverArgs),
    /// Replicates the selected streams: all rows first, then what changed
    #[command(after_help = "Examples:\n  lakeward sync --dry-run\n  lakeward sync\n  \
        lakeward sync --follow --cdc-mode concurrent\n  \
        lakeward sync --state /var/lib/lakeward/shop.json --memory-limit 512MiB --max-connections 2\n\n\
        A run that is killed at any moment is simply started again: no row is lost and none is doubled.")]
    Sync(SyncArgs),
    /// Shows where every stream stands; with --config also how far the source is ahead
    #[command(after_help = "Examples:\n  lakeward status\n  lakeward status --state shop.json --output json")]
    Status(StatusArgs),
    /// Lists exactly the files that make a stream
    #[command(after_help = "Examples:\n  lakeward files public.orders\n  \
        lakeward files orders --output json\n\n\
        Unlike a glob, which may see two states of a stream while files are being replaced.")]
    Files(FilesArgs),
    /// Prints the latest view of a stream as a query for an engine
    #[command(after_help = "Examples:\n  lakeward view public.orders --engine duckdb | duckdb")]
    View(ViewArgs),
    /// Shows the schema, facts and first rows of a Parquet file
    #[command(
        after_help = "Examples:\n  lakeward peek lake/public/orders/1-000000000001-5a0c71f2-0.parquet -n 3"
    )]
    Peek(PeekArgs),
    /// Compares the selected streams' files with the source, row by row
    #[command(
        after_help = "Examples:\n  lakeward verify\n  lakeward verify public.orders --keys 100 --output json\n\n\
        Every row of both sides is read. It takes nothing over: a sync may be running, and for streams whose changes\n\
        are followed the source may be written to, because both sides are compared at one place in its log. Exits\n\
        with 5 where rows differ; the keys of some of them are printed to standard output."
    )]
    Verify(VerifyArgs),
    /// Merges small files of the selected streams into larger ones
    #[command(
        after_help = "Examples:\n  lakeward compact\n  lakeward compact public.orders --output json\n\n\
        No row changes, and readers may go on reading. `lakeward sync --follow` does it by itself where many\n\
        small files have gathered; this merges fewer too. It needs the pipeline's state for itself, as a sync does."
    )]
    Compact(CompactArgs),
    /// Measures on your own tables
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Mends a state
    #[command(subcommand)]
    State(StateCommand),
    /// Removes streams from the destination and from the state, after asking
    #[command(after_help = "Examples:\n  lakeward clear public.orders\n  \
        lakeward clear --all --yes\n\nOnly what Lakeward wrote is removed; other files stay.")]
    Clear(ClearArgs),
    /// Prints completions for a shell
    #[command(after_help = "Examples:\n  lakeward completions bash > /etc/bash_completion.d/lakeward")]
    Completions {
        /// Which shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// What the process may take.
    pub(crate) fn memory_limit(&self) -> u64 {
        match self {
            Self::Sync(args) => args.limits.reading.memory.memory_limit,
            Self::Verify(args) => args.limits.memory.memory_limit,
            Self::Compact(args) => args.limits.memory_limit,
            Self::Bench(BenchCommand::Run(args)) => args.limits.reading.memory.memory_limit,
            _ => Options::DEFAULT_MEMORY_LIMIT,
        }
    }
}

/// The source's config.
#[derive(Debug, Clone, Args)]
pub(crate) struct SourceArg {
    /// The source's config, JSON or YAML; ${VAR} and file:///… in it are resolved
    #[arg(long, visible_alias = "source", value_name = "FILE", default_value = "source.json")]
    pub(crate) config: PathBuf,
}

/// The destination's config.
#[derive(Debug, Clone, Args)]
pub(crate) struct DestinationArg {
    /// The destination's config, JSON or YAML
    #[arg(long, value_name = "FILE", default_value = "destination.json")]
    pub(crate) destination: PathBuf,
}

/// The streams and where the state lies.
#[derive(Debug, Clone, Args)]
pub(crate) struct StreamsArgs {
    /// What is replicated, and how
    #[arg(long, value_name = "FILE", default_value = "streams.json")]
    pub(crate) streams: PathBuf,
    /// Where the pipeline's state is kept [default: state.json beside the streams file]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

impl StreamsArgs {
    /// Where the state lies.
    pub(crate) fn state(&self) -> PathBuf {
        self.state.clone().unwrap_or_else(|| config::default_state(&self.streams))
    }
}

/// `lakeward spec`
#[derive(Debug, Args)]
pub(crate) struct SpecArgs {
    /// A connector; without one, all are listed
    pub(crate) connector: Option<String>,
    /// How the list is written; a schema is always JSON
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
}

/// `lakeward check`
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The source.
    #[command(flatten)]
    pub(crate) source: SourceArg,
    /// The destination's config: checks that it can be written to as well
    #[arg(long, value_name = "FILE")]
    pub(crate) destination: Option<PathBuf>,
    /// The streams file: checks what each selected stream needs as well
    #[arg(long, value_name = "FILE")]
    pub(crate) streams: Option<PathBuf>,
    /// How findings are written
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
}

/// `lakeward discover`
#[derive(Debug, Args)]
pub(crate) struct DiscoverArgs {
    /// The source.
    #[command(flatten)]
    pub(crate) source: SourceArg,
    /// The earlier streams file, whose choices are kept; need not exist
    #[arg(long, value_name = "FILE", default_value = "streams.json")]
    pub(crate) streams: PathBuf,
    /// Where the result goes; `-` is standard output [default: the earlier streams file]
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Offers streams that were never seen before without selecting them
    #[arg(long)]
    pub(crate) no_select: bool,
}

/// `lakeward sync`
#[derive(Debug, Args)]
pub(crate) struct SyncArgs {
    /// The source.
    #[command(flatten)]
    pub(crate) source: SourceArg,
    /// The destination.
    #[command(flatten)]
    pub(crate) destination: DestinationArg,
    /// The streams.
    #[command(flatten)]
    pub(crate) streams: StreamsArgs,
    /// Goes on with changes as they happen, until stopped
    #[arg(long)]
    pub(crate) follow: bool,
    /// Prints the plan (streams, modes, chunks, estimates) and writes nothing
    #[arg(long, conflicts_with = "follow")]
    pub(crate) dry_run: bool,
    /// How the plan is written
    #[arg(long, value_enum, default_value_t = OutputFormat::Text, requires = "dry_run")]
    pub(crate) output: OutputFormat,
    /// What it may use.
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

/// How much memory a command may take.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct MemoryArg {
    /// Resident memory of the whole process
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_memory_limit)]
    pub(crate) memory_limit: u64,
}

/// How a command may read.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct ReadArgs {
    /// Memory.
    #[command(flatten)]
    pub(crate) memory: MemoryArg,
    /// Connections that read at once [default: what the source's config says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_connections: Option<u16>,
}

impl ReadArgs {
    /// The engine's options for these limits.
    pub(crate) fn options(&self) -> Options {
        Options {
            memory_limit: self.memory.memory_limit,
            max_connections: self.max_connections.map(usize::from),
            ..Options::default()
        }
    }
}

/// What a run may use.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Memory and connections.
    #[command(flatten)]
    pub(crate) reading: ReadArgs,
    /// Bytes at the source that a chunk of a backfill has, about
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = parse_bytes)]
    pub(crate) chunk_size: u64,
    /// How backfills and changes of several streams are ordered [default: concurrent, where the source can]
    #[arg(long, value_name = "MODE", value_enum)]
    pub(crate) cdc_mode: Option<CdcMode>,
    /// How often changes are committed: a time, a size, or both, whichever comes first
    #[arg(long, value_name = "TIME,SIZE", default_value = "1s,64MiB", value_parser = parse_checkpoint_interval)]
    pub(crate) checkpoint_interval: CheckpointInterval,
}

impl LimitArgs {
    /// The engine's options for these limits.
    pub(crate) fn options(&self, follow: bool) -> Options {
        Options {
            chunk_bytes: self.chunk_size,
            cdc_mode: self.cdc_mode.map(ChangeMode::from),
            checkpoint_interval: self.checkpoint_interval,
            follow,
            ..self.reading.options()
        }
    }
}

/// Below this nothing useful fits: a process alone takes some tens of MiB.
const LEAST_MEMORY_LIMIT: u64 = 64 << 20;

fn parse_memory_limit(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes if bytes < LEAST_MEMORY_LIMIT => Err("a run needs at least 64MiB".to_owned()),
        bytes => Ok(bytes),
    }
}

/// How backfills and changes of several streams are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CdcMode {
    /// All backfills, then the changes, written by one task
    Sequential,
    /// All backfills, then the changes, written by a task for each stream
    Parallel,
    /// The changes while backfills run too, so that the source need not keep its log until these are done
    Concurrent,
}

impl From<CdcMode> for ChangeMode {
    fn from(mode: CdcMode) -> Self {
        match mode {
            CdcMode::Sequential => Self::Sequential,
            CdcMode::Parallel => Self::Parallel,
            CdcMode::Concurrent => Self::Concurrent,
        }
    }
}

/// `lakeward status`
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The pipeline's state
    #[arg(long, value_name = "FILE", default_value = "state.json")]
    pub(crate) state: PathBuf,
    /// The source's config: asks the source how far its log is ahead, and how much of it is kept
    #[arg(long, visible_alias = "source", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How it is written
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
}

/// `lakeward files`
#[derive(Debug, Args)]
pub(crate) struct FilesArgs {
    /// The stream as the destination names it: namespace.name, or its name alone where that is enough
    pub(crate) stream: String,
    /// The destination.
    #[command(flatten)]
    pub(crate) destination: DestinationArg,
    /// One path per line, or JSON with rows and bytes
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
}

/// `lakeward view`
#[derive(Debug, Args)]
pub(crate) struct ViewArgs {
    /// The stream as the destination names it: namespace.name, or its name alone where that is enough
    pub(crate) stream: String,
    /// Whose language the query is in: duckdb, spark or polars
    #[arg(long)]
    pub(crate) engine: String,
    /// The destination.
    #[command(flatten)]
    pub(crate) destination: DestinationArg,
}

/// `lakeward peek`
#[derive(Debug, Args)]
pub(crate) struct PeekArgs {
    /// A Parquet file
    pub(crate) file: PathBuf,
    /// How many rows are shown
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub(crate) rows: usize,
    /// How many characters of a cell are shown
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u16).range(4..))]
    pub(crate) width: u16,
}

/// `lakeward verify`
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Streams as the source names them, namespace.name; without one, all selected streams
    #[arg(value_name = "STREAM")]
    pub(crate) names: Vec<String>,
    /// The source.
    #[command(flatten)]
    pub(crate) source: SourceArg,
    /// The destination.
    #[command(flatten)]
    pub(crate) destination: DestinationArg,
    /// The streams.
    #[command(flatten)]
    pub(crate) streams: StreamsArgs,
    /// How many differing rows of a stream are named by their keys
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) keys: usize,
    /// How long a sync is waited for that has yet to commit changes of the source
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub(crate) wait: Duration,
    /// How the result is written
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
    /// What it may use.
    #[command(flatten)]
    pub(crate) limits: ReadArgs,
}

/// `lakeward compact`
#[derive(Debug, Args)]
pub(crate) struct CompactArgs {
    /// Streams as the source names them, namespace.name; without one, all selected streams
    #[arg(value_name = "STREAM")]
    pub(crate) names: Vec<String>,
    /// The destination.
    #[command(flatten)]
    pub(crate) destination: DestinationArg,
    /// The streams.
    #[command(flatten)]
    pub(crate) streams: StreamsArgs,
    /// How the result is written
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
    /// What it may use.
    #[command(flatten)]
    pub(crate) limits: MemoryArg,
}

/// `lakeward bench`
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Finds the chunk size for your tables: backfills them with each size and compares
    #[command(
        after_help = "Examples:\n  lakeward bench chunk-size                    reading alone, nothing is kept\n  \
        lakeward bench chunk-size --destination destination.json --stream public.orders\n  \
        lakeward bench chunk-size --sizes 8MiB,64MiB,512MiB --runs 5 --max-connections 8\n\n\
        Every stream is read as by full_refresh, whatever its mode: nothing is made at the source. With a\n\
        destination, files go below a directory of their own in it, which is removed at the end.\n\
        Your streams and your state are not touched."
    )]
    ChunkSize(ChunkSizeArgs),
    /// One run of a benchmark, in a process of its own so that its CPU time and memory are its own
    #[command(hide = true)]
    Run(BenchRunArgs),
}

/// `lakeward bench chunk-size`
#[derive(Debug, Args)]
pub(crate) struct ChunkSizeArgs {
    /// The source.
    #[command(flatten)]
    pub(crate) source: SourceArg,
    /// The destination's config: measures with its files as well [default: rows are read and dropped]
    #[arg(long, value_name = "FILE")]
    pub(crate) destination: Option<PathBuf>,
    /// What is replicated, and how: filters and columns count
    #[arg(long, value_name = "FILE", default_value = "streams.json")]
    pub(crate) streams: PathBuf,
    /// A stream as the source names it, namespace.name; may be given several times [default: all selected]
    #[arg(long = "stream", value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Chunk sizes to compare, such as 8MiB,64MiB,512MiB [default: 1MiB to 2GiB, as far as the table goes]
    #[arg(long, value_name = "SIZE,…", value_delimiter = ',', value_parser = parse_bytes)]
    pub(crate) sizes: Vec<u64>,
    /// How often each size is measured; sizes take turns
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) runs: u16,
    /// The directory that gets all figures as JSON, and a plot for each stream
    #[arg(long, value_name = "DIR", default_value = "lakeward-bench")]
    pub(crate) output: PathBuf,
    /// What each run may use.
    #[command(flatten)]
    pub(crate) limits: ReadArgs,
}

/// `lakeward bench run`
#[derive(Debug, Args)]
pub(crate) struct BenchRunArgs {
    /// The source.
    #[command(flatten)]
    pub(crate) source: SourceArg,
    /// The destination.
    #[command(flatten)]
    pub(crate) destination: DestinationArg,
    /// The streams.
    #[command(flatten)]
    pub(crate) streams: StreamsArgs,
    /// What it may use.
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

/// `lakeward state`
#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Makes the state anew from the destination's commits; an earlier file is set aside, not lost
    #[command(
        after_help = "Examples:\n  lakeward state rebuild --destination destination.json --state state.json"
    )]
    Rebuild(RebuildArgs),
}

/// `lakeward state rebuild`
#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// The source.
    #[command(flatten)]
    pub(crate) source: SourceArg,
    /// The destination.
    #[command(flatten)]
    pub(crate) destination: DestinationArg,
    /// Where the state is written
    #[arg(long, value_name = "FILE", default_value = "state.json")]
    pub(crate) state: PathBuf,
    /// Where the source was told of a later place in its log than any commit names, goes on from there: right where
    /// nothing of these streams was committed at the source in between, as far as you know
    #[arg(long)]
    pub(crate) accept_slot: bool,
}

/// `lakeward clear`
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["names", "all", "log"])))]
pub(crate) struct ClearArgs {
    /// Streams as the source names them, namespace.name; also such as are selected no longer
    #[arg(value_name = "STREAM")]
    pub(crate) names: Vec<String>,
    /// All selected streams
    #[arg(long)]
    pub(crate) all: bool,
    /// No stream, but the source's log: drops the slot and the publications that were made for this pipeline
    #[arg(long)]
    pub(crate) log: bool,
    /// Does not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// The source.
    #[command(flatten)]
    pub(crate) source: SourceArg,
    /// The destination.
    #[command(flatten)]
    pub(crate) destination: DestinationArg,
    /// The streams.
    #[command(flatten)]
    pub(crate) streams: StreamsArgs,
}
