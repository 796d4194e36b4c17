"""Who is told at once to come later, and when. Pure: the caller brings the time.

    429 RateLimited   the tenant has too many waiting, or its own earlier requests take too long
    503 Overloaded    others' requests would be served before it until its deadline has passed

The wait is predicted from the work ahead, in the order in which it will be done, and from the rate at which
work gets done. While that rate is not known nobody is refused for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from adaptive_lora.errors import AdaptiveLoraError, Overloaded, RateLimited
from adaptive_lora.serving.admission.fair import WorkAhead

RETRY_S: Final = 1.0
"""Where nothing better is known."""


@dataclass(frozen=True, slots=True)
class Refusal:
    reason: Literal["tenant_full", "tenant_wait", "system_wait"]
    error: AdaptiveLoraError
    """It says when the same request would be admitted, if nobody else came."""


def refusal_of(
    ahead: WorkAhead,
    tokens_per_s: float | None,
    *,
    n_waiting: int,
    max_waiting: int,
    time_left_s: float,
) -> Refusal | None:
    """Why a request may not wait. `n_waiting` are its tenant's, without it; `time_left_s` is until its
    deadline."""
    wait_s = None if tokens_per_s is None else (ahead.own + ahead.others) / tokens_per_s
    if n_waiting >= max_waiting:
        until_one_goes_s = RETRY_S if wait_s is None else wait_s / n_waiting
        text = f"{n_waiting} of your requests are waiting, which is the limit: try again when one has gone"
        return Refusal("tenant_full", RateLimited(text, retry_after_s=until_one_goes_s))
    if tokens_per_s is None or wait_s is None or wait_s <= time_left_s:
        return None
    late_s = wait_s - time_left_s
    if ahead.others / tokens_per_s > time_left_s:
        text = (
            f"the server is overloaded: its turn would come in about {wait_s:.0f} s, which is "
            "past this request's deadline"
        )
        return Refusal("system_wait", Overloaded(text, retry_after_s=late_s))
    text = (
        f"your earlier requests come first: the turn of this one would be in about {wait_s:.0f} s, past its "
        "deadline; send fewer at a time"
    )
    return Refusal("tenant_wait", RateLimited(text, retry_after_s=late_s))
