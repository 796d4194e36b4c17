"""What is attacked: the server's own process, with an interpreter of any flags, and the bytes it answers."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.serving.conftest import BASE_MODEL, agent

AGENTS = ("walnut", "hazel")
"""Words that stand in no message but as these names."""
GIVE_UP_S = 60.0
"""For a server that hangs, on a machine that is busy."""


@dataclass(frozen=True)
class Target:
    port: int
    admin_port: int
    state: Path
    """The server's folder of state."""
    process: subprocess.Popen[bytes]
    logs: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    def connect(self, port: int | None = None) -> Connection:
        return Connection(socket.create_connection(("127.0.0.1", port or self.port), timeout=GIVE_UP_S))

    def check_is_well(self) -> None:
        """It serves, and nothing went wrong inside of it so far."""
        assert httpx.get(f"{self.url}/live", trust_env=False).json() == {"status": "alive"}
        logs = self.logs.read_text()
        assert "unhandled error" not in logs
        assert "Traceback" not in logs


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"

    @property
    def code(self) -> str | None:
        """Of an error; every one has a body of the same shape."""
        if self.status < 400:
            return None
        error = json.loads(self.body)["error"]
        assert error["request_id"] == self.headers["x-request-id"]
        return str(error["code"])


@dataclass
class Connection:
    socket: socket.socket
    _unread: bytes = field(default=b"", init=False)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Whether the other side still listens."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def answer(self) -> Answer | None:
        """The next one; None if the connection was closed instead."""
        while b"\r\n\r\n" not in self._unread:
            if not self._receive():
                assert not self._unread, "an answer that breaks off"
                return None
        head, _, rest = self._unread.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        found = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", first)
        assert found, first
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        n_bytes = int(headers.get("content-length", 0))
        self._unread = rest
        while len(self._unread) < n_bytes and self._receive():
            pass
        body, self._unread = self._unread[:n_bytes], self._unread[n_bytes:]
        assert len(body) == n_bytes, "a body that breaks off"
        return Answer(int(found[1]), headers, body)

    def answers(self) -> list[Answer]:
        """All that come until the connection is closed."""
        return list(iter(self.answer, None))

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(65_536)
        except ConnectionResetError:
            return False
        self._unread += data
        return bool(data)


@contextmanager
def started(folder: Path, *flags: str, **sections: Any) -> Iterator[Target]:
    """A server with AGENTS and the administrators' port, in a process of its own."""
    for seed, name in enumerate(AGENTS):
        agent(name, seed=seed, folder=folder / "fleet")
    config = {
        "api": {"admin_port": 0} | sections.pop("api", {}),
        "model": {"engine": "fake", "base_model": BASE_MODEL},
        "adapters": {"path": str(folder / "fleet"), "max_lora_rank": 64},
        "storage": {"path": str(folder / "state")},
        **sections,
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(config))
    logs = folder / "logs"
    options = ["-c", str(folder / "settings.yaml"), "--host", "127.0.0.1", "--port", "0"]
    command = [sys.executable, *flags, "-m", "adaptive_lora", "serve", *options]
    with logs.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        ports = {}
        while len(ports) < 2:
            assert process.poll() is None, logs.read_text()
            for found in re.finditer(
                r'"listening( for administrators)? on http://[^":]+:(\d+)"', logs.read_text()
            ):
                ports["admin" if found[1] else "public"] = int(found[2])
        target = Target(ports["public"], ports["admin"], folder / "state", process, logs)
        while httpx.get(f"{target.url}/ready", trust_env=False).status_code != 200:
            assert process.poll() is None, logs.read_text()
        yield target
    finally:
        process.terminate()
        process.wait(timeout=GIVE_UP_S)
