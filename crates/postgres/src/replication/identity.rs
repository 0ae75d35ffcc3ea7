//! By what the log names a row that was changed or deleted.

use std::collections::HashMap;

use lakeward_core::Result;

use crate::connect::Connection;
use crate::sql;

/// Before this version a partitioned table cannot be published.
const PARTITIONED_VERSION: u32 = 13;

/// Whether the changes of a table can be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogKey {
    /// By these columns; none where every change carries the whole old row.
    Columns(Vec<String>),
    /// Publishing updates and deletes would make them fail at the source, or they could not be told apart.
    Unfit {
        /// Why, with the table's name.
        why: String,
        /// The SQL that helps.
        remedy: String,
    },
    /// The log says nothing of it at all: it is no logged table.
    Unlogged(String),
}

/// A table, or one of its partitions.
struct Part {
    name: String,
    kind: u8,
    persistent: bool,
    identity: u8,
    columns: Vec<String>,
}

impl Part {
    /// What the log says of a row besides all of it; `None` where it says all.
    fn key(&self) -> Result<Option<&[String]>, LogKey> {
        let unfit = |why: &str| LogKey::Unfit {
            why: format!("{} {why}", self.name),
            remedy: format!(
                "ALTER TABLE {0} REPLICA IDENTITY FULL; or give it a primary key that is not deferrable, or a unique \
                 index of NOT NULL columns: ALTER TABLE {0} REPLICA IDENTITY USING INDEX <index>;",
                self.name
            ),
        };
        match self.identity {
            b'f' => Ok(None),
            b'd' if self.columns.is_empty() => {
                Err(unfit("has no primary key that the log could name rows by"))
            }
            b'i' if self.columns.is_empty() => Err(unfit("has lost the index that is its replica identity")),
            b'd' | b'i' => Ok(Some(&self.columns)),
            _ => Err(unfit("has REPLICA IDENTITY NOTHING")),
        }
    }
}

/// The keys of tables in the log, by OID. `primary` gives the columns of a table's primary key if it identifies
/// rows.
pub(crate) async fn log_keys(
    connection: &Connection,
    version: u32,
    relations: &[u32],
    primary: impl Fn(u32) -> Vec<String>,
) -> Result<HashMap<u32, LogKey>> {
    let count = if version >= 11 { "x.indnkeyatts" } else { "x.indnatts" };
    let sql = format!(
        "WITH RECURSIVE tree(root, oid, relkind) AS ( \
           SELECT c.oid, c.oid, c.relkind FROM pg_catalog.pg_class c \
           WHERE c.oid = ANY ($1::oid[]) AND c.relkind IN ('r', 'p') \
           UNION ALL SELECT t.root, c.oid, c.relkind FROM tree t \
           JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid AND t.relkind = 'p' \
           JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid) \
         SELECT t.root, n.nspname, c.relname, c.relkind, c.relpersistence = 'p', c.relreplident, \
           coalesce((SELECT ARRAY(SELECT a.attname::text FROM unnest(x.indkey::int2[]) WITH ORDINALITY k(attnum, n) \
               JOIN pg_catalog.pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.attnum \
               WHERE k.n <= {count} ORDER BY k.n) \
             FROM pg_catalog.pg_index x WHERE x.indrelid = c.oid AND x.indisvalid AND x.indimmediate \
               AND CASE c.relreplident WHEN 'd' THEN x.indisprimary WHEN 'i' THEN x.indisreplident ELSE false END \
             LIMIT 1), '{{}}') \
         FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY c.oid"
    );
    let mut parts: HashMap<u32, Vec<Part>> = HashMap::new();
    for row in &connection.rows(&sql, &[&relations]).await? {
        parts.entry(row.get(0)).or_default().push(Part {
            name: sql::qualified(row.get(1), row.get(2)),
            kind: row.get::<_, i8>(3) as u8,
            persistent: row.get(4),
            identity: row.get::<_, i8>(5) as u8,
            columns: row.get(6),
        });
    }
    Ok(parts.into_iter().map(|(oid, parts)| (oid, log_key(&parts, version, primary(oid)))).collect())
}

fn log_key(parts: &[Part], version: u32, primary: Vec<String>) -> LogKey {
    let partitioned = parts.iter().any(|part| part.kind == b'p');
    if partitioned && version < PARTITIONED_VERSION {
        return LogKey::Unlogged(format!(
            "before PostgreSQL {PARTITIONED_VERSION} a partitioned table is not published"
        ));
    }
    if let Some(part) = parts.iter().find(|part| !part.persistent || !matches!(part.kind, b'r' | b'p')) {
        return LogKey::Unlogged(format!("{} is unlogged or foreign: the log says nothing of it", part.name));
    }
    let mut named: Option<&[String]> = None;
    // What a partitioned table itself has counts for partitions to come.
    let stored = parts.iter().filter(|part| part.kind == b'r' || parts.len() == 1);
    for part in stored {
        match (part.key(), named) {
            (Err(unfit), _) => return unfit,
            (Ok(Some(key)), Some(other)) if key != other => {
                return LogKey::Unfit {
                    why: format!("{} has another replica identity than its siblings", part.name),
                    remedy: format!("ALTER TABLE {} REPLICA IDENTITY FULL;", part.name),
                };
            }
            (Ok(key), _) => named = key.or(named),
        }
    }
    LogKey::Columns(named.map_or(primary, <[String]>::to_vec))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(kind: u8, identity: u8, columns: &[&str]) -> Part {
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        Part { name: "t".to_owned(), kind, persistent: true, identity, columns }
    }

    #[test]
    fn keys_follow_the_replica_identity() {
        let key = |parts: &[Part]| log_key(parts, 15, vec!["pk".to_owned()]);
        let columns = |names: &[&str]| LogKey::Columns(names.iter().map(|n| (*n).to_owned()).collect());
        assert_eq!(key(&[part(b'r', b'd', &["a", "b"])]), columns(&["a", "b"]));
        assert_eq!(key(&[part(b'r', b'f', &[])]), columns(&["pk"]));
        assert!(matches!(key(&[part(b'r', b'd', &[])]), LogKey::Unfit { .. }));
        assert!(matches!(key(&[part(b'r', b'n', &[])]), LogKey::Unfit { .. }));
        let root = || part(b'p', b'd', &[]);
        assert!(matches!(key(&[root()]), LogKey::Unfit { .. }));
        assert_eq!(key(&[root(), part(b'r', b'd', &["a"]), part(b'r', b'f', &[])]), columns(&["a"]));
        assert!(matches!(
            key(&[root(), part(b'r', b'd', &["a"]), part(b'r', b'i', &["b"])]),
            LogKey::Unfit { .. }
        ));
        assert!(matches!(log_key(&[root()], 12, Vec::new()), LogKey::Unlogged(_)));
    }
}
