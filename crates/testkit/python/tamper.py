"""Alters committed rows of a stream and makes the commit log agree, as no fault of a disk would.

The request on standard input is {"lake": …, "stream": …, "where": {column: value}, "set": {column: value}} for values
that change in the row, or {…, "twice": true} for a row that shall stand there twice.
"""

import hashlib
import json
import pathlib
import sys

import lake
import pyarrow as pa
import pyarrow.parquet as pq


def main():
    request = json.load(sys.stdin)
    root = pathlib.Path(request["lake"])
    stream = request["stream"].replace(".", "/")
    altered = sum(alter(root, stream, pathlib.Path(file), request) for file in lake.visible_files(root / stream))
    if altered != 1:
        raise SystemExit(f"{altered} rows are as asked for, not 1")


def alter(root, stream, file, request):
    # The file only: the directories' names are no columns.
    parquet = pq.ParquetFile(file)
    table = parquet.read()
    rows = table.to_pylist()
    found = [n for n, row in enumerate(rows) if all(row[name] == value for name, value in request["where"].items())]
    if not found:
        return 0
    [row] = found
    rows[row] |= request.get("set", {})
    if request.get("twice"):
        rows.insert(row, rows[row])
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    pq.write_table(pa.Table.from_pylist(rows, schema=parquet.schema_arrow), file)
    after = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size, "rows": len(rows)}
    agree(root / "_lakeward" / stream / "commits", before, after)
    return 1


def agree(commits, before, after):
    for path in commits.glob("*.json"):
        record = json.loads(path.read_text())
        entries = [entry for entry in record.get("add", []) if entry["sha256"] == before]
        if entries:
            entries[0] |= after
            path.write_text(json.dumps(record, separators=(",", ":")))
            return
    raise SystemExit(f"no commit names {before}")


main()
