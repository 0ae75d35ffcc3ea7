//! Timelines: whether a server that was promoted goes on where another one was.

use lakeward_core::{Error, Result};

use super::lsn::Lsn;
use super::slot::{blocking, replication_endpoint};
use crate::connect::Connector;
use crate::wire;

/// Where each timeline that came before a server's own was left, as the server's history file tells.
pub(super) struct History(Vec<(u32, Lsn)>);

impl History {
    /// The history of the timeline that the server is on.
    pub(super) async fn of(connector: &Connector, timeline: u32) -> Result<Self> {
        // The first one has no history.
        if timeline <= 1 {
            return Ok(Self(Vec::new()));
        }
        let endpoint = replication_endpoint(connector).await?;
        let rows = blocking(move || {
            let mut session = wire::Connection::connect(&endpoint)?;
            let rows = session.query_rows(&format!("TIMELINE_HISTORY {timeline}"))?;
            session.close();
            Ok(rows)
        })
        .await?;
        let content = rows.into_iter().next().and_then(|row| row.into_iter().nth(1)?);
        Self::parse(&content.ok_or_else(|| Error::bug("a timeline has no history"))?)
    }

    /// A line for each timeline: its number, where it was left, and why, apart by tabs.
    fn parse(content: &str) -> Result<Self> {
        let lines = content.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|line| {
                let mut fields = line.split_whitespace();
                let timeline = fields.next().and_then(|field| field.parse().ok());
                match (timeline, fields.next()) {
                    (Some(timeline), Some(left)) => Ok((timeline, left.parse()?)),
                    _ => Err(Error::bug("a history file is not what it was")),
                }
            })
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Where a timeline was left; `None` where the server was never on it.
    pub(super) fn left(&self, timeline: u32) -> Option<Lsn> {
        self.0.iter().find(|(number, _)| *number == timeline).map(|(_, left)| *left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_tells_where_each_timeline_was_left() {
        let history =
            History::parse("1\t0/3000148\tno recovery target specified\n\n2\t1/A0\tbefore x\n").unwrap();
        assert_eq!(history.left(1), Some(Lsn(0x300_0148)));
        assert_eq!(history.left(2), Some(Lsn(0x1_0000_00A0)));
        assert_eq!(history.left(3), None);
    }
}
