//! Runs this crate's Python, in which engines that are not ours read the lake.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::sync::{Mutex, PoisonError};

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

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name)
}

/// Where `serve.py` waits for calls; the first call starts it, and it ends with this process, whose end of the pipe is
/// closed then.
fn server() -> Result<String> {
    static SERVER: Mutex<Option<(String, ChildStdin)>> = Mutex::new(None);
    let mut server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((socket, _)) = &*server {
        return Ok(socket.clone());
    }
    let mut command = std::process::Command::new(interpreter()?);
    command.arg("-B").arg(script("serve.py")).env("TZ", "UTC").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot run Python")?;
    let mut socket = String::new();
    std::io::BufReader::new(child.stdout.take().context("no stdout")?).read_line(&mut socket)?;
    ensure!(!socket.is_empty(), "serve.py did not say where it waits");
    let socket = socket.trim_end().to_owned();
    *server = Some((socket.clone(), child.stdin.take().context("no stdin")?));
    Ok(socket)
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
        let mut command = Command::new(interpreter()?);
        command.args(["-B", "-I", "-S"]).arg(script("call.py")).arg(server()?).arg(script(name));
        command.kill_on_drop(true);
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
