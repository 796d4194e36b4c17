"""One request of `POST /generate` as a stream, timed from when it was to be sent.

A request that is sent late has waited all the same: counted from its sending, a generator or a server that
stalls would hide the very latencies that the stall has caused (coordinated omission).
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import aiohttp

from adaptive_lora.loadtest.workload import Ask

FIRST_TOKEN = b"event: token"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended. Times in seconds; `at_s` from the start of the load, the others from `at_s`."""

    agent: str
    at_s: float
    lag_s: float
    """How late it was sent: the generator's fault, not the server's."""
    end_s: float
    ttft_s: float | None = None
    itl_s: float | None = None
    """Mean time per token after the first; None if there is only one."""
    n_tokens: int = 0
    answered_by: str | None = None
    error: str | None = None
    """The server's error code, or connection, timeout, cut_off (a stream without its end), http_<status>."""


@dataclass(slots=True)
class _Stream:
    """What has been read of a stream of events."""

    first_at: float | None = None
    last_at: float | None = None
    rest: bytes = b""
    done: dict[str, Any] | None = None
    error: str | None = None

    def feed(self, data: bytes, now: float) -> None:
        *events, self.rest = (self.rest + data).split(b"\n\n")
        for event in events:
            if event.startswith(FIRST_TOKEN):
                self.first_at = self.first_at or now
                self.last_at = now
            elif event.startswith(b"event: done"):
                self.done = _fields(event)
            elif event.startswith(b"event: error"):
                self.error = _code(_fields(event)) or "error"


class Client:
    """Asks one server. `session` has its URL and credentials."""

    def __init__(self, session: aiohttp.ClientSession, *, timeout_s: float, ignore_eos: bool = False) -> None:
        self._session = session
        self._timeout_s = timeout_s
        self._options: dict[str, Any] = {"stream": True, "temperature": 0.0}
        if ignore_eos:
            self._options["ignore_eos"] = True

    async def ask(self, ask: Ask, at_s: float, started: float) -> Outcome:
        """Never raises for what the server or the network does: that is the outcome."""
        now = asyncio.get_running_loop().time
        due = started + at_s
        lag_s = now() - due
        stream = _Stream()
        try:
            async with asyncio.timeout_at(due + self._timeout_s):
                error = await self._read(ask, stream)
        except TimeoutError:
            error = "timeout"
        except (aiohttp.ClientError, OSError):
            error = "connection" if stream.first_at is None else "cut_off"
        ended = now() - due
        if error is not None:
            return Outcome(ask.agent, at_s, lag_s, ended, error=error)
        done = stream.done or {}
        n_tokens = int(done["usage"]["completion_tokens"])
        first = ended if stream.first_at is None else stream.first_at - due
        itl_s = None
        if n_tokens > 1 and stream.first_at is not None and stream.last_at is not None:
            itl_s = (stream.last_at - stream.first_at) / (n_tokens - 1)
        return Outcome(ask.agent, at_s, lag_s, ended, first, itl_s, n_tokens, done["adapter"])

    async def _read(self, ask: Ask, stream: _Stream) -> str | None:
        now = asyncio.get_running_loop().time
        body = self._options | {"prompt": ask.prompt, "adapter": ask.agent, "max_tokens": ask.max_tokens}
        async with self._session.post("generate", json=body) as reply:
            if reply.status != 200:
                return _code(_json(await reply.read())) or f"http_{reply.status}"
            async for data in reply.content.iter_any():
                stream.feed(data, now())
        if stream.error is not None:
            return stream.error
        match stream.done:
            case {"usage": {"completion_tokens": int()}, "adapter": str()}:
                return None
        return "cut_off"


def _fields(event: bytes) -> Any:
    return _json(event.partition(b"data: ")[2])


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _code(body: Any) -> str | None:
    match body:
        case {"error": {"code": str(code)}}:
            return code[:64]
    return None
