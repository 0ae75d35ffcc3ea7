"""The peers that write a table into Parquet, and how each is run."""

import json
import subprocess
from pathlib import Path
from typing import Callable, NamedTuple

import host

SCRIPTS = Path(__file__).resolve().parent
LEAST_JAVA = 17


class Peer(NamedTuple):
    name: str
    # Those whose versions are told. It cannot be had where one of them is missing.
    packages: list[str]
    # The command that writes a table below the directory `lake` of where it is run. It finds the source in SOURCE_URL,
    # so that no password stands in a command line.
    command: Callable[[str, str], list[str]]
    # How its documented settings were chosen.
    settings: str
    environment: dict[str, str] = {}


def installed(python, packages):
    """The versions of packages, or why there is none."""
    script = "import json, sys; from importlib.metadata import version; "
    script += "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    return json.loads(told([python, "-c", script, *packages]))


def java(python):
    """The version of the Java that Debezium would run on, or why it does not."""
    script = "import jpype; jpype.startJVM(); print(jpype.JClass('java.lang.System').getProperty('java.version'))"
    version = told([python, "-c", script]).strip()
    if int(version.split(".")[0]) < LEAST_JAVA:
        raise host.Failure(f"needs Java {LEAST_JAVA}, found {version}")
    return version


def told(command):
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode != 0:
        raise host.Failure(done.stderr.strip())
    return done.stdout


def reason(failure):
    """Why a peer was not measured, in a line: tracebacks and logs say it last."""
    last = str(failure).strip().splitlines()[-1].strip()
    return last.replace(f"{host.PROJECT}/", "")[:300]


def script(name, *arguments):
    return lambda python, table: [python, str(SCRIPTS / name), *arguments, table, "lake"]


def file_script(name):
    return lambda python, table: [python, str(SCRIPTS / name), table, f"lake/{table}.parquet"]


def sling(python, table):
    program = told([python, "-c", "import sling_linux_amd64; print(sling_linux_amd64.SLING_BIN)"]).strip()
    # A wheel does not say which of its files are programs.
    Path(program).chmod(0o755)
    command = [program, "run", "--src-conn", "SOURCE_URL", "--src-stream", f"public.{table}", "--mode", "full-refresh"]
    return [*command, "--tgt-object", f"file://lake/{table}.parquet", "--tgt-options", '{"compression": "zstd"}']


DLT = {"RUNTIME__DLTHUB_TELEMETRY": "false", "DLT_DATA_DIR": "dlt", "DATA_WRITER__COMPRESSION": "zstd"}

PEERS = [
    Peer(
        "connectorx",
        ["connectorx", "pyarrow"],
        file_script("connectorx_parquet.py"),
        "two partitions of the key, all of the table in memory, then one file by PyArrow",
    ),
    Peer(
        "sling",
        ["sling-linux-amd64"],
        sling,
        "one stream into one file by its Arrow writer: it would else use a program of DuckDB that it fetches itself from"
        " elsewhere, and with one from a package, 1.5.5, the file held the last 432,142 of a million rows",
        {"SLING_DUCKDB_COMPUTE": "false", "SLING_DISABLE_TELEMETRY": "true", "SLING_HOME_DIR": "sling"},
    ),
    Peer(
        "dlt_connectorx",
        ["dlt", "connectorx", "pyarrow"],
        script("dlt_parquet.py", "connectorx"),
        "a stream of chunks of 50,000 rows over two partitions of the key, to its filesystem destination",
        DLT,
    ),
    Peer(
        "dlt_pyarrow",
        ["dlt", "pyarrow", "SQLAlchemy", "psycopg"],
        script("dlt_parquet.py", "pyarrow"),
        "chunks of 50,000 rows, to its filesystem destination",
        DLT,
    ),
    Peer(
        "adbc",
        ["adbc-driver-postgresql", "adbc-driver-manager", "pyarrow"],
        file_script("adbc_parquet.py"),
        "one connection, batch by batch into one file by PyArrow",
    ),
]
