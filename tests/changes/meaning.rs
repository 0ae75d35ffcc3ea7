//! What single changes mean, from the statement to the latest view.

use lakeward_testkit::on_both;
use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::{PgServer, Version};
use serde_json::{Value, json};

use crate::followed::Followed;

on_both!(f07_values_that_are_not_sent, super::unchanged);
on_both!(f07_values_that_are_looked_up_and_do_not_fit, super::looked_up_misfits);
on_both!(f08_replica_identities, super::identities);
on_both!(f09_keys_that_change_and_swap, super::keys);
on_both!(f10_truncates_between_inserts, super::truncates);
on_both!(f14_large_and_rolled_back_transactions, super::large);
on_both!(f05_what_the_log_does_not_tell_is_noticed_while_following, super::untold);
on_both!(f20_rows_larger_than_the_memory_for_changes, super::larger_than_memory);
on_both!(f20_keys_of_large_rows_are_moved, super::moved_large);
on_both!(f18_generated_columns_are_followed, super::generated);
on_both!(f18_what_the_log_has_no_value_for_is_told, super::unlogged);
on_both!(f16_values_that_are_replaced_while_a_run_follows_are_told, super::replaced);
on_both!(messages_are_passed_over_and_replicated_rows_are_rows, super::others);

const CHECK: [&str; 7] =
    ["check", "--config", "source.json", "--streams", "streams.json", "--output", "json"];

const LARGE: &str = "CREATE FUNCTION large(seed int) RETURNS text LANGUAGE sql AS \
    $$SELECT string_agg(md5(seed::text || g), '') FROM generate_series(1, 300) g$$;";

async fn unchanged(version: Version) {
    let sql = format!(
        "{LARGE} CREATE TABLE t (id int PRIMARY KEY, n int, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
         INSERT INTO t SELECT g, g, large(g) FROM generate_series(1, 20) g;
         CREATE TABLE filtered (LIKE t INCLUDING ALL); INSERT INTO filtered SELECT * FROM t;
         CREATE TABLE whole (LIKE t INCLUDING ALL); ALTER TABLE whole REPLICA IDENTITY FULL; INSERT INTO whole SELECT * FROM t"
    );
    let scene = Followed::new(&PgServer::shared(version), &sql, &["t", "whole"]).await;
    scene.project.select("filtered", json!({ "sync_mode": "cdc", "filter": "n > 10" })).unwrap();
    scene.sync().await;
    for table in ["t", "filtered", "whole"] {
        scene
            .sql(&format!(
                "UPDATE {table} SET n = n + 100 WHERE id IN (1, 15); UPDATE {table} SET id = id + 1000 WHERE id IN (2, 16);
                 UPDATE {table} SET n = 50 WHERE id = 3; UPDATE {table} SET n = 0 WHERE id = 17; DELETE FROM {table} WHERE id = 18;
                 UPDATE {table} SET id = 4000, n = 99 WHERE id = 4; UPDATE {table} SET big = NULL WHERE id = 19"
            ))
            .await;
    }
    scene.sync().await;
    scene.assert_same("t").await;
    scene.assert_same("whole").await;
    scene.assert_same_as("filtered", &Options::cdc().filter("n > 10")).await;
}

/// Logical messages of applications, and transactions that came from another server.
async fn others(version: Version) {
    let sql =
        "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT g, g FROM generate_series(1, 10) g";
    let scene = Followed::new(&PgServer::shared(version), sql, &["t"]).await;
    scene
        .sql(&format!("ALTER DATABASE \"{}\" SET logical_decoding_work_mem = '64kB'", scene.db.name()))
        .await;
    scene.sync().await;
    let message = |transactional: bool| {
        format!(
            "SELECT pg_logical_emit_message({transactional}, 'any', convert_to(repeat('I', 100000), 'UTF8'))"
        )
    };
    let (within, beside) = (message(true), message(false));
    scene
        .sql(&format!(
            "{within}; {beside};
             SELECT pg_replication_origin_create(current_database()); SELECT pg_replication_origin_session_setup(current_database());
             BEGIN; SELECT pg_replication_origin_xact_setup('0/1234', now()); UPDATE t SET n = -n; {within}; {beside};
             INSERT INTO t VALUES (100, 0); COMMIT;
             BEGIN; SELECT pg_replication_origin_xact_setup('0/2345', now());
             INSERT INTO t SELECT g, g FROM generate_series(1000, 9000) g; {within}; DELETE FROM t WHERE id % 7 = 0; COMMIT;
             SELECT pg_replication_origin_session_reset(); SELECT pg_replication_origin_drop(current_database())"
        ))
        .await;
    scene.sync().await;
    assert_eq!(scene.asked_of_view("t", "count(*) FILTER (WHERE n < 0)").await, "[(9,)]");
    scene.assert_same("t").await;
    // Nor do they bring anything by themselves.
    scene.sql(&format!("{within}; {beside}")).await;
    scene.sync().await;
    scene.assert_same("t").await;
}

async fn identities(version: Version) {
    let sql = "CREATE TABLE bare (a int, b text); ALTER TABLE bare REPLICA IDENTITY FULL; INSERT INTO bare SELECT g % 3, 'x' FROM generate_series(1, 30) g;
        CREATE TABLE indexed (a int NOT NULL, b text NOT NULL, c int); CREATE UNIQUE INDEX by_ab ON indexed (b, a); ALTER TABLE indexed REPLICA IDENTITY USING INDEX by_ab;
        INSERT INTO indexed SELECT g, 'k' || g % 4, g FROM generate_series(1, 30) g;
        CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
        CREATE TABLE keyless (a int); INSERT INTO keyless VALUES (1)";
    let scene = Followed::new(&PgServer::shared(version), sql, &["bare", "indexed"]).await;
    scene.sync().await;
    scene
        .sql(
            "INSERT INTO bare VALUES (1, 'x'), (1, 'x'), (NULL, NULL); DELETE FROM bare WHERE ctid IN (SELECT ctid FROM bare WHERE a = 2 LIMIT 4);
             UPDATE bare SET b = NULL WHERE a = 0; UPDATE indexed SET c = -c WHERE a < 10; UPDATE indexed SET a = a + 100 WHERE a > 25; DELETE FROM indexed WHERE a = 12",
        )
        .await;
    scene.sync().await;
    scene.assert_same("bare").await;
    scene.assert_same_as("indexed", &Options::cdc().key(&["b", "a"])).await;
    scene.project.run(&["verify", "public.indexed"]).await.unwrap().assert_ok();
    // The printed view of a multiset says the same.
    let found = scene.asked_of_view("bare", "count(*)").await;
    let rows = scene.value("SELECT count(*) FROM bare").await;
    assert_eq!(found, format!("[({rows},)]"));
    // What cannot be followed without harm to the application is refused before anything is published.
    for (table, remedy) in [("keyless", "REPLICA IDENTITY FULL"), ("nothing", "REPLICA IDENTITY")] {
        let streams = scene.project.read("streams.json").unwrap();
        scene.project.select(table, json!({ "sync_mode": "cdc" })).unwrap();
        let output = scene.run(&[]).await;
        assert!(matches!(output.code, Some(2 | 4)), "{:?} {}", output.code, output.stderr);
        assert!(output.stderr.contains(table), "{}", output.stderr);
        let check = scene.project.run(&["check", "--streams", "streams.json"]).await.unwrap();
        assert!(
            check.stdout.contains(table) && check.stdout.contains(remedy),
            "{}{}",
            check.stdout,
            check.stderr
        );
        scene.sql("INSERT INTO keyless VALUES (2); UPDATE keyless SET a = a + 1; DELETE FROM keyless WHERE a = 3").await;
        scene.project.write("streams.json", &streams).unwrap();
    }
    // Inserts alone can be followed, and the application notices nothing.
    scene.project.select("keyless", json!({ "sync_mode": "cdc", "insert_only": true })).unwrap();
    scene.sync().await;
    scene.sql("INSERT INTO keyless VALUES (100), (100)").await;
    scene.sync().await;
    scene.assert_same_as("keyless", &Options::cdc().key(&[])).await;
    // What the table would be if nothing but inserts had ever happened.
    scene.sql("CREATE TABLE inserted AS SELECT * FROM keyless").await;
    scene
        .sql("INSERT INTO keyless VALUES (7); INSERT INTO inserted VALUES (7); UPDATE keyless SET a = 0")
        .await;
    scene.sync().await;
    scene.sql("BEGIN; DELETE FROM keyless; INSERT INTO keyless VALUES (8); TRUNCATE keyless; INSERT INTO keyless VALUES (9); COMMIT; INSERT INTO inserted VALUES (8), (9)").await;
    scene.sync().await;
    let inserted = Options::cdc().key(&[]).directory(scene.project.stream_directory("keyless"));
    scene.assert_same_as("inserted", &inserted).await;
}

async fn keys(version: Version) {
    let sql = "CREATE TABLE t (a int, b text, n int, PRIMARY KEY (b, a)); INSERT INTO t SELECT g, 'k' || g, g FROM generate_series(1, 20) g";
    let scene = Followed::new(&PgServer::shared(version), sql, &["t"]).await;
    scene.sync().await;
    scene
        .sql(
            "BEGIN; UPDATE t SET a = -1 WHERE a = 1; UPDATE t SET a = 1, b = 'k1' WHERE a = 2; UPDATE t SET a = 2, b = 'k2' WHERE a = -1; COMMIT;
             UPDATE t SET a = 50 WHERE a = 3; UPDATE t SET a = 3 WHERE a = 50; DELETE FROM t WHERE a = 4; INSERT INTO t VALUES (4, 'k4', 0)",
        )
        .await;
    scene.sync().await;
    scene.assert_same("t").await;
}

async fn truncates(version: Version) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 50); CREATE TABLE u (n int); ALTER TABLE u REPLICA IDENTITY FULL; INSERT INTO u VALUES (1), (1)";
    let scene = Followed::new(&PgServer::shared(version), sql, &["t", "u"]).await;
    scene.sync().await;
    scene.sql("BEGIN; INSERT INTO t VALUES (100); INSERT INTO u VALUES (2); TRUNCATE t, u; INSERT INTO t VALUES (7), (8); INSERT INTO u VALUES (3), (3); COMMIT").await;
    scene.sql("BEGIN; TRUNCATE t; ROLLBACK; INSERT INTO t VALUES (9)").await;
    scene.sync().await;
    scene.assert_same("t").await;
    scene.assert_same("u").await;
}

async fn large(version: Version) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, n int, pad text); CREATE TABLE other (id int PRIMARY KEY)";
    let scene = Followed::new(&PgServer::shared(version), sql, &["t", "other"]).await;
    scene.sync().await;
    let long = scene.db.client().await.unwrap();
    long.batch_execute("BEGIN; INSERT INTO t SELECT g, 0, repeat('x', 100) FROM generate_series(1, 150000) g; SAVEPOINT a; INSERT INTO t SELECT g, 1, 'undone' FROM generate_series(200001, 300000) g")
        .await
        .unwrap();
    scene.sql("INSERT INTO other SELECT generate_series(1, 100)").await;
    long.batch_execute("ROLLBACK TO a; UPDATE t SET n = 2 WHERE id % 10 = 0; SAVEPOINT b; DELETE FROM t WHERE id < 1000; RELEASE b").await.unwrap();
    scene.sync().await;
    scene.assert_same("other").await;
    scene
        .sql("BEGIN; INSERT INTO t SELECT g, 9, 'never' FROM generate_series(400001, 500000) g; ROLLBACK")
        .await;
    scene.sql("BEGIN; INSERT INTO other VALUES (1000); PREPARE TRANSACTION 'held'").await;
    scene.sync().await;
    long.batch_execute("COMMIT").await.unwrap();
    scene.sql("COMMIT PREPARED 'held'").await;
    let output = scene.run(&["--memory-limit", "128MiB"]).await;
    output.assert_ok();
    assert!(output.peak_rss_bytes < 128 << 20, "{} MiB", output.peak_rss_bytes >> 20);
    scene.assert_same("t").await;
    scene.assert_same("other").await;
}

async fn untold(version: Version) {
    let sql = "CREATE TABLE again (id int PRIMARY KEY, n int); INSERT INTO again SELECT g, g FROM generate_series(1, 20) g;
        CREATE TABLE one (id int PRIMARY KEY, n int); INSERT INTO one VALUES (1, 1); CREATE TABLE two (id int PRIMARY KEY, n int); INSERT INTO two VALUES (2, 2);
        CREATE TABLE same (id int PRIMARY KEY, v text); INSERT INTO same SELECT g, 'v' FROM generate_series(1, 20) g;
        CREATE TABLE calm (id int PRIMARY KEY); INSERT INTO calm VALUES (1)";
    let tables = ["again", "one", "two", "same", "calm"];
    let scene = Followed::new(&PgServer::shared(version), sql, &tables).await;
    let mut run = scene.start(&["--follow", "--checkpoint-interval", "200ms"]);
    let commits = |table: &str| scene.project.lake().join("_lakeward/public").join(table).join("commits");
    let start = std::time::Instant::now();
    while !tables.iter().all(|table| commits(table).join("000000000001.json").exists()) {
        assert!(start.elapsed().as_secs() < 60 && !run.has_ended().unwrap());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    scene
        .sql(
            "BEGIN; DROP TABLE again; CREATE TABLE again (id int PRIMARY KEY, n int); INSERT INTO again VALUES (7, 7); COMMIT;
             BEGIN; ALTER TABLE one RENAME TO three; ALTER TABLE two RENAME TO one; ALTER TABLE three RENAME TO two; COMMIT;
             BEGIN; ALTER TABLE same DROP COLUMN v; ALTER TABLE same ADD COLUMN v text; COMMIT",
        )
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(14)).await;
    assert!(
        !run.has_ended().unwrap(),
        "{}",
        run.wait_timeout(std::time::Duration::from_secs(1)).await.unwrap().stderr
    );
    run.signal(lakeward_testkit::lakeward::Signal::TERM).unwrap();
    run.wait_timeout(std::time::Duration::from_secs(15)).await.unwrap().assert_code(130);
    for table in tables {
        scene.assert_same(table).await;
    }
    // What was as before was not read again.
    assert_eq!(std::fs::read_dir(commits("calm")).unwrap().count(), 1);
}

async fn larger_than_memory(version: Version) {
    let scene =
        Followed::new(&PgServer::shared(version), "CREATE TABLE t (id int PRIMARY KEY, b text)", &["t"])
            .await;
    scene.sync().await;
    scene
        .sql(&format!("ALTER DATABASE \"{}\" SET logical_decoding_work_mem = '64kB'", scene.db.name()))
        .await;
    scene
        .sql(
            "INSERT INTO t SELECT n, (SELECT string_agg(md5(n::text || g), '') FROM generate_series(1, 400000) g) FROM generate_series(1, 3) n;
             INSERT INTO t SELECT g, 'small' FROM generate_series(10, 2000) g",
        )
        .await;
    scene.run(&["--memory-limit", "64MiB"]).await.assert_ok();
    scene.assert_same("t").await;
}

async fn moved_large(version: Version) {
    // Values that the log does not send with a new key, and that only the source knows the size of: small ones, large
    // ones, and small ones again.
    let sql = "CREATE TABLE t (id int PRIMARY KEY, n int, b text, c text); ALTER TABLE t ALTER b SET STORAGE EXTERNAL, ALTER c SET STORAGE EXTERNAL;
        INSERT INTO t SELECT n, n, (SELECT string_agg(md5(n::text || g), '') FROM generate_series(1, CASE WHEN n BETWEEN 300 AND 380 THEN 60000 ELSE 100 END) g), 'c' || n
        FROM generate_series(1, 700) n";
    let scene = Followed::new(&PgServer::shared(version), sql, &["t"]).await;
    scene.sync().await;
    scene.sql("UPDATE t SET id = id + 1000; UPDATE t SET id = id + 1000, n = 0 WHERE n % 7 = 0; DELETE FROM t WHERE n = 350").await;
    let output = scene.run(&["--memory-limit", "128MiB"]).await;
    output.assert_ok();
    assert!(output.peak_rss_bytes < 128 << 20, "{} MiB", output.peak_rss_bytes >> 20);
    scene.assert_same("t").await;
    scene.project.run(&["verify"]).await.unwrap().assert_ok();
}

async fn generated(version: Version) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED); INSERT INTO t (id, a) SELECT g, g FROM generate_series(1, 50) g";
    let scene = Followed::new(&PgServer::shared(version), sql, &["t"]).await;
    scene.sync().await;
    scene.sql("UPDATE t SET a = a + 100 WHERE id < 20; INSERT INTO t (id, a) VALUES (60, 60)").await;
    scene.sync().await;
    // Before 18 the log does not say what was computed.
    let options = match version {
        Version::Pg18 => Options::cdc(),
        Version::Pg15 => Options::cdc().exclude("twice"),
    };
    scene.assert_same_as("t", &options).await;
}

async fn replaced(version: Version) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, at timestamp, n int)";
    let scene = Followed::new(&PgServer::shared(version), sql, &["t"]).await;
    let mut run = scene.start(&["--follow", "--checkpoint-interval", "100ms"]);
    for id in 1..4 {
        scene.sql(&format!("INSERT INTO t VALUES ({id}, 'infinity', 1)")).await;
        scene.caught_up(&mut run).await;
    }
    run.signal(lakeward_testkit::lakeward::Signal::TERM).unwrap();
    let output = run.wait_timeout(std::time::Duration::from_secs(15)).await.unwrap();
    output.assert_code(130);
    let warnings = output.events_of("warning");
    let told = |warning: &&Value| warning["message"].as_str().unwrap().contains("values of column \"at\"");
    assert_eq!(warnings.iter().filter(|warning| told(warning)).count(), 1, "{}", output.stderr);
    scene.sync().await;
    let rescued = scene.asked_of_view("t", "count(*)").await;
    assert!(rescued.contains('3'), "{rescued}");
}

async fn unlogged(version: Version) {
    let kind = if version == Version::Pg18 { "VIRTUAL" } else { "STORED" };
    let sql = format!(
        "CREATE TABLE t (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) {kind}); INSERT INTO t VALUES (1, 1)"
    );
    let scene = Followed::new(&PgServer::shared(version), &sql, &["t"]).await;
    let said = "no value for generated columns";
    let found = scene.project.discover().await.unwrap();
    found.assert_ok();
    assert!(found.stderr.contains(&format!("{said} of public.t (twice)")), "{}", found.stderr);
    let found = scene.project.run(&CHECK).await.unwrap();
    found.assert_ok();
    assert!(found.stdout.contains(said) && found.stdout.contains("twice"), "{}", found.stdout);
    assert_eq!(scene.sync().await.stderr.matches(said).count(), 1);
    scene.sql("UPDATE t SET a = 2").await;
    assert!(!scene.sync().await.stderr.contains(said));
    scene.assert_same_as("t", &Options::cdc().exclude("twice")).await;
    // What is always null would let no change through.
    scene.project.select("t", json!({ "filter": "twice > 0" })).unwrap();
    let output = scene.run(&[]).await;
    output.assert_code(2);
    assert!(output.stderr.contains("twice"), "{}", output.stderr);
}

async fn looked_up_misfits(version: Version) {
    let sql = "CREATE TABLE odd (id int PRIMARY KEY, big text, grid int[]); ALTER TABLE odd ALTER big SET STORAGE EXTERNAL;
        ALTER TABLE odd ALTER grid SET STORAGE EXTERNAL;
        INSERT INTO odd SELECT g, repeat('x' || g, 3000), array_fill(g, ARRAY[60, 60]) FROM generate_series(1, 20) g";
    let scene = Followed::new(&PgServer::shared(version), sql, &["odd"]).await;
    scene.sync().await;
    // Neither of them is sent with a new key, and a grid is none of the lists that its column holds.
    scene.sql("UPDATE odd SET id = id + 1000 WHERE id < 10").await;
    let output = scene.sync().await;
    let finished = output.events_of("stream_finished");
    assert_eq!(finished[0]["bad_values"], json!([["grid", 9]]), "{finished:?}");
    let options = Options::cdc().exclude("grid");
    scene.assert_same_as("odd", &options).await;
    scene.project.run(&["verify"]).await.unwrap().assert_ok();
}
