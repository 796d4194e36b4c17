"""GET /docs: the OpenAPI document as a page to read. No script, nothing from other servers.

FastAPI's own pages load their scripts from a CDN: they stay empty without the Internet, and what they load
would run where people enter their credentials.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 56rem; padding: 0 1rem; }
code { font: 0.9em ui-monospace, monospace; }
summary code { overflow-wrap: anywhere; }
summary { cursor: pointer; padding: 0.3rem 0; }
summary b { display: inline-block; min-width: 4.5rem; }
table { border-collapse: collapse; margin: 0.5rem 0 1rem; }
td { border-bottom: 1px solid #8884; padding: 0.2rem 1rem 0.2rem 0; vertical-align: top; }
@media (max-width: 40rem) { tr { display: block; border-bottom: 1px solid #8884; padding: 0.2rem 0; }
  td { display: inline; border: 0; } td:last-child { display: block; padding: 0; } }
p { margin: 0.3rem 0; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } a { color: #8bf; } }
"""

HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}
"""Of every page: it runs nothing, loads nothing, and is shown in nobody's frame."""


def add_page(app: FastAPI) -> None:
    """Serve it, if `app` serves its document."""
    if app.openapi_url is None:
        return

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return HTMLResponse(page_of(request.app.openapi()), headers=HEADERS)


def page_of(document: Mapping[str, Any]) -> str:
    info = document["info"]
    return "".join(
        [
            "<!doctype html><html lang=en><meta charset=utf-8>",
            "<meta name=viewport content='width=device-width'>",
            f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>",
            f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>",
            f"<p>{_prose(info.get('description', ''))}",
            "<p>For programs: <a href=openapi.json>openapi.json</a>.",
            *(
                _operation(method, path, operation, document)
                for path, operations in document["paths"].items()
                for method, operation in operations.items()
            ),
        ]
    )


def _operation(method: str, path: str, operation: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    scopes = [scope for need in operation.get("security", ()) for each in need.values() for scope in each]
    parts = [
        f"<details><summary><b>{escape(method.upper())}</b> <code>{escape(path)}</code></summary>",
        f"<p>{_prose(operation.get('description', ''))}",
    ]
    if scopes:
        parts.append(f"<p>Needs the scope <code>{escape(' '.join(scopes))}</code>.")
    rows = [
        _row(each["name"], each["in"], each.get("required", False), each["schema"], each)
        for each in operation.get("parameters", ())
    ]
    for body in _bodies(operation, document):
        needed = body.get("required", ())
        rows += [
            _row(name, "body", name in needed, field, field)
            for name, field in body.get("properties", {}).items()
        ]
    parts += ["<table>", *rows, "</table><table>"]
    answers = ((status, answer["description"]) for status, answer in operation["responses"].items())
    parts += (f"<tr><td><code>{escape(status)}</code><td>{_prose(text)}" for status, text in answers)
    return "".join([*parts, "</table></details>"])


def _row(
    name: str, place: str, is_required: bool, schema: Mapping[str, Any], described: Mapping[str, Any]
) -> str:
    kind = escape(", ".join(dict.fromkeys(_types(schema))))
    need = "required" if is_required else ""
    text = _prose(described.get("description", ""))
    return f"<tr><td><code>{escape(name)}</code><td>{place}<td>{kind}<td>{need}<td>{text}"


def _bodies(operation: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for media in operation.get("requestBody", {}).get("content", {}).values():
        schema = media.get("schema", {})
        for each in schema.get("oneOf", [schema]):
            yield _resolved(each, document)


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: Mapping[str, Any] = document["components"]["schemas"][name] if name else schema
    return found


def _types(schema: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        yield schema["$ref"].rpartition("/")[2]
    for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _types(each)
    kind = schema.get("type")
    if kind == "array":
        yield "list of " + (" or ".join(dict.fromkeys(_types(schema.get("items", {})))) or "anything")
    elif kind not in (None, "null"):
        yield str(kind)


def _prose(text: str) -> str:
    """Text with Markdown's backticks and paragraphs, and nothing else of it."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        pieces = escape(paragraph).split("`")
        paragraphs.append("".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(pieces)))
    return "<p>".join(paragraphs)
