"""What an answer says about the caller's limits.

    x-ratelimit-limit              requests a minute
    x-ratelimit-remaining          requests that may be made at once now
    x-ratelimit-reset              seconds until the whole burst is there again
    x-ratelimit-limit-tokens, -remaining-tokens, -reset-tokens     the same, of tokens

Where several limits apply, those of the one that leaves least. Seconds are whole, and rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from adaptive_lora.errors import Overloaded, RateLimited
from adaptive_lora.serving.quotas.checks import RateCheck, Verdict

_SUFFIXES = {"requests": b"", "tokens": b"-tokens"}

MAX_CLIENT_WAIT_S = 60.0
"""OpenAI's clients wait for no longer, and try again all the same unless told not to."""


def rate_headers(verdicts: Sequence[Verdict]) -> list[tuple[bytes, bytes]]:
    headers: list[tuple[bytes, bytes]] = []
    for reason, suffix in _SUFFIXES.items():
        latest = next(filter(None, (_states(verdict, reason) for verdict in reversed(verdicts))), None)
        if latest:
            remaining, reset_s, limit = min(latest)
            headers += [
                (b"x-ratelimit-limit" + suffix, b"%d" % limit),
                (b"x-ratelimit-remaining" + suffix, b"%d" % remaining),
                (b"x-ratelimit-reset" + suffix, b"%d" % reset_s),
            ]
    return headers


def retry_headers(error: RateLimited | Overloaded) -> dict[str, str]:
    """When to try again: whole seconds, and the milliseconds that OpenAI's clients prefer."""
    headers = {
        "retry-after": str(max(1, math.ceil(error.retry_after_s))),
        "retry-after-ms": str(math.ceil(error.retry_after_s * 1000)),
    }
    if error.retry_after_s > MAX_CLIENT_WAIT_S:
        headers["x-should-retry"] = "false"
    return headers


def _states(verdict: Verdict, reason: str) -> list[tuple[int, int, int]]:
    """(remaining, seconds to reset, limit) after the verdict."""
    states = []
    for check, reading in zip(verdict.checks, verdict.readings, strict=True):
        if isinstance(check, RateCheck) and check.reason == reason:
            after = reading
            if not verdict.denied:
                after = check.taken_us(reading, verdict.now_us)
            reset_s = math.ceil(check.reset_us(after, verdict.now_us) / 1e6)
            states.append((check.remaining(after, verdict.now_us), reset_s, check.per_minute))
    return states
