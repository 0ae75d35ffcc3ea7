"""Many tiny tables: finding them, syncing them, and how often the disk is waited for."""

import re
import shutil

import host
from bench import measure, tiny

SCHEMA = "bench_many"
TABLES, SECONDS, FSYNCS = 5_000, 60, 5
DISCOVERED, DISCOVER_SECONDS = 10_000, 10


def run(bed, asked):
    if not shutil.which("strace"):
        host.apt_install("strace", "to count how often the disk is waited for")
    content = bed.context(asked.tables * tiny.ROWS)
    with tiny.tables(bed, SCHEMA, asked.tables) as project:
        runs = []
        for _ in range(asked.runs):
            runs.append(project.sync_all(asked.tables))
            measure.say(f"{asked.tables:,} tables of {tiny.ROWS} rows: {runs[-1].seconds:.1f} s")
        project.forget()
        fsyncs = count_fsyncs(project)
        # More of them, which need not be synced.
        more = 2 * asked.tables
        tiny.create(bed, SCHEMA, asked.tables, more)
        found = project.discover(more)
    each = fsyncs["tables"] / asked.tables
    measure.say(f"{more:,} tables found in {found.seconds:.1f} s; fsyncs: {fsyncs}")
    content |= {"tables": asked.tables, "discovered": more, "fsyncs": fsyncs}
    content |= measure.measurement(runs, project.quiet())
    content["targets"] = {
        f"sync of {asked.tables:,} tables of {tiny.ROWS} rows": measure.target(
            measure.median(runs), SECONDS * asked.tables / TABLES, "s"
        ),
        "fsyncs a table": measure.target(each, FSYNCS, "times"),
        f"discover of {more:,} tables": measure.target(found.seconds, DISCOVER_SECONDS * more / DISCOVERED, "s"),
    }
    bed.save("many", content)


def count_fsyncs(project):
    """Of tables, of the destination as a whole, and of the state. Not measured: the program is slower when each call is
    written down."""
    calls = project.directory / "strace.txt"
    traced = ["strace", "-f", "-y", "-e", "trace=fsync,fdatasync,syncfs,sync", "-o", str(calls), *project.quiet()]
    measure.run(traced, cwd=project.directory, env=project.bed.environment)
    synced = re.findall(r"\b(?:fsync|fdatasync|syncfs|sync)\((.*)", calls.read_text())
    lake = f"<{(project.directory / 'lake').resolve()}"
    in_lake = [call.split(lake)[1] for call in synced if lake in call]
    of_tables = sum(f"/{SCHEMA}/" in path for path in in_lake)
    return {"tables": of_tables, "destination": len(in_lake) - of_tables, "state": len(synced) - len(in_lake)}
