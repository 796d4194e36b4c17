"""From a name and a prompt to tokens: resolve, route, generate, and account for it.

Every request ends in exactly one way: its stream ends after the last chunk (done), it raises (error), or its
reader goes away (aborted). `telemetry` counts each once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from adaptive_lora.agents.names import Agent, AgentName, Auto, Base, Composition
from adaptive_lora.agents.plan import Plan
from adaptive_lora.engine.base import Engine
from adaptive_lora.errors import (
    AdaptiveLoraError,
    DeadlineExceeded,
    EngineError,
    RequestAborted,
    UnknownAdapter,
    Unsupported,
)
from adaptive_lora.telemetry.metrics import Metrics
from adaptive_lora.types import (
    BASE,
    AdapterVersion,
    Completion,
    GenerateRequest,
    Prompt,
    RouteDecision,
    Standing,
    TokenChunk,
    TokenLogprob,
    Usage,
)

_log = logging.getLogger(__name__)


class Routes(Protocol):
    """What the orchestrator needs of a router (`adaptive_lora.router.router.Router` is one)."""

    def route(
        self, prompt: str, candidates: Sequence[str] | None = None, *, explain: bool = False
    ) -> RouteDecision: ...

    def standing(self, agent: str) -> Standing: ...


def routing_text(prompt: Prompt) -> str:
    """What the router reads: a raw prompt as it is; of a conversation, the last user turn.

    Earlier turns may belong to another agent's subject, and a system prompt says how to answer, not what is
    asked. Without a user turn, the last turn.
    """
    if isinstance(prompt, str):
        return prompt
    for message in reversed(prompt):
        if message.role == "user":
            return message.content
    return prompt[-1].content if prompt else ""


class Orchestrator:
    """Serves one fleet: one engine, the adapters loaded into it, and the router over them.

    `versions` may hold several versions of one name; the last is the one that the bare name means.
    """

    def __init__(
        self,
        engine: Engine,
        router: Routes | None,
        versions: Sequence[AdapterVersion],
        *,
        timeout_s: float,
        metrics: Metrics,
        base_version: str = BASE,
    ) -> None:
        self._engine = engine
        self._router = router
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._base_version = base_version
        by_name: dict[str, list[AdapterVersion]] = {}
        for version in versions:
            by_name.setdefault(version.name, []).append(version)
        self._by_name: Mapping[str, list[AdapterVersion]] = by_name
        self._candidates = tuple(sorted(by_name))
        self.last_token_at: float | None = None
        """`time.monotonic` of the last chunk of any request: proof that the engine works."""

    @property
    def timeout_s(self) -> float:
        return self._timeout_s

    @property
    def candidates(self) -> tuple[str, ...]:
        """Agents that the router may choose, sorted; the base is not among them."""
        return self._candidates

    @property
    def versions(self) -> tuple[AdapterVersion, ...]:
        return tuple(version for versions in self._by_name.values() for version in versions)

    def standing(self, agent: str) -> Standing:
        """How `agent` takes part in routing."""
        if self._router is None:
            return Standing("explicit_only", "there is no router")
        return self._router.standing(agent)

    def plan(self, prompt: Prompt, name: AgentName, *, explain: bool = False) -> Plan:
        """Decide who answers. Explicit names touch no router; `auto` costs its few milliseconds of CPU, so
        call that in a thread (`plan_async`) where others wait.

        Raises UnknownAdapter for a name or version that is not served, Unsupported for what the grammar knows
        and this build does not.
        """
        match name:
            case Auto():
                return self._route(prompt, explain=explain)
            case Base():
                return self._explicit(None)
            case Agent():
                return self._explicit(self._resolve(name))
            case Composition():
                raise Unsupported(f"compositions like {str(name)!r} are not served yet: name one agent")
            case _:
                raise Unsupported(f"teams like {str(name)!r} are not served yet: name one agent")

    async def plan_async(self, prompt: Prompt, name: AgentName, *, explain: bool = False) -> Plan:
        """`plan`, without holding up the event loop."""
        if isinstance(name, Auto) and self._router is not None:
            return await asyncio.to_thread(self.plan, prompt, name, explain=explain)
        return self.plan(prompt, name, explain=explain)

    def deadline(self) -> float:
        """When a request that arrives now must have ended; on the event loop's clock."""
        return asyncio.get_running_loop().time() + self._timeout_s

    async def stream(
        self, plan: Plan, request: GenerateRequest, *, deadline: float | None = None
    ) -> AsyncGenerator[TokenChunk, None]:
        """Chunks of all choices, in the engine's order; `request.adapter_id` is taken from the plan.

        Close it (`contextlib.aclosing`) or cancel its reader to abort the request in the engine. Raises what
        the engine raises; DeadlineExceeded past the deadline; RequestAborted if someone else stopped the
        request.
        """
        if request.adapter_id != plan.adapter_id:
            raise ValueError("the request's adapter is not the plan's")
        ends_at = self.deadline() if deadline is None else deadline
        meter = self._metrics.meter(plan.agent, started=time.perf_counter())
        unfinished = request.sampling.n
        outcome = "aborted"
        chunks: AsyncIterator[TokenChunk] | None = None
        try:
            chunks = self._engine.generate(request)
            while unfinished:
                chunk = await _next_before(chunks, ends_at, self._timeout_s)
                meter.chunk(chunk)
                self.last_token_at = time.monotonic()
                if chunk.finish_reason is not None:
                    if chunk.finish_reason == "abort":
                        raise RequestAborted("the request was stopped before it was complete")
                    unfinished -= 1
                    if not unfinished:
                        outcome = "done"
                yield chunk
        except AdaptiveLoraError as error:
            outcome = "error"
            meter.error(error.code)
            raise
        except Exception:
            outcome = "error"
            meter.error("internal_error")
            raise
        finally:
            meter.end(outcome)
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()

    async def complete(
        self, plan: Plan, request: GenerateRequest, *, deadline: float | None = None
    ) -> list[Completion]:
        """All choices of one request, by index. Errors as `stream`."""
        choices = [_Choice() for _ in range(request.sampling.n)]
        async with aclosing(self.stream(plan, request, deadline=deadline)) as chunks:
            async for chunk in chunks:
                choices[chunk.index].add(chunk)
        return [choice.completion(index) for index, choice in enumerate(choices)]

    def _route(self, prompt: Prompt, *, explain: bool) -> Plan:
        started = time.perf_counter()
        if self._router is None or not self._candidates:
            decision = RouteDecision(BASE, 1.0, "no_candidates", {})
        else:
            decision = self._router.route(routing_text(prompt), self._candidates, explain=explain)
        self._metrics.routed(decision, seconds=time.perf_counter() - started)
        adapter = None if decision.agent == BASE else self._by_name[decision.agent][-1]
        return Plan(decision, adapter, self._base_version)

    def _explicit(self, adapter: AdapterVersion | None) -> Plan:
        name = adapter.name if adapter else BASE
        return Plan(RouteDecision(name, 1.0, "explicit", {}), adapter, self._base_version)

    def _resolve(self, name: Agent) -> AdapterVersion:
        versions = self._by_name.get(name.name)
        if not versions:
            known = ", ".join(self._candidates) or "none"
            raise UnknownAdapter(f"there is no agent {name.name!r}; agents: {known}; also 'auto' and 'base'")
        if name.ref is None:
            return versions[-1]
        served = ", ".join(str(version.id) for version in versions)
        if not name.is_version:
            raise UnknownAdapter(f"{name.name!r} has no version or alias {name.ref!r}; served: {served}")
        matches = [version for version in versions if version.version.startswith(name.ref)]
        if not matches:
            raise UnknownAdapter(f"{name.name!r} has no version {name.ref!r}; served: {served}")
        if len(matches) > 1:
            raise UnknownAdapter(f"{str(name)!r} fits several versions, use more digits; served: {served}")
        return matches[0]


async def _next_before(chunks: AsyncIterator[TokenChunk], ends_at: float, timeout_s: float) -> TokenChunk:
    """The next chunk, or DeadlineExceeded. The wait is cancelled, which aborts the request in the engine."""
    try:
        async with asyncio.timeout_at(ends_at) as timer:
            return await anext(chunks)
    except TimeoutError:
        if not timer.expired():
            raise
        raise DeadlineExceeded(
            f"the request took longer than {timeout_s:g} s: ask for fewer tokens, or raise api.timeout"
        ) from None
    except StopAsyncIteration:
        raise EngineError("the engine ended the answer early") from None


@dataclass(slots=True)
class _Choice:
    """One choice under construction."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    n_tokens: int = 0
    last: TokenChunk | None = None

    def add(self, chunk: TokenChunk) -> None:
        self.texts.append(chunk.text)
        self.n_tokens += chunk.n_tokens
        self.last = chunk
        if chunk.logprobs is not None:
            self.logprobs = self.logprobs or []
            self.logprobs.extend(chunk.logprobs)

    def completion(self, index: int) -> Completion:
        if self.last is None or self.last.finish_reason is None:
            raise EngineError("the engine ended the answer early")
        usage = Usage(self.last.n_prompt_tokens, self.n_tokens)
        logprobs = None if self.logprobs is None else tuple(self.logprobs)
        return Completion(index, "".join(self.texts), self.last.finish_reason, usage, logprobs)
