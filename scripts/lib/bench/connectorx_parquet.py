"""The peer: ConnectorX into Arrow over two partitions of the key, then PyArrow into Parquet."""

import sys

import connectorx
import pyarrow.parquet

url, table, path = sys.argv[1:]
rows = connectorx.read_sql(url, f"SELECT * FROM {table}", partition_on="id", partition_num=2, return_type="arrow")
pyarrow.parquet.write_table(rows, path, compression="zstd")
