"""The Python in which the tests read the lake by engines that are not ours."""

import os
import sys

import host

# Pinned: what a reader makes of a file is part of what the tests assert.
READERS = ["duckdb==2.0.0", "polars==2.1.0", "pyarrow==26.0.1"]
BENCH = ["connectorx==0.4.6"]


def interpreter(bench):
    """The path of an interpreter that can import the readers; made at first use."""
    home = host.TARGET / "python"
    python = home / "bin" / "python"
    wanted = READERS + (BENCH if bench else [])
    stamp = home / "installed"
    installed = stamp.read_text().split() if stamp.exists() else []
    if python.exists() and set(wanted) <= set(installed) and host.run([python, "-c", "import duckdb"]).returncode == 0:
        return python
    wanted = sorted({*installed, *wanted}) if set(READERS) <= set(installed) else wanted
    home.mkdir(parents=True, exist_ok=True)
    if host.run([sys.executable, "-m", "venv", "--clear", home]).returncode == 0:
        install = [python, "-m", "pip", "install"]
    else:
        # Debian's Python comes without the half of `venv` that brings pip.
        packages = home / "packages"
        install = [*host.pip(), "install", "--target", packages, "--upgrade"]
        write_wrapper(python, packages)
    host.run([*install, *host.QUIET_PIP, *wanted], failure="could not install the readers")
    modules = ", ".join(requirement.split("==")[0] for requirement in wanted)
    host.run([python, "-c", f"import {modules}"], failure="the readers were installed but do not run")
    stamp.write_text("\n".join(wanted) + "\n")
    return python


def write_wrapper(python, packages):
    python.parent.mkdir(parents=True, exist_ok=True)
    python.unlink(missing_ok=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{packages}" exec "{sys.executable}" "$@"\n')
    os.chmod(python, 0o755)
