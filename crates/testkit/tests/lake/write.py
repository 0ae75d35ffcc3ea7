"""Writes one Parquet file of a stream, by PyArrow, from rows that a test made up.

The request on standard input: file, columns ([name, kind] each) and rows ([_lw_op, _lw_seq,
_lw_unchanged, _lw_rescued, value…] each). Values are text or null, or lists of them.
"""

import datetime
import decimal
import json
import os
import sys
import uuid

import pyarrow as pa
import pyarrow.parquet as pq

decimal.getcontext().prec = 100

TYPES = {
    "bool": (pa.bool_(), lambda text: text == "t"),
    "int16": (pa.int16(), int),
    "int32": (pa.int32(), int),
    "int64": (pa.int64(), int),
    "uint32": (pa.uint32(), int),
    "float": (pa.float32(), float),
    "double": (pa.float64(), float),
    "text": (pa.string(), str),
    "date": (pa.date32(), int),
    "time": (pa.time64("us"), int),
    "timestamp": (pa.timestamp("us"), int),
    "timestamptz": (pa.timestamp("us", "UTC"), int),
    "uuid": (pa.uuid(), lambda text: uuid.UUID(text).bytes),
    "json": (pa.json_(pa.string()), str),
    "binary": (pa.binary(), bytes.fromhex),
}


def kind_of(kind):
    if kind.startswith("list "):
        element, convert = kind_of(kind[5:])
        return pa.list_(element), lambda values: [None if value is None else convert(value) for value in values]
    if kind.startswith("decimal "):
        precision, scale = map(int, kind[8:].split(","))
        return (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, scale), decimal.Decimal
    return TYPES[kind]


def array(kind, values):
    arrow, convert = kind_of(kind)
    values = [None if value is None else convert(value) for value in values]
    storage = arrow.storage_type if isinstance(arrow, pa.BaseExtensionType) else arrow
    built = pa.array(values, storage)
    return pa.ExtensionArray.from_storage(arrow, built) if storage is not arrow else built


def main():
    request = json.load(sys.stdin)
    rows = request["rows"]
    now = datetime.datetime.now(datetime.timezone.utc)
    columns = {
        "_lw_op": pa.array([row[0] for row in rows], pa.string()),
        "_lw_seq": pa.array([row[1] for row in rows], pa.string()),
        "_lw_commit_ts": pa.array([None if row[0] == "r" else now for row in rows], pa.timestamp("us", "UTC")),
        "_lw_synced_at": pa.array([now for _ in rows], pa.timestamp("us", "UTC")),
        "_lw_unchanged": pa.array([row[2] for row in rows], pa.list_(pa.string())),
        "_lw_rescued": pa.array([row[3] for row in rows], pa.string()),
    }
    for place, (name, kind) in enumerate(request["columns"]):
        columns[name] = array(kind, [row[4 + place] for row in rows])
    os.makedirs(os.path.dirname(request["file"]), exist_ok=True)
    # PyArrow does not take duplicate names from a dict, but names that differ in case it does.
    pq.write_table(pa.table(columns), request["file"], compression="zstd")


main()
