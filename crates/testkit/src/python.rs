//! Runs this crate's Python, in which engines that are not ours read the lake.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::project_root;

/// The interpreter that `scripts/servers python` made, or the one named in
/// `LAKEWARD_TEST_PYTHON`; it can import DuckDB, Polars and PyArrow. Fails if it is not there.
pub fn interpreter() -> Result<PathBuf> {
    let named = std::env::var_os("LAKEWARD_TEST_PYTHON").map(PathBuf::from);
    let path = named.unwrap_or_else(|| project_root().join("target/python/bin/python"));
    ensure!(path.exists(), "{} is not there: run scripts/servers python", path.display());
    Ok(path)
}

/// A script of this crate's `python/` at work.
pub(crate) struct Script {
    child: Child,
    stderr: ChildStderr,
    /// What it prints.
    pub(crate) stdout: BufReader<ChildStdout>,
}

impl Script {
    /// Starts a script and gives it its request.
    pub(crate) async fn start(name: &str, request: &Value) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name);
        let mut command = Command::new(interpreter()?);
        command.arg("-B").arg(script).env("TZ", "UTC").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run Python")?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        stdin.write_all(request.to_string().as_bytes()).await?;
        drop(stdin);
        let stdout = BufReader::with_capacity(1 << 18, child.stdout.take().context("no stdout")?);
        let stderr = child.stderr.take().context("no stderr")?;
        Ok(Self { child, stderr, stdout })
    }

    /// Waits for its end; fails with what it said if it failed.
    pub(crate) async fn finish(mut self) -> Result<()> {
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).await?;
        let status = self.child.wait().await?;
        ensure!(status.success(), "{}", said.trim());
        Ok(())
    }
}
