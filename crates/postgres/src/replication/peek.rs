//! A look at what a slot would send, without moving it.

use lakeward_core::{Error, ErrorKind, Result};

use super::lsn::{Lsn, Names};
use super::{publication, slot};
use crate::connect::Connection;
use crate::error::sqlstate;
use crate::sql;

/// Messages after which the server stops looking, at the end of a transaction. Reached without a change among them
/// (all committed already, say) there may be one behind.
const ENOUGH: i64 = 10_000;
const OBJECT_IN_USE: &str = "55006";

/// Whether the slot holds changes of transactions committed behind `committed` and before `until`; `None` where a
/// reader has it in hand.
///
/// # Errors
/// `Source` where the slot is gone.
pub(super) async fn has_changes(
    connection: &Connection,
    names: &Names,
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
    // Insert, update, delete and truncate are what counts of pgoutput's messages. The last message of a transaction
    // is its commit, whose place is the transaction's; it comes before `until` because the server looks no further.
    let sql = "WITH messages AS (SELECT xid, lsn, get_byte(data, 0) AS kind \
          FROM pg_catalog.pg_logical_slot_peek_binary_changes($1::text::name, $2::text::pg_lsn, $3::int8::int4, \
            'proto_version', '1', 'publication_names', $4::text)), \
        transactions AS (SELECT max(lsn) AS ended, bool_or(kind IN (68, 73, 84, 85)) AS changes \
          FROM messages GROUP BY xid) \
        SELECT coalesce(bool_or(changes AND ended > $5::text::pg_lsn), false), \
          (SELECT count(*) FROM messages) >= $3 FROM transactions";
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&names.slot, &until.to_string(), &ENOUGH, &list.join(","), &committed.to_string()];
    match connection.row(sql, &parameters).await {
        Ok(row) => Ok(Some(row.get(0) || row.get::<_, bool>(1))),
        Err(error) if sqlstate(&error) == Some(OBJECT_IN_USE) => Ok(None),
        Err(error) => Err(error.at("slot", &names.slot)),
    }
}
