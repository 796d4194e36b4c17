"""/docs: everything that the document has, and nothing that a browser would run or fetch."""

from __future__ import annotations

from html.parser import HTMLParser

import httpx
import pytest

from adaptive_lora.serving.admin import create_admin_app
from adaptive_lora.serving.api_page import HEADERS, page_of
from tests.serving.auth.conftest import Gateway, gateway, open_gateway  # noqa: F401 - fixtures

RUNS_OR_LOADS = {
    "script",
    "link",
    "img",
    "iframe",
    "object",
    "embed",
    "form",
    "base",
    "svg",
    "audio",
    "video",
}


class Read(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str | None] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_it_says_what_the_document_says_and_loads_nothing(gateway: Gateway) -> None:  # noqa: F811
    admin = create_admin_app(gateway.app)
    for client, app in ((gateway.client, gateway.app), (gateway.admin, admin)):
        response = await client.get("/docs")
        assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert HEADERS.items() <= dict(response.headers).items()
        page = Read(response.text)
        assert not page.tags & RUNS_OR_LOADS
        assert page.links == ["openapi.json"]
        document = app.openapi()
        for path, operations in document["paths"].items():
            assert path in page.text
            for operation in operations.values():
                for scope in operation.get("security", [{"bearer": []}])[0]["bearer"]:
                    assert f"Needs the scope {scope}." in page.text
    for field in gateway.app.openapi()["components"]["schemas"]["GenerateBody"]["properties"]:
        assert field in response.text or field in (await gateway.client.get("/docs")).text


def test_what_is_text_stays_text() -> None:
    evil = "<script>alert(1)</script> `<b>` & '\""
    operation = {
        "description": evil,
        "parameters": [{"name": evil, "in": "query", "schema": {"type": evil}, "description": evil}],
        "responses": {evil: {"description": evil}},
        "security": [{"bearer": [evil]}],
    }
    info = {"title": evil, "version": evil, "description": evil}
    page = Read(page_of({"info": info, "paths": {evil: {evil: operation}}, "components": {"schemas": {}}}))
    assert not page.tags & RUNS_OR_LOADS
    assert "b" in page.tags, "the method's own"
    assert page.text.count("alert(1)") >= 8


@pytest.mark.parametrize("path", ["/live", "/v1/models", "/nowhere", "/docs", "/openapi.json", "/"])
async def test_no_answer_is_kept_on_the_way_or_guessed_at(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.headers.get_list("cache-control") == ["no-store"]
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_streams_neither(client: httpx.AsyncClient) -> None:
    body = {"prompt": "x", "stream": True, "max_tokens": 1}
    response = await client.post("/generate", json=body)
    assert response.headers.get_list("cache-control") == ["no-store"]
    assert response.headers["content-type"].startswith("text/event-stream")
