//! The preflight: what a sync would stumble over, each with its remedy.

use std::sync::Arc;

use lakeward_core::{ConfiguredStream, Error, ErrorKind, Finding, InsertsOnly, Result, StreamId, SyncMode};

use crate::catalog::{self, RelationKind};
use crate::config::ReplicationConfig;
use crate::connect::{Connection, Connector};
use crate::replication::{self, GENERATED_VERSION, Names};
use crate::schema::{Described, describe};
use crate::{copy, sql};

/// How many names a finding lists before it says how many more there are.
const NAMES: usize = 5;

/// Looks at the server and, with `streams`, at what each of them needs.
pub(crate) async fn check(connector: &Connector, streams: &[Arc<ConfiguredStream>]) -> Result<Vec<Finding>> {
    let connection = match connector.connect().await {
        Ok(connection) => connection,
        // Only what no retry would change is a finding; a server that is away is the caller's to retry.
        Err(error) if matches!(error.kind(), ErrorKind::Config | ErrorKind::Source) => {
            return Ok(vec![unreachable_server(connector, &error)]);
        }
        Err(error) => return Err(error),
    };
    let version = connector.version().await?;
    let mut findings = vec![Finding::ok(connector.address(), format!("PostgreSQL {version}"))];
    if version < 14 {
        findings.push(Finding::warning(
            "version",
            "before PostgreSQL 14 tables are read by ranges of their primary key, and without one as a whole",
            "name a chunk_column for large tables without a primary key",
        ));
    }
    findings.push(match connection.encrypted {
        true => Finding::ok("tls", "the connection is encrypted"),
        false if connector.settings().is_local() => Finding::ok("tls", "not over a Unix socket"),
        false => Finding::warning(
            "tls",
            "the connection is not encrypted",
            "set ssl.mode to verify-full, and ssl.server_ca where the authority is a private one",
        ),
    });
    server(connector, &connection, &mut findings).await?;
    let follows_log = match streams {
        [] => connector.settings().replication.is_some(),
        _ => streams.iter().any(|stream| stream.sync_mode.follows_log()),
    };
    if follows_log {
        let manage = replication::settings(connector).manage;
        log(&connection, manage, &mut findings).await?;
        if manage {
            unowned(connector, &connection, streams, &mut findings).await?;
        }
        // Which tables are to be published only the streams say.
        if !manage && !streams.is_empty() {
            unmanaged(connector, &connection, streams, &mut findings).await?;
        }
    }
    if streams.is_empty() {
        if connector.settings().replication.is_none() {
            findings.push(Finding::ok("changes", "what it takes to follow them is looked at with --streams"));
        }
        offered(connector, &connection, &mut findings).await?;
    } else {
        selected(connector, &connection, streams, &mut findings).await?;
    }
    Ok(findings)
}

fn unreachable_server(connector: &Connector, error: &Error) -> Finding {
    let remedy = error.remedy().unwrap_or("check host, port, database, username and password in the config");
    Finding::error(connector.address(), error.to_string(), remedy)
}

async fn server(connector: &Connector, connection: &Connection, findings: &mut Vec<Finding>) -> Result<()> {
    let row = connection
        .row(
            "SELECT pg_is_in_recovery(), current_setting('max_connections')::int \
               - current_setting('superuser_reserved_connections')::int \
               - (SELECT count(*)::int FROM pg_catalog.pg_stat_activity WHERE pid <> pg_backend_pid() \
                  AND datid IS NOT NULL), \
             current_setting('max_standby_streaming_delay'), current_setting('hot_standby_feedback'), \
             (SELECT CASE WHEN r.rolconnlimit < 0 THEN NULL ELSE r.rolconnlimit END \
              FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)",
            &[],
        )
        .await?;
    // Each stream being read has a holder beside its readers.
    let wanted = connector.settings().max_connections * 2;
    let free = usize::try_from(row.get::<_, i32>(1)).unwrap_or_default();
    let limit = row.get::<_, Option<i32>>(4).and_then(|limit| usize::try_from(limit).ok());
    let room = limit.map_or(free, |limit| limit.min(free));
    if room < wanted {
        findings.push(Finding::warning(
            "connections",
            format!("about {room} connections are free, and up to {wanted} may be used: readers and snapshot holders"),
            "lower max_connections in the config, or raise max_connections (or the role's CONNECTION LIMIT) at the server",
        ));
    } else {
        findings.push(Finding::ok("connections", format!("about {room} are free")));
    }
    if row.get(0) {
        let (delay, feedback): (String, String) = (row.get(2), row.get(3));
        findings.push(match (delay.as_str(), feedback.as_str()) {
            ("-1", _) => Finding::ok("standby", "a standby that never cancels queries"),
            _ => Finding::warning(
                "standby",
                format!(
                    "a hot standby: recovery may cancel reads (max_standby_streaming_delay = {delay}, \
                     hot_standby_feedback = {feedback}); they are tried again"
                ),
                "set max_standby_streaming_delay = -1 on the standby, or hot_standby_feedback = on",
            ),
        });
    }
    Ok(())
}

async fn log(connection: &Connection, manage: bool, findings: &mut Vec<Finding>) -> Result<()> {
    let row = connection
        .row(
            "SELECT current_setting('wal_level'), current_setting('max_replication_slots')::int \
               - (SELECT count(*)::int FROM pg_catalog.pg_replication_slots), \
             current_setting('max_wal_senders')::int - (SELECT count(*)::int FROM pg_catalog.pg_stat_replication), \
             (SELECT rolreplication OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user), \
             has_database_privilege(current_database(), 'CREATE'), \
             coalesce(current_setting('max_slot_wal_keep_size', true), '-1'), \
             coalesce(current_setting('idle_replication_slot_timeout', true), '0'), \
             current_user::text, current_database()::text, \
             EXISTS (SELECT FROM pg_catalog.pg_publication p WHERE pg_has_role(p.pubowner, 'USAGE'))",
            &[],
        )
        .await?;
    let level: String = row.get(0);
    findings.push(if level == "logical" {
        Finding::ok("wal_level", "logical")
    } else {
        Finding::error(
            "wal_level",
            format!("it is {level}: changes cannot be decoded from the log"),
            "ALTER SYSTEM SET wal_level = 'logical', then restart the server",
        )
    });
    // One for the pipeline, which may have it already, and one while a snapshot is taken.
    let (slots, senders): (i32, i32) = (row.get(1), row.get(2));
    let few = format!(
        "{slots} replication slots and {senders} WAL senders are free, and up to two of each are needed"
    );
    let raise = "raise max_replication_slots and max_wal_senders, then restart the server";
    match slots.min(senders) {
        2.. => {}
        1 => findings.push(Finding::warning("replication slots", few, raise)),
        _ => findings.push(Finding::error("replication slots", few, raise)),
    }
    let (role, database) = (sql::ident(row.get(7)), sql::ident(row.get(8)));
    if !row.get::<_, Option<bool>>(3).unwrap_or(false) {
        findings.push(Finding::error(
            "replication privilege",
            "the role may not replicate",
            format!("ALTER ROLE {role} REPLICATION"),
        ));
    }
    if manage && !row.get::<_, bool>(4) {
        let (what, subject) = ("the role may not create publications", "replication privilege");
        let remedy = format!(
            "GRANT CREATE ON DATABASE {database} TO {role}; or make them, and set replication.manage to false"
        );
        findings.push(match row.get(9) {
            // They may be those of the pipeline already.
            true => Finding::warning(subject, what, remedy),
            false => Finding::error(subject, what, remedy),
        });
    }
    let (keep, idle): (String, String) = (row.get(5), row.get(6));
    if keep != "-1" {
        findings.push(Finding::warning(
            "max_slot_wal_keep_size",
            format!(
                "it is {keep}: a pipeline that stands still for longer than that much log loses its slot"
            ),
            "set it to -1, or to what is written in the longest pause",
        ));
    }
    if !idle.starts_with('0') {
        findings.push(Finding::warning(
            "idle_replication_slot_timeout",
            format!("it is {idle}: a pipeline that is not run for so long loses its slot"),
            "set it to 0, or to more than the longest pause",
        ));
    }
    Ok(())
}

/// Tables that are to be published, and that the role does not own: only their owner may.
async fn unowned(
    connector: &Connector,
    connection: &Connection,
    streams: &[Arc<ConfiguredStream>],
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let followed = || streams.iter().filter(|stream| stream.sync_mode.follows_log());
    let namespaces: Vec<&str> = followed().map(|stream| stream.id.namespace.as_str()).collect();
    let names: Vec<&str> = followed().map(|stream| stream.id.name.as_str()).collect();
    let sql = "SELECT n.nspname::text, c.relname::text, pg_catalog.pg_get_userbyid(c.relowner)::text, \
          coalesce((SELECT o.rolsuper FROM pg_catalog.pg_roles o WHERE o.oid = c.relowner), true) \
        FROM unnest($1::text[], $2::text[]) s(namespace, name) \
        JOIN pg_catalog.pg_namespace n ON n.nspname = s.namespace::name \
        JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = s.name::name \
        WHERE NOT pg_catalog.pg_has_role(c.relowner, 'USAGE') \
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid \
            WHERE r.prrelid = c.oid AND pg_catalog.pg_has_role(p.pubowner, 'USAGE')) ORDER BY 1, 2";
    let role = sql::ident(&connector.settings().username);
    for row in connection.rows(sql, &[&namespaces, &names]).await? {
        let id = StreamId::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let owner: String = row.get(2);
        // Whoever is given a superuser's role is one.
        let joined = match row.get(3) {
            true => String::new(),
            false => format!("or GRANT {} TO {role}; ", sql::ident(&owner)),
        };
        findings.push(Finding::error(
            id.to_string(),
            format!("only its owner, {owner}, may publish it"),
            format!(
                "ALTER TABLE {} OWNER TO {role}; {joined}or set replication.manage to false, and let the owner run what \
                 this says then",
                sql::qualified(&id.namespace, &id.name)
            ),
        ));
    }
    Ok(())
}

/// What somebody else has to make, because the config says that we do not.
async fn unmanaged(
    connector: &Connector,
    connection: &Connection,
    streams: &[Arc<ConfiguredStream>],
    findings: &mut Vec<Finding>,
) -> Result<()> {
    const SUBJECT: &str = "slot and publication";
    let ReplicationConfig { slot: Some(slot), publication: Some(publication), .. } =
        replication::settings(connector)
    else {
        findings.push(Finding::warning(
            SUBJECT,
            "replication.manage is false, and the config does not name them both",
            "set replication.slot and replication.publication: then this says what is missing",
        ));
        return Ok(());
    };
    let names = Names { slot, publication, ..Names::default() };
    let wanted = streams.iter().map(AsRef::as_ref).filter(|stream| stream.sync_mode.follows_log());
    findings.push(match replication::unmade(connector, connection, &names, wanted).await {
        Ok((missing, _)) if missing.is_empty() => Finding::ok(SUBJECT, "they are made"),
        Ok((missing, _)) => Finding::error(SUBJECT, replication::UNMADE, missing),
        Err(error) if error.kind() == ErrorKind::Source => {
            Finding::error(SUBJECT, error.to_string(), error.remedy().unwrap_or("name another slot"))
        }
        Err(error) => return Err(error),
    });
    Ok(())
}

/// Without selected streams: what the role could not even be offered.
async fn offered(connector: &Connector, connection: &Connection, findings: &mut Vec<Finding>) -> Result<()> {
    let schemas = &connector.settings().schemas;
    let unreadable = catalog::unreadable(connection, schemas).await?;
    if !unreadable.is_empty() {
        findings.push(Finding::warning(
            "privileges",
            format!("{} tables cannot be read and are not offered: {}", unreadable.len(), names(&unreadable)),
            grant_schema(connector, &unreadable),
        ));
    }
    let rows = connection
        .rows(
            "SELECT s FROM unnest($1::text[]) s WHERE s NOT IN (SELECT nspname::text FROM pg_catalog.pg_namespace)",
            &[schemas],
        )
        .await?;
    for row in &rows {
        let schema: String = row.get(0);
        findings.push(Finding::error(
            format!("schema {schema}"),
            "the schema does not exist",
            "correct \"schemas\" in the config; names are case-sensitive",
        ));
    }
    Ok(())
}

fn grant_schema(connector: &Connector, unreadable: &[StreamId]) -> String {
    let mut schemas: Vec<&str> = unreadable.iter().map(|id| id.namespace.as_str()).collect();
    schemas.dedup();
    let role = sql::ident(&connector.settings().username);
    let statement = |schema: &&str| {
        let schema = sql::ident(schema);
        format!(
            "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role};"
        )
    };
    schemas.iter().take(NAMES).map(statement).collect::<Vec<_>>().join(" ")
}

fn names(ids: &[StreamId]) -> String {
    let shown: Vec<String> = ids.iter().take(NAMES).map(ToString::to_string).collect();
    match ids.len().saturating_sub(NAMES) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

async fn selected(
    connector: &Connector,
    connection: &Connection,
    streams: &[Arc<ConfiguredStream>],
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let ids: Vec<StreamId> = streams.iter().map(|stream| stream.id.clone()).collect();
    connection.run(sql::AT_ONE_MOMENT).await?;
    let described = describe(connector, connection, &ids).await?;
    connection.run("COMMIT").await?;
    let denied = denied(connection, &described).await?;
    let role = sql::ident(&connector.settings().username);
    let before = findings.len();
    for stream in streams {
        let subject = stream.id.to_string();
        let Some(described) = described.iter().find(|described| described.relation.id == stream.id) else {
            findings.push(Finding::error(
                subject,
                "there is no such table",
                "run `lakeward discover` again; names are case-sensitive",
            ));
            continue;
        };
        let readable = denied.iter().all(|(root, ..)| *root != described.relation.oid);
        if readable && let Err(error) = copy::check_filter(connection, stream).await {
            if error.kind() == ErrorKind::Connection {
                return Err(error);
            }
            let remedy = error.remedy().unwrap_or("correct the filter in streams.json").to_owned();
            findings.push(Finding::error(&subject, error.to_string(), remedy));
        }
        for (root, schema, relation) in &denied {
            if *root == described.relation.oid {
                let (schema, relation) = (sql::ident(schema), sql::ident(relation));
                findings.push(Finding::error(
                    &subject,
                    format!("the role may not read {schema}.{relation}"),
                    format!(
                        "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {schema}.{relation} TO {role};"
                    ),
                ));
            }
        }
        stream_findings(stream, described, &role, findings);
        if stream.sync_mode.follows_log() {
            change_findings(stream, described, findings);
        }
    }
    if findings.len() == before {
        findings.push(Finding::ok("streams", format!("{} can be read", streams.len())));
    }
    Ok(())
}

fn stream_findings(
    stream: &ConfiguredStream,
    described: &Described,
    role: &str,
    findings: &mut Vec<Finding>,
) {
    let subject = stream.id.to_string();
    let relation = &described.relation;
    if relation.row_security {
        findings.push(Finding::error(
            &subject,
            "row-level security would hide rows from this role",
            format!("ALTER ROLE {role} BYPASSRLS;"),
        ));
    }
    if !relation.populated {
        findings.push(Finding::error(
            &subject,
            "the materialized view has never been filled",
            format!("REFRESH MATERIALIZED VIEW {};", sql::qualified(&stream.id.namespace, &stream.id.name)),
        ));
    }
    if stream.sync_mode == SyncMode::Incremental && stream.key.is_empty() {
        findings.push(Finding::warning(
            &subject,
            "without a primary key all versions of a row stay in its latest view",
            "add a primary key that is not deferrable, or use full_refresh",
        ));
    }
    if relation.kind == RelationKind::Foreign {
        findings.push(Finding::warning(
            &subject,
            "a foreign table's rows are not protected by the snapshot",
            "replicate from the foreign server itself where that matters",
        ));
    }
}

/// What stands in the way of following a stream's changes.
fn change_findings(stream: &ConfiguredStream, described: &Described, findings: &mut Vec<Finding>) {
    let subject = stream.id.to_string();
    if let Some(why) = &described.stream.unlogged {
        findings.push(Finding::error(&subject, why, "replicate it with full_refresh or incremental"));
    }
    if let Some(InsertsOnly { why, remedy }) =
        described.stream.inserts_only.as_ref().filter(|_| !stream.insert_only)
    {
        let message = format!("{why}: once published, its updates and deletes would fail");
        findings.push(Finding::error(&subject, message, remedy));
    }
    if described.relation.kind == RelationKind::Partitioned
        && described.stream.primary_key.is_empty()
        && !stream.insert_only
    {
        findings.push(Finding::warning(
            &subject,
            "without a primary key a new partition has no replica identity: its updates and deletes would fail",
            "ALTER TABLE <partition> REPLICA IDENTITY FULL; in the transaction that makes or attaches it",
        ));
    }
    let unlogged = described.unlogged(stream);
    if !unlogged.is_empty() {
        findings.push(Finding::warning(
            &subject,
            format!("changes have no value for generated columns ({})", unlogged.join(", ")),
            format!(
                "name them in columns.exclude; before PostgreSQL {GENERATED_VERSION} the log has none, and virtual ones \
                 never"
            ),
        ));
    }
}

/// Relations that a stream is made of and that the role may not read: root, schema, name. Leaves of a
/// partitioned table are read by themselves and need the privilege too.
async fn denied(connection: &Connection, described: &[Described]) -> Result<Vec<(u32, String, String)>> {
    let roots: Vec<u32> = described.iter().map(|described| described.relation.oid).collect();
    let sql = "WITH RECURSIVE tree(root, oid, relkind) AS ( \
          SELECT c.oid, c.oid, c.relkind FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1::oid[]) \
          UNION ALL SELECT t.root, c.oid, c.relkind FROM tree t \
          JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid AND t.relkind = 'p' \
          JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid) \
        SELECT t.root, n.nspname, c.relname FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid \
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        WHERE NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')) \
        ORDER BY 2, 3";
    let rows = connection.rows(sql, &[&roots]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}
