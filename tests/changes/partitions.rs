//! Partitioned tables: rows that move, parts that come, go and are emptied.

use lakeward_testkit::lakeward::Output;
use lakeward_testkit::on_both;
use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::{PgServer, Version};
use serde_json::json;

use crate::followed::Followed;

on_both!(f10_partitions_that_are_truncated, super::truncated_parts);
on_both!(f13_partitions_that_come_and_go_between_runs, super::come_and_go_parts);
on_both!(f13_a_partition_that_came_and_went_between_two_runs, super::came_and_went);
on_both!(f13_partition_trees, super::partitions);
on_both!(f13_partitions_are_attached_while_they_are_empty, super::attached_empty);
on_both!(f13_a_new_partition_without_identity_is_told, super::new_partition);

const CHECK: [&str; 7] =
    ["check", "--config", "source.json", "--streams", "streams.json", "--output", "json"];

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

fn assert_failed_alone(output: &Output) {
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

async fn came_and_went(version: Version) {
    let sql = "CREATE TABLE t (id int, r int, PRIMARY KEY (id, r)) PARTITION BY LIST (r);
        CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1); INSERT INTO t SELECT g, 1 FROM generate_series(1, 10) g";
    let scene = Followed::new(&PgServer::shared(version), sql, &[]).await;
    choose(&scene, "t", "keep");
    scene.sync().await;
    let come_and_go = async |id: u32| {
        scene
            .sql(&format!(
                "CREATE TABLE t_9 PARTITION OF t FOR VALUES IN (9); INSERT INTO t VALUES ({id}, 9); UPDATE t SET id = id + 100 WHERE id = 1;
                 DROP TABLE t_9; UPDATE t SET id = id - 100 WHERE id = 101; INSERT INTO t VALUES ({id}, 1)"
            ))
            .await;
    };
    come_and_go(1000).await;
    scene.sync().await;
    assert_eq!(scene.asked_of_view("t", "count(*) FILTER (WHERE r = 9)").await, "[(1,)]");
    choose(&scene, "t", "fail");
    come_and_go(2000).await;
    let output = scene.run(&[]).await;
    output.assert_code(5);
    assert!(
        output.stderr.contains("partition") && output.stderr.contains("on_partition_change"),
        "{}",
        output.stderr
    );
    choose(&scene, "t", "resnapshot");
    scene.sync().await;
    scene.assert_same("t").await;
    come_and_go(3000).await;
    scene.sync().await;
    scene.assert_same("t").await;
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
    scene.until(&mut run, READ).await;
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
