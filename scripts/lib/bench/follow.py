"""How long a change takes from its commit at the source until it stands in a committed file, and whether memory and the
number of files stay where they are however long that goes on."""

import collections
import concurrent.futures
import itertools
import os
import shutil
import signal
import statistics
import time

import host
from bench import measure
from bench.bed import Pace

ROWS = 100_000
CHANGES_PER_SECOND = 2_000
# Of those that are asked for some come late or not at all.
ASKED = 2_200
P50, P99 = 1.5, 3.0
# What small files may come to: so many, and one for each so many bytes.
FILES, FILE_BYTES = 200, 128 << 20
# How much more memory the last quarter of a long run may take than its second one, in the median of what each minute took
# at most. In the first quarter the files that are merged are still small; the merges themselves are a few minutes' peaks.
GROWTH = 1.1
LEVEL = "memory of the last quarter against the second"
MIB = 1 << 20
READ_EVERY = 5
SAMPLES = 60
# How long the last changes may take after the load has ended, before they are given up.
PATIENCE = 60


def run(bed, asked):
    follow(bed, "follow", asked.seconds)


def soak(bed, asked):
    """For so long that memory and files say something."""
    follow(bed, "soak", asked.soak)


def follow(bed, name, seconds):
    bed.table("ledger", ROWS, keep=False)
    content = bed.context(ROWS)
    project = bed.project("ledger", mode="cdc")
    project.begin_log()
    command = project.quiet("--follow")
    child = project.start(command)
    watched = Watched(project, child.pid, seconds / SAMPLES)
    try:
        with Pace(bed, seconds, ASKED) as pace:
            watched.until(time.monotonic() + seconds + READ_EVERY)
            pace.wait()
        made = pace.told(CHANGES_PER_SECOND)
        watched.await_all(made["changes"])
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
    targets = made["targets"] | watched.targets()
    if name == "soak":
        targets[LEVEL] = measure.target(growth(watched.samples), GROWTH, "×")
    content |= made | {"seconds": seconds, "targets": targets, "command": measure.bare(command)}
    content |= {"most_files": watched.most_files, "samples": watched.samples}
    content["peak_rss_mib"] = max(rss for _, rss, _ in watched.samples)
    content["median_rss_mib"] = statistics.median(rss for _, rss, _ in watched.samples)
    p50, p99 = (targets[f"{part} from commit to file"]["figure"] for part in ("p50", "p99"))
    measure.say(
        f"followed for {seconds} s: {content['changes']:,} changes, p50 {p50} s, p99 {p99} s, at most"
        f" {content['most_files']} files and {content['peak_rss_mib']} MiB"
    )
    bed.save(name, content)


class Watched:
    """What the program's files and its memory were while it followed."""

    def __init__(self, project, pid, sample_every):
        self.bed, self.pid, self.sample_every = project.bed, pid, sample_every
        self.lake = project.directory / "lake" / "public" / project.name
        # A file may be merged into a larger one before it is read: until then it has a second name here.
        self.kept = project.directory / "seen"
        shutil.rmtree(self.kept, ignore_errors=True)
        self.kept.mkdir()
        self.seen = {path.name for path in self.lake.glob("*.parquet")}
        self.arrived, self.waits, self.samples = [], collections.Counter(), []
        # Beside the watching, which would else see late what comes meanwhile.
        self.reader, self.reading = concurrent.futures.ThreadPoolExecutor(1), None
        self.most_files = self.most_allowed = self.most_resident = self.gone = 0
        self.started = self.sample_at = time.monotonic()

    def until(self, end):
        read_at = time.monotonic() + READ_EVERY
        while (now := time.monotonic()) < end:
            paths = list(self.lake.glob("*.parquet"))
            moment = time.time()
            for path in paths:
                if path.name not in self.seen:
                    self.keep(path, moment)
            if now >= read_at:
                self.read()
                read_at = now + READ_EVERY
            # Looked at now and then alone, what a merge takes for a second would be seen or not by chance.
            self.most_resident = max(self.most_resident, resident(self.pid))
            if now >= self.sample_at:
                self.sample(now, paths)
            time.sleep(0.02)
        self.read()
        self.take()

    def keep(self, path, moment):
        self.seen.add(path.name)
        try:
            os.link(path, self.kept / path.name)
            self.arrived.append([moment, str(self.kept / path.name)])
        except FileNotFoundError:
            self.gone += 1

    def sample(self, now, paths):
        allowed = FILES + sum(size(path) for path in paths) // FILE_BYTES
        self.most_files = max(self.most_files, len(paths))
        self.most_allowed = max(self.most_allowed, allowed)
        self.samples.append([round(now - self.started), round(self.most_resident / MIB, 1), len(paths)])
        self.most_resident = 0
        self.sample_at = now + self.sample_every

    def await_all(self, changes):
        """Goes on until all changes were found; fails where that does not happen."""
        deadline = time.monotonic() + PATIENCE
        while self.waits.total() < changes and not self.gone and time.monotonic() < deadline:
            self.until(time.monotonic() + 1)
        if self.gone or self.waits.total() != changes:
            raise host.Failure(
                f"{changes:,} changes were made and {self.waits.total():,} found in files that came; {self.gone} files"
                " were gone as soon as they were seen: how long changes took is not known"
            )

    def read(self):
        self.take()
        self.reading = self.reader.submit(self.bed.python_json, WAITS, self.arrived)
        self.arrived = []

    def take(self):
        if self.reading is None:
            return
        found = self.reading.result()
        self.waits.update({int(wait): count for wait, count in found.items()})

    def quantile(self, share):
        """Of the waits, in seconds."""
        passed = itertools.accumulate(self.waits[wait] for wait in sorted(self.waits))
        reached = zip(sorted(self.waits), passed)
        return next(wait for wait, count in reached if count >= share * self.waits.total()) / 100

    def targets(self):
        return {
            "p50 from commit to file": measure.target(self.quantile(0.5), P50, "s"),
            "p99 from commit to file": measure.target(self.quantile(0.99), P99, "s"),
            "files at most": measure.target(self.most_files, self.most_allowed, "files"),
        }


def growth(samples):
    """Of resident memory: the median of the last quarter, by that of the second one."""
    quarter = max(1, len(samples) // 4)
    memory = [rss for _, rss, _ in samples]
    return statistics.median(memory[-quarter:]) / statistics.median(memory[quarter : 2 * quarter])


def size(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def resident(pid):
    found = measure.resident(pid)
    if not found:
        raise host.Failure("the sync that followed has ended")
    return found


# Reads how long each change took from its commit until its file came, in hundredths of a second, and removes the files.
# Those merged from others hold changes that were counted when they first came.
WAITS = """
import collections, json, os, sys
import pyarrow.parquet as pq

waits = collections.Counter()
for moment, path in json.load(sys.stdin):
    file = pq.ParquetFile(path)
    os.remove(path)
    if not file.metadata.metadata[b"lakeward.unit"].startswith(b"merge/"):
        times = file.read(columns=["_lw_commit_ts"]).column(0).cast("int64").to_pylist()
        waits.update(round((moment - at / 1e6) * 100) for at in times)
print(json.dumps(waits))
"""
