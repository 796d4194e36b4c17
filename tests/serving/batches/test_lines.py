"""Input files that callers get wrong, by mistake or on purpose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adaptive_lora.serving.batches.lines import MAX_ERRORS, InputFile, Refused
from tests.serving.batches.conftest import CHAT, line

MAX_LINE_BYTES = 1_000
MAX_REQUESTS = 50


def opened(path: Path, content: bytes) -> InputFile:
    path.write_bytes(content)
    return InputFile(path, CHAT, max_requests=MAX_REQUESTS, max_line_bytes=MAX_LINE_BYTES)


def errors(path: Path, content: bytes) -> list[tuple[str, int | None]]:
    """Code and line of each."""
    with pytest.raises(Refused) as caught:
        opened(path, content)
    return [(error["code"], error["line"]) for error in caught.value.errors]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "in.jsonl"


def test_each_request_is_read_again_where_it_is(path: Path) -> None:
    lines = [line(f"é-{i}") for i in range(4)]
    content = f"\n{lines[0]}\r\n \n{lines[1]}\n\n\n{lines[2]}\n{lines[3]}".encode()
    with opened(path, content) as source:
        assert len(source) == 4
        for i in (3, 0, 2, 1):
            read = source.read(i)
            assert read.custom_id == f"é-{i}"
            assert json.loads(bytes(read.body)) == json.loads(lines[i])["body"]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ("{", "invalid_json_line"),
        ("[]", "invalid_request"),
        ("null", "invalid_request"),
        (line("a") + line("b"), "invalid_json_line"),
        (b"\xff\xfe", "invalid_json_line"),
        (b"\xef\xbb\xbf{}", "invalid_json_line"),
        ('{"custom_id": ' + "[" * 400 + "]" * 400 + "}", "invalid_request"),
        ("{}", "invalid_request"),
        (line("a", extra=1), "invalid_request"),
        (line("a").replace(chr(34) + "a" + chr(34), "7"), "invalid_request"),
        (line(""), "invalid_custom_id"),
        (line("x" * 257), "invalid_custom_id"),
        (line("a\nb"), "invalid_custom_id"),
        (line("\ud800"), "invalid_json_line"),
        (line("a", method="GET"), "invalid_method"),
        (line("a", url="/v1/completions"), "invalid_url"),
        (line("a", url="http://169.254.169.254/"), "invalid_url"),
        (line("a", url="/v1/chat/completions/../../keys"), "invalid_url"),
        (json.dumps({"custom_id": "a", "method": "POST", "url": CHAT, "body": [1]}), "invalid_body"),
        (json.dumps({"custom_id": "a", "method": "POST", "url": CHAT, "body": None}), "invalid_body"),
        ("x" * (MAX_LINE_BYTES + 1), "line_too_long"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(path: Path, wrong: str | bytes, code: str) -> None:
    content = wrong if isinstance(wrong, bytes) else wrong.encode()
    content = f"{line('first')}\n\n".encode() + content + b"\n" + line("last").encode()
    assert errors(path, content) == [(code, 3)]


def test_a_bottomless_body_is_no_json(path: Path) -> None:
    depth = 200_000
    path.write_text(line("a").replace('"messages": [', '"messages": ' + "[" * depth + "]" * depth + ", [", 1))
    with pytest.raises(Refused) as caught:
        InputFile(path, CHAT, max_requests=1, max_line_bytes=1_000_000)
    assert [error["code"] for error in caught.value.errors] == ["invalid_json_line"]


def test_a_line_of_the_longest_length_is_taken(path: Path) -> None:
    body = {"prompt": ""}
    spare = MAX_LINE_BYTES - len(line("a", body))
    longest = line("a", {"prompt": "x" * spare})
    assert len(longest) == MAX_LINE_BYTES
    with opened(path, longest.encode()) as source:
        assert len(source) == 1
    assert errors(path, line("a", {"prompt": "x" * (spare + 1)}).encode()) == [("line_too_long", 1)]


def test_a_custom_id_is_used_once(path: Path) -> None:
    content = "\n".join([line("a"), line("b"), line("a"), line("b"), line("c")])
    assert errors(path, content.encode()) == [("duplicate_custom_id", 3), ("duplicate_custom_id", 4)]


@pytest.mark.parametrize("content", [b"", b"\n", b"\n" * 100_000, b" \r\n\t\n"])
def test_a_file_without_requests(path: Path, content: bytes) -> None:
    assert errors(path, content) == [("empty_file", None)]


def test_too_many_requests_are_not_read_to_their_end(path: Path) -> None:
    lines = [line(f"{i}") for i in range(MAX_REQUESTS)]
    with opened(path, "\n".join(lines).encode()) as source:
        assert len(source) == MAX_REQUESTS
    more = "\n".join([*lines, *["{"] * 10]).encode()
    assert errors(path, more) == [("too_many_requests", None)]


def test_errors_have_an_upper_bound(path: Path) -> None:
    assert len(errors(path, b"{\n" * (MAX_ERRORS * 3))) <= MAX_ERRORS
