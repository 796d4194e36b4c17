"""The load: requests at random moments (Poisson), whatever becomes of those before, each of a random kind."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import aiohttp

from adaptive_lora.loadtest.open_loop import open_loop, poisson
from soak.clients import Clients
from soak.raw import HOLD_S, RawClients
from soak.server import TIMEOUT_S

Client = Callable[[random.Random], Awaitable[str]]

SLACK_S = 15.0
"""Past a request's time limit, on a busy machine; then it is stuck."""
LIMITS_S = {"slow_head": 10.0, "slow_body": 30.0, "no_reader": HOLD_S}
"""Of those that do not end by their deadline."""
SHARES = {
    "whole": 0.35,
    "stream": 0.35,
    "batch": 0.04,
    "look": 0.05,
    "cancel": 0.1,
    "slow_reader": 0.03,
    "no_reader": 0.01,
    "slow_head": 0.01,
    "slow_body": 0.01,
    "malformed": 0.05,
}


@dataclass
class Load:
    """The clients of one server, and how their requests have ended, by kind."""

    clients: Mapping[str, Client]
    rng: random.Random
    ends: dict[str, Counter[str]] = field(default_factory=dict)

    async def closed_loop(self, seconds: float, n_clients: int) -> float:
        """Requests per second that so many clients get done, of those kinds that want an answer."""
        n_done = 0
        until = time.monotonic() + seconds

        async def client() -> None:
            nonlocal n_done
            while time.monotonic() < until:
                await self._one(self.rng.choice(("whole", "stream")))
                n_done += 1

        started = time.monotonic()
        await asyncio.gather(*(client() for _ in range(n_clients)))
        return n_done / (time.monotonic() - started)

    async def open_loop(self, seconds: float, rate: float) -> None:
        """`rate` requests per second; returns when all have ended."""
        kinds, shares = list(SHARES), list(SHARES.values())

        async def send(at_s: float, started: float) -> None:
            await self._one(self.rng.choices(kinds, shares)[0])

        await open_loop(poisson(rate, seconds, self.rng), send)

    async def _one(self, kind: str) -> None:
        rng = random.Random(self.rng.random())
        try:
            async with asyncio.timeout(LIMITS_S.get(kind, TIMEOUT_S) + SLACK_S):
                end = await self.clients[kind](rng)
        except TimeoutError:
            end = "stuck"
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
            end = (
                "cut"
                if kind in ("malformed", "slow_head", "slow_body", "slow_reader")
                else f"broken: {error!r}"
            )
        self.ends.setdefault(kind, Counter())[end] += 1

    def count(self, *ends: str) -> int:
        """How many ended in one of these ways; "broken" has its reason behind it."""
        return sum(n for counts in self.ends.values() for end, n in counts.items() if end.startswith(ends))


def clients_of(session: aiohttp.ClientSession, agents: tuple[str, ...], raw: RawClients) -> dict[str, Client]:
    http = Clients(session, agents, max_tokens=32)
    return {
        **{name: getattr(http, name) for name in ("whole", "stream", "batch", "look", "cancel")},
        **{name: getattr(raw, name) for name in ("slow_reader", "no_reader", "slow_head", "slow_body")},
        "malformed": raw.malformed,
    }
