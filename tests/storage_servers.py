"""Servers that storage is tested against: S3 by moto in a process of its own, and a proxy that makes it
fail."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

BUCKET = "bucket"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
"""Environment of whoever asks the server, beside AWS_ENDPOINT_URL."""

_S3_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until whoever started it is gone
"""


@contextmanager
def s3_server() -> Iterator[str]:
    """The URL of an S3 server that has one empty bucket, `BUCKET`."""
    command = [sys.executable, "-W", "ignore", "-c", _S3_SERVER]
    pipe, log = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("PUT", f"/{BUCKET}")
        assert connection.getresponse().status == 200
        connection.close()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.stdin.close()


Fault = Literal["500", "503", "403", "slow", "hang", "refuse", "cut", "truncate", "flip"]
"""An error's status; an answer after a second, or after a minute; the connection closed before the answer, or
in the middle of its body; half a body that claims to be whole; or one with a changed byte."""


class FaultyProxy:
    """Passes requests on to `target`; the next ones that match go wrong as told."""

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target)
        self.faults: deque[Fault] = deque()
        self.method, self.part = "", ""
        self.seen: list[tuple[str, str, str]] = []
        """(method, path, Range) of every request."""
        self.stopping = threading.Event()
        proxy = self

        class Handler(_Handler):
            def do_GET(self) -> None:
                proxy.answer(self)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def fail(self, *faults: Fault, method: str = "", part: str = "") -> None:
        """Let the next requests with this method, and `part` in their path, go wrong."""
        self.seen.clear()
        self.faults = deque(faults)
        self.method, self.part = method, part

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.seen.append((request.command, request.path, request.headers.get("Range", "")))
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        matches = request.command.startswith(self.method) and self.part in request.path
        fault = self.faults.popleft() if matches and self.faults else None
        if fault == "slow":
            time.sleep(1)
        elif fault == "hang":
            self.stopping.wait(60)
        if fault in ("refuse", "hang"):
            request.close_connection = True
            return
        if fault in ("500", "503", "403"):
            self._send(request, int(fault), {}, b"")
            return
        connection = http.client.HTTPConnection(self.target.hostname or "", self.target.port or 80)
        connection.request(request.command, request.path, body, dict(request.headers))
        response = connection.getresponse()
        content = response.read()
        connection.close()
        headers = {
            key: value
            for key, value in response.getheaders()
            if key.lower() not in ("transfer-encoding", "connection", "server", "date")
        }
        if fault == "flip" and content:
            content = bytes([content[0] ^ 1]) + content[1:]
        if fault == "truncate":
            content = content[: len(content) // 2]
        if request.command != "HEAD":
            headers["Content-Length"] = str(len(content))
        if fault == "cut":
            content = content[: len(content) // 2]
            request.close_connection = True
        self._send(request, response.status, headers, content)

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
        request.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(body)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True  # the caller has given up, as it should
