//! One stream that cannot be read: the others of its log go on, and nothing is forgotten for it.

use std::time::Duration;

use lakeward_testkit::on_both;
use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::{PgServer, Version};
use serde_json::{Value, json};

use crate::followed::Followed;

on_both!(a_value_that_a_stream_refuses_stops_that_stream_alone, super::refused_value);
on_both!(what_is_committed_beside_a_snapshot_comes_once, super::beside_a_snapshot);
on_both!(a_table_that_is_dropped_stops_its_stream_alone, super::dropped);
on_both!(what_no_longer_fits_its_table_stops_alone, super::unfit);
on_both!(what_cannot_be_read_for_a_while_goes_on_from_where_it_stood, super::kept_places);
on_both!(a_table_that_loses_its_key_is_not_published_for_a_stream_that_waits, super::lost_key);
on_both!(what_cannot_be_unpublished_stops_nobody, super::not_unpublished);
on_both!(a_file_that_is_missing_stops_its_stream_alone, super::missing_file);
on_both!(a_table_made_anew_again_and_again_is_followed_as_far_as_that_goes, super::made_anew);

async fn refused_value(version: Version) {
    let sql =
        "CREATE TABLE strict (id int PRIMARY KEY, at timestamp); INSERT INTO strict VALUES (1, '2020-01-01');
        CREATE TABLE other (id int PRIMARY KEY, note text); INSERT INTO other VALUES (1, 'a')";
    let scene = Followed::new(&PgServer::shared(version), sql, &["other"]).await;
    scene.project.select("strict", json!({ "sync_mode": "cdc", "on_bad_value": "fail" })).unwrap();
    scene.sync().await;
    scene
        .sql(
            "INSERT INTO other VALUES (2, 'before'); INSERT INTO strict VALUES (2, 'infinity'); INSERT INTO strict VALUES (3, '2021-01-01');
             INSERT INTO other VALUES (3, 'behind'); UPDATE other SET note = 'b' WHERE id = 1",
        )
        .await;
    // The log of a stream that is not read must not grow for ever: what would be followed ends too.
    for (round, arguments) in [&[][..], &["--follow"]].into_iter().enumerate() {
        let output = scene.run(arguments).await;
        assert_eq!(output.code, Some(5), "{}", output.stderr);
        let failed = output.events_of("stream_failed");
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!(failed[0]["stream"], "public.strict");
        assert!(failed[0]["error"].as_str().unwrap().contains("at"), "{failed:?}");
        assert!(!output.stderr.contains("infinity"), "a value was told");
        scene.assert_same("other").await;
        scene.assert_nothing_forgotten_early().await;
        scene
            .sql(&format!(
                "INSERT INTO other VALUES ({}, 'later'); DELETE FROM other WHERE id = {round} + 2",
                round + 10
            ))
            .await;
    }
    // Read from where it stood, with all that came since.
    scene.project.select("strict", json!({ "sync_mode": "cdc", "on_bad_value": "clamp" })).unwrap();
    scene.sql("DELETE FROM strict WHERE id = 2; INSERT INTO strict VALUES (4, '2022-01-01')").await;
    let output = scene.sync().await;
    assert!(output.events_of("stream_planned").is_empty(), "nothing is read again: {}", output.stderr);
    scene.assert_same("strict").await;
    scene.assert_same("other").await;
    scene.assert_nothing_forgotten_early().await;
}

/// While the log is kept for a stream that is not read, a new one is backfilled, and then the log is read again from there.
async fn beside_a_snapshot(version: Version) {
    let sql = "CREATE TABLE strict (id int PRIMARY KEY, at timestamp); CREATE TABLE other (id int PRIMARY KEY, n int);
        INSERT INTO other SELECT g, 0 FROM generate_series(1, 50) g;
        CREATE TABLE late (id int PRIMARY KEY, note text); INSERT INTO late SELECT g, repeat('x', 50) FROM generate_series(1, 400000) g";
    let scene = Followed::new(&PgServer::shared(version), sql, &["other"]).await;
    scene.project.select("strict", json!({ "sync_mode": "cdc", "on_bad_value": "fail" })).unwrap();
    scene.sync().await;
    scene
        .sql(
            "INSERT INTO strict VALUES (1, 'infinity'); UPDATE other SET n = 1 WHERE id < 20; DELETE FROM other WHERE id > 45",
        )
        .await;
    scene.project.select("late", json!({ "sync_mode": "cdc" })).unwrap();
    // Long before the backfill ends.
    let output = scene.run(&["--checkpoint-interval", "100ms", "--chunk-size", "1MiB"]).await;
    output.assert_code(5);
    let failed = output.events_of("stream_failed");
    assert_eq!((failed.len(), &failed[0]["stream"]), (1, &json!("public.strict")), "{failed:?}");
    for table in ["other", "late"] {
        scene.assert_same(table).await;
    }
    scene.assert_nothing_forgotten_early().await;
}

async fn unfit(version: Version) {
    let tables = ["keyless", "filtered", "parted", "typed", "viewed", "whole"];
    let sql: String = tables
        .iter()
        .map(|t| {
            format!("CREATE TABLE {t} (id int PRIMARY KEY, a int, b int); INSERT INTO {t} VALUES (1, 1, 1);")
        })
        .collect();
    let scene = Followed::new(&PgServer::shared(version), &sql, &tables).await;
    let cdc = |more: Value| {
        let mut choices = json!({ "sync_mode": "cdc" });
        choices.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        choices
    };
    scene.project.select("filtered", cdc(json!({ "filter": "a > 0" }))).unwrap();
    scene.project.select("parted", cdc(json!({ "partition": ["a"] }))).unwrap();
    scene.project.select("typed", cdc(json!({ "columns": { "types": { "a": "int64" } } }))).unwrap();
    scene.sync().await;
    scene
        .sql(
            "ALTER TABLE keyless DROP CONSTRAINT keyless_pkey; ALTER TABLE filtered DROP a; ALTER TABLE parted DROP a;
             ALTER TABLE typed ALTER a TYPE text; ALTER TABLE viewed RENAME TO v; CREATE VIEW viewed AS SELECT * FROM v;
             INSERT INTO whole VALUES (2, 2, 2)",
        )
        .await;
    for round in 3..5 {
        let output = scene.run(&[]).await;
        output.assert_code(2);
        let failed = output.events_of("stream_failed");
        let mut named: Vec<&str> = failed.iter().map(|event| event["stream"].as_str().unwrap()).collect();
        named.sort_unstable();
        let expected =
            ["public.filtered", "public.keyless", "public.parted", "public.typed", "public.viewed"];
        assert_eq!(named, expected, "{failed:?}");
        assert!(
            failed.iter().all(|event| event["hint"].as_str().is_some_and(|hint| !hint.is_empty())),
            "{failed:?}"
        );
        scene.assert_same("whole").await;
        scene.assert_nothing_forgotten_early().await;
        scene.sql(&format!("INSERT INTO whole VALUES ({round}, 0, 0)")).await;
    }
    scene
        .sql("ALTER TABLE keyless ADD PRIMARY KEY (id); UPDATE keyless SET a = 7; DROP VIEW viewed; ALTER TABLE v RENAME TO viewed; INSERT INTO viewed VALUES (9, 9, 9)")
        .await;
    let choices = [
        ("filtered", json!({ "filter": null })),
        ("parted", json!({ "partition": [] })),
        ("typed", json!({ "columns": { "types": { "a": "text" } } })),
    ];
    for (table, choice) in choices {
        scene.project.select(table, cdc(choice)).unwrap();
    }
    scene.sync().await;
    for table in tables.into_iter().filter(|table| *table != "typed") {
        scene.assert_same(table).await;
    }
    scene.assert_same_as("typed", &Options::cdc().written_as("a", "a__v2")).await;
}

/// A stream that is followed, and one that reads no rows, so that it has nothing but what the log says of it.
const WATCHED: &str =
    "CREATE TABLE t (id int PRIMARY KEY, a int, b int); CREATE TABLE u (id int PRIMARY KEY)";

async fn kept_places(version: Version) {
    let scene = Followed::new(&PgServer::shared(version), WATCHED, &["u"]).await;
    let choices = |filter: &str| json!({ "sync_mode": "strict_cdc", "filter": filter, "columns": { "exclude": ["b"] } });
    scene.project.select("t", choices("a > 0")).unwrap();
    scene.sync().await;
    let mut id = 0;
    for (breaks, heals) in [
        ("", ""),
        ("ALTER TABLE t RENAME TO away", "ALTER TABLE away RENAME TO t"),
        ("ALTER TABLE t RENAME a TO c", "ALTER TABLE t RENAME c TO a"),
    ] {
        id += 1;
        scene.sql(&format!("INSERT INTO t VALUES ({id}, 1, 1); INSERT INTO u VALUES ({id}); {breaks}")).await;
        if breaks.is_empty() {
            scene.project.select("t", choices("aa > 0")).unwrap();
        }
        for _ in 0..2 {
            let output = scene.run(&[]).await;
            output.assert_code(2);
            let failed = output.events_of("stream_failed");
            assert_eq!((failed.len(), &failed[0]["stream"]), (1, &json!("public.t")), "{breaks}: {failed:?}");
            scene.assert_same("u").await;
        }
        scene.project.select("t", choices("a > 0")).unwrap();
        scene.sql(heals).await;
        let output = scene.sync().await;
        assert!(!output.stderr.contains("new generation"), "{breaks}: {}", output.stderr);
        scene.assert_same_as("t", &Options::cdc().exclude("b")).await;
        scene.assert_nothing_forgotten_early().await;
    }
    // While a run follows.
    let mut run = scene.start(&["--follow"]);
    scene.caught_up(&mut run).await;
    scene
        .sql("INSERT INTO t VALUES (10, 1, 1); ALTER TABLE t RENAME TO away; INSERT INTO u VALUES (10)")
        .await;
    run.wait_timeout(Duration::from_secs(60)).await.unwrap().assert_code(2);
    scene.sql("INSERT INTO away VALUES (11, 1, 1)").await;
    scene.run(&[]).await.assert_code(2);
    scene.assert_same("u").await;
    scene.sql("ALTER TABLE away RENAME TO t").await;
    scene.sync().await;
    scene.assert_same_as("t", &Options::cdc().exclude("b")).await;
}

async fn lost_key(version: Version) {
    let scene = Followed::new(&PgServer::shared(version), WATCHED, &["t", "u"]).await;
    scene.sync().await;
    scene.sql("INSERT INTO t VALUES (1, 1, 1); ALTER TABLE t DROP CONSTRAINT t_pkey").await;
    scene.run(&[]).await.assert_code(2);
    // The application may go on.
    scene.sql("UPDATE t SET a = 2; INSERT INTO u VALUES (1)").await;
    scene.run(&[]).await.assert_code(2);
    scene.assert_same("u").await;
    scene.sql("ALTER TABLE t ADD PRIMARY KEY (id)").await;
    scene.sync().await;
    scene.assert_same("t").await;
}

/// A table that was put where the role may not look is neither read nor unpublished.
async fn not_unpublished(version: Version) {
    let db = PgServer::shared(version).create_database("stray").await.unwrap();
    db.execute(WATCHED).await.unwrap();
    let role = format!("{}_role", db.name());
    let create = format!(
        "CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'guest'; ALTER TABLE t OWNER TO {role}; ALTER TABLE u OWNER TO {role};
         CREATE SCHEMA closed; DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO {role}', current_database()); END $$"
    );
    db.execute(&create).await.unwrap();
    let scene = Followed::over(db, json!({ "username": role, "password": "guest" }), &["t", "u"]).await;
    scene.sync().await;
    scene.sql("ALTER TABLE t SET SCHEMA closed; INSERT INTO u VALUES (1)").await;
    scene.run(&[]).await.assert_code(2);
    scene.assert_same("u").await;
    scene.project.select_only(&["u"], json!({ "sync_mode": "cdc" })).unwrap();
    for id in 2..4 {
        scene.sql(&format!("INSERT INTO u VALUES ({id})")).await;
        let output = scene.sync().await;
        assert!(output.stderr.contains("DROP TABLE"), "{}", output.stderr);
        scene.assert_same("u").await;
    }
    scene.project.run(&["clear", "--log", "--yes"]).await.unwrap().assert_ok();
    scene.sql(&format!("REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

async fn missing_file(version: Version) {
    let sql = "CREATE TABLE robbed (id int PRIMARY KEY); INSERT INTO robbed VALUES (1);
        CREATE TABLE whole (id int PRIMARY KEY); INSERT INTO whole VALUES (1)";
    let scene = Followed::new(&PgServer::shared(version), sql, &["robbed", "whole"]).await;
    scene.sync().await;
    scene.sql("INSERT INTO robbed VALUES (2); INSERT INTO whole VALUES (2)").await;
    scene.sync().await;
    let newest = scene.project.visible_files("robbed").into_iter().max().unwrap();
    let aside = scene.project.file("aside");
    std::fs::rename(&newest, &aside).unwrap();
    for round in 3..5 {
        scene.sql(&format!("INSERT INTO robbed VALUES ({round}); INSERT INTO whole VALUES ({round})")).await;
        let output = scene.run(&[]).await;
        output.assert_code(6);
        let failed = output.events_of("stream_failed");
        assert_eq!((failed.len(), &failed[0]["stream"]), (1, &json!("public.robbed")), "{failed:?}");
        assert!(failed[0]["error"].as_str().unwrap().contains("a committed file is missing"), "{failed:?}");
        scene.assert_same("whole").await;
        scene.assert_nothing_forgotten_early().await;
    }
    std::fs::rename(&aside, &newest).unwrap();
    let output = scene.sync().await;
    assert!(output.events_of("stream_planned").is_empty(), "nothing is read again: {}", output.stderr);
    scene.assert_same("robbed").await;
    scene.assert_same("whole").await;
}

async fn dropped(version: Version) {
    let sql = "CREATE TABLE gone (id int PRIMARY KEY); INSERT INTO gone VALUES (1);
        CREATE TABLE stays (id int PRIMARY KEY); INSERT INTO stays VALUES (1)";
    let scene = Followed::new(&PgServer::shared(version), sql, &["gone", "stays"]).await;
    scene.sync().await;
    let mut run = scene.start(&["--follow"]);
    scene.sql("INSERT INTO stays VALUES (2); INSERT INTO gone VALUES (2)").await;
    scene
        .until(
            &mut run,
            "SELECT active FROM pg_replication_slots WHERE database = current_database() AND NOT temporary",
        )
        .await;
    scene.sql("DROP TABLE gone; INSERT INTO stays VALUES (3)").await;
    let output = run.wait_timeout(std::time::Duration::from_secs(120)).await.unwrap();
    assert_ne!(output.code, Some(0), "{}", output.stderr);
    let failed = output.events_of("stream_failed");
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0]["stream"], "public.gone");
    scene.assert_same("stays").await;
    // So it is at the next run, which begins without it.
    scene.sql("INSERT INTO stays VALUES (31)").await;
    let output = scene.run(&["--follow"]).await;
    assert_eq!(output.code, Some(2), "{}", output.stderr);
    let failed = output.events_of("stream_failed");
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0]["stream"], "public.gone");
    scene.assert_same("stays").await;
    let plan = scene.run(&["--dry-run", "--output", "json"]).await;
    plan.assert_ok();
    let plan = plan.json().unwrap();
    for (stream, action) in [
        ("gone", "nothing, it would fail: Config: the source has no such stream"),
        ("stays", "changes since"),
    ] {
        let stream = format!("public.{stream}");
        let planned = plan.as_array().unwrap().iter().find(|each| each["stream"] == stream.as_str()).unwrap();
        assert!(planned["action"].as_str().unwrap().starts_with(action), "{planned}");
    }
    scene.assert_nothing_forgotten_early().await;
    scene.project.run(&["verify", "public.stays", "--wait", "5s"]).await.unwrap().assert_ok();
    // A name that was never a table's is a mistake: nothing is begun.
    let streams = scene.project.read("streams.json").unwrap();
    scene.project.write("streams.json", &replaced(&streams, "\"gone\"", "\"never\"")).unwrap();
    scene.sql("INSERT INTO stays VALUES (32)").await;
    let output = scene.run(&[]).await;
    assert_eq!(output.code, Some(2), "{}", output.stderr);
    assert!(output.events_of("checkpoint").is_empty(), "{}", output.stderr);
    // Taken out of streams.json, it is in nobody's way.
    scene.project.select_only(&["stays"], json!({ "sync_mode": "cdc" })).unwrap();
    scene.sql("INSERT INTO stays VALUES (4)").await;
    scene.sync().await;
    scene.assert_same("stays").await;
    scene.assert_nothing_forgotten_early().await;
}

fn replaced(value: &Value, what: &str, by: &str) -> Value {
    serde_json::from_str(&value.to_string().replace(what, by)).unwrap()
}

async fn made_anew(version: Version) {
    let sql = "CREATE TABLE fleeting (id int PRIMARY KEY, v int); INSERT INTO fleeting VALUES (1, 0);
        CREATE TABLE stays (id int PRIMARY KEY); INSERT INTO stays VALUES (1)";
    let scene = Followed::new(&PgServer::shared(version), sql, &["fleeting", "stays"]).await;
    scene.sync().await;
    let writer = scene
        .keep_writing(Duration::from_millis(40), |n| {
            format!(
                "SET lock_timeout = '5s'; BEGIN; DROP TABLE fleeting; CREATE TABLE fleeting (id int PRIMARY KEY, v int);
                 INSERT INTO fleeting VALUES ({n}, 1); COMMIT; INSERT INTO stays VALUES ({n} + 2)"
            )
        })
        .await;
    for _ in 0..4 {
        let output = scene.run(&[]).await;
        // It is always there and always has its key: the one thing that can be wrong is that it never rests.
        for failed in output.events_of("stream_failed") {
            let error = failed["error"].as_str().unwrap();
            let restless = error.contains("again and again") || error.contains("could not obtain lock");
            assert!(restless, "{error}\n{}", output.stderr);
            assert_eq!(failed["stream"], "public.fleeting");
        }
        assert!(matches!(output.code, Some(0 | 3 | 5)), "{:?}\n{}", output.code, output.stderr);
    }
    // None of its statements waited for a lock for long.
    writer.stop().await;
    scene.sync().await;
    scene.assert_same("fleeting").await;
    scene.assert_same("stays").await;
}
