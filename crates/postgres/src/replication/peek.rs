//! A look at what a slot would send, without moving it.

use lakeward_core::{Error, ErrorKind, Result, StreamId};

use super::lsn::{Lsn, Names};
use super::{publication, slot};
use crate::connect::Connection;
use crate::error::sqlstate;
use crate::sql;

/// Messages after which the server stops looking, at the end of a transaction. Reached without a change among them
/// (all committed already, say) there may be one behind.
const ENOUGH: i64 = 200_000;
const OBJECT_IN_USE: &str = "55006";

/// Whether the slot holds changes of a stream, in transactions committed behind `committed` and before `until`; `None`
/// where a reader has it in hand.
///
/// Of other streams it may hold any number: the slot stays where a stream stands that cannot be read.
///
/// # Errors
/// `Source` where the slot is gone.
pub(super) async fn has_changes(
    connection: &Connection,
    names: &Names,
    stream: &StreamId,
    committed: Lsn,
    until: Lsn,
) -> Result<Option<bool>> {
    let Some(found) = slot::find(connection, &names.slot).await? else {
        return Err(Error::new(ErrorKind::Source, "the slot is gone")
            .at("slot", &names.slot)
            .hint("run `lakeward sync`: it says what was lost, and what can be done"));
    };
    if found.active {
        return Ok(None);
    }
    let publications = publication::existing(connection, names).await?;
    let list: Vec<String> = publications.iter().map(|name| sql::ident(name)).collect();
    // Insert, update, delete and truncate are what counts of pgoutput's messages. The first three begin with the table's
    // OID; a truncate names several, behind their number and its flags. The last message of a transaction is its commit,
    // whose place is the transaction's; it comes before `until` because the server looks no further.
    let sql = "WITH RECURSIVE tree(oid) AS (SELECT c.oid FROM pg_catalog.pg_class c \
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
          WHERE n.nspname = $6::text::name AND c.relname = $7::text::name \
          UNION SELECT i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid), \
        ours AS (SELECT decode(lpad(to_hex(oid::bigint), 8, '0'), 'hex') AS oid FROM tree), \
        messages AS (SELECT xid, lsn, get_byte(data, 0) AS kind, data \
          FROM pg_catalog.pg_logical_slot_peek_binary_changes($1::text::name, $2::text::pg_lsn, $3::int8::int4, \
            'proto_version', '1', 'publication_names', $4::text)), \
        transactions AS (SELECT max(lsn) AS ended, bool_or(CASE \
            WHEN kind IN (68, 73, 85) THEN substring(data from 2 for 4) IN (SELECT oid FROM ours) \
            WHEN kind = 84 THEN EXISTS (SELECT FROM ours WHERE position(oid in substring(data from 7)) > 0) \
            ELSE false END) AS changes \
          FROM messages GROUP BY xid) \
        SELECT coalesce(bool_or(changes AND ended > $5::text::pg_lsn), false), \
          (SELECT count(*) FROM messages) >= $3 FROM transactions";
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 7] = [
        &names.slot,
        &until.to_string(),
        &ENOUGH,
        &list.join(","),
        &committed.to_string(),
        &stream.namespace,
        &stream.name,
    ];
    match connection.row(sql, &parameters).await {
        Ok(row) => Ok(Some(row.get(0) || row.get::<_, bool>(1))),
        Err(error) if sqlstate(&error) == Some(OBJECT_IN_USE) => Ok(None),
        Err(error) => Err(error.at("slot", &names.slot)),
    }
}
