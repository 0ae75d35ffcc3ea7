"""How long a change takes from its commit at the source until it stands in a committed file, and whether memory and the
number of files stay where they are however long that goes on."""

import collections
import concurrent.futures
import itertools
import signal
import time
from pathlib import Path

import host
from bench import measure
from bench.bed import Pace

ROWS = 100_000
CHANGES_PER_SECOND = 2_000
P50, P99 = 1.5, 3.0
# What small files may come to: so many, and one for each so many bytes.
FILES, FILE_BYTES = 200, 128 << 20
# How much more memory the last quarter of a long run may take than its second one. In the first one the files that are
# merged are still small.
GROWTH = 1.1
MIB = 1 << 20
# New files are read so often, before they can be merged into larger ones.
READ_EVERY = 5
SAMPLES = 60


def run(bed, asked):
    bed.table("ledger", ROWS, keep=False)
    content = bed.context(ROWS)
    project = bed.project("ledger", mode="cdc")
    project.begin_log()
    command = project.quiet("--follow")
    child = project.start(command)
    watched = Watched(bed, child.pid, project.directory / "lake" / "public" / "ledger")
    try:
        with Pace(bed, asked.seconds, CHANGES_PER_SECOND) as pace:
            watched.until(time.monotonic() + asked.seconds + 5, asked.seconds / SAMPLES)
            pace.wait()
        if child.poll() is not None:
            raise host.Failure(f"the sync that followed ended with {child.returncode}")
        # A clean end: what it committed is then all that it read.
        child.send_signal(signal.SIGTERM)
        child.wait()
        project.catch_up(bed.hash_source("ledger"))
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        project.end_log()
    content |= watched.found(asked.seconds)
    content["command"] = measure.bare(command)
    at = content["targets"]
    measure.say(
        f"followed for {asked.seconds} s: {content['changes']:,} changes, p50 {at['p50 from commit to file']['figure']} s,"
        f" p99 {at['p99 from commit to file']['figure']} s, at most {content['most_files']} files and"
        f" {content['peak_rss_mib']} MiB"
    )
    bed.save("soak" if is_soak(asked.seconds) else "follow", content)


def is_soak(seconds):
    """Whether it went on for so long that memory and files say something."""
    return seconds > 600


class Watched:
    """What the program's files and its memory were while it followed."""

    def __init__(self, bed, pid, lake):
        self.bed, self.pid, self.lake = bed, pid, lake
        self.seen = {path.name for path in lake.glob("*.parquet")}
        self.arrived, self.waits, self.samples = [], collections.Counter(), []
        # Beside the watching, which would else see late what comes meanwhile.
        self.reader, self.reading = concurrent.futures.ThreadPoolExecutor(1), None
        self.changes = self.gone = 0
        self.most_files = self.most_allowed = 0

    def until(self, end, sample_every):
        started = time.monotonic()
        read_at, sample_at = started + READ_EVERY, started
        while (now := time.monotonic()) < end:
            paths = list(self.lake.glob("*.parquet"))
            moment = time.time()
            for path in paths:
                if path.name not in self.seen:
                    self.seen.add(path.name)
                    self.arrived.append([moment, str(path)])
            if now >= read_at:
                self.read()
                read_at = now + READ_EVERY
            if now >= sample_at:
                allowed = FILES + sum(size(path) for path in paths) // FILE_BYTES
                self.most_files = max(self.most_files, len(paths))
                self.most_allowed = max(self.most_allowed, allowed)
                self.samples.append([round(now - started), resident(self.pid), len(paths)])
                sample_at = now + sample_every
            time.sleep(0.02)
        self.read()
        self.take()

    def read(self):
        self.take()
        self.reading = self.reader.submit(self.bed.python_json, WAITS, self.arrived)
        self.arrived = []

    def take(self):
        if self.reading is None:
            return
        found = self.reading.result()
        self.gone += found["gone"]
        self.changes += found["changes"]
        self.waits.update({int(wait): count for wait, count in found["waits"].items()})

    def quantile(self, share):
        """Of the waits, in seconds."""
        passed = itertools.accumulate(self.waits[wait] for wait in sorted(self.waits))
        reached = zip(sorted(self.waits), passed)
        return next(wait for wait, count in reached if count >= share * self.waits.total()) / 100

    def found(self, seconds):
        samples = [[at, round(rss / MIB, 1), files] for at, rss, files in self.samples]
        found = {
            "seconds": seconds,
            "changes": self.changes,
            "changes_per_second": round(self.changes / seconds),
            "files_gone_before_they_were_read": self.gone,
            "most_files": self.most_files,
            "peak_rss_mib": max(rss for _, rss, _ in samples),
            "samples": samples,
            "targets": {
                "p50 from commit to file": measure.target(self.quantile(0.5), P50, "s"),
                "p99 from commit to file": measure.target(self.quantile(0.99), P99, "s"),
                "files at most": measure.target(self.most_files, self.most_allowed, "files"),
            },
        }
        if is_soak(seconds):
            told = measure.target(growth(samples), GROWTH, "×")
            found["targets"]["memory of the last quarter against the second"] = told
        return found


def growth(samples):
    """Of resident memory: the most in the last quarter, by the most in the second one."""
    quarter = max(1, len(samples) // 4)
    memory = [rss for _, rss, _ in samples]
    return round(max(memory[-quarter:]) / max(memory[quarter : 2 * quarter]), 2)


def size(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def resident(pid):
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError) as failure:
        raise host.Failure("the sync that followed has ended") from failure
    return pages * 4096


# Reads when each change was committed, by the file in which it was found and when. Files merged from others hold
# changes that were counted when they first came.
WAITS = """
import collections, json, sys
import pyarrow.parquet as pq

waits, changes, gone = collections.Counter(), 0, 0
for moment, path in json.load(sys.stdin):
    try:
        file = pq.ParquetFile(path)
        if file.metadata.metadata[b"lakeward.unit"].startswith(b"merge/"):
            continue
        times = file.read(columns=["_lw_commit_ts"]).column(0).cast("int64").to_pylist()
    except FileNotFoundError:
        gone += 1
        continue
    changes += len(times)
    waits.update(round((moment - at / 1e6) * 100) for at in times if at is not None)
print(json.dumps({"waits": waits, "changes": changes, "gone": gone}))
"""
