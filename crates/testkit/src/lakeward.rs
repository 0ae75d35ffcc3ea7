//! The program under test, run as its users run it.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::reconcile::StreamName;
use crate::server::{TestDatabase, merge};

pub use rustix::process::Signal;

/// How long a run that is waited for may take, unless `LAKEWARD_TEST_TIMEOUT` (seconds) says more.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// How often a run's memory is looked at.
const MEMORY_INTERVAL: Duration = Duration::from_millis(20);

/// How long a server that crashed may take until it answers again.
const RECOVERY: Duration = Duration::from_secs(60);

/// A directory with the configs and the state of one pipeline, and the lake that it writes to.
#[derive(Debug)]
pub struct Project {
    program: PathBuf,
    directory: TempDir,
    environment: BTreeMap<String, String>,
}

impl Project {
    /// A project for this binary (the caller's `env!("CARGO_BIN_EXE_lakeward")`), with
    /// `source.json` as given and a Parquet destination in the project's own directory.
    pub fn new(program: impl Into<PathBuf>, source: &Value) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("lakeward-project-").tempdir()?;
        let project = Self { program: program.into(), directory, environment: BTreeMap::new() };
        project.write("source.json", source)?;
        project.write("destination.json", &json!({ "type": "parquet", "path": project.lake() }))?;
        Ok(project)
    }

    /// Merges fields into `destination.json`.
    pub fn destination(self, overrides: Value) -> Result<Self> {
        let mut config = self.read("destination.json")?;
        merge(&mut config, overrides);
        self.write("destination.json", &config)?;
        Ok(self)
    }

    /// Sets a variable in the environment of all runs.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// What runs do at failpoints: `name[:n]=action`, separated by `;`.
    pub fn set_failpoints(&mut self, actions: &str) {
        self.environment.insert("LAKEWARD_FAILPOINT".to_owned(), actions.to_owned());
    }

    /// Aborts the runs at a failpoint, the `nth` time that it is passed.
    pub fn abort_at(&mut self, failpoint: &str, nth: u32) {
        self.set_failpoints(&format!("{failpoint}:{nth}=abort"));
    }

    /// Passes all failpoints again.
    pub fn clear_failpoints(&mut self) {
        self.environment.remove("LAKEWARD_FAILPOINT");
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A file in its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The root of the lake.
    pub fn lake(&self) -> PathBuf {
        self.file("lake")
    }

    /// The directory of a stream's visible files.
    pub fn stream_directory(&self, stream: impl Into<StreamName>) -> PathBuf {
        stream.into().directory(&self.lake())
    }

    /// The names of a stream's visible files, below its directory; empty where there is none.
    pub fn visible_files(&self, stream: impl Into<StreamName>) -> Vec<PathBuf> {
        let (root, mut found) = (self.stream_directory(stream), vec![]);
        let mut directories = vec![root];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "parquet") {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }

    /// The directory in which the destination keeps its own records of a stream.
    pub fn stream_meta(&self, stream: impl Into<StreamName>) -> PathBuf {
        stream.into().directory(&self.lake().join("_lakeward"))
    }

    /// A stream's commit log, in its order. Records appear whole or not at all.
    pub fn commit_log(&self, stream: impl Into<StreamName>) -> Result<Vec<Value>> {
        let directory = self.stream_meta(stream).join("commits");
        let names = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut names: Vec<PathBuf> =
            names.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect();
        names.sort();
        let read = |path: &PathBuf| {
            let record = serde_json::from_slice(&std::fs::read(path)?);
            record.with_context(|| format!("{} is no record", path.display()))
        };
        names.iter().map(read).collect()
    }

    /// Reads one of its JSON files.
    pub fn read(&self, name: &str) -> Result<Value> {
        let text = std::fs::read_to_string(self.file(name)).with_context(|| format!("cannot read {name}"))?;
        serde_json::from_str(&text).with_context(|| format!("{name} is no JSON"))
    }

    /// Writes one of its JSON files.
    pub fn write(&self, name: &str, content: &Value) -> Result<()> {
        Ok(std::fs::write(self.file(name), serde_json::to_vec_pretty(content)?)?)
    }

    /// The state file.
    pub fn state(&self) -> Result<Value> {
        self.read("state.json")
    }

    /// # Panics
    /// Where the source was told that it may forget more of its log than the saved state says is committed, and where
    /// the source does not answer for a minute: one that crashed recovers first.
    pub async fn assert_nothing_forgotten_early(&self, db: &TestDatabase) {
        // Only an intent is saved until the slot is made: nothing was acknowledged then.
        let state = self.state().unwrap_or_default();
        let Some(saved) = state["global"]["position"]["lsn"].as_str() else { return };
        let sql = format!(
            "SELECT string_agg(confirmed_flush_lsn::text, ', ') FROM pg_replication_slots
             WHERE database = current_database() AND NOT temporary AND confirmed_flush_lsn > '{saved}'"
        );
        let deadline = Instant::now() + RECOVERY;
        let ahead = loop {
            match db.value(&sql).await {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(200)).await,
                answer => break answer,
            }
        };
        assert!(
            matches!(ahead, Ok(None)),
            "the source may forget up to {ahead:?}, but only {saved} is saved"
        );
    }

    /// Runs `discover`, which writes or merges `streams.json`.
    pub async fn discover(&self) -> Result<Output> {
        let mut arguments = vec!["discover", "--config", "source.json", "--output", "streams.json"];
        if self.file("streams.json").exists() {
            arguments.extend(["--streams", "streams.json"]);
        }
        self.run(&arguments).await
    }

    /// Selects a stream in `streams.json`, beside those already selected: `options` are merged
    /// into what the file says of it. Fails for a stream that `discover` did not find.
    pub fn select(&self, stream: impl Into<StreamName>, options: Value) -> Result<()> {
        let (stream, mut file) = (stream.into(), self.read("streams.json")?);
        let known = file["streams"].as_array().into_iter().flatten().any(|entry| {
            entry["stream"]["namespace"] == stream.namespace && entry["stream"]["name"] == stream.name
        });
        anyhow::ensure!(known, "discover found no stream {stream:?}");
        let selected = &mut file["selected_streams"][&stream.namespace];
        if selected.is_null() {
            *selected = json!([]);
        }
        let selected = selected.as_array_mut().context("selected_streams is no list")?;
        match selected.iter_mut().find(|entry| entry["stream_name"] == stream.name) {
            Some(entry) => merge(entry, options),
            None => {
                let mut entry = json!({ "stream_name": stream.name });
                merge(&mut entry, options);
                selected.push(entry);
            }
        }
        self.write("streams.json", &file)
    }

    /// Selects these streams and no others, each with the same options.
    pub fn select_only(&self, streams: &[&str], options: Value) -> Result<()> {
        let mut file = self.read("streams.json")?;
        file["selected_streams"] = json!({});
        self.write("streams.json", &file)?;
        streams.iter().try_for_each(|&stream| self.select(stream, options.clone()))
    }

    /// Takes a stream out of what is selected.
    pub fn deselect(&self, stream: impl Into<StreamName>) -> Result<()> {
        let (stream, mut file) = (stream.into(), self.read("streams.json")?);
        let selected =
            file["selected_streams"][&stream.namespace].as_array_mut().context("nothing is selected")?;
        selected.retain(|entry| entry["stream_name"] != stream.name);
        self.write("streams.json", &file)
    }

    /// Runs `sync` to its end, with further arguments.
    pub async fn sync(&self, arguments: &[&str]) -> Result<Output> {
        self.run(&sync_arguments(arguments)).await
    }

    /// Starts `sync`, with further arguments.
    pub fn spawn_sync(&self, arguments: &[&str]) -> Result<Running> {
        self.spawn(&sync_arguments(arguments))
    }

    /// Runs any command to its end, in the project's directory.
    pub async fn run(&self, arguments: &[&str]) -> Result<Output> {
        let seconds = std::env::var("LAKEWARD_TEST_TIMEOUT").ok().and_then(|text| text.parse().ok());
        let timeout = seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
        self.spawn(arguments)?.wait_timeout(timeout).await
    }

    /// Starts any command, in the project's directory.
    pub fn spawn(&self, arguments: &[&str]) -> Result<Running> {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(self.path()).envs(&self.environment);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot run {}", self.program.display()))?;
        let pid = child.id().context("it has no pid")?;
        let stdout = tokio::spawn(drain(child.stdout.take().context("no stdout")?));
        let stderr = tokio::spawn(drain(child.stderr.take().context("no stderr")?));
        let memory = Arc::new(AtomicU64::new(0));
        let watch = tokio::spawn(watch_memory(pid, memory.clone()));
        Ok(Running { child, pid, stdout, stderr, memory, watch, command: arguments.join(" ") })
    }
}

fn sync_arguments<'a>(further: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["sync", "--config", "source.json", "--destination", "destination.json"];
    arguments.extend(["--streams", "streams.json", "--state", "state.json"]);
    arguments.extend(further);
    arguments
}

async fn drain(mut from: impl AsyncReadExt + Unpin) -> Vec<u8> {
    let mut bytes = vec![];
    let _ = from.read_to_end(&mut bytes).await;
    bytes
}

async fn watch_memory(pid: u32, peak: Arc<AtomicU64>) {
    while let Some(bytes) = peak_of(pid) {
        peak.fetch_max(bytes, Ordering::Relaxed);
        tokio::time::sleep(MEMORY_INTERVAL).await;
    }
}

/// The kernel's own high-water mark; none when the process has ended.
fn peak_of(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// A run at work. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pid: u32,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<Vec<u8>>,
    memory: Arc<AtomicU64>,
    watch: JoinHandle<()>,
    command: String,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The greatest resident memory that it has had, in bytes.
    pub fn peak_rss_bytes(&self) -> u64 {
        self.memory.load(Ordering::Relaxed).max(peak_of(self.pid).unwrap_or(0))
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Ends it as a crash would, with no chance to do anything, and collects what it had said.
    pub async fn kill9(mut self) -> Result<Output> {
        self.child.start_kill()?;
        self.wait_timeout(Duration::from_secs(10)).await
    }

    /// Sends it a signal, such as `Signal::TERM`, `Signal::INT` or `Signal::STOP`.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // Not waited for yet, so the pid is still its own.
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("no pid")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits for its end. One that takes longer is killed and is an error, with what it had said.
    pub async fn wait_timeout(mut self, timeout: Duration) -> Result<Output> {
        let status = match tokio::time::timeout(timeout, self.child.wait()).await {
            Ok(status) => Some(status?),
            Err(_) => {
                self.child.start_kill()?;
                self.child.wait().await?;
                None
            }
        };
        self.watch.abort();
        let stderr = String::from_utf8_lossy(&self.stderr.await?).into_owned();
        let Some(status) = status else {
            bail!("`lakeward {}` did not end within {timeout:?}; it said:\n{stderr}", self.command);
        };
        Ok(Output {
            code: status.code(),
            signal: status.signal(),
            stdout: String::from_utf8_lossy(&self.stdout.await?).into_owned(),
            events: events(&stderr),
            stderr,
            peak_rss_bytes: self.memory.load(Ordering::Relaxed),
            command: self.command,
        })
    }
}

/// What a run said and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Its results.
    pub stdout: String,
    /// Everything on standard error, events included.
    pub stderr: String,
    /// The JSON objects among the lines on standard error.
    pub events: Vec<Value>,
    /// The greatest resident memory seen, in bytes.
    pub peak_rss_bytes: u64,
    command: String,
}

impl Output {
    /// # Panics
    /// Unless it ended with this code, showing what it said.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(
            self.code,
            Some(code),
            "`lakeward {}` said:\n{}{}",
            self.command,
            self.stdout,
            self.stderr
        );
        self
    }

    /// # Panics
    /// Unless all went well.
    #[track_caller]
    pub fn assert_ok(&self) -> &Self {
        self.assert_code(0)
    }

    /// What it said of one kind, in its order.
    pub fn events_of(&self, kind: &str) -> Vec<&Value> {
        self.events.iter().filter(|event| event["event"] == kind).collect()
    }

    /// The results as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).context("standard output is no JSON")
    }
}

/// The JSON objects among the lines, in their order; a line cut off by a kill is none.
fn events(stderr: &str) -> Vec<Value> {
    let objects = stderr.lines().filter(|line| line.trim_start().starts_with('{'));
    objects.filter_map(|line| serde_json::from_str(line).ok()).collect()
}
