"""What a crash costs: a sync is killed when a part of its rows is committed, and run again."""

import json
import subprocess

import host
from bench import measure

TABLE = "trips"
SHARES = (0.1, 0.5, 0.9)
CHUNK_BYTES = 64 << 20
# A small table gets smaller chunks, so that there is something committed to kill it at.
LEAST_CHUNKS = 20
CONNECTIONS = 2


def run(bed, asked):
    expected = bed.table(TABLE, asked.rows)
    content = bed.context(asked.rows)
    project = bed.project(TABLE)
    size = int(bed.sql(f"SELECT pg_relation_size('{TABLE}')"))
    chunk = min(CHUNK_BYTES, size // LEAST_CHUNKS)
    options = ["--max-connections", str(CONNECTIONS), "--chunk-size", f"{chunk >> 10}KiB"]
    kills = [killed(bed, project, expected, share, asked.rows, options) for share in SHARES]
    largest = max(one["largest_chunk_rows"] for one in kills)
    content |= {"command": measure.bare(project.command(*options)), "kills": kills, "largest_chunk_rows": largest}
    content["targets"] = {
        f"chunks read again after a kill at {one['share']:.0%}, over {CONNECTIONS} connections": measure.target(
            one["rows_read_again"] / largest, CONNECTIONS, "chunks"
        )
        for one in kills
    }
    bed.save("resume", content)


def killed(bed, project, expected, share, rows, options):
    project.forget()
    bed.sql(f"SELECT pg_stat_reset_single_table_counters('{TABLE}'::regclass)")
    chunks = kill_at(bed, project, share * rows, options)
    committed = sum(chunks)
    # Of the resumed run this would say too much: to see that a committed chunk has not changed the server looks at its
    # rows, and sends none.
    first = bed.counted(TABLE, "seq_tup_read")
    command = project.command("--progress", "never", "--log-format", "json", *options)
    done = measure.run(command, cwd=project.directory, env=bed.environment)
    bed.check(project.directory / "lake", expected)
    finished = next(event for event in events(done.said.splitlines()) if event.get("event") == "stream_finished")
    second = finished["rows"]
    again = first + second - rows
    measure.say(f"killed at {committed / rows:.0%}: {first:,} rows read before, {second:,} after, {again:,} twice")
    return {
        "share": share,
        "rows_committed": committed,
        "largest_chunk_rows": max(chunks),
        "rows_read_before": first,
        "rows_read_after": second,
        "chunks_kept": finished["chunks_kept"],
        "rows_read_again": again,
        "rows_read_again_share": round(again / rows, 4),
        "resumed": done.to_json(),
    }


def kill_at(bed, project, wanted, options):
    """Kills a sync once so many rows are committed; says how many rows the chunks had that were."""
    command = project.command("--progress", "auto", "--log-format", "json", *options)
    child = subprocess.Popen(
        command,
        cwd=project.directory,
        env=bed.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    chunks, said = [], []
    try:
        for line in child.stderr:
            said.append(line)
            chunks += [event["rows"] for event in events([line]) if event.get("event") == "chunk_committed"]
            if sum(chunks) >= wanted:
                break
        else:
            raise host.Failure(f"the sync ended before it was killed:\n{''.join(said[-20:])}")
    finally:
        child.kill()
        child.wait()
        child.stderr.close()
    return chunks


def events(lines):
    return (json.loads(line) for line in lines if line.startswith("{"))
