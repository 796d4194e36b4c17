"""The open loop: nobody waits for the answer to somebody else's request."""

from __future__ import annotations

import asyncio

from adaptive_lora.loadtest.open_loop import open_loop


class Sender:
    """Requests that end when they are told to."""

    def __init__(self) -> None:
        self.sent: list[float] = []
        self.cancelled: list[float] = []
        self.answer = asyncio.Event()

    async def __call__(self, at_s: float, started: float, /) -> None:
        self.sent.append(at_s)
        try:
            await self.answer.wait()
        except asyncio.CancelledError:
            self.cancelled.append(at_s)
            raise


async def test_all_are_sent_before_any_is_answered() -> None:
    send = Sender()
    moments = [0.001 * i for i in range(20)]
    loop = asyncio.create_task(open_loop(iter(moments), send))
    while len(send.sent) < len(moments):  # noqa: ASYNC110 - other tasks fill it
        await asyncio.sleep(0.001)
    assert not loop.done()
    send.answer.set()
    assert await loop
    assert send.sent == moments


async def test_a_late_loop_sends_the_same() -> None:
    """As when the machine was busy: every moment is in the past, and each knows how long ago."""
    send = Sender()
    send.answer.set()
    moments = [-3.0, -2.0, -1.0]
    assert await open_loop(iter(moments), send)
    assert send.sent == moments


async def test_too_many_unanswered_end_it() -> None:
    send = Sender()
    loop = asyncio.create_task(open_loop(iter([0.0] * 50), send, max_in_flight=7))
    while len(send.sent) < 7:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    send.answer.set()
    assert not await loop
    assert len(send.sent) == 7
    assert not send.cancelled


async def test_stopping_cancels_what_runs_and_sends_no_more() -> None:
    send, stop = Sender(), asyncio.Event()
    loop = asyncio.create_task(open_loop(iter([0.0, 0.0, 3600.0]), send, stop=stop))
    while len(send.sent) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    stop.set()
    assert not await loop
    assert send.sent == send.cancelled == [0.0, 0.0]


async def test_stopping_while_the_last_are_waited_for() -> None:
    send, stop = Sender(), asyncio.Event()
    loop = asyncio.create_task(open_loop(iter([0.0]), send, stop=stop))
    while not send.sent:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    stop.set()
    assert not await loop
    assert send.cancelled == [0.0]
