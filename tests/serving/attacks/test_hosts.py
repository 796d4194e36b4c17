"""Host headers and targets: whatever they say, the route that matches asks who calls (CVE-2026-48710)."""

from __future__ import annotations

import pytest

from tests.serving.attacks.target import Answer, Target
from tests.serving.auth.signing import token

MALFORMED = [
    b"Host: a/?", b"Host: a/live?", b"Host: a#", b"Host: 127.0.0.1/live", b"Host: 127.0.0.1?/live",
    b"Host: a@127.0.0.1", b"Host: 127.0.0.1 x", b"Host: a\\b", b"Host:", b"Host: 127.0.0.1:x",
    b"Host: 127.0.0.1:8000:8000", b"Host: [::1", b"Host: [::1]x", b"Host: \xc4\x80", b"Host: 127.0.0.1,a",
    b"Host: %31", b"X: no host", b"Host: 127.0.0.1\r\nHost: 127.0.0.1", b"Host: 127.0.0.1\r\nHost: a",
    b"Host: " + b"a" * 300,
]  # fmt: skip
FOREIGN = [b"Host: a", b"Host: rebound.example:80", b"Host: 127.0.0.1.nip.example", b"Host: 169.254.169.254"]
TARGETS = [
    b"//v1/models", b"/v1/models;x", b"/v1/../admin", b"/v1/%2e%2e/keys", b"/%2e%2e/v1/models", b"/V1/MODELS",
    b"/live/../v1/models", b"/live%2f..%2fmetrics", b"/live/%2e%2e/metrics", b"/metrics/", b"/metrics%00",
    b"/metrics%20", b"/./metrics", b"/metrics/.", b"/live;/metrics", b"/live%3f/metrics", b"/%6d%65trics",
    b"/live\\..\\metrics", b"/v1/models/%ff%fe", b"/v1/models/%ed%a0%80", b"/v1/models/..%2f..%2fmetrics",
    b"/metrics#/live", b"/metrics?/live", b"http://127.0.0.1/metrics", b"/keys", b"/audit", b"/%zz/metrics",
]  # fmt: skip


def ask(target: Target, request: bytes) -> Answer:
    with target.connect() as connection:
        connection.send(request)
        answer = connection.answer()
    assert answer is not None
    return answer


@pytest.mark.parametrize("host", MALFORMED, ids=lambda host: host[:40].decode("latin-1"))
def test_a_malformed_host_is_refused_whoever_calls(target: Target, host: bytes) -> None:
    for path, scope in ((b"/metrics", "metrics"), (b"/live", "generate"), (b"/", "admin")):
        credential = token(scope=scope).encode()
        request = b"GET %s HTTP/1.1\r\n%s\r\nAuthorization: Bearer %s\r\n\r\n" % (path, host, credential)
        answer = ask(target, request)
        assert (answer.status, answer.code) == (400, "invalid_request")
    target.check_is_well()


@pytest.mark.parametrize("host", FOREIGN)
def test_a_name_that_the_server_does_not_have_is_refused(target: Target, host: bytes) -> None:
    answer = ask(target, b"GET /live HTTP/1.1\r\n%s\r\n\r\n" % host)
    assert (answer.status, answer.code) == (421, "wrong_host")


@pytest.mark.parametrize("path", TARGETS)
def test_no_spelling_of_a_target_opens_a_route(target: Target, path: bytes) -> None:
    answer = ask(target, b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % path)
    assert answer.status in (400, 401, 404)
    assert answer.code in ("invalid_request", "unauthenticated", "not_found")
    target.check_is_well()


def test_the_hosts_own_port_and_names_are_answered(target: Target) -> None:
    for host in (b"127.0.0.1:%d" % target.port, b"localhost", b"LOCALHOST:1", b"[::1]:80"):
        assert ask(target, b"GET /live HTTP/1.1\r\nHost: %s\r\n\r\n" % host).status == 200
