//! The comparison, made by the server that holds the source.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use futures::SinkExt;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt};
use tokio_postgres::Client;

use super::{Mode, Options, Report, StreamName};
use crate::python::Script;
use crate::server::{TestDatabase, quote_ident};

/// The text of a value depends on these; they are the ones that the types' mapping is defined by.
const SETTINGS: &str = "
SET search_path = ''; SET row_security = off; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = postgres;
SET TimeZone = 'UTC'; SET extra_float_digits = 1; SET bytea_output = hex; SET lc_monetary = 'C';
SET xmlbinary = base64; SET work_mem = '256MB'; SET jit = off; SET statement_timeout = 0";

/// How many differing keys a report names.
const SAMPLE: usize = 20;

/// A row of more text columns may not fit a page of the scratch table.
const MOST_COLUMNS: usize = 250;

/// A row of the catalog for each column that is compared.
struct Column {
    name: String,
    /// The type that the lake's text is read as, without length or precision: a value that does
    /// not fit those must differ, not be rounded.
    sql_type: String,
    /// What stands between the elements of this array in the server's text.
    delimiter: String,
}

/// What `reconcile.py` says before the rows.
#[derive(Deserialize)]
struct Head {
    files: usize,
    columns: Vec<LakeColumn>,
    absent: Vec<String>,
    unknown: Vec<String>,
    problems: Vec<String>,
}

#[derive(Deserialize)]
struct LakeColumn {
    name: String,
    kind: String,
}

/// Compares every row of a table, as it is now, with the latest view of its stream in the lake
/// at `root`. Nobody should write to the table meanwhile.
///
/// Fails where there is nothing to compare (no such table, no files, a file that cannot be read, a
/// value that is none of its type); differences are not a failure but a [`Report`].
pub async fn reconcile(
    db: &TestDatabase,
    root: &Path,
    stream: impl Into<StreamName>,
    options: &Options,
) -> Result<Report> {
    let stream = stream.into();
    let client = db.client().await?;
    client.batch_execute(SETTINGS).await?;
    let table = Table::look_up(&client, &stream, options).await?;

    let column = |c: &Column| json!({ "name": c.name, "written_as": options.name_in_lake(&c.name), "delimiter": c.delimiter });
    let columns: Vec<_> = table.columns.iter().map(column).collect();
    let key: Vec<_> = table.log_key.iter().map(|name| options.name_in_lake(name)).collect();
    let directory = options.directory.clone().unwrap_or_else(|| stream.directory(root));
    let mode = match options.mode {
        Mode::FullRefresh => "full_refresh",
        Mode::Incremental => "incremental",
        Mode::Cdc => "cdc",
    };
    let packed = columns.len() > MOST_COLUMNS;
    let request = json!({
        "directory": directory, "mode": mode, "key": key, "columns": columns, "packed": packed,
    });
    let mut script = Script::start("reconcile.py", &request).await?;
    let mut line = String::new();
    script.stdout.read_line(&mut line).await?;
    if line.is_empty() {
        script.finish().await?;
        anyhow::bail!("the reader said nothing");
    }
    let head: Head = serde_json::from_str(&line).context("the reader's answer")?;
    let scratch = Scratch { columns: head.columns, packed };
    client.batch_execute(&scratch.create()).await?;
    copy(&client, script).await?;

    let cells = table.cells(&scratch, options);
    let mut report = Report {
        stream: format!("{}.{}", stream.namespace, stream.name),
        rows_source: 0,
        rows_destination: 0,
        missing: 0,
        extra: 0,
        keys: vec![],
        columns: BTreeMap::new(),
        problems: head.problems,
        absent: head.absent,
        unknown: head.unknown,
        kinds: scratch.columns.iter().map(|c| (c.name.clone(), c.kind.clone())).collect(),
        files: head.files,
    };
    compare(&client, &table, &cells, options, &mut report).await?;
    Ok(report)
}

/// The source table as the catalog has it.
struct Table {
    /// What follows FROM: quoted, and without the tables that inherit from it.
    from: String,
    columns: Vec<Column>,
    /// The key by which the log is ordered.
    log_key: Vec<String>,
}

impl Table {
    async fn look_up(client: &Client, stream: &StreamName, options: &Options) -> Result<Self> {
        let sql = "SELECT c.oid, c.relkind::text, c.relreplident::text FROM pg_class c \
                   JOIN pg_namespace n ON n.oid = c.relnamespace WHERE nspname = $1 AND relname = $2";
        let found = client.query_opt(sql, &[&stream.namespace, &stream.name]).await?;
        let found = found.with_context(|| format!("no table {}.{}", stream.namespace, stream.name))?;
        let (oid, kind, identity): (u32, String, String) = (found.get(0), found.get(1), found.get(2));
        let only = if kind == "r" { "ONLY " } else { "" };
        let from = format!("{only}{}.{}", quote_ident(&stream.namespace), quote_ident(&stream.name));
        let columns = columns(client, oid, options).await?;
        let log_key = match &options.key {
            Some(key) => key.clone(),
            None => key(client, oid, options.mode, &identity).await?,
        };
        Ok(Self { from, columns, log_key })
    }

    /// For each column that both sides have, its text on each side.
    fn cells(&self, scratch: &Scratch, options: &Options) -> Vec<Cell> {
        let mut cells = vec![];
        for (place, lake) in scratch.columns.iter().enumerate() {
            let Some(column) = self.columns.iter().find(|column| column.name == lake.name) else { continue };
            let set = |list: &[(String, String)]| {
                list.iter().find(|(name, _)| *name == column.name).map(|(_, value)| value.clone())
            };
            let expected = set(&options.expressions).unwrap_or_else(|| quote_ident(&column.name));
            let value = scratch.value(place);
            let read_as = match (set(&options.casts), lake.kind.as_str()) {
                (Some(cast), _) => Some(cast),
                // The lake has the text itself: byte for byte.
                (None, "VARCHAR" | "JSON") => None,
                // A list of texts: read as such, so that each element is compared byte for byte.
                (None, "VARCHAR[]" | "JSON[]") if column.delimiter == "," => Some("text[]".to_owned()),
                (None, _) => Some(column.sql_type.clone()),
            };
            let source = match set(&options.casts) {
                Some(cast) => printed(&expected, &format!("({expected})::{cast}")),
                None => printed(&expected, &expected),
            };
            let destination = match read_as {
                Some(sql_type) => printed(&value, &format!("{value}::{sql_type}")),
                None => value,
            };
            cells.push(Cell { name: column.name.clone(), source, destination });
        }
        cells
    }
}

struct Cell {
    name: String,
    source: String,
    destination: String,
}

/// SQL for the text that the output function of the value's type makes, which a cast to text is
/// not; null where `value` is. (`format` makes an empty string of NULL. `IS NULL` is true of a row
/// of nulls, and `IS NOT DISTINCT FROM` is not.)
fn printed(value: &str, expression: &str) -> String {
    format!("CASE WHEN ({value}) IS NOT DISTINCT FROM NULL THEN NULL ELSE format('%s', {expression}) END")
}

async fn columns(client: &Client, table: u32, options: &Options) -> Result<Vec<Column>> {
    let sql = "
        WITH RECURSIVE base (attnum, attname, type) AS (
            SELECT attnum, attname, atttypid FROM pg_attribute
            WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
            UNION ALL
            SELECT attnum, attname, typbasetype FROM base JOIN pg_type t ON t.oid = type WHERE typtype = 'd')
        SELECT attname::text, format_type(t.oid, -1), coalesce(e.typdelim::text, ',')
        FROM base JOIN pg_type t ON t.oid = type LEFT JOIN pg_type e ON e.oid = t.typelem
        WHERE t.typtype <> 'd' ORDER BY attnum";
    let rows = client.query(sql, &[&table]).await?;
    let columns =
        rows.iter().map(|row| Column { name: row.get(0), sql_type: row.get(1), delimiter: row.get(2) });
    Ok(columns.filter(|column| !options.exclude.contains(&column.name)).collect())
}

/// The key of a stream: in a change stream what a delete carries, else the primary key.
async fn key(client: &Client, table: u32, mode: Mode, identity: &str) -> Result<Vec<String>> {
    let index = match (mode, identity) {
        (Mode::Cdc, "n") => return Ok(vec![]),
        (Mode::Cdc, "i") => "indisreplident",
        _ => "indisprimary AND indimmediate",
    };
    let sql = format!(
        "SELECT attname::text FROM pg_index, unnest(indkey[:indnkeyatts - 1]) WITH ORDINALITY AS k (n, place)
         JOIN pg_attribute ON attrelid = $1 AND attnum = n WHERE indrelid = $1 AND {index} ORDER BY place"
    );
    Ok(client.query(&sql, &[&table]).await?.iter().map(|row| row.get(0)).collect())
}

/// The latest view in a temporary table, all as text: in a column each, or, where that would be
/// too many, in one array.
struct Scratch {
    columns: Vec<LakeColumn>,
    packed: bool,
}

impl Scratch {
    fn create(&self) -> String {
        let columns: String = match self.packed {
            true => ", v text[]".to_owned(),
            false => (0..self.columns.len()).map(|place| format!(", c{place} text")).collect(),
        };
        format!("CREATE TEMP TABLE lake (w int{columns})")
    }

    fn value(&self, place: usize) -> String {
        if self.packed { format!("v[{}]", place + 1) } else { format!("c{place}") }
    }
}

async fn copy(client: &Client, mut script: Script) -> Result<()> {
    let sink = client.copy_in("COPY pg_temp.lake FROM STDIN").await?;
    futures::pin_mut!(sink);
    loop {
        let mut chunk = BytesMut::with_capacity(1 << 18);
        if script.stdout.read_buf(&mut chunk).await? == 0 {
            break;
        }
        sink.send(chunk.freeze()).await?;
    }
    // Before the end of the copy: what a failed reader sent must not be taken for all.
    script.finish().await?;
    sink.close().await.context("the server does not take what the reader read")?;
    Ok(())
}

async fn compare(
    client: &Client,
    table: &Table,
    cells: &[Cell],
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let condition = options.filter.as_deref().unwrap_or("true");
    let from = &table.from;
    let source_key = row_text(cells, &table.log_key, |cell| &cell.source)?;
    let lake_key = row_text(cells, &table.log_key, |cell| &cell.destination)?;
    let all: Vec<String> = cells.iter().map(|cell| cell.name.clone()).collect();
    let source_hash = format!("md5({})", row_text(cells, &all, |cell| &cell.source)?);
    let lake_hash = format!("md5({})", row_text(cells, &all, |cell| &cell.destination)?);

    let sql = format!(
        "CREATE TEMP TABLE difference AS
         SELECT k, h, sum(w) AS n FROM (
             SELECT {source_key} AS k, {source_hash} AS h, 1 AS w FROM {from} WHERE {condition}
             UNION ALL
             SELECT {lake_key}, {lake_hash}, -w FROM pg_temp.lake) AS sides
         GROUP BY k, h HAVING sum(w) <> 0"
    );
    client.batch_execute(&sql).await.context("the server cannot compare")?;
    let counts = format!(
        "SELECT (SELECT count(*) FROM {from} WHERE {condition}),
                (SELECT coalesce(sum(w), 0)::bigint FROM pg_temp.lake),
                coalesce(sum(n) FILTER (WHERE n > 0), 0)::bigint,
                coalesce(-sum(n) FILTER (WHERE n < 0), 0)::bigint FROM pg_temp.difference"
    );
    let row = client.query_one(&counts, &[]).await?;
    (report.rows_source, report.rows_destination) = (row.get(0), row.get(1));
    (report.missing, report.extra) = (row.get(2), row.get(3));
    if report.missing + report.extra == 0 {
        return Ok(());
    }

    let name = if table.log_key.is_empty() { "'row ' || h" } else { "k" };
    let sample = format!("SELECT DISTINCT {name} FROM pg_temp.difference ORDER BY 1 LIMIT {SAMPLE}");
    report.keys = client.query(&sample, &[]).await?.iter().map(|row| row.get(0)).collect();
    if table.log_key.is_empty() {
        return Ok(());
    }
    let side = |pick: fn(&Cell) -> &String| {
        let list = cells.iter().enumerate().map(|(n, cell)| format!(", {} AS c{n}", pick(cell)));
        list.collect::<String>()
    };
    let sides = format!(
        "FROM (SELECT {source_key} AS k{} FROM {from} WHERE {condition}) AS s
         JOIN (SELECT {lake_key} AS k{} FROM pg_temp.lake) AS d USING (k)
         WHERE k IN (SELECT k FROM pg_temp.difference)",
        side(|cell| &cell.source),
        side(|cell| &cell.destination)
    );
    let differing =
        (0..cells.len()).map(|n| format!("count(*) FILTER (WHERE s.c{n} IS DISTINCT FROM d.c{n})"));
    let sql = format!("SELECT {} {sides}", differing.collect::<Vec<_>>().join(", "));
    let row = client.query_one(&sql, &[]).await?;
    for (place, cell) in cells.iter().enumerate() {
        let count: i64 = row.get(place);
        if count > 0 {
            report.columns.insert(cell.name.clone(), count);
        }
    }
    Ok(())
}

/// SQL for these columns as the text of a row, in which NULL and an empty text differ.
fn row_text(cells: &[Cell], names: &[String], side: fn(&Cell) -> &String) -> Result<String> {
    let mut parts = vec![];
    for name in names {
        let cell = cells.iter().find(|cell| cell.name == *name);
        parts.push(side(cell.with_context(|| format!("{name} is not compared but needed"))?).as_str());
    }
    ensure!(parts.len() <= 1600, "more columns than a table can have");
    Ok(format!("ROW({})::text", parts.join(", ")))
}
