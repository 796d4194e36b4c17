"""A steady load on several gateways: requests at fixed moments, whatever becomes of those before."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

NO_ANSWER_S = 60.0
"""A request that has no answer by then hangs: many times its deadline."""


@dataclass
class SteadyLoad:
    """What became of each request, by its number: "200", "503 overloaded", or what broke."""

    urls: Sequence[str]
    headers: dict[str, str]
    every_s: float = 0.04
    outcomes: dict[int, str] = field(default_factory=dict)
    _n_sent: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ends when every request has its answer."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(headers=self.headers, timeout=NO_ANSWER_S, limits=limits) as client:
            sender = asyncio.create_task(self._send(client))
            try:
                yield
            finally:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)
                await asyncio.gather(*self._tasks)

    async def more(self, n: int = 50) -> Counter[str]:
        """The outcomes of the next `n` requests that are sent from now on."""
        numbers = range(self._n_sent, self._n_sent + n)
        while not all(number in self.outcomes for number in numbers):  # noqa: ASYNC110 - many tasks fill it
            await asyncio.sleep(0.02)
        return Counter(self.outcomes[number] for number in numbers)

    async def _send(self, client: httpx.AsyncClient) -> None:
        for n in itertools.count():
            url = self.urls[n % len(self.urls)]
            # Every third prompt is new: the others are kept answers, or generations in flight.
            prompt = f"prompt {n if n % 3 == 0 else n % 7}"
            task = asyncio.create_task(self._ask(client, n, url, {"prompt": prompt, "max_tokens": 8}))
            self._n_sent = n + 1
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(self.every_s)

    async def _ask(self, client: httpx.AsyncClient, n: int, url: str, body: dict[str, Any]) -> None:
        try:
            answer = await client.post(f"{url}/generate", json=body)
        except httpx.HTTPError as error:
            self.outcomes[n] = type(error).__name__
            return
        code = "" if answer.status_code == 200 else f" {answer.json()['error']['code']}"
        self.outcomes[n] = f"{answer.status_code}{code}"
