"""TPC-H's `lineitem`, made by tpchgen-cli."""

import shutil

import host
from bench import measure
from bench.bed import WORK

# Of scale 1.
ROWS_PER_SCALE = 6_001_215
COLUMNS = """
    l_orderkey bigint, l_partkey bigint, l_suppkey bigint, l_linenumber integer, l_quantity numeric(15, 2),
    l_extendedprice numeric(15, 2), l_discount numeric(15, 2), l_tax numeric(15, 2), l_returnflag char(1),
    l_linestatus char(1), l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct char(25),
    l_shipmode char(10), l_comment varchar(44)
"""


def fill(bed, rows):
    """Fills it with about so many rows, or finds it filled, and says what the hashes of its rows are."""
    scale = max(0.01, round(rows / ROWS_PER_SCALE, 2))
    mark = f"scale {scale}"
    if bed.sql("SELECT obj_description(to_regclass('public.lineitem'), 'pg_class')") != mark:
        make(bed, scale, mark)
    return bed.hashes("lineitem", mark)


def make(bed, scale, mark):
    measure.say(f"filling lineitem, {mark}")
    made = WORK / "tpch"
    shutil.rmtree(made, ignore_errors=True)
    generator = bed.tool("tpchgen-cli")
    measure.run([generator, "csv", "-s", str(scale), "--tables", "lineitem", "--output-dir", str(made)])
    files = sorted(made.rglob("*.csv"))
    if not files:
        raise host.Failure("tpchgen-cli made no lineitem")
    bed.sql("DROP TABLE IF EXISTS lineitem", f"CREATE TABLE lineitem ({COLUMNS})")
    for path in files:
        bed.sql(f"\\copy lineitem FROM '{path}' WITH (FORMAT csv, HEADER)")
    bed.sql(
        "ALTER TABLE lineitem ADD PRIMARY KEY (l_orderkey, l_linenumber)",
        f"COMMENT ON TABLE lineitem IS '{mark}'",
        "VACUUM ANALYZE lineitem",
        "CHECKPOINT",
    )
    shutil.rmtree(made)
