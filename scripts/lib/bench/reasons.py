"""Why goals are missed, where that is known, and what would be tried next: by benchmark and target."""

TRIPS = (
    "the same work takes more seconds of CPU while others use the machine: later in the run of 2026-11-23 10,000,000 rows took 1.13 s a"
    " million (see how cost grows). Next: dictionaries of text that are made while rows are decoded, because looking each"
    " value up while a file is written is 18 % by `perf`"
)

REASONS = {
    ("backfill", "`trips`: CPU per million rows"): TRIPS,
    ("backfill", "`trips`: rows per CPU-second"): TRIPS,
    ("backfill", "`wide`: CPU per million rows"): (
        "0.58 and 0.64 s were measured when COPY took two thirds of the time that it took here: on a shared machine the same"
        " work takes more seconds of CPU while others use the memory. Next: decoders made for a table once, so that no type"
        " is asked for with each value"
    ),
    ("chunks", "`wide`, 11,000,000 rows: rows/s with the default, of the best"): (
        "each chunk has a file and a commit of its own, which larger ones have less of; they are not the default because a"
        " kill costs so much more. Next: fewer queries and files for a chunk, by several chunks in one file"
    ),
}
UNKNOWN = "nobody has looked into it yet"


def of(benchmark, target):
    return REASONS.get((benchmark, target), UNKNOWN)
