"""A real PostgreSQL for the tests: started in a temporary directory, on loopback, ended by its process number."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

PASSWORD = "hunter2 and/or @more"
_PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/lib/postgresql/15/bin", "/usr/sbin"])


def require(program):
    """The path of a program that .ci/run installs: skipped without it, failed where services are promised."""
    path = shutil.which(program, path=_PLACES)
    if path is None:
        message = f"{program} is missing; .ci/run says which Debian package has it"
        if os.environ.get("TTQ_REQUIRE_SERVICES") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Postgres:
    """A server of its own; PostgreSQL refuses to run as root, so there it runs as Debian's user postgres."""

    def __init__(self, folder):
        self.folder, self.port, self.process = Path(folder), free_port(), None
        self._user = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}

    def create(self):
        initdb = require("initdb")
        word = self.folder / "password"
        word.write_text(PASSWORD)
        if self._user:
            shutil.chown(self.folder, "postgres", "postgres")
            shutil.chown(word, "postgres", "postgres")
        command = [initdb, "-D", "data", "-U", "ttq", "--pwfile=password", "--auth-host=scram-sha-256", "-E", "UTF8"]
        subprocess.run(
            [*command, "--auth-local=trust", "--no-sync", "--locale=C"],
            check=True, capture_output=True, cwd=self.folder, **self._user,
        )  # fmt: skip

    def start(self, address="127.0.0.1", network=None):
        """Starts it, in a network namespace if one is named, and waits until it takes connections."""
        settings = {
            "listen_addresses": address, "port": self.port, "unix_socket_directories": self.folder, "fsync": "off",
        }  # fmt: skip
        given = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        prefix, user = [], self._user
        if network is not None:
            become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
            prefix, user = [require("ip"), "netns", "exec", network, *become], {}
        with open(self.folder / "log", "a") as log:
            self.process = subprocess.Popen(
                [*prefix, require("postgres"), "-D", "data", *given], cwd=self.folder, stdout=log, stderr=log, **user
            )
        ready = [require("pg_isready"), "-q", "-h", str(self.folder), "-p", str(self.port), "-t", "1"]
        for _ in range(200):
            if subprocess.run(ready, check=False).returncode == 0:
                return
            assert self.process.poll() is None, (self.folder / "log").read_text()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self):
        """Ends it at once, as a shutdown of its machine would: sessions are cut off, nothing committed is lost."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)

    def url(self, host="127.0.0.1", password=PASSWORD):
        from sqlalchemy.engine import URL

        url = URL.create("postgresql", "ttq", password, host, self.port, "postgres")
        return url.render_as_string(hide_password=False)

    @property
    def socket_url(self):
        """By the socket in the file system, which other network namespaces see as well."""
        return f"postgresql://ttq@/postgres?host={self.folder}&port={self.port}"


@contextlib.contextmanager
def postgres_server():
    with tempfile.TemporaryDirectory(prefix="ttq-pg-") as folder:
        server = Postgres(folder)
        server.create()
        server.start()
        try:
            yield server
        finally:
            if server.process.poll() is None:
                server.stop()


def wait_until(condition, process, pause=0.1):
    """Until it holds; a machine that starts may take its time, one that died is told of."""
    until = time.monotonic() + 120
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(pause)
    return found
