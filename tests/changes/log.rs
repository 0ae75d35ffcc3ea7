//! The source's log itself: idle, foreign, shared, let go of.

use std::time::Duration;

use lakeward_testkit::on_both;
use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::{PgServer, TestDatabase, Version};
use serde_json::json;

use crate::followed::Followed;

on_both!(two_pipelines_share_a_destination, super::two_pipelines);
on_both!(a_publication_that_was_there_before_stays_whole, super::shared_publication);
on_both!(f01_idle_tables_hold_nothing_back, super::idle);
on_both!(f05_what_is_not_ours_is_not_taken, super::foreign);
on_both!(f05_what_was_not_published_for_a_while_is_read_again, super::unpublished);
on_both!(f47_a_state_made_anew_goes_on_in_the_log, super::rebuilt);
on_both!(f47_a_state_made_anew_amid_a_checkpoint, super::rebuilt_amid_a_checkpoint);
on_both!(cleared_streams_leave_nothing_at_the_source, super::cleared);
on_both!(check_names_tables_that_the_role_does_not_own, super::unowned);
on_both!(a_dry_run_joins_nothing, super::dry_run);
on_both!(somebody_else_runs_what_is_printed, super::unmanaged);
on_both!(names_of_the_config_win_until_something_is_made, super::names);

pub const SQL: &str = "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT g, g FROM generate_series(1, 1000) g; CREATE TABLE u (id int PRIMARY KEY, pad text)";

async fn idle(version: Version) {
    let scene = Followed::new(&PgServer::shared(version), SQL, &["t"]).await;
    scene.sync().await;
    let before = scene.slot("confirmed_flush_lsn").await.unwrap();
    let mut run = scene.start(&["--follow"]);
    scene.sql("INSERT INTO u SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g; CHECKPOINT").await;
    let end = scene.value("SELECT pg_current_wal_insert_lsn()").await;
    let sql = format!(
        "SELECT confirmed_flush_lsn >= '{end}' AND confirmed_flush_lsn > '{before}' FROM pg_replication_slots WHERE database = current_database() AND NOT temporary"
    );
    scene.until(&mut run, &sql).await;
    scene.assert_nothing_forgotten_early().await;
    // The server keeps its log from the beginning of what it decoded last, which a checkpoint of it lets move on.
    let bounded = format!(
        "SELECT restart_lsn >= '{end}' FROM pg_replication_slots WHERE database = current_database() AND NOT temporary"
    );
    let start = std::time::Instant::now();
    while scene.value(&bounded).await != "t" {
        assert!(!run.has_ended().unwrap() && start.elapsed() < Duration::from_secs(60), "the log is kept");
        scene.sql("CHECKPOINT").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    run.kill9().await.unwrap();
    // So does a run that ends.
    scene.sql("INSERT INTO u SELECT g, 'x' FROM generate_series(30001, 40000) g").await;
    let end = scene.value("SELECT pg_current_wal_insert_lsn()").await;
    scene.sync().await;
    let reached = format!("SELECT '{}'::pg_lsn >= '{end}'", scene.slot("confirmed_flush_lsn").await.unwrap());
    assert_eq!(scene.value(&reached).await, "t");
    scene.assert_same("t").await;
}

async fn foreign(version: Version) {
    let scene = Followed::new(&PgServer::shared(version), SQL, &["t"]).await;
    scene.sync().await;
    let slot = scene.slot("slot_name").await.unwrap();
    // The same name, but another slot: what lies between is gone, whatever it confirms.
    scene.drop_slot().await;
    scene.sql("UPDATE t SET n = 0 WHERE id = 1").await;
    scene.sql(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    scene.run(&[]).await.assert_code(4);
    scene.drop_slot().await;
    scene.sql(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')")).await;
    let output = scene.run(&[]).await;
    output.assert_code(4);
    assert!(output.stderr.contains(&slot), "{}", output.stderr);
    scene.drop_slot().await;
    scene.source(json!({ "replication": { "on_slot_lost": "resnapshot" } }));
    scene.sync().await;
    scene.assert_same("t").await;
}

async fn unpublished(version: Version) {
    let scene = Followed::new(&PgServer::shared(version), SQL, &["t"]).await;
    scene.sync().await;
    let name = "SELECT pubname FROM pg_publication WHERE pubname LIKE 'lakeward%' AND pubname NOT LIKE '%insert_only'";
    let name = scene.value(name).await;
    scene.sql(&format!("ALTER PUBLICATION {name} SET (publish = 'insert')")).await;
    scene.sql("UPDATE t SET n = 0 WHERE id = 1; DELETE FROM t WHERE id = 2").await;
    let output = scene.run(&[]).await;
    output.assert_code(4);
    assert!(output.stderr.contains("ALTER PUBLICATION"), "{}", output.stderr);
    scene.sql(&format!("ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate')")).await;
    scene.sync().await;
    scene.assert_same("t").await;
}

async fn rebuilt(version: Version) {
    let scene = Followed::new(&PgServer::shared(version), SQL, &["t"]).await;
    scene.sync().await;
    scene.sql("UPDATE t SET n = -1 WHERE id < 100").await;
    scene.sync().await;
    // Nothing of ours happens, and the source is told that it may forget that.
    scene.sql("INSERT INTO u SELECT g, 'x' FROM generate_series(1, 1000) g").await;
    scene.sync().await;
    scene.sql("UPDATE t SET n = -2 WHERE id > 900; DELETE FROM t WHERE id = 1").await;
    std::fs::remove_file(scene.project.file("state.json")).unwrap();
    let rebuild = async |further: &[&str]| {
        let arguments = [&["state", "rebuild", "--state", "state.json"], further].concat();
        scene.project.run(&arguments).await.unwrap()
    };
    let rebuilt = rebuild(&[]).await;
    rebuilt.assert_ok();
    assert!(rebuilt.stderr.contains("--accept-slot"), "{}", rebuilt.stderr);
    let stopped = scene.run(&[]).await;
    stopped.assert_code(4);
    assert!(stopped.stderr.contains("behind which it sends nothing"), "{}", stopped.stderr);
    rebuild(&["--accept-slot"]).await.assert_ok();
    let output = scene.sync().await;
    assert!(!output.stderr.contains("generation_visible"), "it was read anew:\n{}", output.stderr);
    scene.assert_same("t").await;
    // Who would rather not say reads all rows again, and keeps the history.
    std::fs::remove_file(scene.project.file("state.json")).unwrap();
    scene.source(json!({ "replication": { "on_slot_lost": "resnapshot" } }));
    rebuild(&[]).await.assert_ok();
    scene.sql("UPDATE t SET n = -3 WHERE id = 2; DELETE FROM t WHERE id = 3").await;
    scene.sync().await;
    scene.assert_same("t").await;
}

/// Of a checkpoint one stream's part is committed when the run dies, and the state is lost with it.
async fn rebuilt_amid_a_checkpoint(version: Version) {
    let mut scene = Followed::new(&PgServer::shared(version), SQL, &["t", "u"]).await;
    scene.sync().await;
    scene.sql("BEGIN; UPDATE t SET n = -1 WHERE id < 100; INSERT INTO u SELECT g, 'x' FROM generate_series(1, 100) g; COMMIT").await;
    // Behind the two records by which the run takes the streams over.
    scene.project.abort_at("parquet-record-linked", 3);
    assert!(scene.run(&[]).await.signal.is_some(), "it was not killed");
    scene.project.clear_failpoints();
    std::fs::remove_file(scene.project.file("state.json")).unwrap();
    scene.project.run(&["state", "rebuild", "--state", "state.json"]).await.unwrap().assert_ok();
    scene.sql("UPDATE t SET n = -2 WHERE id = 500; INSERT INTO u VALUES (1000, 'y')").await;
    let output = scene.sync().await;
    assert!(!output.stderr.contains("generation_visible"), "it was read anew:\n{}", output.stderr);
    scene.assert_same("t").await;
    scene.assert_same("u").await;
}

async fn cleared(version: Version) {
    let scene = Followed::new(&PgServer::shared(version), SQL, &["t", "u"]).await;
    scene.sync().await;
    assert!(scene.slot("slot_name").await.is_some());
    scene.project.run(&["clear", "public.t", "--yes"]).await.unwrap().assert_ok();
    assert!(scene.slot("slot_name").await.is_some(), "the other stream still follows the log");
    scene.project.run(&["clear", "public.u", "--yes"]).await.unwrap().assert_ok();
    assert_eq!(scene.slot("slot_name").await, None);
    let publications = "SELECT count(*) FROM pg_publication WHERE pubname LIKE 'lakeward%'";
    assert_eq!(scene.value(publications).await, "0");
    scene.sync().await;
    scene.assert_same("t").await;
    // The log alone: what follows it is read anew, and its history is kept.
    scene.project.run(&["clear", "--log", "--yes"]).await.unwrap().assert_ok();
    assert_eq!(scene.slot("slot_name").await, None);
    scene.sql("DELETE FROM t WHERE id < 50; INSERT INTO u VALUES (1, 'x')").await;
    scene.sync().await;
    scene.assert_same("t").await;
    scene.assert_same("u").await;
    // Who stops to follow is told that the source still keeps the log.
    scene.project.select_only(&["t"], json!({ "sync_mode": "full_refresh" })).unwrap();
    let output = scene.sync().await;
    assert!(output.stderr.contains("clear --log"), "{}", output.stderr);
    // What is selected no longer can be cleared all the same.
    assert!(!scene.project.visible_files("u").is_empty());
    scene.project.run(&["clear", "public.nothing", "--yes"]).await.unwrap().assert_code(2);
    scene.project.run(&["clear", "public.u", "--yes"]).await.unwrap().assert_ok();
    assert!(scene.project.visible_files("u").is_empty());
    scene.assert_same_as("t", &Options::full_refresh()).await;
}

async fn unowned(version: Version) {
    let db = PgServer::shared(version).create_database("unowned").await.unwrap();
    db.execute(SQL).await.unwrap();
    let role = format!("{}_role", db.name());
    let create = format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'guest'; GRANT SELECT ON t, u TO {role}; ALTER TABLE u OWNER TO {role}; \
         CREATE PUBLICATION theirs FOR TABLE t"
    );
    db.execute(&create).await.unwrap();
    let source = json!({ "username": role, "password": "guest", "replication": { "manage": true } });
    let scene = Followed::over(db, source, &["t", "u"]).await;
    let check = ["check", "--config", "source.json", "--streams", "streams.json", "--output", "json"];
    // Whoever only reads tables needs none of it, though the config is ready for more.
    scene.project.select_only(&["t", "u"], json!({ "sync_mode": "full_refresh" })).unwrap();
    scene.project.run(&check).await.unwrap().assert_ok();
    scene.project.run(&check[..3]).await.unwrap().assert_code(4);
    scene.project.select_only(&["t", "u"], json!({ "sync_mode": "cdc" })).unwrap();
    let found = scene.project.run(&check).await.unwrap();
    found.assert_code(4);
    let found = found.json().unwrap();
    let errors: Vec<_> =
        found.as_array().unwrap().iter().filter(|each| each["severity"] == "error").collect();
    assert_eq!(errors.len(), 3, "{found}");
    for (error, subject) in errors.iter().zip(["replication privilege", "replication privilege", "public.t"])
    {
        assert_eq!(error["subject"], subject);
        // The first of the remedies, word for word.
        let remedy = error["remedy"].as_str().unwrap().split(';').next().unwrap();
        scene.sql(remedy).await;
    }
    scene.project.run(&check).await.unwrap().assert_ok();
    scene.sync().await;
    scene.assert_same("t").await;
    scene.project.run(&["clear", "--all", "--yes"]).await.unwrap().assert_ok();
    scene.sql(&format!("REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

async fn dry_run(version: Version) {
    let scene = Followed::new(&PgServer::shared(version), SQL, &["t"]).await;
    scene.run(&["--dry-run"]).await.assert_ok();
    assert_eq!(scene.slot("slot_name").await, None);
    assert_eq!(scene.value("SELECT count(*) FROM pg_publication").await, "0");
    assert!(!scene.project.file("state.json").exists());
}

async fn names(version: Version) {
    let scene = Followed::new(&PgServer::shared(version), SQL, &["t"]).await;
    let slot = |name: &str| format!("{}_{name}", scene.db.name());
    let named = |slot: &str, publication: &str| {
        scene.source(json!({ "replication": { "slot": slot, "publication": publication } }));
    };
    let refused = async |what: &[&str]| {
        let output = scene.run(&[]).await;
        output.assert_code(2);
        for word in what.iter().chain(&["clear --log"]) {
            assert!(output.stderr.contains(word), "{word}: {}", output.stderr);
        }
    };
    scene
        .sql(&format!("SELECT pg_create_logical_replication_slot('{}', 'test_decoding')", slot("theirs")))
        .await;
    named(&slot("theirs"), "one");
    let output = scene.run(&[]).await;
    output.assert_code(4);
    assert!(output.stderr.contains("name another slot"), "{}", output.stderr);
    scene.drop_slot().await;
    // One that could be read is somebody's as well.
    scene.sql(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", slot("theirs"))).await;
    let output = scene.run(&[]).await;
    output.assert_code(4);
    assert!(output.stderr.contains("not this pipeline's"), "{}", output.stderr);
    assert_eq!(scene.slot("slot_name").await, Some(slot("theirs")));
    scene.drop_slot().await;
    // Nothing was made under the first names. Under the second ones publications are, but the slot waits in vain.
    let client = scene.db.client().await.unwrap();
    client.batch_execute("BEGIN; CREATE TABLE unfinished ()").await.unwrap();
    let two = json!({ "slot": slot("b"), "publication": "two" });
    scene.source(json!({ "lock_timeout": "1s", "max_retries": 0, "replication": two }));
    scene.run(&[]).await.assert_code(3);
    client.batch_execute("ROLLBACK").await.unwrap();
    named(&slot("c"), "three");
    refused(&["two", "three"]).await;
    named(&slot("c"), "two");
    scene.sync().await;
    assert_eq!(scene.slot("slot_name").await, Some(slot("c")));
    scene.assert_same("t").await;

    named(&slot("d"), "two");
    refused(&[&slot("c"), &slot("d")]).await;
    named(&slot("c"), "four");
    refused(&["two", "four"]).await;
    named(&slot("c"), "two");
    scene.sync().await;
    scene.project.run(&["clear", "--log", "--yes"]).await.unwrap().assert_ok();
    named(&slot("d"), "four");
    scene.sync().await;
    assert_eq!(scene.slot("slot_name").await, Some(slot("d")));
    assert_eq!(
        scene.value("SELECT string_agg(pubname, ' ' ORDER BY 1) FROM pg_publication").await,
        "four four_insert_only"
    );
    scene.assert_same("t").await;
}

async fn unmanaged(version: Version) {
    let sql = "CREATE SCHEMA \"Odd \"\"one\"\"\"; CREATE TABLE \"Odd \"\"one\"\"\".\"it's; t\" (id int PRIMARY KEY); \
        INSERT INTO \"Odd \"\"one\"\"\".\"it's; t\" VALUES (1); \
        CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id); \
        CREATE TABLE leaf PARTITION OF parted FOR VALUES FROM (0) TO (100); INSERT INTO parted VALUES (2); \
        CREATE TABLE log (n int); INSERT INTO log VALUES (3); CREATE TABLE other (id int PRIMARY KEY)";
    let db = PgServer::shared(version).create_database("unmanaged").await.unwrap();
    db.execute(sql).await.unwrap();
    let slot = format!("{}_slot", db.name());
    let source = json!({
        "schemas": ["public", "Odd \"one\""],
        "replication": { "manage": false, "slot": slot, "publication": "Some \"one\"" }
    });
    let scene = Followed::over(db, source, &["parted"]).await;
    scene.project.select(("Odd \"one\"", "it's; t"), json!({ "sync_mode": "cdc" })).unwrap();
    scene.project.select("log", json!({ "sync_mode": "cdc", "insert_only": true })).unwrap();
    let check = ["check", "--config", "source.json", "--streams", "streams.json", "--output", "json"];
    let found = scene.project.run(&check).await.unwrap();
    found.assert_code(4);
    let found = found.json().unwrap();
    let finding = found.as_array().unwrap().iter().find(|finding| finding["severity"] == "error").unwrap();
    let remedy = finding["remedy"].as_str().unwrap();
    let output = scene.run(&[]).await;
    output.assert_code(4);
    assert!(output.events.iter().any(|event| event["hint"] == remedy), "{remedy}: {}", output.stderr);
    // As it is printed, by a client that ends each statement with a transaction.
    scene.db.psql(remedy).await.unwrap();
    scene.project.run(&check).await.unwrap().assert_ok();
    scene.sync().await;
    scene.sql("INSERT INTO \"Odd \"\"one\"\"\".\"it's; t\" VALUES (4); UPDATE parted SET id = 5; INSERT INTO log VALUES (6)").await;
    scene.sync().await;
    scene.assert_same("parted").await;
    let published =
        "SELECT string_agg(pubname || ': ' || tablename, ', ' ORDER BY tablename) FROM pg_publication_tables";
    let published = scene.value(published).await;
    assert_eq!(published, "Some \"one\": it's; t, Some \"one\": leaf, Some \"one\"_insert_only: log");
    // Left out for a while it is published all the same, but nobody reads its changes: it comes back as a new one.
    scene.project.deselect("parted").unwrap();
    scene
        .sql(
            "INSERT INTO parted VALUES (6), (7); DELETE FROM parted WHERE id = 5; INSERT INTO log VALUES (8)",
        )
        .await;
    // What a commit needs that is not there stops the run, which says how to do without.
    let file = scene.project.visible_files("parted").remove(0);
    std::fs::rename(&file, scene.project.file("aside")).unwrap();
    let output = scene.run(&[]).await;
    output.assert_code(6);
    assert!(output.stderr.contains("lakeward clear public.parted"), "{}", output.stderr);
    std::fs::rename(scene.project.file("aside"), &file).unwrap();
    scene.sync().await;
    scene.project.select("parted", json!({ "sync_mode": "cdc" })).unwrap();
    let output = scene.sync().await;
    assert!(output.stderr.contains("not in the log all the time"), "{}", output.stderr);
    scene.assert_same("parted").await;
    scene.sql("UPDATE parted SET id = 9 WHERE id = 6").await;
    scene.sync().await;
    scene.assert_same("parted").await;
    // In another mode for a while.
    scene.project.select("parted", json!({ "sync_mode": "full_refresh" })).unwrap();
    scene.sql("DELETE FROM parted WHERE id = 7; INSERT INTO log VALUES (9)").await;
    scene.sync().await;
    scene.assert_same_as("parted", &Options::full_refresh()).await;
    scene.sql("INSERT INTO parted VALUES (10)").await;
    scene.project.select("parted", json!({ "sync_mode": "cdc" })).unwrap();
    let early = scene.project.run(&["verify", "public.parted"]).await.unwrap();
    assert_ne!(early.code, Some(5), "a stream that nobody followed was compared:\n{}", early.stderr);
    scene.sync().await;
    scene.assert_same("parted").await;
    // What is theirs stays theirs when the pipeline may manage it.
    scene.source(json!({
        "schemas": ["public", "Odd \"one\""], "replication": { "slot": slot, "publication": "Some \"one\"" }
    }));
    scene.project.deselect("log").unwrap();
    scene.sync().await;
    let output = scene.project.run(&["clear", "--log", "--yes"]).await.unwrap();
    output.assert_ok();
    assert!(output.stderr.contains("it was there before"), "{}", output.stderr);
    assert_eq!(scene.slot("slot_name").await, Some(slot));
    let members = "SELECT count(*) FROM pg_publication_tables WHERE pubname LIKE 'Some%'";
    assert_eq!(scene.value(members).await, "3");
    scene.drop_slot().await;
}

async fn two_pipelines(version: Version) {
    let one = Followed::new(&PgServer::shared(version), SQL, &["t"]).await;
    let db = TestDatabase::existing(&PgServer::shared(version), one.db.name());
    let other = Followed::over(db, json!({}), &["u"]).await;
    let destination = json!({ "type": "parquet", "path": one.project.lake() });
    other.project.write("destination.json", &destination).unwrap();
    for n in 0..3 {
        one.sql(&format!("INSERT INTO t VALUES (5000 + {n}, 0); INSERT INTO u VALUES ({n}, 'x')")).await;
        one.sync().await;
        other.sync().await;
    }
    one.assert_same("t").await;
    one.assert_same("u").await;
    other.project.run(&["clear", "--log", "--yes"]).await.unwrap().assert_ok();
}

async fn shared_publication(version: Version) {
    let create = format!(
        "{SQL}; CREATE TABLE theirs (id int PRIMARY KEY); CREATE PUBLICATION shared FOR TABLE theirs"
    );
    let scene = Followed::new(&PgServer::shared(version), &create, &["t"]).await;
    scene.source(json!({ "replication": { "publication": "shared" } }));
    let tables = "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_publication_tables WHERE pubname = 'shared'";
    scene.sync().await;
    scene.sql("INSERT INTO theirs VALUES (1)").await;
    scene.sync().await;
    assert_eq!(scene.value(tables).await, "t theirs");
    scene.assert_same("t").await;
    // Without the state nobody knows what was made.
    let aside = scene.project.file("state-aside.json");
    std::fs::rename(scene.project.file("state.json"), &aside).unwrap();
    let output = scene.project.run(&["clear", "--log", "--yes"]).await.unwrap();
    output.assert_code(7);
    assert!(output.stderr.contains("there is no state"), "{}", output.stderr);
    // A dry run says what a run would.
    for arguments in [&["--dry-run"][..], &[]] {
        let output = scene.run(arguments).await;
        output.assert_code(7);
        assert!(output.stderr.contains("the destination holds commits"), "{}", output.stderr);
    }
    std::fs::rename(&aside, scene.project.file("state.json")).unwrap();
    // What cannot be let go of is not cleared either.
    scene.source(json!({ "port": 1, "max_retries": 0, "replication": { "publication": "shared" } }));
    let output = scene.project.run(&["clear", "--all", "--yes"]).await.unwrap();
    output.assert_code(3);
    assert!(output.stderr.contains("nothing was cleared"), "{}", output.stderr);
    scene.source(json!({ "replication": { "publication": "shared" } }));
    scene.assert_same("t").await;
    let output = scene.project.run(&["clear", "--log", "--yes"]).await.unwrap();
    output.assert_ok();
    assert!(output.stderr.contains("shared: it was there before"), "{}", output.stderr);
    // What was made for the pipeline is gone.
    assert_eq!(scene.slot("slot_name").await, None);
    assert_eq!(scene.value("SELECT string_agg(pubname, ' ') FROM pg_publication").await, "shared");
    assert_eq!(scene.value(tables).await, "t theirs");
}
