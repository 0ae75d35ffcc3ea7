//! `lakeward verify` finds what differs and nothing else, also while the source is written to.

use std::fs;
use std::time::Duration;

use lakeward_testkit::lakeward::{Output, Signal};
use lakeward_testkit::on_both;
use lakeward_testkit::server::{PgServer, Version};
use lakeward_testkit::tamper;
use serde_json::{Value, json};

use crate::followed::Followed;

on_both!(verify_compares_at_one_place_of_the_log, super::at_one_place);
on_both!(verify_names_what_differs, super::differing);
on_both!(verify_says_what_it_cannot_compare, super::refused);
on_both!(verify_tells_a_lost_value_from_a_late_one, super::lost);

const VALUES: &str = "repeat(md5(random()::text), 200)";

async fn verify(scene: &Followed, further: &[&str]) -> Output {
    let mut arguments = vec!["verify", "--output", "json", "--config", "source.json"];
    arguments.extend(further);
    scene.project.run(&arguments).await.unwrap()
}

/// What was found of a stream.
fn found<'a>(result: &'a Value, table: &str) -> &'a Value {
    let streams = result["streams"].as_array().unwrap();
    streams
        .iter()
        .find(|found| found["stream"] == format!("public.{table}"))
        .unwrap_or_else(|| panic!("{result}"))
}

async fn at_one_place(version: Version) {
    let create = format!(
        "CREATE TABLE kept (id int PRIMARY KEY, n int, big text);
         ALTER TABLE kept ALTER big SET STORAGE EXTERNAL;
         INSERT INTO kept SELECT g, g, {VALUES} FROM generate_series(1, 300) g;
         CREATE TABLE loose (n int, note text); ALTER TABLE loose REPLICA IDENTITY FULL;
         INSERT INTO loose SELECT g % 7, 'x' FROM generate_series(1, 100) g;
         CREATE TABLE parted (id int, part int, n int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
         CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0); CREATE TABLE parted_1 PARTITION OF parted DEFAULT;
         INSERT INTO parted SELECT g, g % 3, g FROM generate_series(1, 200) g"
    );
    let tables = ["kept", "loose", "parted"];
    let scene = Followed::new(&PgServer::shared(version), &create, &tables).await;
    scene.sync().await;
    let writer = scene
        .keep_writing(Duration::from_millis(3), |n| {
            let id = 1 + n * 31 % 300;
            format!(
                "BEGIN; UPDATE kept SET n = {n} WHERE id = {id}; UPDATE kept SET id = -id WHERE id IN ({id}, -{id}) AND {n} % 5 = 0; COMMIT;
                 BEGIN; DELETE FROM kept WHERE id = {id} + 1 AND {n} % 3 = 0;
                 INSERT INTO kept VALUES (1000 + {n}, {n}, {VALUES}); COMMIT;
                 INSERT INTO loose VALUES ({n} % 7, 'x'); DELETE FROM loose WHERE ctid = (SELECT min(ctid) FROM loose WHERE n = {n} % 5);
                 UPDATE parted SET part = (part + 1) % 3, n = {n} WHERE id = 1 + {n} % 200"
            )
        })
        .await;
    let run = scene.start(&["--follow", "--checkpoint-interval", "100ms"]);
    for memory in ["1GiB", "64MiB", "1GiB"] {
        let output = verify(&scene, &["--memory-limit", memory, "--wait", "20s"]).await;
        if output.code != Some(0) {
            panic!(
                "{}\n{}\nwhile following:\n{}",
                output.stdout,
                output.stderr,
                run.kill9().await.unwrap().stderr
            );
        }
        let result = output.assert_ok().json().unwrap();
        for table in tables {
            let found = found(&result, table);
            assert!(found["source_rows"].as_u64().unwrap() > 50, "{found}");
            assert_eq!(found["source_rows"], found["destination_rows"], "{found}");
        }
    }
    scene.sql("TRUNCATE parted; INSERT INTO parted SELECT g, g % 3, g FROM generate_series(1, 90) g").await;
    verify(&scene, &["public.parted"]).await.assert_ok();
    run.signal(Signal::TERM).unwrap();
    run.wait_timeout(Duration::from_secs(15)).await.unwrap().assert_code(130);
    // Nobody commits what is written now.
    let waiting = verify(&scene, &["--wait", "2s", "public.kept"]).await;
    waiting.assert_code(4);
    assert!(
        waiting.stderr.contains("no sync has committed") && waiting.stderr.contains("--follow"),
        "{}",
        waiting.stderr
    );
    writer.stop().await;
    scene.sync().await;
    // What others write into the log does not matter.
    scene.sql("CREATE TABLE other AS SELECT generate_series(1, 1000) n").await;
    let result = verify(&scene, &["--wait", "1s"]).await.assert_ok().json().unwrap();
    assert_eq!(result["streams"].as_array().unwrap().len(), 3, "{result}");
    // A new generation behind the kept history.
    scene.sql("ALTER TABLE kept ALTER n TYPE bigint; UPDATE kept SET n = 5000000000 WHERE id > 100").await;
    let changed = verify(&scene, &["public.kept"]).await;
    changed.assert_code(4);
    assert!(changed.stderr.contains("no longer what was synced"), "{}", changed.stderr);
    scene.sync().await;
    verify(&scene, &[]).await.assert_ok();
    // Nothing is left at the source, which takes away what was temporary once it notices that a connection is gone.
    let slots = "SELECT count(*) = 1 FROM pg_replication_slots WHERE database = current_database()";
    scene.db.until(slots).await.unwrap();
}

async fn differing(version: Version) {
    let create = "CREATE TABLE whole (id int, tenant text, n int, note text, PRIMARY KEY (tenant, id));
        INSERT INTO whole SELECT g, 't' || g % 3, g, NULL FROM generate_series(1, 5000) g;
        CREATE TABLE stepped (id int PRIMARY KEY, n int, at timestamptz);
        INSERT INTO stepped SELECT g, g, '2026-01-01'::timestamptz + g * interval '1 minute' FROM generate_series(1, 5000) g;
        CREATE TABLE nameless (n int); INSERT INTO nameless SELECT g % 10 FROM generate_series(1, 1000) g";
    let scene = Followed::new(&PgServer::shared(version), create, &["whole"]).await;
    scene.project.select("whole", json!({ "sync_mode": "full_refresh" })).unwrap();
    scene.project.select("nameless", json!({ "sync_mode": "full_refresh" })).unwrap();
    scene.project.select("stepped", json!({ "sync_mode": "incremental", "cursor_field": "at" })).unwrap();
    scene.sync().await;
    verify(&scene, &[]).await.assert_ok();

    scene
        .sql(
            "DELETE FROM whole WHERE id = 17; INSERT INTO whole VALUES (9001, 't1', 1, 'new'), (9002, 't1', 1, 'new');
             UPDATE whole SET n = -1, note = '' WHERE id = 40; UPDATE whole SET tenant = 'moved' WHERE id = 41;
             DELETE FROM nameless WHERE n = 3; INSERT INTO nameless VALUES (4), (4);
             UPDATE stepped SET n = -1, at = '2026-06-01' WHERE id = 5; INSERT INTO stepped VALUES (6000, 1, '2026-06-02');
             UPDATE stepped SET n = -2 WHERE id = 6; DELETE FROM stepped WHERE id = 7",
        )
        .await;
    let output = verify(&scene, &[]).await;
    output.assert_code(5);
    let result = output.json().unwrap();
    let whole = found(&result, "whole");
    assert_eq!(
        (&whole["missing"], &whole["extra"], &whole["different"]),
        (&json!(3), &json!(2), &json!(1)),
        "{whole}"
    );
    let mut keys: Vec<String> = whole["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| {
            format!("{} {} {} {}", key["what"], key["key"][0][1], key["key"][1][1], key["columns"])
                .replace('"', "")
        })
        .collect();
    keys.sort();
    assert_eq!(
        keys,
        [
            "different t1 40 [n,note]",
            "extra t2 17 []",
            "extra t2 41 []",
            "missing moved 41 []",
            "missing t1 9001 []",
            "missing t1 9002 []",
        ]
    );
    let nameless = found(&result, "nameless");
    assert_eq!((&nameless["missing"], &nameless["extra"]), (&json!(2), &json!(100)), "{nameless}");
    // An incremental stream is judged by what a pass was to read: a value changed behind its cursor is lost to it.
    let stepped = found(&result, "stepped");
    assert_eq!(
        (
            &stepped["missing"],
            &stepped["extra"],
            &stepped["different"],
            &stepped["pending"],
            &stepped["tolerated"]
        ),
        (&json!(0), &json!(0), &json!(1), &json!(2), &json!(1)),
        "{stepped}"
    );
    assert_eq!(stepped["keys"], json!([{ "key": [["id", "6"]], "what": "different", "columns": ["n"] }]));
    let few = scene.project.run(&["verify", "--keys", "1", "public.whole"]).await.unwrap();
    few.assert_code(5);
    assert!(few.stdout.contains("differs") && few.stdout.contains("… of 6 rows"), "{}", few.stdout);

    scene.sync().await;
    verify(&scene, &["public.whole", "public.nameless"]).await.assert_ok();
    // What is damaged is not read as a row less.
    let file = scene.project.visible_files("whole").into_iter().next().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let damaged = verify(&scene, &["public.whole"]).await;
    damaged.assert_code(6);
    assert!(
        damaged.stderr.contains("damaged") && damaged.stderr.contains("restore the file"),
        "{}",
        damaged.stderr
    );
}

async fn lost(version: Version) {
    let create = format!(
        "CREATE TABLE kept (id int PRIMARY KEY, n int, big text); INSERT INTO kept SELECT g, g, {VALUES} FROM generate_series(1, 50) g;
         CREATE TABLE whole (id int PRIMARY KEY, n int); INSERT INTO whole SELECT g, g FROM generate_series(1, 50) g;
         CREATE TABLE strict (id int PRIMARY KEY, n int, big text); ALTER TABLE strict ALTER big SET STORAGE EXTERNAL;
         INSERT INTO strict SELECT g, g, {VALUES} FROM generate_series(1, 50) g"
    );
    let scene = Followed::new(&PgServer::shared(version), &create, &["kept", "whole"]).await;
    scene.project.select("whole", json!({ "sync_mode": "full_refresh" })).unwrap();
    scene.project.select("strict", json!({ "sync_mode": "strict_cdc" })).unwrap();
    scene.sync().await;
    // What was there before strict_cdc began is nobody's loss.
    scene.sql("UPDATE strict SET n = 0 WHERE id < 4").await;
    scene.sync().await;
    let result = verify(&scene, &["public.strict"]).await.assert_ok().json().unwrap();
    assert_eq!(found(&result, "strict")["pending"], 3, "{result}");
    let lake = scene.project.lake();
    let late = json!({ "_lw_unchanged": ["big"], "big": null });
    tamper::set(&lake, "public.kept", &json!({ "id": 4 }), &late).await.unwrap();
    tamper::repeat(&lake, "public.kept", &json!({ "id": 7 })).await.unwrap();
    tamper::repeat(&lake, "public.whole", &json!({ "id": 9 })).await.unwrap();
    let output = verify(&scene, &["--wait", "2s", "public.kept", "public.whole"]).await;
    output.assert_code(5);
    let result = output.json().unwrap();
    let (kept, whole) = (found(&result, "kept"), found(&result, "whole"));
    assert_eq!(
        (&kept["different"], &kept["pending"], &kept["repeated"]),
        (&json!(1), &json!(0), &json!(1)),
        "{kept}"
    );
    assert_eq!(
        kept["keys"],
        json!([
            { "key": [["id", "7"]], "what": "repeated", "columns": [] },
            { "key": [["id", "4"]], "what": "different", "columns": ["big"] },
        ])
    );
    assert_eq!(whole["extra"], 1, "{whole}");
    assert_eq!(whole["keys"], json!([{ "key": [["id", "9"]], "what": "repeated", "columns": [] }]));
    // A change that brings the value ends it; one that nobody has committed yet may.
    scene.sql("UPDATE kept SET n = 0 WHERE id = 5").await;
    let waiting = verify(&scene, &["--wait", "1s", "public.kept"]).await;
    waiting.assert_code(4);
    scene.sync().await;
    verify(&scene, &["public.kept"]).await.assert_code(5);
    scene.sql("UPDATE kept SET big = 'again' WHERE id = 4; UPDATE kept SET n = 0 WHERE id = 7").await;
    scene.sync().await;
    let output = verify(&scene, &["public.kept"]).await;
    output.assert_code(5);
    let result = output.json().unwrap();
    let kept = found(&result, "kept");
    assert_eq!((&kept["different"], &kept["repeated"]), (&json!(0), &json!(1)), "{kept}");
}

async fn refused(version: Version) {
    let create =
        "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1); CREATE TABLE b (id int PRIMARY KEY)";
    let scene = Followed::new(&PgServer::shared(version), create, &["a", "b"]).await;
    let nothing = verify(&scene, &[]).await;
    nothing.assert_code(2);
    assert!(nothing.stderr.contains("nothing of this stream is visible"), "{}", nothing.stderr);
    scene.sync().await;
    let misnamed = verify(&scene, &["public.aa"]).await;
    misnamed.assert_code(2);
    assert!(misnamed.stderr.contains("did you mean public.a?"), "{}", misnamed.stderr);
    let stateless = verify(&scene, &["--state", "other.json"]).await;
    stateless.assert_code(7);
    assert!(stateless.stderr.contains("other.json"), "{}", stateless.stderr);
    // One that cannot be compared does not keep the others from it.
    scene.sql("ALTER TABLE b ADD m int").await;
    let one = verify(&scene, &[]).await;
    one.assert_code(4);
    let result = one.json().unwrap();
    assert_eq!(result["streams"].as_array().unwrap().len(), 1, "{result}");
    assert_eq!(result["not_compared"][0]["stream"], "public.b", "{result}");
    // What is said of changes says nothing of a mode that has none.
    for (mode, code) in [("cdc", 2), ("full_refresh", 0)] {
        scene.project.select("b", json!({ "sync_mode": mode, "insert_only": true })).unwrap();
        scene.sync().await;
        verify(&scene, &["public.b"]).await.assert_code(code);
    }
    // Where nobody named it, it is no failure.
    scene.project.select("b", json!({ "sync_mode": "cdc" })).unwrap();
    scene.sync().await;
    let all = verify(&scene, &[]).await;
    all.assert_ok();
    let result = all.json().unwrap();
    assert_eq!(result["passed_over"][0]["stream"], "public.b", "{result}");
    assert_eq!(result["streams"][0]["stream"], "public.a", "{result}");
}
