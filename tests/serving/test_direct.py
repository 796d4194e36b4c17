"""A request that goes straight to its endpoint, and one that takes FastAPI's way, end alike."""

from __future__ import annotations

import json

import httpx
import pytest
from fastapi import APIRouter, Depends, Header, Request
from pydantic import BaseModel
from starlette.responses import Response

from adaptive_lora.serving.auth.guard import needs
from adaptive_lora.serving.routes.direct import DirectRoute

GOOD = {"model": "base", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
BODIES = {
    "whole": json.dumps(GOOD),
    "streamed": json.dumps(GOOD | {"stream": True}),
    "wrong type": json.dumps(GOOD | {"temperature": "hot"}),
    "unknown field": json.dumps(GOOD | {"no_such_field": 1}),
    "no messages": json.dumps(GOOD | {"messages": []}),
    "unknown agent": json.dumps(GOOD | {"model": "nobody"}),
    "lone surrogate": '{"model": "base", "messages": [{"role": "user", "content": "\\ud800"}]}',
    "not a number": json.dumps(GOOD | {"temperature": float("nan")}),
    "cut": '{"model": ',
    "not utf-8": b"\xff\xfe",
    "deep": "[" * 100_000,
    "a list": "[]",
    "null": "null",
    "nothing": "",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_both_ways_end_alike(client: httpx.AsyncClient, body: str | bytes) -> None:
    direct, ordinary = [
        _end(await client.post("/v1/chat/completions", content=body, headers={"content-type": media_type}))
        for media_type in ("application/json", "application/json; charset=utf-8")
    ]
    assert direct == ordinary


def _end(response: httpx.Response) -> tuple[int, object]:
    """Status and content, without what differs from request to request."""
    if "event-stream" in response.headers["content-type"]:
        events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
        return response.status_code, [event["choices"] for event in events]
    body = response.json()
    if response.status_code == 200:
        return 200, [body["choices"], body["usage"]]
    del body["error"]["request_id"]
    return response.status_code, body


class Body(BaseModel):
    text: str


def something() -> str:
    return "something"


async def takes_a_header(body: Body, request: Request, x_more: str = Header()) -> Response:
    return Response(body.text + x_more)


async def takes_what_depends(body: Body, request: Request, more: str = Depends(something)) -> Response:
    return Response(body.text + more)


async def takes_no_body(request: Request) -> Response:
    return Response()


@pytest.mark.parametrize("endpoint", [takes_a_header, takes_what_depends, takes_no_body])
def test_an_endpoint_that_takes_more_cannot_be_put_on_the_short_way(endpoint) -> None:
    router = APIRouter(route_class=DirectRoute, dependencies=[needs("generate")])
    with pytest.raises(TypeError, match="FastAPI's way only"):
        router.add_api_route("/", endpoint, methods=["POST"])


def test_a_dependency_other_than_the_guard_cannot_be_left_out() -> None:
    router = APIRouter(route_class=DirectRoute, dependencies=[Depends(something)])
    with pytest.raises(TypeError, match="FastAPI's way only"):

        @router.post("/")
        async def endpoint(body: Body, request: Request) -> Response:
            return Response(body.text)
