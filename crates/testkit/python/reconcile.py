"""Reads a stream's latest view out of its Parquet files and prints it for COPY.

The request is a JSON object on standard input: directory, mode (full_refresh, incremental or cdc),
key (column names in the files; empty: none), columns (a list of {name, written_as, delimiter}), packed. The answer is one
line of JSON about what was found, then, tab-separated in PostgreSQL's COPY text format, a line per
row of the view: its weight (-1 for a delete of a table without a key, else 1) and the columns as
text, or, if packed, one array of them.

Nothing is decided here about whether values are right: that is the server's to say.
"""

import json
import sys

import lake

OPERATIONS = "'r', 'c', 'u', 'd', 't'"
AFTER_THE_LAST_END = "_lw_seq > (SELECT coalesce(max(_lw_seq) FILTER (WHERE _lw_op = 't'), '') FROM log)"


def main():
    request = json.load(sys.stdin)
    files = lake.visible_files(request["directory"])
    connection = lake.connect()
    schema = lake.unified_schema(files)
    names = schema.names
    if names[: len(lake.SYSTEM)] != lake.SYSTEM:
        raise lake.Unreadable(f"the files begin with {names[: len(lake.SYSTEM)]}, not with the system columns")

    # Columns are called s0… and c0… in SQL, so that no name of a user's can be confused with another.
    columns = {name: f"c{n}" for n, name in enumerate(names[len(lake.SYSTEM) :])}
    aliases = dict(zip(names, [*lake.SYSTEM, *columns.values()]))
    kinds = read(connection, files, schema, aliases)
    absent = [column["name"] for column in request["columns"] if column["written_as"] not in columns]
    absent_keys = [name for name in request["key"] if name not in columns]
    if absent_keys:
        raise lake.Unreadable(f"key columns {absent_keys} are in no file")

    problems = check(connection, request, columns)
    wanted = [column for column in request["columns"] if column["written_as"] in columns]
    for column in wanted:
        column["alias"] = columns[column["written_as"]]
        column["kind"] = kinds[column["alias"]]
    view = latest_view(connection, request, wanted, columns, kinds)
    head = {
        "files": len(files),
        "columns": [{"name": column["name"], "kind": column["kind"]} for column in wanted],
        "absent": absent,
        "unknown": [name for name in columns if name not in {column["written_as"] for column in request["columns"]}],
        "problems": problems,
    }
    sys.stdout.write(json.dumps(head) + "\n")
    sys.stdout.flush()
    write_lines(connection, view, wanted, request["packed"])


def read(connection, files, schema, aliases):
    """Makes the view `log` of all rows of all files, and returns the type of each column."""
    if lake.beyond_duckdb(schema):
        table = lake.without_wide_decimals(lake.arrow_table(files, schema))
        connection.register("arrow_files", table.rename_columns(list(aliases.values())))
        connection.execute("CREATE VIEW log AS SELECT * FROM arrow_files")
    else:
        picked = ", ".join(f"{lake.ident(name)} AS {alias}" for name, alias in aliases.items())
        paths = ", ".join(lake.literal(file) for file in files)
        options = "union_by_name = true, hive_partitioning = false"
        connection.execute(f"CREATE VIEW log AS SELECT {picked} FROM read_parquet([{paths}], {options})")
    return {row[0]: row[1] for row in connection.execute("DESCRIBE log").fetchall()}


def check(connection, request, columns):
    """What is wrong with the log itself, whatever its values."""
    problems = []

    def count(what, sql):
        number = connection.execute(sql).fetchone()[0]
        if number:
            problems.append(f"{number} {what}")

    count("rows with an unknown _lw_op", f"SELECT count(*) FROM log WHERE coalesce(_lw_op, '') NOT IN ({OPERATIONS})")
    malformed = "NOT regexp_full_match(coalesce(_lw_seq, ''), '[0-9a-fA-F]{32}')"
    count("rows whose _lw_seq is not 32 hex digits", f"SELECT count(*) FROM log WHERE {malformed}")
    count("rows without _lw_synced_at", "SELECT count(*) FROM log WHERE _lw_synced_at IS NULL")
    key = [columns[name] for name in request["key"]]
    # A key that was written under another name before is null there.
    renamed = any(column["written_as"] != column["name"] for column in request["columns"])
    since = f" AND {AFTER_THE_LAST_END}" if renamed else ""
    # One row of the log stands once: the same change or read of a key twice is a row doubled,
    # also where the latest view would hide it.
    if key and request["mode"] != "full_refresh":
        same = ", ".join(["_lw_seq", *key])
        groups = f"SELECT count(*) AS n FROM log WHERE _lw_op <> 't'{since} GROUP BY {same}"
        doubled = f"SELECT coalesce(sum(n - 1), 0)::BIGINT FROM ({groups}) WHERE n > 1"
        count("rows of the log that stand twice (same key and _lw_seq)", doubled)
        nulls = " OR ".join(f"{column} IS NULL" for column in key)
        count("rows without a key", f"SELECT count(*) FROM log WHERE _lw_op <> 't'{since} AND ({nulls})")
    elif request["mode"] == "cdc":
        doubled = "SELECT count(*) - count(DISTINCT _lw_seq) FROM log WHERE _lw_op IN ('c', 'u', 'd')"
        count("changes of the log that stand twice (same _lw_seq)", doubled)
    return problems


def latest_view(connection, request, wanted, columns, kinds):
    """SQL for the rows that the log says are there now: their weight and their columns' text."""
    rescued = distinct(connection, "unnest(json_keys(_lw_rescued))", "_lw_rescued IS NOT NULL")
    unchanged = distinct(connection, "unnest(_lw_unchanged)", "_lw_unchanged IS NOT NULL")
    key = [columns[name] for name in request["key"]]

    texts = []
    for column in wanted:
        value = lake.text(column["alias"], column["kind"], column["delimiter"])
        column["plain"] = lake.is_plain(column["kind"]) and column["written_as"] not in rescued
        if column["written_as"] in rescued:
            pointer = "/" + column["written_as"].replace("~", "~0").replace("/", "~1")
            original = f"json_extract_string(_lw_rescued, {lake.literal(pointer)})"
            value = f"coalesce({original}, {value})"
        texts.append(f"{value} AS {column['alias']}")
    keys = [f"{lake.text(column, kinds[column])} AS k{n}" for n, column in enumerate(key)]
    fields = ["_lw_op", "_lw_seq", "_lw_unchanged", *texts, *keys]
    rows = f"SELECT {', '.join(fields)} FROM log WHERE _lw_op <> 't' AND {AFTER_THE_LAST_END}"

    names = [column["alias"] for column in wanted]
    if request["mode"] == "full_refresh" or (request["mode"] == "incremental" and not key):
        return f"SELECT {', '.join(['1 AS w', *names])} FROM ({rows})"
    if not key:
        weight = "CASE WHEN _lw_op = 'd' THEN -1 ELSE 1 END AS w"
        return f"SELECT {', '.join([weight, *names])} FROM ({rows})"

    partition = "PARTITION BY " + ", ".join(f"k{n}" for n in range(len(key)))
    values = []
    for column in wanted:
        alias = column["alias"]
        if column["written_as"] in unchanged:
            # Wrapped, because a NULL that was sent is a value and one that was not is none.
            sent = f"NOT coalesce(list_contains(_lw_unchanged, {lake.literal(column['written_as'])}), false)"
            wrapped = f"CASE WHEN {sent} THEN {{'v': {alias}}} END"
            alias = f"(last_value({wrapped} IGNORE NULLS) OVER ({partition} ORDER BY _lw_seq)).v AS {alias}"
        values.append(alias)
    # rank, not row_number: of two rows that are both the last one, both are shown.
    last = f"rank() OVER ({partition} ORDER BY _lw_seq DESC) AS last"
    ranked = f"SELECT {', '.join(['_lw_op', last, *values])} FROM ({rows})"
    return f"SELECT {', '.join(['1 AS w', *names])} FROM ({ranked}) WHERE last = 1 AND _lw_op <> 'd'"


def distinct(connection, expression, condition):
    return {row[0] for row in connection.execute(f"SELECT DISTINCT {expression} FROM log WHERE {condition}").fetchall()}


def write_lines(connection, view, wanted, packed):
    """Each row as one value of a string column: the column's buffer is then the file itself."""
    if packed:
        array = lake.text(f"[{', '.join(column['alias'] for column in wanted)}]", "VARCHAR[]")
        values = [escaped(array)]
    else:
        values = [column["alias"] if column["plain"] else escaped(column["alias"]) for column in wanted]
    cells = ["CAST(w AS VARCHAR)"] + [f"coalesce({value}, '\\N')" for value in values]
    connection.execute("SET arrow_large_buffer_size = true")
    line = " || chr(9) || ".join(cells) + " || chr(10)"
    for batch in connection.sql(f"SELECT {line} AS line FROM ({view})").to_arrow_reader(100_000):
        lines = batch.column(0)
        offsets = memoryview(lines.buffers()[1]).cast("q")
        start, end = offsets[lines.offset], offsets[lines.offset + len(lines)]
        sys.stdout.buffer.write(memoryview(lines.buffers()[2])[start:end])


def escaped(value):
    """Every backslash first, then what ends a field or a line."""
    for character, escape in (("'\\'", "\\\\"), ("chr(10)", "\\n"), ("chr(13)", "\\r"), ("chr(9)", "\\t")):
        value = f"replace({value}, {character}, '{escape}')"
    return value


if __name__ == "__main__":
    try:
        main()
    except lake.Unreadable as unreadable:
        sys.exit(f"reconcile: {unreadable}")
