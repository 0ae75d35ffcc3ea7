//! A pipeline of its own for every test: slot, publications, and what was read so far.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use arrow::util::display::array_value_to_string;
use futures::{StreamExt, TryStreamExt};
use lakeward_core::{
    Batch, Boundary, CdcDriver, ChangeEvent, ChangeRequest, ChangeStream, CheckpointInterval,
    ConfiguredStream, DriverInterface, Error, Position, Prepared, ReadContext, Result, Session, StreamPhase,
    Until,
};
use lakeward_postgres::PostgresDriver;
use serde_json::{Value, json};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(crate) use crate::server::{Database, VERSIONS, configured, context};

/// A row of a batch, or one that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) op: String,
    pub(crate) seq: String,
    /// Texts by column; `None` for null.
    pub(crate) values: Vec<Option<String>>,
    pub(crate) unchanged: Vec<String>,
}

/// What changes a whole server is done alone.
static SERVERS: RwLock<()> = RwLock::const_new(());

pub(crate) struct Pipeline {
    pub(crate) db: Database,
    pub(crate) driver: PostgresDriver,
    pub(crate) position: Position,
    pub(crate) names: (String, String),
    config: Value,
    _shared: Option<RwLockReadGuard<'static, ()>>,
    _alone: Option<RwLockWriteGuard<'static, ()>>,
}

impl Pipeline {
    /// A database with tables, and a driver that nobody has used.
    pub(crate) async fn new(version: u32, test: &str, sql: &str) -> Self {
        Self::with(version, test, sql, json!({})).await
    }

    pub(crate) async fn with(version: u32, test: &str, sql: &str, replication: Value) -> Self {
        let shared = SERVERS.read().await;
        Self { _shared: Some(shared), ..Self::make(version, test, sql, replication).await }
    }

    /// While it lives there is no other one.
    pub(crate) async fn alone(version: u32, test: &str, sql: &str, replication: Value) -> Self {
        let alone = SERVERS.write().await;
        Self { _alone: Some(alone), ..Self::make(version, test, sql, replication).await }
    }

    async fn make(version: u32, test: &str, sql: &str, replication: Value) -> Self {
        let name = format!("lw_{test}");
        let admin = Database::connect_admin(version).await;
        drop_slot(&admin, &name).await;
        let db = Database::create(version, test).await;
        db.run(sql).await;
        let mut config = json!({"slot": name, "publication": name});
        for (field, value) in replication.as_object().unwrap() {
            config[field] = value.clone();
        }
        let config = json!({"replication": config, "lock_timeout": "30s"});
        let driver = db.driver_with(config.clone());
        let position = driver.intent("0123456789", None).await.unwrap();
        Self { db, driver, position, names: (name.clone(), name), config, _shared: None, _alone: None }
    }

    pub(crate) fn cdc(&self) -> &dyn CdcDriver {
        self.driver.change_stream().unwrap()
    }

    /// A driver that knows nothing of what the other one did, as after a crash.
    pub(crate) fn restarted(&mut self) {
        self.driver = self.db.driver_with(self.config.clone());
    }

    /// The same with other settings of the change stream.
    pub(crate) fn reconfigured(&mut self, replication: Value) {
        for (field, value) in replication.as_object().unwrap() {
            self.config["replication"][field] = value.clone();
        }
        self.restarted();
    }

    pub(crate) async fn stream(&self, table: &str, selection: Value) -> Arc<ConfiguredStream> {
        let mut selection = selection;
        selection["sync_mode"] = selection.get("sync_mode").cloned().unwrap_or(json!("cdc"));
        configured(&self.driver, table, selection).await
    }

    pub(crate) async fn prepare(&mut self, streams: &[Arc<ConfiguredStream>]) -> Result<Prepared> {
        let prepared = self.cdc().pre_cdc(streams, &[], &self.position).await?;
        self.position = prepared.position.clone();
        Ok(prepared)
    }

    /// A stream that has joined the log, with the rows of its snapshot.
    pub(crate) async fn snapshot(&self, stream: &Arc<ConfiguredStream>) -> (Session, Vec<Change>) {
        let session = self.driver.begin_backfill(stream).await.unwrap();
        let plan = self.driver.get_or_split_chunks(stream, &session, None, 1 << 20).await.unwrap();
        let mut rows = Vec::new();
        for chunk in plan {
            let batches: Vec<Batch> = self
                .driver
                .chunk_iterator(stream.clone(), chunk, &session, context())
                .await
                .unwrap()
                .try_collect()
                .await
                .unwrap();
            rows.extend(batches.iter().flat_map(changes));
        }
        self.driver.end_backfill(session.clone()).await;
        (session, rows)
    }

    /// Prepares and reads the snapshots of streams: all of them are open from there.
    pub(crate) async fn begin(&mut self, tables: &[(&str, Value)]) -> Vec<Follower> {
        let mut streams = Vec::new();
        for (table, selection) in tables {
            streams.push(self.stream(table, selection.clone()).await);
        }
        self.prepare(&streams).await.unwrap();
        let mut followers = Vec::new();
        for stream in streams {
            let (session, rows) = self.snapshot(&stream).await;
            let position = session.position.clone().unwrap();
            followers.push(Follower { stream, position, rows, session });
        }
        followers
    }

    pub(crate) fn request(&self, followers: &[Follower], until: Until) -> ChangeRequest {
        ChangeRequest {
            streams: followers
                .iter()
                .map(|f| {
                    let position = f.position.clone();
                    (f.stream.clone(), StreamPhase::Open { position, generation: 1 })
                })
                .collect(),
            from: self.position.clone(),
            until,
            checkpoint: CheckpointInterval { time: Duration::from_millis(100), bytes: 64 << 20 },
            context: context(),
        }
    }

    pub(crate) async fn read_with(&self, request: ChangeRequest) -> Result<ChangeStream> {
        self.cdc().stream_changes(request).await
    }

    /// Reads up to now; everything is committed and released.
    pub(crate) async fn catch_up(&mut self, followers: &mut [Follower]) -> Vec<Boundary> {
        self.try_catch_up(followers).await.unwrap()
    }

    pub(crate) async fn try_catch_up(&mut self, followers: &mut [Follower]) -> Result<Vec<Boundary>> {
        let request = self.request(followers, Until::Now);
        let mut events = self.read_with(request).await?;
        let mut boundaries = Vec::new();
        while let Some(event) = within(events.next()).await {
            match event? {
                ChangeEvent::Changes(stream, batch) => {
                    let follower = followers.iter_mut().find(|f| f.stream.id == stream).unwrap();
                    assert_eq!(batch.rows.schema().fields(), follower.stream.schema.arrow().fields());
                    follower.rows.extend(changes(&batch));
                }
                ChangeEvent::Boundary(boundary) => {
                    self.position = boundary.position.clone();
                    followers.iter_mut().for_each(|f| f.position = boundary.position.clone());
                    self.cdc().release(&boundary.position).await?;
                    boundaries.push(boundary);
                }
                ChangeEvent::Resting(_) => {}
                ChangeEvent::Changed { stream, what, .. } => {
                    return Err(Error::new(lakeward_core::ErrorKind::Schema, what).at("stream", stream));
                }
            }
        }
        self.cdc().post_cdc().await?;
        Ok(boundaries)
    }

    /// Reads without committing anything.
    pub(crate) async fn read_into(&self, request: ChangeRequest, followers: &mut [Follower]) {
        let mut events = self.read_with(request).await.unwrap();
        while let Some(event) = within(events.next()).await {
            if let ChangeEvent::Changes(stream, batch) = event.unwrap() {
                let follower = followers.iter_mut().find(|f| f.stream.id == stream).unwrap();
                follower.rows.extend(changes(&batch));
            }
        }
    }

    /// Compares what was read with what there is, as texts.
    pub(crate) async fn assert_same(&self, follower: &Follower, table: &str) {
        let expected = self.rows(table, follower).await;
        assert_rows(follower.latest(), expected, table);
    }

    async fn rows(&self, table: &str, follower: &Follower) -> Vec<Vec<Option<String>>> {
        let columns: Vec<String> =
            follower.stream.schema.columns.iter().map(|c| format!("format('%s', \"{}\")", c.name)).collect();
        let nulls: Vec<String> = follower
            .stream
            .schema
            .columns
            .iter()
            .zip(columns)
            .map(|(c, text)| format!("CASE WHEN \"{}\" IS NOT NULL THEN {text} END", c.name))
            .collect();
        let sql = format!("SELECT {} FROM {table}", nulls.join(", "));
        let rows = self.db.client.query(&sql, &[]).await.unwrap();
        let mut rows: Vec<Vec<Option<String>>> =
            rows.iter().map(|row| (0..row.len()).map(|i| row.get(i)).collect()).collect();
        rows.sort();
        rows
    }

    pub(crate) async fn lsn(&self) -> String {
        let sql = "SELECT pg_current_wal_insert_lsn()::text";
        self.db.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Whatever a test made outlives its database but for this.
    pub(crate) async fn close(self) {
        self.cdc().post_cdc().await.unwrap();
        drop(self.driver);
        drop_slot(&self.db.client, &self.names.0).await;
    }
}

/// Drops a slot, whoever reads it.
pub(crate) async fn drop_slot(client: &tokio_postgres::Client, name: &str) {
    for _ in 0..100 {
        let sql = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active";
        client.query(sql, &[&name]).await.unwrap();
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1";
        if client.query(sql, &[&name]).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("slot {name} cannot be dropped");
}

/// What takes longer than this hangs.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("it ends in a minute")
}

pub(crate) struct Follower {
    pub(crate) stream: Arc<ConfiguredStream>,
    pub(crate) position: Position,
    pub(crate) rows: Vec<Change>,
    pub(crate) session: Session,
}

impl Follower {
    /// What was added since so many rows.
    pub(crate) fn ops(&self, since: usize) -> String {
        self.rows[since..].iter().map(|row| row.op.as_str()).collect()
    }

    /// The rows as they stand after all changes, in order of their values.
    pub(crate) fn latest(&self) -> Vec<Vec<Option<String>>> {
        let key: Vec<usize> =
            self.stream.key.iter().map(|k| self.stream.schema.index_of(k).unwrap()).collect();
        let mut keyed: BTreeMap<Vec<Option<String>>, Vec<Option<String>>> = BTreeMap::new();
        let mut counted: BTreeMap<Vec<Option<String>>, i64> = BTreeMap::new();
        let mut last = String::new();
        for row in &self.rows {
            assert!(row.op == "r" || row.seq > last, "{} does not follow {last}", row.seq);
            last = if row.op == "r" { String::new() } else { row.seq.clone() };
            let named: Vec<_> = key.iter().map(|k| row.values[*k].clone()).collect();
            match row.op.as_str() {
                "t" => {
                    keyed.clear();
                    counted.clear();
                }
                "d" if key.is_empty() => *counted.entry(row.values.clone()).or_default() -= 1,
                _ if key.is_empty() => *counted.entry(row.values.clone()).or_default() += 1,
                "d" => {
                    keyed.remove(&named);
                }
                _ => {
                    let mut values = row.values.clone();
                    for name in &row.unchanged {
                        let at = self.stream.schema.index_of(name).unwrap();
                        values[at] = keyed.get(&named).and_then(|before| before[at].clone());
                    }
                    keyed.insert(named, values);
                }
            }
        }
        let mut rows: Vec<_> = match key.is_empty() {
            false => keyed.into_values().collect(),
            true => counted
                .into_iter()
                .flat_map(|(row, count)| {
                    std::iter::repeat_n(row, usize::try_from(count).expect("a row went that was there"))
                })
                .collect(),
        };
        rows.sort();
        rows
    }
}

pub(crate) fn changes(batch: &Batch) -> Vec<Change> {
    let text = |column: &ArrayRef, row: usize| {
        let text = array_value_to_string(column, row).unwrap_or_else(|_| "?".to_owned());
        // Lists as the server prints them.
        let text = match column.data_type() {
            DataType::List(_) => text.replace('[', "{").replace(']', "}").replace(", ", ","),
            _ => text,
        };
        (!column.is_null(row)).then_some(text)
    };
    (0..batch.rows.num_rows())
        .map(|row| Change {
            op: batch.changes.as_ref().map_or("r".to_owned(), |changes| changes.op.value(row).to_owned()),
            seq: batch.changes.as_ref().map_or(String::new(), |changes| changes.seq.value(row).to_owned()),
            values: batch.rows.columns().iter().map(|column| text(column, row)).collect(),
            unchanged: batch
                .changes
                .as_ref()
                .and_then(|changes| changes.unchanged.as_ref())
                .filter(|list| !list.is_null(row))
                .map(|list| {
                    let names = list.value(row);
                    (0..names.len()).map(|n| array_value_to_string(&names, n).unwrap()).collect()
                })
                .unwrap_or_default(),
        })
        .collect()
}

/// Says which rows differ, and no more of them than can be read.
pub(crate) fn assert_rows(left: Vec<Vec<Option<String>>>, right: Vec<Vec<Option<String>>>, what: &str) {
    let only = |these: &[Vec<Option<String>>], others: &[Vec<Option<String>>]| -> Vec<String> {
        let differing = these.iter().filter(|row| !others.contains(row)).take(5);
        differing.map(|row| format!("{row:.80?}")).collect()
    };
    if left != right {
        let counts = (left.len(), right.len());
        let (here, there) = (only(&left, &right), only(&right, &left));
        panic!("{what}: {counts:?} rows, here alone {here:#?}, at the source alone {there:#?}");
    }
}

pub(crate) fn small_context(budget: usize) -> ReadContext {
    ReadContext { budget: lakeward_core::MemoryBudget::new(budget), batch_bytes: 64 << 10, ..context() }
}
