"""When a worker may be asked: a breaker, which a canary generation closes, never a caller's request.

closed ──▶ open ──▶ half_open ──▶ closed       closed: requests go there
             ▲           │                     open: nobody asks, for a pause that doubles
             └───────────┘                     half_open: one canary is out, and decides

`/health` is not asked: it says that a process runs, not that it generates.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from adaptive_lora.types import GenerateRequest, SamplingConfig

FAILURES_TO_OPEN = 3
"""In a row. A refused connection and a failed canary open at once: they leave no doubt."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0

CANARY_TOKENS = 2
"""Two: a prefill and a decoding step."""


class Breaker:
    """Of one worker. Born open and due: nothing is known of a worker before its first canary."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._n_failures = 0
        self._pause_s = 0.0
        self._opened_at = clock()
        self.state: Literal["closed", "open", "half_open"] = "open"

    def failed(self, *, at_once: bool = False) -> None:
        """A request or a canary failed for the worker's reason."""
        self._n_failures += 1
        if self.state == "half_open":
            self._open(min(max(2 * self._pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S))
        elif self.state == "closed" and (at_once or self._n_failures >= FAILURES_TO_OPEN):
            self._open(FIRST_PAUSE_S)

    def succeeded(self) -> None:
        """A request was answered, or the canary was. What was sent before it opened proves nothing."""
        if self.state == "open":
            return
        self.state = "closed"
        self._n_failures = 0

    def due_in_s(self) -> float:
        """How long until a canary may be sent; 0 if now. For an open breaker."""
        return max(self._opened_at + self._pause_s - self._clock(), 0.0)

    def probe(self) -> None:
        """A canary goes out; `succeeded` or `failed` says what came of it."""
        if self.state == "open":
            self.state = "half_open"

    def _open(self, pause_s: float) -> None:
        self.state = "open"
        self._pause_s = pause_s
        self._opened_at = self._clock()


def canary(request_id: str) -> GenerateRequest:
    """What a worker must be able to answer."""
    return GenerateRequest(request_id, "1 + 1 =", SamplingConfig(max_tokens=CANARY_TOKENS, ignore_eos=True))
