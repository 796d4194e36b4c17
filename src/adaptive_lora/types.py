"""Values that cross rooms. Frozen, plain, without behaviour beyond what is derived from their own fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

BASE = "base"
"""The plain base model's name, wherever an agent's name may stand."""

FinishReason = Literal["stop", "length", "abort"]

Reason = Literal["routed", "abstained", "learned", "composed", "explicit", "no_candidates"]
"""The router's choice; the base in its place; another agent, or the base, for its better outcomes; a
composition of the possible agents that is known to beat each of them; the caller's choice; nobody to choose
from."""

Doubt = Literal["unfamiliar", "unsure", "parts_disagree", "provisional"]
"""Why the base answers instead of the most probable agent: the prompt is like none of its examples; the
choice is unsure; parts of the prompt are for different agents; the agent has too few examples yet."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation, text only."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = str | tuple[ChatMessage, ...]
"""A raw prompt, continued as it stands; or a conversation, rendered by the base model's own chat template."""


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How to sample. Names and meanings are vLLM's; `None` leaves vLLM's default.

    `temperature` 0 is greedy. `logprobs`: alternatives per token, 0 for the sampled token only.
    """

    max_tokens: int = 256
    min_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    ignore_eos: bool = False
    json_schema: Mapping[str, Any] | None = None
    """Structured output: the text is a JSON value that the schema accepts. `{}` accepts any JSON object."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What an engine is asked to generate. `adapter_id` is an `AdapterVersion.id`, or None for the base.

    Requests share cached prefixes of prompts only with those of the same `cache_salt` (lower-case
    hexadecimal; None is a salt, too). It changes no token.
    """

    request_id: str
    prompt: Prompt
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    adapter_id: str | None = None
    cache_salt: str | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()
    """Alternatives as (token, logprob), most likely first."""


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """A piece of one choice's text, in order. The last chunk of each choice has a `finish_reason`."""

    index: int
    text: str
    n_tokens: int
    n_prompt_tokens: int
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished choice of one request."""

    index: int
    text: str
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt of an adapter's trade, and an answer that it should find likelier than the base does."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One immutable, content-addressed version of an adapter; new weights are a new version."""

    name: str
    version: str
    """First 12 hex digits of the SHA-256 over the manifest's names and file hashes."""
    path: Path
    rank: int
    description: str
    examples: tuple[str, ...]
    size_bytes: int
    probes: tuple[Probe, ...] = ()

    @property
    def id(self) -> str:
        """What the engine knows it by; unique per content."""
        return f"{self.name}@{self.version}"


Residency = Literal["slot", "host", "disk"]
"""Where an adapter's weights are: in a slot, ready to run; in the engine's host memory, a copy away; or on
disk alone, or not known."""


class Prober(Protocol):
    """What the effect checks need of an engine (every `Engine` is one)."""

    async def answer_logprobs(
        self, prompt: Prompt, answer: str, adapter_id: str | None = None
    ) -> tuple[float, ...]:
        """Log-probability of each token of `answer` as the continuation of `prompt` (teacher forcing).

        Raises UnknownAdapter, PromptTooLong, and InvalidRequest if `answer` is empty.
        """
        ...


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """An accelerator's memory, in bytes."""

    worker: str
    """Whose it is: the rank in its engine, or a remote worker's URL and that."""
    device: str
    """In that worker, "cuda:0" and the like."""
    allocated: int
    """By tensors of that worker."""
    reserved: int
    """By its allocator, tensors included."""
    total: int
    free: int
    """On the device, whoever uses the rest."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of the engine. `None` where this kind of engine cannot know."""

    running: int
    waiting: int
    kv_cache_usage: float | None
    """Share of the KV cache in use, 0..1."""
    gpu_memory_usage: float | None
    """Share of the accelerator's memory in use, 0..1; None without an accelerator."""
    loaded_adapters: int
    n_preemptions: int | None = None
    """Since the engine started: requests put back into its queue for want of KV cache."""
    workers: Mapping[Literal["usable", "away"], int] | None = None
    """Those of a pool; None without one."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How an agent takes part in routing."""

    routing: Literal["routed", "provisional", "explicit_only"]
    """Prompts are routed to it; or it is scored, but answers explicit calls only until it has enough
    examples; or the router does not know it."""
    missing: str | None = None
    """What it lacks, and what to do."""


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """Which agent answers, how sure the router is, and why."""

    agent: str
    """An adapter's name, or `BASE`."""
    confidence: float
    """Calibrated probability that `agent` is right, 0..1."""
    reason: Reason
    scores: Mapping[str, float]
    """Calibrated probability per candidate; sums to 1. Empty when the choice was explicit."""
    doubt: Doubt | None = None
    """Set if the reason is "abstained"."""
    candidates: tuple[str, ...] = ()
    """The agents among which the right one is, with calibrated probability; most probable first. Empty if the
    prompt is unfamiliar, or the choice was explicit."""
    explanation: Mapping[str, Any] = field(default_factory=dict)
