"""A file in a form (multipart/form-data), written to disk as it arrives: memory holds one piece of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException

from adaptive_lora.adapters.durable import disk_errors
from adaptive_lora.errors import InvalidRequest
from adaptive_lora.serving.limits import BODY_READ_TIMEOUT_S

logging.getLogger("python_multipart").setLevel(logging.ERROR)
"""It warns of every form that is none: callers could fill the log."""

MAX_PARTS: Final = 8
MAX_FIELD_BYTES: Final = 1_024
MAX_FILENAME_CHARS: Final = 255
FORM_BYTES: Final = 65_536
"""What a form may have beside its file."""


@dataclass(frozen=True, slots=True)
class Upload:
    filename: str
    size_bytes: int
    fields: Mapping[str, str]
    """The form's others."""


async def receive_form(
    chunks: AsyncIterator[bytes],
    content_type: str,
    draft: Path,
    *,
    max_bytes: int,
    timeout_s: float,
    run: Callable[[Callable[[], object]], Awaitable[object]],
) -> Upload:
    """Write the form's part `file` to `draft`; `run` does it in a thread.

    413 past `max_bytes`, 408 if the sender stalls or takes longer than `timeout_s`, 415 for another type;
    raises InvalidRequest for a form that cannot be read, or has no file or two, and StorageFull.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 70:
        raise HTTPException(415, "send a form: Content-Type: multipart/form-data, with its boundary")
    form = _Form(boundary)
    n_bytes = 0
    ends_at = asyncio.get_running_loop().time() + timeout_s
    with disk_errors(draft), draft.open("wb") as file:
        while (chunk := await _next(chunks, ends_at)) is not None:
            n_bytes += len(chunk)
            if n_bytes > max_bytes + FORM_BYTES or form.size_bytes > max_bytes:
                raise HTTPException(413, f"a file has at most {max_bytes} bytes (batches.max_file_bytes)")
            piece = form.feed(chunk)
            if piece:
                await run(lambda piece=piece: file.write(piece))  # type: ignore[misc]
    return form.upload(max_bytes)


async def _next(chunks: AsyncIterator[bytes], ends_at: float) -> bytes | None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(min(loop.time() + BODY_READ_TIMEOUT_S, ends_at)):
            return await anext(chunks, None)
    except TimeoutError:
        raise HTTPException(408, "the file did not arrive in time") from None


@dataclass(slots=True)
class _Part:
    name: str = ""
    filename: str | None = None
    content: bytearray = field(default_factory=bytearray)
    """Of a field; a file's goes to the disk."""
    header: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)


class _Form:
    """One form, piece by piece."""

    def __init__(self, boundary: bytes) -> None:
        self.size_bytes = 0
        """Of the file, so far."""
        self._fields: dict[str, str] = {}
        self._filename: str | None = None
        self._part = _Part()
        self._n_parts = 0
        self._piece = bytearray()
        self._is_whole = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_content,
                "on_part_data": self._content,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> bytes:
        """What of the file is in the chunk. Raises InvalidRequest."""
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise InvalidRequest("the form cannot be read: is it multipart/form-data?") from None
        piece = bytes(self._piece)
        self._piece.clear()
        return piece

    def upload(self, max_bytes: int) -> Upload:
        if not self._is_whole:
            raise InvalidRequest("the form ends before its last boundary")
        if self._filename is None:
            raise InvalidRequest("file: the form has no file of this name")
        if self.size_bytes > max_bytes:
            raise HTTPException(413, f"a file has at most {max_bytes} bytes (batches.max_file_bytes)")
        return Upload(self._filename, self.size_bytes, self._fields)

    def _begin_part(self) -> None:
        self._n_parts += 1
        if self._n_parts > MAX_PARTS:
            raise InvalidRequest(f"the form has more than {MAX_PARTS} parts")
        self._part = _Part()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._part.header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.value += data[start:end]

    def _end_header(self) -> None:
        part = self._part
        if part.header.lower() == b"content-disposition":
            kind, options = parse_options_header(bytes(part.value))
            if kind == b"form-data":
                part.name = _text(options.get(b"name", b""))
                if (filename := options.get(b"filename")) is not None:
                    part.filename = _text(filename)
        part.header.clear()
        part.value.clear()

    def _begin_content(self) -> None:
        part = self._part
        if not part.name:
            raise InvalidRequest("a part of the form has no name")
        if (part.name == "file") is not (part.filename is not None):
            raise InvalidRequest("the form has one file, in its part `file`, with a file's name")
        if part.name in self._fields or (part.name == "file" and self._filename is not None):
            raise InvalidRequest("the form has two parts of one name")
        if part.filename is not None:
            self._filename = _checked(part.filename)

    def _content(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part.filename is not None:
            self._piece += data[start:end]
            self.size_bytes += end - start
            return
        part.content += data[start:end]
        if len(part.content) > MAX_FIELD_BYTES:
            raise InvalidRequest(f"a field of the form has more than {MAX_FIELD_BYTES} bytes")

    def _end_part(self) -> None:
        if self._part.filename is None:
            self._fields[self._part.name] = _text(self._part.content)

    def _end(self) -> None:
        self._is_whole = True


def _text(content: bytes | bytearray) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("the form is not UTF-8") from None


def _checked(filename: str) -> str:
    """It is shown, and never a path here."""
    if not (
        0 < len(filename) <= MAX_FILENAME_CHARS and filename.isprintable() and not set(filename) & {"/", "\\"}
    ):
        raise InvalidRequest(
            f"a file's name has 1 to {MAX_FILENAME_CHARS} printable characters, and neither / nor \\"
        )
    return filename
