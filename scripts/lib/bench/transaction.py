"""One transaction that is far larger than the memory it may take."""

from bench import measure

# MB.
MEMORY = 512


def run(bed, asked):
    rows = asked.rows * 2
    bed.table("ledger", 1_000, keep=False)
    content = bed.context(rows)
    project = bed.project("ledger", mode="cdc")
    project.begin_log()
    try:
        measure.say(f"one transaction of {rows:,} rows")
        bed.sql(
            "INSERT INTO ledger SELECT n, n % 5000, n / 100.0, 'one of many', timestamptz '2025-01-01 00:00:00+00', 'new'"
            f" FROM generate_series(1001, 1000 + {rows}) AS s(n)"
        )
        done = project.catch_up(bed.hash_source("ledger"))
    finally:
        project.end_log()
    measure.say(f"one transaction: {done.seconds:.1f} s, {done.peak_rss_bytes / measure.MB:.0f} MB")
    content |= measure.measurement([done], project.command())
    content["targets"] = {"peak memory, result exact": measure.memory_target([done], MEMORY)}
    bed.save("transaction", content)
