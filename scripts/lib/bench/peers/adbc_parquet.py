"""The peer: ADBC into batches of Arrow, each of which PyArrow writes into Parquet when it comes."""

import os
import sys

import adbc_driver_postgresql.dbapi
import pyarrow.parquet

table, path = sys.argv[1:]
with adbc_driver_postgresql.dbapi.connect(os.environ["SOURCE_URL"]) as connection, connection.cursor() as cursor:
    cursor.execute(f"SELECT * FROM {table}")
    batches = cursor.fetch_record_batch()
    with pyarrow.parquet.ParquetWriter(path, batches.schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
