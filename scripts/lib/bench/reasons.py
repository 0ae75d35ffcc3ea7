"""Why goals are missed, where that is known, and what would be tried next: by benchmark and target."""

REASONS = {
    ("backfill", "`wide`: CPU per million rows"): (
        "0.58 and 0.64 s were measured when COPY took two thirds of the time that it took here: on a shared machine the same"
        " work takes more seconds of CPU while others use the memory. Next: decoders made for a table once, so that no type"
        " is asked for with each value"
    ),
    ("changes", "wall against pg_recvlogical"): (
        "both wait for the server's one process that decodes, and with two cores Lakeward's threads compete with it: 0.65 to"
        " 0.81 while nobody else used the machine. Next: more of the log for each wake of the reader, because a third of its"
        " CPU is the kernel's, for small packets and switches between threads"
    ),
    ("chunks", "`trips`, 2,000,000 rows: rows/s with the default, of the best"): (
        "by less than one in a thousand, where the runs of one size differ by 10 %; 256 MiB is the best here, and makes a kill"
        " cost more. Next: the cost of a chunk"
    ),
    ("chunks", "`wide`, 11,000,000 rows: rows/s with the default, of the best"): (
        "each chunk costs about 35 ms of CPU by itself, which larger ones have less of; they are not the default because a kill"
        " costs so much more. Next: fewer queries and files for a chunk, by several chunks in one file"
    ),
}
UNKNOWN = "nobody has looked into it yet"


def of(benchmark, target):
    return REASONS.get((benchmark, target), UNKNOWN)
