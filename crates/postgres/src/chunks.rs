//! Cutting a stream into chunks.
//!
//! Bounds are text in one of two forms. `(block,0)`: a place in a heap's file. `[["column","value"],…]`: a place in
//! the order of a key, with the columns named, so that a plan means the same whatever the user chooses later.
//! The first chunk of every relation has no lower end and the last no upper one, so that rows and partitions'
//! blocks that come later fall into a chunk.

use std::collections::{BTreeMap, HashMap};

use lakeward_core::{Chunk, ConfiguredStream, Error, ErrorKind, Result, Session};

use crate::connect::Connection;
use crate::session::{Detail, ReadRelation};
use crate::sql;

/// From this version on the server reads a range of row places without reading the whole table.
const TID_RANGE_VERSION: u32 = 14;
/// More chunks than this gain nothing, and make the plan long, which every commit of a chunk looks through.
const MAX_CHUNKS: u64 = 20_000;
/// How many ranges are made of what has no size of its own.
const CHUNKS_WITHOUT_SIZE: u64 = 16;
/// Of the chunks by place the last quarter, and never more than this, is cut into [`TAIL_PIECES`] each: where some
/// connections have nothing left to read, the others are then nearly done.
const MAX_TAIL: u64 = 8;
const TAIL_PIECES: u64 = 4;
/// Rows looked at per chunk when a key's order is cut into ranges.
const SAMPLES_PER_CHUNK: u64 = 200;

/// Cuts a stream, or completes an earlier plan, over the connection that holds the session.
///
/// Both the sizes and the samples of a key lock what they look at. The holder has these locks: another connection
/// would queue behind DDL that waits for the holder.
pub(crate) async fn split(
    connection: &Connection,
    stream: &ConfiguredStream,
    session: &Session,
    earlier: Option<&[Chunk]>,
    chunk_bytes: u64,
) -> Result<Vec<Chunk>> {
    let detail = Detail::of(session)?;
    let chunk_bytes = chunk_bytes.max(1);
    let mut plan: Vec<Chunk> = Vec::new();
    let mut next = 0;
    if let Some(earlier) = earlier {
        next = earlier.iter().map(|chunk| chunk.number + 1).max().unwrap_or(0);
        plan = keep(&detail, earlier);
    }
    let planned =
        |plan: &[Chunk], name: &str| plan.iter().any(|chunk| chunk.relation.as_deref() == Some(name));
    let missing: Vec<&ReadRelation> =
        detail.relations.iter().filter(|relation| !planned(&plan, &relation.oid.to_string())).collect();
    let sizes = sizes(connection, &missing).await?;
    for relation in missing {
        let size = sizes.get(&relation.oid).copied().unwrap_or_default();
        let pieces = cut(connection, stream, &detail, relation, size, chunk_bytes).await?;
        push(&mut plan, &mut next, Some(relation.oid.to_string()), pieces);
    }
    if plan.is_empty() {
        // A view, a foreign table, or a partitioned table without partitions.
        let pieces = cut(connection, stream, &detail, &detail.root, Size::default(), chunk_bytes).await?;
        push(&mut plan, &mut next, None, pieces);
    }
    Ok(plan)
}

/// The plan of a stream of which no row is read: one chunk, so that its generation is like any other.
pub(crate) fn none(earlier: Option<&[Chunk]>) -> Vec<Chunk> {
    match earlier {
        Some(earlier) => earlier.to_vec(),
        None => vec![Chunk { number: 0, relation: None, min: None, max: None, bytes: 0 }],
    }
}

/// Chunks of an earlier plan whose relations still exist, with their outer ends open.
fn keep(detail: &Detail, earlier: &[Chunk]) -> Vec<Chunk> {
    let exists = |chunk: &&Chunk| match &chunk.relation {
        Some(name) => detail.relations.iter().any(|relation| relation.oid.to_string() == *name),
        None => detail.relations.is_empty(),
    };
    let mut kept: Vec<Chunk> = earlier.iter().filter(exists).cloned().collect();
    let mut by_relation: BTreeMap<Option<String>, Vec<usize>> = BTreeMap::new();
    for (index, chunk) in kept.iter().enumerate() {
        by_relation.entry(chunk.relation.clone()).or_default().push(index);
    }
    // Numbers of one relation were given in the order of its ranges.
    for indices in by_relation.values_mut() {
        indices.sort_by_key(|index| kept[*index].number);
        if let (Some(first), Some(last)) = (indices.first(), indices.last()) {
            kept[*first].min = None;
            kept[*last].max = None;
        }
    }
    kept
}

/// Pieces of a relation: their inner bounds in order, and the bytes of each, one more than there are bounds.
struct Pieces {
    bounds: Vec<String>,
    bytes: Vec<u64>,
}

impl Pieces {
    fn whole(size: Size) -> Self {
        Self { bounds: Vec::new(), bytes: vec![size.bytes] }
    }
}

fn push(plan: &mut Vec<Chunk>, next: &mut u32, relation: Option<String>, pieces: Pieces) {
    let ends = pieces.bounds.iter().cloned().map(Some).chain([None]);
    let starts = std::iter::once(None).chain(pieces.bounds.iter().cloned().map(Some));
    for ((min, max), bytes) in starts.zip(ends).zip(pieces.bytes) {
        plan.push(Chunk { number: *next, relation: relation.clone(), min, max, bytes });
        *next += 1;
    }
}

/// What a relation takes on disk.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    blocks: u64,
    bytes: u64,
}

/// The sizes of relations, TOAST included.
async fn sizes(connection: &Connection, relations: &[&ReadRelation]) -> Result<HashMap<u32, Size>> {
    let oids: Vec<u32> = relations.iter().filter(|r| r.heap).map(|relation| relation.oid).collect();
    let sql = "SELECT c.oid, pg_relation_size(c.oid) / current_setting('block_size')::int8, \
          pg_relation_size(c.oid) + coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0) \
        FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1::oid[])";
    let rows = connection.rows(sql, &[&oids]).await?;
    let unsigned = |number: Option<i64>| number.and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
    Ok(rows
        .iter()
        .map(|row| (row.get(0), Size { blocks: unsigned(row.get(1)), bytes: unsigned(row.get(2)) }))
        .collect())
}

async fn cut(
    connection: &Connection,
    stream: &ConfiguredStream,
    detail: &Detail,
    relation: &ReadRelation,
    size: Size,
    chunk_bytes: u64,
) -> Result<Pieces> {
    let wanted = size.bytes.div_ceil(chunk_bytes).clamp(1, MAX_CHUNKS);
    if let Some(column) = &stream.chunk_column {
        // Without a size of its own (a view), the column is all that is known: a handful of ranges.
        let wanted = if relation.heap { wanted } else { CHUNKS_WITHOUT_SIZE };
        return by_key(connection, detail, relation, std::slice::from_ref(column), size, wanted).await;
    }
    if !relation.heap {
        return Ok(Pieces::whole(size));
    }
    if detail.version < TID_RANGE_VERSION {
        if detail.key.is_empty() {
            return Ok(Pieces::whole(size));
        }
        return by_key(connection, detail, relation, &detail.key, size, wanted).await;
    }
    Ok(by_place(size, wanted))
}

/// Ranges of blocks, of even size but for the last ones: rows' TOAST is taken to lie evenly over them.
fn by_place(size: Size, wanted: u64) -> Pieces {
    let wanted = wanted.min(size.blocks.max(1));
    let tail = if wanted > 1 { wanted.div_ceil(4).min(MAX_TAIL) } else { 0 };
    let whole = (1..=wanted - tail).map(|n| n * TAIL_PIECES);
    let parts = (wanted - tail) * TAIL_PIECES + 1..=wanted * TAIL_PIECES;
    // Where each piece ends, in blocks; the last one ends where the relation does.
    let mut ends: Vec<u64> = whole
        .chain(parts)
        .map(|n| (u128::from(n) * u128::from(size.blocks) / u128::from(wanted * TAIL_PIECES)) as u64)
        .filter(|end| *end > 0)
        .collect();
    ends.dedup();
    if ends.is_empty() {
        return Pieces::whole(size);
    }
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let share = |blocks: u64| u128::from(blocks) * u128::from(size.bytes) / u128::from(size.blocks.max(1));
    let bytes = starts.zip(&ends).map(|(start, end)| share(end - start) as u64).collect();
    ends.pop();
    Pieces { bounds: ends.iter().map(|end| format!("({end},0)")).collect(), bytes }
}

/// Ranges of a key, by quantiles of a sample. All order is the server's own.
async fn by_key(
    connection: &Connection,
    detail: &Detail,
    relation: &ReadRelation,
    key: &[String],
    size: Size,
    wanted: u64,
) -> Result<Pieces> {
    let whole = Pieces::whole(size);
    if wanted <= 1 {
        return Ok(whole);
    }
    for column in key {
        detail.sql_type(column)?;
    }
    let columns: Vec<String> = key.iter().map(|column| sql::ident(column)).collect();
    let list = columns.join(", ");
    let texts: Vec<String> = columns.iter().map(|column| format!("format('%s', s.{column})")).collect();
    let not_null: Vec<String> = columns.iter().map(|column| format!("{column} IS NOT NULL")).collect();
    // Blocks, not rows, are sampled: enough of them that every chunk's share holds its samples even where a
    // block holds one row.
    let sample = if relation.heap && size.blocks > wanted * SAMPLES_PER_CHUNK {
        let percent = 100.0 * (wanted * SAMPLES_PER_CHUNK) as f64 / size.blocks as f64;
        format!(" TABLESAMPLE SYSTEM ({percent:.6})")
    } else {
        String::new()
    };
    let sql = format!(
        "SELECT DISTINCT ON ({keys}) ARRAY[{texts}]::text[] FROM ( \
           SELECT {list}, row_number() OVER (ORDER BY {list}) - 1 AS n, count(*) OVER () AS total \
           FROM {from}{sample} WHERE {not_null}) s \
         WHERE s.n > 0 AND s.n * {wanted} / s.total <> (s.n - 1) * {wanted} / s.total ORDER BY {keys}",
        keys = columns.iter().map(|column| format!("s.{column}")).collect::<Vec<_>>().join(", "),
        texts = texts.join(", "),
        from = relation.from(),
        not_null = not_null.join(" AND "),
    );
    let rows = connection.long_rows(&sql).await?;
    let bounds: Vec<String> = rows
        .iter()
        .map(|row| {
            let values: Vec<String> = row.get(0);
            let pairs: Vec<(&String, String)> = key.iter().zip(values).collect();
            serde_json::to_string(&pairs)
                .map_err(|error| Error::bug("a bound cannot be written").source(error))
        })
        .collect::<Result<_>>()?;
    let count = bounds.len() + 1;
    Ok(Pieces { bounds, bytes: vec![size.bytes / count as u64; count] })
}

/// The condition of a chunk's range; `None` where it is the whole relation.
///
/// # Errors
/// `State`, where a bound is in neither form.
pub(crate) fn condition(detail: &Detail, chunk: &Chunk) -> Result<Option<String>> {
    let malformed = || {
        Error::new(ErrorKind::State, "a chunk's bound cannot be read")
            .at("chunk", chunk.number)
            .hint("clear the stream with `lakeward clear` and read it again")
    };
    if chunk.min.is_none() && chunk.max.is_none() {
        return Ok(None);
    }
    let min = chunk.min.as_deref().map(|text| Bound::parse(text).ok_or_else(malformed)).transpose()?;
    let max = chunk.max.as_deref().map(|text| Bound::parse(text).ok_or_else(malformed)).transpose()?;
    let mut parts = Vec::new();
    if let Some(min) = &min {
        parts.push(min.compare(detail, ">=")?);
    }
    if let Some(max) = &max {
        let below = max.compare(detail, "<")?;
        // Nulls are in no range: the first one takes them.
        parts.push(match (&min, max) {
            (None, Bound::Key(pairs)) => {
                let nulls: Vec<String> =
                    pairs.iter().map(|(column, _)| format!("{} IS NULL", sql::ident(column))).collect();
                format!("({below} OR {})", nulls.join(" OR "))
            }
            _ => below,
        });
    }
    Ok(Some(parts.join(" AND ")))
}

#[derive(Debug, PartialEq)]
enum Bound {
    Place(u32),
    Key(Vec<(String, String)>),
}

impl Bound {
    fn parse(text: &str) -> Option<Self> {
        if let Some(block) = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(",0)")) {
            return block.parse().ok().map(Self::Place);
        }
        serde_json::from_str::<Vec<(String, String)>>(text)
            .ok()
            .filter(|pairs| !pairs.is_empty())
            .map(Self::Key)
    }

    fn compare(&self, detail: &Detail, op: &str) -> Result<String> {
        match self {
            Self::Place(block) => Ok(format!("ctid {op} '({block},0)'::tid")),
            Self::Key(pairs) => {
                let (mut columns, mut values) = (Vec::new(), Vec::new());
                for (column, value) in pairs {
                    columns.push(sql::ident(column));
                    values.push(sql::typed(value, detail.sql_type(column)?));
                }
                Ok(match columns.len() {
                    1 => format!("{} {op} {}", columns[0], values[0]),
                    _ => format!("({}) {op} ({})", columns.join(", "), values.join(", ")),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::RelationKind;
    use crate::decode::CopyFormat;

    fn detail(oids: &[u32]) -> Detail {
        let relation = |oid| ReadRelation {
            oid,
            schema: "s".to_owned(),
            name: "t".to_owned(),
            kind: RelationKind::Table,
            heap: true,
            filenode: Some(1),
        };
        Detail {
            version: 15,
            root: relation(1),
            columns: vec![],
            sql_types: [("a", "integer"), ("b", "text")].map(|(n, t)| (n.to_owned(), t.to_owned())).into(),
            key: vec![],
            format: CopyFormat::Text,
            relations: oids.iter().copied().map(relation).collect(),
        }
    }

    fn chunk(number: u32, relation: u32, min: Option<&str>, max: Option<&str>) -> Chunk {
        Chunk {
            number,
            relation: Some(relation.to_string()),
            min: min.map(str::to_owned),
            max: max.map(str::to_owned),
            bytes: 0,
        }
    }

    #[test]
    fn places_cover_all_blocks_without_overlap() {
        let pieces = by_place(Size { blocks: 160, bytes: 16_000 }, 4);
        assert_eq!(pieces.bounds, ["(40,0)", "(80,0)", "(120,0)", "(130,0)", "(140,0)", "(150,0)"]);
        assert_eq!(pieces.bytes, [4000, 4000, 4000, 1000, 1000, 1000, 1000]);
        assert_eq!(by_place(Size { blocks: 0, bytes: 0 }, 1).bounds.len(), 0);
        assert_eq!(by_place(Size { blocks: 2, bytes: 1 << 40 }, 4096).bounds, ["(1,0)"]);
        let (mut plan, mut next) = (Vec::new(), 7);
        push(&mut plan, &mut next, None, pieces);
        assert_eq!((plan.len(), next), (7, 14));
        assert_eq!((plan[0].min.as_deref(), plan[0].max.as_deref()), (None, Some("(40,0)")));
        assert_eq!((plan[6].min.as_deref(), plan[6].max.as_deref()), (Some("(150,0)"), None));
    }

    #[test]
    fn earlier_plans_keep_their_numbers_and_lose_what_is_gone() {
        let earlier = [
            chunk(0, 5, Some("(0,0)"), Some("(4,0)")),
            chunk(1, 5, Some("(4,0)"), Some("(8,0)")),
            chunk(2, 6, None, None),
        ];
        let kept = keep(&detail(&[5, 9]), &earlier);
        assert_eq!(kept, [chunk(0, 5, None, Some("(4,0)")), chunk(1, 5, Some("(4,0)"), None)]);
    }

    #[test]
    fn ranges_render_with_types_and_nulls() {
        let key = |a: &str, b: &str| format!("[[\"a\",\"{a}\"],[\"b\",\"{b}\"]]");
        let (low, high) = (key("1", "x"), key("2", "y'"));
        let detail = detail(&[5]);
        let render = |min, max| condition(&detail, &chunk(0, 5, min, max)).unwrap().unwrap();
        assert_eq!(
            render(Some(&low), Some(&high)),
            "(\"a\", \"b\") >= (('1'::integer), ('x'::text)) AND (\"a\", \"b\") < (('2'::integer), ('y'''::text))"
        );
        assert!(render(None, Some("[[\"a\",\"3\"]]")).ends_with("OR \"a\" IS NULL)"));
        assert_eq!(render(Some("(3,0)"), None), "ctid >= '(3,0)'::tid");
        assert!(condition(&detail, &chunk(0, 5, Some("(x"), None)).is_err());
        assert_eq!(condition(&detail, &chunk(0, 5, None, None)).unwrap(), None);
    }
}
