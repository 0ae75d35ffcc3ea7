"""Many tables of a few rows each."""

import contextlib
import json

import host
from bench import measure
from bench.bed import Project

ROWS = 10
# CREATE TABLE holds a lock for each until its transaction ends.
AT_ONCE = 1_000


@contextlib.contextmanager
def tables(bed, schema, count, mode="full_refresh"):
    """A schema of its own with so many tables, and the project that replicates all of them."""
    drop(bed, schema)
    bed.sql(f"CREATE SCHEMA {schema}")
    try:
        create(bed, schema, 0, count)
        project = Tiny(bed, schema, mode)
        try:
            yield project
        finally:
            project.end_log()
    finally:
        drop(bed, schema)


def create(bed, schema, first, end):
    for start in range(first, end, AT_ONCE):
        bed.sql(
            f"DO $$ BEGIN FOR n IN {start}..{min(start + AT_ONCE, end) - 1} LOOP EXECUTE format("
            f"'CREATE TABLE {schema}.t%s (id int PRIMARY KEY, note text);"
            f" INSERT INTO {schema}.t%s SELECT g, %L || g FROM generate_series(1, {ROWS}) g', n, n, 't' || n || ' row ');"
            " END LOOP; END $$"
        )


def drop(bed, schema):
    """Some at a time: each of them takes locks until its transaction ends."""
    if bed.sql(f"SELECT to_regnamespace('{schema}') IS NULL") == "t":
        return
    names = bed.sql(f"SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = '{schema}'::regnamespace")
    found = names.split()
    for start in range(0, len(found), AT_ONCE):
        bed.sql("DROP TABLE " + ", ".join(f"{schema}.{name}" for name in found[start : start + AT_ONCE]))
    bed.sql(f"DROP SCHEMA {schema} CASCADE")


class Tiny(Project):
    """The configs of all tables of a schema."""

    def __init__(self, bed, schema, mode="full_refresh"):
        super().__init__(bed, schema, mode, schemas=[schema])

    def sync_all(self, count):
        """A first sync of all tables, measured, whose files hold all rows and nothing else."""
        self.forget()
        done = measure.run(self.quiet(), cwd=self.directory, env=self.bed.environment)
        self.check_rows(count, ROWS)
        return done

    def discover(self, count):
        """All tables found, measured."""
        found = self.directory / "found.json"
        done = measure.run(self.discovering(found.name), cwd=self.directory, env=self.bed.environment)
        streams = len(json.loads(found.read_text())["streams"])
        if streams != count:
            raise host.Failure(f"{streams} of {count} tables were found")
        return done

    def follow(self, count, before, each):
        """Inserts so many rows into each table, which has some, and follows them, measured; the files hold all rows
        after it."""
        self.bed.sql(
            f"DO $$ BEGIN FOR n IN 0..{count - 1} LOOP EXECUTE format('INSERT INTO {self.name}.t%s SELECT g, %L || g"
            f" FROM generate_series({before + 1}, {before + each}) g', n, 't' || n || ' row '); COMMIT; END LOOP; END $$"
        )
        done = measure.run(self.quiet(), cwd=self.directory, env=self.bed.environment)
        self.check_rows(count, before + each)
        return done

    def check_rows(self, count, rows):
        found = self.bed.python_json(ROWS_OF_ALL, str(self.directory / "lake" / self.name))
        if found != {"tables": count, "rows": count * rows, "wrong": 0}:
            raise host.Failure(f"{self.directory} does not hold the source's rows: {found}")


ROWS_OF_ALL = """
import json, pathlib, sys
import pyarrow.parquet as pq

tables = rows = wrong = 0
for directory in pathlib.Path(json.load(sys.stdin)).iterdir():
    tables += 1
    found = set()
    for path in directory.glob("*.parquet"):
        for row in pq.read_table(path, columns=["id", "note"], partitioning=None).to_pylist():
            rows += 1
            found.add(row["id"])
            wrong += row["note"] != f"{directory.name} row {row['id']}"
    wrong += found != set(range(1, len(found) + 1))
print(json.dumps({"tables": tables, "rows": rows, "wrong": wrong}))
"""
