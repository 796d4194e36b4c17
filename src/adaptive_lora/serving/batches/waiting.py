"""How long a batch waits for what may pass."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from adaptive_lora.errors import AdaptiveLoraError, RateLimited, StorageError

T = TypeVar("T")
_log = logging.getLogger(__name__)

FIRST_WAIT_S: Final = 0.5
MAX_WAIT_S: Final = 30.0


def wait_s(error: AdaptiveLoraError, n_waits: int) -> float:
    """Longer each time, and never at the same moment as others."""
    seconds = float(min(FIRST_WAIT_S * 2 ** min(n_waits, 10), MAX_WAIT_S))
    if isinstance(error, RateLimited):
        seconds = max(seconds / 4, min(error.retry_after_s, MAX_WAIT_S))
    return seconds * random.uniform(0.8, 1.2)


async def patiently(what: str, work: Callable[[], Awaitable[T]]) -> T:
    """`work`, again and again while database or storage are away or full. Raises what else it raises."""
    n_waits = 0
    while True:
        try:
            return await work()
        except AdaptiveLoraError as error:
            if not error.retryable and not isinstance(error, StorageError):
                raise
            if n_waits == 0:
                _log.warning("%s waits: %s", what, error.message)
            seconds = wait_s(error, n_waits)
        n_waits += 1
        await asyncio.sleep(seconds)
