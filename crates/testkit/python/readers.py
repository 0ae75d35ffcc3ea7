"""Reads one stream's files with DuckDB, Polars and PyArrow, each in the way that a user would.

The request on standard input is {"directory": …}. The answer is a JSON object by engine: rows, and
by column the number of nulls and a hash over all values that does not depend on their order; or an
error. Each engine reads the files by itself; only then all values are brought to one text form, in
one place, so that the hashes can be compared.
"""

import json
import sys

import duckdb
import lake
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds


def by_duckdb(files):
    for field in lake.unified_schema(files):
        if lake.has_wide_decimal(field.type):
            raise ValueError(f"DuckDB reads {field.name}, {field.type}, as a double")
    paths = ", ".join(lake.literal(file) for file in files)
    sql = f"SELECT * FROM read_parquet([{paths}], union_by_name = true, hive_partitioning = false)"
    connection = lake.connect()
    # Without it a UUID leaves DuckDB as text.
    connection.execute("SET arrow_lossless_conversion = true")
    return connection.execute(sql).to_arrow_table()


def by_polars(files):
    schema = {}
    for file in files:
        schema |= {name: kind for name, kind in pl.read_parquet_schema(file).items() if name not in schema}
    scan = pl.scan_parquet(files, schema=schema, missing_columns="insert", hive_partitioning=False)
    return scan.collect().to_arrow()


def by_pyarrow(files):
    return ds.dataset(files, schema=lake.unified_schema(files), format="parquet", partitioning=None).to_table()


def summary(table):
    table = lake.without_wide_decimals(table)
    aliases = [f"c{n}" for n in range(table.num_columns)]
    connection = lake.connect()
    connection.register("read", table.rename_columns(aliases))
    kinds = {row[0]: row[1] for row in connection.execute("DESCRIBE read").fetchall()}
    columns = {}
    for name, alias in zip(table.column_names, aliases):
        value = canonical(alias, kinds[alias])
        sums = f"count(*) - count({alias}), coalesce(sum(CAST(hash({value}) AS HUGEINT)) FILTER ({alias} IS NOT NULL), 0)"
        nulls, digest = connection.execute(f"SELECT {sums} FROM read").fetchone()
        columns[name] = {"nulls": nulls, "hash": f"{digest % 2**64:016x}"}
    return {"rows": table.num_rows, "columns": columns}


def canonical(alias, kind):
    """One text for a value, whatever unit or name the engine has for its type."""
    element = lake.base(kind)
    if element in ("TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"):
        kind = kind.replace(element, "TIMESTAMP")
        alias = f"CAST({alias} AS {kind})"
    value = lake.text(alias, kind)
    # What one engine calls a UUID another calls bytes; in a list it is quoted and escaped too. None of what is
    # taken out is a hex digit.
    if element in ("UUID", "BLOB"):
        value = f"regexp_replace({value}, '[-\"\\\\x]', '', 'g')"
    return value


def main():
    files = lake.visible_files(json.load(sys.stdin)["directory"])
    answers = {}
    for engine, read in (("duckdb", by_duckdb), ("polars", by_polars), ("pyarrow", by_pyarrow)):
        try:
            answers[engine] = summary(read(files))
        except (duckdb.Error, pl.exceptions.PolarsError, pa.ArrowException, ValueError, TypeError) as error:
            answers[engine] = {"error": f"{type(error).__name__}: {error}"}
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    try:
        main()
    except lake.Unreadable as unreadable:
        sys.exit(f"readers: {unreadable}")
