"""A real PostgreSQL server for tests: in a folder of its own, on a free port, gone when the tests end."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

USER = "gateway"
PASSWORD = "p@ss:w/rd%41&?#"
"""What a URL has to escape."""


def find_programs() -> Path | None:
    """The folder with initdb and postgres, on the PATH or where Debian keeps it; None if not installed."""
    if (found := shutil.which("initdb")) and (folder := Path(found).resolve().parent / "postgres").exists():
        return folder.parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]))
    return versions[-1].parent if versions else None


class PostgresServer:
    """A server that can be stopped, killed, frozen and started again. It ends with this process."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = (self._folder / "log").open("wb")
        # initdb and postgres refuse to run as root.
        self._user = ("postgres" if _exists("postgres") else "nobody") if os.getuid() == 0 else None
        if self._user:
            shutil.chown(self._folder, self._user)
        password_file = self._folder / "password"
        password_file.write_text(PASSWORD)
        password_file.chmod(0o644)
        initdb = [str(programs / "initdb"), "-D", str(self._data), "-U", USER, "--pwfile", str(password_file)]
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        run = subprocess.run([*self._as_user(), *initdb, *options], capture_output=True, check=False)
        assert run.returncode == 0, run.stderr.decode()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        options = {
            "port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self._folder,
            "fsync": "off", "shared_buffers": "16MB", "max_connections": "60",
        }  # fmt: skip
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        command = [*self._as_user(), str(self._programs / "postgres"), "-D", str(self._data), *settings]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self._folder / "log").read_text(errors="replace")
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends all sessions first; SIGQUIT does not, and leaves a crash to recover from."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait()

    def freeze(self) -> None:
        """Connections are accepted (by the kernel) and never answered."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    def url(self, database: str) -> str:
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def new_database(self, options: str = "") -> str:
        """Returns its name."""
        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 {options}".encode())
        return name

    def close(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self.thaw()
            self.stop()
        self._log.close()
        shutil.rmtree(self._folder)

    def _as_user(self) -> list[str]:
        """Run the rest as another user; it ends when this process does, however that ends."""
        user = [f"--reuid={self._user}", "--clear-groups"] if self._user else []
        return ["setpriv", *user, "--pdeathsig=INT"]

    def _send(self, what: signal.Signals) -> None:
        for pid in self._pids():
            with suppress(ProcessLookupError):  # sessions end at any time
                os.kill(pid, what)

    def _pids(self) -> list[int]:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [self._process.pid, *map(int, children.split())]


def _exists(user: str) -> bool:
    return any(entry.pw_name == user for entry in pwd.getpwall())


@contextmanager
def started_or_skipped() -> Iterator[PostgresServer]:
    """For fixtures. Where there is no PostgreSQL, their tests are skipped; in CI they fail."""
    programs = find_programs()
    if programs is None:
        reason = "PostgreSQL is not installed: apt-get install postgresql"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with closing(PostgresServer(programs)) as server:
        yield server
