"""How cost grows: with rows, columns, connections, tables, changes in a transaction, and streams of one log."""

from typing import NamedTuple

from bench import measure, tiny
from bench.bed import Project

TABLE = "growth"
SCHEMA = "bench_growth"
# Of each point.
RUNS = 2
# Values of the table whose columns are counted, whatever their number.
CELLS = 20_000_000
COLUMNS = (4, 16, 64, 200, 400)
ROWS = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 20_000_000)
CONNECTIONS = (1, 2, 4, 8, 16)
# MB that a backfill may take, by connections; with few of them at every number of rows, with many at the greatest.
FEW, MANY = (2, 300), (16, 512)
TABLES = (1, 10, 100, 1_000, 10_000)
CHANGES = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
STREAMS = (1, 10, 100, 1_000)
# How many changes are followed where they are not what is counted.
FOLLOWED = 200_000


class Point(NamedTuple):
    axis: str
    at: int
    # What was read or followed, in the unit of the axis.
    work: int
    runs: list[measure.Run]
    command: list[str]
    # MB.
    memory: int | None = None


def run(bed, asked):
    content = bed.context(asked.rows)
    content |= {"axes": {}, "targets": {}, "runs": min(asked.runs, RUNS)}
    for axis in AXES:
        for point in axis(bed, content["runs"], asked):
            keep(content, point)
    bed.sql(f"DROP TABLE IF EXISTS {TABLE}")
    bed.save("growth", content)


def keep(content, point):
    found = {"at": point.at, "work": point.work, **measure.measurement(point.runs, point.command)}
    content["axes"].setdefault(point.axis, []).append(found)
    if point.memory:
        what = f"peak memory, {point.at:,} {point.axis}"
        content["targets"][what] = measure.memory_target(point.runs, point.memory)
    median, most = found["median"], measure.greatest(point.runs) / measure.MB
    measure.say(f"{point.axis}, {point.at:,}: {median['seconds']:.2f} s, CPU {median['cpu_seconds']:.2f} s, {most:.0f} MB")


def up_to(sizes, most):
    """Those of the sizes that are asked for."""
    return [size for size in sizes if size <= most] or sizes[:1]


def make(bed, *statements):
    bed.sql(f"DROP TABLE IF EXISTS {TABLE}", *statements, "CHECKPOINT")


def backfills(project, runs, expected, *options):
    """Syncs of a table, measured, whose files held its rows."""
    return [project.sync(expected, *options) for _ in range(runs)], project.quiet(*options)


def rows(bed, runs, asked):
    bed.table("trips", asked.rows)
    sizes, there = up_to(ROWS, 4 * asked.rows), 0
    make(bed, f"CREATE TABLE {TABLE} AS SELECT * FROM trips LIMIT 0")
    for count in sizes:
        for at in range(there, count, asked.rows):
            bed.sql(f"INSERT INTO {TABLE} SELECT * FROM trips LIMIT {min(asked.rows, count - at)}")
        there = count
        expected = bed.hash_source(TABLE)
        project = Project(bed, TABLE)
        for connections, most in (FEW, MANY) if count == sizes[-1] else (FEW,):
            done = backfills(project, runs, expected, "--max-connections", str(connections))
            yield Point(f"rows over {connections} connections", count, count, *done, memory=most)


def columns(bed, runs, asked):
    kinds = ["(g * {n} % 100000)::int", "(g * {n} % 100000 / 100.0)::numeric(12, 2)", "'text ' || g % (100 * {n})"]
    kinds += ["timestamptz '2020-01-01 00:00:00+00' + (g * {n} % 10000000) * interval '1 second'"]
    for count in COLUMNS:
        height = min(CELLS, 4 * asked.rows) // count
        made = [f"{kinds[n % 4].format(n=n + 1)} AS c{n}" for n in range(count)]
        make(bed, f"CREATE TABLE {TABLE} AS SELECT {', '.join(made)} FROM generate_series(1::bigint, {height}) g")
        done = backfills(Project(bed, TABLE), runs, bed.hash_source(TABLE))
        yield Point("columns", count, height * count, *done)


def connections(bed, runs, asked):
    expected = bed.table("trips", asked.rows)
    project = Project(bed, "trips")
    for count in CONNECTIONS:
        done = backfills(project, runs, expected, "--max-connections", str(count), "--chunk-size", "16MiB")
        yield Point("connections", count, asked.rows, *done)


def tables(bed, runs, asked):
    for count in up_to(TABLES, asked.tables * 2):
        with tiny.tables(bed, SCHEMA, count) as project:
            discovered = [project.discover(count) for _ in range(runs)]
            yield Point("tables discovered", count, count, discovered, project.discovering("found.json"))
            synced = [project.sync_all(count) for _ in range(runs)]
            yield Point("tables", count, count * tiny.ROWS, synced, project.quiet())


def changes(bed, runs, asked):
    """As many updates as there are in one transaction, or enough of them, in transactions of so many."""
    for count in up_to(CHANGES, asked.rows):
        total = max(count, min(FOLLOWED, asked.rows))
        make(bed, f"CREATE TABLE {TABLE} AS SELECT g AS id, 0::numeric(12, 2) AS amount, 'note ' || g AS note"
             f" FROM generate_series(1::bigint, {total}) g", f"ALTER TABLE {TABLE} ADD PRIMARY KEY (id)")
        project = Project(bed, TABLE, mode="cdc")
        try:
            project.begin_log()
            done = [updated(bed, project, count, total) for _ in range(runs)]
        finally:
            project.end_log()
        yield Point("changes in a transaction", count, total, done, project.quiet())


def updated(bed, project, count, total):
    bed.sql(
        f"DO $$ BEGIN FOR n IN 0..{total // count - 1} LOOP UPDATE {TABLE} SET amount = amount + 1"
        f" WHERE id > n * {count}::bigint AND id <= (n + 1) * {count}::bigint; COMMIT; END LOOP; END $$"
    )
    return project.catch_up(bed.hash_source(TABLE))


def streams(bed, runs, asked):
    for count in up_to(STREAMS, asked.tables):
        with tiny.tables(bed, SCHEMA, count, mode="cdc") as project:
            project.sync_all(count)
            each = max(1, min(FOLLOWED, asked.rows) // count)
            done = [project.follow(count, tiny.ROWS + number * each, each) for number in range(runs)]
            yield Point("streams of one log", count, each * count, done, project.quiet())


AXES = (rows, columns, connections, tables, changes, streams)
