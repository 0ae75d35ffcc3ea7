"""Pythons with packages of their own, made at first use: one reads lakes by engines that are not ours, the other runs
the peers of the benchmarks."""

import os
import sys

import host

# Pinned: what a reader makes of a file is part of what the tests assert.
READERS = ["duckdb==2.0.0", "polars==2.1.0", "pyarrow==26.0.1", "pytz==2026.6"]
PEERS = host.PROJECT / "scripts" / "lib" / "bench" / "peers" / "requirements.txt"


def readers():
    return interpreter("python", READERS, "the readers", "import duckdb, polars, pyarrow, pytz")


def peers():
    """Whether each peer runs on this machine is not asked here: it may lack one of them."""
    lines = PEERS.read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    return interpreter("peers", wanted, "the peers", "import importlib.metadata")


def interpreter(name, wanted, whose, works):
    """The path of an interpreter under target/ that has the packages wanted, and runs what shows that it works."""
    home = host.TARGET / name
    python = home / "bin" / "python"
    stamp = home / "installed"
    installed = stamp.read_text().splitlines() if stamp.exists() else []
    if python.exists() and set(wanted) <= set(installed) and host.run([python, "-c", works]).returncode == 0:
        return python
    home.mkdir(parents=True, exist_ok=True)
    if host.run([sys.executable, "-m", "venv", "--clear", home]).returncode == 0:
        install = [python, "-m", "pip", "install"]
    else:
        # Debian's Python comes without the half of `venv` that brings pip.
        packages = home / "packages"
        install = [*host.pip(), "install", "--target", packages, "--upgrade"]
        write_wrapper(python, packages)
    host.run([*install, *host.QUIET_PIP, *wanted], failure=f"could not install {whose}")
    host.run([python, "-c", works], failure=f"{whose} were installed but do not run")
    stamp.write_text("\n".join(wanted) + "\n")
    return python


def write_wrapper(python, packages):
    python.parent.mkdir(parents=True, exist_ok=True)
    python.unlink(missing_ok=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{packages}" exec "{sys.executable}" "$@"\n')
    os.chmod(python, 0o755)
