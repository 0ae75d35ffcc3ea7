//! Writers that keep a table busy while it is replicated, from a seed that is printed.
//!
//! The same seed makes the same statements per writer; how the writers interleave is up to the
//! server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::server::TestDatabase;

/// The keys of the rows that were there first are below this; each writer's own follow.
const KEYS_EACH: i64 = 1_000_000_000;

/// The seed of this run: `LAKEWARD_TEST_SEED`, or one drawn anew; printed either way, so that a
/// failed test's output says how to run it again.
pub fn seed() -> u64 {
    let given = std::env::var("LAKEWARD_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000));
    eprintln!("LAKEWARD_TEST_SEED={seed}");
    seed
}

/// How often a test with chance in it is repeated: `LAKEWARD_TEST_ROUNDS`, else `default`.
pub fn rounds(default: u32) -> u32 {
    std::env::var("LAKEWARD_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A table and how it is written to.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The table, quoted as SQL needs it.
    pub table: String,
    /// What all choices derive from.
    pub seed: u64,
    /// Connections that write at once.
    pub writers: u32,
    /// Transactions a second, all writers together; 0: as many as they can.
    pub rate: u32,
    /// Whether updates change the key too (the key has gaps for that).
    pub change_keys: bool,
    /// Whether now and then a VACUUM frees pages, so that new row versions land in old ones.
    pub vacuum: bool,
}

impl Workload {
    /// Four writers over this table, with all they can do.
    pub fn new(table: &str, seed: u64, rate: u32) -> Self {
        Self { table: table.to_owned(), seed, writers: 4, rate, change_keys: true, vacuum: true }
    }

    /// Creates the table, with `rows` rows of different sizes, some of them stored out of line.
    pub async fn create_table(&self, db: &TestDatabase, rows: u64) -> Result<()> {
        db.execute(&format!(
            "CREATE TABLE {table} (
                 id bigint PRIMARY KEY, version int NOT NULL, amount numeric(12,2), note text, big text,
                 updated_at timestamptz NOT NULL DEFAULT now());
             INSERT INTO {table}
             SELECT n * 10, 0, n / 7.0, repeat('n', (n % 60)::int),
                    CASE WHEN n % 50 = 0 THEN (SELECT string_agg(md5(n::text || i), '') FROM generate_series(1, 200) i) END
             FROM generate_series(1, {rows}) AS s(n)",
            table = self.table
        ))
        .await
    }

    /// Starts the writers; they go on until [`Writers::stop`].
    pub async fn start(&self, db: &TestDatabase) -> Result<Writers> {
        let shared = Arc::new(Shared::default());
        let mut tasks = vec![];
        for writer in 0..self.writers {
            let client = db.client().await?;
            let rng = StdRng::seed_from_u64(self.seed ^ (u64::from(writer) << 32));
            let pause = (self.rate > 0)
                .then(|| Duration::from_secs_f64(f64::from(self.writers) / f64::from(self.rate)));
            let writer = Writer { workload: self.clone(), client, rng, number: writer, made: 0 };
            tasks.push(tokio::spawn(writer.run(shared.clone(), pause)));
        }
        Ok(Writers { shared, tasks })
    }
}

/// What the writers have done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Transactions committed.
    pub committed: u64,
    /// Transactions rolled back, by choice or because two writers met.
    pub rolled_back: u64,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    committed: AtomicU64,
    rolled_back: AtomicU64,
}

/// Writers at work.
#[derive(Debug)]
pub struct Writers {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Writers {
    /// What they have done so far.
    pub fn counts(&self) -> Counts {
        Counts {
            committed: self.shared.committed.load(Ordering::Relaxed),
            rolled_back: self.shared.rolled_back.load(Ordering::Relaxed),
        }
    }

    /// Lets each writer end its transaction and waits for them; fails if one failed meanwhile.
    pub async fn stop(mut self) -> Result<Counts> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            task.await?.context("a writer failed")?;
        }
        Ok(self.counts())
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
    }
}

struct Writer {
    workload: Workload,
    client: Client,
    rng: StdRng,
    number: u32,
    made: i64,
}

impl Writer {
    async fn run(mut self, shared: Arc<Shared>, pause: Option<Duration>) -> Result<()> {
        while !shared.stopping.load(Ordering::Relaxed) {
            if self.workload.vacuum && self.rng.random_ratio(1, 50) {
                self.client.batch_execute(&format!("VACUUM {}", self.workload.table)).await?;
            }
            let statements = self.transaction();
            let commits = statements.ends_with("COMMIT");
            match self.client.batch_execute(&statements).await {
                Ok(()) if commits => shared.committed.fetch_add(1, Ordering::Relaxed),
                Ok(()) => shared.rolled_back.fetch_add(1, Ordering::Relaxed),
                // Two writers on the same rows: one gives way, as in any application.
                Err(error) if gave_way(&error) => {
                    self.client.batch_execute("ROLLBACK").await?;
                    shared.rolled_back.fetch_add(1, Ordering::Relaxed)
                }
                Err(error) => return Err(error.into()),
            };
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }

    /// One transaction of a few statements, one in ten of which is rolled back.
    fn transaction(&mut self) -> String {
        let mut sql = "BEGIN".to_owned();
        for _ in 0..self.rng.random_range(1..=4) {
            sql += "; ";
            sql += &self.statement();
        }
        sql += if self.rng.random_ratio(1, 10) { "; ROLLBACK" } else { "; COMMIT" };
        sql
    }

    fn statement(&mut self) -> String {
        let table = &self.workload.table;
        let (spread, size) = (self.rng.random::<f64>(), self.rng.random_range(1..=30));
        // Rows that were there before, or those that some writer has made.
        let owner =
            if self.rng.random_ratio(2, 3) { 0 } else { self.rng.random_range(1..=self.workload.writers) };
        let (from, to) = (KEYS_EACH * i64::from(owner), KEYS_EACH * (i64::from(owner) + 1));
        let last =
            format!("coalesce((SELECT max(id) FROM {table} WHERE id BETWEEN {from} AND {to} - 1), {from})");
        let start = format!("{from} + (({last} - {from}) * {spread}::float8)::bigint");
        let some = format!("(SELECT id FROM {table} WHERE id >= {start} ORDER BY id LIMIT {size})");
        match self.rng.random_range(0..100) {
            // Keys of its own, above all others, so that inserts never meet.
            0..25 => {
                let first = KEYS_EACH * (i64::from(self.number) + 1) + self.made * 10;
                self.made += size;
                format!(
                    "INSERT INTO {table} (id, version, amount, note) SELECT {first} + n * 10, 0, n, repeat('i', n::int) \
                     FROM generate_series(0, {}) AS s(n)",
                    size - 1
                )
            }
            25..40 => format!("DELETE FROM {table} WHERE id IN {some}"),
            40..50 if self.workload.change_keys => {
                format!(
                    "UPDATE {table} SET id = id + 1, version = version + 1 WHERE id % 10 < 9 AND id IN {some}"
                )
            }
            // Longer than the free space of its page: the row moves to another one.
            50..65 => format!(
                "UPDATE {table} SET version = version + 1, note = repeat(md5(id::text), {}), updated_at = now() WHERE id IN {some}",
                self.rng.random_range(1..40)
            ),
            65..70 => format!(
                "UPDATE {table} SET big = (SELECT string_agg(md5(id::text || i || {}), '') FROM generate_series(1, 200) i) WHERE id IN {some}",
                self.rng.random_range(0..1000)
            ),
            _ => format!(
                "UPDATE {table} SET version = version + 1, amount = amount + 0.01, updated_at = now() WHERE id IN {some}"
            ),
        }
    }
}

fn gave_way(error: &tokio_postgres::Error) -> bool {
    let code = error.code();
    code == Some(&SqlState::T_R_DEADLOCK_DETECTED) || code == Some(&SqlState::UNIQUE_VIOLATION)
}
