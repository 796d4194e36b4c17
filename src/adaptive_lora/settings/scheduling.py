"""What enters the engine when: the batch, callers' queues, adapters' slots, work in the background."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from adaptive_lora.settings.section import Section


class InferenceSettings(Section):
    max_batch_size: int = Field(
        32, ge=1, description="sequences that the engine runs at once (vLLM's max_num_seqs)"
    )
    enable_streaming: bool = Field(
        True, description="answer stream=true; when false such requests are refused"
    )
    cache_enabled: bool = Field(
        False, description="keep repeatable answers, and generate one for identical requests at once"
    )


class QueueSettings(Section):
    """Whose turn it is, when more is asked for than the engine runs at once: tenants take turns by the tokens
    that they use."""

    max_per_tenant: int = Field(
        256, ge=1, description="generations of one tenant that wait; beyond it 429 with Retry-After"
    )
    window: int | None = Field(
        None,
        ge=1,
        description="sequences that are let into the engine at once, running and standing ready; default: "
        "inference.max_batch_size times 1.5, times 4 if there are more adapters than slots; of workers, "
        "inference.max_batch_size of each times 2",
    )
    batch_share: float = Field(
        0.75,
        gt=0,
        le=1,
        description="share of the sequences that the engine runs at once which work of low priority may take",
    )
    weights: dict[str, float] = Field(
        {},
        description="by tier, how much its tenants get beside those of weight 1: {gold: 4}; a variable has "
        "JSON",
    )

    @field_validator("weights")
    @classmethod
    def _are_weights(cls, weights: dict[str, float]) -> dict[str, float]:
        for tier, weight in weights.items():
            if not 0.001 <= weight <= 1000:
                raise ValueError(f"the weight of {tier!r} must be from 0.001 to 1000")
        return weights


class AdmissionSettings(Section):
    """Who enters an engine in this process, when more adapters are asked for than have slots."""

    policy: Literal["residency", "fifo"] = Field(
        "residency",
        description="'residency': whose adapter is in the batch or in a slot goes first; 'fifo': by age",
    )
    max_wait_rounds: int = Field(
        256, ge=0, description="later requests for other adapters that may go before an earlier one"
    )
    prefetch: bool = Field(
        True, description="read adapters that are next, and on disk alone, while others run"
    )


class BatchesSettings(Section):
    """OpenAI's files and batches, which are answered in the background."""

    max_in_flight: int = Field(
        8,
        ge=0,
        le=256,
        description="requests of batches that this gateway has in flight; 0 leaves batches to other gateways",
    )
    max_requests: int = Field(50_000, ge=1, le=100_000, description="requests of one batch")
    max_unfinished: int = Field(16, ge=1, le=1_000, description="batches of a tenant that have not ended")
    max_file_bytes: int = Field(
        200_000_000, ge=1_000, le=1_000_000_000, description="largest file that is uploaded, in bytes"
    )
    max_stored_bytes: int = Field(
        2_000_000_000,
        ge=1_000,
        description="all files of a tenant, in bytes; outputs count, and are never refused",
    )
    retention: float = Field(
        30 * 86_400.0,
        ge=3_600,
        le=365 * 86_400,
        description="seconds that files, and batches that have ended, are kept",
    )
    takeover: float = Field(
        30.0,
        ge=1,
        le=600,
        description="seconds without a sign of life after which another gateway takes a batch over",
    )
