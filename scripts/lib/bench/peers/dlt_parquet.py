"""The peer: dlt's SQL source with one of its backends, into Parquet in a directory."""

import os
import sys
from pathlib import Path

import dlt
from dlt.destinations import filesystem
from dlt.sources.sql_database import sql_table

backend, table, directory = sys.argv[1:]
directory = Path(directory).resolve()
# As its documentation advises for large tables: chunks of 50,000 and more, and ConnectorX streaming them.
streaming = {"return_type": "arrow_stream", "partition_on": "id", "partition_num": 2}
rows = sql_table(
    credentials=os.environ["SOURCE_URL"],
    table=table,
    backend=backend,
    chunk_size=50_000,
    backend_kwargs=streaming if backend == "connectorx" else None,
)
pipeline = dlt.pipeline(
    "bench",
    destination=filesystem(bucket_url=directory.as_uri()),
    dataset_name="public",
    pipelines_dir=str(Path.cwd() / "pipelines"),
)
pipeline.run(rows, loader_file_format="parquet", write_disposition="replace").raise_on_failed_jobs()
