"""Forms that are no uploads, and uploads that are too much: refused, and nothing of them is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from adaptive_lora.serving.batches.desk import MAX_UPLOADS_OF_A_TENANT
from tests.serving.conftest import Serve, until

MAX_BYTES = 5_000
FORM = {"content-type": "multipart/form-data; boundary=xx"}


def part(name: str, content: str, *, filename: str | None = None, boundary: str = "xx") -> str:
    file = "" if filename is None else f'; filename="{filename}"'
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n{content}\r\n'


PURPOSE = part("purpose", "batch")
FILE = part("file", "{}", filename="a.jsonl")
END = "--xx--\r\n"


@pytest.fixture
async def http(serve: Serve, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """It must have no files at the end, whatever was sent to it."""
    limits = {"max_file_bytes": MAX_BYTES}
    async with serve(batches=limits, storage={"path": str(tmp_path)}) as client:
        yield client
        assert (await client.get("/v1/files")).json()["data"] == []
    assert list((tmp_path / "files").iterdir()) == []


async def post(http: httpx.AsyncClient, body: str | bytes, headers: dict[str, str] = FORM) -> httpx.Response:
    return await http.post("/v1/files", content=body, headers=headers)


async def test_the_parts_come_in_any_order_and_what_follows_is_nothing(http: httpx.AsyncClient) -> None:
    for body in (FILE + PURPOSE + END, PURPOSE + FILE + END, PURPOSE + FILE + END + "after"):
        answer = await post(http, body)
        assert (answer.status_code, answer.json()["bytes"]) == (200, 2), answer.text
        await http.delete(f"/v1/files/{answer.json()['id']}")


async def test_a_file_that_looks_like_a_boundary_is_kept_as_it_is(http: httpx.AsyncClient) -> None:
    content = "\r\n--x\r\n--xy\r\n-\r\n--"
    answer = await post(http, PURPOSE + part("file", content, filename="a") + END)
    file_id = answer.json()["id"]
    assert (await http.get(f"/v1/files/{file_id}/content")).text == content
    await http.delete(f"/v1/files/{file_id}")


NO_UPLOADS = [
    ("", "ends before its last boundary"),
    ("nothing of the kind", "cannot be read"),
    ("preamble\r\n" + PURPOSE + FILE + END, "cannot be read"),
    (PURPOSE + FILE, "ends before its last boundary"),
    (PURPOSE + FILE[:-10], "ends before its last boundary"),
    ("--xx\r\nno header\r\n\r\n" + END, "cannot be read"),
    ("--xx\r\n" + "A: b\r\n" * 100 + "\r\n" + END, "cannot be read"),
    ("--xx\r\nA: " + "b" * 10_000 + "\r\n\r\n" + END, "cannot be read"),
    (PURPOSE + END, "no file of this name"),
    (PURPOSE + part("file", "{}") + END, "with a file's name"),
    (PURPOSE + part("other", "{}", filename="a") + END, "with a file's name"),
    (PURPOSE + FILE + FILE + END, "two parts of one name"),
    (PURPOSE + PURPOSE + FILE + END, "two parts of one name"),
    (FILE + END, "purpose"),
    (part("purpose", "fine-tune") + FILE + END, "purpose"),
    (part("purpose", "x" * 2_000) + FILE + END, "more than 1024 bytes"),
    (PURPOSE + part("file", "", filename="a") + END, "it is empty"),
    (PURPOSE + FILE + part("other", "x") + END, "not known"),
    ("".join(part(f"f{i}", "x") for i in range(9)) + END, "more than 8 parts"),
    ("--xx\r\nContent-Type: text/plain\r\n\r\nx\r\n" + END, "has no name"),
    (PURPOSE + part("file", "{}", filename="../../etc/passwd") + END, "neither / nor"),
    (PURPOSE + part("file", "{}", filename="") + END, "1 to 255"),
    (PURPOSE + part("file", "{}", filename="a" * 256) + END, "1 to 255"),
    (PURPOSE + part("file", "{}", filename="a\x1b[2J") + END, "printable"),
    (PURPOSE + part("expires_after[seconds]", "7200") + FILE + END, "expires_after"),
    (PURPOSE + part("expires_after[anchor]", "now") + FILE + END, "expires_after"),
]
"""Forms, and what is said of them."""


async def test_what_is_no_upload(http: httpx.AsyncClient) -> None:
    for body, message in NO_UPLOADS:
        answer = await post(http, body)
        assert answer.status_code == 400, (body, answer.text)
        assert message in answer.json()["error"]["message"], body


async def test_another_type(http: httpx.AsyncClient) -> None:
    for content_type in (
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "text/plain",
        "",
        "multipart/x",
    ):
        answer = await post(http, FILE + END, {"content-type": content_type})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


async def test_a_name_that_is_not_utf_8(http: httpx.AsyncClient) -> None:
    answer = await post(http, PURPOSE.encode() + FILE.encode().replace(b"a.jsonl", b"\xff") + END.encode())
    assert (answer.status_code, "UTF-8" in answer.text) == (400, True)


@pytest.mark.parametrize("n_more", [1, 100_000])
@pytest.mark.parametrize("is_declared", [True, False])
async def test_a_file_that_is_too_large(http: httpx.AsyncClient, n_more: int, is_declared: bool) -> None:
    body = (PURPOSE + part("file", "x" * (MAX_BYTES + n_more), filename="a") + END).encode()
    headers = FORM | ({} if is_declared else {"transfer-encoding": "chunked"})
    n_read = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal n_read
        for start in range(0, len(body), 1_000):
            n_read += 1_000
            yield body[start : start + 1_000]

    answer = await http.post("/v1/files", content=body if is_declared else pieces(), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


async def test_what_lies_around_the_file_is_bounded_too(http: httpx.AsyncClient) -> None:
    answer = await post(http, PURPOSE + FILE + END + "x" * 200_000)
    assert answer.status_code == 413


async def test_only_so_many_uploads_at_once(http: httpx.AsyncClient) -> None:
    """Of one tenant: each may lie on the disk before it is known whether there is room for it."""
    arrives = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield (PURPOSE + FILE[:-4]).encode()
        await arrives.wait()

    begun = [
        asyncio.create_task(http.post("/v1/files", content=slow(), headers=FORM))
        for _ in range(MAX_UPLOADS_OF_A_TENANT)
    ]
    desk = http._transport.app.state.desk  # type: ignore[attr-defined]
    await until(lambda: desk._uploads.total() == MAX_UPLOADS_OF_A_TENANT)
    refused = await post(http, PURPOSE + FILE + END)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    arrives.set()
    assert {(await task).status_code for task in begun} == {400}
    answer = await post(http, PURPOSE + FILE + END)
    assert answer.status_code == 200
    await http.delete(f"/v1/files/{answer.json()['id']}")


async def test_a_sender_that_goes_away_leaves_nothing(http: httpx.AsyncClient) -> None:
    sent: list[dict[str, Any]] = []
    pieces = [{"type": "http.request", "body": (PURPOSE + FILE[:-4]).encode(), "more_body": True}]

    async def receive() -> dict[str, Any]:
        return pieces.pop(0) if pieces else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/v1/files", "raw_path": b"/v1/files", "query_string": b"", "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", FORM["content-type"].encode())],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    app = http._transport.app  # type: ignore[attr-defined]
    await app(scope, receive, send)
    metrics = (await http.get("/metrics")).text
    assert 'code="499"' in metrics
    assert sent == [] or sent[0]["status"] == 499
