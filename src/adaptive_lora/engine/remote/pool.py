"""The pool: which workers there are, who may be asked now, and what each of them should hold.

What the fleet should be is declared once, here; each worker is brought to its part of it when it joins, when
it comes back empty, and whenever something changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable

from adaptive_lora.engine.remote import discovery, wire
from adaptive_lora.engine.remote.balance import Balancer, Load, rank
from adaptive_lora.engine.remote.transport import WorkerFailed, worker_key
from adaptive_lora.engine.remote.worker import Worker
from adaptive_lora.errors import AdaptiveLoraError, EngineError, EngineNotReady, UnknownAdapter
from adaptive_lora.settings import WorkersSettings
from adaptive_lora.types import AdapterVersion

_log = logging.getLogger(__name__)

UNAVAILABLE_WAIT_S = 10.0
"""How long a request waits for any worker to come back, before it is told to try again."""


class Pool:
    def __init__(self, settings: WorkersSettings) -> None:
        """Raises SettingsError for a key that cannot be read."""
        self.declared: dict[str, AdapterVersion] = {}
        """By id, least recently used first."""
        self.pinned: set[str] = set()
        self.workers: dict[str, Worker] = {}
        self.info: wire.WorkerInfo | None = None
        """What all workers have in common; the first one's."""
        self.max_model_len = 0
        self._settings = settings
        self._key = worker_key(settings)
        self._balancer = Balancer(settings.max_replicas)
        self._changed = asyncio.Condition()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._finder: asyncio.Task[None] | None = None
        self._complaints: dict[str, str] = {}

    async def start(self) -> None:
        """Until one worker generates. Raises EngineError if none does within `workers.start_timeout`."""
        self._finder = asyncio.create_task(self._find())
        try:
            async with asyncio.timeout(self._settings.start_timeout), self._changed:
                await self._changed.wait_for(self.usable)
        except TimeoutError:
            raise EngineError(
                f"no worker generates after {self._settings.start_timeout:g} s: {self.complaints()}"
            ) from None
        self.max_model_len = min(w.info.max_model_len for w in self.usable() if w.info is not None)

    async def stop(self) -> None:
        tasks = [*self._tasks.values(), *([self._finder] if self._finder else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        workers, self.workers = list(self.workers.values()), {}
        for worker in workers:
            await worker.close()
        await self._notify()

    def usable(self) -> list[Worker]:
        """Those that may be asked."""
        return [worker for worker in self.workers.values() if worker.breaker.state == "closed"]

    def complaints(self) -> str:
        """What is wrong with whom."""
        return (
            "; ".join(f"{url}: {what}" for url, what in sorted(self._complaints.items())) or "none was found"
        )

    async def choose(self, request_id: str, adapter_id: str | None, avoid: Iterable[Worker] = ()) -> Worker:
        """The worker for a request; those of `avoid` only if there is no other.

        Waits while there is none at all; raises EngineNotReady after `UNAVAILABLE_WAIT_S`.
        """
        if adapter_id in self.declared:
            self.declared[adapter_id] = self.declared.pop(adapter_id)
        usable = await self._wait_for_one()
        candidates = [worker for worker in usable if worker not in avoid] or usable
        loads = {worker.url: worker.load for worker in candidates}
        return self.workers[self._balancer.choose(request_id, adapter_id, loads, time.monotonic())]

    async def home(self, adapter_id: str, avoid: Iterable[Worker] = ()) -> Worker:
        """The worker that an adapter is loaded on first, and pinned on. Waits and raises as `choose`."""
        usable = await self._wait_for_one()
        urls = [worker.url for worker in usable if worker not in avoid] or [worker.url for worker in usable]
        return self.workers[rank(adapter_id, urls)[0]]

    def forget(self, adapter_id: str) -> None:
        self.declared.pop(adapter_id, None)
        self.pinned.discard(adapter_id)
        self._balancer.forget(adapter_id)

    def loads(self) -> dict[str, Load]:
        return {worker.url: worker.load for worker in self.workers.values()}

    async def _wait_for_one(self) -> list[Worker]:
        if not self.usable():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(UNAVAILABLE_WAIT_S), self._changed:
                    await self._changed.wait_for(lambda: self.usable() or not self.workers)
        usable = self.usable()
        if not usable:
            raise EngineNotReady("no worker can be asked now; retry in a moment")
        return usable

    async def _find(self) -> None:
        """Follow the list of workers: once if it is fixed, by DNS again and again."""
        while True:
            try:
                if self._settings.dns is None:
                    addresses = discovery.listed(self._settings.urls)
                else:
                    addresses = await discovery.resolve(self._settings.dns)
                    self._say(self._settings.dns, None)
            except OSError as error:
                # A resolver that fails says nothing about the workers: those that are known stay.
                self._say(str(self._settings.dns), f"no addresses: {error.strerror or error}")
            else:
                await self._follow(addresses)
                if self._settings.dns is None:
                    return
            await asyncio.sleep(self._settings.refresh_interval)

    async def _follow(self, addresses: list[discovery.Address]) -> None:
        wanted = {address.url: address for address in addresses}
        for url in self.workers.keys() - wanted.keys():
            _log.info("worker %s left", url)
            worker = self.workers.pop(url)
            self._complaints.pop(url, None)
            asyncio.create_task(_retire(worker, self._tasks.pop(url)))  # noqa: RUF006 - it ends by itself
        for url in wanted.keys() - self.workers.keys():
            worker = self.workers[url] = Worker(wanted[url], self._settings, self._key)
            self._tasks[url] = asyncio.create_task(self._watch(worker), name=f"watch {url}")
        await self._notify()

    async def _watch(self, worker: Worker) -> None:
        """Keep one worker known, proven and supplied, for as long as it is in the pool."""
        while True:
            try:
                if worker.breaker.state == "closed":
                    await self._examine(worker)
                else:
                    await asyncio.sleep(worker.breaker.due_in_s())
                    await self._admit(worker)
                await self._reconcile(worker)
            except WorkerFailed as failure:
                self._say(worker.url, failure.reason)
                worker.failed(failure)
            except AdaptiveLoraError as error:
                self._say(worker.url, error.message)
                worker.failed(WorkerFailed(error.message, error))
            except Exception:
                _log.exception("watching worker %s failed", worker.url)
                worker.failed(WorkerFailed("watching it failed"))
            if worker.breaker.state == "closed":
                worker.woken.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.refresh_interval):
                        await worker.woken.wait()

    async def _examine(self, worker: Worker) -> None:
        """One that is used: it must go on giving tokens; one that is silent must answer a canary, at once."""
        is_silent = time.monotonic() - worker.progress_at >= self._settings.canary_interval
        try:
            await worker.look()
            if is_silent:
                await worker.canary()
                worker.breaker.succeeded()
        except WorkerFailed as failure:
            raise WorkerFailed(
                failure.reason, failure.error, refused=failure.refused or is_silent
            ) from failure

    async def _admit(self, worker: Worker) -> None:
        """One that is not used, or not yet: it must be the same model, and answer a canary."""
        worker.breaker.probe()
        info = await worker.identify()
        await worker.canary()
        self._check_like_the_others(info)  # only now: another may have been the first meanwhile
        worker.breaker.succeeded()
        self.info = self.info or info
        self._say(worker.url, None)
        _log.info("worker %s joins (%s, vLLM %s)", worker.url, worker.kind, info.vllm_version)
        await self._notify()

    def _check_like_the_others(self, info: wire.WorkerInfo) -> None:
        """Raises WorkerFailed for a worker whose answers would be another model's."""
        ours = self.info
        if ours is None:
            return
        if ours.fingerprint and info.fingerprint and ours.fingerprint != info.fingerprint:
            raise WorkerFailed("it serves another base model than the others (by fingerprint)")
        if info.max_model_len < self.max_model_len:
            raise WorkerFailed(f"its context is {info.max_model_len} tokens, the pool's {self.max_model_len}")

    async def _reconcile(self, worker: Worker) -> None:
        """Load and pin there what has its home there. A failure is told once and tried again."""
        homes = [other.url for other in self.usable()]
        if worker.url not in homes:
            return
        room = worker.info.max_cpu_loras if worker.info and worker.info.max_cpu_loras else len(self.declared)
        at_home = [i for i in self.declared if rank(i, homes)[0] == worker.url][-room:]
        for adapter_id in worker.pinned - (self.pinned & set(at_home)):
            worker.pinned.discard(adapter_id)
            with contextlib.suppress(UnknownAdapter):  # then it is not pinned either
                await worker.dialect.unpin(adapter_id)
        for adapter_id in at_home:
            adapter = self.declared.get(adapter_id)
            if adapter is None:
                continue
            try:
                await worker.ensure(adapter)
                if adapter_id in self.pinned - worker.pinned:
                    await worker.dialect.pin(adapter_id)
                    worker.pinned.add(adapter_id)
            except AdaptiveLoraError as error:
                self._say(f"{worker.url} {adapter_id}", error.message)
            else:
                self._say(f"{worker.url} {adapter_id}", None)

    def _say(self, subject: str, complaint: str | None) -> None:
        """One line in the log for each change of state."""
        if complaint is None:
            self._complaints.pop(subject, None)
        elif self._complaints.get(subject) != complaint:
            self._complaints[subject] = complaint
            _log.warning("worker %s: %s", subject, complaint)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def _retire(worker: Worker, watcher: asyncio.Task[None]) -> None:
    """Let what runs there end."""
    watcher.cancel()
    await asyncio.gather(watcher, return_exceptions=True)
    while worker.n_requests:  # noqa: ASYNC110 - nothing else is told when the last one ends
        await asyncio.sleep(0.1)
    await worker.close()
