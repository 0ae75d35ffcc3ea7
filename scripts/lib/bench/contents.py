"""Prints how many rows the Parquet files below a directory hold, or a query finds, the sum of their hashes, and what
types they have for each of the source's.

The request is a JSON object on standard input: directory, perhaps query, the source's columns with their types, and
check. A row's hash is of its columns' text as PostgreSQL prints it, so that the server can compute the same. Where the
check is of values, a numeric may be of any type and scale, and a timestamp without a time zone may be one in UTC.
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


def value(column, kind, source):
    """The text of a value that may not be of the source's type."""
    if source == "numeric":
        digits = text(column, kind)
        return f"CASE WHEN contains({digits}, '.') THEN rtrim(rtrim({digits}, '0'), '.') ELSE {digits} END"
    if source == "timestamp without time zone" and kind == "TIMESTAMP WITH TIME ZONE":
        return text(f"({column} AT TIME ZONE 'UTC')", "TIMESTAMP")
    return text(column, kind)


def main():
    request = json.load(sys.stdin)
    connection = lake.connect()
    if request.get("query"):
        files = f"({request['query']})"
    else:
        paths = ", ".join(lake.literal(path) for path in lake.visible_files(request["directory"]))
        files = f"read_parquet([{paths}], union_by_name = true, hive_partitioning = false)"
    kinds = {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE SELECT * FROM {files}").fetchall()}
    if request["check"] == "values":
        texts = [value(lake.ident(column), kinds[column], source) for column, source in request["columns"]]
    else:
        texts = [text(lake.ident(column), kinds[column]) for column, _ in request["columns"]]
    row = " || chr(31) || ".join(f"coalesce({one}, chr(30))" for one in texts)
    hashed = f"CAST('0x' || left(md5({row}), 15) AS BIGINT)"
    rows, total = connection.execute(f"SELECT count(*), sum({hashed}) FROM {files}").fetchone()
    types = {}
    for column, source in request["columns"]:
        types.setdefault(source, set()).add(kinds[column])
    types = {source: sorted(found) for source, found in sorted(types.items())}
    print(json.dumps({"rows": rows, "sum": str(total), "types": types}))


if __name__ == "__main__":
    try:
        main()
    except lake.Unreadable as unreadable:
        sys.exit(f"contents: {unreadable}")
