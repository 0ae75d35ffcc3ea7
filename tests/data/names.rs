//! Names that people give, and file systems do not like.

use std::collections::BTreeSet;

use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::Version;
use serde_json::json;

use crate::pipeline::Pipeline;

on_each_version!(
    f19_names_of_every_kind,
    f19_names_of_every_kind_are_followed,
    f19_names_that_differ_only_in_case,
    f19_names_that_collide_at_the_destination,
    destination_tables_have_names_of_their_own,
);

async fn f19_names_of_every_kind(version: Version) {
    let long = "n".repeat(63);
    let unicode = "é".repeat(31);
    let names = [
        "a.b",
        "with \"quotes\"",
        "UPPER",
        "with space",
        "semi;colon--comment",
        "it's",
        "per%cent",
        "sla/sh",
        "back\\slash",
        "_leading",
        ".hidden",
        "..",
        "ünïcödé_表_💧",
        "new\nline",
        "tab\there",
        "select",
        "a=b",
        "*?[x]",
        "$1",
        "{}",
        "con",
        "trailing.",
        long.as_str(),
        unicode.as_str(),
        "~tilde",
        "__HIVE_DEFAULT_PARTITION__",
    ];
    let schemas = ["public", "Weird \"schema\".x", "ünïcödé"];
    let ident = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut sql = String::new();
    for schema in &schemas[1..] {
        sql.push_str(&format!("CREATE SCHEMA {};", ident(schema)));
    }
    for (place, name) in names.iter().enumerate() {
        // Every name is one of a table and of a column.
        for schema in if place < 4 { &schemas[..] } else { &schemas[..1] } {
            sql.push_str(&format!(
                "CREATE TABLE {0}.{1} (id int PRIMARY KEY, {1} text, d date); INSERT INTO {0}.{1} VALUES (1, 'x', NULL), ({place} + 2, '{schema}', 'infinity');",
                ident(schema),
                ident(name)
            ));
        }
    }
    let pipeline = Pipeline::new(version, &sql).await;
    pipeline.sync().await;
    let mut directories = BTreeSet::new();
    for (place, &name) in names.iter().enumerate() {
        for &schema in if place < 4 { &schemas[..] } else { &schemas[..1] } {
            let directory = pipeline.project.stream_directory((schema, name));
            assert!(directory.is_dir(), "{schema}.{name}: no {}", directory.display());
            assert!(directories.insert(directory), "{name} has a directory of its own");
        }
    }
    // The comparer takes a second each: a few of each sort by value, all by their rows.
    for &(schema, name) in &[
        ("public", "a.b"),
        ("Weird \"schema\".x", "with \"quotes\""),
        ("public", "ünïcödé_表_💧"),
        ("public", "back\\slash"),
        ("public", "new\nline"),
        ("public", long.as_str()),
        ("public", "*?[x]"),
        ("public", ".."),
    ] {
        pipeline.assert_same((schema, name), &Options::full_refresh()).await;
    }
    for (place, &name) in names.iter().enumerate() {
        for &schema in if place < 4 { &schemas[..] } else { &schemas[..1] } {
            assert!(
                !pipeline.project.visible_files((schema, name)).is_empty(),
                "{schema}.{name} has no files"
            );
        }
    }
    // Nothing but streams and our own directory lies at the root.
    let mut roots: Vec<_> = std::fs::read_dir(pipeline.project.lake())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    roots.sort();
    assert_eq!(roots.len(), 4, "{roots:?}");
    for name in ["a.b", "with \"quotes\""] {
        let output = pipeline.project.run(&["files", &format!("public.{name}")]).await.unwrap();
        output.assert_ok();
        assert_eq!(output.stdout.lines().count(), pipeline.project.visible_files(("public", name)).len());
    }
}

/// Under names that SQL, files and the log's messages each have to carry: of tables, columns and keys.
async fn f19_names_of_every_kind_are_followed(version: Version) {
    let long = "n".repeat(63);
    let odd = "Weird \"schema\".x";
    let tables = [
        (odd, "with \"quotes\""),
        (odd, "semi;colon--comment"),
        ("public", "it's"),
        ("public", "ünïcödé_表_💧"),
        ("public", "back\\slash\nline"),
        ("public", long.as_str()),
        ("public", "UPPER"),
        ("public", "upper"),
    ];
    let ident = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let for_each = |sql: &dyn Fn(String, String) -> String| -> String {
        tables
            .iter()
            .map(|(schema, name)| sql(format!("{}.{}", ident(schema), ident(name)), ident(name)))
            .collect()
    };
    let create = for_each(&|table, name| {
        format!(
            "CREATE TABLE {table} ({name} int PRIMARY KEY, \"it's; {{\" text, big text, \"Big\" int); ALTER TABLE {table} ALTER big SET STORAGE EXTERNAL;
             INSERT INTO {table} SELECT g, 'v', repeat('x' || g, 2000), -g FROM generate_series(1, 30) g;"
        )
    });
    let pipeline = Pipeline::new(version, &format!("CREATE SCHEMA {}; {create}", ident(odd))).await;
    for table in tables {
        pipeline.project.select(table, json!({ "sync_mode": "cdc" })).unwrap();
    }
    pipeline.sync().await;
    let change = for_each(&|table, name| {
        format!(
            "INSERT INTO {table} VALUES (40, 'new', 'small', 0); UPDATE {table} SET \"it's; {{\" = 'u' WHERE {name} < 5; DELETE FROM {table} WHERE {name} = 7;
             UPDATE {table} SET {name} = {name} + 1000 WHERE {name} % 10 = 3; ALTER TABLE {table} ADD COLUMN {added} int; UPDATE {table} SET {added} = 1 WHERE {name} % 4 = 0;",
            added = ident("more \"of\"\nit;"),
        )
    });
    pipeline.sql(&change).await;
    pipeline.sync().await;
    for table in tables {
        let (schema, name) = table;
        let output = pipeline.project.run(&["files", &format!("{schema}.{name}")]).await.unwrap();
        output.assert_ok();
        let file = pipeline.project.path().join(output.stdout.lines().next().unwrap());
        let options = Options::cdc().directory(file.parent().unwrap());
        pipeline.assert_same(table, &options).await;
    }
    pipeline.project.run(&["verify"]).await.unwrap().assert_ok();
    pipeline.project.run(&["clear", "--all", "--yes"]).await.unwrap().assert_ok();
}

async fn f19_names_that_differ_only_in_case(version: Version) {
    let mut names = Vec::new();
    let mut sql = String::from("CREATE SCHEMA s; CREATE SCHEMA \"S\";");
    for (place, (schema, name)) in
        [("s", "orders"), ("s", "Orders"), ("s", "ORDERS"), ("S", "orders")].into_iter().enumerate()
    {
        sql.push_str(&format!(
            "CREATE TABLE \"{schema}\".\"{name}\" (\"id\" int PRIMARY KEY, \"ID\" int, \"Id\" text); INSERT INTO \"{schema}\".\"{name}\" SELECT g, {place}, 't' || g FROM generate_series(1, {place} + 3) g;"
        ));
        names.push((schema, name));
    }
    let pipeline = Pipeline::new(version, &sql).await;
    // Twice: a suffix, once given, stays.
    let mut before = None;
    for _ in 0..2 {
        pipeline.sync().await;
        let mut folded = BTreeSet::new();
        let mut found = Vec::new();
        for &(schema, name) in &names {
            let output = pipeline.project.run(&["files", &format!("{schema}.{name}")]).await.unwrap();
            output.assert_ok();
            let file = pipeline.project.path().join(output.stdout.lines().next().unwrap());
            let directory = file.parent().unwrap().to_owned();
            assert!(
                folded.insert(directory.to_string_lossy().to_lowercase()),
                "{} collides on a case-blind file system",
                directory.display()
            );
            pipeline.assert_same((schema, name), &Options::full_refresh().directory(&directory)).await;
            found.push(directory);
            // DuckDB would take the three columns for one.
            let output = pipeline
                .project
                .run(&["view", &format!("{schema}.{name}"), "--engine", "duckdb"])
                .await
                .unwrap();
            output.assert_code(2);
            assert!(output.stderr.contains("differ only in case"), "{}", output.stderr);
        }
        assert!(before.is_none_or(|before| before == found));
        before = Some(found);
    }
}

async fn f19_names_that_collide_at_the_destination(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); INSERT INTO a VALUES (1); INSERT INTO b VALUES (2)",
    )
    .await;
    pipeline.project.select_only(&["a", "b"], json!({ "destination_table": "same" })).unwrap();
    let output = pipeline.project.sync(&[]).await.unwrap();
    output.assert_code(2);
    assert!(output.stderr.contains("public.a") && output.stderr.contains("public.b"), "{}", output.stderr);
    assert!(pipeline.project.visible_files("same").is_empty());
}

async fn destination_tables_have_names_of_their_own(version: Version) {
    let pipeline =
        Pipeline::new(version, "CREATE TABLE a (id int PRIMARY KEY, t text); INSERT INTO a SELECT g, 'x' FROM generate_series(1, 10) g").await;
    pipeline.sync_as("a", json!({ "destination_table": "Other name.1" })).await;
    assert!(pipeline.project.visible_files("a").is_empty());
    let directory = pipeline.project.stream_directory(("public", "Other name.1"));
    pipeline.assert_same("a", &Options::full_refresh().directory(directory)).await;
    for command in [vec!["files", "public.Other name.1"], vec!["view", "Other name.1", "--engine", "duckdb"]]
    {
        pipeline.project.run(&command).await.unwrap().assert_ok();
    }
    pipeline.project.run(&["clear", "public.a", "--yes"]).await.unwrap().assert_ok();
    assert!(pipeline.project.visible_files(("public", "Other name.1")).is_empty());
}
