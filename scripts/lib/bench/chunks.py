"""Chunk sizes from 1 MiB to 2 GiB, by the program's own benchmark: what its default is chosen from."""

import json
import shutil

from bench import lineitem, measure
from bench.bed import Project

TABLES = ("trips", "wide", "lineitem")
# More would show the same in hours.
MOST_ROWS = 2_000_000


def run(bed, asked):
    rows = min(asked.rows, MOST_ROWS)
    content = bed.context(rows)
    content["tables"] = {table: measure_table(bed, table, rows, asked.runs) for table in TABLES}
    bed.save("chunks", content)


def measure_table(bed, table, rows, runs):
    if table == "lineitem":
        lineitem.fill(bed, rows)
    else:
        bed.table(table, rows)
    project = Project(bed, table)
    output = project.directory / "chunks"
    shutil.rmtree(output, ignore_errors=True)
    command = [bed.program, "bench", "chunk-size", "--config", "source.json", "--streams", "streams.json"]
    command += ["--destination", "destination.json", "--runs", str(runs), "--output", str(output)]
    # As a user who says nothing else would run it.
    command += ["--max-connections", "4", "--progress", "never"]
    measure.run(command, cwd=project.directory, env=bed.environment)
    stream = json.loads((output / "chunk-size.json").read_text())["streams"][0]
    measure.say(f"{table}: take {stream['recommendation']['flag']}")
    return {"command": measure.bare(command), **stream}
