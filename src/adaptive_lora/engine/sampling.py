"""Between our sampling parameters and outputs and vLLM's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adaptive_lora.errors import EngineError, InvalidRequest
from adaptive_lora.types import FinishReason, SamplingConfig, TokenLogprob

if TYPE_CHECKING:
    from vllm import SamplingParams

FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "abort": "abort",
    "repetition": "stop",
}
"""vLLM's, as ours; without those of requests that failed."""

_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] /[^ ]+\.cc:\d+: ")


def to_vllm(config: SamplingConfig, room: int) -> SamplingParams:
    """vLLM's parameters for one request with `room` tokens of context left. Deltas only.

    Raises InvalidRequest for values out of range.
    """
    from vllm.exceptions import VLLMClientError
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

    structured = None
    max_tokens = min(config.max_tokens, room)
    try:
        if config.json_schema is not None:
            structured = StructuredOutputsParams(json=dict(config.json_schema) or {"type": "object"})
        return SamplingParams(
            n=config.n,
            max_tokens=max_tokens,
            min_tokens=min(config.min_tokens, max_tokens) if max_tokens == room else config.min_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            min_p=config.min_p,
            seed=config.seed,
            stop=list(config.stop),
            logprobs=config.logprobs,
            presence_penalty=config.presence_penalty,
            frequency_penalty=config.frequency_penalty,
            repetition_penalty=config.repetition_penalty,
            ignore_eos=config.ignore_eos,
            structured_outputs=structured,
            output_kind=RequestOutputKind.DELTA,
        )
    except (ValueError, TypeError, VLLMClientError) as error:
        raise invalid(error) from error


def scoring() -> SamplingParams:
    """vLLM's parameters for reading off the log-probabilities of a given text; one token is generated and
    dropped, since vLLM generates at least one."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        max_tokens=1, temperature=0.0, prompt_logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY
    )


def invalid(error: Exception | str) -> InvalidRequest:
    """vLLM's complaint about a parameter, as ours: the first line, not longer than a line should be, and
    without the place in xgrammar's source."""
    first = _PLACE.sub("", next(iter(str(error).splitlines()), ""))
    return InvalidRequest(f"the engine refuses the request: {first[:300]}")


def unfit_schema() -> InvalidRequest:
    return InvalidRequest("the engine cannot follow the JSON schema: no text fits it, or it is too large")


def finish_reason(reason: str | None, *, structured: bool) -> FinishReason | None:
    """vLLM's reason as ours; `structured`: the request has a JSON schema.

    Raises EngineError if the request failed inside the engine, InvalidRequest if its grammar did: vLLM
    compiles that after it has taken the request, and ends the request alone if that fails or nothing fits.
    """
    if reason is None:
        return None
    if reason not in FINISH_REASONS:
        if structured:
            raise unfit_schema()
        raise EngineError("the engine failed to finish the request; see the server's log")
    return FINISH_REASONS[reason]


def token_logprobs(
    token_ids: Sequence[int], logprobs: Sequence[Mapping[int, Any]] | None, n: int | None
) -> tuple[TokenLogprob, ...] | None:
    """vLLM's log-probabilities of one delta; None if the request asked for none. `n` is
    `SamplingConfig.logprobs`."""
    if n is None or logprobs is None:
        return None
    result = []
    for token_id, alternatives in zip(token_ids, logprobs, strict=True):
        sampled = alternatives[token_id]
        ranked = sorted(alternatives.values(), key=lambda a: -a.logprob)[:n]
        result.append(
            TokenLogprob(
                token=sampled.decoded_token or "",
                logprob=sampled.logprob,
                top=tuple((a.decoded_token or "", a.logprob) for a in ranked),
            )
        )
    return tuple(result)
