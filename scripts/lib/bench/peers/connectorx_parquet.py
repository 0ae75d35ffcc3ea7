"""The peer: ConnectorX into Arrow over two partitions of the key, then PyArrow into Parquet."""

import os
import sys

import connectorx
import pyarrow.parquet

table, path = sys.argv[1:]
query = f"SELECT * FROM {table}"
rows = connectorx.read_sql(os.environ["SOURCE_URL"], query, partition_on="id", partition_num=2, return_type="arrow")
pyarrow.parquet.write_table(rows, path, compression="zstd")
