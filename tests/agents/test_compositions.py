"""Compositions as requests see them: shared builds, eviction by use, failures that do not stay."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from adaptive_lora.adapters import composition_files
from adaptive_lora.agents import compositions as module
from adaptive_lora.agents.compositions import Compositions
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.errors import HashMismatch, Overloaded, RankTooLarge, UnknownAdapter
from adaptive_lora.types import AdapterVersion, GenerateRequest, SamplingConfig
from tests.adapter_folders import verified, write_adapter


@pytest.fixture
def code(tmp_path: Path) -> AdapterVersion:
    return verified(write_adapter(tmp_path / "code", seed=1))


@pytest.fixture
def reasoning(tmp_path: Path) -> AdapterVersion:
    return verified(write_adapter(tmp_path / "reasoning", seed=2))


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    engine = FakeEngine(delay_s=0.01)
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
async def make(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[Callable[..., Compositions]]:
    """Compositions in one and the same folder; closed at the end. Handed-out ones may be evicted at once."""
    made: list[Compositions] = []

    def start(capacity: int = 8, *, handover_s: float = -1.0, max_rank: int = 32) -> Compositions:
        made.append(
            Compositions(
                engine, tmp_path / "folder", max_rank=max_rank, capacity=capacity, handover_s=handover_s
            )
        )
        return made[-1]

    yield start
    for each in made:
        await each.close()


@pytest.fixture
def stop_builds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """`with stop_builds() as started:` builds begin (`started`), and end after the block."""

    @contextmanager
    def stop() -> Iterator[threading.Event]:
        started, go_on = threading.Event(), threading.Event()
        real = composition_files.compose

        def slow(*arguments: object, **options: object) -> object:
            started.set()
            assert go_on.wait(30)
            return real(*arguments, **options)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(composition_files, "compose", slow)
            try:
                yield started
            finally:
                go_on.set()

    return stop


async def settled(compositions: Compositions) -> None:
    """Wait for what is leaving."""
    while compositions._leaving:
        await asyncio.wait(list(compositions._leaving.values()))


async def test_built_once_then_found(
    make: Callable[..., Compositions], engine: FakeEngine, code: AdapterVersion, reasoning: AdapterVersion
) -> None:
    compositions = make()
    version = await compositions.get([(code, 0.7), (reasoning, 0.3)])
    assert engine.adapters[version.id] == version
    assert version.rank == 16
    assert await compositions.get([(reasoning, 0.3), (code, 0.7)]) == version
    assert await compositions.get([(code, 0.3), (reasoning, 0.7)]) != version
    counts = compositions.counts
    assert (counts.built, counts.hits, counts.found, counts.failed, counts.evicted) == (2, 1, 0, 0, 0)
    assert counts.build_seconds > 0
    assert version in [composed.version for composed in compositions.loaded]


async def test_who_asks_for_the_same_shares_a_build_and_the_others_do_not_wait(
    make: Callable[..., Compositions],
    stop_builds: Callable[..., Any],
    code: AdapterVersion,
    reasoning: AdapterVersion,
) -> None:
    compositions = make()
    ready = await compositions.get([(code, 1.0)])
    with stop_builds() as started:
        asked = [asyncio.create_task(compositions.get([(code, 0.7), (reasoning, 0.3)])) for _ in range(5)]
        await asyncio.to_thread(started.wait, 30)
        assert await compositions.get([(code, 1.0)]) == ready  # while that build runs
        asked[0].cancel()  # its caller went away; the others still get theirs
        await asyncio.sleep(0)
        assert not any(task.done() for task in asked[1:])
    versions = await asyncio.gather(*asked[1:])
    assert len({version.id for version in versions}) == 1
    assert asked[0].cancelled()
    assert compositions.counts.built == 2


async def test_a_failure_is_told_to_all_who_wait_and_is_forgotten(
    make: Callable[..., Compositions], engine: FakeEngine, code: AdapterVersion, reasoning: AdapterVersion
) -> None:
    weights = code.path / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    compositions = make()
    request = [(code, 0.7), (reasoning, 0.3)]
    answers = await asyncio.gather(*(compositions.get(request) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [HashMismatch] * 3
    assert compositions.counts.failed == 1
    assert compositions.loaded == []
    weights.write_bytes(whole)
    assert (await compositions.get(request)).id in engine.adapters


async def test_what_the_engine_refuses_stays_nowhere(
    make: Callable[..., Compositions], engine: FakeEngine, code: AdapterVersion, reasoning: AdapterVersion
) -> None:
    compositions = make(max_rank=128)
    parts = [(code, 0.1)]
    big = [(verified(write_adapter(code.path.parent / f"big-{i}", rank=30, seed=i)), 1.0) for i in range(3)]
    with pytest.raises(RankTooLarge):
        await compositions.get(big)
    assert (await compositions.get(parts)).id in engine.adapters
    assert len(compositions.loaded) == 1


async def test_too_many_builds_at_once_are_refused(
    make: Callable[..., Compositions],
    stop_builds: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    code: AdapterVersion,
) -> None:
    monkeypatch.setattr(module, "MAX_BUILDS", 3)
    compositions = make()
    with stop_builds() as started:
        asked = [asyncio.create_task(compositions.get([(code, 1.0 + i)])) for i in range(3)]
        await asyncio.to_thread(started.wait, 30)
        # Whoever comes fourth is refused, in whatever order the threads have looked on the disk.
        asked.append(asyncio.create_task(compositions.get([(code, 0.5)])))
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers].count(Overloaded) == len(done) == 1
    assert (await compositions.get([(code, 0.5)])).name == "composition"


async def test_the_least_recently_used_is_evicted(
    make: Callable[..., Compositions], engine: FakeEngine, code: AdapterVersion, tmp_path: Path
) -> None:
    compositions = make(capacity=2)
    one, two = [await compositions.get([(code, weight)]) for weight in (1.0, 2.0)]
    await compositions.get([(code, 1.0)])
    three = await compositions.get([(code, 3.0)])
    await settled(compositions)
    assert set(engine.adapters) == {one.id, three.id}
    assert set((tmp_path / "folder").iterdir()) == {one.path, three.path}
    assert compositions.counts.evicted == 1
    assert (await compositions.get([(code, 2.0)])) == two  # the same bytes again
    assert compositions.counts.built == 4


async def test_what_requests_use_is_not_evicted(
    make: Callable[..., Compositions], engine: FakeEngine, code: AdapterVersion
) -> None:
    compositions = make(capacity=1)
    one = await compositions.get([(code, 1.0)])
    with compositions.using(one.id), compositions.using("base"):
        two = await compositions.get([(code, 2.0)])  # which may go in its place
        await settled(compositions)
        assert set(engine.adapters) == {one.id}
        assert not two.path.exists()
    three = await compositions.get([(code, 3.0)])
    await settled(compositions)
    assert set(engine.adapters) == {three.id}


async def test_what_was_just_handed_out_waits_for_its_request(
    make: Callable[..., Compositions], engine: FakeEngine, code: AdapterVersion
) -> None:
    compositions = make(capacity=1, handover_s=60.0)
    versions = [await compositions.get([(code, weight)]) for weight in (1.0, 2.0, 3.0)]
    await settled(compositions)
    assert set(engine.adapters) == {version.id for version in versions}


async def test_a_running_request_ends_before_its_composition_is_unloaded(
    make: Callable[..., Compositions], engine: FakeEngine, code: AdapterVersion
) -> None:
    compositions = make(capacity=1)
    one = await compositions.get([(code, 1.0)])
    request = GenerateRequest("r", "hello", SamplingConfig(max_tokens=5, ignore_eos=True), one.id)
    chunks = engine.generate(request)
    first = await anext(chunks)
    await compositions.get([(code, 2.0)])  # evicts it
    await asyncio.sleep(0)
    assert one.id not in engine.adapters
    rest = [chunk async for chunk in chunks]
    assert rest[-1].finish_reason == "length"
    assert first.n_tokens + sum(chunk.n_tokens for chunk in rest) == 5
    await settled(compositions)
    assert not one.path.exists()


async def test_the_next_start_finds_what_was_built(
    make: Callable[..., Compositions], engine: FakeEngine, code: AdapterVersion
) -> None:
    before = make()
    version = await before.get([(code, 1.0)])
    await before.close()
    await engine.unload(version.id)
    after = make()
    assert await after.get([(code, 1.0)]) == version
    assert version.id in engine.adapters
    assert (after.counts.found, after.counts.built) == (1, 0)


async def test_an_engine_that_came_back_empty_gets_it_again(
    make: Callable[..., Compositions], engine: FakeEngine, code: AdapterVersion
) -> None:
    compositions = make()
    version = await compositions.get([(code, 1.0)])
    await engine.unload(version.id)
    assert await compositions.get([(code, 1.0)]) == version
    assert version.id in engine.adapters
    assert compositions.counts.built == 1


async def test_without_a_part_there_is_no_composition(
    make: Callable[..., Compositions],
    engine: FakeEngine,
    code: AdapterVersion,
    reasoning: AdapterVersion,
    tmp_path: Path,
) -> None:
    """Of those in the engine as of those on disk alone."""
    before = make()
    on_disk = await before.get([(code, 0.5), (reasoning, 0.5)])
    await before.close()
    await engine.unload(on_disk.id)
    compositions = make()
    both = await compositions.get([(code, 0.7), (reasoning, 0.3)])
    alone = await compositions.get([(code, 1.0)])
    await compositions.forget(reasoning.id)
    assert set(engine.adapters) == {alone.id}
    assert set((tmp_path / "folder").iterdir()) == {alone.path}
    assert not both.path.exists()
    with pytest.raises(UnknownAdapter):
        await engine.unload(both.id)


async def test_a_part_that_leaves_during_the_build(
    make: Callable[..., Compositions],
    stop_builds: Callable[..., Any],
    engine: FakeEngine,
    code: AdapterVersion,
    tmp_path: Path,
) -> None:
    compositions = make()
    with stop_builds() as started:
        asked = asyncio.create_task(compositions.get([(code, 1.0)]))
        await asyncio.to_thread(started.wait, 30)
        forgotten = asyncio.create_task(compositions.forget(code.id))
        await asyncio.sleep(0)
    assert (await asked).name == "composition"
    await forgotten
    assert dict(engine.adapters) == {}
    assert list((tmp_path / "folder").iterdir()) == []
