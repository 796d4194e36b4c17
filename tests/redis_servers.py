"""Real Redis servers and Sentinels for tests: on free ports, gone when the tests end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

PASSWORD = "p@ss:w/rd%41&?#"
"""What a URL has to escape."""
USER = "gateway"


def skip_without(program: str) -> None:
    """Skip where the program is not installed; on CI, fail."""
    if shutil.which(program) is None:
        reason = f"{program} is not installed: apt-get install redis-server redis-sentinel"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


class RedisServer:
    """A server that can be stopped, killed, frozen and started again. It ends with this process."""

    def __init__(self, *arguments: str, program: str = "redis-server", config: Sequence[str] = ()) -> None:
        """`config` are lines of its file, `arguments` of its command line."""
        self._program = program
        self._folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        lines = ["bind 127.0.0.1", f"port {self.port}", f"dir {self._folder}", *config]
        self._config = self._folder / "redis.conf"
        self._config.write_text("\n".join(lines) + "\n")
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        command = ["setpriv", "--pdeathsig=KILL", self._program, str(self._config), *self._arguments]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, (self._folder / "log").read_text(errors="replace")
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait()

    def freeze(self) -> None:
        """Connections are accepted (by the kernel) and never answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)

    def close(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self.stop(signal.SIGKILL)
        shutil.rmtree(self._folder)


def plain_server() -> RedisServer:
    """Nothing on disk."""
    return RedisServer("--save", "", "--appendonly", "no")


def encrypted_server(folder: Path) -> tuple[RedisServer, str, Path]:
    """A server with TLS, and `USER`, who may touch our keys only; the URL; the certificate that signs its
    own."""
    certificate, key = folder / "server.pem", folder / "server.key"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        tls_port = probe.getsockname()[1]
    rules = "~adaptive-lora:* +@read +@write +@scripting +time +select"
    acl = folder / "users.acl"
    acl.write_text(f"user default off\nuser {USER} on >{PASSWORD} {rules}\n")
    server = RedisServer(
        config=[
            'save ""',
            f"tls-port {tls_port}",
            f"tls-cert-file {certificate}",
            f"tls-key-file {key}",
            "tls-auth-clients no",
            f"aclfile {acl}",
        ]
    )
    return server, f"rediss://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{tls_port}/2", certificate


class SentinelGroup:
    """A primary, a replica and three Sentinels, which know the primary by `name` and miss it after half a
    second."""

    name = "gateways"

    def __init__(self) -> None:
        self.primary = plain_server()
        self.replica = RedisServer("--save", "", "--replicaof", "127.0.0.1", str(self.primary.port))
        self.sentinels = [
            RedisServer(
                "--sentinel",
                config=[
                    f"sentinel monitor {self.name} 127.0.0.1 {self.primary.port} 2",
                    f"sentinel down-after-milliseconds {self.name} 500",
                    f"sentinel failover-timeout {self.name} 3000",
                ],
            )
            for _ in range(3)
        ]
        client = self.sentinels[0].client()
        while True:
            state = client.sentinel_master(self.name)
            if state["num-slaves"] == 1 and state["num-other-sentinels"] == 2:
                break
            time.sleep(0.05)
        client.close()

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)

    def close(self) -> None:
        for server in (*self.sentinels, self.replica, self.primary):
            server.close()


def a_server() -> Iterator[RedisServer]:
    """For a fixture."""
    skip_without("redis-server")
    server = plain_server()
    yield server
    server.close()
