"""Lakeward and ConnectorX in turn: the same table, to Parquet with zstd, over two connections."""

import shutil

from bench import measure
from bench.bed import DATABASE, WORK
from pathlib import Path

import postgres

CONNECTORX = Path(__file__).resolve().parent / "connectorx_parquet.py"
TABLE = "trips"


def run(bed, asked):
    expected = bed.table(TABLE, asked.rows)
    content = bed.context(asked.rows)
    project = bed.project(TABLE)
    url = f"postgresql://postgres:{postgres.PASSWORD}@127.0.0.1:{bed.port}/{DATABASE}"
    output = WORK / "connectorx"
    peer = [bed.python, str(CONNECTORX), url, TABLE, str(output / f"{TABLE}.parquet")]
    ours, theirs = [], []
    for number in range(1, asked.runs + 1):
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        theirs.append(measure.run(peer))
        # ConnectorX has its own idea of numeric, so its numerics are not held against the source's text.
        bed.check(output, expected, kind="exact")
        ours.append(project.sync(expected, "--max-connections", "2"))
        measure.say(
            f"round {number}: ConnectorX {theirs[-1].seconds:.2f} s, CPU {theirs[-1].cpu_seconds:.2f} s; "
            f"Lakeward {ours[-1].seconds:.2f} s, CPU {ours[-1].cpu_seconds:.2f} s"
        )
    shown = [part.replace(url, "postgresql://…") for part in peer]
    content["measurements"] = {
        "connectorx": measure.measurement(theirs, shown, parquet_bytes=(output / f"{TABLE}.parquet").stat().st_size),
        "lakeward": measure.measurement(
            ours, project.command("--max-connections", "2"), parquet_bytes=project.lake_bytes()
        ),
    }
    content["ratios"] = {
        what: measure.ratio(ours, theirs, what) for what in ("seconds", "cpu_seconds", "peak_rss_bytes")
    }
    bed.save("peers", content)
