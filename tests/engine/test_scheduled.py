"""ScheduledEngine around FakeEngine: the whole contract, and what happens to those who wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from pathlib import Path

import pytest

from adaptive_lora.engine.admission import AdmissionQueue
from adaptive_lora.engine.collect import collect
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.engine.scheduled import ScheduledEngine
from adaptive_lora.errors import EngineDead, EngineNotReady, InvalidRequest, UnknownAdapter
from adaptive_lora.types import AdapterVersion

from .conformance import LONG, PROMPT, SHORT, EngineConformance, complete, idle, request


def adapter(name: str, rank: int = 8) -> AdapterVersion:
    return AdapterVersion(name, "0123456789ab", Path("/nowhere"), rank, "", (), 0)


class Recording(FakeEngine):
    """Keeps who entered, in order, and how many were inside at once; reads nothing ahead, but says what it
    was asked to."""

    def __init__(self, **options):
        super().__init__(**options)
        self.entered: list[str | None] = []
        self.most_inside = self.most_adapters = 0
        self.prefetched: list[str] = []
        self._inside: Counter[str | None] = Counter()

    async def generate(self, request):
        self.entered.append(request.adapter_id)
        self._inside[request.adapter_id] += 1
        self.most_inside = max(self.most_inside, self._inside.total())
        self.most_adapters = max(self.most_adapters, len(+self._inside - Counter({None: 10**6})))
        try:
            async with aclosing(super().generate(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self._inside[request.adapter_id] -= 1

    async def prefetch(self, adapter_id):
        self.prefetched.append(adapter_id)


def scheduled(*, max_wait_rounds=16, n_slots=2, n_places=10, **options) -> ScheduledEngine:
    inner = Recording(max_model_len=256, max_loras=n_slots, delay_s=0.001, **options)
    queue = AdmissionQueue(n_slots=n_slots, n_places=n_places, max_wait_rounds=max_wait_rounds)
    return ScheduledEngine(inner, queue)


@pytest.fixture
def adapters():
    return [adapter("code"), adapter("reasoning"), adapter("writing")]


@pytest.fixture
def spare():
    return adapter("spare")


@pytest.fixture
def too_large():
    return adapter("large", rank=512)


@pytest.fixture
def unstarted():
    return scheduled()


async def started(engine, adapters):
    await engine.start()
    for one in adapters:
        await engine.load(one)
    return engine


@pytest.fixture
async def engine(adapters):
    engine = await started(scheduled(), adapters)
    yield engine
    await engine.stop()


@pytest.fixture
async def narrow(adapters):
    """One place: what comes second waits."""
    engine = await started(scheduled(n_places=1), adapters)
    yield engine
    await engine.stop()


async def hold(engine, adapter_id=None):
    """A request that runs for long, begun; close it to end it."""
    chunks = engine.generate(request(sampling=LONG, adapter_id=adapter_id))
    await anext(chunks)
    return chunks


async def begin(engine, wanted):
    """A task that reads the request to its end, once it waits."""
    n_waiting = len(engine.queue)
    task = asyncio.create_task(collect(engine.generate(wanted)))
    while len(engine.queue) == n_waiting:  # noqa: ASYNC110 - the test's time limit is the only one
        await asyncio.sleep(0)
    return task


class TestScheduledEngine(EngineConformance):
    pass


async def test_the_engine_gets_no_more_requests_than_places_nor_adapters_than_slots(adapters):
    engine = await started(scheduled(n_places=5), adapters)
    ids = [None, *(a.id for a in adapters)] * 6
    await engine.generate_batch([f"{PROMPT} {i}" for i in range(len(ids))], SHORT, ids)
    assert (engine.inner.most_inside, engine.inner.most_adapters) == (5, 2)
    assert engine.queue.longest_wait_rounds <= 16
    await engine.stop()


async def test_the_resident_adapter_goes_first_and_requests_for_one_adapter_go_together(narrow, adapters):
    running = await hold(narrow)
    evicted, resident, _ = (one.id for one in adapters)  # two slots: loading the third took the first's
    order = [evicted, resident, evicted]
    tasks = [await begin(narrow, request(adapter_id=adapter_id)) for adapter_id in order]
    await running.aclose()
    await asyncio.gather(*tasks)
    assert narrow.inner.entered == [None, resident, evicted, evicted]


async def test_stats_count_those_who_wait(narrow):
    running = await hold(narrow)
    tasks = [await begin(narrow, request()) for _ in range(2)]
    stats = await narrow.stats()
    assert (stats.running, stats.waiting) == (1, 2)
    await running.aclose()
    await asyncio.gather(*tasks)
    await idle(narrow)


async def test_an_unknown_adapter_is_an_error_however_full_the_queue(narrow, spare):
    running = await hold(narrow)
    tasks = [await begin(narrow, request()) for _ in range(3)]
    with pytest.raises(UnknownAdapter):
        await complete(narrow, adapter_id=spare.id)
    await running.aclose()
    await asyncio.gather(*tasks)


async def test_who_is_cancelled_while_it_waits_leaves_the_queue_at_once(narrow, adapters):
    running = await hold(narrow)
    task = await begin(narrow, request(adapter_id=adapters[0].id))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(narrow.queue) == 0
    await running.aclose()
    assert narrow.inner.entered == [None]
    assert (await complete(narrow)).text


async def test_a_deadline_while_waiting(narrow):
    running = await hold(narrow)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await complete(narrow)
    assert len(narrow.queue) == 0
    await running.aclose()


async def test_abort_of_a_request_that_waits(narrow):
    running = await hold(narrow)
    wanted = request(n=2)
    task = await begin(narrow, wanted)
    await narrow.abort(wanted.request_id)
    completions = await task
    assert [c.finish_reason for c in completions] == ["abort", "abort"]
    assert completions[0].usage.prompt_tokens == await narrow.count_tokens(PROMPT)
    assert len(narrow.queue) == 0
    await running.aclose()


async def test_ids_are_unique_while_they_wait(narrow):
    running = await hold(narrow)
    wanted = request()
    task = await begin(narrow, wanted)
    with pytest.raises(InvalidRequest, match="unique"):
        await collect(narrow.generate(wanted))
    await running.aclose()
    assert await task


async def test_a_request_that_the_engine_refuses_gives_its_place_back(narrow):
    with pytest.raises(InvalidRequest):
        await complete(narrow, temperature=-1.0)
    assert (await complete(narrow)).text


async def test_the_death_of_the_engine_reaches_those_who_wait(narrow, adapters):
    running = await hold(narrow, adapters[0].id)
    tasks = [await begin(narrow, request(adapter_id=a.id)) for a in adapters]
    narrow.inner.die()
    with pytest.raises(EngineDead):
        await anext(running)
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, EngineDead)
    with pytest.raises(EngineDead):
        await narrow.list()


async def test_stop_aborts_those_who_wait(narrow):
    running = await hold(narrow)
    task = await begin(narrow, request())
    scoring = asyncio.create_task(narrow.answer_logprobs(PROMPT, "yes"))
    while len(narrow.queue) != 2:  # noqa: ASYNC110 - the test's time limit is the only one
        await asyncio.sleep(0)
    await narrow.stop()
    assert [c.finish_reason for c in await task] == ["abort"]
    with pytest.raises(EngineNotReady):
        await scoring
    assert [chunk.finish_reason async for chunk in running][-1] == "abort"


async def test_unload_serves_those_who_wait_for_the_adapter(narrow, adapters):
    running = await hold(narrow)
    task = await begin(narrow, request(adapter_id=adapters[0].id))
    unloading = asyncio.create_task(narrow.unload(adapters[0].id))
    await asyncio.sleep(0)
    with pytest.raises(UnknownAdapter):
        await complete(narrow, adapter_id=adapters[0].id)
    assert adapters[0] not in await narrow.list()
    await running.aclose()
    assert [c.finish_reason for c in await task] == ["length"]
    await unloading
    assert adapters[0].id not in narrow.inner.adapters


async def test_loading_it_again_keeps_an_adapter_that_is_being_unloaded(narrow, adapters):
    running = await hold(narrow)
    task = await begin(narrow, request(adapter_id=adapters[0].id))
    unloading = asyncio.create_task(narrow.unload(adapters[0].id))
    await asyncio.sleep(0)
    await narrow.load(adapters[0])
    await unloading
    assert adapters[0].id in narrow.adapters
    await running.aclose()
    assert await task


async def test_what_is_next_is_read_ahead(narrow, adapters):
    await narrow.residency()
    running = await hold(narrow)
    resident = await narrow.residency()
    missing = [a.id for a in adapters if resident[a.id] != "slot"]
    task = await begin(narrow, request(adapter_id=missing[0]))
    while not narrow.inner.prefetched:  # noqa: ASYNC110 - the test's time limit is the only one
        await asyncio.sleep(0)
    assert narrow.inner.prefetched == missing
    await running.aclose()
    await task


class Series:
    """The metrics of an engine, by name and labels."""

    def __init__(self, engine):
        self._registry = engine._metrics.registry

    def __call__(self, name, **labels):
        return self._registry.get_sample_value(name, labels)


async def test_metrics_say_where_adapters_are_and_what_they_cost(adapters):
    engine = await started(scheduled(n_places=1), adapters)
    series = Series(engine)
    for name in ("code", "code", "reasoning", "writing", "code"):
        await complete(engine, adapter_id=adapter(name).id)
    await complete(engine)
    assert series("lora_adapter_loads_total", agent="code") == 1
    assert series("lora_adapter_load_seconds_count", agent="code") == 1
    assert series("lora_queue_wait_seconds_count", agent="code") == 3
    assert series("lora_queue_wait_seconds_count", agent="base") == 1
    assert series("lora_adapter_slot_hits_total", agent="code") == 1
    assert series("lora_adapter_slot_misses_total", agent="code") == 2
    assert series("lora_adapter_evictions_total", agent="code") == 1
    residency = await engine.residency()
    for one in adapters:
        where = residency[one.id]
        assert series("lora_adapter_resident", agent=one.name, where=where) == 1
        assert sum(series("lora_adapter_resident", agent=one.name, where=w) for w in ("slot", "host")) == 1
    await engine.stop()


async def test_the_series_of_an_agent_go_with_its_last_version(engine, adapters):
    series = Series(engine)
    other = AdapterVersion("code", "ba9876543210", Path("/nowhere"), 8, "", (), 0)
    await engine.load(other)
    await complete(engine, adapter_id=other.id)
    await engine.unload(adapters[0].id)
    assert series("lora_queue_wait_seconds_count", agent="code") == 1
    await engine.unload(other.id)
    assert series("lora_queue_wait_seconds_count", agent="code") is None
    assert series("lora_adapter_loads_total", agent="code") is None
    assert series("lora_adapter_resident", agent="code", where="slot") is None
    await complete(engine, adapter_id=adapters[1].id)
    await engine.load(adapters[0])
