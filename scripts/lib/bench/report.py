"""docs/benchmarks.md and its plots, made from benches/results and nothing else; of a quick run, beside its results."""

import json
import shlex

import host
from bench import measure, plot, reasons

PAGES = {measure.RESULTS: host.PROJECT / "docs", measure.QUICK_RESULTS: measure.QUICK_RESULTS}
MIB = 1 << 20

NAMES = {
    "copy_text": "COPY text",
    "copy_binary": "COPY binary",
    "lakeward_1": "Lakeward, 1 connection",
    "lakeward_2": "Lakeward, 2 connections",
    "lakeward": "Lakeward, 2 connections",
    "connectorx": "ConnectorX, 2 partitions",
    "sling": "Sling",
    "dlt_connectorx": "dlt, ConnectorX backend",
    "dlt_pyarrow": "dlt, PyArrow backend",
    "adbc": "ADBC",
    "debezium": "Debezium's engine",
}
# A stream of changes has one connection.
CHANGES_NAMES = NAMES | {"lakeward": "Lakeward", "pg_recvlogical": "pg_recvlogical"}

INTRODUCTION = """# Benchmarks

Made by `scripts/bench report` from `benches/results/`; `scripts/bench` measures anew. Programs that are compared ran
in turn, A B A B, on one machine, with server and client on it together. No run counts whose files did not hold exactly
the source's rows. Seconds, CPU and ratios are medians of all runs, in brackets with the least and the greatest where
there was more than one; peak memory is the greatest of all runs. MB are 1,000,000 bytes. Ratios carry over to other
machines; seconds do not.
"""

QUICK = """**This was a quick run**, by `scripts/bench --quick` into `target/bench/quick`, to see that all of it works: little of
everything, and every contender once. Its figures say little.
"""

# What has to hold and is looked at elsewhere.
NOT_MEASURED = """Not measured here: that a release build from clean takes less than 10 minutes and `scripts/test` less than 30, on two
cores. The soak is run only where it is asked for, by `--soak`.
"""


def write(directory):
    """The page of the results in a directory."""
    page = PAGES[directory] / "benchmarks.md"
    plots = page.with_suffix("")
    plots.mkdir(parents=True, exist_ok=True)
    lines = [INTRODUCTION]
    if directory == measure.QUICK_RESULTS:
        lines.append(QUICK)
    results = {path.stem: json.loads(path.read_text()) for path in directory.glob("*.json")}
    if "all" in results:
        lines += whole(results["all"])
    goals, sections = [], []
    for name, section in SECTIONS.items():
        if name not in results:
            continue
        try:
            sections += list(section(results[name], Drawer(plots)))
            goals += goals_of(name, results[name])
        except KeyError as missing:
            lines.append(f"**The results of {name} are of an older `scripts/bench`, without {missing}: measure them anew.**\n")
            print(f"report: {name} is left out: its results lack {missing}")
    lines += ["## Goals\n", table_of(["benchmark", "target", "measured", ""], goals), NOT_MEASURED]
    page.write_text("\n".join([*lines, *sections]).rstrip() + "\n")
    print(f"report: {page.relative_to(host.PROJECT)}")


def goals_of(name, results):
    found = [
        [name, what, figure(target), verdict(target) if target["met"] else f"{verdict(target)}: {reasons.of(name, what)}"]
        for what, target in results["targets"].items()
    ]
    return found + [[name, f"against {NAMES[peer]}", "not measured", ""] for peer in results.get("not_measured", {})]


def whole(results):
    """How long a run of all took, and what of it failed."""
    longest = sorted(results["seconds_each"].items(), key=lambda one: -one[1])
    each = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in longest)
    yield f"All benchmarks together took {results['seconds'] / 60:.1f} minutes: {each}.\n"
    for name, why in results["failed"].items():
        yield f"**{name} failed in that run, and what stands here of it is older**: {why.splitlines()[0]}\n"


class Drawer:
    """Draws plots into a directory beside the page, and says how the page shows them."""

    def __init__(self, directory):
        self.directory = directory

    def bars(self, name, title, bars, limit=None):
        return self.keep(name, title, plot.bars(title, bars, limit))

    def line(self, name, title, points):
        return self.keep(name, title, plot.line(title, points))

    def curve(self, name, title, points, unit):
        return self.keep(name, title, plot.curve(title, points, unit))

    def keep(self, name, title, drawing):
        (self.directory / f"{name}.svg").write_text(drawing)
        return f"![{title}]({self.directory.name}/{name}.svg)\n"


def backfill(results, draw):
    yield f"## Backfill, {results['rows']:,} rows\n"
    yield (
        "The limit is the faster of `COPY … TO STDOUT` as text and as binary by psql into `/dev/null`, over one"
        " connection: what the source can give to a client that does nothing with it. Lakeward writes Parquet with zstd."
        " CPU is user and system time of the whole process, without the server's.\n"
    )
    for table, found in results["tables"].items():
        yield f"### `{table}`\n"
        limit = found["measurements"][found["limit"]]["median"]["seconds"]
        bars = [(NAMES[name], of["median"]["seconds"], spread(of)) for name, of in found["measurements"].items()]
        yield draw.bars(f"backfill-{table}", f"Backfill of {table}: seconds", bars, limit=limit)
        rows = []
        for name, of in found["measurements"].items():
            ratio = of.get("against_limit")
            rows.append(
                [
                    NAMES[name] + (" (the limit)" if name == found["limit"] else ""),
                    seconds(of),
                    times(ratio) if ratio else "",
                    f"{of['cpu_seconds_per_million_rows']:.2f} s" if ratio else "",
                    f"{of['rows_per_second']:,}" if ratio else "",
                    most(of) if ratio else "",
                ]
            )
        yield table_of(["", "wall", "against the limit", "CPU per million rows", "rows/s", "peak memory"], rows)
        yield f"Source {found['source_bytes'] / MIB:,.0f} MiB, Parquet {found['parquet_bytes'] / MIB:,.0f} MiB.\n"
    yield targets(results["targets"])
    yield conditions(results, [of["command"] for t in results["tables"].values() for of in t["measurements"].values()])


def memory(results, draw):
    yield f"## Peak memory, {results['rows']:,} rows\n"
    yield "Resident memory of the whole process at its highest, under the default memory limit of 1 GiB.\n"
    bars = [(case.replace("`", ""), target["figure"], None) for case, target in results["targets"].items()]
    yield draw.bars("memory", "Peak resident memory: MB", bars)
    yield targets(results["targets"])
    yield conditions(results, [of["command"] for of in results["cases"].values()])


def peers(results, draw):
    yield f"## Against peers, `trips`, {results['rows']:,} rows\n"
    yield (
        "Each reads the whole table and writes Parquet with zstd, with settings chosen from its documentation. Lakeward's"
        " figures include that its files are synced to the disk and that a killed run can go on. Peak memory is that of"
        f" the process at its highest; of several processes together, as looked at {1 / measure.SAMPLE_EVERY:.0f} times a"
        " second.\n"
    )
    found = results["measurements"]
    for what, unit in (("seconds", "seconds"), ("cpu_seconds", "CPU seconds")):
        bars = [(NAMES[name], one["median"][what], None) for name, one in found.items()]
        yield draw.bars(f"peers-{what.split('_')[0]}", f"trips into Parquet: {unit}", bars)
    bars = [(NAMES[name], peak(one) / measure.MB, None) for name, one in found.items()]
    yield draw.bars("peers-peak", "trips into Parquet: MB at most", bars)
    rows = [
        [NAMES[name], seconds(one), f"{one['median']['cpu_seconds']:.2f} s", most(one), f"{one['parquet_bytes'] / MIB:,.0f} MiB"]
        for name, one in found.items()
    ]
    yield table_of(["", "wall", "CPU", "peak memory", "Parquet"], rows)
    ratios = results["ratios"]
    compared = [name for name in found if name in ratios]
    yield "What Lakeward took of what each peer took:\n"
    yield table_of(
        ["", "wall", "CPU", "peak memory", "Parquet"],
        [
            [NAMES[name], *(times(ratios[name][what]) for what in measure.FIGURES), f"{ratios[name]['parquet_bytes']:.2f} ×"]
            for name in compared
        ],
    )
    yield table_of(
        ["", "how it was run", "the types of its files, as DuckDB calls them"],
        [[NAMES[name], found[name]["settings"], types(found[name])] for name in compared],
        numbers=False,
    )
    if compared:
        yield f"What was held against the source of each: {results['check']}.\n"
    yield targets(results["targets"])
    yield from not_measured(results)
    yield conditions(results, [with_environment(one) for one in found.values()])


def resume(results, draw):
    yield f"## Resuming, `trips`, {results['rows']:,} rows\n"
    yield (
        "A sync is killed (`kill -9`) once a share of its rows is committed, and run again. Rows read before are as the"
        " server counts them, so rows that were on their way when the process died count too. The largest chunk had"
        f" {results['largest_chunk_rows']:,} rows.\n"
    )
    rows = [
        [
            f"{one['share']:.0%}",
            f"{one['rows_committed']:,}",
            f"{one['rows_read_before']:,}",
            f"{one['rows_read_after']:,}",
            f"{one['rows_read_again']:,} ({one['rows_read_again_share']:.1%})",
        ]
        for one in results["kills"]
    ]
    yield table_of(["killed at", "committed", "read before", "read by the resumed run", "read twice"], rows)
    yield targets(results["targets"])
    yield conditions(results, [results["command"]])


def changes(results, draw):
    yield f"## Changes, {results['changes']:,} of them\n"
    yield (
        f"60 % updates, {results['keys_changed']:,} of them of the key, 25 % inserts, 15 % deletes, in transactions of 1 to"
        " 10,000. The limit is `pg_recvlogical` with"
        " pgoutput into `/dev/null` over the same log. Lakeward commits Parquet every second or 64 MiB. After each run the"
        " latest view of the files held exactly the source's rows.\n"
    )
    found = results["measurements"]
    bars = [(CHANGES_NAMES[name], one["median"]["seconds"], spread(one)) for name, one in found.items()]
    limit = found["pg_recvlogical"]["median"]["seconds"]
    yield draw.bars("changes", f"{results['changes']:,} changes: seconds", bars, limit=limit)
    rows = [
        [CHANGES_NAMES[name], seconds(one), f"{one['median']['cpu_seconds']:.2f} s", most(one)] for name, one in found.items()
    ]
    yield table_of(["", "wall", "CPU", "peak memory"], rows)
    if "debezium" in found:
        ratio = results["ratios"]["debezium"]
        shares = [f"{times(ratio[what])} its {word}" for what, word in zip(measure.FIGURES, ("wall time", "CPU", "peak memory"))]
        yield (
            "Debezium's engine reads the same changes from a slot of its own, by pgoutput too. Its events are counted and"
            f" thrown away; the start of its Java is in its figures. Lakeward took {', '.join(shares)}.\n"
        )
    yield from not_measured(results)
    yield targets(results["targets"])
    yield conditions(results, [one["command"] for one in found.values()])


def transaction(results, draw):
    yield f"## One transaction of {results['rows']:,} rows\n"
    yield "A single insert, read from the log and committed; the latest view then held exactly the source's rows.\n"
    yield targets(results["targets"])
    median = results["median"]
    yield f"{median['seconds']:.1f} s, {median['cpu_seconds']:.1f} s of CPU.\n"
    yield conditions(results, [results["command"]])


def median(results):
    """What most points of a run that was followed took, where that was looked at."""
    found = results.get("median_rss_mib")
    return f", while files were merged, and stayed below {found:.0f} MiB between half of the points" if found else ""


def follow(results, draw):
    name, hours = results["benchmark"], results["seconds"] / 3600
    length = f"{hours:.1f} hours" if hours >= 0.5 else f"{results['seconds']} seconds"
    yield f"## Followed for {length}, {results['changes_per_second']:,.0f} changes a second\n"
    yield (
        "From the commit at the source until a committed file with the change is there to be found, default settings, every"
        f" one of {results['changes']:,} changes, updates of 20 rows in each transaction;"
        f" {results['changes_per_second_asked']:,} a second were asked for. Small"
        f" files were merged meanwhile: there were at most {results['most_files']}. Resident memory reached"
        f" {results['peak_rss_mib']:.0f} MiB{median(results)}. Afterwards the latest view held exactly the source's rows.\n"
    )
    samples = results["samples"]
    title = "Resident memory, the most between two points: MiB over seconds"
    yield draw.line(f"{name}-memory", title, [(at, rss) for at, rss, _ in samples])
    yield draw.line(f"{name}-files", "Files over seconds", [(at, files) for at, _, files in samples])
    yield targets(results["targets"])
    yield conditions(results, [results["command"]])


def beside(results, draw):
    yield f"## A backfill of {results['rows']:,} rows under {results['changes_per_second']:,.0f} changes a second\n"
    yield (
        f"`trips` in mode `cdc`, concurrent, while {results['changes']:,} changes were made. The sync took"
        f" {results['seconds']:.1f} s; for its slot the server kept {results['most_log_kept_bytes'] / MIB:,.0f} MiB of log at"
        " most. Once the writers had stopped, a sync left exactly the source's rows. The server was asked four times a second"
        " to note a place from which decoding can start, as it does by itself every 15 seconds.\n"
    )
    yield targets(results["targets"])
    yield draw.line("beside", "Log kept at the source: MiB over seconds", [(at, kept / MIB) for at, _, kept, _ in results["samples"]])
    yield conditions(results, [results["command"]])


def many(results, draw):
    yield f"## {results['tables']:,} tiny tables\n"
    yield targets(results["targets"])
    yield (
        f"{results['median']['cpu_seconds']:.1f} s of CPU, {most(results)} at most. For all tables together there were"
        f" {results['fsyncs']['tables']:,} fsyncs, besides {results['fsyncs']['destination']} for the destination as a whole"
        f" and {results['fsyncs']['state']} for the state.\n"
    )
    yield conditions(results, [results["command"]])


def chunks(results, draw):
    yield "## Chunk sizes\n"
    yield (
        "`lakeward bench chunk-size` over the default number of connections into Parquet: what a backfill reads, encodes,"
        " syncs and commits in a second, by the size of its chunks. `*` marks the smallest size that is as good as the best"
        " but for noise. Rows read again are those of a run that was killed half way and started again. Sizes that are left"
        " out cut the table as the one before does. Of each size the files of one more sync were held against the source.\n"
    )
    for name, stream in results["tables"].items():
        yield f"### `{stream['table']}`, {stream['rows']:,} rows, {stream['source_bytes'] / MIB:,.0f} MiB\n"
        points = [(size["chunk_bytes"], size["rows_per_second"]["median"]) for size in stream["sizes"]]
        yield draw.curve(f"chunks-{name}", f"{stream['table']}: rows/s by chunk size", points, binary)
        head = ["chunk size", "chunks", "rows/s", "least–greatest", "MiB/s", "CPU per million rows", "peak memory", "files"]
        best = stream["recommendation"]["chunk_size"]
        yield table_of([*head, "read again"], [chunk_row(size, stream, best) for size in stream["sizes"]])
    yield targets(results["targets"])
    yield conditions(results, [stream["command"] for stream in results["tables"].values()])


def chunk_row(size, stream, best):
    """A size of a chunk, and what came of it."""
    rate, again, files = size["rows_per_second"], size["read_again"], size["files"]["median"]
    return [
        binary(size["chunk_bytes"]) + (" *" if size["chunk_size"] == best else ""),
        f"{size['chunks']:,}",
        f"{rate['median']:,.0f}",
        f"{rate['least']:,.0f}–{rate['greatest']:,.0f}",
        f"{size['mib_per_second']['median']:,.0f}",
        f"{size['cpu_seconds_per_million_rows']['median']:.2f} s",
        f"{size['peak_rss_bytes']['greatest'] / measure.MB:,.0f} MB" if size["peak_rss_bytes"] else "?",
        f"{files:,.0f} of {size['file_bytes']['median'] / files / MIB:,.1f} MiB",
        f"{again['rows']:,} ({again['rows'] / stream['rows']:.1%})" if "rows" in again else "over too fast",
    ]


def growth(results, draw):
    yield "## How cost grows\n"
    yield (
        f"{'Two runs' if results['runs'] == 2 else 'One run'} of each, after which the files held exactly the source's rows. Columns, tables and streams are read over"
        " the default number of connections; tables and streams have ten rows each to begin with.\n"
    )
    for axis, points in results["axes"].items():
        yield f"### {axis.capitalize()}\n"
        # A point alone makes no curve.
        if len(points) > 1:
            curve = [(point["at"], point["median"]["seconds"]) for point in points]
            yield draw.curve(f"growth-{axis.replace(' ', '-')}", f"Seconds, by {axis}", curve, short)
        what = WORK.get(axis, "rows")
        # Where the axis is what is worked on, it stands there once.
        work = [what] if any(point["work"] != point["at"] for point in points) else []
        rows = [
            [
                f"{point['at']:,}",
                *(f"{point['work']:,}" for _ in work),
                seconds(point),
                f"{point['work'] / point['median']['seconds']:,.0f}",
                f"{point['median']['cpu_seconds']:.2f} s",
                most(point),
            ]
            for point in points
        ]
        yield table_of([axis, *work, "wall", f"{what}/s", "CPU", "peak memory"], rows)
    yield targets(results["targets"])
    yield conditions(results, [point["command"] for points in results["axes"].values() for point in points])


# What is worked on along an axis, where it is not rows.
WORK = {
    "columns": "values",
    "tables discovered": "tables",
    "changes in a transaction": "changes",
    "streams of one log": "changes",
}


def program(results, draw):
    yield "## The program\n"
    yield targets(results["targets"])
    yield conditions(results, [])


def binary(size):
    """A size as flags take it."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:g}{name}"
    return str(size)


def short(count):
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if count >= unit:
            return f"{count / unit:g}{name}"
    return str(count)


# By results.
SECTIONS = {
    "backfill": backfill,
    "memory": memory,
    "peers": peers,
    "resume": resume,
    "changes": changes,
    "transaction": transaction,
    "follow": follow,
    "soak": follow,
    "beside": beside,
    "many": many,
    "chunks": chunks,
    "growth": growth,
    "binary": program,
}


def table_of(head, rows, numbers=True):
    lines = [head, ["---"] + ["---:" if numbers else "---"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def spread(of):
    taken = [one["seconds"] for one in of["runs"]]
    return min(taken), max(taken)


def seconds(of):
    least, greatest = spread(of)
    beside = f" ({least:.2f}–{greatest:.2f})" if len(of["runs"]) > 1 else ""
    return f"{of['median']['seconds']:.2f} s{beside}"


def peak(of):
    return max(one["peak_rss_bytes"] for one in of["runs"])


def most(of):
    """The most memory that any of the runs took."""
    return f"{peak(of) / measure.MB:,.0f} MB"


def times(ratio):
    beside = f" ({ratio['min']:.2f}–{ratio['max']:.2f})" if ratio["min"] < ratio["max"] else ""
    return f"{ratio['median']:.2f} ×{beside}"


def types(of):
    return "; ".join(f"{source}: {' and '.join(found)}" for source, found in of["types"].items())


def not_measured(results):
    for name, reason in results.get("not_measured", {}).items():
        yield f"{NAMES[name]} was not measured: {reason}\n"


def with_environment(of):
    """A command with the settings that are not on its line."""
    return [*(f"{name}={value}" for name, value in of.get("environment", {}).items()), *of["command"]]


def figure(target):
    """What was measured, with as many digits as show on which side of the target it is."""
    found, bound = target["figure"], target.get("at_most", target.get("at_least"))
    digits = 0 if isinstance(found, int) or found >= 1_000 else 2
    while round(found, digits) == bound != found:
        digits += 1
    return f"{found:,.{digits}f} {target['unit']}"


def verdict(target):
    sign, bound = ("≤", target["at_most"]) if "at_most" in target else ("≥", target["at_least"])
    return f"{sign} {bound:,g} {target['unit']}: {'met' if target['met'] else '**missed**'}"


def targets(found):
    rows = [[what, figure(target), verdict(target)] for what, target in found.items()]
    return table_of(["target", "measured", ""], rows)


def conditions(results, commands):
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    settings = ", ".join(f"{name} = {value}" for name, value in results["server_settings"].items())
    lines = []
    if machine["busy_before"] > measure.IDLE:
        lines.append(
            f"**The machine was not idle when these were taken, {machine['busy_before']:.0%} of it was busy before: only the"
            " ratios say something, and not much.**\n"
        )
    lines += [
        f"<details><summary>Taken {results['taken_at'][:10]} on {machine['cores']} cores; versions and commands</summary>\n",
        f"- {machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / (1 << 30):.0f} GiB, {machine['system']};"
        f" {machine['busy_before']:.0%} of it was busy before; all of this took {results['elapsed_seconds'] / 60:.1f} minutes",
        f"- {versions}",
        f"- PostgreSQL with {settings}\n",
    ]
    if commands:
        lines += ["```sh", *dict.fromkeys(shlex.join(command) for command in commands), "```\n"]
    lines.append("</details>\n")
    return "\n".join(lines)

