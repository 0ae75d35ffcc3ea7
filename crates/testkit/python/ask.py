"""Answers a query over all visible files of a stream, which it calls `log`, by DuckDB: every value as text.

Standard input: {"directory": …, "query": …}. Standard output: a JSON list of rows.
"""

import json
import sys

import duckdb


def main():
    request = json.load(sys.stdin)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    glob = request["directory"].replace("'", "''") + "/**/*.parquet"
    files = f"read_parquet('{glob}', union_by_name = true, hive_partitioning = false)"
    connection.execute(f"CREATE VIEW log AS SELECT * FROM {files}")
    answer = connection.sql(request["query"])
    texts = ", ".join(f"CAST(#{place + 1} AS VARCHAR)" for place in range(len(answer.columns)))
    print(json.dumps(connection.sql(f"SELECT {texts} FROM answer").fetchall()))


main()
