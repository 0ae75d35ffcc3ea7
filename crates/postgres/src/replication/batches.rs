//! Batches of changes under construction, one per stream, and the memory that they take.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ListArray, StringArray, TimestampMicrosecondArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::compute::concat_batches;
use lakeward_core::{
    Batch, ChangeColumns, ChangeEvent, ColumnType, Error, Op, ReadContext, Reservation, Result, Sequence,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::lookup::{self, Answers, Wanted};
use super::tables::{Table, Tables};
use crate::connect::{Connection, Connector};
use crate::decode::{CopyFormat, RowDecoder};
use crate::reports::Report;

/// In what steps memory is asked for.
const STEP: usize = 256 << 10;
/// What a row takes besides its values: operation, sequence, time.
const ROW: usize = Sequence::LEN + 16;

/// Where a change stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    pub(super) op: Op,
    pub(super) sequence: Sequence,
    pub(super) commit_ts: i64,
}

/// What the source did not send of a row.
#[derive(Debug, Default)]
pub(super) struct Unsent<'a> {
    /// Columns.
    pub(super) columns: &'a [usize],
    /// The row's key, where their values are to be looked up.
    pub(super) key: Option<Vec<Vec<u8>>>,
}

/// The rows of one stream since its last batch.
struct Open {
    decoder: RowDecoder,
    ops: Vec<u8>,
    sequences: String,
    times: Vec<i64>,
    /// Row and column, in order, of values that the source did not send.
    unchanged: Vec<(usize, usize)>,
    wanted: Vec<Wanted>,
    bytes: usize,
}

/// The rows of all streams.
pub(super) struct Batches {
    open: Vec<Option<Open>>,
    /// What all of them are believed to take.
    bytes: usize,
    reservation: Option<Reservation>,
    outlet: Outlet,
    lookups: Lookups,
}

/// Where events go.
pub(super) struct Outlet {
    pub(super) context: ReadContext,
    pub(super) runtime: Handle,
    pub(super) stop: CancellationToken,
    pub(super) sender: mpsc::Sender<Report<ChangeEvent>>,
}

/// The connection by which values are looked up, made when it is first needed.
pub(super) struct Lookups {
    pub(super) connector: Arc<Connector>,
    pub(super) connection: Option<Connection>,
}

impl Lookups {
    pub(super) async fn connection(&mut self) -> Result<&Connection> {
        // One that broke is made anew at the next time.
        if self.connection.as_ref().is_none_or(|connection| connection.is_closed()) {
            self.connection = Some(self.connector.connect().await?);
        }
        self.connection.as_ref().ok_or_else(|| Error::bug("a connection was made and is nowhere"))
    }
}

impl Outlet {
    pub(super) fn send(&self, event: ChangeEvent) -> Result<()> {
        self.sender.blocking_send(Report::Item(event)).map_err(|_| Error::cancelled())
    }

    /// Waits for something of ours, or for the end.
    pub(super) fn wait<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => Err(Error::cancelled()),
                result = work => result,
            }
        })
    }
}

impl Batches {
    pub(super) fn new(tables: usize, outlet: Outlet, lookups: Lookups) -> Self {
        let open = std::iter::repeat_with(|| None).take(tables).collect();
        Self { open, bytes: 0, reservation: None, outlet, lookups }
    }

    pub(super) fn outlet(&self) -> &Outlet {
        &self.outlet
    }

    /// Whether a row, named by its key, passes its stream's filter at the source now.
    pub(super) fn passes_now(&mut self, table: &Table, key: &[Vec<u8>]) -> Result<bool> {
        let Self { outlet, lookups, .. } = self;
        outlet.wait(async { lookup::passes(lookups.connection().await?, table, key).await })
    }

    /// Makes sure that memory for `bytes` more is there. What there is goes first where it is not: to wait with
    /// rows in hand might be for ever.
    pub(super) fn charge(&mut self, tables: &Tables, bytes: usize) -> Result<()> {
        self.bytes += bytes;
        let reserved = self.reservation.as_ref().map_or(0, Reservation::bytes);
        let Some(missing) = self.bytes.checked_sub(reserved).filter(|missing| *missing > 0) else {
            return Ok(());
        };
        let budget = self.outlet.context.budget.clone();
        let more = match budget.try_reserve(missing.max(STEP)) {
            Some(more) => more,
            None => {
                self.flush(tables)?;
                self.reservation = None;
                self.bytes = bytes;
                // What others hold until the next boundary cannot be waited for: a row that is larger than what is
                // sure to become free goes beyond the budget, alone.
                self.outlet.wait(budget.reserve(bytes.max(STEP).min(budget.sure())))?
            }
        };
        match &mut self.reservation {
            Some(reservation) => reservation.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    /// Puts in a row that took `size` bytes in the log. `value` gives its values by column of the stream.
    pub(super) fn push<'a>(
        &mut self,
        tables: &Tables,
        index: usize,
        stamp: Stamp,
        size: usize,
        value: impl FnMut(usize) -> Option<&'a [u8]>,
        unsent: Unsent<'_>,
    ) -> Result<()> {
        let table = &tables.tables[index];
        self.charge(tables, size + ROW)?;
        let open = match &mut self.open[index] {
            Some(open) => open,
            none => none.insert(Open::new(table)?),
        };
        let row = open.ops.len();
        open.decoder.push_values(value).map_err(|error| error.at("stream", &table.stream.id))?;
        open.ops.extend_from_slice(stamp.op.as_str().as_bytes());
        push_sequence(&mut open.sequences, stamp.sequence);
        open.times.push(stamp.commit_ts);
        open.unchanged.extend(unsent.columns.iter().map(|column| (row, *column)));
        if let Some(key) = unsent.key {
            open.wanted.push(Wanted { row, key, columns: unsent.columns.to_vec() });
        }
        open.bytes += size + ROW;
        if open.bytes >= self.outlet.context.batch_bytes { self.flush_one(tables, index) } else { Ok(()) }
    }

    /// Hands over all rows. What builders took is given back.
    pub(super) fn flush(&mut self, tables: &Tables) -> Result<()> {
        for index in 0..self.open.len() {
            self.flush_one(tables, index)?;
        }
        Ok(())
    }

    /// The same at a boundary, where nothing is held any longer.
    pub(super) fn settle(&mut self, tables: &Tables) -> Result<()> {
        self.flush(tables)?;
        self.bytes = 0;
        self.reservation = None;
        Ok(())
    }

    fn flush_one(&mut self, tables: &Tables, index: usize) -> Result<()> {
        let Some(mut open) = self.open[index].take() else { return Ok(()) };
        let table = &tables.tables[index];
        let rows = open.ops.len();
        self.bytes = self.bytes.saturating_sub(open.bytes);
        let mut all = open.decoder.finish_batch().map_err(|error| error.at("stream", &table.stream.id))?;
        let ops = fixed_width(open.ops, 1)?;
        let sequences = fixed_width(open.sequences.into_bytes(), Sequence::LEN)?;
        let times = TimestampMicrosecondArray::from(open.times);
        let mut share = self.reservation.as_mut().and_then(|all| all.split_off(open.bytes));
        let mut wanted = open.wanted.as_slice();
        let mut start = 0;
        // As many rows at a time as what is looked up for them leaves room for.
        while start < rows {
            let answers = self.ask(table, wanted)?;
            let (answered, later) = wanted.split_at(answers.as_ref().map_or(0, |answers| answers.asked));
            let end = later.first().map_or(rows, |next| next.row);
            let mut batch = cut(&mut all, start, end)?;
            let found = match &answers {
                Some(answers) => lookup::fill(&mut batch, start, answered, answers)?,
                None => HashSet::new(),
            };
            let unsent: Vec<(usize, usize)> = open
                .unchanged
                .iter()
                .filter(|place| (start..end).contains(&place.0) && !found.contains(place))
                .map(|(row, column)| (row - start, *column))
                .collect();
            batch.changes = Some(ChangeColumns {
                op: ops.slice(start, end - start),
                seq: sequences.slice(start, end - start),
                commit_ts: times.slice(start, end - start),
                unchanged: unchanged(table, &unsent, end - start)?,
            });
            batch.reservation = self.reserved(share.take(), batch.rows.get_array_memory_size());
            self.outlet.send(ChangeEvent::Changes(table.stream.id.clone(), Box::new(batch)))?;
            (start, wanted) = (end, later);
        }
        Ok(())
    }

    /// Looks up the first of the values that are wanted.
    fn ask(&mut self, table: &Table, wanted: &[Wanted]) -> Result<Option<Answers>> {
        if wanted.is_empty() {
            return Ok(None);
        }
        let Self { outlet, lookups, .. } = self;
        let most = outlet.context.batch_bytes;
        outlet.wait(async { lookup::ask(lookups.connection().await?, table, wanted, most).await }).map(Some)
    }

    /// The reservation of what takes so many bytes, out of what was reserved for it.
    fn reserved(&self, share: Option<Reservation>, taken: usize) -> Option<Reservation> {
        let missing = taken.saturating_sub(share.as_ref().map_or(0, Reservation::bytes));
        // What the estimate missed is charged where that is possible at once.
        let more = (missing > 0).then(|| self.outlet.context.budget.try_reserve(missing)).flatten();
        match (share, more) {
            (Some(mut share), more) => {
                share.shrink_to(taken);
                more.into_iter().for_each(|more| share.merge(more));
                Some(share)
            }
            (None, more) => more,
        }
    }
}

/// The rows from `start` to `end` of a batch; its bad values go with the first of them.
fn cut(all: &mut Batch, start: usize, end: usize) -> Result<Batch> {
    let rows = match end - start == all.rows.num_rows() {
        true => all.rows.clone(),
        // A copy, which does not keep the whole.
        false => concat_batches(all.rows.schema_ref(), [&all.rows.slice(start, end - start)])
            .map_err(|error| Error::bug("rows cannot be copied").source(error))?,
    };
    Ok(Batch {
        rescued: all.rescued.as_ref().map(|rescued| rescued.slice(start, end - start)),
        bad_values: std::mem::take(&mut all.bad_values),
        ..Batch::read(rows)
    })
}

impl Open {
    fn new(table: &Table) -> Result<Self> {
        let decoder = RowDecoder::new(CopyFormat::Text, &table.wire());
        Ok(Self {
            decoder: decoder.map_err(|error| error.at("stream", &table.stream.id))?,
            ops: Vec::new(),
            sequences: String::new(),
            times: Vec::new(),
            unchanged: Vec::new(),
            wanted: Vec::new(),
            bytes: 0,
        })
    }
}

/// As [`Sequence`] prints it, without the machinery of formatting: once per row.
fn push_sequence(out: &mut String, sequence: Sequence) {
    let mut hex = |number: u64, digits: u32| {
        for digit in (0..digits).rev() {
            let nibble = (number >> (4 * digit)) & 0xf;
            out.push(char::from(b"0123456789abcdef"[nibble as usize]));
        }
    };
    hex(u64::from(sequence.epoch), 6);
    hex(sequence.position, 16);
    hex(sequence.ordinal, 10);
}

fn fixed_width(text: Vec<u8>, width: usize) -> Result<StringArray> {
    let offsets = OffsetBuffer::from_repeated_length(width, text.len() / width);
    StringArray::try_new(offsets, Buffer::from_vec(text), None)
        .map_err(|error| Error::bug("a system column cannot be made").source(error))
}

/// The column of names of what was not sent; `None` where all of it was.
fn unchanged(table: &Table, places: &[(usize, usize)], rows: usize) -> Result<Option<ListArray>> {
    if places.is_empty() {
        return Ok(None);
    }
    let mut lengths = vec![0; rows];
    for (row, _) in places {
        lengths[*row] += 1;
    }
    let names: StringArray =
        places.iter().map(|(_, column)| Some(table.columns[*column].wire.written_as.as_str())).collect();
    let valid: Vec<bool> = lengths.iter().map(|length| *length > 0).collect();
    ListArray::try_new(
        Arc::new(ColumnType::Text.field("element")),
        OffsetBuffer::from_lengths(lengths),
        Arc::new(names),
        Some(NullBuffer::from(valid)),
    )
    .map(Some)
    .map_err(|error| Error::bug("a system column cannot be made").source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_written_as_they_print() {
        for sequence in [
            Sequence { epoch: 1, position: 0x16B_3748, ordinal: 7 },
            Sequence { epoch: (1 << 24) - 1, position: u64::MAX, ordinal: (1 << 40) - 1 },
        ] {
            let mut text = String::new();
            push_sequence(&mut text, sequence);
            assert_eq!(text, sequence.to_string());
        }
    }
}
