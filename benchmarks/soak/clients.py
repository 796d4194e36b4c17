"""Clients that speak HTTP as one should, some of which leave in the middle. Each returns how it ended:

done        a whole answer, or a stream with its last event
refused     429, 503: told to come back
error       an explicit error: 504, or an error event
cancelled   the client went away
silent      a stream that ended without a word: never allowed
internal    500: never allowed
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import aiohttp

AGENTS = ("auto", "base", "code", "creative", "reasoning", "analysis")
PROMPTS = (
    "Tom has {a} apples and buys {b} more. How many apples has he now?",
    "Write a function that adds {a} to a number.",
    "Write a line about the {a} stars above the sea.",
    "Which day is {a} days after Monday, and how many are {b}?",
    "Once upon a time there were {a} sheep and {b} wolves.",
)
REFUSED = (429, 503)


class Clients:
    """Those of one server. `agents` are the names that may be asked for."""

    def __init__(self, session: aiohttp.ClientSession, agents: tuple[str, ...], *, max_tokens: int) -> None:
        self._session = session
        self._agents = agents
        self._max_tokens = max_tokens

    async def whole(self, rng: random.Random) -> str:
        path, body = self._request(rng)
        return await self._whole(path, body)

    async def stream(self, rng: random.Random) -> str:
        path, body = self._request(rng)
        return await self._stream(path, body)

    async def batch(self, rng: random.Random) -> str:
        n = rng.randint(2, 6)
        prompts = [_prompt(rng) for _ in range(n)]
        body = {"prompts": prompts, "max_tokens": self._n_tokens(rng), "adapter": rng.choice(self._agents)}
        return await self._whole("/generate/batch", body)

    async def look(self, rng: random.Random) -> str:
        async with self._session.get(rng.choice(["/v1/models", "/health", "/metrics"])) as answer:
            await answer.read()
            return _kind(answer.status)

    async def cancel(self, rng: random.Random) -> str:
        """Go away after a random time: before the answer, or in the middle of a stream."""
        path, body = self._request(rng)
        ask = self._stream(path, body) if rng.random() < 0.7 else self._whole(path, body)
        task = asyncio.ensure_future(ask)
        done, _ = await asyncio.wait([task], timeout=rng.uniform(0, 1.0))
        if done:
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return "cancelled"

    async def _whole(self, path: str, body: dict[str, Any]) -> str:
        async with self._session.post(path, json=body) as answer:
            await answer.read()
            return _kind(answer.status)

    async def _stream(self, path: str, body: dict[str, Any]) -> str:
        async with self._session.post(path, json=body | {"stream": True}) as answer:
            text = (await answer.read()).decode()
            if answer.status != 200:
                return _kind(answer.status)
        last = text.rstrip().rpartition("\n\n")[2]
        if last.startswith("event: done") or last == "data: [DONE]":
            return "done"
        return "error" if '"error"' in last else "silent"

    def _request(self, rng: random.Random) -> tuple[str, dict[str, Any]]:
        agent, prompt, n_tokens = rng.choice(self._agents), _prompt(rng), self._n_tokens(rng)
        match rng.randrange(3):
            case 0:
                return "/generate", {"prompt": prompt, "adapter": agent, "max_tokens": n_tokens}
            case 1:
                messages = [{"role": "user", "content": prompt}]
                return "/v1/chat/completions", {"model": agent, "messages": messages, "max_tokens": n_tokens}
            case _:
                return "/v1/completions", {"model": agent, "prompt": prompt, "max_tokens": n_tokens}

    def _n_tokens(self, rng: random.Random) -> int:
        return rng.randint(1, self._max_tokens)


def _prompt(rng: random.Random) -> str:
    return rng.choice(PROMPTS).format(a=rng.randint(1, 99), b=rng.randint(1, 99))


def _kind(status: int) -> str:
    if status == 200:
        return "done"
    if status in REFUSED:
        return "refused"
    return "internal" if status == 500 else "error" if status > 500 else f"status {status}"
