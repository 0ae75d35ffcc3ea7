"""Changes from the slot to committed files, against pg_recvlogical into /dev/null over the same log."""

import shutil

from bench import measure

MIB = 1 << 20
CHANGES = 1_000_000
TABLE_ROWS = 600_000
WALL = 0.8
CPU = 3.0
MEMORY = 300
KEPT = "bench_kept"


def run(bed, asked):
    changes = min(asked.rows, CHANGES)
    content = bed.context(TABLE_ROWS)
    content["changes"] = changes
    content |= against_pg_recvlogical(bed, changes, asked.runs)
    bed.save("changes", content)


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
