"""Runs the scripts beside it in processes forked from this one, which has imported the engines already: that takes
longer than most of what they are asked.

Prints the path of the socket on which it waits for call.py, and ends when its standard input does.
"""

import os
import runpy
import select
import shutil
import signal
import socket
import sys
import tempfile
import traceback

import lake  # noqa: F401, imported for those forked from here


def main():
    directory = tempfile.mkdtemp(prefix="lakeward-python-")
    try:
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.bind(os.path.join(directory, "calls"))
            waiting.listen(64)
            print(waiting.getsockname(), flush=True)
            # Nobody waits for those forked: they say themselves how they ended.
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            while sys.stdin not in select.select([waiting, sys.stdin], [], [])[0]:
                call = waiting.accept()[0]
                if os.fork() == 0:
                    waiting.close()
                    serve(call)
                call.close()
    finally:
        shutil.rmtree(directory)


def serve(call):
    """Runs a script with the caller's streams, tells its exit code, and ends this process."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        script, descriptors, _, _ = socket.recv_fds(call, 1 << 16, 3)
        for standard, descriptor in enumerate(descriptors):
            os.dup2(descriptor, standard)
            os.close(descriptor)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")
        code = run(script.decode())
        sys.stdout.flush()
        sys.stderr.flush()
        call.sendall(bytes([code]))
    finally:
        os._exit(code)


def run(script):
    """The exit code that the script would have had by itself."""
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except Exception:
        traceback.print_exc()
        return 1
    return 0


main()
