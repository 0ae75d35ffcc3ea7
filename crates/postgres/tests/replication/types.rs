//! The same columns from the snapshot and from the log, whatever the type and the value.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::compute::concat_batches;
use futures::{StreamExt, TryStreamExt};
use lakeward_core::{Batch, ChangeEvent, ConfiguredStream, DriverInterface, Session, Until};
use serde_json::{Value, json};

use super::support::{Pipeline, VERSIONS, context, within};

/// Types that every server has, with values at their edges, as literals' text.
const TYPES: &[(&str, &[&str])] = &[
    ("bool", &["t", "f"]),
    ("int2", &["-32768", "32767", "0"]),
    ("int4", &["-2147483648", "2147483647"]),
    ("int8", &["-9223372036854775808", "9223372036854775807"]),
    ("oid", &["0", "4294967295"]),
    ("float4", &["NaN", "Infinity", "-Infinity", "-0", "3.4028235e38", "1e-45", "0.1"]),
    ("float8", &["NaN", "Infinity", "-Infinity", "-0", "1.7976931348623157e308", "5e-324", "0.1"]),
    ("numeric(10,3)", &["9999999.999", "-9999999.999", "0", "NaN", "0.0005"]),
    ("numeric(5,-2)", &["1234567", "-50", "9999900"]),
    ("numeric(3,5)", &["0.00123", "-0.00999"]),
    ("numeric(38,10)", &["9999999999999999999999999999.9999999999", "-0.0000000001"]),
    ("numeric(60,5)", &["1234567890123456789012345678901234567890123456789012345.12345"]),
    (
        "numeric",
        &[
            "1e200",
            "NaN",
            "Infinity",
            "-Infinity",
            "0.00000001",
            "1.500",
            "-123456789012345678901234567890.5",
        ],
    ),
    (
        "date",
        &[
            "infinity",
            "-infinity",
            "4713-01-01 BC",
            "5874897-12-31",
            "2024-02-29",
            "0001-01-01",
            "9999-12-31",
            "10000-01-01",
        ],
    ),
    ("time", &["00:00", "23:59:59.999999", "24:00:00", "12:34:56.7"]),
    ("time(0)", &["12:34:56.7"]),
    (
        "timestamp",
        &[
            "infinity",
            "-infinity",
            "4713-01-01 BC",
            "294276-12-31 23:59:59.999999",
            "1969-12-31 23:59:59.999999",
            "0001-01-01",
            "9999-12-31 23:59:59.999999",
            "2024-06-01 12:00:00.5",
        ],
    ),
    (
        "timestamptz",
        &[
            "infinity",
            "-infinity",
            "4713-06-01 BC",
            "294276-12-31 23:59:59.999999+00",
            "2024-03-31 02:30:00+02",
            "1883-11-18 12:00:00+00",
            "9999-12-31 23:59:59.999999+00",
        ],
    ),
    ("timetz", &["04:05:06.789-08", "24:00:00+15:59"]),
    ("interval", &["1 year -2 mons +3 days 04:05:06.789", "-178000000 years", "0", "-00:00:00.000001"]),
    ("uuid", &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]),
    ("bytea", &["", "\\x00ff0a5c", "\\x5c303030"]),
    ("json", &["{\"a\":  1, \"a\":2}", "null", "[1e400, \"\\u00e4\\n\"]"]),
    ("jsonb", &["{\"b\":1,\"a\":\"\\u00e4\"}", "null", "1.50", "\"\""]),
    ("text", &["", "ä€𝄞", "tab\tline\nreturn\rback\\slash \\N \\.", "\\N", "NULL", " "]),
    ("varchar(5)", &["", "abcde", "ääää"]),
    ("char(5)", &["", "ab", "abcde"]),
    ("name", &["a_name", ""]),
    ("\"char\"", &["x", ""]),
    ("inet", &["10.0.0.1", "10.0.0.1/8", "::1", "::ffff:1.2.3.4/96"]),
    ("cidr", &["10.0.0.0/8", "::/0"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("bit(5)", &["10101", "00000"]),
    ("varbit", &["", "101"]),
    ("money", &["-1234.56", "92233720368547758.07"]),
    ("int4range", &["[1,5)", "empty", "(,)", "[,3]"]),
    ("tstzrange", &["[2024-01-01 00:00+00,infinity)"]),
    ("nummultirange", &["{}", "{[1.5,2),(3,)}"]),
    ("point", &["(1.5,-0)", "(NaN,Infinity)"]),
    ("line", &["{1,2,3}"]),
    ("lseg", &["[(0,0),(1,1)]"]),
    ("box", &["(1,1),(0,0)"]),
    ("path", &["[(0,0),(1,1)]", "((0,0),(1,1))"]),
    ("polygon", &["((0,0),(1,1),(1,0))"]),
    ("circle", &["<(1,2),3>"]),
    ("tsvector", &["'a':1 'b''c':2A"]),
    ("tsquery", &["'a' & !'b' <-> 'c'"]),
    ("pg_lsn", &["16/B374D848"]),
    ("jsonpath", &["$.a[*] ? (@ > 1)"]),
    ("regclass", &["pg_class", "0"]),
    ("regtype", &["integer"]),
    ("xid", &["4294967295"]),
    ("xid8", &["18446744073709551615"]),
    ("tid", &["(0,1)"]),
    ("txid_snapshot", &["10:20:10,14"]),
    ("aclitem", &["postgres=r*w/postgres"]),
    ("int2vector", &["1 2 3"]),
    ("oidvector", &["1 4294967295"]),
    ("int4[]", &["{1,2,NULL}", "{}", "{{1,2},{3,4}}", "[2:3]={1,2}", "{-2147483648}"]),
    ("int8[]", &["{9223372036854775807}"]),
    ("bool[]", &["{t,f,NULL}"]),
    ("float8[]", &["{NaN,-0,Infinity,0.1}"]),
    ("text[]", &["{a,\"b,c\",\"NULL\",NULL,\"q\\\"uo\\\\te\",\"\",\" x \",\"{}\"}", "{ä}"]),
    ("numeric(10,2)[]", &["{1.5,-0.01}", "{NaN,1}"]),
    ("numeric[]", &["{1e30,NaN,-Infinity}"]),
    ("date[]", &["{2024-01-01,infinity}", "{NULL}"]),
    ("timestamptz[]", &["{\"2024-01-01 00:00:00+00\",-infinity}"]),
    ("time[]", &["{24:00:00,01:02:03}"]),
    ("uuid[]", &["{00000000-0000-0000-0000-000000000000}"]),
    ("bytea[]", &["{\"\\\\x00ff\",\"\\\\x\"}"]),
    ("json[]", &["{\"{\\\"a\\\": [1,2]}\"}"]),
    ("inet[]", &["{10.0.0.1,::1/64}"]),
    ("char(3)[]", &["{a,abc}"]),
    ("box[]", &["{(1,1),(0,0);(2,2),(0,0)}"]),
    ("interval[]", &["{\"1 day\",-00:00:01}"]),
    ("mood", &["sad", "a,b", "quote\"d", ""]),
    ("mood[]", &["{sad,\"a,b\",NULL}"]),
    ("pair", &["(1,\"x,\"\"y\\\\\")", "(,)", "(1,\"\")"]),
    ("pair[]", &["{\"(1,a)\",\"(,)\"}"]),
    ("posint", &["1", "2147483647"]),
    ("short", &["abc", ""]),
    ("amount", &["12.34", "NaN"]),
    ("listed", &["{1,2}", "{{1}}"]),
    ("span", &["[1.5,2)", "empty"]),
];

const MADE: &str = "CREATE TYPE mood AS ENUM ('sad', 'a,b', 'quote\"d', ''); CREATE TYPE pair AS (a int, b text);
    CREATE DOMAIN posint AS int CHECK (VALUE > 0); CREATE DOMAIN short AS varchar(5); CREATE DOMAIN amount AS numeric(6, 2);
    CREATE DOMAIN listed AS int[]; CREATE TYPE span AS RANGE (subtype = numeric);";

/// Types that some servers lack, each with what makes it.
const EXTRA: &[(&str, &str, &[&str])] = &[
    ("hstore", "CREATE EXTENSION hstore", &["a=>1, \"b c\"=>NULL", ""]),
    ("citext", "CREATE EXTENSION citext", &["MiXed", ""]),
    ("citext[]", "SELECT NULL::citext[]", &["{A,\"b c\"}"]),
    ("xml", "SELECT '<a/>'::xml", &["<a b=\"c\">ä</a>", "text"]),
    ("ltree", "CREATE EXTENSION ltree", &["a.b.c"]),
    ("cube", "CREATE EXTENSION cube", &["(1,2),(3,4)"]),
];

/// Values of types by chance, as SQL over a number `g`; `{text}` is a text of some length with all that has to be quoted
/// somewhere, `{digits}` a number of some digits. Of other types one of the values above is taken.
const GENERATED: &[(&str, &str)] = &[
    ("bool", "random() < 0.5"),
    ("int2", "floor(random() * 65536 - 32768)"),
    ("int4", "floor(random() * 4294967296 - 2147483648)"),
    ("int8", "('x' || md5(random()::text))::bit(64)"),
    ("oid", "floor(random() * 4294967296)::int8"),
    ("float4", "(random() - 0.5) * 10.0::float8 ^ floor(random() * 70 - 35)"),
    ("float8", "(random() - 0.5) * 10.0::float8 ^ floor(random() * 600 - 300)"),
    ("numeric(10,3)", "(random() - 0.5) * 1.9e7"),
    ("numeric(38,10)", "({digits})::numeric / 1e12"),
    ("numeric(60,5)", "({digits})::numeric"),
    ("numeric", "({digits})::numeric * 10.0 ^ floor(random() * 40 - 30)::int"),
    ("date", "date '2000-01-01' + floor(random() * 3000000 - 700000)::int"),
    ("time", "random() * interval '86399 s'"),
    ("timestamp", "timestamp '2000-01-01' + (random() - 0.5) * interval '8000 years'"),
    ("timestamptz", "timestamptz '2000-01-01 00:00+00' + (random() - 0.5) * interval '8000 years'"),
    ("timetz", "(random() * interval '86399 s')::time::text || '-' || floor(random() * 15)::int"),
    ("interval", "(random() - 0.5) * interval '100 years 7 months 3 days 5.123456 s'"),
    ("uuid", "md5(random()::text)"),
    ("bytea", "decode(repeat(md5(random()::text), floor(random() * 4)::int), 'hex')"),
    ("json", "json_build_object('a', random(), 'b', {text}, 'c', ARRAY[g, NULL])"),
    ("jsonb", "jsonb_build_object('a', random(), 'b', {text}, 'c', ARRAY[g, NULL])"),
    ("text", "{text}"),
    ("varchar(5)", "{text}"),
    ("char(5)", "{text}"),
    ("inet", "'10.0.0.0'::inet + floor(random() * 1e6)::int8"),
    ("macaddr", "left(md5(random()::text), 12)"),
    ("bit(5)", "floor(random() * 32)::int"),
    ("varbit", "left(('x' || md5(random()::text))::bit(128)::text, floor(random() * 100)::int)"),
    ("money", "((random() - 0.5) * 1e12)::numeric"),
    (
        "int4range",
        "int4range(floor(random() * 99)::int, 100 + floor(random() * 99)::int, (ARRAY['[]', '[)', '(]', '()'])[1 + g % 4])",
    ),
    ("tstzrange", "tstzrange(to_timestamp(random() * 1e9), to_timestamp(1e9 + random() * 1e9))"),
    ("point", "point(random() - 0.5, random() * 1e9)"),
    ("tsvector", "to_tsvector('simple', md5(random()::text) || ' ' || md5(random()::text))"),
    (
        "int4[]",
        "(SELECT array_agg(CASE WHEN random() < 0.8 THEN floor(random() * 1e9) END) FROM generate_series(1, floor(random() * 6)::int + g * 0))",
    ),
    ("int8[]", "ARRAY[('x' || md5(random()::text))::bit(64)::int8, NULL, g]"),
    ("bool[]", "ARRAY[random() < 0.5, NULL, random() < 0.5]"),
    ("float8[]", "ARRAY[random(), NULL, random() * 1e300]"),
    ("text[]", "ARRAY[{text}, NULL, {text}]"),
    ("numeric(10,2)[]", "ARRAY[random() * 1e7, NULL]"),
    ("numeric[]", "ARRAY[({digits})::numeric, NULL]"),
    ("date[]", "ARRAY[date '2000-01-01' + floor(random() * 10000)::int, NULL]"),
    ("timestamptz[]", "ARRAY[to_timestamp(random() * 1e9), NULL]"),
    ("uuid[]", "ARRAY[md5(random()::text), NULL]"),
    ("bytea[]", "ARRAY[decode(md5(random()::text), 'hex'), NULL]"),
    ("json[]", "ARRAY[json_build_object('a', {text}), NULL]"),
    ("mood", "(enum_range(NULL::mood))[1 + floor(random() * 4)::int]"),
    ("mood[]", "ARRAY[(enum_range(NULL::mood))[1 + floor(random() * 4)::int], NULL]"),
    ("pair", "ROW(floor(random() * 1e9)::int, {text})"),
    ("pair[]", "ARRAY[ROW(g, {text})::pair, NULL]"),
    ("posint", "1 + floor(random() * 1e9)"),
    ("short", "{text}"),
    ("amount", "random() * 9999"),
    ("listed", "ARRAY[floor(random() * 10)::int, NULL]"),
    ("span", "span(random()::numeric, 1 + random()::numeric)"),
    ("hstore", "hstore({text}, {text})"),
    ("citext", "{text}"),
];
const TEXT: &str = "(SELECT coalesce(string_agg((ARRAY['a', 'Z', 'ß', '€', '𝄞', E'\\t', E'\\n', E'\\r', E'\\b', E'\\\\', '\"', '''', '{', '}', '(', ',', ' ', 'N', '.', E'\\x01', E'\\x7f'])\
    [1 + floor(random() * 21)::int], ''), '') FROM generate_series(1, floor(random() * 30)::int + g * 0))";
const DIGITS: &str = "SELECT string_agg(floor(random() * 10)::int::text, '') FROM generate_series(1, 1 + floor(random() * 38)::int + g * 0)";
/// How many rows are generated.
const ROWS: u32 = 200;

/// A value by chance of each type, as a list for SELECT.
fn generated(types: &[(&str, Vec<&str>)]) -> String {
    let of_type = |(name, values): &(&str, Vec<&str>)| match GENERATED.iter().find(|(known, _)| known == name)
    {
        Some((_, sql)) => format!("({})::{name}", sql.replace("{text}", TEXT).replace("{digits}", DIGITS)),
        None => {
            let cases = values.iter().enumerate();
            let cases =
                cases.map(|(n, value)| format!("WHEN {n} THEN '{}'::{name}", value.replace('\'', "''")));
            format!("CASE g % {} {} END", values.len() + 1, cases.collect::<Vec<_>>().join(" "))
        }
    };
    types.iter().map(of_type).collect::<Vec<_>>().join(", ")
}

/// The columns and rows of a table of everything.
async fn tables(pipeline: &Pipeline, version: u32) {
    let mut types: Vec<(&str, Vec<&str>)> =
        TYPES.iter().map(|(name, values)| (*name, values.to_vec())).collect();
    for (name, make, values) in EXTRA {
        match pipeline.db.client.batch_execute(make).await {
            Ok(()) => types.push((name, values.to_vec())),
            Err(_) => eprintln!("server {version} has no {name}"),
        }
    }
    if version >= 17 {
        types.push(("interval", vec!["infinity", "-infinity"]));
    }
    let columns: Vec<String> =
        types.iter().enumerate().map(|(n, (name, _))| format!("c{n} {name}")).collect();
    // Every value once, then nulls; in each row all columns stand at other places of their lists.
    let rows = types.iter().map(|(_, values)| values.len()).max().unwrap() + 1;
    let mut sql = format!(
        "CREATE TABLE read (id int PRIMARY KEY, {}); CREATE TABLE logged (LIKE read INCLUDING ALL);",
        columns.join(", ")
    );
    for row in 0..rows {
        let values: Vec<String> = types
            .iter()
            .map(|(name, values)| match values.get(row) {
                // A value that this version does not know is a mistake of the test, which fails.
                Some(value) => format!("'{}'::{name}", value.replace('\'', "''")),
                None => "NULL".to_owned(),
            })
            .collect();
        sql.push_str(&format!("INSERT INTO read VALUES ({row}, {});", values.join(", ")));
    }
    let seed = std::env::var("LAKEWARD_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u32 = seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().subsec_micros());
    eprintln!("LAKEWARD_TEST_SEED={seed}");
    sql.push_str(&format!(
        "SELECT setseed({} / 1000000.0); INSERT INTO read SELECT 1000 + g, {} FROM generate_series(1, {ROWS}) g;",
        seed % 1_000_000,
        generated(&types)
    ));
    pipeline.db.run(&sql).await;
}

/// What is there of a stream, as one batch, with what was rescued.
struct Whole {
    rows: RecordBatch,
    rescued: Vec<Option<String>>,
    bad: u64,
}

fn whole(stream: &ConfiguredStream, batches: &[Batch]) -> Whole {
    let rows =
        concat_batches(&stream.schema.arrow().into(), batches.iter().map(|batch| &batch.rows)).unwrap();
    let rescued = batches
        .iter()
        .flat_map(|batch| {
            (0..batch.rows.num_rows()).map(|row| {
                let rescued = batch.rescued.as_ref().filter(|rescued| !rescued.is_null(row));
                rescued.map(|rescued| rescued.value(row).to_owned())
            })
        })
        .collect();
    let bad = batches.iter().map(|batch| batch.bad_values.iter().map(|(_, count)| count).sum::<u64>()).sum();
    Whole { rows, rescued, bad }
}

async fn read(pipeline: &Pipeline, stream: &Arc<ConfiguredStream>, session: &Session) -> Whole {
    let mut batches: Vec<Batch> = Vec::new();
    for chunk in pipeline.driver.get_or_split_chunks(stream, session, None, 1 << 30).await.unwrap() {
        let chunk = pipeline.driver.chunk_iterator(stream.clone(), chunk, session, context()).await.unwrap();
        batches.extend(chunk.try_collect::<Vec<_>>().await.unwrap());
    }
    whole(stream, &batches)
}

fn assert_same(version: u32, what: &str, a: &Whole, b: &Whole) {
    assert_eq!(a.rows.num_rows(), b.rows.num_rows());
    for (column, field) in a.rows.schema().fields().iter().enumerate() {
        let (left, right) = (a.rows.column(column), b.rows.column(column));
        let name = field.name().trim_start_matches('c').parse::<usize>().ok();
        let source = name.and_then(|n| TYPES.get(n)).map_or("", |(name, _)| name);
        assert!(left == right, "{version}, {what}: {source}\n{left:?}\n{right:?}");
    }
    assert_eq!(a.rescued, b.rescued, "{version}, {what}");
    assert_eq!(a.bad, b.bad, "{version}, {what}");
}

#[tokio::test]
async fn f15_f16_f17_snapshot_and_log_say_the_same() {
    for version in VERSIONS {
        for (policy, overrides) in [
            ("clamp", json!({})),
            ("null", json!({"c8": "text", "c10": "text", "c12": "decimal(38,4)", "c13": "text"})),
        ] {
            let mut pipeline = Pipeline::new(version, "types", MADE).await;
            tables(&pipeline, version).await;
            let selection = json!({"on_bad_value": policy, "columns": {"types": overrides}});
            let one = pipeline.stream("read", selection.clone()).await;
            let two = pipeline.stream("logged", selection).await;
            assert_eq!(one.schema.arrow(), two.schema.arrow());
            pipeline.prepare(&[one.clone(), two.clone()]).await.unwrap();
            let session = pipeline.driver.begin_backfill(&two).await.unwrap();
            let position = session.position.clone().unwrap();
            pipeline.driver.end_backfill(session.clone()).await;
            let follower =
                super::support::Follower { stream: two.clone(), position, rows: Vec::new(), session };
            // Written, and written again with the row before in the log.
            pipeline.db.run("INSERT INTO logged SELECT * FROM read ORDER BY id").await;
            pipeline.db.run("ALTER TABLE logged REPLICA IDENTITY FULL; UPDATE logged SET id = id; ALTER TABLE logged REPLICA IDENTITY DEFAULT").await;

            let session = pipeline.driver.begin_backfill(&one).await.unwrap();
            let snapshot = read(&pipeline, &one, &session).await;
            pipeline.driver.end_backfill(session).await;
            assert!(snapshot.rows.num_rows() > ROWS as usize + 8 && snapshot.bad > 10);
            for format in ["text", "binary"] {
                let mut fields: Value = json!({"copy_format": format});
                fields["replication"] = json!({"slot": pipeline.names.0, "publication": pipeline.names.1});
                let driver = pipeline.db.driver_with(fields);
                let again = std::mem::replace(&mut pipeline.driver, driver);
                let mode = json!({"sync_mode": "full_refresh", "on_bad_value": policy, "columns": {"types": overrides}});
                let plain = super::support::configured(&pipeline.driver, "read", mode).await;
                let session = pipeline.driver.begin_backfill(&plain).await.unwrap();
                assert_same(version, format, &snapshot, &read(&pipeline, &plain, &session).await);
                pipeline.driver.end_backfill(session).await;
                pipeline.driver = again;
            }

            let mut events = pipeline.read_with(pipeline.request(&[follower], Until::Now)).await.unwrap();
            let mut batches = Vec::new();
            while let Some(event) = within(events.next()).await {
                match event.unwrap() {
                    ChangeEvent::Changes(_, batch) => batches.push(*batch),
                    ChangeEvent::Boundary(_) | ChangeEvent::Resting(_) => {}
                    ChangeEvent::Changed { what, .. } => panic!("{what}"),
                }
            }
            let logged = whole(&two, &batches);
            let rows = snapshot.rows.num_rows();
            assert_eq!(logged.rows.num_rows(), 2 * rows);
            for (what, first) in [("insert", 0), ("update", rows)] {
                // Bad values are counted per batch, and both halves have the same.
                let half = Whole {
                    rows: logged.rows.slice(first, rows),
                    rescued: logged.rescued[first..first + rows].to_vec(),
                    bad: logged.bad / 2,
                };
                assert_same(version, what, &snapshot, &half);
            }
            pipeline.close().await;
        }
    }
}

#[tokio::test]
async fn f18_generated_columns_are_in_the_log_from_18_on() {
    for version in VERSIONS {
        let sql = "CREATE TABLE t (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED); INSERT INTO t VALUES (1, 1)";
        let mut pipeline = Pipeline::new(version, "generated", sql).await;
        let mut followers = pipeline.begin(&[("t", json!({}))]).await;
        assert_eq!(followers[0].rows[0].values[2].as_deref(), Some("2"));
        pipeline.db.run("INSERT INTO t VALUES (2, 2); UPDATE t SET n = 3 WHERE id = 1").await;
        pipeline.catch_up(&mut followers).await;
        let findings = pipeline.driver.check(&[followers[0].stream.clone()]).await.unwrap();
        let warned = findings.iter().any(|finding| finding.message.contains("twice"));
        assert_eq!(warned, version < 18);
        if version >= 18 {
            pipeline.assert_same(&followers[0], "t").await;
        } else {
            assert!(followers[0].rows[1..].iter().all(|row| row.values[2].is_none()));
        }
        pipeline.close().await;
    }
}

#[tokio::test]
async fn f20_large_values_take_little_more_than_themselves() {
    for version in VERSIONS {
        let sql = "CREATE TABLE t (id int PRIMARY KEY, big text)";
        let mut pipeline = Pipeline::new(version, "huge", sql).await;
        let followers = pipeline.begin(&[("t", json!({}))]).await;
        pipeline
            .db
            .run("INSERT INTO t SELECT g, repeat(chr(64 + g), 20000000) FROM generate_series(1, 4) g")
            .await;
        let mut request = pipeline.request(&followers, Until::Now);
        request.context = super::support::small_context(16 << 20);
        let budget = request.context.budget.clone();
        let mut events = pipeline.read_with(request).await.unwrap();
        let mut lengths = Vec::new();
        while let Some(event) = within(events.next()).await {
            if let ChangeEvent::Changes(_, batch) = event.unwrap() {
                assert_eq!(batch.rows.num_rows(), 1, "each is taken before the next is read");
                lengths.push(batch.rows.column(1).to_data().buffers()[1].len());
            }
        }
        assert_eq!(lengths, [20_000_000; 4]);
        drop(events);
        pipeline.cdc().post_cdc().await.unwrap();
        assert_eq!(budget.available(), budget.total());
        pipeline.close().await;
    }
}
