//! Random transactions over several tables, with all that a source's log can say, from a seed.
//!
//! [`Workload`](crate::workload::Workload) keeps one table busy; this writes what a reader of the log
//! has to get right: keys that change and swap, values stored out of line that stay, truncates,
//! savepoints that are rolled back in transactions large enough to be sent while in progress, rows
//! without a key, rows that move between partitions, columns that come and go, and transactions that stay open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::server::TestDatabase;

/// The tables, by name.
pub const TABLES: [&str; 4] = ["keyed", "pairs", "bare", "regions"];

/// Rows that each table begins with.
const ROWS: i64 = 3_000;

/// How the tables are written to.
#[derive(Clone, Copy, Debug)]
pub struct Churn {
    /// What all choices derive from.
    pub seed: u64,
    /// Connections that write at once.
    pub writers: u32,
    /// Transactions a second, all writers together.
    pub rate: u32,
    /// Whether columns come and go.
    pub ddl: bool,
    /// Whether some transactions stay open for seconds. A slot that is made waits for them, in whatever database: not on a
    /// server that tests share.
    pub slow: bool,
}

impl Churn {
    /// Three writers that do everything, each transaction at once.
    pub fn new(seed: u64, rate: u32) -> Self {
        Self { seed, writers: 3, rate, ddl: true, slow: false }
    }

    /// Creates the tables, with rows.
    pub async fn create_tables(&self, db: &TestDatabase) -> Result<()> {
        db.execute(&format!(
            "CREATE FUNCTION large(seed text) RETURNS text LANGUAGE sql AS
               $$SELECT string_agg(md5(seed || g), '') FROM generate_series(1, 120) g$$;
             CREATE TABLE keyed (id bigint PRIMARY KEY, version int NOT NULL, note text, big text, list int[]);
             ALTER TABLE keyed ALTER big SET STORAGE EXTERNAL;
             INSERT INTO keyed SELECT g, 0, repeat('n', (g % 40)::int), CASE WHEN g % 5 = 0 THEN large(g::text) END, ARRAY[g, NULL]
               FROM generate_series(1, {ROWS}) g;
             CREATE TABLE pairs (a int, b text, n int, PRIMARY KEY (b, a));
             INSERT INTO pairs SELECT g, 'k' || g % 7, g FROM generate_series(1, {ROWS}) g;
             CREATE TABLE bare (n int, t text);
             ALTER TABLE bare REPLICA IDENTITY FULL;
             INSERT INTO bare SELECT g % 300, NULLIF('t' || g % 3, 't0') FROM generate_series(1, {ROWS}) g;
             CREATE TABLE regions (id int, region text, n int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
             CREATE TABLE regions_eu PARTITION OF regions FOR VALUES IN ('eu');
             CREATE TABLE regions_us PARTITION OF regions FOR VALUES IN ('us') PARTITION BY RANGE (id);
             CREATE TABLE regions_us_low PARTITION OF regions_us FOR VALUES FROM (MINVALUE) TO (2000);
             CREATE TABLE regions_us_high PARTITION OF regions_us FOR VALUES FROM (2000) TO (MAXVALUE);
             CREATE TABLE regions_other PARTITION OF regions DEFAULT;
             INSERT INTO regions SELECT g, (ARRAY['eu', 'us', 'ap'])[g % 3 + 1], g FROM generate_series(1, {ROWS}) g"
        ))
        .await
    }

    /// Starts the writers; they go on until [`Churning::stop`].
    pub async fn start(&self, db: &TestDatabase) -> Result<Churning> {
        let shared = Arc::new(Shared::default());
        let mut tasks = vec![];
        for number in 0..self.writers {
            let client = db.client().await?;
            let database = TestDatabase::existing(db.server(), db.name());
            // Transactions in progress are sent early, so that rolled-back parts are sent too.
            client.batch_execute("SET lock_timeout = '5s'").await?;
            let rng = StdRng::seed_from_u64(self.seed ^ (u64::from(number) << 32));
            let pause = Duration::from_secs_f64(f64::from(self.writers) / f64::from(self.rate.max(1)));
            let writer = Writer { churn: *self, database, client, rng, number: i64::from(number), made: 0 };
            tasks.push(tokio::spawn(writer.run(shared.clone(), pause)));
        }
        if self.slow {
            let slow = Slow { database: TestDatabase::existing(db.server(), db.name()), seed: self.seed };
            tasks.push(tokio::spawn(slow.run(shared.clone())));
        }
        Ok(Churning { shared, tasks })
    }
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    committed: AtomicU64,
    /// Held for reading by whoever is in a transaction.
    turns: Arc<RwLock<()>>,
}

/// Writers at work.
#[derive(Debug)]
pub struct Churning {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Churning {
    /// Transactions committed so far.
    pub fn committed(&self) -> u64 {
        self.shared.committed.load(Ordering::Relaxed)
    }

    /// Waits until no transaction is open; none begins as long as the guard is there.
    pub async fn pause(&self) -> OwnedRwLockWriteGuard<()> {
        self.shared.turns.clone().write_owned().await
    }

    /// Lets each writer end its transaction and waits for them; fails if one failed meanwhile.
    pub async fn stop(mut self) -> Result<u64> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            task.await?.context("a writer failed")?;
        }
        Ok(self.committed())
    }
}

impl Drop for Churning {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
    }
}

struct Writer {
    churn: Churn,
    database: TestDatabase,
    client: Client,
    rng: StdRng,
    number: i64,
    made: i64,
}

impl Writer {
    async fn run(mut self, shared: Arc<Shared>, pause: Duration) -> Result<()> {
        while !shared.stopping.load(Ordering::Relaxed) {
            let sql = self.transaction();
            let commits = sql.ends_with("COMMIT");
            let turn = shared.turns.read().await;
            match self.client.batch_execute(&sql).await {
                Ok(()) if commits => _ = shared.committed.fetch_add(1, Ordering::Relaxed),
                Ok(()) => {}
                // Two writers meet, or the server is restarted: as in any application.
                Err(error) if gave_way(&error) => _ = self.client.batch_execute("ROLLBACK").await,
                Err(error) if went_away(&error) => match reconnect(&self.database, &shared).await? {
                    Some(client) => self.client = client,
                    None => break,
                },
                Err(error) => return Err(error).with_context(|| format!("in: {sql}")),
            }
            drop(turn);
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    fn transaction(&mut self) -> String {
        let mut sql = "BEGIN".to_owned();
        for _ in 0..self.rng.random_range(1..=4) {
            sql += "; ";
            sql += &self.statement();
            if self.rng.random_ratio(1, 6) {
                let (kept, undone, nested) = (self.statement(), self.statement(), self.statement());
                sql += &format!(
                    "; SAVEPOINT a; {undone}; SAVEPOINT b; {nested}; ROLLBACK TO b; ROLLBACK TO a; {kept}; RELEASE a"
                );
            }
        }
        if self.rng.random_ratio(1, 40) {
            sql += &self.large();
        }
        if self.churn.ddl && self.rng.random_ratio(1, 120) {
            sql += &format!("; {}", self.definition());
        }
        sql += if self.rng.random_ratio(1, 10) { "; ROLLBACK" } else { "; COMMIT" };
        sql
    }

    /// So many rows that they are sent before the transaction ends, a part of them rolled back.
    fn large(&mut self) -> String {
        let first = self.fresh(6_000);
        format!(
            "; INSERT INTO keyed (id, version, note) SELECT {first} + g, 1, 'large' FROM generate_series(1, 2000) g; SAVEPOINT l; \
             INSERT INTO keyed (id, version, note) SELECT {first} + 2000 + g, 2, 'undone' FROM generate_series(1, 2000) g; \
             ROLLBACK TO l; INSERT INTO keyed (id, version) SELECT {first} + 4000 + g, 3 FROM generate_series(1, 500) g; \
             DELETE FROM keyed WHERE id BETWEEN {first} AND {first} + 1500"
        )
    }

    fn definition(&mut self) -> String {
        let column = format!("extra_{}", self.rng.random_range(0..3));
        match self.rng.random_range(0..4) {
            0 | 1 => format!(
                "ALTER TABLE keyed ADD COLUMN IF NOT EXISTS {column} int; UPDATE keyed SET {column} = version WHERE id % 50 = 0"
            ),
            2 => format!("ALTER TABLE keyed DROP COLUMN IF EXISTS {column}"),
            _ => format!(
                "ALTER TABLE pairs ADD COLUMN IF NOT EXISTS {column} text DEFAULT 'there'; UPDATE pairs SET {column} = 'set' WHERE a % 60 = 0"
            ),
        }
    }

    /// Keys of this writer's own, above all others, so that inserts never meet.
    fn fresh(&mut self, count: i64) -> i64 {
        let first = 100_000_000 * (self.number + 1) + self.made;
        self.made += count;
        first
    }

    fn statement(&mut self) -> String {
        let key = self.rng.random_range(1..=ROWS);
        let (few, version) = (self.rng.random_range(1..=20), self.rng.random_range(1..1000));
        match self.rng.random_range(0..100) {
            0..12 => {
                let first = self.fresh(few);
                format!(
                    "INSERT INTO keyed (id, version, note, big) SELECT {first} + g, 0, 'i', CASE WHEN g % 3 = 0 THEN large('{first}' || g) END \
                     FROM generate_series(0, {few} - 1) g"
                )
            }
            12..30 => {
                format!("UPDATE keyed SET version = version + 1 WHERE id BETWEEN {key} AND {key} + {few}")
            }
            30..36 => format!("UPDATE keyed SET big = large('{version}'), list = NULL WHERE id = {key}"),
            // What is stored out of line stays as it is while its row gets another key.
            36..42 => format!(
                "UPDATE keyed SET id = id + {} WHERE id = {key} AND big IS NOT NULL",
                1_000_000_000_000 + self.fresh(1)
            ),
            42..47 => format!("DELETE FROM keyed WHERE id BETWEEN {key} AND {key} + 3"),
            47..52 => {
                let first = self.fresh(few);
                format!(
                    "INSERT INTO pairs (a, b, n) SELECT {first} + g, 'new', {version} FROM generate_series(0, {few} - 1) g"
                )
            }
            // Two rows swap their keys by way of a third.
            52..60 => {
                let (one, other) = (key, key % ROWS + 1);
                format!(
                    "UPDATE pairs SET a = -{one} WHERE a = {one}; UPDATE pairs SET a = {one} WHERE a = {other}; \
                     UPDATE pairs SET a = {other} WHERE a = -{one}"
                )
            }
            60..66 => format!("DELETE FROM pairs WHERE a = {key}"),
            66..72 => format!("INSERT INTO bare SELECT {version}, 'x' FROM generate_series(1, {few})"),
            72..77 => format!(
                "DELETE FROM bare WHERE ctid IN (SELECT ctid FROM bare WHERE n >= {version} % 300 LIMIT {few})"
            ),
            77..81 => format!("UPDATE bare SET t = 'u{version}' WHERE n = {version} % 300"),
            81..86 => {
                let first = self.fresh(few);
                format!(
                    "INSERT INTO regions SELECT {first} + g, (ARRAY['eu', 'us', 'ap'])[g % 3 + 1], {version} FROM generate_series(0, {few} - 1) g"
                )
            }
            // From one partition to another.
            86..93 => format!(
                "UPDATE regions SET region = '{}', n = {version} WHERE id BETWEEN {key} AND {key} + {few}",
                ["eu", "us", "ap"][self.rng.random_range(0..3)]
            ),
            93..97 => format!("DELETE FROM regions WHERE id BETWEEN {key} AND {key} + 2"),
            97 => {
                "TRUNCATE bare; INSERT INTO bare SELECT g, 'after' FROM generate_series(1, 200) g".to_owned()
            }
            // A table that no slow transaction holds: before 16 the server at times cannot decode what follows one that
            // truncated for as long as a slot takes to be made ("could not map filenode").
            98 if version % 4 == 0 => format!(
                "TRUNCATE regions; INSERT INTO regions SELECT g, (ARRAY['eu', 'us', 'ap'])[g % 3 + 1], g FROM generate_series(1, {ROWS}) g"
            ),
            _ => format!("UPDATE regions SET n = n + 1 WHERE id BETWEEN {key} AND {key} + {few}"),
        }
    }
}

/// Transactions that stay open for a while, whatever is begun, added or taken away meanwhile. What they write is theirs
/// alone, so that nobody waits for them.
struct Slow {
    database: TestDatabase,
    seed: u64,
}

impl Slow {
    async fn run(self, shared: Arc<Shared>) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(!self.seed);
        let mut client = self.database.client().await?;
        for number in 0.. {
            if shared.stopping.load(Ordering::Relaxed) {
                break;
            }
            let _turn = shared.turns.read().await;
            match self.transaction(&client, &mut rng, number).await {
                Ok(()) => _ = shared.committed.fetch_add(1, Ordering::Relaxed),
                Err(error) if gave_way(&error) => client.batch_execute("ROLLBACK").await?,
                Err(error) if went_away(&error) => match reconnect(&self.database, &shared).await? {
                    Some(again) => client = again,
                    None => break,
                },
                Err(error) => return Err(error).context("a slow transaction failed"),
            }
        }
        Ok(())
    }

    async fn transaction(
        &self,
        client: &Client,
        rng: &mut StdRng,
        number: i64,
    ) -> Result<(), tokio_postgres::Error> {
        let first = -10 * (number + 1);
        let begin = format!(
            "BEGIN; INSERT INTO keyed (id, version, big) VALUES ({first}, 0, large('{first}')), ({first} - 1, 0, NULL); \
             INSERT INTO pairs (a, b, n) VALUES ({first}, 'slow', 0)"
        );
        client.batch_execute(&begin).await?;
        tokio::time::sleep(Duration::from_millis(rng.random_range(200..2500))).await;
        let end = format!(
            "UPDATE keyed SET version = 1, id = id - 2 WHERE id = {first}; DELETE FROM keyed WHERE id = {first} - 1; \
             UPDATE pairs SET n = 1 WHERE a = {first}; COMMIT"
        );
        client.batch_execute(&end).await
    }
}

/// A connection again, once the server is back; none where the writers are to stop.
async fn reconnect(database: &TestDatabase, shared: &Shared) -> Result<Option<Client>> {
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if shared.stopping.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if let Ok(client) = database.client().await {
            return Ok(Some(client));
        }
    }
    anyhow::bail!("the server did not come back")
}

/// The server shut down, or crashed without a word.
fn went_away(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(|state| state.code().starts_with("57P"))
}

fn gave_way(error: &tokio_postgres::Error) -> bool {
    let states = [
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::UNIQUE_VIOLATION,
        SqlState::LOCK_NOT_AVAILABLE,
    ];
    states.iter().any(|state| error.code() == Some(state))
}
