//! Publications: what of the log is sent to us.
//!
//! Guarantee: no table is published whose updates or deletes would then fail at the source.

use std::collections::HashMap;

use lakeward_core::{ConfiguredStream, Error, ErrorKind, Result, Standing, StreamId};
use serde::Deserialize;

use super::identity::{LogKey, log_keys};
use super::lsn::Names;
use crate::connect::Connection;
use crate::sql;

const VIA_ROOT_VERSION: u32 = 13;
const TRUNCATE_VERSION: u32 = 11;
/// From here on stored generated columns are in the log.
pub(crate) const GENERATED_VERSION: u32 = 18;

/// Whether a partition was made as one, so that there was nothing in it: `i` is its row of pg_inherits, `a` that of a
/// system column of it. Its columns are then written by the command that writes its system columns, which nothing writes
/// again; attaching and detaching writes every column anew.
pub(super) const MADE_AS_PARTITION: &str = "a.xmin = i.xmin AND EXISTS (SELECT FROM pg_catalog.pg_attribute u \
    WHERE u.attrelid = i.inhrelid AND u.attnum > 0 AND u.xmin = a.xmin AND u.cmin = a.cmin)";

/// Whether `c`, a partition, has no page, and so had no row that is still there when it was attached. Its size is not asked for
/// where that would wait for somebody who has locked it.
const EMPTY: &str = "c.relkind = 'r' AND CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.relation = c.oid \
    AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()) \
    AND l.mode = 'AccessExclusiveLock') THEN false ELSE pg_catalog.pg_relation_size(c.oid) = 0 END";

/// A table's place in a publication.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    publication: String,
    pub(crate) id: StreamId,
    relation: u32,
    /// Its row in the catalog: another one if it left and came back. The publication's own if that is for all
    /// tables.
    row: u32,
    /// Whether it is named, so that it can be taken out.
    named: bool,
    /// The transaction that altered what its publication publishes last: what was not published meanwhile is not
    /// in the log.
    altered: String,
    /// The partitions below it, if it may have such.
    parts: Option<Vec<String>>,
}

impl Member {
    fn place(&self, names: &Names) -> String {
        let place = names.place(self.relation, self.row, &self.altered);
        match &self.parts {
            Some(parts) => format!("{place}{PARTS}{}", parts.join(",")),
            None => place,
        }
    }
}

/// In a place, what stands between a table and its partitions: each its OID, and one that was attached, `:` and the
/// transaction that did it. One that was made as a partition had no rows before; nor had one that was attached and
/// has no page now, which `:0` says.
const PARTS: char = '|';

/// A partition in a place.
struct Part<'a> {
    attached: Option<&'a str>,
    empty: bool,
}

/// The table of a place, and its partitions by OID, if it may have such.
fn read(place: &str) -> (&str, Option<HashMap<&str, Part<'_>>>) {
    let Some((table, parts)) = place.split_once(PARTS) else { return (place, None) };
    let parts = parts.split(',').filter(|part| !part.is_empty()).map(|part| {
        let mut fields = part.split(':');
        let oid = fields.next().unwrap_or_default();
        (oid, Part { attached: fields.next(), empty: fields.next().is_some() })
    });
    (table, Some(parts.collect()))
}

/// Whether a partition was attached between two places of a table.
pub(crate) fn has_attached(known: &str, now: &str) -> bool {
    let ((_, then), (_, now)) = (read(known), read(now));
    let (then, now) = (then.unwrap_or_default(), now.unwrap_or_default());
    now.iter().any(|(oid, part)| part.attached.is_some() && !then.contains_key(oid))
}

/// What became of a table between two places of it.
pub(crate) fn standing(known: &str, now: &str) -> Standing {
    let ((table_then, then), (table_now, now)) = (read(known), read(now));
    if table_then != table_now {
        return Standing::interrupted();
    }
    let (then, now) = match (then, now) {
        (Some(then), Some(now)) => (then, now),
        (None, None) => return Standing::Same,
        _ => return Standing::Grown,
    };
    let with_rows = |(oid, part): (&&str, &Part<'_>)| match then.get(oid) {
        None => part.attached.is_some() && !part.empty,
        // One that was none for a while.
        Some(known) => part.attached.is_some() && part.attached != known.attached,
    };
    if now.iter().any(with_rows) {
        return Standing::Broken("a partition was attached, with the rows that it had".to_owned());
    }
    if then.keys().any(|oid| !now.contains_key(oid)) {
        return Standing::Shrunk;
    }
    let same = then.len() == now.len() && now.iter().all(|(oid, part)| then[oid].attached == part.attached);
    if same { Standing::Same } else { Standing::Grown }
}

/// The statement that makes a publication of tables.
fn create_statement(name: &str, tables: &[String], insert_only: bool, version: u32) -> String {
    let publish = match insert_only {
        true => "insert",
        false if version >= TRUNCATE_VERSION => "insert, update, delete, truncate",
        false => "insert, update, delete",
    };
    let mut options = format!("publish = '{publish}'");
    if version >= VIA_ROOT_VERSION {
        options.push_str(", publish_via_partition_root = false");
    }
    // What a backfill reads of them, the log should say too.
    if version >= GENERATED_VERSION {
        options.push_str(", publish_generated_columns = stored");
    }
    let tables = if tables.is_empty() { String::new() } else { format!(" FOR TABLE {}", tables.join(", ")) };
    format!("CREATE PUBLICATION {}{tables} WITH ({options})", sql::ident(name))
}

/// Both publications of a pipeline, and whether each is for inserts only.
fn both(names: &Names) -> [(String, bool); 2] {
    [(names.publication.clone(), false), (names.insert_only(), true)]
}

/// Of the pipeline's publications those that exist, the ordinary one first.
pub(crate) async fn existing(connection: &Connection, names: &Names) -> Result<Vec<String>> {
    let wanted: Vec<String> = both(names).into_iter().map(|(name, _)| name).collect();
    let sql =
        "SELECT p.pubname::text FROM pg_catalog.pg_publication p WHERE p.pubname::text = ANY ($1) ORDER BY 1";
    let mut found: Vec<String> =
        connection.rows(sql, &[&wanted]).await?.iter().map(|row| row.get(0)).collect();
    found.sort_by_key(|name| wanted.iter().position(|wanted| wanted == name));
    Ok(found)
}

/// The statements that make what is missing.
pub(crate) async fn missing(connection: &Connection, names: &Names, version: u32) -> Result<Vec<String>> {
    let existing = existing(connection, names).await?;
    Ok(both(names)
        .into_iter()
        .filter(|(name, _)| !existing.contains(name))
        .map(|(name, insert_only)| create_statement(&name, &[], insert_only, version))
        .collect())
}

/// What somebody else runs before streams are followed.
#[derive(Debug, Default)]
pub(crate) struct Unpublished {
    /// The statements.
    pub(crate) statements: Vec<String>,
    /// Whether a publication is made by one of them: a slot that is older cannot be read with it.
    pub(crate) publications: bool,
}

/// What publications and which tables of the streams are missing in them.
pub(crate) async fn unpublished<'a>(
    connection: &Connection,
    names: &Names,
    version: u32,
    wanted: impl Iterator<Item = &'a ConfiguredStream> + Clone,
) -> Result<Unpublished> {
    let existing = existing(connection, names).await?;
    let members = members(connection, names).await?;
    let namespaces: Vec<&str> = wanted.clone().map(|stream| stream.id.namespace.as_str()).collect();
    let relations: Vec<&str> = wanted.clone().map(|stream| stream.id.name.as_str()).collect();
    let sql = "SELECT n.nspname::text, c.relname::text \
        FROM unnest($1::text[], $2::text[]) s(namespace, name) \
        JOIN pg_catalog.pg_namespace n ON n.nspname = s.namespace::name \
        JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = s.name::name AND c.relkind = 'p'";
    let rows = connection.rows(sql, &[&namespaces, &relations]).await?;
    let partitioned: Vec<StreamId> =
        rows.iter().map(|row| StreamId::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect();
    let mut missing = Unpublished::default();
    for (name, insert_only) in both(names) {
        let tables: Vec<String> = wanted
            .clone()
            .filter(|stream| stream.insert_only == insert_only && member(&members, names, stream).is_none())
            .map(|stream| published_table(&stream.id, partitioned.contains(&stream.id)))
            .collect();
        if existing.contains(&name) {
            if !tables.is_empty() {
                let tables = tables.join(", ");
                missing
                    .statements
                    .push(format!("ALTER PUBLICATION {} ADD TABLE {tables}", sql::ident(&name)));
            }
        } else if !insert_only || !tables.is_empty() {
            missing.statements.push(create_statement(&name, &tables, insert_only, version));
            missing.publications = true;
        }
    }
    Ok(missing)
}

/// A table as a publication names it: an inheritance parent would bring its children, which are streams of their own.
fn published_table(id: &StreamId, partitioned: bool) -> String {
    let only = if partitioned { "" } else { "ONLY " };
    format!("{only}{}", sql::qualified(&id.namespace, &id.name))
}

/// Drops the pipeline's own publications.
pub(crate) async fn drop(connection: &Connection, names: &Names) -> Result<()> {
    for (name, _) in both(names).into_iter().filter(|(name, _)| names.owns(name)) {
        connection.run(&format!("DROP PUBLICATION IF EXISTS {}", sql::ident(&name))).await?;
    }
    Ok(())
}

/// All that is published.
pub(crate) async fn members(connection: &Connection, names: &Names) -> Result<Vec<Member>> {
    let publications: Vec<String> = both(names).into_iter().map(|(name, _)| name).collect();
    // All tables are those that a server publishes: permanent ones, and none of its own.
    let sql = "SELECT m.publication::text, n.nspname::text, c.relname::text, c.oid, m.row, m.named, m.altered FROM ( \
          SELECT p.pubname, r.prrelid, r.oid, true, p.xmin::text FROM pg_catalog.pg_publication p \
            JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid WHERE p.pubname::text = ANY ($1) \
          UNION ALL SELECT p.pubname, c.oid, p.oid, false, p.xmin::text FROM pg_catalog.pg_publication p, pg_catalog.pg_class c \
            WHERE p.pubname::text = ANY ($1) AND p.puballtables AND c.relkind IN ('r', 'p') \
              AND c.relpersistence = 'p' AND c.oid >= 16384) m(publication, relation, row, named, altered) \
        JOIN pg_catalog.pg_class c ON c.oid = m.relation \
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace";
    let rows = connection.rows(sql, &[&publications]).await?;
    let mut parts = parts(connection, &rows.iter().map(|row| row.get(3)).collect::<Vec<u32>>()).await?;
    Ok(rows
        .iter()
        .map(|row| Member {
            parts: parts.remove(&row.get(3)),
            publication: row.get(0),
            id: StreamId::new(row.get::<_, String>(1), row.get::<_, String>(2)),
            relation: row.get(3),
            row: row.get(4),
            named: row.get(5),
            altered: row.get(6),
        })
        .collect())
}

/// The partitions below tables that are partitioned.
async fn parts(connection: &Connection, tables: &[u32]) -> Result<HashMap<u32, Vec<String>>> {
    let sql = format!(
        "WITH RECURSIVE tree(root, oid, part) AS (SELECT c.oid, c.oid, NULL::text FROM pg_catalog.pg_class c \
           WHERE c.oid = ANY ($1::oid[]) AND c.relkind = 'p' \
         UNION ALL SELECT t.root, i.inhrelid, i.inhrelid::text || CASE WHEN {MADE_AS_PARTITION} THEN '' \
             ELSE ':' || i.xmin::text || CASE WHEN {EMPTY} THEN ':0' ELSE '' END END FROM tree t \
           JOIN pg_catalog.pg_class p ON p.oid = t.oid AND p.relkind = 'p' \
           JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid \
           JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid \
           JOIN pg_catalog.pg_attribute a ON a.attrelid = i.inhrelid AND a.attnum = -1) \
         SELECT root, coalesce(array_agg(part ORDER BY oid) FILTER (WHERE part IS NOT NULL), '{{}}') FROM tree GROUP BY 1"
    );
    let rows = connection.rows(&sql, &[&tables]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The places of streams that are members now, each of the publication that it should be in.
pub(crate) fn places<'a>(
    members: &[Member],
    names: &Names,
    streams: impl Iterator<Item = &'a ConfiguredStream>,
) -> Vec<(StreamId, String)> {
    streams
        .filter_map(|stream| Some((stream.id.clone(), member(members, names, stream)?.place(names))))
        .collect()
}

fn member<'a>(members: &'a [Member], names: &Names, stream: &ConfiguredStream) -> Option<&'a Member> {
    let publication = names.publication_for(stream.insert_only);
    members.iter().find(|member| member.id == stream.id && member.publication == publication)
}

/// What a publication sends, as far as its server's version tells.
#[derive(Debug, Deserialize)]
struct Published {
    #[serde(rename = "pubinsert")]
    inserts: bool,
    #[serde(rename = "pubupdate")]
    updates: bool,
    #[serde(rename = "pubdelete")]
    deletes: bool,
    #[serde(rename = "pubtruncate", default = "yes")]
    truncates: bool,
    #[serde(rename = "pubviaroot", default)]
    via_root: bool,
}

fn yes() -> bool {
    true
}

/// Checks that somebody else's publications hide nothing of the streams.
///
/// # Errors
/// `Source`, naming the publication, the stream and the statement that helps.
pub(crate) async fn check<'a>(
    connection: &Connection,
    names: &Names,
    wanted: impl Iterator<Item = &'a ConfiguredStream> + Clone,
) -> Result<()> {
    let refuse = |name: &str, what: String, remedy: String| {
        Err(Error::new(ErrorKind::Source, what).at("publication", name).hint(remedy))
    };
    // As JSON, because every version has columns that the one before had not.
    let sql = "SELECT row_to_json(p)::text FROM pg_catalog.pg_publication p WHERE p.pubname::text = $1";
    for (name, insert_only) in both(names) {
        let rows = connection.rows(sql, &[&name]).await?;
        let Some(row) = rows.first() else { continue };
        let published: Published = serde_json::from_str(row.get(0))
            .map_err(|error| Error::bug("pg_publication is not what it was").source(error))?;
        let set = |option: &str| format!("ALTER PUBLICATION {} SET ({option});", sql::ident(&name));
        let changes = published.updates && published.deletes && published.truncates;
        if !published.inserts || !(insert_only || changes) {
            let kinds = if insert_only { "insert" } else { "insert, update, delete, truncate" };
            let what = format!("the publication does not publish {kinds}");
            return refuse(&name, what, set(&format!("publish = '{kinds}'")));
        }
        if published.via_root {
            let what = "with publish_via_partition_root the log does not say which partition was emptied";
            return refuse(&name, what.to_owned(), set("publish_via_partition_root = false"));
        }
    }
    let sql = "SELECT p.pubname::text, n.nspname::text, c.relname::text, row_to_json(r)::text \
        FROM pg_catalog.pg_publication p JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid \
        JOIN pg_catalog.pg_class c ON c.oid = r.prrelid \
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname::text = ANY ($1)";
    let publications: Vec<String> = both(names).into_iter().map(|(name, _)| name).collect();
    for row in &connection.rows(sql, &[&publications]).await? {
        let id = StreamId::new(row.get::<_, String>(1), row.get::<_, String>(2));
        if !wanted.clone().any(|stream| stream.id == id) {
            continue;
        }
        let member: serde_json::Value = serde_json::from_str(row.get(3))
            .map_err(|error| Error::bug("pg_publication_rel is not what it was").source(error))?;
        let given = |field: &str| member.get(field).is_some_and(|value| !value.is_null());
        let what = match (given("prqual"), given("prattrs")) {
            (true, _) => "a row filter",
            (_, true) => "a column list",
            _ => continue,
        };
        let (name, table): (&str, _) = (row.get(0), sql::qualified(&id.namespace, &id.name));
        let name = sql::ident(name);
        let remedy = format!(
            "ALTER PUBLICATION {name} DROP TABLE {table}; ALTER PUBLICATION {name} ADD TABLE {table};"
        );
        return refuse(row.get(0), format!("the publication has {what} for the stream"), remedy)
            .map_err(|error: Error| error.at("stream", &id));
    }
    Ok(())
}

/// Takes tables that belong to no wanted stream out of the pipeline's own publications, but for those that have one of the
/// places `kept`, unless their updates and deletes would fail for it.
///
/// # Errors
/// Where the connection failed. What the server refuses is told, and stays: nobody reads it.
pub(crate) async fn detach<'a>(
    connection: &Connection,
    version: u32,
    names: &Names,
    members: &[Member],
    wanted: impl Iterator<Item = &'a ConfiguredStream> + Clone,
    kept: &[String],
) -> Result<()> {
    for stray in members.iter().filter(|member| member.named && names.owns(&member.publication)) {
        let is_wanted = wanted.clone().any(|stream| {
            stream.id == stray.id && names.publication_for(stream.insert_only) == stray.publication
        });
        if is_wanted {
            continue;
        }
        let place = stray.place(names);
        if kept.iter().any(|kept| read(kept).0 == read(&place).0) {
            let keys = log_keys(connection, version, &[stray.relation], |_| Vec::new()).await?;
            match keys.get(&stray.relation) {
                Some(LogKey::Unfit { why, .. }) if stray.publication == names.publication => {
                    tracing::warn!(stream = %stray.id, "{why}: it is no longer published, so that its changes do not fail");
                }
                _ => continue,
            }
        }
        let statement = drop_statement(stray);
        match connection.run(&statement).await {
            Ok(()) => {
                tracing::info!(stream = %stray.id, publication = stray.publication, "no longer published");
            }
            Err(error) if error.kind() == ErrorKind::Source => {
                tracing::warn!(stream = %stray.id, "it stays published, though nobody reads it ({error}); to be run: {statement}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn drop_statement(member: &Member) -> String {
    let table = sql::qualified(&member.id.namespace, &member.id.name);
    format!("ALTER PUBLICATION {} DROP TABLE {table}", sql::ident(&member.publication))
}

/// Lets a stream join its publication and returns its place. It is committed when this returns. `None` where the table
/// was made anew meanwhile.
///
/// # Errors
/// `Source` where publishing would make the application's own statements fail, or where somebody else has to do
/// it.
pub(crate) async fn join(
    connection: &Connection,
    version: u32,
    names: &Names,
    stream: &ConfiguredStream,
    manage: bool,
) -> Result<Option<String>> {
    connection.run(sql::AT_ONE_MOMENT).await?;
    let found = connection
        .rows(
            "SELECT c.oid, c.relkind = 'p' FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1::text::name AND c.relname = $2::text::name",
            &[&stream.id.namespace, &stream.id.name],
        )
        .await?;
    let Some(row) = found.first() else {
        return Err(Error::new(ErrorKind::Schema, "the table is gone").at("stream", &stream.id));
    };
    let (oid, partitioned): (u32, bool) = (row.get(0), row.get(1));
    let keys = log_keys(connection, version, &[oid], |_| Vec::new()).await?;
    connection.run("COMMIT").await?;
    match keys.get(&oid) {
        Some(LogKey::Columns(_)) => {}
        Some(LogKey::Unfit { .. }) if stream.insert_only => {}
        Some(LogKey::Unfit { why, remedy }) => {
            return Err(Error::new(
                ErrorKind::Source,
                format!("{why}: once published, its updates and deletes would fail"),
            )
            .at("stream", &stream.id)
            .hint(remedy));
        }
        Some(LogKey::Unlogged(why)) => {
            return Err(Error::new(ErrorKind::Source, why.clone()).at("stream", &stream.id));
        }
        None => {
            return Err(Error::new(ErrorKind::Source, "only tables have changes that can be followed")
                .at("stream", &stream.id));
        }
    }

    let publication = names.publication_for(stream.insert_only);
    let table = published_table(&stream.id, partitioned);
    let add = format!("ALTER PUBLICATION {} ADD TABLE {table}", sql::ident(&publication));
    let before = members(connection, names).await?;
    if manage {
        // In both it would be published with all that either publishes.
        let other = |m: &&Member| m.named && m.id == stream.id && m.publication != publication;
        for other in before.iter().filter(other).filter(|m| names.owns(&m.publication)) {
            connection.run(&drop_statement(other)).await?;
        }
    }
    if let Some(member) = member(&before, names, stream) {
        return Ok(Some(member.place(names)));
    }
    if !manage {
        return Err(Error::new(ErrorKind::Source, "the table is not in the publication")
            .at("publication", &publication)
            .at("stream", &stream.id)
            .hint(format!("{add};")));
    }
    connection.run(&add).await.map_err(|error| {
        let error = error.at("publication", &publication).at("stream", &stream.id);
        match error.kind() {
            ErrorKind::Source => {
                error.hint(format!("the role must own the table and the publication, or run: {add};"))
            }
            _ => error,
        }
    })?;
    let after = members(connection, names).await?;
    Ok(member(&after, names, stream).map(|member| member.place(names)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_partitions_is_told_by_two_places() {
        let broken = |known, now| matches!(standing(known, now), Standing::Broken(_));
        for (known, now, expected) in [
            ("t", "t", Standing::Same),
            ("t|", "t|", Standing::Same),
            ("t|7,8", "t|8,7", Standing::Same),
            ("t|7:50:0", "t|7:50", Standing::Same),
            ("t|7", "t|7,8", Standing::Grown),
            ("t|7", "t|7,8:50:0", Standing::Grown),
            // It is not known what there was before.
            ("t", "t|7", Standing::Grown),
            ("t|7,8:50", "t|8:50", Standing::Shrunk),
            ("t|7", "t|8", Standing::Shrunk),
        ] {
            assert_eq!(standing(known, now), expected, "{known} to {now}");
        }
        for (known, now) in [
            ("t", "u"),
            ("t|7", "t|7,8:50"),
            // Away for a while, and back: with what, the log does not say.
            ("t|7:50", "t|7:60"),
            ("t|7", "t|7:60"),
            ("t|7:50:0", "t|7:60:0"),
        ] {
            assert!(broken(known, now), "{known} to {now}");
        }
        assert!(has_attached("t|7", "t|7,8:50:0") && !has_attached("t|7,8:50:0", "t|7,8:50,9"));
    }
}
