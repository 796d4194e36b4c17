import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing

import pytest

from adaptive_lora.agents.names import parse_name
from adaptive_lora.agents.orchestrator import Orchestrator, routing_text
from adaptive_lora.agents.plan import Plan
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.errors import DeadlineExceeded, EngineDead, RequestAborted, UnknownAdapter, Unsupported
from adaptive_lora.telemetry.metrics import Metrics
from adaptive_lora.types import BASE, ChatMessage, GenerateRequest, RouteDecision, SamplingConfig, Standing

Build = Callable[..., Orchestrator]


class Recorder:
    """A router that answers as told and remembers what it was asked."""

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self.asked: list[tuple[str, tuple[str, ...], bool]] = []

    def standing(self, agent: str) -> Standing:
        return Standing("routed")

    def with_agent(self, agent: str, examples: Sequence[str], *, description: str = "") -> "Recorder":
        return self

    def without_agent(self, agent: str) -> "Recorder":
        return self

    def route(
        self, prompt: str, candidates: Sequence[str] | None = None, *, explain: bool = False
    ) -> RouteDecision:
        self.asked.append((prompt, tuple(candidates or ()), explain))
        reason = "abstained" if self.agent == BASE else "routed"
        return RouteDecision(self.agent, 0.75, reason, {"code": 0.75, "creative": 0.25})


def count(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def request_of(plan_id: str | None, **sampling: object) -> GenerateRequest:
    return GenerateRequest("r1", "say something", SamplingConfig(**sampling), plan_id)  # type: ignore[arg-type]


async def test_auto_asks_the_router_and_masks_candidates_first(orchestrate: Build) -> None:
    router = Recorder("creative")
    plan = await orchestrate(router).plan("a poem", parse_name("auto"), explain=True)
    assert router.asked == [("a poem", ("code", "creative"), True)]
    assert (plan.agent, plan.version, plan.adapter_id) == (
        "creative",
        "aaaa00000003",
        "creative@aaaa00000003",
    )
    assert plan.decision.confidence == 0.75


async def test_an_abstention_is_the_base(orchestrate: Build, metrics: Metrics) -> None:
    plan = await orchestrate(Recorder(BASE)).plan("?", parse_name("auto"))
    assert (plan.agent, plan.version, plan.adapter_id) == (BASE, "b0", None)
    assert count(metrics, "router_decisions_total", agent="base", reason="abstained") == 1


async def test_without_a_router_auto_is_the_base(orchestrate: Build) -> None:
    plan = await orchestrate(None).plan("?", parse_name("auto"))
    assert (plan.agent, plan.decision.reason) == (BASE, "no_candidates")


@pytest.mark.parametrize(
    ("name", "adapter_id"),
    [
        ("base", None),
        ("creative", "creative@aaaa00000003"),
        ("code", "code@3f9c2b000002"),
        ("code@3f9c2a", "code@3f9c2a000001"),
        ("code@3f9c2b000002", "code@3f9c2b000002"),
    ],
)
async def test_explicit_names_ask_no_router(orchestrate: Build, name: str, adapter_id: str | None) -> None:
    router = Recorder("creative")
    plan = await orchestrate(router).plan("anything", parse_name(name))
    assert plan.adapter_id == adapter_id
    assert plan.decision.reason == "explicit"
    assert router.asked == []


@pytest.mark.parametrize(
    ("name", "tells"),
    [
        ("law", "code, creative"),
        ("code@canary", "code@3f9c2a000001"),
        ("code@ffff", "code@3f9c2b000002"),
        ("code@3f9c", "more digits"),
    ],
)
async def test_an_unknown_name_is_never_the_base_and_says_what_there_is(
    orchestrate: Build, name: str, tells: str
) -> None:
    with pytest.raises(UnknownAdapter, match=tells):
        await orchestrate().plan("x", parse_name(name))


@pytest.mark.parametrize("name", ["code:0.5+creative:0.5", "team/review"])
async def test_what_comes_later_is_unsupported_by_name(orchestrate: Build, name: str) -> None:
    with pytest.raises(Unsupported, match="not served"):
        await orchestrate().plan("x", parse_name(name))


def test_the_router_reads_the_last_user_turn() -> None:
    turns = (
        ChatMessage("system", "be brief"),
        ChatMessage("user", "first"),
        ChatMessage("assistant", "yes?"),
        ChatMessage("user", "second"),
        ChatMessage("assistant", "well"),
    )
    assert routing_text(turns) == "second"
    assert routing_text(turns[:1]) == "be brief"
    assert routing_text("raw") == "raw"


async def test_complete_gathers_every_choice_in_order(orchestrate: Build, metrics: Metrics) -> None:
    orchestrator = orchestrate()
    plan = await orchestrator.plan("x", parse_name("code"))
    choices = await orchestrator.complete(plan, request_of(plan.adapter_id, n=3, temperature=1.0, logprobs=1))
    assert [choice.index for choice in choices] == [0, 1, 2]
    assert len({choice.text for choice in choices}) > 1
    for choice in choices:
        assert choice.finish_reason == "stop"
        assert choice.logprobs is not None
        assert "".join(entry.token for entry in choice.logprobs) == choice.text
        assert len(choice.logprobs) == choice.usage.completion_tokens
    tokens = sum(choice.usage.completion_tokens for choice in choices)
    assert count(metrics, "lora_requests_total", agent="code", outcome="done") == 1
    assert count(metrics, "lora_completion_tokens_total", agent="code") == tokens
    assert count(metrics, "lora_prompt_tokens_total", agent="code") == choices[0].usage.prompt_tokens
    assert count(metrics, "lora_time_to_first_token_seconds_count", agent="code") == 1
    assert count(metrics, "lora_inter_token_latency_seconds_count", agent="code") == tokens - 3


async def test_past_the_deadline_it_raises_and_the_engine_is_free(
    engine: FakeEngine, orchestrate: Build, metrics: Metrics
) -> None:
    engine._delay_s = 30.0
    orchestrator = orchestrate(timeout_s=0.05)
    plan = await orchestrator.plan("x", parse_name("base"))
    with pytest.raises(DeadlineExceeded, match=r"api\.timeout"):
        await orchestrator.complete(plan, request_of(None))
    assert (await engine.stats()).running == 0
    assert count(metrics, "lora_requests_total", agent="base", outcome="error") == 1
    assert count(metrics, "lora_request_errors_total", agent="base", code="deadline_exceeded") == 1


async def test_a_reader_that_leaves_aborts_the_request(
    engine: FakeEngine, orchestrate: Build, metrics: Metrics
) -> None:
    orchestrator = orchestrate()
    plan = await orchestrator.plan("x", parse_name("base"))
    async with aclosing(orchestrator.stream(plan, request_of(None))) as chunks:
        await anext(chunks)
        assert (await engine.stats()).running == 1
    assert (await engine.stats()).running == 0
    assert count(metrics, "lora_requests_total", agent="base", outcome="aborted") == 1


async def test_a_cancelled_reader_aborts_the_request(
    engine: FakeEngine, orchestrate: Build, metrics: Metrics
) -> None:
    engine._delay_s = 30.0
    orchestrator = orchestrate()
    plan = await orchestrator.plan("x", parse_name("base"))
    task = asyncio.create_task(orchestrator.complete(plan, request_of(None)))
    for _ in range(100):  # turns of the event loop, far more than it takes
        await asyncio.sleep(0)
    assert (await engine.stats()).running == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await engine.stats()).running == 0
    assert count(metrics, "lora_requests_total", agent="base", outcome="aborted") == 1


async def test_a_request_that_someone_else_stops_is_an_error(engine: FakeEngine, orchestrate: Build) -> None:
    orchestrator = orchestrate()
    plan = await orchestrator.plan("x", parse_name("base"))
    async with aclosing(orchestrator.stream(plan, request_of(None))) as chunks:
        await anext(chunks)
        await engine.abort("r1")
        with pytest.raises(RequestAborted):
            async for _ in chunks:
                pass


async def test_a_dead_engine_is_an_error(engine: FakeEngine, orchestrate: Build, metrics: Metrics) -> None:
    orchestrator = orchestrate()
    plan = await orchestrator.plan("x", parse_name("base"))
    async with aclosing(orchestrator.stream(plan, request_of(None))) as chunks:
        await anext(chunks)
        engine.die()
        with pytest.raises(EngineDead):
            async for _ in chunks:
                pass
    assert count(metrics, "lora_request_errors_total", agent="base", code="engine_dead") == 1


async def test_a_request_for_another_adapter_than_planned_is_our_bug(orchestrate: Build) -> None:
    orchestrator = orchestrate()
    plan = await orchestrator.plan("x", parse_name("code"))
    with pytest.raises(ValueError, match="not the plan's"):
        await orchestrator.complete(plan, request_of(None))


@pytest.mark.parametrize(
    ("decision", "summary"),
    [
        (RouteDecision("code", 0.9, "routed", {}, candidates=("code",)), "routed; candidates=code"),
        (
            RouteDecision(BASE, 0.6, "abstained", {}, doubt="unsure", candidates=("code", "creative")),
            "abstained; doubt=unsure; candidates=code|creative",
        ),
        (RouteDecision("code", 1.0, "explicit", {}), "explicit"),
        (
            RouteDecision("a", 0.9, "routed", {}, candidates=tuple("abcdefghij")),
            "routed; candidates=a|b|c|d|e|f|g|h|...",
        ),
    ],
)
def test_a_decision_in_one_line(decision: RouteDecision, summary: str) -> None:
    assert Plan(decision, None, "v").summary == summary
