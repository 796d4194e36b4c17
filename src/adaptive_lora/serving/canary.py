"""Proof that an engine generates: a few tokens, from time to time and of every new adapter."""

from __future__ import annotations

import asyncio
import time
import uuid

from adaptive_lora.engine.base import Engine
from adaptive_lora.errors import EngineError
from adaptive_lora.serving.sampling import as_prompt
from adaptive_lora.types import AdapterVersion, GenerateRequest, SamplingConfig

CANARY_TIMEOUT_S = 60.0
CANARY_TOKENS = 4
CANARY_PROMPT = "What is 1 plus 1?"


class Canary:
    """Generates past all queues, and remembers when that last worked."""

    def __init__(self) -> None:
        self.proven_at: float | None = None
        """On the monotonic clock, in seconds; None before the first time."""

    async def prove(self, engine: Engine, version: AdapterVersion | None = None) -> None:
        """Of an adapter, or of the base model. Raises EngineError if nothing comes, or not in time."""
        text = version.examples[0] if version and version.examples else CANARY_PROMPT
        request = GenerateRequest(
            f"canary-{uuid.uuid4().hex}",
            as_prompt(text, raw=False),
            SamplingConfig(max_tokens=CANARY_TOKENS),
            version.id if version else None,
        )
        n_tokens = 0
        try:
            async with asyncio.timeout(CANARY_TIMEOUT_S):
                async for chunk in engine.generate(request):
                    n_tokens += chunk.n_tokens
        except TimeoutError:
            raise EngineError(f"a canary generation took longer than {CANARY_TIMEOUT_S:g} s") from None
        if not n_tokens:
            raise EngineError("a canary generation gave no token")
        self.proven_at = time.monotonic()
