"""Chunk sizes from 1 MiB to 2 GiB, by the program's own benchmark: what its default is chosen from."""

import json
import shutil

from bench import lineitem, measure
from bench.bed import Project

TABLES = ("trips", "wide", "lineitem")


def run(bed, asked):
    content = bed.context(asked.rows)
    content["tables"] = {table: measure_table(bed, table, asked) for table in TABLES}
    bed.save("chunks", content)


def measure_table(bed, table, asked):
    if table == "lineitem":
        lineitem.fill(bed, asked.rows)
    else:
        bed.table(table, asked.rows)
    project = Project(bed, table)
    output = project.directory / "chunks"
    shutil.rmtree(output, ignore_errors=True)
    command = [bed.program, "bench", "chunk-size", "--config", "source.json", "--streams", "streams.json"]
    command += ["--destination", "destination.json", "--runs", str(asked.runs), "--output", str(output)]
    # As a user who says nothing else would run it.
    command += ["--max-connections", "4", "--progress", "never"]
    measure.run(command, cwd=project.directory, env=bed.environment)
    stream = json.loads((output / "chunk-size.json").read_text())["streams"][0]
    measure.say(f"{table}: take {stream['recommendation']['flag']}")
    return {"command": measure.bare(command), **stream}
