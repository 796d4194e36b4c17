"""Callers who do not stop while pods come and go. Runs within the cluster, from the image that is updated:

    JWT_SECRET=... python load.py http://10.96.0.7:8000 /tmp/stop

When the file is there, each caller ends what it has begun. The last line is JSON, with every failure.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import openai

PAUSE_S = 2.5
"""Between two requests of a caller: of a tenant's 60 a minute, a pod of two gives 30."""
TIMEOUT_S = 60
LONG_TOKENS = 300

closing = 0
"""Answers of servers that were about to stop, and still took what came."""


class Failure(Exception):
    """An answer that is not what was asked for."""


def prompt() -> str:
    """Never the same for long, so that answers are generated and not remembered."""
    return f"What is {random.randrange(1000)} plus {random.randrange(1000)}?"


async def check(answer: httpx.Response) -> None:
    global closing
    if answer.status_code != 200:
        raise Failure(f"{answer.status_code} {(await answer.aread()).decode()}")
    closing += answer.headers.get("connection") == "close"


async def whole(client: httpx.AsyncClient) -> None:
    answer = await client.post("/generate", json={"prompt": prompt(), "max_tokens": 32})
    await check(answer)
    if not answer.json()["usage"]["completion_tokens"]:
        raise Failure(f"no answer: {answer.text}")


async def streamed(client: httpx.AsyncClient, *, max_tokens: int = 32, ignore_eos: bool = False) -> None:
    options = {"max_tokens": max_tokens, "ignore_eos": ignore_eos, "stream": True}
    lines = []
    async with client.stream("POST", "/generate", json={"prompt": prompt(), **options}) as answer:
        await check(answer)
        async for line in answer.aiter_lines():
            lines += [line] if line else []
    if lines[-2:-1] != ["event: done"]:
        raise Failure(f"a stream that ended with {lines[-2:]}")
    n_tokens = json.loads(lines[-1].removeprefix("data: "))["usage"]["completion_tokens"]
    if ignore_eos and n_tokens != max_tokens:
        raise Failure(f"{n_tokens} tokens of {max_tokens}")


async def long_stream(client: httpx.AsyncClient) -> None:
    """Under way when a pod is told to stop, more often than not."""
    await streamed(client, max_tokens=LONG_TOKENS, ignore_eos=True)


async def openai_stream(client: httpx.AsyncClient) -> None:
    """By OpenAI's own client, which would try again if it was let."""
    api = openai.AsyncOpenAI(
        base_url=str(client.base_url.join("/v1")), api_key="in the headers", max_retries=0, http_client=client
    )
    messages: Any = [{"role": "user", "content": prompt()}]
    chunks = await api.chat.completions.create(
        model="auto",
        messages=messages,
        max_tokens=32,
        stream=True,
        extra_headers={"authorization": client.headers["authorization"]},
    )
    if not [chunk async for chunk in chunks][-1].choices[0].finish_reason:
        raise Failure("a stream without an end")


Ask = Callable[[httpx.AsyncClient], Awaitable[None]]
CALLERS: list[tuple[Ask, bool, int]] = [
    (whole, True, 3),
    (whole, False, 2),
    (streamed, True, 2),
    (streamed, False, 1),
    (long_stream, True, 2),
    (openai_stream, True, 1),
    (openai_stream, False, 1),
]
"""What is asked, whether on one connection that is kept or on a new one each time, by how many callers."""


class Load:
    def __init__(self, url: str, stop: Path) -> None:
        self._url = url
        self._stop = stop
        self.asked: Counter[str] = Counter()
        self.failures: list[str] = []
        self.seconds: list[float] = []

    def _client(self, tenant: str) -> httpx.AsyncClient:
        claims = {"iss": "adaptive-lora", "aud": "adaptive-lora", "sub": tenant, "tenant": tenant}
        expires = int(time.time()) + 3600
        token = jwt.encode(claims | {"scope": "generate", "exp": expires}, os.environ["JWT_SECRET"], "HS256")
        headers = {"authorization": f"Bearer {token}"}
        return httpx.AsyncClient(base_url=self._url, headers=headers, timeout=TIMEOUT_S)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as callers:
            for ask, is_kept, n_callers in CALLERS:
                for i in range(n_callers):
                    name = f"{ask.__name__}-{'kept' if is_kept else 'new'}"
                    callers.create_task(self._call(ask, is_kept, name, f"{name}-{i}"))

    async def _call(self, ask: Ask, is_kept: bool, name: str, tenant: str) -> None:
        client = self._client(tenant)
        while not self._stop.exists():
            await asyncio.sleep(PAUSE_S * random.uniform(0.8, 1.2))
            if not is_kept:
                await client.aclose()
                client = self._client(tenant)
            began = time.monotonic()
            self.asked[name] += 1
            try:
                await ask(client)
            except Exception as problem:
                after_s = time.monotonic() - began
                self._fail(f"{name}, at {time.strftime('%H:%M:%S')}, after {after_s:.2f} s: {problem!r}")
            self.seconds.append(time.monotonic() - began)
        await client.aclose()

    def _fail(self, failure: str) -> None:
        self.failures.append(failure)
        print(failure, flush=True)


def main() -> None:
    url, stop = sys.argv[1:]
    load = Load(url, Path(stop))
    began = time.monotonic()
    asyncio.run(load.run())
    report = {
        "requests": sum(load.asked.values()),
        "failures": load.failures,
        "seconds": round(time.monotonic() - began),
        "closing": closing,
        "slowest_s": round(max(load.seconds), 2),
        "by_kind": load.asked,
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
