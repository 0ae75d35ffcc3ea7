"""Peak resident memory, as the kernel counts it, under the default memory limit."""

from bench import measure

# MB, by connections.
MOST = {2: 300, 16: 512}
# Small enough that all connections have work all the time.
CHUNKS = {2: "32MiB", 16: "16MiB"}


def run(bed, asked):
    tables = {table: bed.table(table, asked.rows) for table in ("trips", "wide")}
    content = bed.context(asked.rows)
    content |= {"cases": {}, "targets": {}}
    for table, expected in tables.items():
        project = bed.project(table)
        for connections, most in MOST.items():
            chunk = CHUNKS[connections]
            for label, options in (("default chunks", []), (f"chunks of {chunk}", ["--chunk-size", chunk])):
                options = ["--max-connections", str(connections), *options]
                done = project.sync(expected, *options)
                case = f"`{table}`, {connections} connections, {label}"
                measure.say(f"{case}: {done.peak_rss_bytes / measure.MB:.0f} MB")
                content["cases"][case] = measure.measurement([done], project.command(*options))
                content["targets"][case] = measure.memory_target([done], most)
    bed.save("memory", content)
