"""The life of a serving process: load in the background, prove it with a canary, watch it, stop.

starting ──▶ ready ◀──▶ stalled        stalled: no generation has succeeded for a while (a canary hangs or
fails)
    └──────────┴───▶ failed            failed: the engine cannot start, or has died; `on_failure` is
    called once
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from adaptive_lora import demo_fleet
from adaptive_lora.agents.orchestrator import Orchestrator, Routes
from adaptive_lora.engine.base import Engine
from adaptive_lora.errors import (
    AdapterError,
    AdaptiveLoraError,
    EngineDead,
    EngineError,
    EngineNotReady,
)
from adaptive_lora.serving import loading
from adaptive_lora.settings import Settings
from adaptive_lora.telemetry.metrics import Metrics
from adaptive_lora.types import (
    AdapterVersion,
    ChatMessage,
    EngineStats,
    GenerateRequest,
    Prompt,
    SamplingConfig,
)

if TYPE_CHECKING:
    from adaptive_lora.adapters.catalog import Catalog

_log = logging.getLogger(__name__)

Phase = Literal["starting", "ready", "stalled", "failed", "stopped"]

WATCH_INTERVAL_S = 5.0
IDLE_BEFORE_CANARY_S = 30.0
CANARY_TIMEOUT_S = 60.0
HEAD_START_S = 0.05
"""For the server to accept its first connections: the imports to come hold the interpreter's lock."""
CANARY_TOKENS = 4
CANARY_PROMPT = "What is 1 plus 1?"


class Runtime:
    """One engine, its fleet and its router. Everything but `start` and `stop` may be called at any time."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        engine: Engine | None = None,
        catalog: Catalog | None = None,
        router: Routes | None = None,
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.phase: Phase = "starting"
        self.detail = "starting"
        self.base_model = demo_fleet.public_name(settings.model.base_model)
        self.started_at = time.monotonic()
        self.created = int(time.time())
        self.catalog = catalog
        self.rejected: dict[str, AdapterError] = {}
        self._is_catalog_ours = catalog is None
        self._engine = engine
        self._router = router
        self._on_failure = on_failure
        self._orchestrator: Orchestrator | None = None
        self._proven_at: float | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def orchestrator(self) -> Orchestrator:
        """Raises EngineNotReady, with the reason, unless requests are served."""
        if self._orchestrator is None or self.phase not in ("ready", "stalled"):
            raise EngineNotReady(f"not ready: {self.detail}")
        return self._orchestrator

    @property
    def engine(self) -> Engine:
        """Raises EngineNotReady until there is one."""
        if self._engine is None or self._orchestrator is None:
            raise EngineNotReady(f"not ready: {self.detail}")
        return self._engine

    @property
    def canary_age_s(self) -> float | None:
        """Seconds since a generation is known to have worked; None before the first."""
        last = self._last_progress()
        return None if last is None else time.monotonic() - last

    def start(self) -> None:
        """Begin to load, in the background of the running event loop."""
        self._tasks.append(asyncio.create_task(self._run()))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.phase != "failed":
            self._enter("stopped", "the server is shutting down")
        if self._engine is not None:
            await self._engine.stop()

    async def stats(self) -> EngineStats | None:
        """The engine's snapshot, also for the gauges; None if it cannot give one."""
        self.metrics.engine.ready = self.phase == "ready"
        try:
            async with asyncio.timeout(1.0):
                self.metrics.engine.stats = await self.engine.stats()
        except (EngineError, TimeoutError):
            self.metrics.engine.stats = None
        return self.metrics.engine.stats

    async def _run(self) -> None:
        try:
            await asyncio.sleep(HEAD_START_S)
            await self._load()
            while True:
                await asyncio.sleep(WATCH_INTERVAL_S)
                await self._watch()
        except AdaptiveLoraError as error:
            self._fail(error.message, error)
        except Exception as error:
            self._fail(f"{type(error).__name__}; the server's log has the details", error)

    async def _load(self) -> None:
        engine = self._engine
        if engine is None:
            self._say("preparing the engine")
            engine = self._engine = await asyncio.to_thread(loading.build_engine, self.settings)
        self._say("loading the base model")
        starting = asyncio.create_task(engine.start())
        try:
            if not loading.is_on_disk(self.settings):
                await starting  # the engine fetches the base model, which adapters are checked against
            base = await asyncio.to_thread(loading.describe_base, self.settings)
            if self.catalog is None:
                self.catalog = await asyncio.to_thread(loading.load_catalog, self.settings, base)
            self.rejected = dict(self.catalog.rejected)
            if self._router is None and self.catalog.versions:
                self._router = await asyncio.to_thread(
                    loading.make_routes, self.settings, self.catalog.versions
                )
            await starting
        finally:
            starting.cancel()
        served = await self._load_adapters(engine, self.catalog)
        self._orchestrator = Orchestrator(
            engine,
            self._router,
            served,
            timeout_s=self.settings.api.timeout,
            metrics=self.metrics,
            base_version=(base.fingerprint or base.name)[:12],
        )
        names = ", ".join(version.id for version in served) or "none"
        self._enter("ready", "serving")
        _log.info("ready; base model %s; agents: %s", self.base_model, names)

    async def _load_adapters(self, engine: Engine, catalog: Catalog) -> list[AdapterVersion]:
        """The adapters that the engine took and that generate. The base itself must generate, or nothing is
        served."""
        self._say("proving that the base model generates")
        await self._canary(engine, None)
        self._say("loading the adapters")
        served = []
        for version in catalog.versions:
            try:
                if self._is_catalog_ours:
                    await asyncio.to_thread(loading.check_unchanged, version)
                await engine.load(version)
                await self._canary(engine, version)
            except EngineDead:
                raise
            except AdapterError as error:
                self.rejected[version.path.name] = error
            except EngineError as error:
                self.rejected[version.path.name] = AdapterError(f"it does not generate: {error.message}")
            else:
                served.append(version)
                continue
            _log.error("adapter %s is not served: %s", version.id, self.rejected[version.path.name].message)
        return served

    async def _canary(self, engine: Engine, version: AdapterVersion | None) -> None:
        """Generate a few tokens. Raises EngineError if nothing comes, or not in time."""
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
        self._proven_at = time.monotonic()

    def _last_progress(self) -> float | None:
        """When a token was last generated, for a request or a canary."""
        times = [self._proven_at, self._orchestrator.last_token_at if self._orchestrator else None]
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
            await self._canary(self.engine, None)
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
        self.phase = phase
        self.detail = detail
        self.metrics.engine.ready = phase == "ready"

    def _fail(self, reason: str, error: BaseException) -> None:
        self._enter("failed", reason)
        _log.critical("cannot serve: %s", reason, exc_info=error)
        if self._on_failure is not None:
            self._on_failure()


def as_prompt(text: str, *, raw: bool) -> Prompt:
    """A user's turn, which a base model without a chat template reads as plain text; the text itself if
    `raw`."""
    return text if raw else (ChatMessage("user", text),)


def rejected_as_list(rejected: Mapping[str, AdapterError]) -> list[dict[str, str]]:
    return [
        {"folder": folder, "code": error.code, "message": error.message}
        for folder, error in sorted(rejected.items())
    ]
