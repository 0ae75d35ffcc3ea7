//! What single changes mean, from the statement to the latest view.

use lakeward_testkit::on_both;
use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::{PgServer, Version};
use serde_json::json;

use crate::followed::Followed;

on_both!(f07_values_that_are_not_sent, super::unchanged);
on_both!(f07_values_that_are_looked_up_and_do_not_fit, super::looked_up_misfits);
on_both!(f08_replica_identities, super::identities);
on_both!(f09_keys_that_change_and_swap, super::keys);
on_both!(f10_truncates_between_inserts, super::truncates);
on_both!(f10_partitions_that_are_truncated, super::truncated_parts);
on_both!(f13_partitions_that_come_and_go_between_runs, super::come_and_go_parts);
on_both!(f13_partition_trees, super::partitions);
on_both!(f13_partitions_are_attached_while_they_are_empty, super::attached_empty);
on_both!(f14_large_and_rolled_back_transactions, super::large);
on_both!(f05_what_the_log_does_not_tell_is_noticed_while_following, super::untold);
on_both!(f13_a_new_partition_without_identity_is_told, super::new_partition);
on_both!(f20_rows_larger_than_the_memory_for_changes, super::larger_than_memory);
on_both!(f20_keys_of_large_rows_are_moved, super::moved_large);
on_both!(f18_generated_columns_are_followed, super::generated);
on_both!(f18_what_the_log_has_no_value_for_is_told, super::unlogged);

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

/// Tables in two parts, each named after its policy.
const POLICIES: [&str; 3] = ["keep", "resnapshot", "fail"];

fn in_parts() -> String {
    let table = |t| {
        format!(
            "CREATE TABLE {t} (id int, r int, PRIMARY KEY (id, r)) PARTITION BY LIST (r);
             CREATE TABLE {t}_1 PARTITION OF {t} FOR VALUES IN (1); CREATE TABLE {t}_2 PARTITION OF {t} FOR VALUES IN (2);
             INSERT INTO {t} SELECT g, g % 2 + 1 FROM generate_series(1, 40) g;"
        )
    };
    POLICIES.iter().map(table).collect()
}

fn choose(scene: &Followed, table: &str, policy: &str) {
    scene.project.select(table, json!({ "sync_mode": "cdc", "on_partition_change": policy })).unwrap();
}

async fn truncated_parts(version: Version) {
    let scene = Followed::new(&PgServer::shared(version), &in_parts(), &[]).await;
    POLICIES.iter().for_each(|policy| choose(&scene, policy, policy));
    scene.sync().await;
    // All parts at once, by whatever names: the table is empty.
    for t in POLICIES {
        scene.sql(&format!("BEGIN; INSERT INTO {t} VALUES (50, 1); TRUNCATE {t}_2, {t}_1; INSERT INTO {t} VALUES (51, 1), (52, 2); COMMIT")).await;
    }
    assert!(!scene.sync().await.stderr.contains("read again"));
    for t in POLICIES {
        scene.assert_same(t).await;
    }
    let kept = Options::cdc().key(&["id", "r"]).directory(scene.project.stream_directory("keep"));
    for (round, follow) in [false, true].into_iter().enumerate() {
        scene.sql("DROP TABLE IF EXISTS kept").await;
        let output = if follow {
            let mut run = scene.start(&["--follow", "--checkpoint-interval", "100ms"]);
            scene.until(&mut run, READ).await;
            truncate_one(&scene, round).await;
            // What one stream holds up is not followed for ever.
            run.wait_timeout(std::time::Duration::from_secs(60)).await.unwrap()
        } else {
            truncate_one(&scene, round).await;
            scene.run(&[]).await
        };
        assert_failed_alone(&output);
        scene.assert_same("resnapshot").await;
        scene.assert_same_as("kept", &kept).await;
        scene.assert_nothing_forgotten_early().await;
        choose(&scene, "fail", "resnapshot");
        scene.sync().await;
        scene.assert_same("fail").await;
        choose(&scene, "fail", "fail");
        // What was kept goes with the next truncate of the table, or with a row that comes in its place.
        for t in POLICIES {
            scene
                .sql(&format!(
                    "TRUNCATE {t}; INSERT INTO {t} SELECT g, g % 2 + 1 FROM generate_series(1, 20) g"
                ))
                .await;
        }
        scene.sync().await;
        for t in POLICIES {
            scene.assert_same(t).await;
        }
    }
}

const READ: &str = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database() AND active AND NOT temporary)";

/// Empties one part of each table, between other changes. `kept` is what the rows are where they are kept.
async fn truncate_one(scene: &Followed, round: usize) {
    let sql = |t: &str, kept: &str| {
        format!(
            "BEGIN; INSERT INTO {t} VALUES (6{round}, 1), (6{round}, 2); {kept} TRUNCATE {t}_1; INSERT INTO {t} VALUES (7{round}, 1); COMMIT;
             UPDATE {t} SET id = id + 100 WHERE id = 7{round} OR (id, r) = (6{round}, 2)"
        )
    };
    scene.sql(&sql("resnapshot", "")).await;
    scene.sql(&sql("keep", "CREATE TABLE kept AS SELECT * FROM keep;")).await;
    scene.sql(&format!("INSERT INTO kept VALUES (17{round}, 1); UPDATE kept SET id = id + 100 WHERE (id, r) = (6{round}, 2)")).await;
    // Last, because it ends what is followed.
    scene.sql(&sql("fail", "")).await;
}

fn assert_failed_alone(output: &lakeward_testkit::lakeward::Output) {
    output.assert_code(5);
    let failed = output.events_of("stream_failed");
    assert_eq!((failed.len(), &failed[0]["stream"]), (1, &json!("public.fail")), "{failed:?}");
    assert!(failed[0]["error"].as_str().unwrap().contains("truncated"), "{failed:?}");
    assert!(output.stderr.contains("its rows are kept"), "{}", output.stderr);
}

async fn come_and_go_parts(version: Version) {
    let tables = POLICIES;
    let scene = Followed::new(&PgServer::shared(version), &in_parts(), &[]).await;
    let choose = |table: &str, policy: &str| choose(&scene, table, policy);
    tables.iter().for_each(|policy| choose(policy, policy));
    scene.sync().await;
    // With rows in it, of which none changes: under every policy.
    for t in tables {
        scene
            .sql(&format!(
                "CREATE TABLE {t}_3 (LIKE {t} INCLUDING ALL); INSERT INTO {t}_3 SELECT g, 3 FROM generate_series(100, 120) g;
                 ALTER TABLE {t} ATTACH PARTITION {t}_3 FOR VALUES IN (3);
                 CREATE TABLE {t}_4 PARTITION OF {t} FOR VALUES IN (4); INSERT INTO {t} VALUES (200, 4)"
            ))
            .await;
    }
    scene.sync().await;
    for t in tables {
        scene.assert_same(t).await;
        // Made empty: the log has all of it.
        scene
            .sql(&format!(
                "CREATE TABLE {t}_5 PARTITION OF {t} FOR VALUES IN (5); INSERT INTO {t} VALUES (201, 5)"
            ))
            .await;
    }
    assert!(!scene.sync().await.stderr.contains("read again"));
    // Away and back, and altered meanwhile.
    for t in tables {
        scene
            .sql(&format!(
                "ALTER TABLE {t} DETACH PARTITION {t}_2; UPDATE {t}_2 SET id = id + 1000; DELETE FROM {t}_2 WHERE id < 1010; ALTER TABLE {t} ATTACH PARTITION {t}_2 FOR VALUES IN (2)"
            ))
            .await;
    }
    scene.sync().await;
    for t in tables {
        scene.assert_same(t).await;
    }
    // One that was made, one that was attached, and one that came since its table was read.
    for part in ["1", "3", "5"] {
        let before: Vec<String> = {
            let mut counts = Vec::new();
            for t in tables {
                counts.push(scene.value(&format!("SELECT count(*) FROM {t}")).await);
            }
            counts
        };
        for t in tables {
            scene.sql(&format!("DROP TABLE {t}_{part}; INSERT INTO {t} VALUES (3{part}, 4)")).await;
        }
        let output = scene.run(&[]).await;
        output.assert_code(5);
        let failed = output.events_of("stream_failed");
        assert_eq!((failed.len(), &failed[0]["stream"]), (1, &json!("public.fail")), "{failed:?}");
        scene.assert_same("resnapshot").await;
        let kept = scene.project.run(&["verify", "public.keep", "--output", "json"]).await.unwrap();
        let kept = &kept.json().unwrap()["streams"][0];
        assert_eq!(kept["different"], 0, "{kept}");
        assert!(
            kept["extra"].as_u64() > Some(0),
            "rows of {part} are kept: {kept}, {before:?} {}",
            output.stderr
        );
        choose("fail", "resnapshot");
        scene.sync().await;
        scene.assert_same("fail").await;
        choose("fail", "fail");
        scene.sync().await;
    }
}

async fn partitions(version: Version) {
    let sql = "CREATE TABLE p (id int, region text, n int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
        CREATE TABLE p_eu PARTITION OF p FOR VALUES IN ('eu'); CREATE TABLE p_us PARTITION OF p FOR VALUES IN ('us') PARTITION BY RANGE (id);
        CREATE TABLE p_us_low PARTITION OF p_us FOR VALUES FROM (MINVALUE) TO (50); CREATE TABLE p_us_high PARTITION OF p_us FOR VALUES FROM (50) TO (MAXVALUE);
        INSERT INTO p SELECT g, (ARRAY['eu', 'us'])[g % 2 + 1], g FROM generate_series(1, 100) g";
    let scene = Followed::new(&PgServer::shared(version), sql, &["p"]).await;
    scene.sync().await;
    scene.sql("UPDATE p SET region = 'us' WHERE id < 20; UPDATE p SET n = 0 WHERE id > 90; DELETE FROM p WHERE id = 60; INSERT INTO p VALUES (500, 'us', 1)").await;
    scene.sync().await;
    scene.assert_same("p").await;
    // A partition that is made empty is followed; one that is attached with rows in it is read.
    scene
        .sql("CREATE TABLE p_ap PARTITION OF p FOR VALUES IN ('ap'); INSERT INTO p VALUES (600, 'ap', 1)")
        .await;
    scene.sync().await;
    scene.assert_same("p").await;
    scene.sql("CREATE TABLE p_af (LIKE p INCLUDING ALL); INSERT INTO p_af SELECT g, 'af', g FROM generate_series(700, 720) g; ALTER TABLE p ATTACH PARTITION p_af FOR VALUES IN ('af'); UPDATE p SET n = 9 WHERE region = 'af'").await;
    scene.sync().await;
    scene.assert_same("p").await;
    // A table that goes under another name and comes back by the same one is another.
    scene.sql("DROP TABLE p; CREATE TABLE p (id int, region text, n int, PRIMARY KEY (id, region)); INSERT INTO p VALUES (1, 'new', 1)").await;
    scene.sync().await;
    scene.assert_same("p").await;
}

async fn attached_empty(version: Version) {
    let sql = "CREATE TABLE p (id int, day int, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1) TO (2); INSERT INTO p SELECT g, 1, 'n' FROM generate_series(1, 100) g";
    let scene = Followed::new(&PgServer::shared(version), sql, &["p"]).await;
    let attach = async |part: &str, day: i32, rows: &str| {
        let made = format!("CREATE TABLE {part} (LIKE p INCLUDING ALL); {rows};");
        let range = format!("ALTER TABLE p ATTACH PARTITION {part} FOR VALUES FROM ({day}) TO ({})", day + 1);
        scene.sql(&format!("{made} {range}")).await;
    };
    let again = |output: &lakeward_testkit::lakeward::Output| output.stderr.contains("read again");
    scene.sync().await;
    // Made ahead of their rows, as programs that care for partitions do.
    attach("p2", 2, "").await;
    attach("p3", 3, "").await;
    assert!(!again(&scene.sync().await));
    scene.sql("INSERT INTO p SELECT g, 2 + g % 2, 'm' FROM generate_series(200, 300) g; UPDATE p SET note = 'u' WHERE id % 5 = 0; UPDATE p SET day = 2 WHERE id < 5").await;
    for _ in 0..2 {
        assert!(!again(&scene.sync().await));
        scene.assert_same("p").await;
    }
    // With rows, also below a partition that has none of its own, and one that was away for a while.
    attach("p4", 4, "INSERT INTO p4 SELECT g, 4, 'old' FROM generate_series(400, 410) g").await;
    assert!(again(&scene.sync().await));
    scene.assert_same("p").await;
    scene.sql("CREATE TABLE p5 (LIKE p INCLUDING ALL) PARTITION BY LIST (id); CREATE TABLE p5_1 PARTITION OF p5 DEFAULT; INSERT INTO p5 VALUES (500, 5, 'old'); ALTER TABLE p ATTACH PARTITION p5 FOR VALUES FROM (5) TO (6)").await;
    assert!(again(&scene.sync().await));
    scene.assert_same("p").await;
    scene.sql("ALTER TABLE p DETACH PARTITION p3; UPDATE p3 SET note = 'away'; ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM (3) TO (4)").await;
    assert!(again(&scene.sync().await));
    scene.assert_same("p").await;

    // While a run follows, which sees it between its looks at the catalog.
    let run = scene.start(&["--follow", "--checkpoint-interval", "100ms"]);
    attach("p6", 6, "").await;
    let noted = || {
        let directory = scene.project.lake().join("_lakeward/public/p/commits");
        let records = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let said = records.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
        said.filter(|record| record.contains("/parts")).count()
    };
    let before = noted();
    let began = std::time::Instant::now();
    while noted() == before {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "it was not noticed");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    scene.sql("INSERT INTO p SELECT g, 6, 'late' FROM generate_series(600, 650) g; DELETE FROM p WHERE id = 610; UPDATE p SET note = 'v' WHERE day = 6 AND id % 3 = 0").await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    run.signal(lakeward_testkit::lakeward::Signal::TERM).unwrap();
    let output = run.wait_timeout(std::time::Duration::from_secs(15)).await.unwrap();
    output.assert_code(130);
    assert!(!again(&output), "{}", output.stderr);
    assert!(!again(&scene.sync().await));
    scene.assert_same("p").await;
    scene.project.run(&["verify"]).await.unwrap().assert_ok();
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

async fn new_partition(version: Version) {
    let sql = "CREATE TABLE t (id int, n int) PARTITION BY RANGE (id); \
        CREATE TABLE first PARTITION OF t FOR VALUES FROM (0) TO (10); ALTER TABLE first REPLICA IDENTITY FULL; \
        INSERT INTO t VALUES (1, 1)";
    let scene = Followed::new(&PgServer::shared(version), sql, &["t"]).await;
    let found = scene.project.run(&CHECK).await.unwrap();
    found.assert_ok();
    assert!(found.stdout.contains("REPLICA IDENTITY FULL"), "{}", found.stdout);
    scene.sync().await;
    let mut run = scene.start(&["--follow"]);
    let reads = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database() AND active AND NOT temporary)";
    scene.until(&mut run, reads).await;
    // The tables are described once the slot is read.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    scene
        .sql("CREATE TABLE second PARTITION OF t FOR VALUES FROM (10) TO (20); INSERT INTO t VALUES (11, 1)")
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(8)).await;
    run.signal(lakeward_testkit::lakeward::Signal::TERM).unwrap();
    let output = run.wait_timeout(std::time::Duration::from_secs(15)).await.unwrap();
    output.assert_code(130);
    // The server refuses the application's statement; what it is told helps.
    assert!(scene.db.execute("UPDATE t SET n = 2 WHERE id = 11").await.is_err());
    let remedy = "ALTER TABLE \"public\".\"second\" REPLICA IDENTITY FULL;";
    assert_eq!(output.stderr.matches("fail at the source").count(), 1, "{}", output.stderr);
    let plain = output.stderr.replace("\\\"", "\"");
    assert!(plain.contains(remedy), "{}", output.stderr);
    let refused = scene.run(&[]).await;
    refused.assert_code(2);
    assert!(refused.stderr.replace("\\\"", "\"").contains(remedy), "{}", refused.stderr);
    scene.sql(&format!("{remedy} UPDATE t SET n = 2 WHERE id = 11")).await;
    scene.sync().await;
    scene.assert_same("t").await;
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
