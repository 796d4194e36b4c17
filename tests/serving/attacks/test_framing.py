"""Requests that two servers might read in two ways, and heads of any size: on a raw socket, against the
server's own process.

The smuggled request asks for /metrics and labels itself, so that an answer to it would be seen.
"""

from __future__ import annotations

import random

import pytest

from adaptive_lora.serving.protocol import MAX_HEAD_BYTES, MAX_HEADERS
from tests.serving.attacks.target import Answer, Target
from tests.serving.auth.signing import token

HOST = b"Host: 127.0.0.1\r\n"
GET = b"GET /live HTTP/1.1\r\n" + HOST
POST = b"POST /generate HTTP/1.1\r\n" + HOST
CODING = b"Transfer-Encoding: chunked\r\n"
CHUNKED = POST + CODING + b"\r\n"
SMUGGLED = b"GET /metrics HTTP/1.1\r\n" + HOST + b"X-Request-Id: smuggled\r\n\r\n"
LAST = GET + b"X-Request-Id: last\r\nConnection: close\r\n\r\n"

REFUSED: dict[str, bytes] = {
    # Two lengths: RFC 9112, section 6.3
    "length and chunks": POST + b"Content-Length: 5\r\n" + CODING + b"\r\n0\r\n\r\n" + SMUGGLED,
    "chunks and length": POST + CODING + b"Content-Length: 90\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 90\r\n\r\n" + SMUGGLED,
    "the same length twice": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 0, 90\r\n\r\n" + SMUGGLED,
    "a length with a sign": POST + b"Content-Length: +0\r\n\r\n" + SMUGGLED,
    "a negative length": POST + b"Content-Length: -1\r\n\r\n" + SMUGGLED,
    "a hexadecimal length": POST + b"Content-Length: 0x0\r\n\r\n" + SMUGGLED,
    "two words of length": POST + b"Content-Length: 0 90\r\n\r\n" + SMUGGLED,
    "a length beyond 64 bits": POST + b"Content-Length: 18446744073709551616\r\n\r\n" + SMUGGLED,
    # Codings that a proxy may know and we do not: section 6.1
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked is not the last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two headers of codings": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "compressed chunks": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a tab before the coding": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a space after the name": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a coding in HTTP/1.0": b"POST /generate HTTP/1.0\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    # Chunks: section 7.1
    "a chunk beyond 64 bits": CHUNKED + b"10000000000000000\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a negative chunk": CHUNKED + b"-1\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk with a prefix": CHUNKED + b"0x0\r\n\r\n" + SMUGGLED,
    "a chunk of no number": CHUNKED + b"\r\n\r\n" + SMUGGLED,
    "a chunk without its end": CHUNKED + b"1\r\nxx0\r\n\r\n" + SMUGGLED,
    "line feeds around chunks": CHUNKED + b"0\n\n" + SMUGGLED,
    "a line feed in an extension": CHUNKED + b"0;x\nGET /metrics\r\n\r\n" + SMUGGLED,
    # Lines and characters: sections 2.2, 5.1, 5.2
    "bare line feeds": b"GET /live HTTP/1.1\nHost: 127.0.0.1\n\n" + SMUGGLED,
    "bare carriage returns": b"GET /live HTTP/1.1\rHost: 127.0.0.1\r\r" + SMUGGLED,
    "a folded header": GET + b"X: a\r\n b\r\n\r\n" + SMUGGLED,
    "a fold before the first header": b"GET /live HTTP/1.1\r\n " + HOST + b"\r\n" + SMUGGLED,
    "NUL in a name": GET + b"X\x00Y: a\r\n\r\n" + SMUGGLED,
    "NUL in a value": GET + b"X: a\x00b\r\n\r\n" + SMUGGLED,
    "a control character in a value": GET + b"X: a\x01b\r\n\r\n" + SMUGGLED,
    "an escape in a value": GET + b"X: \x1b[2J\r\n\r\n" + SMUGGLED,
    "a space in a name": GET + b"X Y: a\r\n\r\n" + SMUGGLED,
    "an empty name": GET + b": a\r\n\r\n" + SMUGGLED,
    "a line without a colon": GET + b"Authorization\r\n\r\n" + SMUGGLED,
    # Request lines: section 3
    "HTTP/0.9": b"GET /live\r\n\r\n" + SMUGGLED,
    "HTTP/1.2": b"GET /live HTTP/1.2\r\n" + HOST + b"\r\n" + SMUGGLED,
    "HTTP/2.0": b"GET /live HTTP/2.0\r\n" + HOST + b"\r\n" + SMUGGLED,
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + SMUGGLED,
    "an unknown method": b"FOO /live HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "a method in small letters": b"get /live HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "a tunnel": b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "a target of another host": b"GET http://other.example/live HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "a target of another scheme": b"GET ftp://127.0.0.1x/live HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "a target without a slash": b"GET live HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "a query alone": b"GET ?/live HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "NUL in the target": b"GET /live\x00/ HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "bytes beyond ASCII in the target": b"GET /l\xefve HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "a space after the version": b"GET /live HTTP/1.1 \r\n" + HOST + b"\r\n" + SMUGGLED,
    "tabs for spaces": b"GET\t/live\tHTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
}  # fmt: skip

TOO_LARGE: dict[str, bytes] = {
    "a long request line": b"GET /live?" + b"x" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a long header": GET + b"X: " + b"x" * 65_536 + b"\r\n\r\n",
    "a long name": GET + b"x" * 65_536 + b": x\r\n\r\n",
    "many headers": GET + b"".join(b"x-%d: x\r\n" % i for i in range(10_000)) + b"\r\n",
    "many empty headers": GET + b"x:\r\n" * (MAX_HEADERS + 1) + b"\r\n",
    "long trailers": CHUNKED + b"0\r\n" + b"x: %s\r\n" % (b"x" * 1_000) * 40 + b"\r\n",
    "many trailers": CHUNKED + b"0\r\n" + b"x: x\r\n" * (MAX_HEADERS + 1) + b"\r\n",
}

ENDLESS: dict[str, bytes] = {
    "a request line": b"GET /live?",
    "a header's name": GET + b"x",
    "a header's value": GET + b"x: ",
    "a chunk's extension": CHUNKED + b"2;",
    "a trailer": CHUNKED + b"0\r\nx: ",
    "a method": b"",
}
"""What begins so goes on and on."""

AS_ONE: dict[str, tuple[bytes, int]] = {
    "a request as a GET's body": (GET + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED, 200),
    "a request as a POST's body": (POST + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED, 401),
    "a request as a chunk": (CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED), 401),
    "a chunk's extension": (CHUNKED + b"0;x=y\r\n\r\n", 401),
    "a coding in capitals": (POST + b"Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", 401),
    "empty lines first": (b"\r\n\r\n" + GET + b"\r\n", 200),
    "a target with the same host": (b"GET http://127.0.0.1/live HTTP/1.1\r\n" + HOST + b"\r\n", 200),
    "a question about the server": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    "TRACE": (b"TRACE /live HTTP/1.1\r\n" + HOST + b"\r\n", 401),
    "the longest head": (GET + b"x: " + b"x" * (MAX_HEAD_BYTES - 100) + b"\r\n\r\n", 200),
    "the most headers": (GET + b"x: y\r\n" * (MAX_HEADERS - 1) + b"\r\n", 200),
}  # fmt: skip
"""Framed alike by everybody: one request, with this status, and the next one after it."""


def all_answers(target: Target, attack: bytes) -> list[Answer]:
    """To one connection's bytes, until it is closed."""
    with target.connect() as connection:
        connection.send(attack)
        answers = connection.answers()
    assert "smuggled" not in [answer.headers.get("x-client-request-id") for answer in answers]
    return answers


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_be_read_in_two_ways_is_refused_and_the_connection_ends(target: Target, name: str) -> None:
    (answer,) = all_answers(target, REFUSED[name])
    assert (answer.status, answer.code, answer.closes) == (400, "invalid_request", True)
    target.check_is_well()


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_head_beyond_the_limits_is_refused(target: Target, name: str) -> None:
    (answer,) = all_answers(target, TOO_LARGE[name])
    assert (answer.status, answer.code, answer.closes) == (431, "headers_too_large", True)
    target.check_is_well()


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_not_kept(target: Target, name: str) -> None:
    """Beyond the limit and what one read brings, nobody listens any more."""
    with target.connect() as connection:
        connection.send(ENDLESS[name])
        n_sent = 0
        while connection.send(b"x" * 65_536):
            n_sent += 65_536
            assert n_sent < 64 << 20, "it is still read"
    target.check_is_well()


@pytest.mark.parametrize("name", AS_ONE)
def test_what_is_framed_well_is_one_request(target: Target, name: str) -> None:
    attack, status = AS_ONE[name]
    first, last = all_answers(target, attack + LAST)
    assert first.status == status
    assert (last.status, last.headers["x-client-request-id"]) == (200, "last")


def test_nothing_follows_a_connections_last_request(target: Target) -> None:
    (only,) = all_answers(target, LAST + SMUGGLED)
    assert only.headers["x-client-request-id"] == "last"


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.0", b"x"])
def test_there_is_no_other_protocol_to_change_to(target: Target, protocol: bytes) -> None:
    """Answered as if it had not been asked for. Nothing behind it is read: a proxy would take it for the
    other protocol's."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + b"\r\n"
    body = b'{"prompt": "x"}'
    for request, status in (
        (GET + upgrade + b"\r\n", 200),
        (POST + upgrade + b"Content-Length: %d\r\n\r\n" % len(body) + body, 401),
    ):
        (answer,) = all_answers(target, request + SMUGGLED)
        assert (answer.status, answer.closes) == (status, True)
        assert "upgrade" not in answer.headers


@pytest.mark.parametrize("at_once", [True, False])
def test_a_trailer_is_no_header(target: Target, at_once: bool) -> None:
    """A proxy that takes away or sets headers does not look at trailers."""
    head = b"GET /v1/models HTTP/1.1\r\n" + HOST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailers = (
        b"0\r\nAuthorization: Bearer %s\r\nX-Request-Id: trailed\r\nHost: other.example\r\n\r\n"
        % token().encode()
    )
    with target.connect() as connection:
        if at_once:
            connection.send(head + trailers)
        else:
            connection.send(head)
            connection.send(trailers)
        (answer,) = connection.answers()
    assert answer.status == 401
    assert "x-client-request-id" not in answer.headers


def test_a_refusal_does_not_overtake_the_answers_before_it(target: Target) -> None:
    labelled = [GET + b"X-Request-Id: %d\r\n\r\n" % i for i in range(3)]
    answers = all_answers(target, b"".join(labelled) + b"\x00\x01" + SMUGGLED)
    assert [answer.headers["x-client-request-id"] for answer in answers] == ["0", "1", "2"]
    assert [answer.closes for answer in answers] == [False, False, True]


def test_damaged_requests_get_clean_answers(target: Target) -> None:
    """Random edits of a good request: whatever it becomes, no 5xx, nothing of what is protected."""
    dice = random.Random(20)
    body = b'{"prompt": "x", "max_tokens": 1}'
    good = POST + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    pieces = [
        b"\r",
        b"\n",
        b"\x00",
        b" ",
        b":",
        b"0",
        b"Transfer-Encoding: chunked\r\n",
        b"\xff",
        b"\t",
        b",",
        b"%",
    ]
    statuses = set()
    for _ in range(300):
        damaged = bytearray(good)
        for _ in range(dice.randint(1, 3)):
            at = dice.randrange(len(damaged))
            damaged[at : at + dice.choice([0, 0, 1, 2, 20])] = dice.choice(pieces)
        with target.connect() as connection:
            connection.send(bytes(damaged) + b"\r\n\r\n" + LAST + b"x" * len(good) + b"\r\n\r\n")
            first = connection.answer()
        if first is not None:
            statuses.add(first.status)
            assert first.status < 500, bytes(damaged)
            assert b"owned_by" not in first.body
    assert {400, 401} <= statuses
    target.check_is_well()
