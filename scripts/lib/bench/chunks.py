"""Chunk sizes from 1 MiB to 2 GiB, by the program's own benchmark: what its default is chosen from."""

import json
import shutil
from typing import NamedTuple

from bench import lineitem, measure
from bench.bed import Project


class Case(NamedTuple):
    table: str
    # Of the rows that are asked for: more would show the same in hours.
    share: float
    rounds: int
    # Those that the program compares by itself, where there are none.
    sizes: tuple[str, ...] = ()


CASES = {
    "trips": Case("trips", 0.4, 3),
    "wide": Case("wide", 0.4, 3),
    "lineitem": Case("lineitem", 0.4, 3),
    # 11 million rows or 2.2 GiB, where nothing else is asked for: the largest chunk is not the whole table.
    "wide-large": Case("wide", 2.2, 2, ("1MiB", "64MiB", "256MiB", "1GiB", "2GiB")),
}


# Of `lakeward sync --chunk-size`.
DEFAULT_BYTES = 64 << 20


def run(bed, asked):
    content = bed.context(asked.rows)
    content["tables"] = {name: measure_table(bed, name, case, asked) for name, case in CASES.items()}
    content["targets"] = {
        f"`{of['table']}`, {of['rows']:,} rows: rows/s with the default, of the best": default_of_best(of)
        for of in content["tables"].values()
    }
    bed.save("chunks", content)


def default_of_best(stream):
    """The best has to be no faster but for noise. A table that is smaller than the default has a chunk as large as that."""
    rates = {size["chunk_bytes"]: size["rows_per_second"]["median"] for size in stream["sizes"]}
    nearest = max(size for size in rates if size <= DEFAULT_BYTES)
    return measure.floor(rates[nearest] / max(rates.values()), 1 - stream["recommendation"]["noise"], "×")


def measure_table(bed, name, case, asked):
    rows = int(asked.rows * case.share)
    expected = lineitem.fill(bed, rows) if case.table == "lineitem" else bed.table(case.table, rows)
    project = Project(bed, case.table)
    output = project.directory / "chunks"
    shutil.rmtree(output, ignore_errors=True)
    command = [bed.program, "bench", "chunk-size", "--config", "source.json", "--streams", "streams.json"]
    command += ["--destination", "destination.json", "--runs", str(min(asked.runs, case.rounds)), "--output", str(output)]
    command += ["--sizes", ",".join(case.sizes)] if case.sizes else []
    measure.run([*command, "--progress", "never"], cwd=project.directory, env=bed.environment)
    stream = json.loads((output / "chunk-size.json").read_text())["streams"][0]
    # It counts the rows of each run and throws its files away; here they are held against the source.
    for size in stream["sizes"]:
        project.sync(expected, "--chunk-size", size["chunk_size"])
    measure.say(f"{name}: take {stream['recommendation']['flag']}")
    return {"table": case.table, "command": measure.bare(command), **stream}
