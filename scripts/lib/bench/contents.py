"""Prints how many rows the Parquet files below a directory hold, or a query finds, and the sum of their hashes.

The request is a JSON object on standard input: directory, perhaps query, and columns. A row's hash is of its columns' text as
PostgreSQL prints it, so that the server can compute the same.
"""

import json
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent.parent
sys.path.insert(0, str(PROJECT / "crates" / "testkit" / "python"))

import lake  # noqa: E402


def text(column, kind):
    if kind in ("FLOAT", "DOUBLE"):
        return f"regexp_replace(CAST({column} AS VARCHAR), '\\.0$', '')"
    return lake.text(column, kind)


def main():
    request = json.load(sys.stdin)
    connection = lake.connect()
    if request.get("query"):
        files = f"({request['query']})"
    else:
        paths = ", ".join(lake.literal(path) for path in lake.visible_files(request["directory"]))
        files = f"read_parquet([{paths}], union_by_name = true, hive_partitioning = false)"
    kinds = {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE SELECT * FROM {files}").fetchall()}
    texts = [text(lake.ident(column), kinds[column]) for column in request["columns"]]
    row = " || chr(31) || ".join(f"coalesce({one}, chr(30))" for one in texts)
    hashed = f"CAST('0x' || left(md5({row}), 15) AS BIGINT)"
    rows, total = connection.execute(f"SELECT count(*), sum({hashed}) FROM {files}").fetchone()
    print(json.dumps({"rows": rows, "sum": str(total)}))


if __name__ == "__main__":
    try:
        main()
    except lake.Unreadable as unreadable:
        sys.exit(f"contents: {unreadable}")
