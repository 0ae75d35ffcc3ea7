"""Runs of programs, with what the kernel says they took, and results as they are kept."""

import datetime
import json
import os
import platform
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import host

RESULTS = host.PROJECT / "benches" / "results"
# Of a quick run, which says that all of it works and little more.
QUICK_RESULTS = host.TARGET / "bench" / "quick"
# What is compared of two runs.
FIGURES = ("seconds", "cpu_seconds", "peak_rss_bytes")
SAMPLE_EVERY = 0.05
# The share of the machine's time that others may take where it is called idle; the seconds that are looked at to see it,
# and those that are waited for it.
IDLE, LOOK, PATIENCE = 0.1, 2, 60
MB = 1_000_000


class Run(NamedTuple):
    """One run of a program. CPU and memory are its own, without the server's. CPU is the program's and that of all
    processes it waited for. Memory is the most that it had resident at any time, as the kernel says; where it starts
    processes it is the greatest sum of all of them, if that is more, looked at twenty times a second, with pages that
    they share counted for each."""

    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    # What it wrote to standard error.
    said: str = ""

    def to_json(self):
        return {
            "seconds": round(self.seconds, 4),
            "cpu_seconds": round(self.cpu_seconds, 4),
            "peak_rss_bytes": self.peak_rss_bytes,
        }


def run(command, **options):
    """Runs a command to its end with its results thrown away. Fails where the command does."""
    command = [str(part) for part in command]
    with tempfile.TemporaryFile() as said:
        started = time.monotonic()
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, **options
        )
        watched = Family(child.pid)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            child.wait()
            raise
        finally:
            watched.leave()
        seconds = time.monotonic() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        words = said.read().decode(errors="replace")
    if child.returncode != 0:
        raise host.Failure(f"`{' '.join(command)}` ended with {child.returncode}:\n{words[-2000:]}")
    # Linux counts ru_maxrss in KiB, and it is of the largest process alone. What this process had when it started the
    # other counts in it: up to there the program's own mark is what is known.
    told = usage.ru_maxrss * 1024
    own = told if told > high_water(os.getpid()) else watched.high_water or told
    return Run(seconds, usage.ru_utime + usage.ru_stime, max(own, watched.peak_bytes), words)


class Family(threading.Thread):
    """Watches the memory of a process and of all that it starts, as long as there is more than one."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak_bytes, self.high_water, self.ended = pid, 0, 0, threading.Event()
        self.start()

    def run(self):
        while not self.ended.wait(SAMPLE_EVERY):
            self.high_water = max(self.high_water, high_water(self.pid))
            members = family(self.pid)
            if len(members) > 1:
                self.peak_bytes = max(self.peak_bytes, sum(resident(pid) for pid in members))

    def leave(self):
        self.ended.set()
        self.join()


def family(pid):
    """The process and those it started, at any remove."""
    members = [pid]
    for member in members:
        try:
            # Each of its threads has children of its own.
            lists = [path.read_text() for path in Path(f"/proc/{member}/task").glob("*/children")]
        except OSError:
            continue
        members += [int(child) for child in " ".join(lists).split()]
    return members


def high_water(pid):
    """The most bytes of memory that a process has had since it became its program, or none where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0


def resident(pid):
    """Bytes of memory, or none where the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def median(runs, what="seconds"):
    return statistics.median(getattr(one, what) for one in runs)


def bare(command):
    """A command line with the paths of this machine cut short."""
    return [Path(part).name if str(part).startswith("/") else str(part) for part in command]


def measurement(runs, command, **more):
    """All runs of one contender, with medians."""
    return {
        "command": bare(command),
        "runs": [one.to_json() for one in runs],
        "median": {
            "seconds": round(median(runs), 4),
            "cpu_seconds": round(median(runs, "cpu_seconds"), 4),
            "peak_rss_bytes": int(median(runs, "peak_rss_bytes")),
        },
        **more,
    }


def ratio(runs, limits, what="seconds"):
    """The ratio of the medians, and the least and the greatest within one round."""
    rounds = [getattr(a, what) / getattr(b, what) for a, b in zip(runs, limits)]
    return {
        "median": round(median(runs, what) / median(limits, what), 3),
        "min": round(min(rounds), 3),
        "max": round(max(rounds), 3),
    }


def ratios(runs, others):
    return {what: ratio(runs, others, what) for what in FIGURES}


def greatest(runs, what="peak_rss_bytes"):
    return max(getattr(one, what) for one in runs)


def target(figure, at_most, unit):
    return {"figure": figure, "at_most": at_most, "unit": unit, "met": figure <= at_most}


def floor(figure, at_least, unit):
    return {"figure": figure, "at_least": at_least, "unit": unit, "met": figure >= at_least}


def memory_target(runs, at_most):
    """Of the most that any of the runs took, in MB of 1,000,000 bytes."""
    return target(greatest(runs) / MB, at_most, "MB")


def machine():
    cpu = next(
        (line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "system": f"{platform.system()} {platform.release()}",
    }


def rest(patience):
    """Waits until the machine is idle, but not for ever; says what share of its time others took at last."""
    deadline = time.monotonic() + patience
    while (share := busy()) > IDLE and time.monotonic() < deadline:
        pass
    return round(share, 3)


def busy():
    """The share of all processors' time that was taken while this process slept."""
    before = processor_times()
    time.sleep(LOOK)
    taken = [now - then for now, then in zip(processor_times(), before)]
    # Idle, and idle until a disk answers.
    return 1 - sum(taken[3:5]) / (sum(taken) or 1)


def processor_times():
    """By kind, from user to steal; what guests take is counted in the first ones."""
    with open("/proc/stat") as stat:
        return [int(ticks) for ticks in stat.readline().split()[1:9]]


def save(directory, name, content):
    """Keeps a benchmark's results, with when and where they came to be."""
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    path = directory / f"{name}.json"
    path.write_text(json.dumps({"benchmark": name, "taken_at": now, **content}, indent=2) + "\n")
    print(f"{name}: {path.relative_to(host.PROJECT)}")


def say(text):
    print(text, flush=True)
