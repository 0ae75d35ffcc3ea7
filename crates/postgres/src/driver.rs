//! PostgreSQL behind the contracts of a source.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::StreamExt;
use lakeward_core::{
    BatchStream, CdcDriver, Chunk, Column, ColumnType, ConfiguredStream, CursorState, DoneChunk,
    DriverInterface, Error, Finding, IncrementalDriver, IncrementalPass, ReadContext, Result, Session,
    SourceIdentity, Stream, StreamId, SyncMode,
};
use serde_json::{Map, Value};

use crate::backfill::{self, Behind};
use crate::catalog;
use crate::config::{self, PostgresConfig};
use crate::connect::Connector;
use crate::copy::{self, Rows};
use crate::decode::{PgType, RowDecoder};
use crate::error::in_session;
use crate::replication::Replication;
use crate::session::{Detail, Holders, Snapshot, join};
use crate::{check, chunks, incremental, schema};

/// The connector's kind, as in a config's `type`.
pub const KIND: &str = "postgres";

/// PostgreSQL, version 10 or later, a hot standby included.
///
/// Sessions are held by this driver: they end when it is dropped.
pub struct PostgresDriver {
    pub(crate) connector: Arc<Connector>,
    pub(crate) holders: Holders,
    /// What columns of a type are on the wire, by the type's name, as far as streams were described: a column
    /// of the contract does not say.
    wire_types: Mutex<HashMap<String, PgType>>,
    pub(crate) replication: Replication,
}

impl PostgresDriver {
    /// A driver from a config. Nothing is connected yet.
    ///
    /// # Errors
    /// `Config`, naming the field and the remedy.
    pub fn from_config(config: Value) -> Result<Self> {
        let settings = PostgresConfig::parse(config)?.validate()?;
        Ok(Self {
            connector: Arc::new(Connector::new(settings)),
            holders: Holders::default(),
            wire_types: Mutex::default(),
            replication: Replication::default(),
        })
    }

    /// Counts a chunk's rows under a session, and those whose version is older than `xmin`.
    async fn count(
        &self,
        stream: &ConfiguredStream,
        chunk: &Chunk,
        detail: &Detail,
        session: &Session,
        xmin: u64,
    ) -> Result<(u64, u64)> {
        let relation = detail.relation(chunk.relation.as_deref())?;
        let mut conditions = vec![relation.still_named()];
        conditions.extend(chunks::condition(detail, chunk)?);
        let sql = format!(
            "SELECT count(*), count(*) FILTER (WHERE age(xmin) > age('{}'::xid)) FROM {}{}",
            xmin & u64::from(u32::MAX),
            relation.from(),
            copy::condition(stream, conditions)
        );
        let connection = self.connector.connect().await?;
        for statement in join(&session.token, &[relation]) {
            connection.run(&statement).await?;
        }
        let rows = connection.long_rows(&sql).await?;
        connection.run("COMMIT").await?;
        self.connector.rest(connection);
        let row = rows.first().ok_or_else(|| Error::bug("an aggregate gave no row"))?;
        Ok((row.get::<_, i64>(0).cast_unsigned(), row.get::<_, i64>(1).cast_unsigned()))
    }
}

#[async_trait]
impl DriverInterface for PostgresDriver {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn spec(&self) -> Value {
        config::spec()
    }

    async fn check(&self, streams: &[Arc<ConfiguredStream>]) -> Result<Vec<Finding>> {
        check::check(&self.connector, streams).await
    }

    async fn identity(&self) -> Result<SourceIdentity> {
        let connection = self.connector.connect().await?;
        let row = connection
            .row("SELECT system_identifier::text, current_database()::text FROM pg_control_system()", &[])
            .await
            .map_err(|error| {
                error.hint("the role needs pg_control_system(): GRANT EXECUTE ON FUNCTION pg_control_system() TO <role>")
            })?;
        self.connector.rest(connection);
        let facts = Map::from_iter([
            ("system_identifier".to_owned(), Value::String(row.get(0))),
            ("database".to_owned(), Value::String(row.get(1))),
        ]);
        Ok(SourceIdentity { kind: KIND.to_owned(), facts })
    }

    async fn stream_names(&self) -> Result<Vec<StreamId>> {
        let connection = self.connector.connect().await?;
        let names = catalog::stream_names(&connection, &self.connector.settings().schemas).await?;
        self.connector.rest(connection);
        Ok(names)
    }

    async fn produce_schema(&self, streams: &[StreamId]) -> Result<Vec<Stream>> {
        let described = schema::discover(&self.connector, streams).await?;
        let mut wire_types = self.wire_types.lock().unwrap_or_else(PoisonError::into_inner);
        self.replication.described(described.iter().map(|described| &described.stream));
        for (column, mapped) in described.iter().flat_map(|described| &described.columns) {
            wire_types.entry(column.source_type.clone()).or_insert_with(|| mapped.pg_type.clone());
        }
        Ok(described.into_iter().map(|described| described.stream).collect())
    }

    fn accepts_override(&self, column: &Column, target: &ColumnType) -> bool {
        let wire_types = self.wire_types.lock().unwrap_or_else(PoisonError::into_inner);
        match wire_types.get(&column.source_type) {
            Some(pg_type) => RowDecoder::supports(pg_type, target),
            None => *target == column.column_type,
        }
    }

    fn max_connections(&self) -> usize {
        self.connector.settings().max_connections
    }

    fn max_retries(&self) -> Option<u32> {
        self.connector.settings().max_retries
    }

    async fn begin_backfill(&self, stream: &ConfiguredStream) -> Result<Session> {
        let behind = match stream.sync_mode.follows_log() {
            true => Behind::TheLogOf(self.replication.names()?),
            false => Behind::NoLog,
        };
        backfill::begin(&self.connector, &self.holders, stream, &behind).await
    }

    async fn end_backfill(&self, session: Session) {
        self.holders.release(&session.token).await;
    }

    async fn get_or_split_chunks(
        &self,
        stream: &ConfiguredStream,
        session: &Session,
        earlier: Option<&[Chunk]>,
        chunk_bytes: u64,
    ) -> Result<Vec<Chunk>> {
        self.holders.require(&session.token)?;
        if stream.sync_mode == SyncMode::StrictCdc {
            return Ok(chunks::none(earlier));
        }
        let held = self.holders.connection(&session.token)?;
        let connection = held.lock().await;
        chunks::split(&connection, stream, session, earlier, chunk_bytes).await.map_err(|error| {
            in_session(error, self.holders.require(&session.token).is_err()).at("stream", &stream.id)
        })
    }

    async fn verify_chunk(
        &self,
        stream: &ConfiguredStream,
        chunk: &Chunk,
        done: &DoneChunk,
        session: &Session,
    ) -> Result<bool> {
        self.holders.require(&session.token)?;
        if stream.sync_mode == SyncMode::StrictCdc {
            return Ok(done.rows == 0);
        }
        let detail = Detail::of(session)?;
        let (Some(then), Some(now)) = (Snapshot::of(&done.snapshot), Snapshot::of(&session.snapshot)) else {
            return Ok(false);
        };
        let known = chunk.relation.as_deref().and_then(|name| detail.relation(Some(name)).ok());
        if !known.is_some_and(|relation| relation.heap) || !now.can_judge(&then) {
            return Ok(false);
        }
        let (rows, old) = self.count(stream, chunk, &detail, session, then.xmin).await.map_err(|error| {
            let lost = self.holders.require(&session.token).is_err();
            in_session(error, lost).at("chunk", chunk.number).at("stream", &stream.id)
        })?;
        Ok(rows == old && rows == done.rows)
    }

    async fn chunk_iterator(
        &self,
        stream: Arc<ConfiguredStream>,
        chunk: Chunk,
        session: &Session,
        context: ReadContext,
    ) -> Result<BatchStream> {
        // What was there before is of no interest: its only chunk has no rows.
        if stream.sync_mode == SyncMode::StrictCdc {
            return Ok(futures::stream::empty().boxed());
        }
        let detail = Detail::of(session)?;
        let relation = detail.relation(chunk.relation.as_deref())?;
        let rows = Rows {
            relations: vec![relation],
            from: relation.from(),
            named: relation,
            conditions: chunks::condition(&detail, &chunk)?.into_iter().collect(),
            extra: None,
        };
        copy::read(&self.connector, &self.holders, &stream, session, &detail, rows, context).await
    }

    fn incremental(&self) -> Option<&dyn IncrementalDriver> {
        Some(self)
    }

    fn change_stream(&self) -> Option<&dyn CdcDriver> {
        Some(self)
    }
}

#[async_trait]
impl IncrementalDriver for PostgresDriver {
    async fn fetch_max_cursor_values(
        &self,
        stream: &ConfiguredStream,
        session: &Session,
        since: Option<&CursorState>,
    ) -> Result<Option<CursorState>> {
        incremental::max_cursor(&self.connector, &self.holders, stream, session, since).await
    }

    async fn stream_incremental_changes(
        &self,
        stream: Arc<ConfiguredStream>,
        session: &Session,
        pass: IncrementalPass,
        context: ReadContext,
    ) -> Result<BatchStream> {
        incremental::changes(&self.connector, &self.holders, stream, session, pass, context).await
    }
}
