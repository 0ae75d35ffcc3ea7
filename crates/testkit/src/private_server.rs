//! A server of a test's own, which it may stop, crash and start again.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::seq::SliceRandom;
use tempfile::TempDir;

use crate::server::{HOST, PASSWORD, PgServer, TestDatabase, USERNAME, Version};

/// What the server has beyond its defaults. Unlike the shared servers it writes durably enough to
/// recover from [`Stop::Immediate`]: only the disk's own cache is not waited for.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = '.'
fsync = off
wal_level = logical
max_wal_senders = 20
max_replication_slots = 20
max_prepared_transactions = 10
max_connections = 100
";

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Ends all sessions, writes a checkpoint and leaves.
    Fast,
    /// Leaves at once, as in a crash: the next start recovers.
    Immediate,
}

/// A server in a temporary directory, stopped and removed with this handle, also where the test's
/// process is killed.
#[derive(Debug)]
pub struct PrivateServer {
    server: PgServer,
    data: PathBuf,
    watchdog: Option<Child>,
    // Last: its files go after the server.
    _directory: TempDir,
}

impl PrivateServer {
    /// Sets up and starts a server of this version, on a port of its own that it keeps through
    /// every restart.
    pub async fn start_new(version: Version) -> Result<Self> {
        let bindir = version.bindir()?;
        let directory = account_directory()?;
        let data = directory.path().join("data");
        let password = directory.path().join("password");
        fs::File::create(&password)?.write_all(PASSWORD.as_bytes())?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o644))?;

        let mut initdb = as_account(&bindir.join("initdb"))?;
        initdb.arg("-D").arg(&data).arg("--pwfile").arg(&password).args(["-U", USERNAME]);
        initdb.args(["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]);
        run(initdb, "initdb").await?;

        let mut conf = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf"))?;
        conf.write_all(SETTINGS.as_bytes())?;
        let server = PgServer::at(version, free_port()?, bindir);
        let mut private = Self { server, data, watchdog: None, _directory: directory };
        private.watchdog = Some(private.watch()?);
        private.start().await?;
        Ok(private)
    }

    /// A hot standby of this server, on a port of its own, that follows it as long as both run.
    pub async fn start_standby(&self) -> Result<Self> {
        let directory = account_directory()?;
        let data = directory.path().join("data");
        let mut backup = as_account(&self.server.program("pg_basebackup"))?;
        backup.args(["-h", HOST, "-U", USERNAME, "-p", &self.port().to_string()]).env("PGPASSWORD", PASSWORD);
        backup.args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D"]).arg(&data);
        run(backup, "pg_basebackup").await?;
        let version = self.server.version();
        let server = PgServer::at(version, free_port()?, version.bindir()?);
        let mut standby = Self { server, data, watchdog: None, _directory: directory };
        standby.watchdog = Some(standby.watch()?);
        standby.start().await?;
        Ok(standby)
    }

    /// The handle to connect by and create databases with.
    pub fn server(&self) -> &PgServer {
        &self.server
    }

    /// Its port, the same after every restart.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Its data directory, in which its Unix socket is too.
    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    /// A database on it. It goes with the server: nothing is left to drop if that is down.
    pub async fn create_database(&self, prefix: &str) -> Result<TestDatabase> {
        self.server.create_database(prefix).await
    }

    /// Starts it and waits until it takes connections. Nothing happens if it runs.
    pub async fn start(&self) -> Result<()> {
        if self.pg_ctl(&["status"])?.status().await?.success() {
            return Ok(());
        }
        let mut command = self.pg_ctl(&["-w", "-t", "60", "-l"])?;
        command.arg(self.data.join("server.log"));
        command.args(["-o", &format!("-c port={}", self.port()), "start"]);
        // Its output must not be a pipe, which the server would inherit and keep open.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if !command.status().await?.success() {
            let log = fs::read_to_string(self.data.join("server.log")).unwrap_or_default();
            bail!("{} did not start:\n{log}", self.server.version().name());
        }
        Ok(())
    }

    /// Stops it and waits until it is gone.
    pub async fn stop(&self, how: Stop) -> Result<()> {
        let mode = match how {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        let command = self.pg_ctl(&["-w", "-t", "60", "-m", mode, "stop"])?;
        run_async(command, "pg_ctl stop").await
    }

    /// Stops it fast and starts it again.
    pub async fn restart(&self) -> Result<()> {
        self.stop(Stop::Fast).await?;
        self.start().await
    }

    /// Sets a parameter in its configuration and reloads it; those that need one take effect at
    /// the next [`restart`](Self::restart).
    pub async fn set_conf(&self, name: &str, value: &str) -> Result<()> {
        let mut conf = fs::OpenOptions::new().append(true).open(self.data.join("postgresql.conf"))?;
        writeln!(conf, "{name} = '{}'", value.replace('\'', "''"))?;
        if self.pg_ctl(&["status"])?.status().await?.success() {
            run_async(self.pg_ctl(&["reload"])?, "pg_ctl reload").await?;
        }
        Ok(())
    }

    fn pg_ctl(&self, arguments: &[&str]) -> Result<tokio::process::Command> {
        let mut command = as_account(&self.server.program("pg_ctl"))?;
        command.arg("-D").arg(&self.data).args(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command.into())
    }

    /// Stops the server when our end of its input closes: on drop, or when this process is killed.
    fn watch(&self) -> Result<Child> {
        let script = r#"trap '' INT TERM HUP; read _; "$1" -D "$2" -w -m immediate stop; rm -rf "$2""#;
        let mut command = as_account(Path::new("/bin/sh"))?;
        command.args(["-c", script, "sh"]).arg(self.server.program("pg_ctl")).arg(&self.data);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().context("cannot watch over the server")
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            drop(watchdog.stdin.take());
            let _ = watchdog.wait();
        }
    }
}

/// The user and group ids that a server runs as where we are root, which it refuses to be.
fn account() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").context("cannot look up the account nobody")?;
    let line = passwd.lines().find(|line| line.starts_with("nobody:"));
    let fields: Vec<&str> = line.context("there is no account nobody")?.split(':').collect();
    ensure!(fields.len() > 3, "the account nobody has no ids");
    Ok(Some((fields[2].parse()?, fields[3].parse()?)))
}

fn as_account(program: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null());
    if let Some((uid, gid)) = account()? {
        // Setting the user also drops root's supplementary groups.
        command.gid(gid).uid(uid);
    }
    Ok(command)
}

/// A temporary directory that belongs to the server's account and that it can come to.
fn account_directory() -> Result<TempDir> {
    for parent in [std::env::temp_dir(), PathBuf::from("/tmp")] {
        let directory = tempfile::Builder::new().prefix("lakeward-server-").tempdir_in(&parent)?;
        if let Some((uid, gid)) = account()? {
            chown(directory.path(), Some(uid), Some(gid))?;
        }
        if as_account(Path::new("test"))?.arg("-w").arg(directory.path()).status()?.success() {
            return Ok(directory);
        }
    }
    bail!("the account nobody can enter neither TMPDIR nor /tmp")
}

/// A port below those that the system gives to outgoing connections: it stays free while the
/// server is down.
fn free_port() -> Result<u16> {
    let mut ports: Vec<u16> = (20_000..32_000).collect();
    ports.shuffle(&mut rand::rng());
    for port in ports {
        if std::net::TcpListener::bind((HOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port on {HOST}")
}

async fn run(mut command: Command, what: &str) -> Result<()> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::process::Command::from(command)
        .output()
        .await
        .with_context(|| format!("cannot run {what}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what} failed: {said}");
    Ok(())
}

async fn run_async(mut command: tokio::process::Command, what: &str) -> Result<()> {
    let status = tokio::time::timeout(Duration::from_secs(90), command.status()).await;
    let status = status.with_context(|| format!("{what} hangs"))??;
    ensure!(status.success(), "{what} failed: {status}");
    Ok(())
}
