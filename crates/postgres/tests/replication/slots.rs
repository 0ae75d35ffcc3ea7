//! Slots and publications: made, lost, foreign, in use, given up.

use std::time::Duration;

use futures::StreamExt;
use lakeward_core::{CdcDriver, ChangeEvent, DriverInterface, ErrorKind, Position, StreamPhase, Until};
use serde_json::{Value, json};

use super::support::{Pipeline, VERSIONS, drop_slot, within};

const TABLE: &str =
    "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT g, g FROM generate_series(1, 10) g;
    CREATE TABLE u (LIKE t INCLUDING ALL)";

impl Pipeline {
    async fn make_slot(&self, plugin: &str) {
        let sql = format!("SELECT pg_create_logical_replication_slot('{}', '{plugin}')", self.names.0);
        self.db.client.query(&sql, &[]).await.unwrap();
    }

    async fn slot(&self) -> Option<Value> {
        let sql = "SELECT row_to_json(s)::text FROM pg_replication_slots s WHERE slot_name = $1";
        let rows = self.db.client.query(sql, &[&self.names.0]).await.unwrap();
        rows.first().map(|row| serde_json::from_str(row.get(0)).unwrap())
    }

    /// What is published, as `publication:table`.
    async fn published(&self) -> Vec<String> {
        let sql = "SELECT pubname || ':' || tablename FROM pg_publication_tables ORDER BY 1";
        self.db.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    async fn publications(&self) -> Vec<String> {
        let sql = "SELECT pubname::text FROM pg_publication ORDER BY 1";
        self.db.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    fn at(&self, field: &str, value: Value) -> Position {
        let mut position = self.position.clone();
        position.0[field] = value;
        position
    }
}

#[tokio::test]
async fn what_was_only_intended_is_made_again() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "intent", TABLE).await;
        let intent = pipeline.position.clone();
        assert_eq!(pipeline.cdc().intent("0123456789", Some(&intent)).await.unwrap(), intent);
        let short = pipeline.db.driver().intent("01234567-89AB", None).await.unwrap();
        assert_eq!(
            (&short.0["slot"], &short.0["publication"]),
            (&json!("lakeward_23456789ab"), &json!("lakeward_23456789ab"))
        );
        // A crash left the slot, and one publication of two.
        pipeline.make_slot("pgoutput").await;
        pipeline
            .db
            .run(&format!(
                "CREATE PUBLICATION {} FOR TABLE u; INSERT INTO t VALUES (11, 11)",
                pipeline.names.1
            ))
            .await;
        let left = pipeline.slot().await.unwrap();
        let t = pipeline.stream("t", json!({})).await;
        let prepared = pipeline.prepare(std::slice::from_ref(&t)).await.unwrap();
        assert!(prepared.lost.is_none() && prepared.places.is_empty());
        assert_eq!(prepared.position.0["made"], Value::Null);
        let made = pipeline.slot().await.unwrap();
        assert_eq!(made["confirmed_flush_lsn"], prepared.position.0["lsn"]);
        assert_ne!(made["confirmed_flush_lsn"], left["confirmed_flush_lsn"]);
        assert_eq!(made["two_phase"], json!(false));
        // Standbys keep it, where they can.
        assert_eq!(made.get("failover"), (version >= 17).then_some(&json!(true)));
        assert_eq!(pipeline.publications().await, ["lw_intent", "lw_intent_insert_only"]);
        assert!(pipeline.published().await.is_empty());
        // Saved as made, it stays.
        let again = pipeline.prepare(std::slice::from_ref(&t)).await.unwrap();
        assert_eq!(again.position, prepared.position);
        assert_eq!(pipeline.slot().await.unwrap()["confirmed_flush_lsn"], made["confirmed_flush_lsn"]);
        pipeline.close().await;
    }
}

#[tokio::test]
async fn a_slot_of_somebody_else_is_left_alone() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "foreign", TABLE).await;
        let name = pipeline.names.0.clone();
        let t = pipeline.stream("t", json!({})).await;
        let elsewhere = super::super::server::Database::connect_admin(version).await;
        let physical = format!("SELECT pg_create_physical_replication_slot('{name}')");
        let two_phase =
            format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput', false, true)");
        let other = format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')");
        for (client, sql, why) in [
            (&pipeline.db.client, physical, "pgoutput"),
            (&pipeline.db.client, two_phase, "two_phase"),
            (&elsewhere, other, "database postgres"),
        ] {
            client.query(&sql, &[]).await.unwrap();
            let intent = pipeline.position.clone();
            let saved = json!({"lsn": "0/1", "slot": name, "publication": name});
            for position in [intent, Position(saved)] {
                let error =
                    pipeline.cdc().pre_cdc(std::slice::from_ref(&t), &[], &position).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Source);
                assert!(error.to_string().contains(why) && error.to_string().contains(&name), "{error}");
            }
            let kept = pipeline.cdc().clear(&pipeline.position).await.unwrap();
            assert!(kept.len() == 1 && kept[0].contains(why), "{kept:?}");
            assert!(pipeline.slot().await.is_some());
            drop_slot(client, &name).await;
        }
        let prepared = pipeline.prepare(&[t]).await.unwrap();
        assert!(prepared.lost.is_none());
        pipeline.close().await;
    }
}

/// Prepares under both policies and says why changes are lost.
#[track_caller]
fn lost(pipeline: &mut Pipeline, position: Position) -> impl Future<Output = String> {
    let caller = std::panic::Location::caller().line();
    lost_from(caller, pipeline, position)
}

async fn lost_from(caller: u32, pipeline: &mut Pipeline, position: Position) -> String {
    let t = pipeline.stream("t", json!({})).await;
    let name = pipeline.names.0.clone();
    pipeline.reconfigured(json!({"on_slot_lost": "error"}));
    let before = pipeline.slot().await.map(|slot| slot["confirmed_flush_lsn"].clone());
    let prepared = pipeline.cdc().pre_cdc(std::slice::from_ref(&t), &[], &position).await;
    let error = prepared.expect_err(&format!("{position:?} is lost, with {before:?}, in line {caller}"));
    assert_eq!(error.kind(), ErrorKind::Source, "{error}");
    assert!(error.to_string().contains("are lost") && error.to_string().contains(&name), "{error}");
    assert!(error.remedy().unwrap().contains("on_slot_lost"));
    // Who is to decide finds all as it was.
    assert_eq!(pipeline.slot().await.map(|slot| slot["confirmed_flush_lsn"].clone()), before);

    pipeline.reconfigured(json!({"on_slot_lost": "resnapshot"}));
    let prepared = pipeline.cdc().pre_cdc(std::slice::from_ref(&t), &[], &position).await.unwrap();
    let slot = pipeline.slot().await.unwrap();
    assert_eq!(slot["confirmed_flush_lsn"], prepared.position.0["lsn"]);
    pipeline.position = prepared.position;
    // From there it goes on.
    let mut followers = pipeline.begin(&[("t", json!({}))]).await;
    pipeline.db.run("UPDATE t SET n = n + 1 WHERE id = 1").await;
    pipeline.catch_up(&mut followers).await;
    pipeline.assert_same(&followers[0], "t").await;
    prepared.lost.expect("it says why")
}

#[tokio::test]
async fn f04_f05_what_was_lost_is_said_or_read_again() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "lost", TABLE).await;
        let name = pipeline.names.0.clone();
        pipeline.begin(&[("t", json!({}))]).await;

        drop_slot(&pipeline.db.client, &name).await;
        let position = pipeline.position.clone();
        assert!(lost(&mut pipeline, position).await.contains("is gone"));

        // Under the same name, but later: it would skip without a word.
        pipeline.db.run("INSERT INTO t VALUES (100, 1)").await;
        let position = pipeline.position.clone();
        drop_slot(&pipeline.db.client, &name).await;
        pipeline.make_slot("pgoutput").await;
        assert!(lost(&mut pipeline, position).await.contains("stands at"));

        pipeline.db.run("SET synchronous_commit = on; INSERT INTO t VALUES (101, 1)").await;
        let advance = format!("SELECT pg_replication_slot_advance('{name}', pg_current_wal_lsn())");
        // Its last reader may take a moment to go.
        within(async {
            while pipeline.db.client.query(&advance, &[]).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        let position = pipeline.position.clone();
        assert!(lost(&mut pipeline, position).await.contains("stands at"));

        for suffix in ["", "_insert_only"] {
            pipeline.db.run(&format!("DROP PUBLICATION {name}{suffix}")).await;
            let position = pipeline.position.clone();
            assert!(lost(&mut pipeline, position).await.contains("publication"));
        }

        for (field, value, why) in [
            ("system_identifier", json!("1"), "another server"),
            ("timeline", json!(7), "timeline"),
            ("lsn", json!("FFFFF/0"), "it was restored"),
        ] {
            let position = pipeline.at(field, value);
            let reason = lost(&mut pipeline, position).await;
            assert!(reason.contains(why), "{reason}");
        }
        pipeline.close().await;
    }
}

#[tokio::test]
async fn what_is_lost_before_or_while_it_is_read_is_an_error() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "runtime", TABLE).await;
        let followers = pipeline.begin(&[("t", json!({}))]).await;
        let request = pipeline.request(&followers, Until::Now);
        pipeline.db.run("SET synchronous_commit = on; INSERT INTO t VALUES (100, 1)").await;
        let name = pipeline.names.0.clone();
        let advance = format!("SELECT pg_replication_slot_advance('{name}', pg_current_wal_lsn())");
        pipeline.db.client.query(&advance, &[]).await.unwrap();
        let error = pipeline.read_with(request.clone()).await.err().unwrap();
        assert!(error.to_string().contains("are lost") && error.kind() == ErrorKind::Source, "{error}");

        let mut forever = pipeline.request(&followers, Until::Forever);
        forever.from = pipeline.at("lsn", pipeline.slot().await.unwrap()["confirmed_flush_lsn"].clone());
        let mut events = pipeline.read_with(forever).await.unwrap();
        drop_slot(&pipeline.db.client, &name).await;
        let error = loop {
            match within(events.next()).await.expect("it ends with an error") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        // Its session was ended: that may be tried again, and then the slot is missed.
        assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
        let error = pipeline.read_with(request).await.err().unwrap();
        assert!(error.to_string().contains("gone"), "{error}");
        pipeline.close().await;
    }
}

#[tokio::test]
async fn a_slot_that_the_server_gave_up_is_lost() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::alone(version, "invalid", TABLE, json!({})).await;
        pipeline.begin(&[("t", json!({}))]).await;
        pipeline.db.run("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'").await;
        pipeline.db.run("SELECT pg_reload_conf()").await;
        let mut found = None;
        for _ in 0..20 {
            pipeline.db.run("INSERT INTO u SELECT 1, 1; DELETE FROM u; SELECT pg_switch_wal()").await;
            pipeline.db.run("CHECKPOINT").await;
            let slot = pipeline.slot().await.unwrap();
            if slot["wal_status"] == "lost" {
                found = Some(slot);
                break;
            }
        }
        pipeline.db.run("ALTER SYSTEM RESET max_slot_wal_keep_size").await;
        pipeline.db.run("SELECT pg_reload_conf()").await;
        assert!(found.is_some(), "the server keeps the slot");
        let position = pipeline.position.clone();
        let reason = lost(&mut pipeline, position).await;
        assert!(reason.contains("invalidated") || reason.contains("lost log"), "{reason}");
        pipeline.close().await;
    }
}

#[tokio::test]
async fn somebody_else_makes_and_keeps_slot_and_publication() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::with(version, "unmanaged", TABLE, json!({"manage": false})).await;
        let name = pipeline.names.0.clone();
        let t = pipeline.stream("t", json!({})).await;
        let intent = pipeline.position.clone();
        let error = pipeline.cdc().pre_cdc(std::slice::from_ref(&t), &[], &intent).await.unwrap_err();
        // What it says is what helps.
        let remedy = error.remedy().unwrap().to_owned();
        assert!(remedy.contains("CREATE PUBLICATION") && remedy.contains("pg_create_logical"), "{remedy}");
        assert!(pipeline.slot().await.is_none() && pipeline.publications().await.is_empty());
        for statement in remedy.split_inclusive(';') {
            pipeline.db.run(statement).await;
        }
        pipeline.db.run("INSERT INTO t VALUES (11, 11)").await;

        let prepared = pipeline.prepare(std::slice::from_ref(&t)).await.unwrap();
        assert_eq!(pipeline.slot().await.unwrap()["confirmed_flush_lsn"], prepared.position.0["lsn"]);
        assert_eq!(pipeline.published().await, ["lw_unmanaged:t"]);
        pipeline.db.run(&format!("ALTER PUBLICATION {name} DROP TABLE t")).await;
        let error = pipeline.driver.begin_backfill(&t).await.unwrap_err();
        let remedy = error.remedy().unwrap().to_owned();
        assert!(remedy.contains("ALTER PUBLICATION"), "{error}");
        pipeline.db.run(&remedy).await;
        let mut followers = pipeline.begin(&[("t", json!({}))]).await;
        pipeline.db.run("INSERT INTO t VALUES (12, 12)").await;
        pipeline.catch_up(&mut followers).await;
        pipeline.assert_same(&followers[0], "t").await;
        // What is not wanted any more is theirs to take out.
        pipeline.prepare(&[]).await.unwrap();
        assert_eq!(pipeline.published().await, ["lw_unmanaged:t"]);
        let kept = pipeline.cdc().clear(&pipeline.position).await.unwrap();
        assert!(kept.len() == 2 && kept.iter().all(|line| line.contains("manage")), "{kept:?}");
        assert!(pipeline.slot().await.is_some() && pipeline.publications().await == [name.as_str()]);
        pipeline.close().await;
    }
}

#[tokio::test]
async fn a_publication_that_would_hide_changes_is_refused() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::with(version, "hiding", TABLE, json!({"manage": false})).await;
        let name = pipeline.names.1.clone();
        let t = pipeline.stream("t", json!({})).await;
        let intent = pipeline.position.clone();
        pipeline.db.run(&format!("CREATE PUBLICATION {name} FOR TABLE t")).await;
        pipeline.make_slot("pgoutput").await;
        for (change, why, back) in [
            (
                format!("ALTER PUBLICATION {name} SET (publish = 'insert, update')"),
                "publish",
                format!("ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate')"),
            ),
            (
                format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = true)"),
                "publish_via_partition_root",
                format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = false)"),
            ),
            (
                format!("ALTER PUBLICATION {name} SET TABLE t WHERE (id > 5)"),
                "row filter",
                format!("ALTER PUBLICATION {name} SET TABLE t"),
            ),
            (
                format!("ALTER PUBLICATION {name} SET TABLE t (id)"),
                "column list",
                format!("ALTER PUBLICATION {name} SET TABLE t"),
            ),
        ] {
            pipeline.db.run(&change).await;
            let error = pipeline.cdc().pre_cdc(std::slice::from_ref(&t), &[], &intent).await.unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert!(error.remedy().unwrap().contains("ALTER PUBLICATION"));
            pipeline.db.run(&back).await;
        }
        // One for all tables takes whatever there is.
        pipeline.db.run(&format!("DROP PUBLICATION {name}; CREATE PUBLICATION {name} FOR ALL TABLES")).await;
        drop_slot(&pipeline.db.client, &pipeline.names.0).await;
        pipeline.make_slot("pgoutput").await;
        let mut followers = pipeline.begin(&[("t", json!({}))]).await;
        let prepared = pipeline.prepare(&[t]).await.unwrap();
        assert_eq!(
            prepared.places,
            [(followers[0].stream.id.clone(), followers[0].session.fingerprint.log.clone())]
        );
        pipeline.db.run("INSERT INTO t VALUES (12, 12); INSERT INTO u VALUES (1, 1)").await;
        pipeline.catch_up(&mut followers).await;
        pipeline.assert_same(&followers[0], "t").await;
        pipeline.close().await;
    }
}

#[tokio::test]
async fn clear_takes_away_what_was_made() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "clear", TABLE).await;
        // Whatever there is of it, or nothing.
        assert!(pipeline.cdc().clear(&pipeline.position).await.unwrap().is_empty());
        let followers = pipeline.begin(&[("t", json!({})), ("u", json!({"insert_only": true}))]).await;
        assert_eq!(pipeline.published().await, ["lw_clear:t", "lw_clear_insert_only:u"]);
        // A reading of ours does not stand in the way.
        let mut events = pipeline.read_with(pipeline.request(&followers, Until::Forever)).await.unwrap();
        pipeline.db.run("INSERT INTO t VALUES (100, 1)").await;
        within(events.next()).await.unwrap().unwrap();
        assert!(pipeline.cdc().clear(&pipeline.position).await.unwrap().is_empty());
        assert!(pipeline.slot().await.is_none() && pipeline.publications().await.is_empty());
        assert!(pipeline.cdc().clear(&pipeline.position).await.unwrap().is_empty());
        pipeline.close().await;
    }
}

#[tokio::test]
async fn a_stream_that_left_comes_back_to_another_place() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "detach", TABLE).await;
        let mut followers = pipeline.begin(&[("t", json!({})), ("u", json!({}))]).await;
        let (t, u) = (followers[0].stream.clone(), followers[1].stream.clone());
        let places = |followers: &[super::support::Follower]| -> Vec<_> {
            followers.iter().map(|f| (f.stream.id.clone(), f.session.fingerprint.log.clone())).collect()
        };
        let both = pipeline.prepare(&[t.clone(), u.clone()]).await.unwrap();
        assert_eq!(both.places, places(&followers));

        let one = pipeline.prepare(std::slice::from_ref(&t)).await.unwrap();
        assert_eq!(one.places, places(&followers[..1]));
        assert_eq!(pipeline.published().await, ["lw_detach:t"]);
        pipeline.db.run("INSERT INTO u VALUES (1, 1); INSERT INTO t VALUES (11, 11)").await;
        let t_only = &mut followers[..1];
        pipeline.catch_up(t_only).await;
        pipeline.assert_same(&t_only[0], "t").await;

        let back = pipeline.prepare(&[t.clone(), u.clone()]).await.unwrap();
        assert_eq!(back.places, one.places);
        let (session, rows) = pipeline.snapshot(&u).await;
        assert_eq!(rows.len(), 1);
        assert_ne!(session.fingerprint.log, followers[1].session.fingerprint.log);
        let both = pipeline.prepare(&[t.clone(), u.clone()]).await.unwrap();
        assert!(both.places.contains(&(u.id.clone(), session.fingerprint.log.clone())));

        // Somebody took it out and put it back: the same table, another place.
        pipeline
            .db
            .run("ALTER PUBLICATION lw_detach DROP TABLE t; ALTER PUBLICATION lw_detach ADD TABLE t")
            .await;
        let moved = pipeline.prepare(&[t.clone(), u.clone()]).await.unwrap();
        let place = |of: &[(lakeward_core::StreamId, String)]| of.iter().find(|(id, _)| *id == t.id).cloned();
        assert_ne!(place(&moved.places), place(&both.places));

        // Followed by its inserts alone it is in the other publication.
        let inserts = pipeline.stream("u", json!({"insert_only": true})).await;
        let prepared = pipeline.prepare(&[t.clone(), inserts.clone()]).await.unwrap();
        assert_eq!(prepared.places.len(), 1);
        pipeline.snapshot(&inserts).await;
        assert_eq!(pipeline.published().await, ["lw_detach:t", "lw_detach_insert_only:u"]);
        pipeline.close().await;
    }
}

#[tokio::test]
async fn inserts_alone_are_followed_without_a_key() {
    for version in VERSIONS {
        let sql = "CREATE TABLE k (id int PRIMARY KEY, n int); INSERT INTO k VALUES (1, 1)";
        let mut pipeline = Pipeline::new(version, "inserts", sql).await;
        let mut followers = pipeline.begin(&[("k", json!({"insert_only": true}))]).await;
        // The application's own statements go on.
        pipeline.db.run("INSERT INTO k VALUES (2, 2), (3, 3); UPDATE k SET n = 0 WHERE id = 2; DELETE FROM k WHERE id = 1; TRUNCATE k; INSERT INTO k VALUES (4, 4)").await;
        pipeline.catch_up(&mut followers).await;
        assert_eq!(followers[0].ops(1), "ccc");
        pipeline.close().await;
    }
}

#[tokio::test]
async fn a_slot_that_another_session_reads_is_not_taken_from_it() {
    let work = VERSIONS.map(|version| async move {
        let mut pipeline = Pipeline::new(version, "in_use", TABLE).await;
        let followers = pipeline.begin(&[("t", json!({}))]).await;
        let t = followers[0].stream.clone();
        let _events = pipeline.read_with(pipeline.request(&followers, Until::Forever)).await.unwrap();
        let other = pipeline.db.driver();
        let error = other.pre_cdc(&[t], &[], &pipeline.position).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection);
        let pid = pipeline.slot().await.unwrap()["active_pid"].to_string();
        assert!(error.to_string().contains(&pid), "{error}");
        pipeline.cdc().post_cdc().await.unwrap();
        pipeline.close().await;
    });
    futures::future::join_all(work).await;
}

#[tokio::test]
async fn a_slot_that_waits_for_a_transaction_says_whose_it_is() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "waits", TABLE).await;
        let t = pipeline.stream("t", json!({})).await;
        let open = pipeline.db.connect().await;
        open.batch_execute("BEGIN; INSERT INTO t VALUES (100, 1)").await.unwrap();
        let pid: i32 = open.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let impatient = pipeline.db.driver_with(json!({"lock_timeout": "1s",
            "replication": {"slot": pipeline.names.0, "publication": pipeline.names.1}}));
        let error = impatient.pre_cdc(std::slice::from_ref(&t), &[], &pipeline.position).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection);
        assert!(error.to_string().contains(&format!("pid {pid} ")), "{error}");
        assert!(pipeline.slot().await.is_none(), "half a slot is left");
        open.batch_execute("COMMIT").await.unwrap();
        pipeline.prepare(std::slice::from_ref(&t)).await.unwrap();
        // The same for a stream's own snapshot.
        open.batch_execute("BEGIN; INSERT INTO t VALUES (101, 1)").await.unwrap();
        impatient.pre_cdc(std::slice::from_ref(&t), &[], &pipeline.position).await.unwrap();
        let error = impatient.begin_backfill(&t).await.unwrap_err();
        assert!(error.to_string().contains(&format!("pid {pid} ")), "{error}");
        open.batch_execute("ROLLBACK").await.unwrap();
        let followers = pipeline.begin(&[("t", json!({}))]).await;
        assert_eq!(followers[0].rows.len(), 11);
        pipeline.close().await;
    }
}

#[tokio::test]
async fn phases_and_lag_of_what_is_not_read() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "lag", TABLE).await;
        let followers = pipeline.begin(&[("t", json!({}))]).await;
        // Where nothing is read nobody has to be told.
        pipeline.cdc().enter_phase(&followers[0].stream.id, StreamPhase::Opening).await.unwrap();
        pipeline.db.run("INSERT INTO u SELECT g, g FROM generate_series(1, 10000) g").await;
        let lag = pipeline.cdc().lag(&pipeline.position).await.unwrap();
        assert!(lag.behind_bytes > 500_000 && lag.retained_bytes.unwrap() >= lag.behind_bytes, "{lag:?}");
        assert!(pipeline.cdc().compare(&lag.source, &pipeline.position).unwrap().is_gt());
        assert!(pipeline.cdc().covers(&lag.source, &pipeline.position));
        assert!(!pipeline.cdc().covers(&pipeline.position, &pipeline.position));
        pipeline.close().await;
    }
}

#[tokio::test]
async fn f01_a_heartbeat_moves_a_log_that_nobody_writes() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::with(version, "heartbeat", TABLE, json!({"heartbeat": "200ms"})).await;
        let followers = pipeline.begin(&[("t", json!({}))]).await;
        let mut events = pipeline.read_with(pipeline.request(&followers, Until::Forever)).await.unwrap();
        let mut last = pipeline.position.clone();
        for _ in 0..4 {
            let event = within(events.next()).await.unwrap().unwrap();
            let ChangeEvent::Boundary(boundary) = event else { panic!("{event:?}") };
            assert!(pipeline.cdc().compare(&boundary.position, &last).unwrap().is_gt());
            last = boundary.position;
        }
        drop(events);
        pipeline.cdc().post_cdc().await.unwrap();
        pipeline.close().await;
    }
}

#[tokio::test]
async fn an_owner_who_may_replicate_needs_no_more() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "role", "").await;
        let db = &pipeline.db;
        db.run("DROP ROLE IF EXISTS lw_role; CREATE ROLE lw_role LOGIN REPLICATION PASSWORD 'canary'").await;
        db.run(&format!(
            "GRANT CREATE ON DATABASE {} TO lw_role; GRANT ALL ON SCHEMA public TO lw_role",
            db.name
        ))
        .await;
        db.run(&format!("SET ROLE lw_role; {TABLE}; RESET ROLE; CREATE TABLE theirs (id int PRIMARY KEY); GRANT SELECT ON theirs TO lw_role")).await;
        pipeline.driver = db.driver_with(json!({"username": "lw_role", "password": "canary",
            "replication": {"slot": pipeline.names.0, "publication": pipeline.names.1}}));
        let mut followers = pipeline.begin(&[("t", json!({}))]).await;
        pipeline.db.run("INSERT INTO t VALUES (11, 11)").await;
        pipeline.catch_up(&mut followers).await;
        pipeline.assert_same(&followers[0], "t").await;
        // What it does not own somebody else has to publish.
        let theirs = pipeline.stream("theirs", json!({})).await;
        let error = pipeline.driver.begin_backfill(&theirs).await.unwrap_err();
        assert!(error.remedy().unwrap().contains("ALTER PUBLICATION"), "{error}");
        assert!(!format!("{error} {error:?}").contains("canary"));
        assert!(pipeline.cdc().clear(&pipeline.position).await.unwrap().is_empty());
        assert!(pipeline.slot().await.is_none());
        pipeline.db.run("DROP OWNED BY lw_role; DROP ROLE lw_role").await;
        pipeline.close().await;
    }
}
