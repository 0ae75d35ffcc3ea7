"""Changes from the slot to committed files: against pg_recvlogical into /dev/null, one huge transaction, and how long
a change takes until it stands in a file."""

import shutil
import statistics
import subprocess
import time
from pathlib import Path

import host
from bench import measure

MIB = 1 << 20
CHANGES = 1_000_000
TABLE_ROWS = 600_000
WALL = 0.8
CPU = 3.0
MEMORY = 300
TRANSACTION_MEMORY = 512
FOLLOWED_SECONDS = 60
CHANGES_PER_SECOND = 2_000
P50, P99 = 1.5, 3.0
KEPT = "bench_kept"


def run(bed, rows, runs):
    changes = min(rows, CHANGES)
    content = bed.context(rows)
    content["changes"] = changes
    content["against_pg_recvlogical"] = against_pg_recvlogical(bed, changes, runs)
    content["transaction"] = one_transaction(bed, rows * 2)
    content["followed"] = followed(bed)
    measure.save("changes", content)


def against_pg_recvlogical(bed, changes, runs):
    bed.table("ledger", TABLE_ROWS, keep=False)
    project = bed.project("ledger", mode="cdc")
    slot, publication = project.begin_log()
    try:
        bed.sql(f"SELECT pg_copy_logical_replication_slot('{slot}', '{KEPT}')")
        saved = project.directory.with_name("ledger-before")
        shutil.rmtree(saved, ignore_errors=True)
        shutil.copytree(project.directory, saved)
        measure.say(f"making {changes:,} changes")
        bed.script_file("ledger-changes.sql", changes=changes)
        end = bed.sql("SELECT pg_current_wal_lsn()")
        expected = bed.hash_source("ledger")
        receive = [bed.server_program("pg_recvlogical"), "--dbname", bed.environment["PGDATABASE"], "--no-loop", "--start", "--slot", "bench_received", "--endpos", end]
        receive += ["--option", "proto_version=2", "--option", "streaming=on", "--option", f"publication_names={publication}"]
        receive += ["--file", "/dev/null", "--fsync-interval", "0"]
        taken = {"pg_recvlogical": [], "lakeward": []}
        for number in range(runs):
            bed.sql(f"SELECT pg_copy_logical_replication_slot('{KEPT}', 'bench_received')")
            taken["pg_recvlogical"].append(measure.run(receive, env=bed.environment))
            bed.sql("SELECT pg_drop_replication_slot('bench_received')")
            # As if nothing of it had been read yet.
            shutil.rmtree(project.directory)
            shutil.copytree(saved, project.directory)
            bed.sql(f"SELECT pg_drop_replication_slot('{slot}')")
            bed.sql(f"SELECT pg_copy_logical_replication_slot('{KEPT}', '{slot}')")
            taken["lakeward"].append(project.catch_up(expected))
            shown = ", ".join(f"{name} {done[-1].seconds:.2f} s" for name, done in taken.items())
            measure.say(f"changes, round {number + 1}: {shown}; CPU {taken['lakeward'][-1].cpu_seconds:.2f} s")
        ratio = measure.ratio(taken["lakeward"], taken["pg_recvlogical"])
        million = changes / 1e6
        cpu = round(measure.median(taken["lakeward"], "cpu_seconds") / million, 3)
        peak = round(measure.median(taken["lakeward"], "peak_rss_bytes") / MIB, 1)
        return {
            "measurements": {
                "pg_recvlogical": measure.measurement(taken["pg_recvlogical"], receive),
                "lakeward": measure.measurement(taken["lakeward"], project.command()),
            },
            "ratio": ratio,
            "targets": {
                "wall against pg_recvlogical": measure.target(ratio["median"], WALL, "×"),
                "CPU per million changes": measure.target(cpu, CPU, "s"),
                "peak memory": measure.target(peak, MEMORY, "MiB"),
            },
        }
    finally:
        project.end_log()
        for name in (KEPT, "bench_received"):
            bed.sql(f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{name}'")


def one_transaction(bed, rows):
    bed.table("ledger", 1_000, keep=False)
    project = bed.project("ledger", mode="cdc")
    project.begin_log()
    try:
        measure.say(f"one transaction of {rows:,} rows")
        bed.sql(
            "INSERT INTO ledger SELECT n, n % 5000, n / 100.0, 'one of many', timestamptz '2025-01-01 00:00:00+00', 'new'"
            f" FROM generate_series(1001, 1000 + {rows}) AS s(n)"
        )
        done = project.catch_up(bed.hash_source("ledger"))
        mib = round(done.peak_rss_bytes / MIB, 1)
        measure.say(f"one transaction: {done.seconds:.1f} s, {mib} MiB")
        return {
            "rows": rows,
            **measure.measurement([done], project.command()),
            "target": measure.target(mib, TRANSACTION_MEMORY, "MiB"),
        }
    finally:
        project.end_log()


def followed(bed):
    """From the commit at the source to the moment at which a file with the change is there to be found."""
    bed.table("ledger", 100_000, keep=False)
    project = bed.project("ledger", mode="cdc")
    project.begin_log()
    command = project.command("--follow", "--progress", "never", "--log-level", "warn")
    child = subprocess.Popen(command, cwd=project.directory, env=bed.environment, stdin=subprocess.DEVNULL)
    writer = None
    try:
        time.sleep(2)
        # Transactions of 20 changes each, at an even pace.
        script = host.TARGET / "bench" / "pace.sql"
        script.write_text(
            "\\set start random(1, 99000)\nUPDATE ledger SET amount = amount + 0.01 WHERE id BETWEEN :start AND :start + 19;\n"
        )
        pace = [bed.server_program("pgbench"), "--no-vacuum", "--client", "2", "--rate", str(CHANGES_PER_SECOND // 20)]
        pace += ["--time", str(FOLLOWED_SECONDS), "--file", str(script), "--protocol", "prepared"]
        writer = subprocess.Popen(pace, env=bed.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        lake = project.directory / "lake" / "public" / "ledger"
        seen = {path.name for path in lake.glob("*.parquet")}
        arrivals, deadline, peak = [], time.monotonic() + FOLLOWED_SECONDS + 5, 0
        while time.monotonic() < deadline:
            for path in lake.glob("*.parquet"):
                if path.name not in seen:
                    seen.add(path.name)
                    arrivals.append((time.time(), path))
            peak = max(peak, resident(child.pid))
            time.sleep(0.02)
        writer.wait()
        waits = bed.python_json(WAITS, [[moment, str(path)] for moment, path in arrivals])
        files = len(list(lake.glob("*.parquet")))
    finally:
        child.terminate()
        child.wait()
        if writer is not None and writer.poll() is None:
            writer.kill()
        project.catch_up(bed.hash_source("ledger"))
        project.end_log()
    waits.sort()
    p50, p99 = statistics.median(waits), waits[int(len(waits) * 0.99)]
    measure.say(f"followed: {len(waits):,} changes in {len(arrivals)} files, p50 {p50:.2f} s, p99 {p99:.2f} s")
    return {
        "seconds": FOLLOWED_SECONDS,
        "changes": len(waits),
        "changes_per_second": round(len(waits) / FOLLOWED_SECONDS),
        "files": files,
        "peak_rss_mib": round(peak / MIB, 1),
        "command": command,
        "targets": {
            "p50 from commit to file": measure.target(round(p50, 2), P50, "s"),
            "p99 from commit to file": measure.target(round(p99, 2), P99, "s"),
        },
    }


# Reads when each change was committed, by the file in which it was found and when.
WAITS = """
import json, sys
import pyarrow.parquet as pq

waits = []
for moment, path in json.load(sys.stdin):
    try:
        times = pq.read_table(path, columns=["_lw_commit_ts"], partitioning=None).column(0).cast("int64").to_pylist()
    except FileNotFoundError:
        continue
    waits += [moment - at / 1e6 for at in times if at is not None]
print(json.dumps(waits))
"""


def resident(pid):
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * 4096

