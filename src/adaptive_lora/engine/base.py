"""The contract of every engine; `tests/engine/conformance.py` holds all implementations to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from adaptive_lora.types import (
    AdapterVersion,
    Completion,
    DeviceMemory,
    EngineStats,
    GenerateRequest,
    Prompt,
    Residency,
    SamplingConfig,
    TokenChunk,
)


@runtime_checkable
class Engine(Protocol):
    """Generates tokens with the base model or any loaded adapter, all in one heterogeneous batch.

    Life cycle: `start` once, then anything in any order from one event loop, then `stop` once. Before `start`
    has returned and after `stop`, every other method raises EngineNotReady; once the engine's process has
    died, EngineDead.
    """

    model_name: str
    max_model_len: int
    """Context length in tokens, prompt and completion together. Known once started."""

    @property
    def adapters(self) -> Mapping[str, AdapterVersion]:
        """Adapters that may be asked for, by `AdapterVersion.id`. A read-only view."""
        ...

    async def start(self) -> None:
        """Load the base model. Never blocks the event loop for long: heavy imports run elsewhere."""
        ...

    async def stop(self) -> None:
        """Abort what runs, free everything. Idempotent."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        """Stream the chunks of all `sampling.n` choices, interleaved, each choice in order.

        Each choice ends with exactly one chunk that has a `finish_reason`; then the iterator ends. Closing
        the iterator early (or cancelling the task that reads it) aborts the request in the engine.
        Raises UnknownAdapter if `adapter_id` is not loaded (the base never answers in its place),
        PromptTooLong if the prompt leaves no room for one token, InvalidRequest for parameters that the
        engine refuses, Overloaded if it takes no more.
        """
        ...

    async def generate_batch(
        self,
        prompts: Sequence[Prompt],
        config: SamplingConfig | None = None,
        adapter_ids: Sequence[str | None] | None = None,
    ) -> list[Completion]:
        """Complete every prompt, in order, first choice each. `adapter_ids` per prompt; None is the base."""
        ...

    async def answer_logprobs(
        self, prompt: Prompt, answer: str, adapter_id: str | None = None
    ) -> tuple[float, ...]:
        """Log-probability of each token of `answer` as the continuation of `prompt` (teacher forcing).

        Raises UnknownAdapter, PromptTooLong, and InvalidRequest if `answer` is empty.
        """
        ...

    async def load(self, adapter: AdapterVersion) -> None:
        """Make `adapter` available. Idempotent. Raises AdapterError if the engine refuses the files."""
        ...

    async def unload(self, adapter_id: str) -> None:
        """Forget the adapter and free its memory. Requests that run with it finish. Raises UnknownAdapter."""
        ...

    async def pin(self, adapter_id: str) -> None:
        """Keep the adapter resident; it is never evicted for another. Idempotent. Raises UnknownAdapter,
        and Unsupported if no slot would be left for the others."""
        ...

    async def unpin(self, adapter_id: str) -> None:
        """Let the adapter be evicted again. Idempotent. Raises UnknownAdapter."""
        ...

    async def residency(self) -> Mapping[str, Residency]:
        """Where each loaded adapter's weights are, by id. Cheap; as of the engine's last step."""
        ...

    async def list(self) -> list[AdapterVersion]:
        """The loaded adapters, sorted by id."""
        ...

    async def abort(self, request_id: str) -> None:
        """Stop a request: every unfinished choice ends with finish_reason "abort". Unknown id: no-op."""
        ...

    async def stats(self) -> EngineStats:
        """A snapshot for metrics and admission. Cheap."""
        ...

    async def device_memory(self) -> Sequence[DeviceMemory]:
        """The memory of each accelerator that the engine computes on, as its workers see it.

        Raises Unsupported, with the reason, where there is none or nobody can tell.
        """
        ...

    async def count_tokens(self, prompt: Prompt) -> int:
        """Length of the prompt in tokens, as `generate` would see it."""
        ...
