//! The latest view of a stream as a query: what its append log means.
//!
//! Rows after the greatest order with operation `t`; per key the last row, where a column that the source did not
//! send takes its last sent value; keys whose last row is a `d` are out. Change streams without a key are
//! multisets: +1 for every row but `d`, which is −1. Other modes without a key are all rows.

use std::collections::HashMap;
use std::path::Path;

use lakeward_core::{Definition, Error, ErrorKind, Meaning, Result};

use crate::layout::FILE_GLOB;

/// What is asked of a stream's files.
pub(crate) struct View<'a> {
    directory: String,
    definition: &'a Definition,
    /// `None` without columns: rows can only be counted then.
    meaning: Option<Meaning>,
}

const OP: &str = "_lw_op";
const SEQ: &str = "_lw_seq";
const UNCHANGED: &str = "_lw_unchanged";

impl<'a> View<'a> {
    pub(crate) fn new(directory: &Path, definition: &'a Definition) -> Self {
        let meaning = (!definition.columns.is_empty()).then(|| definition.meaning());
        Self { directory: directory.to_string_lossy().into_owned(), definition, meaning }
    }

    /// The query in an engine's words.
    ///
    /// # Errors
    /// `Config` where the engine is not known.
    pub(crate) fn query(&self, engine: &str) -> Result<String> {
        match engine {
            "duckdb" => match self.differ_only_in_case() {
                None => Ok(self.sql(&DuckDb)),
                Some((one, other)) => Err(Error::new(
                    ErrorKind::Config,
                    "DuckDB does not tell columns apart whose names differ only in case",
                )
                .at("column", one)
                .at("column", other)
                .hint("ask for another engine's view, or exclude one of them in streams.json")),
            },
            "spark" => Ok(self.sql(&Spark)),
            "polars" => Ok(self.polars()),
            _ => {
                Err(Error::new(ErrorKind::Config, format!("no view is written for the engine \"{engine}\""))
                    .hint("engines are duckdb, spark and polars"))
            }
        }
    }

    fn columns(&self) -> impl Iterator<Item = &'a str> {
        self.definition.columns.iter().map(|column| column.name.as_str())
    }

    fn differ_only_in_case(&self) -> Option<(&'a str, &'a str)> {
        let mut seen = HashMap::new();
        self.columns().find_map(|name| seen.insert(name.to_lowercase(), name).map(|other| (other, name)))
    }

    fn is_key(&self, column: &str) -> bool {
        self.definition.key.iter().any(|key| key == column)
    }

    fn sql(&self, dialect: &dyn Dialect) -> String {
        let quote = |name: &str| dialect.quote(name);
        let list = |names: &mut dyn Iterator<Item = &str>| names.map(quote).collect::<Vec<_>>().join(", ");
        let all = list(&mut self.columns());
        let (preamble, log) = dialect.source(&self.directory);
        let live = format!(
            "live AS (\n  SELECT * FROM log\n  WHERE {OP} <> 't' AND {SEQ} > coalesce((SELECT max({SEQ}) FROM log WHERE {OP} = 't'), '')\n)"
        );
        // A column that no file has yet is null.
        let every = match self.meaning {
            None => String::new(),
            _ => dialect.every_column(&self.columns().map(quote).collect::<Vec<_>>()),
        };
        let preamble = match self.differ_only_in_case() {
            Some(_) => format!("{}{preamble}", dialect.tell_cases_apart()),
            None => preamble,
        };
        let with = format!("{preamble}WITH log AS (\n  SELECT * FROM {log}{every}\n),\n{live}");
        match self.meaning {
            Some(Meaning::AllRows) => format!("{with}\nSELECT {all}\nFROM live\n"),
            Some(Meaning::LastOfKey) => {
                let keys = list(&mut self.definition.key.iter().map(String::as_str));
                let columns: Vec<String> = self
                    .columns()
                    .map(|name| match self.is_key(name) {
                        true => quote(name),
                        false => dialect.last_sent(name),
                    })
                    .collect();
                format!(
                    "{with},\nlatest AS (\n  SELECT\n    max_by({OP}, {SEQ}) AS {OP},\n    {}\n  FROM live\n  GROUP BY {keys}\n)\n\
                     SELECT {all}\nFROM latest\nWHERE {OP} <> 'd'\n",
                    columns.join(",\n    ")
                )
            }
            None => format!(
                "{with}\nSELECT CAST(coalesce(sum(CASE WHEN {OP} = 'd' THEN -1 ELSE 1 END), 0) AS BIGINT) AS row_count\nFROM live\n"
            ),
            Some(Meaning::Multiset) => {
                let repeated = dialect.repeat("copies");
                format!(
                    "{with},\ncounted AS (\n  SELECT {all}, CAST(sum(CASE WHEN {OP} = 'd' THEN -1 ELSE 1 END) AS BIGINT) AS copies\n  \
                     FROM live\n  GROUP BY {all}\n)\nSELECT {all}\nFROM (SELECT {all}, {repeated} FROM counted) AS repeated\n"
                )
            }
        }
    }

    /// Polars wants a schema that names every column. It is joined from the files' own, because a version of Polars
    /// decides what a JSON or UUID column is to it.
    fn polars(&self) -> String {
        let list = |names: &mut dyn Iterator<Item = &str>| names.map(python).collect::<Vec<_>>().join(", ");
        let all = list(&mut self.columns());
        let pattern = python(&format!("{}/**/{FILE_GLOB}", escape_glob(&self.directory)));
        let mut text = format!(
            "import glob\n\nimport polars as pl\n\nfiles = sorted(glob.glob({pattern}, recursive=True))\nschema = {{}}\n\
             for file in files:\n    schema |= pl.scan_parquet(file, glob=False, hive_partitioning=False).collect_schema()\n\
             for name in [{all}]:\n    schema.setdefault(name, pl.Null)\n\
             log = pl.scan_parquet(files, glob=False, schema=schema, missing_columns=\"insert\", hive_partitioning=False)\n\
             ended = log.filter(pl.col(\"{OP}\") == \"t\").select(pl.col(\"{SEQ}\").max().fill_null(\"\")).collect().item()\n\
             live = log.filter((pl.col(\"{OP}\") != \"t\") & (pl.col(\"{SEQ}\") > ended))\n"
        );
        match self.meaning {
            Some(Meaning::AllRows) => text.push_str(&format!("latest = live.select([{all}])\n")),
            Some(Meaning::LastOfKey) => {
                let keys = list(&mut self.definition.key.iter().map(String::as_str));
                let others = list(&mut self.columns().filter(|name| !self.is_key(name)));
                text.push_str(&format!(
                    "\n\ndef last_sent(name):\n    sent = ~pl.col(\"{UNCHANGED}\").list.contains(pl.lit(name)).fill_null(False)\n    \
                     return pl.col(name).filter(sent).sort_by(pl.col(\"{SEQ}\").filter(sent)).last()\n\n\n\
                     latest = (\n    live.group_by([{keys}])\n    .agg([pl.col(\"{OP}\").sort_by(\"{SEQ}\").last(), *[last_sent(name) for name in [{others}]]])\n    \
                     .filter(pl.col(\"{OP}\") != \"d\")\n    .select([{all}])\n)\n"
                ));
            }
            None => text.push_str(&format!(
                "latest = live.select(row_count=pl.when(pl.col(\"{OP}\") == \"d\").then(-1).otherwise(1).sum())\n"
            )),
            Some(Meaning::Multiset) => text.push_str(&format!(
                "latest = (\n    live.group_by([{all}])\n    .agg(copies=pl.when(pl.col(\"{OP}\") == \"d\").then(-1).otherwise(1).sum())\n    \
                 .filter(pl.col(\"copies\") > 0)\n    .select(pl.exclude(\"copies\").repeat_by(\"copies\"))\n    .explode(pl.all())\n)\n"
            )),
        }
        text.push_str("print(latest.collect())\n");
        text
    }
}

/// What SQL engines say differently.
trait Dialect {
    fn quote(&self, name: &str) -> String;
    /// Statements to run first, and what to select from.
    fn source(&self, directory: &str) -> (String, String);
    /// What to append to the files' rows, so that all of these columns exist.
    fn every_column(&self, _quoted: &[String]) -> String {
        String::new()
    }
    /// A statement to run before all others where names differ only in case.
    fn tell_cases_apart(&self) -> &'static str {
        ""
    }
    /// A column's value in the last row that has one sent, null included.
    fn last_sent(&self, name: &str) -> String;
    /// A column that repeats its row as often as another says.
    fn repeat(&self, copies: &str) -> String;
}

struct DuckDb;

impl Dialect for DuckDb {
    fn quote(&self, name: &str) -> String {
        format!("\"{}\"", name.replace('"', "\"\""))
    }

    fn source(&self, directory: &str) -> (String, String) {
        let glob = sql_text(&format!("{}/**/{FILE_GLOB}", escape_glob(directory)));
        (String::new(), format!("read_parquet({glob}, union_by_name = true, hive_partitioning = false)"))
    }

    fn every_column(&self, quoted: &[String]) -> String {
        let nulls: Vec<String> = quoted.iter().map(|name| format!("NULL AS {name}")).collect();
        format!("\n  UNION ALL BY NAME SELECT {} WHERE false", nulls.join(", "))
    }

    fn last_sent(&self, name: &str) -> String {
        let (column, text) = (self.quote(name), sql_text(name));
        format!(
            "arg_max_null({column}, {SEQ}) FILTER (WHERE {UNCHANGED} IS NULL OR NOT list_contains({UNCHANGED}, {text})) AS {column}"
        )
    }

    fn repeat(&self, copies: &str) -> String {
        // Not a condition on the count: DuckDB 2.0 takes the result for empty then.
        format!("unnest(range(greatest({copies}, 0))) AS copy")
    }
}

struct Spark;

impl Dialect for Spark {
    fn quote(&self, name: &str) -> String {
        format!("`{}`", name.replace('`', "``"))
    }

    fn source(&self, directory: &str) -> (String, String) {
        let preamble = format!(
            "CREATE OR REPLACE TEMPORARY VIEW lakeward_log USING parquet OPTIONS (\n  path {}, recursiveFileLookup 'true', mergeSchema 'true', pathGlobFilter '{FILE_GLOB}'\n);\n",
            spark_text(directory)
        );
        (preamble, "lakeward_log".to_owned())
    }

    fn tell_cases_apart(&self) -> &'static str {
        "SET spark.sql.caseSensitive = true;\n"
    }

    fn last_sent(&self, name: &str) -> String {
        let (column, text) = (self.quote(name), spark_text(name));
        format!(
            "max_by({column}, {SEQ}) FILTER (WHERE {UNCHANGED} IS NULL OR NOT array_contains({UNCHANGED}, {text})) AS {column}"
        )
    }

    fn repeat(&self, copies: &str) -> String {
        format!("explode(CASE WHEN {copies} > 0 THEN sequence(1, {copies}) ELSE array() END) AS copy")
    }
}

fn sql_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn spark_text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn python(text: &str) -> String {
    // A JSON string is a Python string.
    serde_json::Value::from(text).to_string()
}

/// A directory's name may hold what a glob takes for a pattern.
fn escape_glob(directory: &str) -> String {
    directory
        .chars()
        .map(|c| if matches!(c, '*' | '?' | '[') { format!("[{c}]") } else { c.to_string() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lakeward_core::{DefinedColumn, SyncMode};

    fn definition(sync_mode: SyncMode, key: &[&str]) -> Definition {
        let column = |name: &str| DefinedColumn {
            name: name.to_owned(),
            source: None,
            column_type: "text".to_owned(),
            identity: name.to_owned(),
            stored_as: String::new(),
        };
        Definition {
            source_stream: ["public".to_owned(), "t".to_owned()],
            sync_mode,
            key: key.iter().map(|name| (*name).to_owned()).collect(),
            cursor: Vec::new(),
            filter: None,
            partition: Vec::new(),
            columns: ["id", "it's \"x\""].map(column).to_vec(),
            left_out: Vec::new(),
            columns_made: None,
        }
    }

    #[test]
    fn a_streams_mode_and_key_decide_what_its_log_means() {
        for (mode, key, has) in [
            (SyncMode::FullRefresh, &["id"][..], "FROM live\n"),
            (SyncMode::Incremental, &[], "FROM live\n"),
            (SyncMode::Incremental, &["id"], "GROUP BY \"id\""),
            (SyncMode::Cdc, &["id"], "WHERE _lw_op <> 'd'"),
            (SyncMode::StrictCdc, &["id"], "WHERE _lw_op <> 'd'"),
            (SyncMode::Cdc, &[], "unnest(range(greatest(copies, 0)))"),
        ] {
            let definition = definition(mode, key);
            let query = View::new(Path::new("/lake/public/t"), &definition).query("duckdb").unwrap();
            assert!(query.contains(has), "{mode} {key:?}:\n{query}");
        }
    }

    #[test]
    fn names_are_quoted_as_each_engine_wants_it() {
        let definition = definition(SyncMode::Cdc, &["id"]);
        let view = View::new(Path::new("/la*ke/o'brien"), &definition);
        let duckdb = view.query("duckdb").unwrap();
        assert!(
            duckdb.contains("'/la[*]ke/o''brien/**/") && duckdb.contains("\"it's \"\"x\"\"\""),
            "{duckdb}"
        );
        assert!(duckdb.contains("list_contains(_lw_unchanged, 'it''s \"x\"')"), "{duckdb}");
        let spark = view.query("spark").unwrap();
        assert!(spark.contains("path '/la*ke/o\\'brien'") && spark.contains("`it's \"x\"`"), "{spark}");
        let polars = view.query("polars").unwrap();
        assert!(polars.contains("\"it's \\\"x\\\"\""), "{polars}");
        assert_eq!(view.query("excel").unwrap_err().kind(), ErrorKind::Config);
    }
}
