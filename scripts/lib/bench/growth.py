"""How cost grows: with rows, columns, connections, tables, changes in a transaction, and streams of one log."""

from bench import measure, tiny
from bench.bed import Project

TABLE = "growth"
SCHEMA = "bench_growth"
# Values of the table whose columns are counted, whatever their number.
CELLS = 20_000_000
COLUMNS = (4, 16, 64, 200, 400)
ROWS = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 20_000_000)
CONNECTIONS = (1, 2, 4, 8, 16)
TABLES = (1, 10, 100, 1_000, 10_000)
CHANGES = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
STREAMS = (1, 10, 100, 1_000)
# How many changes are followed where they are not what is counted.
FOLLOWED = 200_000


def run(bed, asked):
    content = bed.context(asked.rows)
    content["axes"] = {}
    for name, axis in AXES.items():
        content["axes"][name] = [point(name, at, *found) for at, *found in axis(bed, asked)]
    bed.sql(f"DROP TABLE IF EXISTS {TABLE}")
    bed.save("growth", content)


def point(name, at, work, done):
    measure.say(f"{name} {at:,}: {done.seconds:.2f} s, CPU {done.cpu_seconds:.2f} s, {done.peak_rss_bytes >> 20} MiB")
    return {"at": at, "work": work, **done.to_json()}


def up_to(sizes, most):
    """Those of the sizes that are asked for."""
    return [size for size in sizes if size <= most] or sizes[:1]


def backfill(bed, *more):
    """A sync of the table, measured, whose files hold its rows."""
    return Project(bed, TABLE).sync(bed.hash_source(TABLE), *more)


def make(bed, *statements):
    bed.sql(f"DROP TABLE IF EXISTS {TABLE}", *statements, "CHECKPOINT")


def rows(bed, asked):
    bed.table("trips", asked.rows)
    for count in up_to(ROWS, 4 * asked.rows):
        again = [f"INSERT INTO {TABLE} SELECT * FROM trips LIMIT {count - at}" for at in range(0, count, asked.rows)]
        make(bed, f"CREATE TABLE {TABLE} AS SELECT * FROM trips LIMIT 0", *again)
        yield count, count, backfill(bed)


def columns(bed, asked):
    kinds = ["(g * {n} % 100000)::int", "(g * {n} % 100000 / 100.0)::numeric(12, 2)", "'text ' || g % (100 * {n})"]
    kinds += ["timestamptz '2020-01-01 00:00:00+00' + (g * {n} % 10000000) * interval '1 second'"]
    for count in COLUMNS:
        height = min(CELLS, 4 * asked.rows) // count
        made = [f"{kinds[n % 4].format(n=n + 1)} AS c{n}" for n in range(count)]
        make(bed, f"CREATE TABLE {TABLE} AS SELECT {', '.join(made)} FROM generate_series(1::bigint, {height}) g")
        yield count, height * count, backfill(bed)


def connections(bed, asked):
    expected = bed.table("trips", asked.rows)
    project = Project(bed, "trips")
    for count in CONNECTIONS:
        yield count, asked.rows, project.sync(expected, "--max-connections", str(count), "--chunk-size", "16MiB")


def tables(bed, asked):
    for count in up_to(TABLES, asked.tables * 2):
        with tiny.tables(bed, SCHEMA, count) as project:
            yield count, count * tiny.ROWS, project.sync_all(count)


def changes(bed, asked):
    """As many updates as there are in one transaction, or enough of them, in transactions of so many."""
    for count in up_to(CHANGES, asked.rows):
        total = max(count, min(FOLLOWED, asked.rows))
        make(bed, f"CREATE TABLE {TABLE} AS SELECT g AS id, 0::numeric(12, 2) AS amount, 'note ' || g AS note"
             f" FROM generate_series(1::bigint, {total}) g", f"ALTER TABLE {TABLE} ADD PRIMARY KEY (id)")
        project = Project(bed, TABLE, mode="cdc")
        project.begin_log()
        bed.sql(
            f"DO $$ BEGIN FOR n IN 0..{total // count - 1} LOOP UPDATE {TABLE} SET amount = amount + 1"
            f" WHERE id > n * {count}::bigint AND id <= (n + 1) * {count}::bigint; COMMIT; END LOOP; END $$"
        )
        done = project.catch_up(bed.hash_source(TABLE))
        project.end_log()
        yield count, total, done


def streams(bed, asked):
    for count in up_to(STREAMS, asked.tables):
        with tiny.tables(bed, SCHEMA, count, mode="cdc") as project:
            project.sync_all(count)
            each = max(1, min(FOLLOWED, asked.rows) // count)
            yield count, each * count, project.follow(count, each)


AXES = {
    "rows": rows,
    "columns": columns,
    "connections": connections,
    "tables": tables,
    "changes in a transaction": changes,
    "streams of one log": streams,
}
