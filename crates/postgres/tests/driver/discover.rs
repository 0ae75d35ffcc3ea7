//! What is offered, and how it is described.

use std::time::Instant;

use lakeward_core::{DriverInterface, ErrorKind, Severity, StreamId, SyncMode};
use serde_json::json;

use crate::support::{Database, VERSIONS, configured, context, rows, stream};

#[tokio::test]
async fn every_type_is_mapped() {
    for version in VERSIONS {
        let db = Database::create(version, "types").await;
        db.run(
            "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b text);
             CREATE DOMAIN cents AS numeric(12,2); CREATE DOMAIN price AS cents CHECK (VALUE >= 0);
             CREATE EXTENSION IF NOT EXISTS citext",
        )
        .await;
        let columns = [
            ("bool", "boolean"),
            ("int2", "int16"),
            ("int4", "int32"),
            ("int8", "int64"),
            ("oid", "uint32"),
            ("float4", "float"),
            ("float8", "double"),
            ("numeric", "text"),
            ("numeric(10,2)", "decimal(10,2)"),
            ("numeric(38,38)", "decimal(38,38)"),
            ("numeric(39,10)", "text"),
            ("numeric(77,10)", "text"),
            ("numeric(5,-3)", "decimal(8,0)"),
            ("numeric(3,5)", "decimal(5,5)"),
            ("date", "date"),
            ("time", "time"),
            ("time(3)", "time"),
            ("timetz", "text"),
            ("timestamp", "timestamp"),
            ("timestamptz(3)", "timestamptz"),
            ("interval", "text"),
            ("uuid", "uuid"),
            ("bytea", "binary"),
            ("json", "json"),
            ("jsonb", "json"),
            ("text", "text"),
            ("varchar(10)", "text"),
            ("char(5)", "text"),
            ("\"char\"", "text"),
            ("name", "text"),
            ("public.citext", "text"),
            ("public.mood", "text"),
            ("public.pair", "text"),
            ("public.price", "decimal(12,2)"),
            ("public.price[]", "list<decimal(12,2)>"),
            ("xml", "text"),
            ("inet", "text"),
            ("cidr", "text"),
            ("macaddr", "text"),
            ("bit(3)", "text"),
            ("varbit", "text"),
            ("money", "text"),
            ("int4range", "text"),
            ("int4multirange", "text"),
            ("point", "text"),
            ("box[]", "text"),
            ("tsvector", "text"),
            ("aclitem", "text"),
            ("aclitem[]", "list<text>"),
            ("int2vector", "text"),
            ("oidvector", "text"),
            ("regclass", "text"),
            ("int4[]", "list<int32>"),
            ("numeric[]", "list<text>"),
            ("numeric(9,3)[]", "list<decimal(9,3)>"),
            ("timestamptz[]", "list<timestamptz>"),
            ("public.mood[]", "list<text>"),
        ];
        let list: Vec<_> = columns.iter().enumerate().map(|(n, (t, _))| format!("c{n} {t}")).collect();
        db.run(&format!("CREATE TABLE t ({})", list.join(", "))).await;
        let driver = db.driver();
        let found = stream(&driver, "t").await;
        for ((source, expected), column) in columns.iter().zip(&found.schema.columns) {
            assert_eq!(column.column_type.to_string(), *expected, "{source} on {version}");
        }
        // All of them can be read: one row of nulls, in either format.
        db.run("INSERT INTO t DEFAULT VALUES").await;
        for format in ["text", "binary", "auto"] {
            let driver = db.driver_with(json!({"copy_format": format}));
            let stream = configured(&driver, "t", json!({})).await;
            let session = driver.begin_backfill(&stream).await.unwrap();
            let plan = driver.get_or_split_chunks(&stream, &session, None, 1 << 20).await.unwrap();
            let batches =
                driver.chunk_iterator(stream.clone(), plan[0].clone(), &session, context()).await.unwrap();
            assert_eq!(rows(batches).await.unwrap().len(), 1);
            driver.end_backfill(session).await;
        }
    }
}

#[tokio::test]
async fn keys_cursors_comments_and_generated_columns() {
    for version in VERSIONS {
        let db = Database::create(version, "keys").await;
        db.run(
            "CREATE TABLE t (n numeric, b int, a int, updated_at timestamptz NOT NULL, seen_at timestamp, note text,
               twice int GENERATED ALWAYS AS (b * 2) STORED, u uuid UNIQUE, PRIMARY KEY (a, b) INCLUDE (note));
             COMMENT ON TABLE t IS 'things'; COMMENT ON COLUMN t.note IS 'a note';
             CREATE TABLE deferred (a int PRIMARY KEY DEFERRABLE);
             CREATE TABLE nothing ();
             INSERT INTO t SELECT g / 100.0, g, g, now() FROM generate_series(1, 1000) g; ANALYZE t",
        )
        .await;
        let driver = db.driver();
        let found = stream(&driver, "t").await;
        assert_eq!(found.primary_key, ["a", "b"]);
        assert_eq!(found.cursor_fields, ["updated_at", "seen_at", "n", "b", "a", "twice", "note"]);
        assert_eq!(
            found.sync_modes,
            [SyncMode::FullRefresh, SyncMode::Incremental, SyncMode::Cdc, SyncMode::StrictCdc]
        );
        assert_eq!(found.log_key.as_deref(), Some(["a".to_owned(), "b".to_owned()].as_slice()));
        assert_eq!(found.comment.as_deref(), Some("things"));
        assert_eq!(found.estimated_rows, Some(1000));
        assert!(found.estimated_bytes.unwrap() > 8192);
        let column = |name: &str| found.column(name).unwrap();
        assert_eq!(column("note").comment.as_deref(), Some("a note"));
        assert!(column("twice").generated && column("u").unique && !column("a").unique);
        assert!(!column("updated_at").nullable);
        assert_eq!(column("n").suggested_type.as_ref().unwrap().to_string(), "decimal(18,2)");
        assert!(stream(&driver, "deferred").await.primary_key.is_empty());
        let nothing = stream(&driver, "nothing").await;
        assert!(nothing.schema.columns.is_empty());
        assert_eq!(nothing.sync_modes, [SyncMode::FullRefresh]);
        let decimal = db.driver_with(json!({"unconstrained_numeric": "decimal(20,4)"}));
        assert_eq!(stream(&decimal, "t").await.column("n").unwrap().column_type.to_string(), "decimal(20,4)");
    }
}

#[tokio::test]
async fn ten_thousand_tables_take_seconds() {
    for version in VERSIONS {
        let db = Database::create(version, "many").await;
        for batch in 0..100 {
            db.run(&format!(
                "DO $$ BEGIN FOR i IN {}..{} LOOP
                   EXECUTE format('CREATE TABLE t%s (id int, a text, b numeric(10,2), c timestamptz)', i);
                 END LOOP; END $$",
                batch * 100,
                batch * 100 + 99
            ))
            .await;
        }
        let driver = db.driver();
        let start = Instant::now();
        let names = driver.stream_names().await.unwrap();
        let listed = start.elapsed();
        let streams = driver.produce_schema(&names).await.unwrap();
        let time = start.elapsed();
        println!("PostgreSQL {version}: 10,000 tables named in {listed:?}, described in {time:?} altogether");
        assert_eq!((names.len(), streams.len()), (10_000, 10_000));
        assert!(streams.iter().all(|stream| stream.schema.columns.len() == 4));
        assert!(time.as_secs() < 20, "{time:?}");
    }
}

#[tokio::test]
async fn partitions_children_views_and_foreign_tables() {
    for version in VERSIONS {
        let db = Database::create(version, "kinds").await;
        db.run(
            "CREATE TABLE root (id int, region text) PARTITION BY LIST (region);
             CREATE TABLE mid PARTITION OF root FOR VALUES IN ('eu') PARTITION BY RANGE (id);
             CREATE TABLE leaf PARTITION OF mid FOR VALUES FROM (0) TO (10);
             CREATE TABLE other PARTITION OF root DEFAULT;
             CREATE TABLE parent (id int); CREATE TABLE child (more text) INHERITS (parent);
             CREATE VIEW v AS SELECT * FROM root; CREATE MATERIALIZED VIEW m AS SELECT * FROM parent;
             CREATE SEQUENCE s; CREATE TEMP TABLE gone (id int); CREATE SCHEMA sales; CREATE TABLE sales.t (id int);
             CREATE EXTENSION IF NOT EXISTS file_fdw; CREATE SERVER f FOREIGN DATA WRAPPER file_fdw;
             CREATE FOREIGN TABLE ft (id int) SERVER f OPTIONS (filename '/dev/null');",
        )
        .await;
        let names = |names: Vec<StreamId>| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let all = names(db.driver().stream_names().await.unwrap());
        assert_eq!(
            all,
            ["public.child", "public.ft", "public.m", "public.parent", "public.root", "public.v", "sales.t"]
        );
        let one = db.driver_with(json!({"schemas": ["sales"]}));
        assert_eq!(names(one.stream_names().await.unwrap()), ["sales.t"]);
        let gone = [StreamId::new("public", "leaf"), StreamId::new("public", "none")];
        assert!(one.produce_schema(&gone).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn names_of_every_sort_are_read() {
    for version in VERSIONS {
        let db = Database::create(version, "names").await;
        let long = "é".repeat(31) + "x";
        assert_eq!(long.len(), 63);
        let driver = db.driver();
        for name in
            ["Upper", "with \"quotes\" and 'more'", "a.b", "back\\slash", "naïve ☃", "$1", long.as_str()]
        {
            let quoted = name.replace('"', "\"\"");
            db.run(&format!(
                "CREATE TABLE \"{quoted}\" (id int PRIMARY KEY, \"{quoted}\" timestamp);
                 INSERT INTO \"{quoted}\" VALUES (1, '2024-01-01'), (2, '2024-01-02')"
            ))
            .await;
            let selection = json!({"sync_mode": "incremental", "cursor_field": name, "filter": "id > 1"});
            // A cursor_field of two columns is written with a colon, which none of these names has.
            let stream = configured(&driver, name, selection).await;
            let session = driver.begin_backfill(&stream).await.unwrap();
            let plan = driver.get_or_split_chunks(&stream, &session, None, 1).await.unwrap();
            assert_eq!(crate::support::read_all(&driver, &stream, &plan, &session).await.unwrap(), [2]);
            let incremental = driver.incremental().unwrap();
            let max = incremental.fetch_max_cursor_values(&stream, &session, None).await.unwrap().unwrap();
            assert_eq!((max.column.as_str(), max.value.as_str()), (name, "2024-01-02 00:00:00"));
            driver.end_backfill(session).await;
        }
    }
}

#[tokio::test]
async fn privileges_and_row_security_are_named_with_their_remedy() {
    for version in VERSIONS {
        let db = Database::create(version, "privileges").await;
        let role = format!("lw_driver_reader_{version}");
        db.run(&format!(
            "CREATE TABLE open (id int); CREATE TABLE closed (id int); CREATE TABLE guarded (id int);
             CREATE TABLE root (id int) PARTITION BY RANGE (id);
             CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (10);
             ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
             DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'canary';
             ALTER ROLE {role} SET search_path = nowhere; ALTER ROLE {role} SET row_security = on;
             GRANT SELECT ON open, guarded, root TO {role}"
        ))
        .await;
        let reader = db.driver_with(json!({"username": role, "password": "canary"}));
        let names: Vec<_> = reader.stream_names().await.unwrap().into_iter().map(|id| id.name).collect();
        assert_eq!(names, ["guarded", "open", "root"]);
        let remedies = |findings: Vec<lakeward_core::Finding>, least: Severity| {
            findings
                .into_iter()
                .filter(|finding| finding.severity >= least)
                .map(|finding| {
                    format!("{}: {} {}", finding.subject, finding.message, finding.remedy.unwrap_or_default())
                })
                .collect::<Vec<_>>()
                .join("\n")
        };
        let text = remedies(reader.check(&[]).await.unwrap(), Severity::Warning);
        assert!(text.contains("public.closed") && text.contains("GRANT SELECT ON ALL TABLES"), "{text}");

        let mut streams = Vec::new();
        for name in ["closed", "guarded", "open", "root"] {
            streams.push(configured(&reader, name, json!({})).await);
        }
        let text = remedies(reader.check(&streams).await.unwrap(), Severity::Error);
        let expected =
            [&*format!("GRANT SELECT ON \"public\".\"closed\" TO \"{role}\""), "\"leaf\"", "BYPASSRLS"];
        assert!(expected.iter().all(|part| text.contains(part)), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
        for (index, expected) in [(0, "42501"), (1, "row-level security"), (3, "42501")] {
            let error = reader.begin_backfill(&streams[index]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Source, "{error:?}");
            assert!(error.to_string().contains(expected), "{error:?}");
        }
        let wrong = db.driver_with(json!({"username": role, "password": "canary2"}));
        let error = wrong.stream_names().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(!format!("{error:?} {:?}", error.remedy()).contains("canary"), "{error:?}");
        let text = remedies(wrong.check(&[]).await.unwrap(), Severity::Error);
        assert!(!text.is_empty());
        db.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    }
}

#[tokio::test]
async fn identity_is_the_clusters() {
    for version in VERSIONS {
        let db = Database::create(version, "identity").await;
        let identity = db.driver().identity().await.unwrap();
        let id: String = db
            .client
            .query_one("SELECT system_identifier::text FROM pg_control_system()", &[])
            .await
            .unwrap()
            .get(0);
        assert_eq!(identity.facts["system_identifier"], json!(id));
        assert_eq!(identity.facts["database"], json!(db.name));
    }
}
