"""Many tiny tables: finding them, syncing them, and how often the disk is waited for."""

import json
import re
import shutil

import host
from bench import measure
from bench.bed import DATABASE, WORK

SCHEMA = "bench_many"
ROWS = 10
FSYNCS = 5
# For a thousand tables.
SYNC_SECONDS, DISCOVER_SECONDS = 12, 1
# CREATE TABLE holds a lock for each until its transaction ends.
AT_ONCE = 1_000


def run(bed, asked):
    tables, discovered = asked.tables, 2 * asked.tables
    content = bed.context(tables * ROWS)
    if exists(bed):
        drop(bed)
    bed.sql(f"CREATE SCHEMA {SCHEMA}")
    create(bed, 0, tables)
    directory = WORK / SCHEMA
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    source = {"type": "postgres", "host": "127.0.0.1", "port": int(bed.port), "database": DATABASE}
    source |= {"username": "postgres", "password": "${PGPASSWORD}", "ssl": {"mode": "disable"}, "schemas": [SCHEMA]}
    (directory / "source.json").write_text(json.dumps(source))
    (directory / "destination.json").write_text(json.dumps({"type": "parquet", "path": "./lake"}))
    discover = [bed.program, "discover", "--config", "source.json"]
    measure.run(discover, cwd=directory, env=bed.environment)
    sync = [bed.program, "sync", "--progress", "never", "--log-level", "warn"]
    runs = []
    for _ in range(asked.runs):
        forget(directory)
        runs.append(measure.run(sync, cwd=directory, env=bed.environment))
        measure.say(f"{tables:,} tables of {ROWS} rows: {runs[-1].seconds:.1f} s")
        check(bed, directory, tables)
    forget(directory)
    fsyncs, for_state = count_fsyncs(bed, directory, sync)
    # More of them, which need not be synced.
    create(bed, tables, discovered)
    found = measure.run([*discover, "--output", "all.json"], cwd=directory, env=bed.environment)
    streams = len(json.loads((directory / "all.json").read_text())["streams"])
    if streams != discovered:
        raise host.Failure(f"{streams} of {discovered} tables were found")
    measure.say(f"{discovered:,} tables found in {found.seconds:.1f} s; {fsyncs / tables:.2f} fsyncs a table")
    drop(bed)
    shutil.rmtree(directory)
    content |= {"fsyncs_for_state": for_state, "tables": tables, "discovered": discovered, **measure.measurement(runs, sync)}
    content["targets"] = {
        f"sync of {tables:,} tables of {ROWS} rows": measure.target(
            round(measure.median(runs), 1), SYNC_SECONDS * tables / 1_000, "s"
        ),
        "fsyncs a table": measure.target(round(fsyncs / tables, 2), FSYNCS, "times"),
        f"discover of {discovered:,} tables": measure.target(
            round(found.seconds, 1), DISCOVER_SECONDS * discovered / 1_000, "s"
        ),
    }
    bed.save("many", content)


def exists(bed):
    return bed.sql(f"SELECT count(*) FROM pg_namespace WHERE nspname = '{SCHEMA}'") == "1"


def create(bed, first, end):
    for start in range(first, end, AT_ONCE):
        bed.sql(
            f"DO $$ BEGIN FOR n IN {start}..{min(start + AT_ONCE, end) - 1} LOOP EXECUTE format("
            f"'CREATE TABLE {SCHEMA}.t%s (id int PRIMARY KEY, note text); "
            f"INSERT INTO {SCHEMA}.t%s SELECT g, %L || g FROM generate_series(1, {ROWS}) g', n, n, 't' || n || ' row ');"
            " END LOOP; END $$"
        )


def drop(bed):
    """Some at a time: each of them takes locks until its transaction ends."""
    names = bed.sql(f"SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = '{SCHEMA}'::regnamespace")
    tables = names.split()
    for start in range(0, len(tables), AT_ONCE):
        bed.sql("DROP TABLE " + ", ".join(f"{SCHEMA}.{name}" for name in tables[start : start + AT_ONCE]))
    bed.sql(f"DROP SCHEMA {SCHEMA} CASCADE")


def forget(directory):
    shutil.rmtree(directory / "lake", ignore_errors=True)
    for left in directory.glob("state.json*"):
        left.unlink()


def check(bed, directory, tables):
    """All rows of all tables are there, and nothing else."""
    found = bed.python_json(ROWS_OF_ALL, str(directory / "lake" / SCHEMA))
    if found != {"tables": tables, "rows": tables * ROWS, "wrong": 0}:
        raise host.Failure(f"{directory} does not hold the source's rows: {found}")


def count_fsyncs(bed, directory, sync):
    """Of tables, and of the state. Not measured: the program is slower when each call is written down."""
    calls = directory / "strace.txt"
    traced = ["strace", "-f", "-y", "-e", "trace=fsync,fdatasync,syncfs,sync", "-o", str(calls), *sync]
    measure.run(traced, cwd=directory, env=bed.environment)
    synced = re.findall(r"\b(?:fsync|fdatasync|syncfs|sync)\((.*)", calls.read_text())
    of_state = sum("/lake" not in call for call in synced)
    return len(synced) - of_state, of_state


ROWS_OF_ALL = """
import json, pathlib, sys
import pyarrow.parquet as pq

tables = rows = wrong = 0
for directory in pathlib.Path(json.load(sys.stdin)).iterdir():
    tables += 1
    for path in directory.glob("*.parquet"):
        table = pq.read_table(path, columns=["id", "note"], partitioning=None).to_pylist()
        rows += len(table)
        wrong += sum(row["note"] != f"{directory.name} row {row['id']}" for row in table)
print(json.dumps({"tables": tables, "rows": rows, "wrong": wrong}))
"""
