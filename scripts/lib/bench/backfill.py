"""A backfill against the source's own COPY into /dev/null, and the CPU that it takes."""

from bench import measure

CPU_PER_MILLION = {"trips": 1.3, "wide": 0.7}
ROWS_PER_CPU_SECOND = 800_000
ONE_CONNECTION = 1.15
TWO_CONNECTIONS = 1.0


def run(bed, asked):
    # Everything is filled and hashed before anything is measured.
    expected = {table: bed.table(table, asked.rows) for table in CPU_PER_MILLION}
    content = bed.context(asked.rows)
    content |= {"tables": {}, "targets": {}}
    for table in expected:
        found, content["tables"][table] = measure_table(bed, table, asked.rows, asked.runs, expected[table])
        content["targets"] |= {f"`{table}`: {what}": target for what, target in found.items()}
    bed.save("backfill", content)


def measure_table(bed, table, rows, runs, expected):
    project = bed.project(table)
    # The table is in the system's cache for all of them alike.
    measure.run(bed.copy_command(table), env=bed.environment)
    commands = {
        "copy_text": bed.copy_command(table),
        "copy_binary": bed.copy_command(table, "(FORMAT binary)"),
        "lakeward_1": project.command("--max-connections", "1"),
        "lakeward_2": project.command("--max-connections", "2"),
    }
    taken = {name: [] for name in commands}
    for number in range(1, runs + 1):
        for name in ("copy_text", "copy_binary"):
            taken[name].append(measure.run(commands[name], env=bed.environment))
        for connections in ("1", "2"):
            done = project.sync(expected, "--max-connections", connections)
            taken[f"lakeward_{connections}"].append(done)
        shown = ", ".join(f"{name} {runs[-1].seconds:.2f} s" for name, runs in taken.items())
        measure.say(f"{table}, round {number}: {shown}; CPU {taken['lakeward_1'][-1].cpu_seconds:.2f} s")

    limit = min(("copy_text", "copy_binary"), key=lambda name: measure.median(taken[name]))
    million = rows / 1e6
    results = {name: measure.measurement(done, commands[name]) for name, done in taken.items()}
    for name in ("lakeward_1", "lakeward_2"):
        done = taken[name]
        seconds = measure.median(done)
        results[name] |= {
            "against_limit": measure.ratio(done, taken[limit]),
            "cpu_seconds_per_million_rows": round(measure.median(done, "cpu_seconds") / million, 3),
            "rows_per_second": int(rows / seconds),
        }
    one, two = results["lakeward_1"], results["lakeward_2"]
    cpu = measure.median(taken["lakeward_1"], "cpu_seconds")
    targets = {"CPU per million rows": measure.target(cpu / million, CPU_PER_MILLION[table], "s")}
    if table == "trips":
        targets |= {
            "rows per CPU-second": measure.floor(rows / cpu, ROWS_PER_CPU_SECOND, "rows"),
            "one connection against the limit": measure.target(one["against_limit"]["median"], ONE_CONNECTION, "×"),
            "two connections against the limit of one": measure.target(
                two["against_limit"]["median"], TWO_CONNECTIONS, "×"
            ),
        }
    return targets, {
        "limit": limit,
        "measurements": results,
        "parquet_bytes": project.lake_bytes(),
        "source_bytes": int(bed.sql(f"SELECT pg_relation_size('{table}')")),
    }
