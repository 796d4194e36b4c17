from collections.abc import Iterator

import httpx
import pytest

from adaptive_lora import errors
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.errors import AdaptiveLoraError
from adaptive_lora.serving.errors import STATUS, status_of
from tests.serving.conftest import Serve


def tree(kind: type[AdaptiveLoraError]) -> Iterator[type[AdaptiveLoraError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


@pytest.mark.parametrize("kind", list(tree(AdaptiveLoraError)), ids=lambda kind: kind.__name__)
def test_every_error_has_a_row(kind: type[AdaptiveLoraError]) -> None:
    assert kind in STATUS
    assert 400 <= STATUS[kind] < 600
    if kind.retryable:
        assert STATUS[kind] in (429, 503, 504)


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in tree(AdaptiveLoraError)]
    assert len(codes) == len(set(codes))


def test_a_class_outside_the_table_answers_like_its_parent() -> None:
    class Stranger(errors.PromptTooLong):
        pass

    assert status_of(Stranger("x")) == STATUS[errors.PromptTooLong]


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "code"),
    [
        ("GET", "/nowhere", None, 404, "not_found"),
        ("GET", "/generate/", None, 404, "not_found"),
        ("PUT", "/generate", None, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", None, 405, "method_not_allowed"),
        ("POST", "/generate", b"{", 422, "invalid_request"),
        ("POST", "/generate", b"", 422, "invalid_request"),
        ("POST", "/generate", b"[1]", 422, "invalid_request"),
        ("POST", "/generate", b'{"prompt": "\xff"}', 400, "invalid_request"),
        ("POST", "/generate", b"[" * 100_000, 400, "invalid_request"),
        ("POST", "/generate", b'{"prompt": ' + b"9" * 10_000 + b"}", 400, "invalid_request"),
        ("POST", "/generate", b'{"prompt": "x", "temperature": NaN}', 422, "invalid_request"),
        ("POST", "/v1/completions", b"{", 400, "invalid_request"),
        ("POST", "/generate", b"x" * 1_000_001, 413, "body_too_large"),
    ],
)
async def test_every_error_has_one_shape(
    client: httpx.AsyncClient, method: str, path: str, content: bytes | None, status: int, code: str
) -> None:
    headers = {"content-type": "application/json"}
    response = await client.request(method, path, content=content, headers=headers)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert set(error) == {"code", "message", "request_id", "type", "param"}
    assert error["request_id"] == response.headers["x-request-id"]
    assert error["message"]


async def test_a_body_that_is_not_json_is_told_the_header(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/generate", content=b'{"prompt": "x"}', headers={"content-type": "text/plain"}
    )
    assert response.status_code == 422
    assert "Content-Type: application/json" in response.json()["error"]["message"]


async def test_what_nobody_foresaw_says_nothing_about_itself(serve: Serve, engine: FakeEngine) -> None:
    async with serve() as client:

        def broken(request: object) -> object:
            raise RuntimeError("secret at 0x7f00")

        engine.generate = broken  # type: ignore[method-assign, assignment]
        response = await client.post("/generate", json={"prompt": "x"})
        metrics = (await client.get("/metrics")).text
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert response.json()["error"]["request_id"] == response.headers["x-request-id"]
    assert 'api_requests_total{code="500",route="/generate",status="error"} 1.0' in metrics
    assert 'code="internal_error"' in metrics
