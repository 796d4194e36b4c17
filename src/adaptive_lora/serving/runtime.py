"""The life of a serving process: load in the background, prove it with a canary, watch it, stop.

starting ──▶ ready ◀──▶ stalled        stalled: no generation has succeeded for a while (a canary hangs or
fails)
    └──────────┴───▶ failed            failed: the engine cannot start, or has died; `on_failure` is
    called once
draining: after any of them. The process will end; it is not ready, and serves on until it does
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from adaptive_lora import demo_fleet
from adaptive_lora.agents.orchestrator import Orchestrator
from adaptive_lora.agents.view import Routes
from adaptive_lora.engine.base import Engine
from adaptive_lora.errors import (
    AdapterError,
    AdaptiveLoraError,
    EngineDead,
    EngineError,
    EngineNotReady,
    RegistryUnavailable,
)
from adaptive_lora.serving import loading
from adaptive_lora.serving.admission.priority import Priority
from adaptive_lora.serving.admission.queues import TenantQueues
from adaptive_lora.serving.admission.turn import Turn
from adaptive_lora.serving.admission.window import Size, size_of
from adaptive_lora.serving.cache.answers import AnswerCache, Answers, CachePolicy, CacheResult
from adaptive_lora.serving.cache.factory import make_cache, make_salts
from adaptive_lora.serving.canary import Canary
from adaptive_lora.serving.drain import Drain
from adaptive_lora.serving.principal import DEFAULT_TIER
from adaptive_lora.serving.quotas.factory import make_attempts, make_limiter, make_redis
from adaptive_lora.serving.quotas.metering import metered, most_tokens
from adaptive_lora.serving.seeing import FLUSH_TIMEOUT_S, make_prompt_log, make_traces
from adaptive_lora.settings import Settings
from adaptive_lora.telemetry.metrics import Metrics
from adaptive_lora.telemetry.state import GatewayState
from adaptive_lora.types import (
    EngineStats,
    GenerateRequest,
)

if TYPE_CHECKING:
    from adaptive_lora.adapters.registry import Registry
    from adaptive_lora.agents.compositions import Compositions
    from adaptive_lora.agents.fleet import Fleet
    from adaptive_lora.serving.quotas.limiter import Grant

_log = logging.getLogger(__name__)

Phase = Literal["starting", "ready", "stalled", "draining", "failed", "stopped"]

_SERVING: frozenset[Phase] = frozenset({"ready", "stalled", "draining"})

WATCH_INTERVAL_S = 5.0
IDLE_BEFORE_CANARY_S = 30.0
REGISTRY_RETRY_S = 2.0
HEAD_START_S = 0.05
"""For the server to accept its first connections: the imports to come hold the interpreter's lock."""


class Runtime:
    """One engine, its fleet and its router. Everything but `start` and `stop` may be called at any time."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        engine: Engine | None = None,
        router: Routes | None = None,
        before_ready: Callable[[], Awaitable[None]] | None = None,
        on_ready: Callable[[], None] | None = None,
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        """`before_ready` is waited for when all else is loaded."""
        self.settings = settings
        self.metrics = metrics
        self.phase: Phase = "starting"
        self.detail = "starting"
        self.base_model = demo_fleet.public_name(settings.model.base_model)
        self.started_at = time.monotonic()
        self.created = int(time.time())
        self.drain = Drain()
        """Whether the process is about to end; the server drives it."""
        self.traces = make_traces(settings.tracing, metrics.spans)
        self.prompts = make_prompt_log(settings.monitoring)
        """What logs say of prompts."""
        self.redis = make_redis(settings, metrics)
        """The one that gateways share; None if none is configured."""
        self.limiter = make_limiter(settings, metrics, self.redis)
        """None if nobody is limited."""
        self.queues = TenantQueues(settings.queue, self._size, metrics.queue)
        """Of the generations that wait for the engine."""
        self.attempts = make_attempts(settings, metrics, self.redis)
        """None if it may fail without limit to say who calls."""
        self._salts = make_salts(settings.cache)
        self._cache: AnswerCache | None = None
        self._engine = engine
        self._router = router
        self._before_ready = before_ready
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._registry: Registry | None = None
        self._registry_is_up: bool | None = None
        """Until there is a fleet, which knows then."""
        self._fleet: Fleet | None = None
        self._compositions: Compositions | None = None
        self._refused: Mapping[str, AdapterError] = {}
        self._orchestrator: Orchestrator | None = None
        self._canary = Canary()
        self._tasks: list[asyncio.Task[None]] = []
        metrics.state.read = self._state

    @property
    def orchestrator(self) -> Orchestrator:
        """Raises EngineNotReady, with the reason, unless requests are served."""
        if self._orchestrator is None or self.phase not in _SERVING:
            raise EngineNotReady(f"not ready: {self.detail}")
        return self._orchestrator

    def answers(
        self,
        tenant: str,
        policy: CachePolicy,
        results: list[CacheResult],
        grant: Grant | None = None,
        *,
        tier: str = DEFAULT_TIER,
        priority: Priority = "interactive",
    ) -> Answers:
        """A caller's way to answers, within its grant; where each came from is added to `results`. Its
        generations take turns with those of other tenants. Raises as `orchestrator`."""
        max_model_len = self.engine.max_model_len
        meter = None
        if grant is not None:
            meter = partial(metered, grant=grant, max_model_len=max_model_len)

        def turn(request: GenerateRequest, deadline: float, ends_at: float) -> Turn:
            return self.queues.turn(
                tenant,
                tier=tier,
                priority=priority,
                n_tokens=most_tokens(request, max_model_len),
                n_sequences=request.sampling.n,
                adapter_id=request.adapter_id,
                deadline=deadline,
                ends_at=ends_at,
            )

        return Answers(
            self.orchestrator,
            self._cache,
            tenant=tenant,
            salt=self._salts.of(tenant),
            policy=policy,
            results=results,
            meter=meter,
            priority=priority,
            turn=turn,
        )

    def _size(self) -> Size:
        """Of the window of generations that are let into the engine."""
        settings = self.settings
        n_workers = getattr(self._engine, "n_workers", None)
        competes = False
        if n_workers is None and self._engine is not None:
            competes = len(self._engine.adapters) > settings.adapters.max_loras
        return size_of(
            settings.queue,
            max_batch_size=settings.inference.max_batch_size,
            n_workers=n_workers,
            adapters_compete=competes,
        )

    @property
    def engine(self) -> Engine:
        """Raises EngineNotReady until there is one."""
        if self._engine is None or self._orchestrator is None:
            raise EngineNotReady(f"not ready: {self.detail}")
        return self._engine

    @property
    def fleet(self) -> Fleet:
        """Raises EngineNotReady, with the reason, unless requests are served."""
        if self._fleet is None or self._orchestrator is None or self.phase not in _SERVING:
            raise EngineNotReady(f"not ready: {self.detail}")
        return self._fleet

    @property
    def rejected(self) -> Mapping[str, AdapterError]:
        """What is not served and should be: by folder of `adapters.path`, or by version."""
        failures = self._fleet.failures if self._fleet else {}
        return {**self._refused, **failures}

    @property
    def canary_age_s(self) -> float | None:
        """Seconds since a generation is known to have worked; None before the first."""
        last = self._last_progress()
        return None if last is None else time.monotonic() - last

    def _state(self) -> GatewayState:
        is_up = self._fleet.registry_is_up if self._fleet is not None else self._registry_is_up
        return GatewayState(self.phase, self.canary_age_s, len(self.rejected), is_up)

    def start(self) -> None:
        """Begin to load, in the background of the running event loop."""
        self._tasks.append(asyncio.create_task(self._guarded(self._run)))

    def leave(self) -> None:
        """Not ready from now on, for the process will end; requests are served until `stop`."""
        if self.phase != "failed":
            self._enter("draining", "the server is shutting down")

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.phase != "failed":
            self._enter("stopped", "the server is shutting down")
        self.queues.close()
        if self._cache is not None:
            await self._cache.close()
        if self.limiter is not None:
            await self.limiter.close()
        if self.redis is not None:
            await self.redis.close()
        if self._fleet is not None:
            await self._fleet.close()
        if self._compositions is not None:
            await self._compositions.close()
        if self._engine is not None:
            await self._engine.stop()
        if self._registry is not None:
            await asyncio.to_thread(self._registry.close)
        await asyncio.to_thread(self.traces.close, FLUSH_TIMEOUT_S)

    async def stats(self) -> EngineStats | None:
        """The engine's snapshot, also for the gauges; None if it cannot give one."""
        self.metrics.engine.ready = self.phase == "ready"
        try:
            async with asyncio.timeout(1.0):
                stats = await self.engine.stats()
                self.metrics.engine.stats = replace(stats, waiting=stats.waiting + len(self.queues))
        except (EngineError, TimeoutError):
            self.metrics.engine.stats = None
        return self.metrics.engine.stats

    async def _run(self) -> None:
        await asyncio.sleep(HEAD_START_S)
        await self._load()
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            await self._watch()

    async def _guarded(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """`work`, whose failure is the server's."""
        try:
            await work()
        except AdaptiveLoraError as error:
            self._fail(error.message, error)
        except Exception as error:
            self._fail(f"{type(error).__name__}; the server's log has the details", error)

    async def _load(self) -> None:
        from adaptive_lora.agents import folder

        engine = self._engine
        if engine is None:
            self._say("preparing the engine")
            engine = self._engine = await asyncio.to_thread(
                loading.build_engine, self.settings, self.metrics.adapters
            )
        self._say("loading the base model")
        starting = asyncio.create_task(engine.start())
        try:
            if not loading.is_on_disk(self.settings):
                await starting  # the engine fetches the base model, which adapters are checked against
            base = await asyncio.to_thread(loading.describe_base, self.settings, engine)
            registry = self._registry = await self._open_registry()
            catalog = await asyncio.to_thread(loading.load_catalog, self.settings, base)
            expected = folder.expected(await asyncio.to_thread(registry.snapshot), catalog)
            if self._router is None and expected:
                self._router = await asyncio.to_thread(loading.make_routes, self.settings, expected)
            await starting
        finally:
            starting.cancel()
        self._say("proving that the base model generates")
        await self._canary.prove(engine)
        self._say("loading the adapters")
        compositions = self._compositions = loading.make_compositions(
            self.settings, engine, unused=self.queues.users.gone
        )
        if compositions is not None:
            self.metrics.compositions.read = lambda: (compositions.counts, len(compositions.loaded))
        fleet = self._fleet = loading.make_fleet(
            self.settings,
            engine,
            registry,
            base,
            prove=partial(self._canary.prove, engine),
            metrics=self.metrics,
            compositions=compositions,
            unused=self.queues.users.gone,
        )
        if self._router is not None:
            fleet.start_with(self._router, expected)
        self._refused = await folder.take_in(fleet, registry, catalog)
        await fleet.reconcile()
        self._cache = await asyncio.to_thread(
            make_cache, self.settings, base, engine, self.metrics.cache, redis=self.redis
        )
        self._orchestrator = Orchestrator(
            engine,
            lambda: fleet.view,
            timeout_s=self.settings.api.timeout,
            metrics=self.metrics,
            base_version=(base.fingerprint or base.name)[:12],
            compositions=compositions,
        )
        self._tasks.append(asyncio.create_task(self._guarded(fleet.watch)))
        if self._before_ready is not None:
            self._say("reading who may call")
            await self._before_ready()
        if self._on_ready is not None:
            self._on_ready()
        self._enter("ready", "serving")
        _log.info(
            "ready; base model %s; agents: %s", self.base_model, ", ".join(fleet.view.versions) or "none"
        )

    async def _open_registry(self) -> Registry:
        """A database that is still starting is waited for."""
        while True:
            try:
                return await asyncio.to_thread(loading.open_registry, self.settings)
            except RegistryUnavailable as error:
                self._registry_is_up = False
                self._say(f"waiting for the registry: {error.message}")
            await asyncio.sleep(REGISTRY_RETRY_S)
            self._say("loading the base model")

    def _last_progress(self) -> float | None:
        """When a token was last generated, for a request or a canary."""
        times = [self._canary.proven_at, self._orchestrator.last_token_at if self._orchestrator else None]
        return max((moment for moment in times if moment is not None), default=None)

    async def _watch(self) -> None:
        """Notice a dead engine (raises EngineDead), and one that no longer generates."""
        await self.engine.stats()
        last = self._last_progress()
        if last is not None and time.monotonic() - last < IDLE_BEFORE_CANARY_S:
            if self.phase == "stalled":
                self._enter("ready", "serving")
            return
        try:
            await self._canary.prove(self.engine)
        except EngineDead:
            raise
        except EngineError as error:
            if self.phase == "ready":
                self._enter("stalled", error.message)
                _log.error("the engine no longer generates: %s", error.message)
        else:
            if self.phase == "stalled":
                self._enter("ready", "serving")
                _log.info("the engine generates again")

    def _say(self, detail: str) -> None:
        self.detail = detail
        _log.info("%s", detail)

    def _enter(self, phase: Phase, detail: str) -> None:
        if self.phase == "failed" or (self.phase == "draining" and phase not in ("stopped", "failed")):
            return
        self.phase = phase
        self.detail = detail
        self.metrics.engine.ready = phase == "ready"

    def _fail(self, reason: str, error: BaseException) -> None:
        self._enter("failed", reason)
        _log.critical("cannot serve: %s", reason, exc_info=error)
        if self._on_failure is not None:
            self._on_failure()
