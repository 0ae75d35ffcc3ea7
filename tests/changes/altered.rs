//! Tables that are altered while they are followed, or between two runs.

use lakeward_testkit::on_both;
use lakeward_testkit::reconcile::{Options, ask, read_everywhere};
use lakeward_testkit::server::{PgServer, Version};
use serde_json::json;

use crate::followed::Followed;

on_both!(f11_columns_come_and_go, super::columns);
on_both!(f11_what_is_undone_before_it_is_read, super::undone);
on_both!(f11_columns_that_come_and_go_under_one_name, super::come_and_go);
on_both!(f11_names_swapped_in_partitions, super::swapped_in_partitions);
on_both!(f11_a_dropped_column_of_rows_without_a_key, super::dropped_without_key);
on_both!(f11_what_is_done_about_a_change_is_the_users_choice, super::chosen);
on_both!(f12_types_that_are_one_at_the_destination, super::one_at_the_destination);
on_both!(columns_are_left_out_once, super::left_out);
on_both!(f12_types_that_get_wider_keep_the_history, super::wider);
on_both!(f12_other_types_get_columns_of_their_own, super::other_types);
on_both!(f12_composite_types_get_and_lose_attributes, super::composites);
on_both!(f12_names_that_differ_in_case_from_others, super::cases);
on_both!(f12_strict_cdc_where_types_get_wider, super::strict);
on_both!(a_mode_that_is_changed_back_leaves_the_history, super::changed_back);
on_both!(f46_the_history_of_large_rows_is_rewritten, super::large_rows);

async fn columns(version: Version) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, a int, b text); INSERT INTO t SELECT g, g, 'b' FROM generate_series(1, 100) g";
    let scene = Followed::new(&PgServer::shared(version), sql, &["t"]).await;
    scene.sync().await;
    for change in [
        "UPDATE t SET a = 0 WHERE id = 1; ALTER TABLE t ADD COLUMN c int; UPDATE t SET c = 5 WHERE id < 5",
        "UPDATE t SET a = 1 WHERE id = 2; ALTER TABLE t DROP COLUMN b; UPDATE t SET a = 2 WHERE id = 3",
        "UPDATE t SET a = 3 WHERE id = 4; ALTER TABLE t ADD COLUMN b text DEFAULT 'again'; UPDATE t SET b = 'x' WHERE id = 5",
        "UPDATE t SET c = 6 WHERE id = 6; ALTER TABLE t RENAME COLUMN c TO d; UPDATE t SET d = 7 WHERE id = 7",
        "DELETE FROM t WHERE id = 8; ALTER TABLE t ALTER COLUMN a TYPE bigint; UPDATE t SET a = 10000000000 WHERE id = 9",
        "ALTER TABLE t ADD COLUMN e double precision DEFAULT random(); UPDATE t SET a = 1 WHERE id = 10",
    ] {
        scene.sql(change).await;
        scene.sync().await;
        // The dropped column stays in the files, null.
        scene.assert_same("t").await;
    }
    // All of it between two syncs, and while a run follows.
    let mut run = scene.start(&["--follow", "--checkpoint-interval", "100ms"]);
    for round in 0..4 {
        let (add, drop) = (format!("f{round}"), format!("f{}", (round + 2) % 4));
        let sql = format!(
            "ALTER TABLE t ADD COLUMN {add} int; UPDATE t SET {add} = id WHERE id % 3 = 0; ALTER TABLE t DROP COLUMN IF EXISTS {drop}"
        );
        scene.sql(&sql).await;
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    }
    assert!(!run.has_ended().unwrap(), "{:?}", run.wait_timeout(std::time::Duration::from_secs(1)).await);
    run.signal(lakeward_testkit::lakeward::Signal::TERM).unwrap();
    run.wait_timeout(std::time::Duration::from_secs(15)).await.unwrap().assert_code(130);
    scene.sync().await;
    scene.assert_same("t").await;
}

/// A stream whose rows nobody reads has nothing but its changes: those from before it was altered count too.
async fn strict(version: Version) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, v smallint, w varchar(5), d numeric(10,2)); CREATE TABLE u (id int PRIMARY KEY)";
    let scene = Followed::new(&PgServer::shared(version), sql, &["u"]).await;
    scene.project.select("t", json!({ "sync_mode": "strict_cdc" })).unwrap();
    scene.sync().await;
    let inserted = async || {
        let query = "SELECT count(*), count(DISTINCT id) FROM log WHERE _lw_op = 'c'";
        ask(&scene.project.lake(), "t", query).await.unwrap().remove(0)
    };
    let count = |rows: i32| vec![Some(rows.to_string()), Some(rows.to_string())];
    scene.sql("INSERT INTO t VALUES (1, 1, 'a', 1.25); ALTER TABLE t ALTER v TYPE int; INSERT INTO t VALUES (2, 70000, 'b', 2)").await;
    scene.sql("UPDATE t SET v = 3 WHERE id = 1; ALTER TABLE t ALTER d TYPE numeric(14,2), ALTER w TYPE text; INSERT INTO t VALUES (3, 4, 'longer', 123456789012)").await;
    let plan = scene.run(&["--dry-run"]).await;
    assert!(plan.stdout.contains("changes since the last sync, in a new generation"), "{}", plan.stdout);
    let output = scene.sync().await;
    assert!(output.stderr.contains("a new generation begins where the last one ends"), "{}", output.stderr);
    scene.assert_same("t").await;
    assert_eq!(inserted().await, count(3));
    // What streams.json asks for counts from there too.
    scene.sql("INSERT INTO t VALUES (4, 4, 'd', 4), (5, 5, 'e', 5)").await;
    scene.project.select("t", json!({ "sync_mode": "strict_cdc", "filter": "id <> 4" })).unwrap();
    scene.sync().await;
    assert_eq!(inserted().await, count(4));
    scene.project.select("t", json!({ "sync_mode": "strict_cdc", "filter": null })).unwrap();
    scene.sync().await;
    // While a run follows, also where a row and what widens its table are of one transaction.
    let mut run = scene.start(&["--follow", "--checkpoint-interval", "100ms"]);
    let writing = scene
        .keep_writing(std::time::Duration::from_millis(20), |n| {
            let insert = |id| format!("INSERT INTO t (id, v) VALUES ({id}, 1)");
            match n {
                30 => format!(
                    "BEGIN; {}; ALTER TABLE t ALTER v TYPE bigint; {}; COMMIT",
                    insert(1030),
                    insert(2030)
                ),
                60 => format!("ALTER TABLE t ALTER d TYPE numeric(18,2); {}", insert(1060)),
                _ => insert(1000 + n),
            }
        })
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let written = writing.stop().await;
    assert!(written > 70, "{written}");
    scene.caught_up(&mut run).await;
    run.signal(lakeward_testkit::lakeward::Signal::TERM).unwrap();
    run.wait_timeout(std::time::Duration::from_secs(15)).await.unwrap().assert_code(130);
    scene.sync().await;
    assert_eq!(inserted().await, count(4 + written + 1));
}

/// Between two syncs a table is altered, changed and altered back: the catalog says nothing of it, the log does.
async fn undone(version: Version) {
    let cases = [
        ("renamed", "ALTER TABLE renamed RENAME w TO q", "ALTER TABLE renamed RENAME q TO w"),
        ("filtered", "ALTER TABLE filtered RENAME w TO q", "ALTER TABLE filtered RENAME q TO w"),
        (
            "retyped",
            "ALTER TABLE retyped ALTER w TYPE text",
            "ALTER TABLE retyped ALTER w TYPE int USING w::int",
        ),
        ("narrower", "ALTER TABLE narrower ALTER w TYPE bigint", "ALTER TABLE narrower ALTER w TYPE int"),
        (
            "swapped",
            "ALTER TABLE swapped RENAME v TO x; ALTER TABLE swapped RENAME w TO v; ALTER TABLE swapped RENAME x TO w",
            "ALTER TABLE swapped RENAME v TO x; ALTER TABLE swapped RENAME w TO v; ALTER TABLE swapped RENAME x TO w",
        ),
        (
            "exact",
            "ALTER TABLE exact ALTER d TYPE numeric(12,4)",
            "ALTER TABLE exact ALTER d TYPE numeric(6,2)",
        ),
        ("bag", "ALTER TABLE bag RENAME w TO q", "ALTER TABLE bag RENAME q TO w"),
        (
            "documents",
            "ALTER TABLE documents ALTER doc TYPE text",
            "ALTER TABLE documents ALTER doc TYPE jsonb USING doc::jsonb",
        ),
    ];
    let mut sql = String::new();
    for (table, ..) in cases {
        let key = if table == "bag" { "id int" } else { "id int PRIMARY KEY" };
        sql.push_str(&format!(
            "CREATE TABLE {table} ({key}, v int, w int, d numeric(6,2), doc jsonb);
             INSERT INTO {table} SELECT g, g, g * 10, g / 4.0, '{{\"a\": 1}}' FROM generate_series(1, 20) g;"
        ));
    }
    sql.push_str("ALTER TABLE bag REPLICA IDENTITY FULL;");
    let tables: Vec<&str> = cases.iter().map(|(table, ..)| *table).collect();
    let scene = Followed::new(&PgServer::shared(version), &sql, &tables).await;
    scene.project.select("filtered", json!({ "sync_mode": "cdc", "filter": "w > 0" })).unwrap();
    scene.sync().await;
    for (table, there, back) in cases {
        let change = match table {
            "exact" => "SET d = d + 0.125 WHERE id < 5",
            "documents" => "SET doc = '{\"b\":   2}' WHERE id < 5",
            _ => "SET v = v + 1000 WHERE id < 5",
        };
        scene.sql(there).await;
        scene.sql(&format!("UPDATE {table} {change}")).await;
        scene
            .sql(&format!("DELETE FROM {table} WHERE id = 7; INSERT INTO {table} (id, v) VALUES (100, 1)"))
            .await;
        scene.sql(back).await;
        scene.sql(&format!("UPDATE {table} SET w = 5 WHERE id = 100")).await;
    }
    scene.sync().await;
    for table in tables {
        let options = if table == "filtered" { Options::cdc().filter("w > 0") } else { Options::cdc() };
        scene.assert_same_as(table, &options).await;
    }
    scene.project.run(&["verify"]).await.unwrap().assert_ok();
    assert!(!scene.sync().await.stderr.contains("read again"));
}

async fn come_and_go(version: Version) {
    let cases = [
        (
            "twice",
            "ALTER TABLE twice ADD c text; UPDATE twice SET c = 'first'; ALTER TABLE twice DROP c; ALTER TABLE twice ADD c text;
             UPDATE twice SET c = 'second' WHERE id = 1",
        ),
        (
            "at_once",
            "BEGIN; ALTER TABLE at_once ADD c text; UPDATE at_once SET c = 'first'; ALTER TABLE at_once DROP c; ALTER TABLE at_once ADD c text; COMMIT",
        ),
        (
            "moved",
            "ALTER TABLE moved ADD c text; UPDATE moved SET c = 'for d'; ALTER TABLE moved RENAME c TO d; ALTER TABLE moved ADD c text;
             UPDATE moved SET c = 'for c' WHERE id = 1",
        ),
        ("passing", "ALTER TABLE passing ADD c text; UPDATE passing SET c = 'first', v = 0; ALTER TABLE passing DROP c"),
    ];
    let tables: Vec<&str> = cases.iter().map(|(table, _)| *table).collect();
    let sql: String = tables
        .iter()
        .map(|table| {
            format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, v int, w int, x int);
                 INSERT INTO {table} SELECT g, g, g * 10, g FROM generate_series(1, 20) g;"
            )
        })
        .collect();
    let scene = Followed::new(&PgServer::shared(version), &sql, &tables).await;
    scene.sync().await;
    for (_, statements) in cases {
        scene.sql(statements).await;
    }
    let told = scene.sync().await.stderr;
    for table in tables {
        let again = format!("\"public.{table}\",\"message\":\"all rows are read again");
        assert_eq!(told.contains(&again), table != "passing", "{table}: {told}");
        scene.assert_same(table).await;
    }
    scene.project.run(&["verify"]).await.unwrap().assert_ok();
    assert!(!scene.sync().await.stderr.contains("read again"));
}

async fn swapped_in_partitions(version: Version) {
    // The first has the root's order of columns, the second one of its own.
    let sql = "CREATE TABLE t (id int, r text, b text, a text, PRIMARY KEY (id, r)) PARTITION BY LIST (r);
        CREATE TABLE t_1 PARTITION OF t FOR VALUES IN ('1');
        CREATE TABLE t_2 (a text, b text, r text NOT NULL, id int NOT NULL); ALTER TABLE t ATTACH PARTITION t_2 FOR VALUES IN ('2');
        INSERT INTO t VALUES (1, '1', 'b1', 'a1'), (2, '2', 'b2', 'a2')";
    let scene = Followed::new(&PgServer::shared(version), sql, &["t"]).await;
    scene.sync().await;
    scene.sql("INSERT INTO t VALUES (3, '1', 'b3', 'a3'), (4, '2', 'b4', 'a4')").await;
    assert!(!scene.sync().await.stderr.contains("read again"), "columns in another order are no change");
    scene.assert_same("t").await;
    let swap = "ALTER TABLE t RENAME b TO z; ALTER TABLE t RENAME a TO b; ALTER TABLE t RENAME z TO a";
    for (id, part) in [(5, "1"), (6, "2")] {
        scene.sql(swap).await;
        scene.sql(&format!("INSERT INTO t (id, r, a, b) VALUES ({id}, '{part}', 'A', 'B')")).await;
        scene.sql(swap).await;
        assert!(scene.sync().await.stderr.contains("read again"));
        scene.assert_same("t").await;
    }
}

async fn dropped_without_key(version: Version) {
    let sql = "CREATE TABLE t (a int, b text, c int); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 'x', 5), (2, 'y', 6), (2, 'y', 6)";
    let scene = Followed::new(&PgServer::shared(version), sql, &["t"]).await;
    scene.sync().await;
    scene.sql("ALTER TABLE t DROP c").await;
    scene.sync().await;
    scene.sql("DELETE FROM t WHERE a = 1; UPDATE t SET b = 'z' WHERE a = 2").await;
    assert!(!scene.sync().await.stderr.contains("read again"));
    scene.assert_same("t").await;
    assert_eq!(scene.asked_of_view("t", "a, b").await, "[(2, 'z'), (2, 'z')]");
}

/// One table reads all rows again at a change, another one stops, and a third goes its way.
async fn chosen(version: Version) {
    let tables = ["again", "refuses", "evolves"];
    let make = |table| {
        format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, a int, b text); INSERT INTO {table} SELECT g, g, 'b' || g FROM generate_series(1, 50) g;"
        )
    };
    let scene = Followed::new(&PgServer::shared(version), &tables.map(make).concat(), &tables).await;
    let choose = |table: &str, policy: &str| {
        scene.project.select(table, json!({ "sync_mode": "cdc", "on_schema_change": policy })).unwrap();
    };
    choose("again", "resnapshot");
    scene.sync().await;
    for (round, change) in [
        "ADD COLUMN c int",
        "ADD COLUMN d int DEFAULT 7",
        "RENAME COLUMN a TO z",
        "DROP COLUMN b, ADD COLUMN b text",
        "ALTER COLUMN z TYPE bigint",
    ]
    .into_iter()
    .enumerate()
    {
        choose("refuses", "fail");
        let before = scene.asked_of_view("refuses", "count(*), max(id)").await;
        for table in tables {
            let id = 100 + round;
            scene
                .sql(&format!(
                    "ALTER TABLE {table} {change}; INSERT INTO {table} (id) VALUES ({id}); UPDATE {table} SET id = -id WHERE id = {round} + 1"
                ))
                .await;
        }
        let output = scene.run(&[]).await;
        output.assert_code(5);
        let failed = output.events_of("stream_failed");
        let streams: Vec<_> = failed.iter().map(|event| event["stream"].as_str().unwrap()).collect();
        assert_eq!(streams, ["public.refuses"], "{change}: {}", output.stderr);
        assert!(
            output.stderr.contains("set on_schema_change to evolve or resnapshot"),
            "{change}: {}",
            output.stderr
        );
        let read_again = output.events_of("warning").iter().any(|event| {
            event["stream"] == "public.again"
                && event["message"].as_str().unwrap().starts_with("all rows are read again")
        });
        assert!(read_again, "{change}: {}", output.stderr);
        scene.assert_same("again").await;
        scene.assert_same("evolves").await;
        assert_eq!(scene.asked_of_view("refuses", "count(*), max(id)").await, before, "{change}");

        choose("refuses", "evolve");
        scene.sync().await;
        scene.assert_same("refuses").await;
    }
}

async fn one_at_the_destination(version: Version) {
    // What the column was, a value of it, and what it becomes; each is one type at the destination.
    let cases = [
        ("varchar(10)", "'ab'", "char(6)"),
        ("char(6)", "'ab'", "char(3)"),
        ("varchar(10)", "'abcdef'", "varchar(3) USING left(c, 3)"),
        ("timestamp", "'2020-01-01 10:00:00.75'", "timestamp(0)"),
        ("timestamptz", "'2020-01-01 10:00:00.75+00'", "timestamptz(0)"),
        ("time", "'10:00:00.75'", "time(0)"),
        ("timestamp[]", "ARRAY[timestamp '2020-01-01 10:00:00.75']", "timestamp(0)[]"),
        ("interval", "'1.75 s'", "interval(0)"),
        ("json", "'{\"b\": 1,   \"a\": 2}'", "jsonb"),
        ("numeric(50,10)", "1.2345", "numeric(50,2)"),
        ("numeric", "1.2345", "numeric(50,2)"),
        ("varbit(8)", "B'10101010'", "varbit(2) USING c::varbit(2)"),
    ];
    let harmless = [
        ("varchar(3)", "'ab'", "varchar(9)"),
        ("varchar(3)", "'ab'", "text"),
        ("time(0)", "'10:00'", "time"),
    ];
    let names: Vec<String> = (0..cases.len() + harmless.len()).map(|n| format!("t{n}")).collect();
    let all = cases.iter().chain(&harmless);
    let sql: String = names
        .iter()
        .zip(all.clone())
        .map(|(name, (before, value, _))| {
            format!(
                "CREATE TABLE {name} (id int PRIMARY KEY, c {before}, g int GENERATED ALWAYS AS (id * 2) STORED); INSERT INTO {name} (id, c) VALUES (1, {value}), (2, NULL);"
            )
        })
        .collect();
    let tables: Vec<&str> = names.iter().map(String::as_str).collect();
    let scene = Followed::new(&PgServer::shared(version), &sql, &tables).await;
    scene.sync().await;
    for (name, (_, _, after)) in names.iter().zip(all) {
        scene
            .sql(&format!("UPDATE {name} SET c = c WHERE id = 2; ALTER TABLE {name} ALTER c TYPE {after}"))
            .await;
    }
    let told = scene.sync().await.stderr;
    for (n, name) in names.iter().enumerate() {
        let again = told.contains(&format!("\"public.{name}\",\"message\":\"all rows are read again"));
        assert_eq!(again, n < cases.len(), "{name}: {told}");
    }
    // Values that the log did not have are read once they are ordinary ones.
    for name in &names {
        scene.sql(&format!("ALTER TABLE {name} ALTER g DROP EXPRESSION")).await;
    }
    scene.sync().await;
    for name in &names {
        scene.assert_same(name).await;
    }
    scene.project.run(&["verify"]).await.unwrap().assert_ok();
    assert!(!scene.sync().await.stderr.contains("read again"));
}

async fn left_out(version: Version) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, a int, b text); INSERT INTO t SELECT g, g, 'b' FROM generate_series(1, 100) g";
    let scene = Followed::new(&PgServer::shared(version), sql, &["t"]).await;
    scene.sync().await;
    let choices = json!({ "sync_mode": "cdc", "columns": { "exclude": ["b"] } });
    scene.project.select("t", choices).unwrap();
    assert!(scene.sync().await.stderr.contains("is left out now"));
    for _ in 0..2 {
        scene.sql("UPDATE t SET a = a + 1, b = 'c' WHERE id < 10").await;
        let output = scene.sync().await;
        assert!(!output.stderr.contains("read again"), "{}", output.stderr);
        scene.assert_same_as("t", &Options::cdc().exclude("b")).await;
    }
    scene.project.run(&["verify"]).await.unwrap().assert_ok();
    scene.project.select("t", json!({ "sync_mode": "cdc", "columns": { "exclude": [] } })).unwrap();
    assert!(scene.sync().await.stderr.contains("no longer left out"));
    scene.assert_same("t").await;
}

async fn wider(version: Version) {
    let columns =
        "id int PRIMARY KEY, region smallint, a smallint, b int, r real, d numeric(6,2), l int[], note text";
    let sql = format!(
        "CREATE TABLE t ({columns}); CREATE TABLE parted (LIKE t INCLUDING ALL);
         INSERT INTO t SELECT g, g % 3, g, g, g / 3.0, g / 4.0, ARRAY[g, NULL, -g], 'n' || g FROM generate_series(1, 200) g; INSERT INTO parted SELECT * FROM t"
    );
    let scene = Followed::new(&PgServer::shared(version), &sql, &["t"]).await;
    scene.project.select("parted", json!({ "sync_mode": "cdc", "partition": ["region"] })).unwrap();
    scene.sync().await;
    for table in ["t", "parted"] {
        scene
            .sql(&format!(
                "UPDATE {table} SET b = b + 1 WHERE id % 3 = 0; DELETE FROM {table} WHERE id % 10 = 0; UPDATE {table} SET id = id + 1000 WHERE id = 5"
            ))
            .await;
    }
    scene.sync().await;
    let said = "string_agg(concat_ws('|', id, region, _lw_op, a, CAST(r AS DOUBLE), CAST(d AS DOUBLE), CAST(l AS VARCHAR), note), ';' ORDER BY _lw_seq, id)";
    let of_first = format!("SELECT {said}, sum(b), count(*) FROM log WHERE _lw_seq < '000002'");
    let lake = scene.project.lake();
    let history = async |table: &str, query: &str| ask(&lake, table, query).await.unwrap().remove(0);
    let before = [history("t", &of_first).await, history("parted", &of_first).await];

    // Every type gets wider, and one of them in a way that no file could know of.
    for table in ["t", "parted"] {
        scene
            .sql(&format!(
                "UPDATE {table} SET b = 7 WHERE id = 8; ALTER TABLE {table} ALTER a TYPE int, ALTER b TYPE bigint USING b * 10, ALTER r TYPE double precision, \
                 ALTER d TYPE numeric(12,4), ALTER l TYPE bigint[]; UPDATE {table} SET a = 100000, b = 1e12, d = 12345678.1234, l = ARRAY[1e12] WHERE id = 9"
            ))
            .await;
    }
    let output = scene.sync().await;
    assert!(output.stderr.contains("the history is kept"), "{}", output.stderr);
    for (table, before) in ["t", "parted"].into_iter().zip(&before) {
        scene.assert_same(table).await;
        read_everywhere(&lake, table).await.unwrap().assert_same();
        let rows = scene.value(&format!("SELECT count(*) FROM {table}")).await.parse::<u64>().unwrap();
        let said =
            history(table, "SELECT count(*) FROM log WHERE _lw_seq >= '000002' AND _lw_op IN ('r', 't')")
                .await;
        // All rows, and the one that ends what was before them.
        assert_eq!(said, [Some((rows + 1).to_string())], "{table}");
        // The last change before that of the types is part of what was read again.
        assert_eq!(history(table, &of_first).await, *before, "{table}");
    }
    scene.project.run(&["verify"]).await.unwrap().assert_ok();

    // A partition's column, whose directories are named by the values as they were, gets one of its own.
    scene
        .sql("ALTER TABLE parted ALTER region TYPE int; UPDATE parted SET region = 100000 WHERE id = 9")
        .await;
    let output = scene.sync().await;
    assert!(output.stderr.contains(r#"\"region\" is written as \"region__v2\""#), "{}", output.stderr);
    scene.assert_same_as("parted", &Options::cdc().written_as("region", "region__v2")).await;
    read_everywhere(&lake, "parted").await.unwrap().assert_same();
    assert_eq!(history("parted", &of_first).await, before[1]);

    // While a run follows, which merges small files meanwhile.
    scene.sql("CREATE TABLE u (id int PRIMARY KEY, n int); INSERT INTO u SELECT g, 0 FROM generate_series(1, 5000) g").await;
    scene.project.discover().await.unwrap().assert_ok();
    scene.project.select("u", json!({ "sync_mode": "cdc" })).unwrap();
    let mut run = scene.start(&["--follow", "--checkpoint-interval", "100ms", "--chunk-size", "128KiB"]);
    for round in 0..3 {
        let column = format!("w{round}");
        scene.sql(&format!("ALTER TABLE u ADD COLUMN {column} smallint")).await;
        for n in 0..20 {
            scene.sql(&format!("UPDATE u SET {column} = {n} WHERE id <= 7")).await;
            tokio::time::sleep(std::time::Duration::from_millis(40)).await;
        }
        scene.caught_up(&mut run).await;
        scene.sql(&format!("ALTER TABLE u ALTER {column} TYPE int")).await;
        scene.sql(&format!("UPDATE u SET {column} = 100000 WHERE id % 3 = 1")).await;
        scene.caught_up(&mut run).await;
    }
    run.signal(lakeward_testkit::lakeward::Signal::TERM).unwrap();
    run.wait_timeout(std::time::Duration::from_secs(15)).await.unwrap().assert_code(130);
    scene.sync().await;
    scene.assert_same("u").await;
    read_everywhere(&lake, "u").await.unwrap().assert_same();
    // Every change of every round is there.
    for round in 0..3 {
        let said = history("u", &format!("SELECT count(*) FROM log WHERE _lw_op = 'u' AND w{round} = 19 AND _lw_seq < printf('%06x', {})", round + 2)).await;
        assert_eq!(said, [Some("7".to_owned())], "round {round}");
    }
}

async fn other_types(version: Version) {
    let tables = ["t", "keyed", "parted", "bare", "swapped"];
    let sql = "CREATE TABLE t (id int PRIMARY KEY, v int, v__v2 text, big text, gone int); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
        CREATE TABLE keyed (LIKE t INCLUDING ALL); CREATE TABLE parted (LIKE t INCLUDING ALL);
        CREATE TABLE bare (LIKE t); ALTER TABLE bare REPLICA IDENTITY FULL; CREATE TABLE swapped (LIKE t INCLUDING ALL);
        INSERT INTO t SELECT g, g % 3, 'w', '[' || repeat('1, ', 2000) || g || ']', g FROM generate_series(1, 100) g;";
    let copied = "INSERT INTO keyed SELECT * FROM t; INSERT INTO parted SELECT * FROM t; INSERT INTO bare SELECT * FROM t; INSERT INTO swapped SELECT * FROM t";
    let scene = Followed::new(&PgServer::shared(version), &format!("{sql}{copied}"), &tables).await;
    scene.project.select("parted", json!({ "sync_mode": "cdc", "partition": ["v"] })).unwrap();
    let each = async |statements: &str| {
        for table in tables {
            scene.sql(&statements.replace("{}", table)).await;
        }
    };
    scene.sync().await;
    each("UPDATE {} SET v = v + 1 WHERE id < 30; DELETE FROM {} WHERE id % 10 = 0; INSERT INTO {} VALUES (300, 0, 'x', 'b', 1)").await;
    scene.sync().await;
    let lake = scene.project.lake();
    let of_first = "SELECT string_agg(concat_ws('|', id, v, v__v2, big, gone, _lw_op), ';' ORDER BY _lw_seq, id), count(*) FROM log WHERE _lw_seq < '000002'";
    let history = async |table: &str| ask(&lake, table, of_first).await.unwrap().remove(0);
    let mut before = Vec::new();
    for table in tables {
        before.push(history(table).await);
    }
    let same = async |names: &[(&str, &str)]| {
        for (table, before) in tables.into_iter().zip(&before) {
            let mut options =
                names.iter().fold(Options::cdc(), |all, (column, name)| all.written_as(column, name));
            // It has a column of that name already, from when names were swapped.
            if table == "swapped" && names.contains(&("gone", "gone__v2")) {
                options = options.written_as("gone", "gone__v3");
            }
            if table == "keyed" {
                options = options.written_as("id", "id__v2");
            }
            scene.assert_same_as(table, &options).await;
            read_everywhere(&lake, table).await.unwrap().assert_same();
            assert_eq!(history(table).await, *before, "{table}");
        }
        scene.project.run(&["verify"]).await.unwrap().assert_ok();
    };

    // An integer becomes text beside a column that has the second name already, and text with values out of line json.
    each("UPDATE {} SET v = 50 WHERE id = 6; ALTER TABLE {} ALTER v TYPE text USING 'n' || v, ALTER big TYPE json USING to_json(big); UPDATE {} SET v = 'six' WHERE id = 7").await;
    scene.sql("ALTER TABLE keyed ALTER id TYPE text").await;
    // Here names are swapped as well.
    scene.sql("ALTER TABLE swapped RENAME v TO other; ALTER TABLE swapped RENAME gone TO v; ALTER TABLE swapped RENAME other TO gone").await;
    let plan = scene.run(&["--dry-run"]).await;
    assert!(plan.stdout.contains(r#""v" is written as "v__v3""#), "{}", plan.stdout);
    let output = scene.sync().await;
    assert!(
        output.stderr.contains("the history is kept") && !output.stderr.contains("replaced"),
        "{}",
        output.stderr
    );
    let t = [("v", "v__v3"), ("big", "big__v2")];
    for (table, before) in tables.into_iter().zip(&before) {
        let options = match table {
            "swapped" => Options::cdc().written_as("gone", "gone__v2").written_as("big", "big__v2"),
            "keyed" => Options::cdc()
                .written_as("id", "id__v2")
                .written_as(t[0].0, t[0].1)
                .written_as(t[1].0, t[1].1),
            _ => Options::cdc().written_as(t[0].0, t[0].1).written_as(t[1].0, t[1].1),
        };
        scene.assert_same_as(table, &options).await;
        read_everywhere(&lake, table).await.unwrap().assert_same();
        assert_eq!(history(table).await, *before, "{table}");
    }
    scene.project.run(&["verify"]).await.unwrap().assert_ok();
    scene.sql("ALTER TABLE swapped RENAME v TO other; ALTER TABLE swapped RENAME gone TO v; ALTER TABLE swapped RENAME other TO gone").await;
    scene.sync().await;
    same(&t).await;

    // The generation goes on as it is, with values that are not sent under the names of the files.
    each("UPDATE {} SET v = 'seven' WHERE id::text LIKE '2%'; UPDATE {} SET big = '{\"a\": 1}' WHERE id::text = '8'; DELETE FROM {} WHERE id::text = '9'; ALTER TABLE {} ADD COLUMN fresh int").await;
    scene.sql("UPDATE keyed SET id = 'moved' WHERE id = '11'; UPDATE t SET id = 1000 WHERE id = 11").await;
    let output = scene.sync().await;
    assert!(!output.stderr.contains("read again"), "{}", output.stderr);
    same(&t).await;
    let shown = scene.asked_of_view("t", r#"count(*) FILTER (big__v2 = '{"a": 1}')"#).await;
    assert_eq!(shown, "[(1,)]");
    scene.project.run(&["compact"]).await.unwrap().assert_ok();
    same(&t).await;

    // A third type, one that the files have already, and a column that is dropped and made anew as another.
    each("ALTER TABLE {} ALTER v TYPE boolean USING v LIKE 's%', ALTER big TYPE text, DROP COLUMN gone; ALTER TABLE {} ADD COLUMN gone date; UPDATE {} SET gone = '2020-02-02' WHERE id::text LIKE '3%'").await;
    scene.sync().await;
    same(&[("v", "v__v4"), ("gone", "gone__v2")]).await;
    each("ALTER TABLE {} ALTER v TYPE int USING v::int; ALTER TABLE {} DROP COLUMN gone").await;
    scene.sync().await;
    each("INSERT INTO {} VALUES ('999', 1, 'late', 'late')").await;
    scene.sync().await;
    same(&[]).await;

    // Who would rather not is told both types.
    scene
        .project
        .select("parted", json!({ "sync_mode": "cdc", "partition": ["v"], "on_schema_change": "fail" }))
        .unwrap();
    scene.sql("ALTER TABLE parted ALTER v TYPE text").await;
    let output = scene.run(&[]).await;
    output.assert_code(5);
    assert!(output.stderr.contains(r#"column \"v\" was int32, is text"#), "{}", output.stderr);
}

async fn composites(version: Version) {
    let sql = "CREATE TYPE part AS (x int, y int); CREATE TYPE pair AS (a int, b part); CREATE DOMAIN pairs AS pair[];
        CREATE TABLE keyed (id part PRIMARY KEY, note text); CREATE TABLE t (id int PRIMARY KEY, v pair, l pairs); CREATE TABLE other (id int PRIMARY KEY);
        INSERT INTO keyed VALUES ('(1,2)', 'a'), ('(3,4)', 'b'); INSERT INTO t VALUES (1, '(1,\"(2,3)\")', ARRAY['(1,\"(2,3)\")'::pair]), (2, NULL, NULL); INSERT INTO other VALUES (1)";
    let scene = Followed::new(&PgServer::shared(version), sql, &["keyed", "t", "other"]).await;
    scene.sync().await;
    for alter in ["ADD ATTRIBUTE z int", "DROP ATTRIBUTE y"] {
        scene.sql(&format!("ALTER TYPE part {alter} CASCADE; UPDATE keyed SET note = note || 'c' WHERE (id).x = 1; DELETE FROM keyed WHERE (id).x = 3; INSERT INTO t VALUES ((SELECT max(id) + 1 FROM t), NULL, NULL)")).await;
        let output = scene.sync().await;
        let again = output.stderr.matches("all rows are read again").count();
        assert_eq!(again, 2, "{}", output.stderr);
        for table in ["keyed", "t", "other"] {
            scene.assert_same(table).await;
        }
    }
    scene.project.run(&["verify"]).await.unwrap().assert_ok();
    assert!(!scene.sync().await.stderr.contains("read again"));
}

async fn cases(version: Version) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, v int, \"V__V2\" text); CREATE TABLE renamed (id int PRIMARY KEY, v int);
        INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b'); INSERT INTO renamed VALUES (1, 1), (2, 2)";
    let scene = Followed::new(&PgServer::shared(version), sql, &["t", "renamed"]).await;
    scene.sync().await;
    scene.sql("ALTER TABLE t ALTER v TYPE text; UPDATE t SET v = 'x' WHERE id = 1; ALTER TABLE renamed RENAME v TO \"V\"; UPDATE renamed SET \"V\" = 5 WHERE id = 1").await;
    scene.sync().await;
    scene.assert_same_as("t", &Options::cdc().written_as("v", "v__v3")).await;
    scene.assert_same_as("renamed", &Options::cdc().written_as("V", "V__v2")).await;
    // DuckDB does not tell names apart that differ only in case.
    assert_eq!(scene.asked_of_view("t", "count(v__v3)").await, "[(2,)]");
    assert_eq!(scene.asked_of_view("renamed", "sum(V__v2)").await, "[(7,)]");
    scene.project.run(&["verify"]).await.unwrap().assert_ok();
}

/// A generation that was begun and not ended is nothing to readers, and nothing to the one behind it.
async fn changed_back(version: Version) {
    if !cfg!(feature = "failpoints") {
        return;
    }
    let sql = "CREATE TABLE t (id int PRIMARY KEY, v int, w int); INSERT INTO t SELECT g, g, g FROM generate_series(1, 2000) g";
    let mut scene = Followed::new(&PgServer::shared(version), sql, &["t"]).await;
    scene.sync().await;
    scene.sql("UPDATE t SET v = v + 1 WHERE id < 30; DELETE FROM t WHERE id % 10 = 0").await;
    scene.sync().await;
    let lake = scene.project.lake();
    let said = "SELECT string_agg(concat_ws('|', id, v, w, _lw_op), ';' ORDER BY _lw_seq, id), count(*) FROM log WHERE _lw_seq < '000002'";
    let before = ask(&lake, "t", said).await.unwrap();
    let counted = scene.asked_of_view("t", "count(*), sum(v)").await;

    for (mode, sql) in [
        ("full_refresh", "ALTER TABLE t ALTER w TYPE text"),
        ("incremental", "ALTER TABLE t DROP COLUMN w; ALTER TABLE t ADD COLUMN w boolean"),
    ] {
        scene.sql(sql).await;
        scene.project.select("t", json!({ "sync_mode": mode, "cursor_field": "id" })).unwrap();
        // The generation is begun, and one of its chunks stands.
        scene.project.abort_at("parquet-record-linked", 6);
        let killed = scene.run(&["--chunk-size", "16KiB"]).await;
        scene.project.clear_failpoints();
        assert!(killed.signal.is_some() && killed.stderr.contains("chunk_committed"), "{}", killed.stderr);
        assert!(killed.stderr.contains("the history of its changes goes"), "{}", killed.stderr);
        assert_eq!(scene.asked_of_view("t", "count(*), sum(v)").await, counted, "{mode}");
        read_everywhere(&lake, "t").await.unwrap().assert_same();
    }
    scene.project.select("t", json!({ "sync_mode": "cdc" })).unwrap();
    let plan = scene.run(&["--dry-run"]).await;
    assert!(plan.stdout.contains("was begun as something else"), "{}", plan.stdout);
    scene.sync().await;
    scene.assert_same_as("t", &Options::cdc().written_as("w", "w__v2")).await;
    read_everywhere(&lake, "t").await.unwrap().assert_same();
    assert_eq!(ask(&lake, "t", said).await.unwrap(), before);
    scene.project.run(&["verify"]).await.unwrap().assert_ok();
}

async fn large_rows(version: Version) {
    let sql =
        "CREATE TABLE t (id int PRIMARY KEY, v int, b text); ALTER TABLE t ALTER b SET STORAGE EXTERNAL;
        INSERT INTO t SELECT g, g, repeat(md5(g::text), 200000) FROM generate_series(1, 60) g";
    let scene = Followed::new(&PgServer::shared(version), sql, &["t"]).await;
    scene.run(&["--memory-limit", "64MiB"]).await.assert_ok();
    scene.sql("ALTER TABLE t ALTER v TYPE bigint").await;
    let output = scene.run(&["--memory-limit", "64MiB"]).await;
    output.assert_ok();
    // A row is 6 MiB, and what is written of it is held beside it.
    assert!(output.peak_rss_bytes < 96 << 20, "{} MiB", output.peak_rss_bytes >> 20);
    scene.assert_same("t").await;
}
