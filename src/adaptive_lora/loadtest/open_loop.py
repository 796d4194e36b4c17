"""Arrivals of an open loop: nobody waits for the answer to somebody else's request before asking.

A closed loop (so many clients, each asking again when it has its answer) asks less the slower the server
is, and so hides the queue that independent callers would stand in.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterator
from typing import Any, Protocol

GRACE_S = 1.0
"""For requests that are cancelled to say that they were."""


def poisson(rate: float, seconds: float, rng: random.Random) -> Iterator[float]:
    """Moments in [0, seconds) of a Poisson process of `rate` a second, in order."""
    at_s = rng.expovariate(rate)
    while at_s < seconds:
        yield at_s
        at_s += rng.expovariate(rate)


class Send(Protocol):
    """Sends what is due at `at_s` after the start, which was at `started` on the loop's clock."""

    def __call__(self, at_s: float, started: float, /) -> Coroutine[Any, Any, None]: ...


async def open_loop(
    arrivals: Iterator[float],
    send: Send,
    *,
    max_in_flight: int | None = None,
    stop: asyncio.Event | None = None,
) -> bool:
    """Send at each moment, late rather than never, and return when all have ended. False if it ended early:

    more than `max_in_flight` are unanswered: nothing more is sent, and those are waited for;
    `stop` is set: those unanswered are cancelled.
    """
    loop = asyncio.get_running_loop()
    stop = stop or asyncio.Event()
    running: set[asyncio.Task[None]] = set()
    started = loop.time()
    complete = True
    try:
        for at_s in arrivals:
            if not await _sleep_until(started + at_s, stop):
                break
            if max_in_flight is not None and len(running) >= max_in_flight:
                complete = False
                break
            task = loop.create_task(send(at_s, started))
            running.add(task)
            task.add_done_callback(running.discard)
        stopping = loop.create_task(stop.wait())
        try:
            while running and not stop.is_set():
                await asyncio.wait([*running, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
    finally:
        left = set(running)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=GRACE_S)
    return complete and not stop.is_set()


async def _sleep_until(at: float, stop: asyncio.Event) -> bool:
    """False if `stop` was set meanwhile. Gives way to others even when late."""
    delay = at - asyncio.get_running_loop().time()
    if delay <= 0:
        await asyncio.sleep(0)
        return not stop.is_set()
    try:
        async with asyncio.timeout(delay):
            await stop.wait()
    except TimeoutError:
        return True
    return False
