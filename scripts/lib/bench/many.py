"""Many tiny tables: finding them, syncing them, and how often the disk is waited for."""

import json
import re

import host
from bench import measure, tiny

SCHEMA = "bench_many"
TABLES, SECONDS, FSYNCS = 5_000, 60, 5
DISCOVERED, DISCOVER_SECONDS = 10_000, 10


def run(bed, asked):
    content = bed.context(asked.tables * tiny.ROWS)
    with tiny.tables(bed, SCHEMA, asked.tables) as project:
        runs = []
        for _ in range(asked.runs):
            runs.append(project.sync_all(asked.tables))
            measure.say(f"{asked.tables:,} tables of {tiny.ROWS} rows: {runs[-1].seconds:.1f} s")
        project.forget()
        fsyncs, for_state = count_fsyncs(project)
        # More of them, which need not be synced.
        more = 2 * asked.tables
        tiny.create(bed, SCHEMA, asked.tables, more)
        discover = [bed.program, "discover", "--config", "source.json", "--output", "all.json"]
        found = measure.run(discover, cwd=project.directory, env=bed.environment)
        streams = len(json.loads((project.directory / "all.json").read_text())["streams"])
    if streams != more:
        raise host.Failure(f"{streams} of {more} tables were found")
    each = fsyncs / asked.tables
    measure.say(f"{more:,} tables found in {found.seconds:.1f} s; {each:.2f} fsyncs a table, {for_state} for the state")
    content |= {"tables": asked.tables, "discovered": more, "fsyncs_for_state": for_state}
    content |= measure.measurement(runs, project.quiet())
    content["targets"] = {
        f"sync of {asked.tables:,} tables of {tiny.ROWS} rows": measure.target(
            round(measure.median(runs), 1), SECONDS * asked.tables / TABLES, "s"
        ),
        "fsyncs a table": measure.target(round(each, 2), FSYNCS, "times"),
        f"discover of {more:,} tables": measure.target(
            round(found.seconds, 1), DISCOVER_SECONDS * more / DISCOVERED, "s"
        ),
    }
    bed.save("many", content)


def count_fsyncs(project):
    """Of tables, and of the state. Not measured: the program is slower when each call is written down."""
    calls = project.directory / "strace.txt"
    traced = ["strace", "-f", "-y", "-e", "trace=fsync,fdatasync,syncfs,sync", "-o", str(calls), *project.quiet()]
    measure.run(traced, cwd=project.directory, env=project.bed.environment)
    synced = re.findall(r"\b(?:fsync|fdatasync|syncfs|sync)\((.*)", calls.read_text())
    of_state = sum("/lake" not in call for call in synced)
    return len(synced) - of_state, of_state
