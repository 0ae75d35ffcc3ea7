//! Transactions large and small, committed and not.

use lakeward_core::Until;
use serde_json::json;

use super::support::{Pipeline, VERSIONS, small_context};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int, pad text); CREATE TABLE u (LIKE t INCLUDING ALL);
    INSERT INTO t SELECT g, g, 'x' FROM generate_series(1, 1000) g";

#[tokio::test]
async fn what_was_rolled_back_leaves_nothing_in_streamed_transactions() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "streamed", TABLE).await;
        pipeline.db.set("logical_decoding_work_mem", "64kB").await;
        let mut followers = pipeline.begin(&[("t", json!({})), ("u", json!({}))]).await;
        let large = |from: i32, to: i32, pad: &str| {
            format!("INSERT INTO t SELECT g, g, repeat('{pad}', 50) FROM generate_series({from}, {to}) g;")
        };
        let other = pipeline.db.connect().await;
        // Two at once, one of which is never committed; tables seen first in a part that is rolled back.
        other.batch_execute(&format!("BEGIN; {} SAVEPOINT a; UPDATE t SET n = 0 WHERE id > 55000;", large(50_000, 60_000, "o"))).await.unwrap();
        pipeline
            .db
            .run(&format!(
                "BEGIN; SAVEPOINT a; INSERT INTO u SELECT g, g, repeat('u', 50) FROM generate_series(1, 5000) g; {} ROLLBACK TO a;
                 {} SAVEPOINT b; {} SAVEPOINT c; {} ROLLBACK TO b; UPDATE t SET n = -n WHERE id <= 5000; SAVEPOINT d; {} RELEASE d;
                 INSERT INTO u SELECT g, g, repeat('v', 50) FROM generate_series(1, 3000) g; DELETE FROM t WHERE id % 10 = 0; COMMIT",
                large(2000, 9000, "a"), large(2000, 8000, "b"), large(20_000, 26_000, "c"), large(30_000, 36_000, "d"), large(10_000, 14_000, "e"),
            ))
            .await;
        let before = pipeline.position.clone();
        let mut request = pipeline.request(&followers, Until::Now);
        // Memory for next to nothing: it goes to a file, and comes back.
        request.context = small_context(1 << 20);
        pipeline.read_into(request, &mut followers).await;
        for (follower, table) in followers.iter().zip(["t", "u"]) {
            pipeline.assert_same(follower, table).await;
        }
        let once: Vec<_> = followers[0].rows.clone();
        assert!(once.iter().all(|row| row.values[2].as_deref() != Some(&"c".repeat(50))));
        other.batch_execute("ROLLBACK").await.unwrap();

        // With and without being streamed the rows and their order are the same.
        pipeline.db.set("logical_decoding_work_mem", "1GB").await;
        let reads = followers[0].rows.iter().filter(|row| row.op == "r").count();
        followers[0].rows.truncate(reads);
        pipeline.position = before;
        followers.iter_mut().for_each(|f| f.position = f.session.position.clone().unwrap());
        let request = pipeline.request(&followers, Until::Now);
        pipeline.read_into(request, &mut followers[..]).await;
        assert!(followers[0].rows == once, "read twice, it is not the same");
        pipeline.close().await;
    }
}

#[tokio::test]
async fn many_small_transactions_and_one_that_stays_open() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "small", TABLE).await;
        let mut followers = pipeline.begin(&[("t", json!({}))]).await;
        let open = pipeline.db.connect().await;
        open.batch_execute("BEGIN; INSERT INTO t VALUES (-1, 0)").await.unwrap();
        for n in 0..300 {
            pipeline.db.run(&format!("UPDATE t SET n = n + 1 WHERE id = {}", n % 50 + 1)).await;
        }
        pipeline.catch_up(&mut followers).await;
        pipeline.assert_same(&followers[0], "t").await;
        // It commits after the last boundary, however early it began.
        open.batch_execute("COMMIT").await.unwrap();
        pipeline.catch_up(&mut followers).await;
        pipeline.assert_same(&followers[0], "t").await;
        let prepared = "BEGIN; INSERT INTO t VALUES (-2, 0); PREPARE TRANSACTION 'lw_small'";
        pipeline.db.run(prepared).await;
        pipeline.catch_up(&mut followers).await;
        pipeline.assert_same(&followers[0], "t").await;
        pipeline.db.run("COMMIT PREPARED 'lw_small'").await;
        pipeline.catch_up(&mut followers).await;
        pipeline.assert_same(&followers[0], "t").await;
        pipeline.close().await;
    }
}
