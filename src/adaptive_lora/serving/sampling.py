"""From the wire's fields to a prompt and a `SamplingConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptive_lora.errors import InvalidRequest
from adaptive_lora.serving.schemas.common import Sampling
from adaptive_lora.types import ChatMessage, Prompt, SamplingConfig

_SAME = (
    "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "min_tokens", "ignore_eos",
)  # fmt: skip


def to_sampling(
    body: Sampling,
    *,
    max_tokens: int,
    n: int = 1,
    logprobs: int | None = None,
    json_schema: Mapping[str, Any] | None = None,
) -> SamplingConfig:
    """Fields that the caller left out keep `SamplingConfig`'s defaults. Raises InvalidRequest for
    contradictions."""
    temperature = body.temperature
    if temperature is None:
        temperature = 0.0 if n == 1 else 1.0
    if temperature == 0 and n > 1:
        raise InvalidRequest("n greater than 1 needs a temperature above 0: greedy choices are all the same")
    if (body.min_tokens or 0) > max_tokens:
        raise InvalidRequest("min_tokens is greater than max_tokens")
    stop = body.stop if body.stop is not None else ()
    given = {name: value for name in _SAME if (value := getattr(body, name)) is not None}
    return SamplingConfig(
        max_tokens=max_tokens,
        temperature=temperature,
        n=n,
        logprobs=logprobs,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        json_schema=json_schema,
        **given,
    )


def as_prompt(text: str, *, raw: bool) -> Prompt:
    """A user's turn, which a base model without a chat template reads as plain text; the text itself if
    `raw`."""
    return text if raw else (ChatMessage("user", text),)
