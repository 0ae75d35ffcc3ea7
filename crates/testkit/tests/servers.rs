//! Databases, servers of one's own, and writers over them.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use lakeward_testkit::private_server::{PrivateServer, Stop};
use lakeward_testkit::server::{PgServer, Version};
use lakeward_testkit::workload::{Workload, rounds, seed};
use serde_json::json;

#[tokio::test]
async fn a_database_is_its_own_and_goes_with_its_slots() {
    for version in Version::ALL {
        let server = PgServer::shared(version);
        let db = server.create_database("it's \"Quoted\"").await.unwrap();
        let name = db.name().to_owned();
        db.execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2)").await.unwrap();
        assert_eq!(db.psql("SELECT count(*) FROM t;\n\\echo done").await.unwrap(), "2\ndone\n");
        assert!(db.psql("SELECT 1/0").await.unwrap_err().to_string().contains("division by zero"));
        assert_eq!(db.value("SELECT NULL").await.unwrap(), None);
        assert_eq!(db.value("SHOW wal_level").await.unwrap().unwrap(), "logical");
        let source = db.source_config(json!({ "port": 1, "ssl": null, "replication": { "slot": "s" } }));
        assert_eq!(source["database"], json!(name));
        assert_eq!((&source["port"], &source["replication"]["slot"]), (&json!(1), &json!("s")));
        assert!(source.get("ssl").is_none());
        db.execute(&format!(
            "SELECT pg_create_logical_replication_slot('gone_{}', 'pgoutput')",
            version.name()
        ))
        .await
        .unwrap();
        drop(db);
        let client = server.connect("postgres").await.unwrap();
        let left = client.query("SELECT 1 FROM pg_database WHERE datname = $1", &[&name]).await.unwrap();
        assert!(left.is_empty());
    }
}

#[tokio::test]
async fn a_server_of_ones_own_stops_crashes_and_comes_back() {
    for version in Version::ALL {
        let private = PrivateServer::start_new(version).await.unwrap();
        let (port, data) = (private.port(), private.data_directory().to_owned());
        {
            let db = private.create_database("own").await.unwrap();
            db.execute("CREATE TABLE t AS SELECT 1 AS id").await.unwrap();
            private.restart().await.unwrap();
            db.execute("INSERT INTO t VALUES (2)").await.unwrap();
            private.stop(Stop::Immediate).await.unwrap();
            assert!(db.client().await.is_err());
            private.start().await.unwrap();
            private.start().await.unwrap();
            assert_eq!(private.port(), port);
            assert_eq!(db.value("SELECT count(*) FROM t").await.unwrap().unwrap(), "2");
            private.set_conf("wal_sender_timeout", "2s").await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(db.value("SHOW wal_sender_timeout").await.unwrap().unwrap(), "2s");
            let identifier = "SELECT system_identifier FROM pg_control_system()";
            let shared = PgServer::shared(version).connect("postgres").await.unwrap();
            let other: i64 = shared.query_one(identifier, &[]).await.unwrap().get(0);
            assert_ne!(db.value(identifier).await.unwrap().unwrap(), other.to_string());
        }
        drop(private);
        assert!(!data.exists());
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_change_every_part_of_a_table() {
    let db = PgServer::shared(Version::Pg18).create_database("workload").await.unwrap();
    for _ in 0..rounds(1) {
        let workload = Workload::new("public.busy", seed(), 0);
        db.execute("DROP TABLE IF EXISTS busy").await.unwrap();
        workload.create_table(&db, 2000).await.unwrap();
        let writers = workload.start(&db).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let counts = writers.stop().await.unwrap();
        assert!(counts.committed > 50 && counts.rolled_back > 0, "{counts:?}");
        for (what, condition) in [
            ("inserted", "id >= 1000000000"),
            ("updated", "version > 0 AND id < 1000000000"),
            ("with another key", "id % 10 > 0"),
            ("moved", "ctid >= '(60,0)' AND id < 1000000000 AND version > 0"),
        ] {
            let count =
                db.value(&format!("SELECT count(*) FROM busy WHERE {condition}")).await.unwrap().unwrap();
            assert_ne!(count, "0", "no row {what}");
        }
        let deleted = "SELECT 2000 - count(*) FROM busy WHERE id < 1000000000";
        assert!(db.value(deleted).await.unwrap().unwrap().parse::<i64>().unwrap() > 0);
    }
}
