"""A batch's input file: JSON Lines, one request each, as OpenAI has them.

    {"custom_id": "...", "method": "POST", "url": "/v1/chat/completions", "body": {...}}

Blank lines count for nothing. The file is read twice, a line at a time: once to check it and to note where
its requests are, and each request again when it is its turn. Its bodies are not looked at here.
"""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

MAX_ERRORS: Final = 100
"""That one batch reports; a file with more is not read to its end."""
MAX_CUSTOM_ID_CHARS: Final = 256


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class Refused(Exception):
    """The file is no batch's input; `errors` are OpenAI's: code, message, param, line (from 1)."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(f"{len(errors)} errors")
        self.errors = errors


class InputFile:
    """An input file whose lines are all well-formed. Close it."""

    def __init__(self, path: Path, endpoint: str, *, max_requests: int, max_line_bytes: int) -> None:
        """Blocks. Raises Refused, and OSError."""
        self._starts = array("Q")
        self._sizes = array("L")
        check = _Check(endpoint)
        with path.open("rb") as file:
            n_lines = start = 0
            while line := file.readline(max_line_bytes + 2):
                n_lines += 1
                if len(line.rstrip(b"\r\n")) > max_line_bytes:
                    check.fail(
                        "line_too_long", f"the line has more than {max_line_bytes} bytes", None, n_lines
                    )
                    break  # where the next one begins, nobody has looked
                if line.strip():
                    if len(self._starts) == max_requests:
                        check.fail("too_many_requests", f"there are more than {max_requests} requests", None)
                        break
                    self._starts.append(start)
                    self._sizes.append(len(line))
                    check(line, n_lines)
                if len(check.errors) >= MAX_ERRORS:
                    break
                start += len(line)
        if not self._starts and not check.errors:
            check.fail("empty_file", "the file has no requests", None)
        if check.errors:
            raise Refused(check.errors)
        self._file = path.open("rb")

    def __len__(self) -> int:
        """How many requests there are."""
        return len(self._starts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, index: int) -> Line:
        """The request with that number, from 0. Blocks; may be called from several threads."""
        content = os.pread(self._file.fileno(), self._sizes[index], self._starts[index])
        return msgspec.json.decode(content, type=Line)


class _Check:
    """What is wrong with the lines of one file."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._ids: set[str] = set()
        self.errors: list[dict[str, Any]] = []

    def __call__(self, content: bytes, number: int) -> None:
        try:
            line = msgspec.json.decode(content, type=Line)
        except msgspec.ValidationError:
            message = (
                "a request has custom_id, method, url and body, and nothing else; all but body are texts"
            )
            self.fail("invalid_request", message, None, number)
            return
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.fail("invalid_json_line", "the line is not one JSON object in UTF-8", None, number)
            return
        if not (0 < len(line.custom_id) <= MAX_CUSTOM_ID_CHARS and line.custom_id.isprintable()):
            message = f"a custom_id has 1 to {MAX_CUSTOM_ID_CHARS} printable characters"
            self.fail("invalid_custom_id", message, "custom_id", number)
        elif line.custom_id in self._ids:
            self.fail("duplicate_custom_id", "an earlier line has the same custom_id", "custom_id", number)
        self._ids.add(line.custom_id[: MAX_CUSTOM_ID_CHARS + 1])
        if line.method != "POST":
            self.fail("invalid_method", "the method is POST", "method", number)
        if line.url != self._endpoint:
            self.fail("invalid_url", f"the url is the batch's endpoint, {self._endpoint}", "url", number)
        if not bytes(line.body).startswith(b"{"):
            self.fail("invalid_body", "the body is a JSON object", "body", number)

    def fail(self, code: str, message: str, param: str | None, line: int | None = None) -> None:
        self.errors.append({"code": code, "message": message, "param": param, "line": line})
