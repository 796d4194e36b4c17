"""From a name and a prompt to tokens: resolve, route, generate, and account for it.

Every request ends in exactly one way: its stream ends after the last chunk (done), it raises (error), or its
reader goes away (aborted). `telemetry` counts each once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from adaptive_lora.agents.names import Agent, AgentName, Auto, Base, Composition
from adaptive_lora.agents.plan import Plan
from adaptive_lora.agents.view import FleetView
from adaptive_lora.engine.base import Engine
from adaptive_lora.errors import (
    AdaptiveLoraError,
    DeadlineExceeded,
    EngineError,
    RequestAborted,
    Unsupported,
)
from adaptive_lora.telemetry import prompts, tracing
from adaptive_lora.telemetry.metrics import Metrics
from adaptive_lora.types import (
    BASE,
    AdapterVersion,
    Completion,
    GenerateRequest,
    Prompt,
    RouteDecision,
    TokenChunk,
    TokenLogprob,
    Usage,
)

if TYPE_CHECKING:
    from adaptive_lora.agents.compositions import Compositions

_log = logging.getLogger(__name__)


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


class Turn(Protocol):
    """Lets one generation into the engine when its turn has come."""

    async def enter(self) -> None:
        """Wait for it. Raises an AdaptiveLoraError if it will not come, or not in time."""
        ...

    def leave(self, n_tokens: int) -> None:
        """The engine has let go of it, or it has not entered; `n_tokens` are those of the prompt and of the
        answer."""
        ...


class Orchestrator:
    """Serves one fleet with one engine. `view` gives the fleet's present state; each request takes it
    once."""

    def __init__(
        self,
        engine: Engine,
        view: Callable[[], FleetView],
        *,
        timeout_s: float,
        metrics: Metrics,
        base_version: str = BASE,
        compositions: Compositions | None = None,
    ) -> None:
        self._engine = engine
        self._view = view
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._base_version = base_version
        self._compositions = compositions
        self.last_token_at: float | None = None
        """`time.monotonic` of the last chunk of any request: proof that the engine works."""

    @property
    def timeout_s(self) -> float:
        return self._timeout_s

    @property
    def view(self) -> FleetView:
        """The fleet as it is now."""
        return self._view()

    async def plan(
        self,
        prompt: Prompt,
        name: AgentName,
        *,
        key: str = "",
        explain: bool = False,
        allowed: frozenset[str] | None = None,
    ) -> Plan:
        """Decide who answers. `key` (the request's id) decides which share of an agent's traffic it belongs
        to. Agents that are not `allowed` (None: all are) do not exist for this caller.

        Explicit names touch no router; `auto` costs its few milliseconds of CPU in a thread. A composition
        that has not been asked for lately is built first.

        Raises UnknownAdapter for a name or version that is not served, Unsupported for what the grammar knows
        and this build does not.
        """
        prompts.note(prompt)
        view = self._view().restricted_to(allowed)
        match name:
            case Auto():
                return await self._route(view, prompt, key, explain=explain)
            case Base():
                return Plan(RouteDecision(BASE, 1.0, "explicit", {}), None, self._base_version)
            case Agent():
                version, alias = view.resolve(name, key)
                decision = RouteDecision(version.name, 1.0, "explicit", {})
                return Plan(decision, version, self._base_version, alias)
            case Composition():
                version = await self._compose(view, name, key)
                return Plan(RouteDecision(str(name), 1.0, "explicit", {}), version, self._base_version)
            case _:
                raise Unsupported(f"teams like {str(name)!r} are not served yet: name one agent")

    def deadline(self, timeout_s: float | None = None) -> float:
        """When a request that arrives now must have ended, on the event loop's clock: after the longest that
        one may take, or after `timeout_s` if that is less."""
        longest_s = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        return asyncio.get_running_loop().time() + longest_s

    async def stream(
        self,
        plan: Plan,
        request: GenerateRequest,
        *,
        deadline: float | None = None,
        turn: Turn | None = None,
    ) -> AsyncGenerator[TokenChunk, None]:
        """Chunks of all choices, in the engine's order; `request.adapter_id` is taken from the plan. With a
        `turn` the engine is asked when that has come.

        Close it (`contextlib.aclosing`) or cancel its reader to abort the request in the engine. Raises what
        the engine raises; DeadlineExceeded past the deadline; RequestAborted if someone else stopped the
        request.
        """
        if request.adapter_id != plan.adapter_id:
            raise ValueError("the request's adapter is not the plan's")
        ends_at = self.deadline() if deadline is None else deadline
        meter = self._metrics.meter(*plan.labels, started=time.perf_counter())
        trace = tracing.generation(request.request_id, lambda: _described(plan, request))
        unfinished = request.sampling.n
        n_prompt_tokens = n_tokens = 0
        outcome = "aborted"
        failure: BaseException | None = None
        chunks: AsyncIterator[TokenChunk] | None = None
        with self._held(plan):
            try:
                if turn is not None:
                    trace.queued()
                    await turn.enter()
                    trace.admitted()
                chunks = self._engine.generate(request)
                while unfinished:
                    chunk = await _next_before(chunks, ends_at)
                    n_tokens += chunk.n_tokens
                    n_prompt_tokens = chunk.n_prompt_tokens
                    meter.chunk(chunk)
                    trace.chunk(chunk)
                    self.last_token_at = time.monotonic()
                    if chunk.finish_reason is not None:
                        if chunk.finish_reason == "abort":
                            raise RequestAborted("the request was stopped before it was complete")
                        unfinished -= 1
                        if not unfinished:
                            outcome = "done"
                    yield chunk
            except AdaptiveLoraError as error:
                outcome, failure = "error", error
                meter.error(error.code)
                raise
            except Exception as error:
                outcome, failure = "error", error
                meter.error("internal_error")
                raise
            finally:
                meter.end(outcome)
                trace.end(outcome, failure)
                try:
                    if isinstance(chunks, AsyncGenerator):
                        await chunks.aclose()
                finally:
                    if turn is not None:
                        turn.leave(n_prompt_tokens + n_tokens)

    async def complete(
        self, plan: Plan, request: GenerateRequest, *, deadline: float | None = None
    ) -> list[Completion]:
        """All choices of one request, by index. Errors as `stream`."""
        choices = [_Choice() for _ in range(request.sampling.n)]
        async with aclosing(self.stream(plan, request, deadline=deadline)) as chunks:
            async for chunk in chunks:
                choices[chunk.index].add(chunk)
        return [choice.completion(index) for index, choice in enumerate(choices)]

    def _held(self, plan: Plan) -> AbstractContextManager[None]:
        """While it lasts, the plan's composition is not evicted."""
        if self._compositions is None or plan.adapter_id is None:
            return nullcontext()
        return self._compositions.using(plan.adapter_id)

    async def _route(self, view: FleetView, prompt: Prompt, key: str, *, explain: bool) -> Plan:
        started = time.perf_counter()
        router, candidates = view.router, view.candidates
        if router is None or not candidates:
            decision = RouteDecision(BASE, 1.0, "no_candidates", {})
        else:
            with tracing.span("route") as span:
                text = routing_text(prompt)
                decision = await asyncio.to_thread(router.route, text, candidates, explain=explain)
                span.set({"adaptive_lora.agent": decision.agent, "adaptive_lora.decision": decision.reason})
        self._metrics.routed(decision, seconds=time.perf_counter() - started)
        proposed = view.compositions.get(frozenset(decision.candidates))
        if proposed is not None and decision.agent in decision.candidates:
            version = await self._compose(view, proposed, key)
            decision = replace(decision, agent=str(proposed), reason="composed")
            return Plan(decision, version, self._base_version)
        if decision.agent == BASE:
            return Plan(decision, None, self._base_version)
        version, alias = view.resolve(Agent(decision.agent), key)
        return Plan(decision, version, self._base_version, alias)

    async def _compose(self, view: FleetView, name: Composition, key: str) -> AdapterVersion:
        if self._compositions is None:
            raise Unsupported(f"compositions like {str(name)!r} are not served here: name one agent")
        return await self._compositions.get(
            [(view.resolve(agent, key)[0], weight) for agent, weight in name.parts]
        )


def _described(plan: Plan, request: GenerateRequest) -> tuple[str, tracing.Attributes]:
    """Name and attributes of a generation's span, by OpenTelemetry's conventions for GenAI."""
    agent, version = plan.agent, plan.version
    operation = "text_completion" if isinstance(request.prompt, str) else "chat"
    sampling = request.sampling
    return f"{operation} {agent}", {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "adaptive_lora",
        "gen_ai.request.model": agent if plan.decision.reason == "explicit" else str(Auto()),
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.choice.count": sampling.n,
        "gen_ai.response.id": request.request_id,
        "gen_ai.response.model": plan.adapter_id or agent,
        "adaptive_lora.agent": agent,
        "adaptive_lora.version": version,
        "adaptive_lora.decision": plan.summary,
    }


async def _next_before(chunks: AsyncIterator[TokenChunk], ends_at: float) -> TokenChunk:
    """The next chunk, or DeadlineExceeded. The wait is cancelled, which aborts the request in the engine."""
    try:
        async with asyncio.timeout_at(ends_at) as timer:
            return await anext(chunks)
    except TimeoutError:
        if not timer.expired():
            raise
        raise DeadlineExceeded(
            "it ran past its deadline: ask for fewer tokens, or allow it more time (api.timeout at most)"
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
