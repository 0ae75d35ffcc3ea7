"""A backfill in concurrent mode while the table is written to: the slot's log is let go of meanwhile."""

import time

import host
from bench import measure
from bench.bed import Pace

TABLE = "trips"
LIVE = "trips_live"
CHANGES_PER_SECOND = 1_000
# How many are asked for: transactions come by chance, and in a few seconds fewer of them than on an average.
ASKED = 1_100
SAMPLE_EVERY = 0.25
PATIENCE = 3600


def run(bed, asked):
    bed.table(TABLE, asked.rows)
    content = bed.context(asked.rows)
    measure.say(f"copying {TABLE} to one that can be written to")
    bed.sql(f"DROP TABLE IF EXISTS {LIVE}", f"CREATE TABLE {LIVE} (LIKE {TABLE} INCLUDING ALL)")
    bed.sql(f"INSERT INTO {LIVE} SELECT * FROM {TABLE}", f"VACUUM ANALYZE {LIVE}", "CHECKPOINT")
    project = bed.project(LIVE, mode="cdc")
    command = project.quiet("--cdc-mode", "concurrent")
    try:
        with Pace(bed, PATIENCE, ASKED, table=LIVE, rows=asked.rows) as pace:
            time.sleep(1)
            started = time.monotonic()
            child = project.start(command)
            try:
                samples = []
                while child.poll() is None:
                    samples += sample(bed, project, time.monotonic() - started)
                    time.sleep(SAMPLE_EVERY)
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
            seconds = time.monotonic() - started
            pace.stop()
        if child.returncode != 0:
            raise host.Failure(f"the sync ended with {child.returncode}")
        made = pace.told(CHANGES_PER_SECOND)
        project.catch_up(bed.hash_source(LIVE))
    finally:
        project.end_log()
        bed.sql(f"DROP TABLE IF EXISTS {LIVE}")
    # Nowhere, where it ended before its slot was ever seen.
    advanced = max(0, len({restart for _, restart, _, backfilling in samples if backfilling}) - 1)
    rate = made["changes_per_second"]
    measure.say(f"beside {rate:,.0f} changes a second: {seconds:.1f} s, restart_lsn moved on {advanced} times")
    moved = {"times restart_lsn moved on during the backfill, whose result is exact": measure.floor(advanced, 1, "times")}
    content |= made | {
        "seconds": round(seconds, 2),
        "samples": samples,
        "command": measure.bare(command),
        "most_log_kept_bytes": max((kept for _, _, kept, _ in samples), default=0),
        "targets": moved | made["targets"],
    }
    bed.save("beside", content)


def sample(bed, project, at):
    """Where the slot stands, how many bytes of log it keeps, and whether there are chunks left to read; nothing before it
    is there. The server notes a place from which decoding can start again every 15 seconds; it is asked to do so now,
    because the backfill may not take that long."""
    bed.sql("SELECT pg_log_standby_snapshot()")
    found = bed.sql(
        "SELECT restart_lsn - '0/0', pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) FROM pg_replication_slots"
        f" WHERE slot_name = '{project.slot_and_publication()[0]}' AND confirmed_flush_lsn IS NOT NULL"
    )
    backfilling = any(stream["chunks"] for stream in project.state().get("streams", []))
    return [[round(at, 2), *(int(part) for part in line.split("|")), backfilling] for line in found.splitlines()]
