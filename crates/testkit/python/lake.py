"""The Parquet files of a stream, and values as the text that PostgreSQL reads."""

import os

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

SYSTEM = ["_lw_op", "_lw_seq", "_lw_commit_ts", "_lw_synced_at", "_lw_unchanged", "_lw_rescued"]


class Unreadable(Exception):
    """The lake is not as a reader must find it."""


def visible_files(directory):
    """Every file that a glob `**/*.parquet` over the stream's directory finds, in a fixed order."""
    found = []
    for parent, directories, files in os.walk(directory):
        directories[:] = [name for name in directories if not name.startswith((".", "_lakeward"))]
        found += [os.path.join(parent, name) for name in files if name.endswith(".parquet")]
    if not found:
        raise Unreadable(f"no visible Parquet file in {directory}")
    return sorted(found)


def connect():
    # Only what is built in: a test must not fetch an extension from somewhere.
    connection = duckdb.connect(
        config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    )
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET preserve_insertion_order = false")
    return connection


def ident(name):
    return '"' + name.replace('"', '""') + '"'


def literal(text):
    return "'" + text.replace("'", "''") + "'"


def unified_schema(files):
    """One schema for all files by name, as readers need it; files that disagree are an error."""
    return pa.unify_schemas([pq.read_schema(file) for file in files])


def arrow_table(files, schema):
    return pa.concat_tables([conform(pq.read_table(file, partitioning=None), schema) for file in files])


def conform(table, schema):
    columns = []
    for field in schema:
        index = table.schema.get_field_index(field.name)
        missing = pa.nulls(len(table), field.type)
        columns.append(missing if index < 0 else table.column(index).cast(field.type))
    return pa.table(columns, schema=schema)


def beyond_duckdb(schema):
    """Whether DuckDB alone would read this wrongly: it makes a double of a decimal of more than 38
    digits, and takes two names that differ only in case for one."""
    names = [name.lower() for name in schema.names]
    return len(set(names)) < len(names) or any(has_wide_decimal(field.type) for field in schema)


def has_wide_decimal(kind):
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return has_wide_decimal(kind.value_type)
    return pa.types.is_decimal(kind) and kind.precision > 38


def without_wide_decimals(table):
    """Such decimals as their text."""
    fields = []
    for field in table.schema:
        if has_wide_decimal(field.type):
            nested = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
            field = field.with_type(pa.list_(pa.string()) if nested else pa.string())
        fields.append(field)
    return table.cast(pa.schema(fields))


def is_list(kind):
    return kind.endswith("[]")


def base(kind):
    """A DuckDB type without its list brackets."""
    return kind[:-2] if is_list(kind) else kind


def is_plain(kind):
    """Whether the text of such a value has no character that COPY must have escaped."""
    return not is_list(kind) and kind not in ("VARCHAR", "JSON", "BLOB") and not kind.startswith("ENUM")


def scalar_text(expression, kind):
    """SQL for the text of one value that PostgreSQL reads as the same value."""
    if kind in ("VARCHAR", "JSON"):
        return f"CAST({expression} AS VARCHAR)"
    if kind == "BLOB":
        return f"'\\x' || lower(hex({expression}))"
    if kind == "DATE" or kind.startswith("TIMESTAMP"):
        return f"replace(CAST({expression} AS VARCHAR), ' (BC)', ' BC')"
    if kind.startswith(("STRUCT", "MAP", "UNION")) or is_list(kind):
        raise Unreadable(f"no text for a column of type {kind}")
    return f"CAST({expression} AS VARCHAR)"


def text(expression, kind, delimiter=","):
    """The same for a value or a list of values; a list becomes an array literal, always quoted."""
    if not is_list(kind):
        return scalar_text(expression, kind)
    element = scalar_text("x", base(kind))
    quoted = f"""'"' || replace(replace({element}, '\\', '\\\\'), '"', '\\"') || '"'"""
    items = f"list_transform({expression}, lambda x: CASE WHEN x IS NULL THEN 'NULL' ELSE {quoted} END)"
    return f"CASE WHEN {expression} IS NOT NULL THEN '{{' || array_to_string({items}, {literal(delimiter)}) || '}}' END"
