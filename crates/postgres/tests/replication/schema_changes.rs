//! Tables that change while they are followed: what the log no longer means is said before any of it counts.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use lakeward_core::{ChangeEvent, DriverInterface, ErrorKind, Schema, Until};
use serde_json::json;

use super::support::{Follower, Pipeline, VERSIONS, changes, within};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, a int, b text); INSERT INTO t SELECT g, g, 'x' FROM generate_series(1, 5) g;
    CREATE TABLE calm (LIKE t INCLUDING ALL)";

/// What a reading came to.
#[derive(Debug, Default)]
struct Read {
    /// Why it ended early.
    changed: Option<String>,
    /// Rows that no boundary follows.
    uncommitted: usize,
}

/// Reads until a stream is said to have changed, or a row of `calm` comes, and commits what boundaries cover.
async fn read(pipeline: &mut Pipeline, followers: &mut [Follower], until: Until) -> Read {
    let mut events = pipeline.read_with(pipeline.request(followers, until)).await.unwrap();
    let mut result = Read::default();
    let mut pending: Vec<(usize, Vec<super::support::Change>)> = Vec::new();
    while let Some(event) = within(events.next()).await {
        match event.unwrap() {
            ChangeEvent::Changes(stream, batch) => {
                let at = followers.iter().position(|f| f.stream.id == stream).unwrap();
                pending.push((at, changes(&batch)));
            }
            ChangeEvent::Boundary(boundary) => {
                let calm = pending.iter().any(|(at, _)| followers[*at].stream.id.name == "calm");
                for (at, rows) in pending.drain(..) {
                    followers[at].rows.extend(rows);
                }
                pipeline.position = boundary.position.clone();
                followers.iter_mut().for_each(|f| f.position = boundary.position.clone());
                pipeline.cdc().release(&boundary.position).await.unwrap();
                if calm && until == Until::Forever {
                    break;
                }
            }
            ChangeEvent::Resting(_) => {}
            ChangeEvent::Changed { what, .. } => {
                result.changed = Some(what);
                assert!(within(events.next()).await.is_none(), "something follows the last event");
                break;
            }
        }
    }
    drop(events);
    pipeline.cdc().post_cdc().await.unwrap();
    result.uncommitted = pending.iter().map(|(_, rows)| rows.len()).sum();
    result
}

/// Configures a stream again, as who follows a change of it does.
async fn again(pipeline: &Pipeline, follower: &mut Follower) {
    let mut stream = pipeline.stream(&follower.stream.id.name, json!({})).await;
    // What the source lost stays a column of the files.
    let former = follower.stream.file_columns().columns.into_iter();
    let lost = former.filter(|column| stream.schema.column(&column.name).is_none()).collect();
    Arc::make_mut(&mut stream).retired = Schema { columns: lost };
    follower.stream = stream;
}

/// What happens to the table, what is said of it, and whether the log goes on once it is described anew, without being
/// read again.
const CASES: &[(&str, &str, &str, bool)] = &[
    ("add", "ALTER TABLE t ADD c int", "column c was added", true),
    ("default", "ALTER TABLE t ADD c int DEFAULT 7", "column c was added", true),
    ("drop", "ALTER TABLE t DROP a", "column a was dropped", true),
    ("rename", "ALTER TABLE t RENAME a TO z", "column a was dropped", true),
    ("widen", "ALTER TABLE t ALTER a TYPE bigint", "type of column a changed", true),
    ("using", "ALTER TABLE t ALTER b TYPE int USING length(b)", "type of column b changed", false),
    ("limit", "ALTER TABLE t ALTER b TYPE varchar(5)", "type of column b changed", true),
    ("readd", "ALTER TABLE t DROP b, ADD b text", "column b is another one", false),
    (
        "key",
        "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, a)",
        "replica identity changed",
        false,
    ),
    (
        "index",
        "ALTER TABLE t ALTER a SET NOT NULL; CREATE UNIQUE INDEX i ON t (a); ALTER TABLE t REPLICA IDENTITY USING INDEX i",
        "replica identity changed",
        false,
    ),
];

#[tokio::test]
async fn f11_f12_a_stream_that_changed_while_it_was_read_is_told_before_its_rows() {
    for version in VERSIONS {
        for (name, ddl, said, _) in CASES.iter().filter(|case| case.0 != "readd") {
            let mut pipeline = Pipeline::new(version, &format!("live_{name}"), TABLE).await;
            let mut followers = pipeline.begin(&[("t", json!({})), ("calm", json!({}))]).await;
            let writer = pipeline.db.connect().await;
            let sql = format!(
                "INSERT INTO t VALUES (10, 10, 'y'); UPDATE t SET id = 11 WHERE id = 10; {ddl}; INSERT INTO t (id, {}) VALUES (12, {})",
                if *name == "rename" {
                    "z"
                } else if *name == "drop" {
                    "b"
                } else {
                    "a"
                },
                if *name == "drop" { "'1'" } else { "12" },
            );
            let work = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(400)).await;
                for statement in sql.split(';') {
                    writer.batch_execute(statement).await.unwrap();
                }
            });
            let before = followers[0].rows.len();
            let read = read(&mut pipeline, &mut followers, Until::Forever).await;
            work.await.unwrap();
            let what = read.changed.unwrap();
            assert!(what.contains(said), "{version}, {name}: {what}");
            // What came before it may have been committed or not; what came after it was not.
            assert!("cdc".starts_with(&followers[0].ops(before)), "{name}: {}", followers[0].ops(before));
            pipeline.close().await;
        }
    }
}

#[tokio::test]
async fn f11_a_stream_that_changed_before_it_is_read_is_told_first() {
    for version in VERSIONS {
        for (name, ddl, said, goes_on) in CASES {
            let mut pipeline = Pipeline::new(version, &format!("cold_{name}"), TABLE).await;
            let mut followers = pipeline.begin(&[("t", json!({})), ("calm", json!({}))]).await;
            pipeline.db.run("INSERT INTO t VALUES (10, 10, 'y'); DELETE FROM t WHERE id = 1").await;
            for statement in ddl.split(';') {
                pipeline.db.run(statement).await;
            }
            pipeline.db.run("DELETE FROM t WHERE id = 2; INSERT INTO t (id) SELECT 20 WHERE false").await;
            let before = followers[0].rows.len();
            let first = read(&mut pipeline, &mut followers, Until::Now).await;
            let what = first.changed.unwrap();
            assert!(what.contains(said), "{version}, {name}: {what}");
            assert_eq!(first.uncommitted, 0);
            assert_eq!(followers[0].rows.len(), before);
            // Described anew it is what it is now.
            again(&pipeline, &mut followers[0]).await;
            let second = read(&mut pipeline, &mut followers, Until::Now).await;
            match goes_on {
                // What stands behind a column was made after it: it had another name.
                true if *name == "rename" => {
                    let what = second.changed.unwrap_or_else(|| panic!("{version}, {name}: it goes on"));
                    assert!(what.contains("another's name"), "{version}, {name}: {what}");
                }
                // What the log says of the time before has the columns of then.
                true => {
                    assert_eq!(second.changed, None, "{version}, {name}");
                    assert_eq!(followers[0].ops(before), "cdd", "{version}, {name}");
                }
                false if *name == "readd" => {}
                false => {
                    let what = second.changed.unwrap_or_else(|| panic!("{version}, {name}: it goes on"));
                    assert!(what.contains("changed"), "{version}, {name}: {what}");
                }
            }
            pipeline.close().await;
        }
    }
}

#[tokio::test]
async fn f11_f13_what_was_read_again_behind_a_change_does_not_meet_it() {
    for version in VERSIONS {
        let attach = "CREATE TABLE p3 (LIKE p INCLUDING ALL); INSERT INTO p3 VALUES (200, 1); ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM (200) TO (300)";
        let detach = "ALTER TABLE p DETACH PARTITION p2; DROP TABLE p2";
        let cases = CASES.iter().map(|(name, ddl, ..)| (*name, "t", *ddl));
        for (name, table, ddl) in cases.chain([("attach", "p", attach), ("detach", "p", detach)]) {
            let mut pipeline = Pipeline::new(
                version,
                &format!("behind_{name}"),
                &format!("{TABLE}; {}", PARTS.replace("calm", "still")),
            )
            .await;
            let mut followers = pipeline
                .begin(&[(table, json!({"on_partition_change": "resnapshot"})), ("calm", json!({}))])
                .await;
            let row = if table == "t" { "10, 10, 'y'" } else { "150, 1" };
            pipeline.db.run(&format!("INSERT INTO {table} VALUES ({row}); DELETE FROM {table} WHERE id = 1; INSERT INTO calm VALUES (1)")).await;
            for statement in ddl.split(';') {
                pipeline.db.run(statement).await;
            }
            pipeline.db.run(&format!("DELETE FROM {table} WHERE id = 2")).await;
            again(&pipeline, &mut followers[0]).await;
            let (session, rows) = pipeline.snapshot(&followers[0].stream).await;
            let position = session.position.clone().unwrap();
            followers[0] = Follower { stream: followers[0].stream.clone(), position, rows, session };
            let before = followers[0].rows.len();
            let last = if table == "t" { 3 } else { 95 };
            pipeline
                .db
                .run(&format!("DELETE FROM {table} WHERE id = {last}; INSERT INTO calm VALUES (2)"))
                .await;
            let read = read(&mut pipeline, &mut followers, Until::Now).await;
            assert_eq!(read.changed, None, "{version}, {name}");
            assert_eq!(followers[0].ops(before), "d", "{version}, {name}");
            pipeline.assert_same(&followers[0], table).await;
            assert_eq!(followers[1].ops(0), "cc");
            pipeline.close().await;
        }
    }
}

#[tokio::test]
async fn f13_rows_of_a_partition_that_went_before_they_were_read_follow_the_policy() {
    for version in VERSIONS {
        for (policy, end) in [
            ("keep", "DETACH PARTITION p2"),
            ("resnapshot", "DETACH PARTITION p2"),
            ("keep", "DETACH PARTITION p2; DROP TABLE p2"),
        ] {
            let mut pipeline = Pipeline::new(version, "part_former", PARTS).await;
            let selection = json!({"on_partition_change": policy});
            let mut followers = pipeline.begin(&[("p", selection), ("calm", json!({}))]).await;
            pipeline.db.run("INSERT INTO p VALUES (150, 1), (1, 1); DELETE FROM p WHERE id = 100").await;
            pipeline.db.run(&format!("ALTER TABLE p {end}")).await;
            pipeline.db.run("INSERT INTO p VALUES (2, 1); CREATE TABLE stranger (LIKE p INCLUDING ALL); INSERT INTO stranger VALUES (1, 1)").await;
            let read = read(&mut pipeline, &mut followers, Until::Now).await;
            if policy == "keep" {
                assert_eq!(read.changed, None, "{version}, {end}");
                assert_eq!(followers[0].ops(20), "ccdc");
            } else {
                assert!(read.changed.unwrap().contains("partition"));
                assert_eq!(followers[0].rows.len(), 20);
            }
            pipeline.close().await;
        }
    }
}

#[tokio::test]
async fn f11_dropped_columns_leave_older_changes_whole() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "ddl_mix", TABLE).await;
        let mut followers = pipeline.begin(&[("t", json!({}))]).await;
        // One after another, and the reader comes late.
        pipeline
            .db
            .run(
                "INSERT INTO t VALUES (10, 10, 'old'); ALTER TABLE t DROP a; INSERT INTO t VALUES (11, 'no a');
                 ALTER TABLE t ADD c int; INSERT INTO t VALUES (12, 'c', 12);
                 ALTER TABLE t ADD e text DEFAULT 'e'; BEGIN; INSERT INTO t VALUES (13, 'e', 13); INSERT INTO t VALUES (14, 'e', 14, 'e14'); COMMIT;
                 BEGIN; ALTER TABLE t ADD f int; INSERT INTO t VALUES (16, 'f', 1, 'e', 1); ROLLBACK; INSERT INTO t VALUES (17, 'b', 17, 'e')",
            )
            .await;
        assert!(read(&mut pipeline, &mut followers, Until::Now).await.changed.is_some());
        again(&pipeline, &mut followers[0]).await;
        let names: Vec<&str> = followers[0].stream.schema.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["id", "b", "c", "e"]);
        let before = followers[0].rows.len();
        let second = read(&mut pipeline, &mut followers, Until::Now).await;
        assert_eq!(second.changed, None);
        let values: Vec<Vec<&str>> = followers[0].rows[before..]
            .iter()
            .map(|row| row.values.iter().map(|value| value.as_deref().unwrap_or("-")).collect())
            .collect();
        // A column that was not there then has no value: `on_schema_change` says what to do.
        assert_eq!(
            values,
            [
                vec!["10", "old", "-", "-"],
                vec!["11", "no a", "-", "-"],
                vec!["12", "c", "12", "-"],
                vec!["13", "e", "13", "e"],
                vec!["14", "e", "14", "e14"],
                vec!["17", "b", "17", "e"]
            ]
        );
        // One that came and went while another was missing may have been that one, under another name.
        pipeline
            .db
            .run("ALTER TABLE t RENAME b TO x; INSERT INTO t VALUES (18, 'x'); ALTER TABLE t RENAME x TO b")
            .await;
        let what = read(&mut pipeline, &mut followers, Until::Now).await.changed.unwrap();
        assert!(what.contains("may have been called x for a while"), "{what}");
        pipeline.close().await;
    }
}

#[tokio::test]
async fn columns_that_nobody_chose_may_come_and_go() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "unchosen", TABLE).await;
        let selection = json!({"columns": {"exclude": ["a"]}});
        let mut followers = pipeline.begin(&[("t", selection)]).await;
        pipeline.db.run("INSERT INTO t VALUES (10, 10, 'y'); ALTER TABLE t ALTER a TYPE text; INSERT INTO t VALUES (11, 'a', 'y'); ALTER TABLE t DROP a; INSERT INTO t VALUES (12, 'y')").await;
        pipeline.catch_up(&mut followers).await;
        pipeline.assert_same(&followers[0], "t").await;
        pipeline.close().await;
    }
}

#[tokio::test]
async fn f05_a_table_that_was_dropped_and_made_again_is_another() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "remade", TABLE).await;
        let mut followers = pipeline.begin(&[("t", json!({})), ("calm", json!({}))]).await;
        let stream = followers[0].stream.clone();
        pipeline.db.run("INSERT INTO t VALUES (10, 10, 'y'); DROP TABLE t").await;
        let gone = read(&mut pipeline, &mut followers, Until::Now).await;
        assert!(gone.changed.unwrap().contains("gone"));
        // Made again, the publication no longer has it.
        pipeline
            .db
            .run("CREATE TABLE t (id int PRIMARY KEY, a int, b text); INSERT INTO t VALUES (1, 1, 'new')")
            .await;
        let prepared = pipeline.prepare(std::slice::from_ref(&stream)).await.unwrap();
        assert!(prepared.places.is_empty(), "{:?}", prepared.places);
        let (session, rows) = pipeline.snapshot(&stream).await;
        assert_eq!(rows.len(), 1);
        assert_ne!(session.fingerprint.log, followers[0].session.fingerprint.log);
        followers.truncate(1);
        followers[0] = Follower { position: session.position.clone().unwrap(), stream, rows, session };
        pipeline.db.run("INSERT INTO t VALUES (2, 2, 'new')").await;
        pipeline.catch_up(&mut followers).await;
        pipeline.assert_same(&followers[0], "t").await;
        // While it is read, a rename puts another table in its place: the log is of the one that was published.
        pipeline.db.run("ALTER TABLE t RENAME TO t_old; CREATE TABLE t (LIKE t_old INCLUDING ALL); INSERT INTO t_old VALUES (3, 3, 'old')").await;
        let stream = followers[0].stream.clone();
        let swapped = pipeline.prepare(&[stream]).await.unwrap();
        assert!(swapped.places.is_empty(), "{:?}", swapped.places);
        pipeline.close().await;
    }
}

#[tokio::test]
async fn f10_truncates_stand_between_the_rows_of_several_tables() {
    for version in VERSIONS {
        let sql = format!("{TABLE}; CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t)");
        let mut pipeline = Pipeline::new(version, "truncates", &sql).await;
        let mut followers =
            pipeline.begin(&[("t", json!({})), ("calm", json!({})), ("child", json!({}))]).await;
        pipeline
            .db
            .run(
                "BEGIN; INSERT INTO calm VALUES (1, 1, 'x'); INSERT INTO child VALUES (1, 1); TRUNCATE t, calm CASCADE;
                 INSERT INTO t VALUES (1, 2, 'y'); INSERT INTO child VALUES (2, 1); TRUNCATE child; INSERT INTO child VALUES (3, 1); COMMIT; TRUNCATE calm RESTART IDENTITY",
            )
            .await;
        pipeline.catch_up(&mut followers).await;
        assert_eq!(followers[0].ops(5), "tc");
        assert_eq!(followers[1].ops(0), "ctt");
        assert_eq!(followers[2].ops(0), "ctctc");
        for (follower, table) in followers.iter().zip(["t", "calm", "child"]) {
            pipeline.assert_same(follower, table).await;
        }
        pipeline.close().await;
    }
}

const PARTS: &str = "CREATE TABLE p (id int, n int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);
    INSERT INTO p SELECT g, g FROM generate_series(90, 109) g; CREATE TABLE calm (id int PRIMARY KEY)";

#[tokio::test]
async fn f13_partitions_that_come_and_go_while_they_are_read() {
    for version in VERSIONS {
        for (name, ddl, said) in [
            (
                "made",
                "CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (200) TO (300); INSERT INTO p VALUES (200, 1)",
                None,
            ),
            (
                "filled",
                "CREATE TABLE p3 (LIKE p INCLUDING ALL); INSERT INTO p3 VALUES (200, 1); ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM (200) TO (300); INSERT INTO p VALUES (201, 1)",
                Some("was attached"),
            ),
            (
                "at_once",
                "BEGIN; CREATE TABLE p3 (LIKE p INCLUDING ALL); INSERT INTO p3 VALUES (200, 1); ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM (200) TO (300); INSERT INTO p VALUES (201, 1); COMMIT",
                Some("was attached"),
            ),
            (
                "detached",
                "INSERT INTO p VALUES (1, 1); ALTER TABLE p DETACH PARTITION p2; INSERT INTO p2 VALUES (150, 1); INSERT INTO p VALUES (2, 2)",
                None,
            ),
            ("dropped", "INSERT INTO p VALUES (1, 1); DROP TABLE p2; INSERT INTO p VALUES (2, 2)", None),
        ] {
            let mut pipeline = Pipeline::new(version, &format!("part_{name}"), PARTS).await;
            let mut followers = pipeline.begin(&[("p", json!({})), ("calm", json!({}))]).await;
            let writer = pipeline.db.connect().await;
            let ddl = ddl.to_owned();
            let work = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(400)).await;
                // Each by itself, but for those of one transaction.
                let statements: Vec<&str> =
                    if ddl.starts_with("BEGIN") { vec![&ddl] } else { ddl.split(';').collect() };
                for statement in statements {
                    writer.batch_execute(statement).await.unwrap();
                }
                writer.batch_execute("INSERT INTO calm VALUES (1)").await.unwrap();
            });
            let read = read(&mut pipeline, &mut followers, Until::Forever).await;
            work.await.unwrap();
            match said {
                Some(said) => assert!(
                    read.changed.as_deref().is_some_and(|what| what.contains(said)),
                    "{version}, {name}: {read:?}"
                ),
                None => {
                    assert_eq!(read.changed, None, "{version}, {name}");
                    // Rows of a partition that went are kept: nothing in the log says that they went.
                    let kept: Vec<_> = followers[0]
                        .latest()
                        .into_iter()
                        .filter(|row| {
                            let id: i32 = row[0].as_deref().unwrap().parse().unwrap();
                            matches!(name, "made") || id < 100
                        })
                        .collect();
                    let sql = "SELECT count(*) FROM p";
                    assert_eq!(kept.len() as i64, pipeline.db.number(sql).await, "{version}, {name}");
                }
            }
            pipeline.close().await;
        }
    }
}

#[tokio::test]
async fn f10_truncates_of_partitions_follow_the_policy() {
    for version in VERSIONS {
        for policy in ["keep", "resnapshot", "fail"] {
            let mut pipeline = Pipeline::new(version, &format!("part_t_{policy}"), PARTS).await;
            let selection = json!({"on_partition_change": policy});
            let mut followers = pipeline.begin(&[("p", selection), ("calm", json!({}))]).await;
            // All of it, by whatever name; a partition made since is none of those that were emptied.
            pipeline.db.run("TRUNCATE p; INSERT INTO p VALUES (1, 1)").await;
            pipeline.db.run("CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (200) TO (300); INSERT INTO p VALUES (200, 1)").await;
            let first = read(&mut pipeline, &mut followers, Until::Now).await;
            assert_eq!(first.changed, None, "{version}, {policy}");
            assert_eq!(followers[0].ops(20), "tcc");
            pipeline.assert_same(&followers[0], "p").await;
            pipeline.db.run("TRUNCATE p1, p2, p3; INSERT INTO p VALUES (3, 3)").await;
            let second = read(&mut pipeline, &mut followers, Until::Now).await;
            assert_eq!(second.changed, None, "{version}, {policy}");
            pipeline.assert_same(&followers[0], "p").await;
            pipeline.db.run("INSERT INTO p VALUES (150, 1); TRUNCATE p1").await;
            if policy == "fail" {
                let events = pipeline.read_with(pipeline.request(&followers, Until::Now)).await.unwrap();
                let error = within(events.try_collect::<Vec<_>>()).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Schema, "{version}");
                assert!(error.to_string().contains("truncated"), "{version}: {error}");
            } else {
                let third = read(&mut pipeline, &mut followers, Until::Now).await;
                match policy {
                    "keep" => {
                        assert_eq!(third.changed, None);
                        assert_eq!(followers[0].latest().len(), 2);
                    }
                    _ => assert!(third.changed.unwrap().contains("truncated"), "{version}"),
                }
            }
            pipeline.close().await;
        }
    }
}

#[tokio::test]
async fn f08_identities_that_no_log_could_name_rows_by_are_refused() {
    for version in VERSIONS {
        let sql = "CREATE TABLE bare (a int, b int); CREATE TABLE none (id int PRIMARY KEY); ALTER TABLE none REPLICA IDENTITY NOTHING;
            CREATE TABLE late (id int PRIMARY KEY DEFERRABLE); CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
            CREATE TABLE good (id int PRIMARY KEY, u int NOT NULL UNIQUE); ALTER TABLE good REPLICA IDENTITY USING INDEX good_u_key;
            CREATE VIEW v AS SELECT * FROM good";
        let mut pipeline = Pipeline::new(version, "identities", sql).await;
        for table in ["bare", "none", "late", "unlogged", "v"] {
            let stream = super::super::server::stream(&pipeline.driver, table).await;
            assert!(stream.log_key.is_none(), "{table}");
            assert!(!stream.sync_modes.contains(&lakeward_core::SyncMode::Cdc), "{table}");
            let logged = !matches!(table, "unlogged" | "v");
            assert_eq!(
                (stream.inserts_only.is_some(), stream.unlogged.is_none()),
                (logged, logged),
                "{table}"
            );
        }
        let mut followers = pipeline.begin(&[("good", json!({}))]).await;
        assert_eq!(followers[0].stream.key, ["u"]);
        pipeline.db.run("INSERT INTO good VALUES (1, 1), (2, 2); UPDATE good SET u = 3 WHERE id = 1; DELETE FROM good WHERE id = 2").await;
        pipeline.catch_up(&mut followers).await;
        assert_eq!(followers[0].ops(0), "ccdcd");
        pipeline.assert_same(&followers[0], "good").await;

        // Refused once more when it joins: it may have changed since it was described.
        let good = pipeline.stream("good", json!({})).await;
        pipeline.db.run("CREATE TABLE other (id int PRIMARY KEY, u int); ALTER PUBLICATION lw_identities DROP TABLE good; ALTER TABLE good REPLICA IDENTITY NOTHING").await;
        let findings = pipeline.driver.check(std::slice::from_ref(&good)).await.unwrap();
        assert!(
            findings.iter().any(|finding| finding.message.contains("REPLICA IDENTITY NOTHING")),
            "{findings:?}"
        );
        let error = pipeline.driver.begin_backfill(&good).await.unwrap_err();
        assert!(
            error.to_string().contains("REPLICA IDENTITY") || error.to_string().contains("key"),
            "{error}"
        );
        // The application's statements never failed for us.
        pipeline.db.run("UPDATE good SET id = 9 WHERE id = 1").await;
        pipeline.close().await;
    }
}

#[tokio::test]
async fn f11_a_change_that_is_in_the_log_and_not_yet_in_the_catalog_is_waited_for() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::alone(version, "quiet", TABLE, json!({})).await;
        let mut followers = pipeline.begin(&[("t", json!({})), ("calm", json!({}))]).await;
        let writer = pipeline.db.connect().await;
        writer.batch_execute("SET synchronous_commit = on").await.unwrap();
        let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        // A commit that waits for a standby is in the log, and nobody sees it.
        pipeline.db.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
        pipeline.db.run("SELECT pg_reload_conf()").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let work = tokio::spawn(async move {
            let sql = "BEGIN; ALTER TABLE t ADD c int; INSERT INTO t VALUES (10, 10, 'y', 10); COMMIT";
            writer.batch_execute(sql).await
        });
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        within(async {
            while pipeline.db.number(waits).await == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let admin = pipeline.db.connect().await;
        let cancel = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            admin.query("SELECT pg_cancel_backend($1)", &[&pid]).await.unwrap();
        });
        let read = read(&mut pipeline, &mut followers, Until::Now).await;
        pipeline.db.run("ALTER SYSTEM RESET synchronous_standby_names").await;
        pipeline.db.run("SELECT pg_reload_conf()").await;
        cancel.await.unwrap();
        work.await.unwrap().unwrap();
        assert!(read.changed.is_some_and(|what| what.contains("column c was added")));
        assert_eq!(followers[0].ops(5), "");
        pipeline.close().await;
    }
}
