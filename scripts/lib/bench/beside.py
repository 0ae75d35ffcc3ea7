"""A backfill in concurrent mode while the table is written to: the slot's log is let go of meanwhile."""

import time

import host
from bench import measure
from bench.bed import Pace

TABLE = "trips"
LIVE = "trips_live"
CHANGES_PER_SECOND = 1_000
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
        with Pace(bed, PATIENCE, CHANGES_PER_SECOND, table=LIVE, rows=asked.rows) as pace:
            time.sleep(1)
            started = time.monotonic()
            child = project.start(command)
            try:
                samples = []
                while child.poll() is None:
                    samples += sample(bed, time.monotonic() - started)
                    time.sleep(SAMPLE_EVERY)
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
            seconds = time.monotonic() - started
            pace.stop()
        if child.returncode != 0:
            raise host.Failure(f"the sync ended with {child.returncode}")
        project.catch_up(bed.hash_source(LIVE))
    finally:
        project.end_log()
        bed.sql(f"DROP TABLE IF EXISTS {LIVE}")
    places = sorted({restart for _, restart, _ in samples})
    kept = max(kept for *_, kept in samples)
    measure.say(f"beside {CHANGES_PER_SECOND:,} changes a second: {seconds:.1f} s, restart_lsn at {len(places)} places")
    content |= {
        "seconds": round(seconds, 2),
        "changes_per_second": CHANGES_PER_SECOND,
        "samples": samples,
        "command": measure.bare(command),
        "restart_lsn_advanced": len(places) - 1,
        "most_log_kept_bytes": kept,
    }
    if len(places) < 2:
        raise host.Failure("restart_lsn did not advance during the backfill")
    bed.save("beside", content)


def sample(bed, at):
    """Where the slot stands, and how many bytes of log it keeps. The server notes a place from which decoding can start
    again every 15 seconds; it is asked to do so now, because the backfill may not take that long."""
    bed.sql("SELECT pg_log_standby_snapshot()")
    found = bed.sql(
        "SELECT restart_lsn - '0/0', pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) FROM pg_replication_slots"
        " WHERE database = current_database() AND NOT temporary AND confirmed_flush_lsn IS NOT NULL"
    )
    return [[round(at, 2), *(int(part) for part in line.split("|"))] for line in found.splitlines()]
