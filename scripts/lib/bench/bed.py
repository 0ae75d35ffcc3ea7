"""The test bed: a server, its tables, the program, and the check of what it wrote."""

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import host
import postgres
from bench import measure

DATABASE = "lakeward_bench"
SQL = host.PROJECT / "benches" / "sql"
WORK = host.TARGET / "bench"
CONTENTS = Path(__file__).resolve().parent / "contents.py"
# How long the server may take to notice that a client is gone.
PATIENCE = 600


class Bed:
    """Starts what is needed and stops what it started."""

    def __init__(self, program, results):
        self.program, self.results = str(program.resolve()), results
        self.machine = measure.machine()

    def __enter__(self):
        self.server = postgres.Postgres18()
        self.started = self.script("status", self.server.name, check=False).returncode != 0
        if self.started:
            self.script("start", self.server.name)
        self.python = self.script("python").stdout.strip()
        self.port = self.server.read("port")
        bindir = Path(self.server.read("bindir"))
        own = bindir / "psql"
        self.psql = str(own) if own.exists() else shutil.which("psql")
        if self.psql is None:
            raise host.Failure("needs psql: install the package postgresql-client")
        self.environment = os.environ | {
            "PGHOST": "127.0.0.1",
            "PGPORT": self.port,
            "PGUSER": "postgres",
            "PGPASSWORD": postgres.PASSWORD,
            "PGDATABASE": DATABASE,
        }
        found = self.sql(f"SELECT count(*) FROM pg_database WHERE datname = '{DATABASE}'", database="postgres")
        if found == "0":
            self.sql(f"CREATE DATABASE {DATABASE}", database="postgres")
        WORK.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_):
        if self.started:
            self.script("stop", self.server.name)

    def script(self, *arguments, check=True):
        command = [str(host.PROJECT / "scripts" / "servers"), *arguments]
        return subprocess.run(command, check=check, text=True, stdout=subprocess.PIPE)

    def begin(self, patience):
        """Before each benchmark: what one that was cut off has left goes, and the machine comes to rest, for which it
        is given so many seconds."""
        # A slot that nobody reads keeps the log for ever.
        left = self.sql("SELECT slot_name FROM pg_replication_slots WHERE database = current_database() AND NOT active")
        for name in left.split():
            measure.say(f"dropping the slot {name}, which was left behind")
            self.sql(f"SELECT pg_drop_replication_slot('{name}')")
        self.machine["busy_before"] = measure.rest(patience)
        self.began = time.monotonic()

    def elapsed(self):
        return round(time.monotonic() - self.began, 1)

    def save(self, name, content):
        measure.save(self.results, name, {**content, "elapsed_seconds": self.elapsed()})

    # The source.

    def url(self):
        """The source, for programs that do not know libpq's variables. It has the password in it."""
        return f"postgresql://postgres:{postgres.PASSWORD}@127.0.0.1:{self.port}/{DATABASE}?sslmode=disable"

    def copy_command(self, table, options=""):
        """psql that copies a table to its standard output; the measure of what the source can give."""
        return [self.psql, "--no-psqlrc", "--quiet", "--command", f"COPY {table} TO STDOUT {options}".strip()]

    def sql(self, *statements, database=DATABASE):
        command = [self.psql, "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]
        command += ["--dbname", database]
        for statement in statements:
            command += ["--command", statement]
        done = subprocess.run(command, env=self.environment, text=True, capture_output=True)
        if done.returncode != 0:
            raise host.Failure(done.stderr.strip())
        return done.stdout.strip()

    def script_file(self, name, **variables):
        """Runs one of the benches' SQL files."""
        command = [self.psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file", str(SQL / name)]
        command += [f"--set={name}={value}" for name, value in variables.items()]
        done = subprocess.run(command, env=self.environment, text=True, capture_output=True)
        if done.returncode != 0:
            raise host.Failure(f"{name}: {done.stderr.strip()}")

    def server_program(self, name):
        """One of the server's own programs, such as pg_recvlogical."""
        path = Path(self.server.read("bindir")) / name
        found = str(path) if path.exists() else shutil.which(name)
        if found is None:
            raise host.Failure(f"needs {name}")
        return found

    def python_json(self, script, request):
        """What a script for the readers' interpreter prints for a request, both as JSON."""
        done = subprocess.run([self.python, "-c", script], input=json.dumps(request), text=True, capture_output=True)
        if done.returncode != 0:
            raise host.Failure(done.stderr.strip()[-2000:])
        return json.loads(done.stdout)

    def counted(self, table, what, program=None):
        """What the server has counted of a table since it was made or reset, once all others, or all of a program,
        have gone."""
        others = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type <> 'autovacuum worker'"
        others += f" AND application_name = '{program}'" if program else ""
        deadline = time.monotonic() + PATIENCE
        while self.sql(f"SELECT count(*) FROM pg_stat_activity WHERE {others}") != "0":
            if time.monotonic() > deadline:
                raise host.Failure("the server still works for a client that is gone")
            time.sleep(0.1)
        return int(self.sql(f"SELECT {what} FROM pg_stat_user_tables WHERE relid = '{table}'::regclass"))

    def table(self, name, rows, keep=True, kinds=("text",)):
        """Fills a table, or finds it filled, and says what the hashes of its rows are. One that is not kept will be
        changed: it is always filled anew, and not hashed."""
        if not keep:
            measure.say(f"filling {name} with {rows:,} rows")
            self.script_file(f"{name}.sql", rows=rows)
            return None
        script = SQL / f"{name}.sql"
        mark = f"{rows} rows of {hashlib.sha256(script.read_bytes()).hexdigest()[:16]}"
        if self.sql(f"SELECT obj_description(to_regclass('public.{name}'), 'pg_class')") != mark:
            measure.say(f"filling {name} with {rows:,} rows")
            self.script_file(f"{name}.sql", rows=rows)
            self.sql(f"COMMENT ON TABLE {name} IS '{mark}'", "CHECKPOINT")
        return self.hashes(name, mark, kinds)

    def hashes(self, name, mark, kinds=("text",)):
        """The hashes of a table that is always the same where it has this mark: they are kept."""
        found = {}
        for kind in kinds:
            kept = WORK / f"{name}.{mark.replace(' ', '-')}.{kind}.json"
            if not kept.exists():
                measure.say(f"hashing {name} at the source")
                kept.write_text(json.dumps(self.hash_source(name, [kind])))
            found |= json.loads(kept.read_text())
        return found

    def hash_source(self, name, kinds=("text",)):
        """Rows, and the sum over all rows of a hash of every column's text, which no order changes; by kind of check."""
        listed = self.sql(
            "SELECT json_agg(json_build_array(attname, format_type(atttypid, NULL)) ORDER BY attnum)"
            f" FROM pg_attribute WHERE attrelid = 'public.{name}'::regclass AND attnum > 0 AND NOT attisdropped"
        )
        columns = json.loads(listed)
        hashes = {}
        for kind in kinds:
            row = " || chr(31) || ".join(f"coalesce({CHECKS[kind](*column)}, chr(30))" for column in columns)
            one = f"('x' || left(md5({row}), 15))::bit(60)::bigint"
            found = self.sql("SET TIME ZONE 'UTC'", f"SELECT count(*) || ' ' || sum({one}) FROM {name}")
            rows, total = found.split()
            hashes[kind] = {"columns": columns, "rows": int(rows), "sum": total}
        return hashes

    # What was written.

    def check(self, directory, expected, kind="text", query=None):
        """Fails unless the Parquet files below a directory, or what a query finds, are exactly the source's rows. Says
        what types they have for the source's."""
        wanted = expected[kind]
        request = {"directory": str(directory), "query": query, "columns": wanted["columns"], "check": kind}
        request = json.dumps(request)
        done = subprocess.run([self.python, str(CONTENTS)], input=request, text=True, capture_output=True)
        if done.returncode != 0:
            raise host.Failure(f"could not read {directory}: {done.stderr.strip()[-2000:]}")
        found = json.loads(done.stdout)
        if (found["rows"], found["sum"]) != (wanted["rows"], wanted["sum"]):
            rows = f"{found['rows']} with the sum {found['sum']}, not {wanted['rows']} with {wanted['sum']}"
            raise host.Failure(f"{directory} does not hold the source's rows: {rows}")
        return found["types"]

    def project(self, table, mode="full_refresh"):
        return Project(self, table, mode)

    def tool(self, name):
        """A program that comes with the peers' packages."""
        home = Path(self.script("python", "--peers").stdout.strip()).parent.parent
        found = [place / name for place in (home / "bin", home / "packages" / "bin") if (place / name).exists()]
        if not found:
            raise host.Failure(f"needs {name}, which is not where the peers are installed: {home}")
        return str(found[0])

    def versions(self):
        git = ["git", "-C", str(host.PROJECT)]
        # What this writes itself is no change of what is measured.
        others = ["--", ".", ":!benches/results", ":!docs"]
        changed = "-dirty" if output([*git, "status", "--porcelain", *others]) else ""
        revision = output([*git, "describe", "--always", "--abbrev=12"]) + changed
        modules = "import duckdb, pyarrow, json; " + (
            "print(json.dumps({m.__name__: m.__version__ for m in (duckdb, pyarrow)}))"
        )
        return {
            "lakeward": f"{output([self.program, '--version'])} ({revision})",
            "postgresql": self.sql("SHOW server_version"),
            "psql": output([self.psql, "--version"]),
            "rustc": output(["rustc", "--version"]),
            **json.loads(output([self.python, "-c", modules])),
        }

    def context(self, rows):
        settings = ("shared_buffers", "fsync", "synchronous_commit", "wal_level")
        return {
            "machine": dict(self.machine),
            "versions": self.versions(),
            "server_settings": {name: self.sql(f"SHOW {name}") for name in settings},
            "rows": rows,
        }


def text(column, kind):
    """As the server prints it. A cast to text would take the blanks off a char(n)."""
    return f"textin(bpcharout({column}))" if kind == "character" else f"{column}::text"


def value(column, kind):
    """What a numeric is, whatever its scale: a peer gives all of a column's the same."""
    return f"trim_scale({column})::text" if kind == "numeric" else text(column, kind)


# What a row is held against: its text, exactly; or its values, for programs that write them as other types.
CHECKS = {"text": text, "values": value}


def output(command):
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True)
    return done.stdout.strip() or done.stderr.strip()


class Project:
    """The configs of the replication of one table, or of all tables of schemas; every sync goes into a lake of its own."""

    def __init__(self, bed, name, mode="full_refresh", schemas=()):
        self.bed, self.name = bed, name
        self.directory = WORK / name
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        source = {"type": "postgres", "host": "127.0.0.1", "port": int(bed.port), "database": DATABASE}
        source |= {"username": "postgres", "password": "${PGPASSWORD}", "ssl": {"mode": "disable"}}
        source |= {"schemas": list(schemas)}
        self.write("source.json", source)
        self.write("destination.json", {"type": "parquet", "path": "./lake"})
        measure.run(self.discovering("streams.json"), cwd=self.directory, env=bed.environment)
        streams = json.loads((self.directory / "streams.json").read_text())
        if schemas:
            for chosen in itertools.chain.from_iterable(streams["selected_streams"].values()):
                chosen["sync_mode"] = mode
        else:
            streams["selected_streams"] = {"public": [{"stream_name": name, "sync_mode": mode}]}
        self.write("streams.json", streams)

    def write(self, name, content):
        (self.directory / name).write_text(json.dumps(content, indent=2) + "\n")

    def discovering(self, output):
        return [self.bed.program, "discover", "--config", "source.json", "--output", output]

    def command(self, *more):
        command = [self.bed.program, "sync", "--config", "source.json", "--destination", "destination.json"]
        return [*command, "--streams", "streams.json", "--state", "state.json", *more]

    def quiet(self, *more):
        """The command as it is measured: what it says costs time."""
        return self.command("--progress", "never", "--log-level", "warn", *more)

    def start(self, command):
        """Begins a command; what it says goes into a file beside its project."""
        said = (self.directory / "said.txt").open("w")
        return subprocess.Popen(command, cwd=self.directory, env=self.bed.environment, stdin=subprocess.DEVNULL, stderr=said)

    def forget(self):
        """Back to before the first sync."""
        shutil.rmtree(self.directory / "lake", ignore_errors=True)
        for left in self.directory.glob("state.json*"):
            left.unlink()

    def sync(self, expected, *more):
        """A first sync, measured, whose files were then found to hold the source's rows."""
        self.forget()
        # What an earlier run wrote is written back by the system before this one starts.
        os.sync()
        done = measure.run(self.quiet(*more), cwd=self.directory, env=self.bed.environment)
        self.bed.check(self.directory / "lake", expected)
        return done

    def begin_log(self):
        """The backfill of a stream that is then followed. Says how its slot and its publication are called."""
        self.forget()
        measure.run(self.command("--progress", "never"), cwd=self.directory, env=self.bed.environment)
        return self.slot_and_publication()

    def slot_and_publication(self):
        """Their names, or None for each as long as the state has none."""
        position = (self.state().get("global") or {"position": {}})["position"]
        return position.get("slot"), position.get("publication")

    def state(self):
        """What its state file holds; nothing before there is one."""
        path = self.directory / "state.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def catch_up(self, expected):
        """A sync of what changed, measured; the latest view was then found to be the source's rows."""
        os.sync()
        done = measure.run(self.quiet(), cwd=self.directory, env=self.bed.environment)
        view = [self.bed.program, "view", self.name, "--engine", "duckdb"]
        query = subprocess.run(view, cwd=self.directory, check=True, text=True, stdout=subprocess.PIPE).stdout
        lake = str(self.directory / "lake")
        self.bed.check(self.directory / "lake", expected, query=query.replace("'./lake", f"'{lake}"))
        return done

    def end_log(self):
        """Lets go of slot and publication."""
        clear = [self.bed.program, "clear", "--log", "--yes"]
        measure.run(clear, cwd=self.directory, env=self.bed.environment)

    def lake_bytes(self):
        return sum(path.stat().st_size for path in (self.directory / "lake").rglob("*.parquet"))


class Pace:
    """Transactions of 20 updated rows each, at an even pace, by pgbench."""

    BATCH = 20
    def __init__(self, bed, seconds, changes_per_second, table="ledger", rows=100_000):
        column = {"ledger": "amount = amount + 0.01"}.get(table, "fare_amount = fare_amount + 0.01")
        self.bed, self.table, self.asked, self.lasts, self.seconds = bed, table, changes_per_second, seconds, None
        script = WORK / "pace.sql"
        script.write_text(
            f"\\set start random(1, {rows - self.BATCH})\n"
            f"UPDATE {table} SET {column} WHERE id BETWEEN :start AND :start + {self.BATCH - 1};\n"
        )
        command = [bed.server_program("pgbench"), "--no-vacuum", "--client", "2", "--protocol", "prepared"]
        command += ["--rate", str(changes_per_second // self.BATCH), "--time", str(seconds), "--file", str(script)]
        self.started = time.monotonic()
        self.child = subprocess.Popen(command, env=bed.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def wait(self):
        if self.child.wait() != 0:
            raise host.Failure(f"pgbench ended with {self.child.returncode}")
        self.stop()

    def stop(self):
        if self.child.poll() is None:
            self.child.terminate()
            self.child.wait()
        # By itself it ends when its time is over, which may be long ago.
        self.seconds = self.seconds or min(time.monotonic() - self.started, self.lasts)

    def changes(self):
        """How many it has made, by the server's count of a table that nobody else updates."""
        return self.bed.counted(self.table, "n_tup_upd", "pgbench")

    def told(self, at_least):
        """What was asked for and what came of it: below so many changes a second it was another pace."""
        made = self.changes()
        rate = made / self.seconds
        return {
            "changes": made,
            "changes_per_second": round(rate, 1),
            "changes_per_second_asked": self.asked,
            "targets": {f"changes made, {self.asked:,} a second asked for": measure.floor(rate, at_least, "a second")},
        }
