//! Encrypted connections, and servers that are not who they should be. PostgreSQL 15 has TLS, 18 here has none.

use lakeward_testkit::lakeward::{Project, Signal};
use lakeward_testkit::private_server::PrivateServer;
use lakeward_testkit::reconcile::{Options, reconcile};
use lakeward_testkit::server::{PgServer, TestDatabase, Version};
use serde_json::{Value, json};

use crate::pipeline::{PROGRAM, database};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 5000) g;
    CREATE VIEW encrypted AS SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

fn project(db: &TestDatabase, ssl: Value, host: &str) -> Project {
    let mut config = db.source_config(json!({ "host": host, "max_retries": 0 }));
    config["ssl"] = ssl;
    Project::new(PROGRAM, &config).unwrap()
}

fn authority() -> String {
    let file = PgServer::shared(Version::Pg15).certificate_authority().expect("PostgreSQL 15 has TLS");
    format!("file://{}", file.display())
}

/// Another authority, which signed nothing of ours.
fn other_authority(directory: &std::path::Path) -> String {
    let (key, cert) = (directory.join("other.key"), directory.join("other.pem"));
    let status = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=Another authority",
            "-keyout",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .stderr(std::process::Stdio::null())
        .status()
        .expect("openssl is there: scripts/servers needs it too");
    assert!(status.success());
    format!("file://{}", cert.display())
}

#[tokio::test]
async fn modes_that_connect() {
    let db = database(Version::Pg15, TABLE).await;
    for (ssl, host, encrypted) in [
        (json!({ "mode": "disable" }), "127.0.0.1", "false"),
        (json!({ "mode": "prefer" }), "127.0.0.1", "true"),
        (json!({ "mode": "require" }), "127.0.0.1", "true"),
        (json!({ "mode": "require" }), "localhost", "true"),
        (json!({ "mode": "verify-ca", "server_ca": authority() }), "127.0.0.1", "true"),
        (json!({ "mode": "verify-full", "server_ca": authority() }), "127.0.0.1", "true"),
        (json!({ "mode": "verify-full", "server_ca": authority() }), "localhost", "true"),
    ] {
        let project = project(&db, ssl.clone(), host);
        project.discover().await.unwrap().assert_ok();
        project.sync(&[]).await.unwrap().assert_ok();
        reconcile(&db, &project.lake(), "t", &Options::full_refresh()).await.unwrap().assert_same();
        let project =
            crate::pipeline::Pipeline { db: TestDatabase::existing(db.server(), db.name()), project };
        assert_eq!(
            project.ask_one("encrypted", "SELECT ssl FROM log").await.as_deref(),
            Some(encrypted),
            "{ssl} to {host}"
        );
    }
}

/// The log, what is looked up, and what the server is told: all of it is encrypted, and large values pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_followed_over_tls() {
    let sql = format!(
        "{TABLE}; ALTER TABLE t ALTER v SET STORAGE EXTERNAL; INSERT INTO t SELECT g, repeat('y' || g, 300000) FROM generate_series(10001, 10004) g;
         CREATE ROLE {{role}} LOGIN REPLICATION PASSWORD 'scrambled'; ALTER TABLE t OWNER TO {{role}}"
    );
    let db = database(Version::Pg15, "").await;
    let role = format!("{}_followed", db.name());
    db.execute("SET password_encryption = 'scram-sha-256'").await.unwrap();
    db.execute(&sql.replace("{role}", &role)).await.unwrap();
    db.execute(&format!("GRANT CREATE ON DATABASE \"{}\" TO {role}", db.name())).await.unwrap();
    let scram = format!("SELECT rolpassword LIKE 'SCRAM-SHA-256%' FROM pg_authid WHERE rolname = '{role}'");
    assert_eq!(db.value(&scram).await.unwrap().as_deref(), Some("t"));
    let ssl = json!({ "mode": "verify-full", "server_ca": authority() });
    let login = json!({ "host": "localhost", "username": role, "password": "scrambled", "ssl": ssl });
    let project = Project::new(PROGRAM, &db.source_config(login)).unwrap();
    project.discover().await.unwrap().assert_ok();
    project.select_only(&["t"], json!({ "sync_mode": "cdc" })).unwrap();
    let run = project.spawn_sync(&["--follow", "--checkpoint-interval", "100ms"]).unwrap();
    let encrypted =
        "SELECT EXISTS (SELECT FROM pg_replication_slots r JOIN pg_stat_ssl s ON s.pid = r.active_pid
        WHERE r.database = current_database() AND NOT r.temporary AND s.ssl)";
    db.until(encrypted).await.unwrap();
    let plain = format!(
        "SELECT count(*) FILTER (WHERE NOT ssl), count(*) > 0 FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.usename = '{role}'"
    );
    assert_eq!(db.value(&plain).await.unwrap().as_deref(), Some("0"), "a connection is not encrypted");
    db.execute(
        "UPDATE t SET v = repeat('z' || id, 400) WHERE id % 3 = 0; UPDATE t SET id = id + 100000 WHERE id % 1000 = 1 OR id > 10002; DELETE FROM t WHERE id % 7 = 0;
         INSERT INTO t SELECT g, repeat('w' || g, 1000000) FROM generate_series(20001, 20002) g",
    )
    .await
    .unwrap();
    db.until(&db.confirmed().await.unwrap()).await.unwrap();
    run.signal(Signal::TERM).unwrap();
    run.wait_timeout(std::time::Duration::from_secs(15)).await.unwrap().assert_code(130);
    db.execute("UPDATE t SET v = 'short' WHERE id % 5 = 0").await.unwrap();
    project.sync(&[]).await.unwrap().assert_ok();
    reconcile(&db, &project.lake(), "t", &Options::cdc()).await.unwrap().assert_same();
    project.run(&["clear", "--all", "--yes"]).await.unwrap().assert_ok();
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

/// Nothing on it leaves the machine, so that none of it is encrypted, whatever the mode: as libpq has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_sockets_are_not_encrypted() {
    let server = PrivateServer::start_new(Version::Pg18).await.unwrap();
    let db = server.create_database("local").await.unwrap();
    db.execute(TABLE).await.unwrap();
    for mode in ["prefer", "require"] {
        let project = project(&db, json!({ "mode": mode }), server.data_directory().to_str().unwrap());
        project.discover().await.unwrap().assert_ok();
        project.select_only(&["t"], json!({ "sync_mode": "cdc" })).unwrap();
        let checked = project.run(&["check", "--streams", "streams.json", "--output", "json"]).await.unwrap();
        checked.assert_ok();
        assert!(!checked.stdout.contains("warning"), "{}", checked.stdout);
        project.sync(&[]).await.unwrap().assert_ok();
        // Far more than such a socket holds.
        db.execute("UPDATE t SET v = repeat('u' || id, 300); INSERT INTO t SELECT -g, repeat('n', 500000) FROM generate_series(1, 20) g")
            .await
            .unwrap();
        project.sync(&[]).await.unwrap().assert_ok();
        reconcile(&db, &project.lake(), "t", &Options::cdc()).await.unwrap().assert_same();
        project.run(&["clear", "--all", "--yes"]).await.unwrap().assert_ok();
        db.execute("DELETE FROM t WHERE id < 0").await.unwrap();
    }
}

#[tokio::test]
async fn servers_that_cannot_be_trusted_are_refused() {
    let db = database(Version::Pg15, TABLE).await;
    let directory = tempfile::tempdir().unwrap();
    let other = other_authority(directory.path());
    for (ssl, host) in [
        // Nobody vouches for the authority.
        (json!({ "mode": "verify-ca" }), "127.0.0.1"),
        (json!({ "mode": "verify-full" }), "127.0.0.1"),
        (json!({ "mode": "verify-ca", "server_ca": other }), "127.0.0.1"),
        (json!({ "mode": "verify-full", "server_ca": other }), "localhost"),
    ] {
        let project = project(&db, ssl.clone(), host);
        for (command, code) in [("check", 4), ("discover", 2)] {
            let output = project.run(&[command]).await.unwrap();
            output.assert_code(code);
            let told = if command == "check" { &output.stdout } else { &output.stderr };
            assert!(told.contains("certificate cannot be trusted"), "{ssl} at {host}: {told}");
            assert!(!project.file("streams.json").exists());
        }
    }
    let missing = project(
        &db,
        json!({ "mode": "verify-full", "server_ca": "file:///nonexistent/ca.pem" }),
        "localhost",
    );
    let output = missing.run(&["check"]).await.unwrap();
    output.assert_code(2);
    assert!(output.stderr.contains("ssl.server_ca"), "{}", output.stderr);
    let garbage = project(&db, json!({ "mode": "verify-full", "server_ca": "no certificate" }), "localhost");
    garbage.run(&["check"]).await.unwrap().assert_code(4);
    garbage.run(&["discover"]).await.unwrap().assert_code(2);
}

/// Another address of the server, which is not in its certificate: its port.
async fn other_address(db: &TestDatabase) -> u16 {
    let listener = tokio::net::TcpListener::bind(("127.0.0.2", 0)).await.unwrap();
    let (port, target) = (listener.local_addr().unwrap().port(), db.server().port());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_not_in_the_certificate_is_refused_by_verify_full_alone() {
    let db = database(Version::Pg15, TABLE).await;
    let port = other_address(&db).await;
    for (mode, connects) in [("require", true), ("verify-ca", true), ("verify-full", false)] {
        let config = json!({ "host": "127.0.0.2", "port": port, "max_retries": 0, "ssl": { "mode": mode, "server_ca": authority() } });
        let project = Project::new(PROGRAM, &db.source_config(config)).unwrap();
        let output = project.run(&["check"]).await.unwrap();
        assert_eq!(output.code == Some(0), connects, "{mode}: {}{}", output.stdout, output.stderr);
        if !connects {
            output.assert_code(4);
            assert!(output.stdout.contains("certificate cannot be trusted"), "{}", output.stdout);
        }
    }
}

/// A server without TLS: only those who do not ask for it connect.
#[tokio::test]
async fn servers_without_tls() {
    let db = database(Version::Pg18, TABLE).await;
    for mode in ["disable", "prefer"] {
        let project = project(&db, json!({ "mode": mode }), "127.0.0.1");
        project.discover().await.unwrap().assert_ok();
        project.sync(&[]).await.unwrap().assert_ok();
        reconcile(&db, &project.lake(), "t", &Options::full_refresh()).await.unwrap().assert_same();
    }
    for ssl in [
        json!({ "mode": "require" }),
        json!({ "mode": "verify-ca", "server_ca": authority() }),
        json!({ "mode": "verify-full", "server_ca": authority() }),
    ] {
        let output = project(&db, ssl.clone(), "127.0.0.1").run(&["check"]).await.unwrap();
        assert!(matches!(output.code, Some(2..=4)), "{ssl}: {}{}", output.stdout, output.stderr);
        assert!(output.stderr.contains("TLS") || output.stderr.contains("ssl"), "{}", output.stderr);
    }
}
