"""The least that a proxy in Python does: FastAPI in front, aiohttp behind, nothing in between.

python benchmarks/gateway/bare.py PORT UPSTREAM
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

PORT, UPSTREAM = int(sys.argv[1]), sys.argv[2]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(UPSTREAM, connector=aiohttp.TCPConnector(limit=0)) as session:
        app.state.session = session
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions")
async def proxy(request: Request) -> Response:
    body = await request.body()
    answer = await app.state.session.post(request.url.path, data=body)
    if not answer.content_type.startswith("text/event-stream"):
        async with answer:
            return Response(await answer.read(), answer.status, media_type=answer.content_type)

    async def pieces() -> AsyncIterator[bytes]:
        async with answer:
            async for piece in answer.content.iter_any():
                yield piece

    return StreamingResponse(pieces(), answer.status, media_type=answer.content_type)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, access_log=False, log_level="warning")
