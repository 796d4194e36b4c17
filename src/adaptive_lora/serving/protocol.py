"""uvicorn's HTTP/1.1, stricter: heads are bounded, and what a proxy in front might read in another way is
refused.

The parser (llhttp) refuses most of it: two lengths, a length beside chunks, folded lines, bare line feeds,
control characters. Refused here are: heads beyond the limits; codings other than `chunked`, and any in
HTTP/1.0 (RFC 9112, section 6.1); versions other than 1.0 and 1.1; a target with another host than the Host
header's. Trailers are dropped: merged into the headers, as uvicorn has it, they could say who calls. There
are no WebSockets and no upgrades.

Every refusal closes the connection, so nothing behind it is ever taken for a request.
"""

from __future__ import annotations

import logging
import uuid
from typing import Final

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from adaptive_lora.serving.errors import error_fields

_log = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 32_768
"""Of the request line and all header lines together; of trailers, too."""
MAX_HEADERS: Final = 128

TOO_LARGE: Final = f"the request's headers have more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} lines"
MALFORMED: Final = "this is not a request as RFC 9112 has it, or might be read in more than one way"


class StrictProtocol(HttpToolsProtocol):
    """One connection."""

    _n_held = 0
    """Bytes that have arrived since the parser last told of something: an unfinished line, which it keeps."""
    _n_head_bytes = 0
    _n_headers = 0
    _is_in_head = True
    _is_refused = False
    _refusal = (400, "invalid_request", MALFORMED)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        self._n_held += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # answered as if it had not been asked for; then the connection ends
        except httptools.HttpParserError as error:
            _log.debug("a request that cannot be parsed: %s", error)
            self._refuse()
        else:
            if self._n_held > MAX_HEAD_BYTES:
                self._refusal = (431, "headers_too_large", TOO_LARGE)
                self._refuse()

    def on_message_begin(self) -> None:
        self._n_held = self._n_head_bytes = self._n_headers = 0
        self._is_in_head = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._n_headers += 1
        self._count(len(name) + len(value) + len(": \r\n"))
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._n_held = 0
        self._check_head()
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._n_held = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._n_held = 0
        super().on_message_complete()

    def _count(self, n_bytes: int) -> None:
        """Raises _Refused, which the parser turns into an error of its own."""
        self._n_held = 0
        self._n_head_bytes += n_bytes
        if self._n_head_bytes > MAX_HEAD_BYTES or self._n_headers > MAX_HEADERS:
            self._refusal = (431, "headers_too_large", TOO_LARGE)
            raise _Refused

    def _check_head(self) -> None:
        """Raises _Refused."""
        version = self.parser.get_http_version()
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        if version not in ("1.0", "1.1") or (
            codings and (version == "1.0" or [coding.strip().lower() for coding in codings] != [b"chunked"])
        ):
            raise _Refused
        if not self.url.startswith(b"/") and self.url != b"*":
            authority = self.url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
            hosts = [value for name, value in self.headers if name == b"host"]
            if [host.lower() for host in hosts] != [authority.lower()]:
                raise _Refused

    def _refuse(self) -> None:
        """Answer the request at fault, if nothing else is on its way; end the connection in any case.

        A refusal must not stand where the answer to an earlier request belongs, nor inside of one.
        """
        self._is_refused = True
        cycle = self.cycle
        is_idle = cycle is None or (cycle.response_complete and not cycle.more_body)
        is_its_body = cycle is not None and cycle.more_body and not cycle.response_started
        if is_idle or is_its_body:
            self._answer(*self._refusal)
        elif cycle.response_started:
            self.transport.close()
        else:
            cycle.keep_alive = False  # the requests before this one are answered first

    def _answer(self, status: int, code: str, message: str) -> None:
        request_id = f"req-{uuid.uuid4().hex}"
        body = msgspec.json.encode(error_fields(code, message, request_id, status=status))
        head = (
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: {request_id}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()


class _Refused(Exception):
    """Stops the parser."""
