"""Lakeward and its peers in turn: the same table, to Parquet with zstd."""

import os
import shutil

import host
import pythons
from bench import measure
from bench.bed import WORK
from bench.peers import contenders
from bench.peers.contenders import PEERS, reason

TABLE = "trips"
# Nothing of it may be more than of this peer.
AHEAD_OF = "connectorx"
CONNECTIONS = ("--max-connections", "2")
CHECK = (
    "all rows and all columns, by value: a numeric may have another type and scale, and a timestamp without a time zone"
    " may be one in UTC; Lakeward's by its text, exactly"
)


def run(bed, asked):
    expected = bed.table(TABLE, asked.rows, kinds=("text", "values"))
    content = bed.context(asked.rows)
    contest = Contest(bed, expected)
    # The table is in the system's cache for all of them alike.
    measure.run(bed.copy_command(TABLE), env=bed.environment)
    for number in range(1, asked.runs + 1):
        measure.say(f"round {number}: {contest.round()}")
    content["versions"] |= contest.versions
    content["measurements"] = contest.measurements()
    content["ratios"] = contest.ratios()
    content["not_measured"] = contest.missing
    content["check"] = CHECK
    content["targets"] = contest.targets()
    bed.save("peers", content)


class Contest:
    """What was measured of each, and why those are missing that are."""

    def __init__(self, bed, expected):
        self.bed, self.expected = bed, expected
        self.project = bed.project(TABLE)
        self.taken, self.commands, self.bytes, self.types = {"lakeward": []}, {}, {}, {}
        self.peers, self.versions, self.missing = {}, {}, {}
        try:
            self.python = str(pythons.peers())
        except host.Failure as failure:
            for peer in PEERS:
                self.leave_out(peer, failure)
            return
        for peer in PEERS:
            try:
                self.versions |= contenders.installed(self.python, peer.packages)
                self.commands[peer.name] = peer.command(self.python, TABLE)
                self.peers[peer.name] = peer
                self.taken[peer.name] = []
            except host.Failure as failure:
                self.leave_out(peer, failure)

    def leave_out(self, peer, failure):
        self.missing[peer.name] = reason(failure)
        measure.say(f"{peer.name} is not measured: {self.missing[peer.name]}")
        for kept in (self.taken, self.peers, self.commands):
            kept.pop(peer.name, None)

    def round(self):
        self.taken["lakeward"].append(self.project.sync(self.expected, *CONNECTIONS))
        self.bytes["lakeward"] = self.project.lake_bytes()
        for peer in list(self.peers.values()):
            try:
                self.taken[peer.name].append(self.run(peer))
            except host.Failure as failure:
                self.leave_out(peer, failure)
        last = ((name, runs[-1]) for name, runs in self.taken.items())
        return ", ".join(f"{name} {done.seconds:.2f} s, CPU {done.cpu_seconds:.2f} s" for name, done in last)

    def run(self, peer):
        """One run, measured, whose files were then found to hold the source's rows."""
        directory = WORK / "peers" / peer.name
        shutil.rmtree(directory, ignore_errors=True)
        lake = directory / "lake"
        lake.mkdir(parents=True)
        os.sync()
        environment = self.bed.environment | {"SOURCE_URL": self.bed.url()} | peer.environment
        done = measure.run(self.commands[peer.name], cwd=directory, env=environment)
        self.types[peer.name] = self.bed.check(lake, self.expected, kind="values")
        self.bytes[peer.name] = sum(path.stat().st_size for path in lake.rglob("*.parquet"))
        shutil.rmtree(directory)
        return done

    def measurements(self):
        commands = {"lakeward": self.project.command(*CONNECTIONS)} | self.commands
        found = {}
        for name, runs in self.taken.items():
            found[name] = measure.measurement(runs, commands[name], parquet_bytes=self.bytes[name])
            if name in self.peers:
                peer = self.peers[name]
                found[name] |= {"settings": peer.settings, "environment": peer.environment, "types": self.types[name]}
        return found

    def targets(self):
        """What of Lakeward's is held against the one peer, where it was measured."""
        named = zip(measure.FIGURES, ("wall", "CPU", "peak memory"))
        found = self.ratios().get(AHEAD_OF, {})
        return {f"{word} against ConnectorX": measure.target(found[what]["median"], 1, "×") for what, word in named if found}

    def ratios(self):
        """Of Lakeward's figures to each peer's."""
        return {
            name: {
                **measure.ratios(self.taken["lakeward"], self.taken[name]),
                "parquet_bytes": round(self.bytes["lakeward"] / self.bytes[name], 3),
            }
            for name in self.peers
        }
