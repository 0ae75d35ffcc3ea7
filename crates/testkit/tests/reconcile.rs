//! The reconciler is what every other test leans on: it must be green for the same rows and red
//! for everything else.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod lake;

use lake::{Lake, Row};
use lakeward_testkit::reconcile::{Options, Report, read_everywhere, reconcile};
use lakeward_testkit::server::{PgServer, TestDatabase, Version};
use serde_json::{Value, json};

/// Each column of the table with a kind of every type: its type, how the lake holds it, and SQL for
/// a value made from the number `n`, different for each.
const EVERY_TYPE: &[(&str, &str, &str, &str)] = &[
    ("id", "int8 PRIMARY KEY", "int64", "n"),
    ("b", "bool", "bool", "n % 2 = 0"),
    ("i2", "int2", "int16", "n - 100"),
    ("i4", "int4", "int32", "n * 1000003"),
    ("i8", "int8", "int64", "9223372036854775807 - n"),
    ("o", "oid", "uint32", "(4294967295 - n)::oid"),
    ("f4", "float4", "float", "(n / 3.0)::float4"),
    ("f8", "float8", "double", "sqrt(n) * 10 ^ (n * 3 - 150)"),
    ("n", "numeric(12,2)", "decimal 12,2", "n / 7.0"),
    (
        "wide",
        "numeric(60,10)",
        "decimal 60,10",
        "(n::text || '12345678901234567890123456789012345678901234567')::numeric + 0.0000000001",
    ),
    ("free", "numeric", "text", "n * 1.10"),
    ("d", "date", "date", "date '0001-01-01' + n * 40000"),
    ("t", "time", "time", "time '23:59:59.999999' - n * interval '1 h 1 us'"),
    (
        "ts",
        "timestamp",
        "timestamp",
        "timestamp '9999-12-31 23:59:59.999999' - n * interval '100 years 1 us'",
    ),
    (
        "tz",
        "timestamptz",
        "timestamptz",
        "timestamptz '2024-03-31 01:30:00.000001+00' + n * interval '33 days'",
    ),
    ("u", "uuid", "uuid", "md5(n::text)::uuid"),
    ("by", "bytea", "binary", "decode(md5(n::text), 'hex') || '\\x00ff5c22'"),
    ("j", "json", "json", "format('{\"a\" :  %s, \"a\": \"\\u00e9\\\"\"}', n)::json"),
    ("jb", "jsonb", "json", "jsonb_build_object('b', n, 'a', null)"),
    ("tx", "text", "text", "E'line\\nback\\\\slash\\ttab\\r\"quoted\" , €\\\\N \\n\\\\.\\n' || n"),
    ("v", "varchar(10)", "text", "'v' || n"),
    ("bp", "char(5)", "text", "n::text"),
    ("iv", "interval", "text", "n * interval '1 mon 1.5 s'"),
    ("ip", "inet", "text", "inet '10.0.0.1' + n"),
    ("bits", "varbit", "text", "n::bit(12)::varbit"),
    ("cash", "money", "text", "(n * 1000.55)::numeric::money"),
    ("range", "int4range", "text", "int4range(n, n + 5)"),
    ("ttz", "timetz", "text", "timetz '12:00:00+05' + n * interval '1 s'"),
    ("mood", "mood", "text", "(CASE n % 2 WHEN 0 THEN 'so, so' ELSE 'ok' END)::mood"),
    ("pair", "pair", "text", "ROW(n, NULL)::pair"),
    ("price", "price", "decimal 8,3", "n + 0.001"),
    ("ints", "int4[]", "list int32", "ARRAY[n, NULL, -n]"),
    ("texts", "text[]", "list text", "ARRAY['a,b', NULL, '', 'NULL', E'q\"\\\\{}\\n', n::text]"),
    (
        "days",
        "timestamptz[]",
        "list timestamptz",
        "ARRAY[timestamptz '2024-01-01 00:00+00' + n * interval '1 us']",
    ),
    ("ips", "inet[]", "list text", "ARRAY[inet '10.0.0.1' + n]"),
    ("boxes", "box[]", "list text", "ARRAY[box(point(n, 1), point(0, 0)), NULL]"),
    ("flags", "bool[]", "list bool", "ARRAY[n % 2 = 0, NULL]"),
    ("blobs", "bytea[]", "list binary", "ARRAY[decode(md5(n::text), 'hex'), '']"),
    ("sums", "numeric(10,2)[]", "list decimal 10,2", "ARRAY[n, NULL]"),
    ("kinds", "mood[]", "list text", "ARRAY[(CASE n % 2 WHEN 0 THEN 'so, so' ELSE 'ok' END)::mood]"),
    ("Upper \"q\"", "int4", "int32", "n"),
];

/// SQL for a value in the form that `write.py` takes for this kind.
fn encoded(name: &str, kind: &str) -> String {
    let value = |value: &str, kind: &str| match kind {
        "date" => format!("({value} - date '1970-01-01')::text"),
        "time" | "timestamp" | "timestamptz" => {
            format!("((extract(epoch FROM {value}) * 1000000)::bigint)::text")
        }
        "binary" => format!("encode({value}, 'hex')"),
        _ => format!("format('%s', {value})"),
    };
    let column = format!("\"{}\"", name.replace('"', "\"\""));
    match kind.strip_prefix("list ") {
        None => format!(
            "CASE WHEN {column} IS NOT DISTINCT FROM NULL THEN NULL ELSE to_json({}) END",
            value(&column, kind)
        ),
        Some(element) => format!(
            "CASE WHEN {column} IS NOT NULL THEN to_json(ARRAY(SELECT CASE WHEN e IS NOT NULL THEN {} END FROM unnest({column}) e)) END",
            value("e", element)
        ),
    }
}

async fn database(version: Version) -> TestDatabase {
    PgServer::shared(version).create_database("reconcile").await.unwrap()
}

async fn rows_of(db: &TestDatabase, table: &str, columns: &[(&str, &str)]) -> Vec<Row> {
    let client = db.client().await.unwrap();
    client.batch_execute("SET TimeZone = 'UTC'; SET lc_monetary = 'C'").await.unwrap();
    let cells: Vec<String> = columns.iter().map(|(name, kind)| encoded(name, kind)).collect();
    let sql = format!("SELECT json_build_array({})::text FROM {table} ORDER BY 1", cells.join(", "));
    let rows = client.query(&sql, &[]).await.unwrap();
    rows.iter().map(|row| Row::read(serde_json::from_str(row.get(0)).unwrap())).collect()
}

async fn with_every_type(version: Version) -> (TestDatabase, Vec<(&'static str, &'static str)>) {
    let db = database(version).await;
    db.execute("CREATE TYPE mood AS ENUM ('ok', 'so, so'); CREATE TYPE pair AS (a int, b text); CREATE DOMAIN price AS numeric(8,3)")
        .await
        .unwrap();
    let definitions: Vec<String> =
        EVERY_TYPE.iter().map(|(name, sql, ..)| format!("\"{}\" {sql}", name.replace('"', "\"\""))).collect();
    let values: Vec<&str> = EVERY_TYPE.iter().map(|(.., value)| *value).collect();
    db.execute(&format!("CREATE TABLE every_type ({})", definitions.join(", "))).await.unwrap();
    let insert =
        format!("INSERT INTO every_type SELECT {} FROM generate_series(1, 100) AS s(n)", values.join(", "));
    db.execute(&insert).await.unwrap();
    (db, EVERY_TYPE.iter().map(|(name, _, kind, _)| (*name, *kind)).collect())
}

async fn compared(db: &TestDatabase, lake: &Lake, options: &Options) -> Report {
    reconcile(db, lake.root(), "every_type", options).await.unwrap()
}

#[tokio::test]
async fn every_type_is_green_and_every_changed_value_is_red() {
    for version in Version::ALL {
        let (db, columns) = with_every_type(version).await;
        db.execute(
            "INSERT INTO every_type (id) VALUES (200);
             INSERT INTO every_type (id, f4, f8, tx, v, texts, ints, by, pair, sums) VALUES
               (201, 'NaN', '-Infinity', '', '', '{}', '{}', '', ROW(NULL, NULL), '{}'),
               (202, '-0', '-0', 'NULL', '\\N', '{NULL}', '{NULL}', '\\x00', ROW(1, ''), '{-0.01}'),
               (203, '1e-45', '4.9e-324', '\"', ' ', '{\"\"}', '{1}', '\\x0a', NULL, NULL),
               (204, '3.4028235e38', '1.7976931348623157e308', '{}', ',', '{\"{}\"}', NULL, NULL, NULL, NULL)",
        )
        .await
        .unwrap();
        let rows = rows_of(&db, "every_type", &columns).await;
        let lake = Lake::new("every_type", &columns);
        lake.write("", 1, &rows);
        let report = compared(&db, &lake, &Options::full_refresh()).await;
        report.assert_same();
        assert_eq!((report.rows_source, report.rows_destination), (105, 105));
        compared(&db, &lake, &Options::cdc()).await.assert_same();
        compared(&db, &lake, &Options::incremental()).await.assert_same();
        let readings = read_everywhere(lake.root(), "every_type").await.unwrap();
        assert!(readings.differences().iter().any(|words| words.contains("wide")), "a decimal of 60 digits");

        let wide = columns.iter().position(|(name, _)| *name == "wide").unwrap();
        let (mut narrow_columns, mut narrow) = (columns.clone(), rows.clone());
        narrow_columns.remove(wide);
        narrow.iter_mut().for_each(|row| drop(row.values.remove(wide)));
        let everywhere = Lake::new("every_type", &narrow_columns);
        everywhere.write("", 1, &narrow);
        let readings = read_everywhere(everywhere.root(), "every_type").await.unwrap();
        assert_eq!(readings.assert_same(), 105);

        // In each column of one row of its own the value of another row.
        let mut changed = rows.clone();
        for place in 1..columns.len() {
            let row = changed.iter_mut().find(|row| row.values[0] == json!(place.to_string())).unwrap();
            let other = rows
                .iter()
                .map(|row| &row.values[place])
                .find(|value| !value.is_null() && **value != row.values[place]);
            row.values[place] = other.unwrap().clone();
        }
        lake.write("", 1, &changed);
        let report = compared(&db, &lake, &Options::cdc()).await;
        let names: Vec<&str> = columns.iter().skip(1).map(|(name, _)| *name).collect();
        for name in &names {
            assert_eq!(report.columns.get(*name), Some(&1), "a change of {name} went unseen: {report}");
        }
        assert_eq!((report.missing, report.extra), (names.len() as i64, names.len() as i64));
        assert_eq!(report.keys.len(), 20);
        assert!(!report.is_same());

        // And in each column of one row of its own NULL.
        let mut nulled = rows.clone();
        for place in 1..columns.len() {
            let row = nulled.iter_mut().find(|row| row.values[0] == json!(place.to_string())).unwrap();
            row.values[place] = Value::Null;
        }
        lake.write("", 1, &nulled);
        let report = compared(&db, &lake, &Options::cdc()).await;
        assert_eq!(report.columns.len(), names.len(), "a NULL went unseen: {report}");
    }
}

const ORDERS: &[(&str, &str)] =
    &[("id", "int64"), ("region", "text"), ("total", "decimal 12,2"), ("note", "text")];

async fn orders(key: &str) -> (TestDatabase, Vec<Row>) {
    let db = database(Version::Pg18).await;
    let table = format!("CREATE TABLE orders (id bigint {key}, region text, total numeric(12,2), note text)");
    db.execute(&table).await.unwrap();
    db.execute("INSERT INTO orders SELECT n, 'eu', n * 1.5, nullif('note ' || n, 'note 7') FROM generate_series(1, 10) n")
        .await
        .unwrap();
    let rows = rows_of(&db, "orders", ORDERS).await;
    (db, rows)
}

async fn orders_report(db: &TestDatabase, rows: &[Row], options: &Options) -> Report {
    let lake = Lake::new("public.orders", ORDERS);
    lake.write("", 1, rows);
    reconcile(db, lake.root(), "public.orders", options).await.unwrap()
}

#[tokio::test]
async fn a_row_lost_or_doubled_or_changed_is_red_in_every_mode() {
    for key in ["PRIMARY KEY", ""] {
        let (db, rows) = orders(key).await;
        let seventh = rows.iter().position(|row| row.values[3].is_null()).unwrap();
        for options in [Options::cdc(), Options::full_refresh(), Options::incremental()] {
            let report = orders_report(&db, &rows, &options).await;
            report.assert_same();
            assert_eq!((report.rows_source, report.rows_destination), (10, 10));

            let dropped = orders_report(&db, &rows[1..], &options).await;
            assert_eq!((dropped.missing, dropped.extra), (1, 0), "{key} {options:?}: {dropped}");
            assert!(!dropped.is_same() && !dropped.is_complete());

            let mut more = rows.clone();
            more.push(rows[3].clone());
            let doubled = orders_report(&db, &more, &options).await;
            assert_eq!((doubled.missing, doubled.extra), (0, 1), "{key} {options:?}: {doubled}");
            assert!(!doubled.is_same());

            let mut other = rows.clone();
            other[2].values[2] = json!("0.01");
            let changed = orders_report(&db, &other, &options).await;
            assert_eq!((changed.missing, changed.extra), (1, 1), "{key} {options:?}: {changed}");
            assert!(!changed.is_same());

            let mut emptied = rows.clone();
            emptied[seventh].values[3] = json!("");
            let emptied = orders_report(&db, &emptied, &options).await;
            assert_eq!((emptied.missing, emptied.extra), (1, 1), "{key} {options:?}: {emptied}");

            // A value that the column's own precision would round to the right one.
            let lake = Lake::new("orders", &[ORDERS[0], ORDERS[1], ("total", "decimal 14,4"), ORDERS[3]]);
            let mut finer = rows.clone();
            finer[0].values[2] = json!(format!("{}01", finer[0].values[2].as_str().unwrap()));
            lake.write("", 1, &finer);
            assert!(!reconcile(&db, lake.root(), "orders", &options).await.unwrap().is_same());
        }
    }
}

fn values(id: i64, region: &str, total: &str, note: Value) -> Vec<Value> {
    vec![json!(id.to_string()), json!(region), json!(total), note]
}

fn only_key(id: i64) -> Vec<Value> {
    vec![json!(id.to_string()), Value::Null, Value::Null, Value::Null]
}

#[tokio::test]
async fn a_keyed_log_is_read_as_its_latest_view() {
    let (db, mut log) = orders("PRIMARY KEY").await;
    // A first life of the table, ended by a truncate.
    log.push(Row::new("c", 50, 1, values(99, "us", "1.00", json!("gone"))));
    log.push(Row::new("t", 60, 1, vec![Value::Null; 4]));
    // Rewritten, key changed, deleted, deleted and made again.
    log.push(Row::new("u", 110, 1, values(1, "us", "9.99", json!("second"))));
    log.push(Row::new("u", 120, 1, values(1, "uk", "9.99", json!("third"))));
    log.push(Row::new("d", 130, 1, only_key(2)));
    log.push(Row::new("c", 130, 2, values(1002, "eu", "3.00", json!("note 2"))));
    log.push(Row::new("d", 140, 1, only_key(3)));
    log.push(Row::new("d", 150, 1, only_key(4)));
    log.push(Row::new("c", 150, 2, values(4, "eu", "0.00", Value::Null)));
    // The note was not sent, twice; and once a NULL was what was sent last.
    for (position, total) in [(160, "7.00"), (161, "8.00")] {
        let mut row = Row::new("u", position, 1, values(5, "eu", total, Value::Null));
        row.unchanged = Some(vec!["note"]);
        log.push(row);
    }
    log.push(Row::new("u", 170, 1, values(6, "eu", "1.00", Value::Null)));
    let mut row = Row::new("u", 171, 1, values(6, "eu", "2.00", Value::Null));
    row.unchanged = Some(vec!["note", "region"]);
    row.values[1] = Value::Null;
    log.push(row);
    // What did not fit its column is what the source has.
    let mut row = Row::new("u", 180, 1, values(8, "eu", "0.00", json!("note 8")));
    row.values[2] = Value::Null;
    row.rescued = Some(json!({ "total": "NaN" }));
    log.push(row);

    db.execute(
        "UPDATE orders SET region = 'uk', total = 9.99, note = 'third' WHERE id = 1;
         UPDATE orders SET id = 1002 WHERE id = 2; DELETE FROM orders WHERE id = 3;
         UPDATE orders SET total = 0, note = NULL WHERE id = 4; UPDATE orders SET total = 8 WHERE id = 5;
         UPDATE orders SET total = 2, note = NULL WHERE id = 6; UPDATE orders SET total = 'NaN' WHERE id = 8",
    )
    .await
    .unwrap();
    let lake = Lake::new("orders", ORDERS);
    // Over several files, partitions and an order that is not that of the log.
    log.reverse();
    lake.write("region_value=eu", 2, &log[..9]);
    lake.write("region_value=us", 1, &log[9..]);
    let report = reconcile(&db, lake.root(), "orders", &Options::cdc()).await.unwrap();
    report.assert_same();
    assert_eq!((report.rows_source, report.files), (9, 2));
    assert_eq!(read_everywhere(lake.root(), "orders").await.unwrap().assert_same(), log.len() as u64);

    // Each change matters: without any one of those that the view shows, it is another view.
    let is_telling = |row: &Row| row.op != "r" || row.values[0] == json!("5") || row.values[0] == json!("6");
    for lost in (0..log.len()).filter(|&place| is_telling(&log[place])) {
        let (op, position) = (log[lost].op, &log[lost].seq);
        let mut rest = log.clone();
        rest.remove(lost);
        let report = orders_report(&db, &rest, &Options::cdc()).await;
        // Overwritten later, or before the truncate: the view is the same without it.
        let unseen = [lake::seq(50, 1), lake::seq(110, 1), lake::seq(150, 1), lake::seq(160, 1)];
        let read_over = op == "r" && log[lost].values[0] == json!("6");
        assert_eq!(
            report.is_same(),
            unseen.contains(position) || read_over,
            "without {op} {position}: {report}"
        );
    }

    // The same change twice is red, though the view is the same.
    let mut twice = log.clone();
    twice.push(log.iter().find(|row| row.seq == lake::seq(110, 1)).unwrap().clone());
    let report = orders_report(&db, &twice, &Options::cdc()).await;
    assert_eq!((report.missing, report.extra), (0, 0));
    assert!(!report.is_same() && report.problems.len() == 1, "{report}");
}

#[tokio::test]
async fn a_log_without_a_key_is_a_multiset() {
    let (db, mut log) = orders("").await;
    db.execute("ALTER TABLE orders REPLICA IDENTITY FULL").await.unwrap();
    db.execute(
        "INSERT INTO orders SELECT 1, 'eu', 1.5, 'note 1' FROM generate_series(1, 2);
         DELETE FROM orders WHERE id = 2; UPDATE orders SET note = NULL WHERE id = 3",
    )
    .await
    .unwrap();
    let same = || values(1, "eu", "1.50", json!("note 1"));
    log.push(Row::new("c", 110, 1, same()));
    log.push(Row::new("c", 110, 2, same()));
    log.push(Row::new("c", 110, 3, same()));
    log.push(Row::new("d", 120, 1, same()));
    log.push(Row::new("d", 130, 1, values(2, "eu", "3.00", json!("note 2"))));
    log.push(Row::new("d", 140, 1, values(3, "eu", "4.50", json!("note 3"))));
    log.push(Row::new("c", 140, 2, values(3, "eu", "4.50", Value::Null)));
    orders_report(&db, &log, &Options::cdc()).await.assert_same();
    for lost in 9..log.len() {
        let mut rest = log.clone();
        rest.remove(lost);
        let report = orders_report(&db, &rest, &Options::cdc()).await;
        assert!(!report.is_same(), "without {:?}: {report}", log[lost]);
        assert_eq!(report.missing + report.extra, 1);
    }
}

#[tokio::test]
async fn bad_values_are_compared_by_their_rescued_text() {
    let db = database(Version::Pg15).await;
    db.execute(
        "CREATE TABLE bad (id int PRIMARY KEY, d date, ts timestamptz, n numeric(5,1), grid int4[], \"a~/b\" date);
         INSERT INTO bad VALUES (1, '0044-03-15 BC', 'infinity', 'NaN', '{{1,2},{3,4}}', '-infinity'),
                                (2, '12024-01-01', '0001-01-01 00:00:00+00', 1.5, '[2:3]={1,2}', '2024-01-01')",
    )
    .await
    .unwrap();
    let columns = [
        ("id", "int32"),
        ("d", "date"),
        ("ts", "timestamptz"),
        ("n", "decimal 5,1"),
        ("grid", "list int32"),
        ("a~/b", "date"),
    ];
    let lake = Lake::new("bad", &columns);
    let mut first =
        Row::read(vec![json!("1"), json!("-719162"), json!("0"), Value::Null, Value::Null, json!("0")]);
    first.rescued = Some(
        json!({"d": "0044-03-15 BC", "ts": "infinity", "n": "NaN", "grid": "{{1,2},{3,4}}", "a~/b": "-infinity"}),
    );
    let minimum = json!("-62135596800000000");
    let mut second =
        Row::read(vec![json!("2"), json!("2932896"), minimum, json!("1.5"), Value::Null, json!("19723")]);
    second.rescued = Some(json!({"d": "12024-01-01", "grid": "[2:3]={1,2}"}));
    lake.write("", 1, &[first.clone(), second.clone()]);
    reconcile(&db, lake.root(), "bad", &Options::cdc()).await.unwrap().assert_same();

    // Not rescued, the clamped value is another value.
    second.rescued = Some(json!({"grid": "[2:3]={1,2}"}));
    lake.write("", 1, &[first, second]);
    let report = reconcile(&db, lake.root(), "bad", &Options::cdc()).await.unwrap();
    assert_eq!(report.columns.keys().collect::<Vec<_>>(), ["d"]);
}

#[tokio::test]
async fn dates_before_and_beyond_the_calendar_are_read_as_they_are() {
    let db = database(Version::Pg18).await;
    db.execute(
        "CREATE TABLE far (id int PRIMARY KEY, d date, ts timestamp, tz timestamptz);
         INSERT INTO far VALUES (1, '0044-03-15 BC', '0044-03-15 01:02:03.5 BC', '0001-12-31 23:59:59.999999+00 BC'),
                                (2, '25000-01-01', '25000-01-01 00:00:00.000001', '20000-02-29 12:00+00')",
    )
    .await
    .unwrap();
    let columns = [("id", "int32"), ("d", "date"), ("ts", "timestamp"), ("tz", "timestamptz")];
    let lake = Lake::new("far", &columns);
    lake.write("", 1, &rows_of(&db, "far", &columns).await);
    reconcile(&db, lake.root(), "far", &Options::cdc()).await.unwrap().assert_same();
}

#[tokio::test]
async fn floats_of_every_size_survive_the_way_through_text() {
    let db = database(Version::Pg18).await;
    db.execute(
        "CREATE TABLE floats (id int PRIMARY KEY, f4 float4, f8 float8);
         INSERT INTO floats SELECT n, (sign(random() - 0.5) * 10 ^ (random() * 76 - 38))::float4,
             sign(random() - 0.5) * 10 ^ (random() * 614 - 307) FROM generate_series(1, 20000) n;
         INSERT INTO floats SELECT 20000 + n, n, 10::float8 ^ n FROM generate_series(1, 300) n",
    )
    .await
    .unwrap();
    let columns = [("id", "int32"), ("f4", "float"), ("f8", "double")];
    let lake = Lake::new("floats", &columns);
    lake.write("", 1, &rows_of(&db, "floats", &columns).await);
    reconcile(&db, lake.root(), "floats", &Options::cdc()).await.unwrap().assert_same();
}

#[tokio::test]
async fn columns_come_and_go_and_are_left_out_or_retyped() {
    let (db, rows) = orders("PRIMARY KEY").await;
    let lake = Lake::new("orders", &ORDERS[..2]);
    let narrow: Vec<Row> =
        rows.iter().map(|row| Row { values: row.values[..2].to_vec(), ..row.clone() }).collect();
    lake.write("", 1, &narrow);
    let report = reconcile(&db, lake.root(), "orders", &Options::cdc()).await.unwrap();
    assert_eq!(report.absent, ["total", "note"]);
    assert!(!report.is_same());
    let without = Options::cdc().exclude("total").exclude("note");
    reconcile(&db, lake.root(), "orders", &without).await.unwrap().assert_same();

    // A column added later is in the later files only.
    db.execute("ALTER TABLE orders DROP COLUMN note; UPDATE orders SET total = NULL WHERE id > 5")
        .await
        .unwrap();
    let lake = Lake::new("orders", &ORDERS[..2]);
    let late = |row: &Row| ["10", "9", "8", "7", "6"].contains(&row.values[0].as_str().unwrap());
    lake.write("", 1, &narrow.iter().filter(|row| late(row)).cloned().collect::<Vec<_>>());
    let both = Lake::new("orders", ORDERS);
    let file = both.write("", 2, &rows.iter().filter(|row| !late(row)).cloned().collect::<Vec<_>>());
    let name = file.file_name().unwrap();
    std::fs::copy(&file, lake.root().join("public/orders").join(name)).unwrap();
    let report = reconcile(&db, lake.root(), "orders", &Options::cdc()).await.unwrap();
    report.assert_same();
    assert_eq!(report.unknown, ["note"]);
    read_everywhere(lake.root(), "orders").await.unwrap().assert_same();

    let retyped = Lake::new("orders", &[ORDERS[0], ORDERS[1], ("total", "double")]);
    let expected = rows_of(&db, "orders", &[ORDERS[0], ORDERS[1], ("total", "double")]).await;
    retyped.write("", 1, &expected);
    let plain = reconcile(&db, retyped.root(), "orders", &Options::cdc()).await.unwrap();
    assert!(!plain.is_same(), "1.5 is not 1.50 unless it is said to be");
    let as_double = Options::cdc().compare_as("total", "float8");
    reconcile(&db, retyped.root(), "orders", &as_double).await.unwrap().assert_same();
    let expression =
        Options::cdc().expect("total", "total::float8").compare_as("total", "float8").filter("id > 3");
    assert_eq!(reconcile(&db, retyped.root(), "orders", &expression).await.unwrap().extra, 3);
}

#[tokio::test]
async fn names_and_widths_that_engines_mind() {
    let db = database(Version::Pg18).await;
    let names: Vec<String> = (0..1598).map(|n| format!("c{n}")).collect();
    let columns: Vec<String> = names.iter().map(|name| format!("{name} int2")).collect();
    db.execute(&format!("CREATE TABLE wide (\"ID\" int PRIMARY KEY, \"id\" text, {})", columns.join(", ")))
        .await
        .unwrap();
    db.execute("INSERT INTO wide (\"ID\", id, c7, c1597) SELECT n, 'x', n, n FROM generate_series(1, 20) n")
        .await
        .unwrap();
    let mut kinds = vec![("ID", "int32"), ("id", "text")];
    kinds.extend(names.iter().map(|name| (name.as_str(), "int16")));
    let client = db.client().await.unwrap();
    let sql = "SELECT json_build_array(\"ID\"::text, id, c7::text, c1597::text)::text FROM wide";
    let rows: Vec<Row> = client
        .query(sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| {
            let some: Vec<Value> = serde_json::from_str(row.get(0)).unwrap();
            let mut values = vec![Value::Null; kinds.len()];
            for (place, value) in [0, 1, 9, 1599].into_iter().zip(some) {
                values[place] = value;
            }
            Row::read(values)
        })
        .collect();
    let lake = Lake::new("wide", &kinds);
    lake.write("", 1, &rows);
    reconcile(&db, lake.root(), "wide", &Options::cdc()).await.unwrap().assert_same();
    let mut changed = rows.clone();
    changed[3].values[1599] = json!("0");
    lake.write("", 1, &changed);
    let report = reconcile(&db, lake.root(), "wide", &Options::cdc()).await.unwrap();
    assert_eq!(report.columns.keys().collect::<Vec<_>>(), ["c1597"]);
}

#[tokio::test]
async fn what_cannot_be_compared_is_an_error_and_not_green() {
    let (db, rows) = orders("PRIMARY KEY").await;
    let lake = Lake::new("orders", ORDERS);
    assert!(reconcile(&db, lake.root(), "orders", &Options::cdc()).await.is_err(), "no files");
    let file = lake.write("", 1, &rows);
    assert!(reconcile(&db, lake.root(), "nowhere", &Options::cdc()).await.is_err(), "no table");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 20]).unwrap();
    assert!(reconcile(&db, lake.root(), "orders", &Options::cdc()).await.is_err(), "a torn file");
    assert!(
        !read_everywhere(lake.root(), "orders").await.is_ok_and(|readings| readings.differences().is_empty())
    );
}
