//! What changes in the log mean for their streams.
//!
//! Guarantee: the same transaction gives the same rows with the same sequence however often it is read. Ordinals
//! follow from the log alone: one for an insert, a delete and each table of a truncate, two for an update,
//! whatever of them is emitted.

use std::collections::BTreeMap;
use std::sync::Arc;

use lakeward_core::{Error, Op, Sequence, StreamPhase};

use super::batches::{Batches, Stamp, Unsent};
use super::lsn::{LogPosition, Lsn};
use super::pgoutput::{Body, OldTuple, Relation, Relations, Tuple, Value};
use super::phases::Phases;
use super::tables::{Change, Known, Mapping, Table, Tables};

/// Why the reading does not go on.
pub(super) enum Halt {
    Failed(Error),
    Changed(Change),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Turns changes into rows of batches.
pub(super) struct Assembler {
    pub(super) tables: Tables,
    pub(super) batches: Batches,
    phases: Arc<Phases>,
    /// By table: from which commit on, and of which generation, its changes are emitted.
    open: Vec<Option<(Lsn, u32)>>,
    phases_seen: u64,
    transaction: Transaction,
    values: Vec<Value<'static>>,
    old_values: Vec<Value<'static>>,
}

/// The transaction whose changes come now.
#[derive(Debug, Clone, Copy, Default)]
struct Transaction {
    xid: u32,
    commit: Lsn,
    commit_ts: i64,
    ordinal: u64,
}

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Insert,
    Update,
    Delete,
}

/// The room of a vector for values of another message.
fn emptied<'a>(mut values: Vec<Value<'_>>) -> Vec<Value<'a>> {
    values.clear();
    // Nothing is left to convert: the allocation is what is kept.
    values.into_iter().map(|_| Value::Null).collect()
}

/// A row with its table and what is known of the row before.
struct Row<'r, 'm> {
    table: &'r Table,
    mapping: &'r Mapping,
    new: &'r [Value<'m>],
    old: Option<&'r [Value<'m>]>,
    /// Whether the old row is whole.
    full: bool,
}

impl<'m> Row<'_, 'm> {
    /// The value of a column of the stream; an unchanged one from the old row, where that is known.
    fn value(&self, column: usize) -> Value<'m> {
        self.at(self.mapping.values[column], || self.full || self.table.key.contains(&column))
    }

    fn at(&self, place: Option<usize>, in_old: impl FnOnce() -> bool) -> Value<'m> {
        let Some(place) = place else { return Value::Null };
        match self.new.get(place).copied().unwrap_or(Value::Null) {
            Value::Unchanged if in_old() => {
                self.old.and_then(|old| old.get(place).copied()).unwrap_or(Value::Unchanged)
            }
            value => value,
        }
    }

    fn old_value(&self, column: usize) -> Value<'m> {
        let place = self.mapping.values[column];
        place.and_then(|place| self.old?.get(place).copied()).unwrap_or(Value::Null)
    }

    /// Columns whose value nobody knows here.
    fn unchanged(&self) -> Vec<usize> {
        (0..self.mapping.values.len()).filter(|column| self.value(*column) == Value::Unchanged).collect()
    }

    fn key_changed(&self) -> bool {
        self.old.is_some()
            && self.table.key.iter().any(|column| self.value(*column) != self.old_value(*column))
    }

    fn key(&self) -> Vec<Vec<u8>> {
        self.table.key.iter().map(|column| text(self.value(*column)).unwrap_or_default().to_vec()).collect()
    }

    /// Whether the row passes the stream's filter; `None` where that hangs on a value that nobody knows here.
    fn passes(&self) -> Option<bool> {
        let Some(filter) = &self.table.filter else { return Some(true) };
        filter.passes(|column| self.at(self.mapping.filter.get(column).copied().flatten(), || self.full))
    }

    fn old_passes(&self) -> bool {
        let Some(filter) = &self.table.filter else { return true };
        let value = |column: usize| {
            let place = self.mapping.filter.get(column).copied().flatten();
            place.and_then(|place| self.old?.get(place).copied()).unwrap_or(Value::Null)
        };
        filter.passes(value) == Some(true)
    }
}

fn text(value: Value<'_>) -> Option<&[u8]> {
    match value {
        Value::Text(text) => Some(text),
        Value::Null | Value::Unchanged => None,
    }
}

/// How a table's rows in a transaction are to be read, and of which generation they are; none where they are
/// dropped.
fn mapped<'t>(
    tables: &'t Tables,
    open: &[Option<(Lsn, u32)>],
    commit: Lsn,
    relation: u32,
) -> Result<Option<(&'t Mapping, u32)>, Halt> {
    let generation =
        |table: usize| open[table].filter(|(from, _)| commit >= *from).map(|(_, generation)| generation);
    match tables.known(relation) {
        Known::Foreign => Ok(None),
        Known::Mapped(mapping) => Ok(generation(mapping.table).map(|generation| (mapping, generation))),
        Known::Changed { table, .. } if generation(*table).is_none() => Ok(None),
        Known::Changed { table, what, gone } => {
            let stream = &tables.tables[*table].stream;
            if *gone {
                // What the log knows alone is read again under any policy that does not stop the run.
                stream.on_partition_change.part_gone(&stream.id)?;
            }
            Err(Halt::Changed(Change { stream: stream.id.clone(), what: what.clone(), placed: false }))
        }
    }
}

impl Assembler {
    pub(super) fn new(tables: Tables, batches: Batches, phases: Arc<Phases>) -> Self {
        let open = vec![None; tables.tables.len()];
        Self {
            tables,
            batches,
            phases,
            open,
            phases_seen: 0,
            transaction: Transaction::default(),
            values: Vec::new(),
            old_values: Vec::new(),
        }
    }

    /// A transaction's changes follow.
    pub(super) fn begin(&mut self, xid: u32, commit: Lsn, commit_ts: i64) -> Result<(), Halt> {
        self.transaction = Transaction { xid, commit, commit_ts, ordinal: 0 };
        let version = self.phases.version();
        if version != self.phases_seen {
            self.phases_seen = version;
            let mut opened = Vec::new();
            for (stream, phase) in self.phases.all() {
                let Some(table) = self.tables.index(&stream) else { continue };
                self.open[table] = match phase {
                    StreamPhase::Queued | StreamPhase::Opening => None,
                    StreamPhase::Open { position, generation } => {
                        let from = LogPosition::of(&position)?.lsn;
                        let from = from.ok_or_else(|| Error::bug("an open stream's position has no LSN"))?;
                        if self.open[table].is_none() {
                            opened.push(table);
                        }
                        Some((from, generation))
                    }
                };
            }
            // Made anew before its snapshot was taken, it is another one than this reading knows, whose changes would be
            // passed over as those of a stranger.
            if let Some(change) = self.batches.outlet().wait(self.tables.replaced(&opened))? {
                return Err(Halt::Changed(change));
            }
        }
        Ok(())
    }

    /// Takes note of a table.
    pub(super) fn relation(&mut self, relation: &Relation<'_>) -> Result<(), Halt> {
        let Self { tables, batches, transaction, .. } = self;
        Ok(batches.outlet().wait(tables.note(relation, transaction.commit))?)
    }

    /// Turns one change into rows. `size` is what it took in the log.
    pub(super) fn change(&mut self, body: &Body<'_>, size: usize) -> Result<(), Halt> {
        match body {
            Body::Relation(relation) => self.relation(relation),
            Body::Insert { relation, new } => self.row(Kind::Insert, *relation, None, Some(new), size),
            Body::Update { relation, old, new } => {
                self.row(Kind::Update, *relation, old.as_ref(), Some(new), size)
            }
            Body::Delete { relation, old } => self.row(Kind::Delete, *relation, Some(old), None, size),
            Body::Truncate(relations) => self.truncate(relations),
            _ => Ok(()),
        }
    }

    fn row(
        &mut self,
        kind: Kind,
        relation: u32,
        old: Option<&OldTuple<'_>>,
        new: Option<&Tuple<'_>>,
        size: usize,
    ) -> Result<(), Halt> {
        let first = self.transaction.ordinal + 1;
        // An update of the log is two rows where its key changes; whether it does must not matter to what follows.
        self.transaction.ordinal += if kind == Kind::Update { 2 } else { 1 };
        let Some((mapping, generation)) =
            mapped(&self.tables, &self.open, self.transaction.commit, relation)?
        else {
            return Ok(());
        };
        let table = &self.tables.tables[mapping.table];
        if table.stream.insert_only && kind != Kind::Insert {
            return Ok(());
        }
        let mut values = emptied(std::mem::take(&mut self.values));
        let mut old_values = emptied(std::mem::take(&mut self.old_values));
        if let Some(new) = new {
            values.extend(new.values());
        }
        if let Some(old) = old {
            old_values.extend(old.tuple().values());
        }
        let widths = [new.map(|_| values.len()), old.map(|_| old_values.len())];
        if widths.into_iter().flatten().any(|width| width != mapping.width) {
            return Err(Error::new(
                lakeward_core::ErrorKind::Source,
                "a row in the log is not of its table's width",
            )
            .at("stream", &table.stream.id)
            .into());
        }
        let row = Row {
            table,
            mapping,
            new: &values,
            old: old.map(|_| old_values.as_slice()),
            full: matches!(old, Some(OldTuple::Full(_))),
        };
        let emit = Emit {
            tables: &self.tables,
            batches: &mut self.batches,
            transaction: self.transaction,
            generation,
            size,
        };
        match kind {
            Kind::Insert => emit.insert(&row, first)?,
            Kind::Update => emit.update(&row, first)?,
            Kind::Delete => emit.delete(&row, first)?,
        }
        self.values = emptied(values);
        self.old_values = emptied(old_values);
        Ok(())
    }

    fn truncate(&mut self, relations: &Relations<'_>) -> Result<(), Halt> {
        let first = self.transaction.ordinal + 1;
        let mut emptied: BTreeMap<usize, Emptied> = BTreeMap::new();
        for (ordinal, oid) in (first..).zip(relations.iter()) {
            self.transaction.ordinal = ordinal;
            let (open, commit) = (&self.open, self.transaction.commit);
            let Some((mapping, generation)) = mapped(&self.tables, open, commit, oid)? else { continue };
            let table = emptied.entry(mapping.table).or_insert(Emptied {
                ordinal,
                generation,
                whole: false,
                parts: Vec::new(),
            });
            match mapping.part {
                true => table.parts.push(oid),
                false => table.whole = true,
            }
        }
        for (index, Emptied { ordinal, generation, whole, parts }) in emptied {
            let Self { tables, batches, transaction, .. } = self;
            let stream = &tables.tables[index].stream;
            if stream.insert_only {
                continue;
            }
            if !whole && !batches.outlet().wait(tables.are_all_parts(index, &parts, transaction.xid))? {
                let Some(what) = stream.on_partition_change.part_emptied(&stream.id)? else {
                    tracing::warn!(stream = %stream.id, "a partition was truncated: its rows are kept");
                    continue;
                };
                let what = what.to_owned();
                return Err(Halt::Changed(Change { stream: stream.id.clone(), what, placed: false }));
            }
            let mut emit = Emit { tables, batches, transaction: *transaction, generation, size: 0 };
            emit.push(index, Op::Truncate, ordinal, |_| None, Unsent::default())?;
        }
        Ok(())
    }
}

/// What a truncate says of one stream.
struct Emptied {
    /// That of the first of its tables.
    ordinal: u64,
    generation: u32,
    /// Whether its own table is named, and not only partitions.
    whole: bool,
    parts: Vec<u32>,
}

/// Where the rows of one change go.
struct Emit<'a> {
    tables: &'a Tables,
    batches: &'a mut Batches,
    transaction: Transaction,
    generation: u32,
    size: usize,
}

impl Emit<'_> {
    fn push<'m>(
        &mut self,
        table: usize,
        op: Op,
        ordinal: u64,
        value: impl FnMut(usize) -> Option<&'m [u8]>,
        unsent: Unsent<'_>,
    ) -> Result<(), Halt> {
        let stamp = Stamp {
            op,
            sequence: Sequence { epoch: self.generation, position: self.transaction.commit.0, ordinal },
            commit_ts: self.transaction.commit_ts,
        };
        Ok(self.batches.push(self.tables, table, stamp, self.size, value, unsent)?)
    }

    fn insert(mut self, row: &Row<'_, '_>, ordinal: u64) -> Result<(), Halt> {
        if row.passes() == Some(true) {
            let value = |column| text(row.value(column));
            self.push(row.mapping.table, Op::Create, ordinal, value, Unsent::default())?;
        }
        Ok(())
    }

    fn delete(mut self, row: &Row<'_, '_>, ordinal: u64) -> Result<(), Halt> {
        let key = &row.table.key;
        if key.is_empty() && !row.old_passes() {
            return Ok(());
        }
        let value = |column: usize| {
            (key.is_empty() || key.contains(&column)).then(|| text(row.old_value(column))).flatten()
        };
        self.push(row.mapping.table, Op::Delete, ordinal, value, Unsent::default())
    }

    fn update(mut self, row: &Row<'_, '_>, ordinal: u64) -> Result<(), Halt> {
        let (table, key) = (row.mapping.table, &row.table.key);
        let value = |column| text(row.value(column));
        if key.is_empty() {
            // Without a key a row is known by all of it.
            if row.old_passes() {
                self.push(
                    table,
                    Op::Delete,
                    ordinal,
                    |column| text(row.old_value(column)),
                    Unsent::default(),
                )?;
            }
            if row.passes() == Some(true) {
                self.push(
                    table,
                    Op::Create,
                    ordinal + 1,
                    value,
                    Unsent { columns: &row.unchanged(), key: None },
                )?;
            }
            return Ok(());
        }
        let passes = match row.passes() {
            Some(passes) => passes,
            None => self.batches.passes_now(row.table, &row.key())?,
        };
        let moved = row.key_changed();
        if moved {
            let old_key =
                |column: usize| key.contains(&column).then(|| text(row.old_value(column))).flatten();
            self.push(table, Op::Delete, ordinal, old_key, Unsent::default())?;
        }
        if passes {
            let unchanged = row.unchanged();
            // Under a new key, or where the row may just have come through the filter, no earlier row has them.
            let new_to_reader = moved || row.table.filter.is_some();
            let wanted = (new_to_reader && !unchanged.is_empty()).then(|| row.key());
            let unsent = Unsent { columns: &unchanged, key: wanted };
            let (op, ordinal) = if moved { (Op::Create, ordinal + 1) } else { (Op::Update, ordinal) };
            self.push(table, op, ordinal, value, unsent)
        } else if moved {
            Ok(())
        } else {
            let key_only = |column: usize| key.contains(&column).then(|| text(row.value(column))).flatten();
            self.push(table, Op::Delete, ordinal, key_only, Unsent::default())
        }
    }
}
