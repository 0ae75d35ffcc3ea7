//! Every type of the type table, at its boundaries, in both formats of COPY.

use lakeward_testkit::lakeward::Project;
use lakeward_testkit::reconcile::{Options, reconcile};
use lakeward_testkit::server::{TestDatabase, Version};
use serde_json::json;

use crate::pipeline::{PROGRAM, Pipeline};

on_each_version!(
    f17_server_text_is_kept_byte_for_byte,
    f17_arrays,
    f17_extension_types,
    f15_numeric_extremes,
    fixed_width_types_at_their_limits,
    binary_json_and_uuid,
    text_with_every_escape,
    types_of_columns,
);

/// Reads these tables once in each format of COPY: the same as the source, the same for three engines, and the
/// same bytes in both formats.
async fn same_in_both_formats(version: Version, sql: &str, tables: &[&str]) {
    let text = Pipeline::with(version, json!({ "copy_format": "text" }), sql).await;
    let config = text.db.source_config(json!({ "copy_format": "binary" }));
    let binary = Project::new(PROGRAM, &config).unwrap();
    binary.discover().await.unwrap().assert_ok();
    for project in [&text.project, &binary] {
        project.select_only(tables, json!({ "on_bad_value": "fail" })).unwrap();
        project.sync(&[]).await.unwrap().assert_ok();
    }
    let binary_lake = binary.lake();
    for &table in tables {
        text.assert_same(table, &Options::full_refresh()).await;
        let report = reconcile(&text.db, &binary_lake, table, &Options::full_refresh()).await.unwrap();
        report.assert_same();
        assert!(report.rows_source > 0, "{table} is empty");
    }
    let db = TestDatabase::existing(text.db.server(), text.db.name());
    let other = Pipeline { db, project: binary };
    for &table in tables {
        assert_eq!(text.readings(table).await, other.readings(table).await, "{table} differs by format");
    }
}

async fn fixed_width_types_at_their_limits(version: Version) {
    let sql = "
        CREATE TABLE fixed (id int PRIMARY KEY, b bool, i2 int2, i4 int4, i8 int8, o oid, f4 float4, f8 float8,
            d date, t time, ts timestamp, tz timestamptz, t3 time(3), ts0 timestamp(0), tz2 timestamptz(2));
        INSERT INTO fixed (id) VALUES (0);
        INSERT INTO fixed VALUES
        (1, true, -32768, -2147483648, -9223372036854775808, 0, '-Infinity', '-Infinity', '0001-01-01',
         '00:00', '0001-01-01 00:00', '0001-01-01 00:00+00', '00:00', '0001-01-01 00:00', '0001-01-01 00:00+00'),
        (2, false, 32767, 2147483647, 9223372036854775807, 4294967295, 'Infinity', 'Infinity', '9999-12-31',
         '23:59:59.999999', '9999-12-31 23:59:59.999999', '9999-12-31 23:59:59.999999+00', '23:59:59.999',
         '9999-12-31 23:59:59', '9999-12-31 23:59:59.99+00'),
        (3, true, 0, 0, 9223372036854775806, 2147483648, 'NaN', 'NaN', '1970-01-01', '00:00:00.000001',
         '1970-01-01 00:00', '1969-12-31 23:59:59.999999+00', '12:00', '1969-12-31 23:59:59', '2024-02-29 12:00+14'),
        (4, false, -1, -1, -1, 1, '-0', '-0', '1969-12-31', '12:34:56.7', '1582-10-10 01:02:03',
         '2024-03-31 01:30:00.5+00', '01:02:03.004', '2000-02-29 00:00', '1900-02-28 23:59:59.99+00'),
        (5, NULL, 1, 1, 1, 2147483647, '1.4e-45', '4.9e-324', '2000-02-29', '23:00', '2038-01-19 03:14:08',
         '2038-01-19 03:14:07+00', NULL, NULL, NULL),
        (6, NULL, 1, 1, 1, 1, '3.4028235e38', '1.7976931348623157e308', '1900-03-01', '01:00', NULL, NULL, NULL, NULL, NULL),
        (7, NULL, 1, 1, 1, 1, '-3.4028235e38', '-1.7976931348623157e308', NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        (8, NULL, 1, 1, 1, 1, '1.1754942e-38', '2.2250738585072009e-308', NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        (9, NULL, 1, 1, 1, 1, '0.1', '0.1', NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        (10, NULL, 1, 1, 1, 1, '16777217', '9007199254740993', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
        CREATE TABLE moments (id int PRIMARY KEY, d date, ts timestamp, tz timestamptz, t time);
        INSERT INTO moments SELECT g, date '0001-01-01' + (g * 1217), timestamp '0001-01-01' + g * interval '1217 days 3:07:11.123457',
            timestamptz '0001-01-01 00:00+00' + g * interval '29207:59:59.654321', time '00:00' + g * interval '28.9 s'
        FROM generate_series(0, 2980) g";
    same_in_both_formats(version, sql, &["fixed", "moments"]).await;
}

async fn f15_numeric_extremes(version: Version) {
    let nines = "9".repeat(131_072);
    let tiny = format!("0.{}1", "0".repeat(16_382));
    let sql = format!(
        "CREATE TABLE numerics (id int PRIMARY KEY, n numeric, n5_2 numeric(5,2), n18_4 numeric(18,4), n19 numeric(19,0),
            n20 numeric(20,0), n38_10 numeric(38,10), n38 numeric(38,0), n38_38 numeric(38,38), n39 numeric(39,0),
            n76_38 numeric(76,38), n76 numeric(76,0), n77 numeric(77,0), n1000 numeric(1000,500), neg numeric(5,-3),
            neg_wide numeric(70,-6), neg_too_wide numeric(70,-7), small numeric(3,5), small_wide numeric(10,80));
        INSERT INTO numerics (id) VALUES (0);
        INSERT INTO numerics VALUES
        (1, '{nines}', 999.99, 99999999999999.9999, 9223372036854775807, 9223372036854775808,
         9999999999999999999999999999.9999999999, '{n38}', '0.{n38}', '{n39}', '{n38}.{n38}', '{n76}', '{n77}', '{n500}.{n500}',
         99999000, '{n70}000000', '{n70}0000000', 0.00999, 1e-71),
        (2, '-{nines}', -999.99, -99999999999999.9999, -9223372036854775808, 18446744073709551615,
         -9999999999999999999999999999.9999999999, '-{n38}', '-0.{n38}', '-{n39}', '-{n38}.{n38}', '-{n76}', '-{n77}', '-{n500}.{n500}',
         -99999000, '-{n70}000000', '-{n70}0000000', -0.00999, -1e-71),
        (3, '{tiny}', 0, 0, 9223372036854775808, 9223372036854775807, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (4, '1.500', 0.01, 0.0001, 9999999999999999999, 99999999999999999999, 1e-10, 1, 1e-38, 1, 1e-38, 1, 1, 1e-500,
         1000, 1000000, 10000000, 0.00001, 1e-80),
        (5, 'NaN', 1.5, 10000, 10000, 100000000, 10000.0001, 10000, 0.0001, 100010000, 10001.0001, 1, 1, 1, 12000, 0, 0, 0, 0),
        (6, 'Infinity', 1.005, 12345.67895, 1, 1, 1, 1, 0.1, 1, 1, 1, 1, 1, 500, 1, 1, 0.000005, 0),
        (7, '-Infinity', -1.005, -0.0001, -1, -1, -1, -1, -0.1, -1, -1, -1, -1, -1, -1500, 1, 1, -0.000005, 0),
        (8, '0.0000', 100, 100.01, 1, 1, 1, 1, 0.1, 1, 1, 1, 1, 1, -500, 1, 1, 0, 0),
        (9, '1e100000', 100, 100.01, 1, 1, 1, 1, 0.1, 1, 1, 1, 1, 1, 499, 1, 1, 0, 0),
        (10, '-0.00', -0.004, -0.00004, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        CREATE TABLE near (id int PRIMARY KEY, exact numeric(20,0), free numeric);
        INSERT INTO near SELECT g, 9223372036854775807::numeric + g, (9223372036854775807::numeric + g) / 1000.0 FROM generate_series(-500, 500) g;
        CREATE TABLE groups (id int PRIMARY KEY, n numeric(40,20), free numeric);
        INSERT INTO groups SELECT g, ('1e' || (g % 40 - 20))::numeric * (1 - 2 * (g % 2)), ('1e' || (g - 60))::numeric
            FROM generate_series(0, 120) g",
        n38 = "9".repeat(38),
        n39 = "9".repeat(39),
        n70 = "9".repeat(70),
        n76 = "9".repeat(76),
        n77 = "9".repeat(77),
        n500 = "9".repeat(500),
    );
    let sql = sql.replace("('1e' || (g % 40 - 20))::numeric", "('1e' || (g % 39 - 20))::numeric");
    same_in_both_formats(version, &sql, &["numerics", "near", "groups"]).await;
}

async fn f17_server_text_is_kept_byte_for_byte(version: Version) {
    let xml = if version == Version::Pg15 { "'<a x=\"1\">é&amp;</a>'" } else { "NULL" };
    let sql = format!(
        "CREATE TYPE mood AS ENUM ('sad', 'it''s \"ok\"', 'a,b', '');
        CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');
        CREATE DOMAIN strict_email AS email NOT NULL;
        CREATE DOMAIN small AS numeric(6,2);
        CREATE TYPE point3 AS (x int, \"Y z\" text, at timestamptz, n numeric);
        CREATE TYPE nested AS (p point3, list int[]);
        CREATE TABLE texts (id int PRIMARY KEY, e mood, dom email, dom2 strict_email NOT NULL DEFAULT 'x@y', small small,
            comp point3, nest nested, r4 int4range, r8 int8range, rn numrange, rd daterange, rts tsrange, rtz tstzrange,
            multi int4multirange, iv interval, ivm interval month, ttz timetz, bits bit(5), vbits bit varying(70),
            money money, inet inet, cidr cidr, mac macaddr, mac8 macaddr8, tsv tsvector, tsq tsquery, point point,
            line line, lseg lseg, box box, path path, polygon polygon, circle circle, c5 char(5), c \"char\",
            vc varchar(8), name name, xml xml, jp jsonpath, lsn pg_lsn, tid tid, xid xid, xid8 xid8, cid cid,
            reg regclass, proc regprocedure, acl aclitem, iv2 int2vector, ov oidvector, snap pg_snapshot);
        INSERT INTO texts (id) VALUES (0);
        INSERT INTO texts VALUES
        (1, 'it''s \"ok\"', 'a@b', 'c@d', 1234.5, ROW(1, 'a \"quoted\", (text)', '2024-01-01 00:00+02', 1.50),
         ROW(ROW(NULL, '', NULL, NULL), '{{1,NULL}}'), '[1,5)', '(,9)', '[1.5,2.50]', '[2024-01-01,)',
         '[2024-01-01 00:00,2024-01-02 00:00)', '[2024-01-01 00:00+02,)', '{{[1,3),[5,7)}}',
         '1 year 2 mons -3 days +04:05:06.789', '14 months', '12:34:56.789+05:30', '10101', '1', '-1234567.89', '10.0.0.1',
         '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', to_tsvector('simple', 'a fat cat''s \"tale\"'),
         'fat & (rat | cat:*)', '(1.5,-2)', '{{1,-1,0}}', '[(0,0),(1,1)]', '(1,1),(0,0)', '[(0,0),(1,1),(2,0)]',
         '((0,0),(1,1),(1,0))', '<(0,0),2.5>', 'ab', 'x', 'a  ', 'a_name', {xml}, '$.a[*] ? (@ > 1)', '16/B374D848',
         '(12,3)', '4294967295', '18446744073709551615', '7', 'pg_catalog.pg_class', 'pg_catalog.length(text)',
         'postgres=r*w/postgres', '1 2 3', '10 20', '10:20:10,14,15'),
        (2, '', '@', '@', -9999.99, ROW(NULL, NULL, NULL, NULL), NULL, 'empty', 'empty', '(,)', '(,)', '(,)', '(,)', '{{}}',
         '-178000000 years', '-1 month', '00:00-15:59', '00000', '', '92233720368547758.07', '::1/128', '::/0',
         'ff:ff:ff:ff:ff:ff', 'ff:ff:ff:ff:ff:ff:ff:ff', '', '', '(Infinity,NaN)', NULL, NULL, '(-1e300,1e-300),(0,0)',
         '((1,1))', NULL, '<(0,0),0>', '', '', '', '', NULL, 'lax $', '0/0', '(0,1)', '0', '0', '0', 0, 0, NULL, '', '', NULL),
        (3, 'a,b', E'@\\t\\n\\\\', 'é@ü', 0, ROW(-1, NULL, 'infinity', 'NaN'), NULL, '(,5)', NULL, '(,0)', 'empty', '[-infinity,infinity]', NULL,
         '{{(,)}}', '00:00', NULL, '23:59:59.999999+15:59', NULL, repeat('10', 35)::bit(70), '-92233720368547758.08', '10.0.0.1/8', '1.2.3.4/32',
         NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, E'é\\t', E'\\\\', E'\\n', repeat('n', 63), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
         NULL, NULL, NULL, NULL, NULL)"
    );
    // A type without a binary output function cannot stand in a binary COPY as itself.
    same_in_both_formats(version, &sql, &["texts"]).await;
}

async fn f17_arrays(version: Version) {
    let sql = r#"
        CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"', 'a,b');
        CREATE TYPE pair AS (a int, b text);
        CREATE DOMAIN price AS numeric(10,2);
        CREATE DOMAIN int_list AS int[];
        CREATE TABLE arrays (id int PRIMARY KEY, i4 int4[], i8 int8[], i2 int2[], o oid[], b bool[], f4 float4[], f8 float8[], t text[], vc varchar(9)[],
            c5 char(5)[], n numeric[], n10 numeric(10,2)[], n50 numeric(50,5)[], d date[], tm time[], ts timestamp[], tz timestamptz[],
            u uuid[], by bytea[], j json[], jb jsonb[], iv interval[], ip inet[], e mood[], comp pair[], p price[], il int_list,
            r int4range[], bx box[], nm name[], m money[], bits bit(3)[]);
        INSERT INTO arrays (id) VALUES (0);
        INSERT INTO arrays VALUES
        (1, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}',
         '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}'),
        (2, '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}',
         '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}',
         '{NULL}', '{NULL}', '{NULL}'),
        (3, '{-2147483648,NULL,2147483647}', '{-9223372036854775808,9223372036854775807}', '{-32768,32767}', '{0,4294967295}', '{t,f,NULL}',
         '{-0,NaN,Infinity,1.4e-45}', '{-0,NaN,-Infinity,4.9e-324,0.1}',
         ARRAY['', 'NULL', 'null', NULL, 'a,b', '"', '\', '{}', E' \t\n', 'it''s', '\"', '{"a": "b"}', ' lead', 'trail ', 'é💧', E'\x01'],
         ARRAY['a', '', ',', '"'], ARRAY['a', 'abcde', ''], '{1.50,NaN,Infinity,-0.00,1e30}', '{1.5,-99999999.99,0}',
         '{999999999999999999999999999999999999999999999.99999,-1}', '{0001-01-01,NULL,9999-12-31}', '{00:00,23:59:59.999999}',
         '{"0001-01-01 00:00","9999-12-31 23:59:59.999999"}', '{"0001-01-01 00:00+00","2024-01-01 12:00+02"}',
         '{00000000-0000-0000-0000-000000000000,ffffffff-ffff-ffff-ffff-ffffffffffff}', ARRAY['\x'::bytea, '\x00ff225c'::bytea],
         ARRAY['{"a": [1, 2]}'::json, 'null'::json, '"x\"y"'::json], ARRAY['{"b": 1.50}'::jsonb, '[]'::jsonb], ARRAY['1 day'::interval, '-00:00:01'],
         '{10.0.0.1,::1,10.0.0.0/8}', ARRAY['it''s "ok"', 'a,b', NULL]::mood[], ARRAY[ROW(1, 'a,"b"'), ROW(NULL, NULL), NULL]::pair[], '{1.50,NULL}',
         '{1,2}', ARRAY['[1,5)'::int4range, 'empty'], ARRAY[box '(1,1),(0,0)', box '(2,2),(1,1)'], '{a,"b c"}', '{1.00,-2.50}', '{101,010}');
        CREATE TABLE long_lists (id int PRIMARY KEY, i int4[], t text[]);
        INSERT INTO long_lists SELECT g, ARRAY(SELECT x FROM generate_series(1, g * 50) x),
            ARRAY(SELECT CASE WHEN x % 7 > 0 THEN repeat('"', x % 5) || x END FROM generate_series(1, g * 20) x) FROM generate_series(0, 60) g"#;
    same_in_both_formats(version, sql, &["arrays", "long_lists"]).await;
}

async fn f17_extension_types(version: Version) {
    let sql = r#"
        CREATE SCHEMA elsewhere;
        CREATE EXTENSION hstore; CREATE EXTENSION citext SCHEMA elsewhere; CREATE EXTENSION ltree; CREATE EXTENSION cube;
        CREATE TABLE extended (id int PRIMARY KEY, h hstore, c elsewhere.citext, l ltree, q cube, hs hstore[], cs elsewhere.citext[]);
        INSERT INTO extended VALUES (0); INSERT INTO extended VALUES (1, 'a=>1, "b c"=>NULL, "q\"uote"=>"x,y"', 'MiXed', 'Top.Science', '(1,2),(3.5,4)',
            ARRAY['a=>1'::hstore, ''::hstore, NULL], ARRAY['A', 'a,"b"', NULL]), (2, '', '', '', '0', '{}', '{}')"#;
    same_in_both_formats(version, sql, &["extended"]).await;
}

async fn binary_json_and_uuid(version: Version) {
    let sql = r#"
        CREATE TABLE documents (id int PRIMARY KEY, j json, jb jsonb, u uuid, by bytea);
        INSERT INTO documents VALUES (0); INSERT INTO documents VALUES
        (1, '  {"b" : 1,  "a":1.50, "a":2, "é": "\u00e9\n\\", "big": 12345678901234567890.123456789012345678901234567890} ',
            '  {"b" : 1,  "a":1.50, "a":2, "é": "\u00e9\n\\", "big": 12345678901234567890.123456789012345678901234567890} ',
            'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '\x'),
        (2, 'null', 'null', '00000000-0000-0000-0000-000000000000', '\x00'),
        (3, '"\""', '"\""', 'ffffffff-ffff-ffff-ffff-ffffffffffff', '\x5c785c0a0d0922275c4e'),
        (4, '"\u0000 kept as written"', '1e400', '00000000-0000-0000-0000-000000000001', decode(repeat('00ff0a5c', 5000), 'hex')),
        (5, '[[[[]]], {}, true, false]', '[[[[]]], {}, true, false]', NULL, NULL),
        (6, '-0.0', '-0.0', NULL, NULL), (7, E'[1,\n\t2]', E'[1,\n\t2]', NULL, NULL);
        INSERT INTO documents SELECT 1000 + g, json_build_object('g', g), jsonb_build_object('g', g, 't', repeat('x', g)),
            md5(g::text)::uuid, decode(md5(g::text), 'hex') FROM generate_series(1, 500) g"#;
    same_in_both_formats(version, sql, &["documents"]).await;
}

async fn text_with_every_escape(version: Version) {
    let sql = r#"
        CREATE TABLE escapes (id int PRIMARY KEY, t text, n varchar, last text);
        INSERT INTO escapes SELECT g, chr(g), 'a' || chr(g) || 'b', chr(g) || chr(g) FROM generate_series(1, 700) g;
        INSERT INTO escapes VALUES (1000, '', NULL, ''), (1001, '\N', '\\N', '\.'), (1002, E'\\', E'\\\\', E'\\\\\\'),
            (1003, E'\b\f\n\r\t\v', E'\\b\\f\\n\\r\\t\\v', E'\r\n'), (1004, '\x41\101', E'\\u0041', '\.'), (1005, '\.', E'\\.\n', E'\n\\.\n'),
            (1006, ' ', '  ', E' \t '), (1007, 'NULL', 'null', '"NULL"'), (1008, '💧', 'é', 'z̷̡̛'), (1009, chr(1114111), chr(55295), chr(57344)),
            (1010, E'\uFEFFbom', E'a\u200Db', E'\u202Ertl'), (1011, NULL, NULL, NULL);
        INSERT INTO escapes SELECT 2000 + g, repeat(E'\\', g), repeat(E'\t', g), repeat(E'\n\\N\t', g) FROM generate_series(1, 70) g"#;
    same_in_both_formats(version, sql, &["escapes"]).await;
}

/// The documented target of each type, as DuckDB sees it.
async fn types_of_columns(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE DOMAIN price AS numeric(9,1);
         CREATE TABLE kinds (b bool, i2 int2, i4 int4, i8 int8, o oid, f4 float4, f8 float8, n numeric, n12_2 numeric(12,2), n76 numeric(76,1),
            neg numeric(5,-3), wide numeric(3,5), n77 numeric(77), d date, t time, ts timestamp, tz timestamptz, u uuid, by bytea, j json, jb jsonb,
            txt text, ip inet, iv interval, p price, li int[], lt text[], ln numeric(4,1)[], ltz timestamptz[]);
         INSERT INTO kinds (i4) VALUES (1)",
    )
    .await;
    pipeline.sync().await;
    let described = pipeline
        .ask("kinds", "SELECT column_name, column_type FROM (DESCRIBE SELECT * EXCLUDE (n76) FROM log)")
        .await;
    let found: Vec<String> = described
        .iter()
        .map(|row| format!("{} {}", row[0].as_deref().unwrap(), row[1].as_deref().unwrap()))
        .collect();
    let expected = [
        "_lw_op VARCHAR",
        "_lw_seq VARCHAR",
        "_lw_commit_ts TIMESTAMP WITH TIME ZONE",
        "_lw_synced_at TIMESTAMP WITH TIME ZONE",
        "_lw_unchanged VARCHAR[]",
        "_lw_rescued JSON",
        "b BOOLEAN",
        "i2 SMALLINT",
        "i4 INTEGER",
        "i8 BIGINT",
        "o UINTEGER",
        "f4 FLOAT",
        "f8 DOUBLE",
        "n VARCHAR",
        "n12_2 DECIMAL(12,2)",
        "neg DECIMAL(8,0)",
        "wide DECIMAL(5,5)",
        "n77 VARCHAR",
        "d DATE",
        "t TIME",
        "ts TIMESTAMP",
        "tz TIMESTAMP WITH TIME ZONE",
        "u UUID",
        "by BLOB",
        "j JSON",
        "jb JSON",
        "txt VARCHAR",
        "ip VARCHAR",
        "iv VARCHAR",
        "p DECIMAL(9,1)",
        "li INTEGER[]",
        "lt VARCHAR[]",
        "ln DECIMAL(4,1)[]",
        "ltz TIMESTAMP WITH TIME ZONE[]",
    ];
    assert_eq!(found, expected);
}
