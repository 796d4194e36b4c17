"""The tokens of a generation: reserved before it, counted while it runs, the rest given back after it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from adaptive_lora.types import GenerateRequest, Prompt, TokenChunk

if TYPE_CHECKING:
    from adaptive_lora.serving.quotas.limiter import Grant

BYTES_PER_TOKEN: Final = 3
"""Fewer than texts have on average (English about 4), so that a prompt is rather over-estimated."""
TOKENS_PER_MESSAGE: Final = 8
"""A chat template's own."""


async def metered(
    chunks: AsyncGenerator[TokenChunk, None], request: GenerateRequest, grant: Grant, *, max_model_len: int
) -> AsyncGenerator[TokenChunk, None]:
    """`chunks`, once their tokens are reserved. Raises what `Grant.tokens` raises, before the first."""
    async with aclosing(chunks), grant.tokens(most_tokens(request, max_model_len)) as reservation:
        n_prompt_tokens = 0
        async for chunk in chunks:
            reservation.spend(chunk.n_tokens + max(0, chunk.n_prompt_tokens - n_prompt_tokens))
            n_prompt_tokens = max(n_prompt_tokens, chunk.n_prompt_tokens)
            yield chunk


def most_tokens(request: GenerateRequest, max_model_len: int) -> int:
    """What a request may take: its prompt, by estimate, and max_tokens for each choice, within the
    context."""
    n_prompt = min(estimated_tokens(request.prompt), max_model_len)
    sampling = request.sampling
    return n_prompt + sampling.n * min(sampling.max_tokens, max_model_len - n_prompt)


def estimated_tokens(prompt: Prompt) -> int:
    """Counting them would cost more than the limit is worth; the engine's own count is charged in the end."""
    if isinstance(prompt, str):
        return 1 + len(prompt.encode()) // BYTES_PER_TOKEN
    return sum(TOKENS_PER_MESSAGE + estimated_tokens(message.content) for message in prompt)
