"""A Hugging Face hub of our own: the few endpoints that a download asks, over real HTTP, with a CDN beside
it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants

GOOD_TOKEN = "hf_good"
LFS_BYTES = 1_000
"""From this size on a file is served by the CDN, as large files are."""


@dataclass
class Repo:
    files: Mapping[str, bytes]
    revisions: Mapping[str, str] = field(default_factory=dict)
    """Commit by branch or tag; main is always there."""
    gated: bool = False
    private: bool = False
    commit: str = "a" * 40


def use_endpoint(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does, which is read when huggingface_hub is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )


class FakeHub:
    """Serves `repos` by name. `cdn_url` may be set to a proxy in front of the CDN."""

    def __init__(self, repos: Mapping[str, Repo]) -> None:
        self.repos = repos
        self.leaks: list[str] = []
        """Tokens that were sent to the CDN, where they have no business."""
        self.empty: set[str] = set()
        """Files that are answered with 200 and no content, whatever range was asked for."""
        self.seen: list[str] = []
        self._hub, self.url = _server(self._answer_hub)
        self._cdn, self.cdn_url = _server(self._answer_cdn)
        self._threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            for server in (self._hub, self._cdn)
        ]

    def __enter__(self) -> FakeHub:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._hub, self._cdn):
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()

    def _answer_hub(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path).path
        self.seen.append(f"{path} {request.headers.get('Range', '')}".strip())
        parts = path.strip("/").split("/")
        is_metadata = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if is_metadata else parts[:2])
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        repo = self.repos.get(name)
        if repo is None or (repo.private and token != GOOD_TOKEN):
            return _send(request, 401, {"X-Error-Code": "RepoNotFound"}, b"")
        known = {"main": repo.commit, repo.commit: repo.commit, **repo.revisions}
        revision = (parts[5] if len(parts) > 5 else "main") if is_metadata else parts[3]
        if revision not in known:
            return _send(request, 404, {"X-Error-Code": "RevisionNotFound"}, b"")
        if is_metadata:
            return _send(request, 200, {}, json.dumps(self._metadata(name, repo, known[revision])).encode())
        if repo.gated and token != GOOD_TOKEN:
            return _send(request, 403 if token else 401, {"X-Error-Code": "GatedRepo"}, b"")
        file = "/".join(parts[4:])
        if file not in repo.files:
            return _send(request, 404, {"X-Error-Code": "EntryNotFound"}, b"")
        if file in self.empty:
            return _send(request, 200, {}, b"")
        if len(repo.files[file]) >= LFS_BYTES:
            return _send(request, 302, {"Location": f"{self.cdn_url}/{name}/{file}?signature=secret"}, b"")
        return _send_range(request, repo.files[file])

    def _answer_cdn(self, request: BaseHTTPRequestHandler) -> None:
        if "Authorization" in request.headers:
            self.leaks.append(request.headers["Authorization"])
        organisation, name, *file = urlsplit(request.path).path.strip("/").split("/")
        _send_range(request, self.repos[f"{organisation}/{name}"].files["/".join(file)])

    @staticmethod
    def _metadata(name: str, repo: Repo, commit: str) -> dict[str, Any]:
        siblings = []
        for path, content in repo.files.items():
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            sibling: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": blob}
            if len(content) >= LFS_BYTES:
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
            siblings.append(sibling)
        return {"id": name, "sha": commit, "siblings": siblings, "private": repo.private, "tags": []}


def _server(answer: Callable[[BaseHTTPRequestHandler], None]) -> tuple[ThreadingHTTPServer, str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            """Silent."""

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server, f"http://127.0.0.1:{server.server_port}"


def _send(request: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], body: bytes) -> None:
    request.send_response(status)
    for key, value in {"Content-Length": str(len(body)), **headers}.items():
        request.send_header(key, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def _send_range(request: BaseHTTPRequestHandler, content: bytes) -> None:
    ranges = request.headers.get("Range", "").removeprefix("bytes=")
    if not ranges:
        return _send(request, 200, {}, content)
    start, end = (int(number) for number in ranges.split("-"))
    told = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
    return _send(request, 206, told, content[start : end + 1])
