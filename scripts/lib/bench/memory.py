"""Peak resident memory, as the kernel counts it, under the default memory limit."""

from bench import measure

MIB = 1 << 20
# Chunks are small enough that all connections have work all the time.
CASES = {2: (300 * MIB, "32MiB"), 16: (512 * MIB, "16MiB")}


def run(bed, asked):
    tables = {table: bed.table(table, asked.rows) for table in ("trips", "wide")}
    content = bed.context(asked.rows)
    content["tables"] = {}
    for table, expected in tables.items():
        project = bed.project(table)
        cases = {}
        for connections, (limit, chunk) in CASES.items():
            for label, options in (("default chunks", []), (f"chunks of {chunk}", ["--chunk-size", chunk])):
                options = ["--max-connections", str(connections), *options]
                done = project.sync(expected, *options)
                mib = round(done.peak_rss_bytes / MIB, 1)
                measure.say(f"{table}, {connections} connections, {label}: {mib} MiB")
                cases[f"{connections} connections, {label}"] = {
                    **measure.measurement([done], project.command(*options)),
                    "target": measure.target(mib, limit // MIB, "MiB"),
                }
        content["tables"][table] = cases
    bed.save("memory", content)
