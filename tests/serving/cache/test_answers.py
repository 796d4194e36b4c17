"""What is cached, what never is, and who shares a generation with whom."""

from __future__ import annotations

import asyncio
import random

import pytest

from adaptive_lora.errors import (
    AdaptiveLoraError,
    BudgetSpent,
    DeadlineExceeded,
    EngineDead,
    EngineNotReady,
    InvalidRequest,
    PromptTooLong,
    RequestAborted,
    WorkerLost,
)
from adaptive_lora.serving.cache.answers import CachePolicy
from adaptive_lora.serving.cache.store import MemoryStore
from tests.serving.cache.conftest import ANSWER, Gateway, make_gateway, request_of, settle
from tests.serving.conftest import until


async def test_an_answer_is_generated_once_and_comes_back_chunk_by_chunk(gateway: Gateway) -> None:
    assert await gateway.answer() == ("miss", ANSWER)
    assert await gateway.answer() == ("hit", ANSWER)
    assert len(gateway.engine.generations) == 1
    assert gateway.count("cache_requests_total", result="hit") == 1
    assert gateway.count("cache_requests_total", result="miss") == 1
    assert gateway.count("cache_saved_tokens_total") == 3


async def test_tenants_versions_and_prompts_do_not_share(gateway: Gateway) -> None:
    asked = [
        (request_of(), "acme"),
        (request_of(), "other"),
        (request_of("hello "), "acme"),
        (request_of(adapter_id="code@3f9c2a000001"), "acme"),
        (request_of(adapter_id="code@3f9c2a000002"), "acme"),
        (request_of(max_tokens=9), "acme"),
    ]
    for expected in ("miss", "hit"):
        for request, tenant in asked:
            result, _ = await gateway.answer(request, tenant=tenant)
            assert result == expected
    assert len(gateway.engine.generations) == len(asked)


@pytest.mark.parametrize(
    ("sampling", "result"),
    [
        ({"temperature": 0.0}, "hit"),
        ({"temperature": 0.7, "seed": 3}, "hit"),
        ({"temperature": 0.7, "seed": 3, "n": 2}, "hit"),
        ({"temperature": 0.7}, "bypass"),
        ({"temperature": 1.0, "n": 2}, "bypass"),
    ],
)
async def test_only_repeatable_requests_are_cached(
    gateway: Gateway, sampling: dict[str, object], result: str
) -> None:
    await gateway.answer(request_of(**sampling))
    assert (await gateway.answer(request_of(**sampling)))[0] == result


async def test_a_sampled_request_may_take_an_earlier_sample_for_its_own(gateway: Gateway) -> None:
    request = request_of(temperature=0.7)
    assert (await gateway.answer(request, CachePolicy(accepts_samples=True)))[0] == "miss"
    assert (await gateway.answer(request, CachePolicy(accepts_samples=True)))[0] == "hit"
    assert (await gateway.answer(request))[0] == "bypass"


async def test_off_neither_reads_nor_leaves_anything(gateway: Gateway) -> None:
    off = CachePolicy("off")
    assert (await gateway.answer(policy=off))[0] == "bypass"
    assert (await gateway.answer())[0] == "miss"
    assert (await gateway.answer(policy=off))[0] == "bypass"
    assert len(gateway.engine.generations) == 3


async def test_a_refresh_generates_anew_and_is_kept(gateway: Gateway) -> None:
    await gateway.answer()
    reader = gateway.ask(policy=CachePolicy("refresh"))
    await settle()
    news = (*ANSWER[:1], ANSWER[2])
    gateway.engine.generations[-1].say(*news)
    gateway.engine.generations[-1].end()
    await reader.task
    assert reader.result == "bypass"
    assert await gateway.answer() == ("hit", news)


async def test_nothing_is_cached_while_the_model_is_not_known() -> None:
    gateway = make_gateway(model=lambda: None)
    assert [(await gateway.answer())[0] for _ in range(2)] == ["bypass", "bypass"]


async def test_identical_requests_share_one_generation_and_read_it_as_it_comes(gateway: Gateway) -> None:
    readers = [gateway.ask() for _ in range(5)]
    await settle()
    (generation,) = gateway.engine.generations
    for n_said, chunk in enumerate(ANSWER, 1):
        generation.say(chunk)
        await settle()
        assert {len(reader.chunks) for reader in readers} == {n_said}, "before the next one is there"
        readers.append(gateway.ask())
        await settle()
        assert readers[-1].chunks == list(ANSWER[:n_said]), "who comes late begins at the beginning"
    generation.end()
    for reader in readers:
        await reader.task
        assert tuple(reader.chunks) == ANSWER
    assert [reader.result for reader in readers] == ["miss"] + ["shared"] * 7
    assert len(gateway.engine.generations) == 1
    assert gateway.count("cache_requests_total", result="shared") == 7
    assert (await gateway.answer())[0] == "hit"


async def test_nobody_waits_for_a_less_urgent_generation(gateway: Gateway) -> None:
    batch = [gateway.ask(priority="batch") for _ in range(2)]
    await settle()
    urgent = gateway.ask()
    await settle()
    assert len(gateway.engine.generations) == 2
    gateway.engine.generations[1].say(*ANSWER)
    gateway.engine.generations[1].end()
    await urgent.task
    assert (tuple(urgent.chunks), urgent.result) == (ANSWER, "miss")
    assert [reader.task.done() for reader in batch] == [False, False]
    gateway.engine.generations[0].say(*ANSWER)
    gateway.engine.generations[0].end()
    for reader in batch:
        await reader.task
    assert [reader.result for reader in batch] == ["miss", "shared"]


@pytest.mark.parametrize("who", [0, 1, 2])
async def test_one_that_leaves_takes_nothing_from_the_others(gateway: Gateway, who: int) -> None:
    """The first one is whose request started it."""
    readers = [gateway.ask() for _ in range(3)]
    await settle()
    (generation,) = gateway.engine.generations
    generation.say(ANSWER[0])
    await settle()
    await readers.pop(who).leave()
    assert not generation.is_closed
    generation.say(*ANSWER[1:])
    generation.end()
    for reader in readers:
        await reader.task
        assert tuple(reader.chunks) == ANSWER


async def test_the_last_one_that_leaves_stops_the_generation(gateway: Gateway) -> None:
    readers = [gateway.ask() for _ in range(3)]
    await settle()
    (generation,) = gateway.engine.generations
    generation.say(ANSWER[0])
    await settle()
    for reader in readers:
        assert not generation.is_closed
        await reader.leave()
    assert generation.is_closed
    assert (await gateway.answer())[0] == "miss", "half an answer is none"
    assert len(gateway.engine.generations) == 2


async def test_who_has_left_leaves_nothing_behind(gateway: Gateway) -> None:
    """Nor does one that comes and goes again and again, while a generation does not move."""
    stays = gateway.ask()
    await settle()
    (flight,) = gateway.cache._flights.values()
    soon = asyncio.get_running_loop().time()
    for _ in range(100):
        await gateway.ask().leave()
        reader = gateway.ask()
        await settle()
        await reader.leave()
        with pytest.raises(DeadlineExceeded):
            await gateway.ask(deadline=soon).task
    assert (len(flight._waiting), flight._n_readers) == (1, 1)
    await stays.leave()


async def test_one_that_leaves_at_once_stops_it_too(gateway: Gateway) -> None:
    """Before the generation's task has run for the first time."""
    reader = gateway.ask()
    while not gateway.engine.generations:  # noqa: ASYNC110 - the very next moment is what is tested
        await asyncio.sleep(0)
    await reader.leave()
    await settle()
    assert await gateway.answer() == ("miss", ANSWER)


@pytest.mark.parametrize("error", [PromptTooLong("x"), InvalidRequest("x"), EngineDead("x"), ValueError("x")])
async def test_an_error_reaches_everybody_and_is_not_kept(gateway: Gateway, error: Exception) -> None:
    readers = [gateway.ask() for _ in range(5)]
    await settle()
    for generation in range(2):  # the others try once more, unless it is a fault of ours
        if generation < len(gateway.engine.generations):
            gateway.engine.generations[generation].fail(error)
        await settle()
    for reader in readers:
        with pytest.raises(type(error)):
            await reader.task
    assert len(gateway.engine.generations) == (1 if isinstance(error, ValueError) else 2)
    assert (await gateway.answer())[0] == "miss"


@pytest.mark.parametrize("error", [RequestAborted("x"), DeadlineExceeded("x"), WorkerLost("x")])
async def test_what_befell_the_first_is_tried_once_more_by_the_others_together(
    gateway: Gateway, error: AdaptiveLoraError
) -> None:
    first, *others = [gateway.ask() for _ in range(4)]
    await settle()
    gateway.engine.generations[0].fail(error)
    await settle()
    with pytest.raises(type(error)):
        await first.task
    assert len(gateway.engine.generations) == 2
    gateway.engine.generations[1].say(*ANSWER)
    gateway.engine.generations[1].end()
    for reader in others:
        await reader.task
        assert tuple(reader.chunks) == ANSWER
    assert sorted(reader.result for reader in others) == ["miss", "shared", "shared"]


async def test_it_is_tried_once_more_only(gateway: Gateway) -> None:
    readers = [gateway.ask() for _ in range(3)]
    await settle()
    for n in range(2):
        gateway.engine.generations[n].fail(WorkerLost("x"))
        await settle()
    for reader in readers:
        with pytest.raises(WorkerLost):
            await reader.task
    assert len(gateway.engine.generations) == 2


async def test_anothers_limit_is_nobody_elses(gateway: Gateway) -> None:
    """However many of those who started it were refused, the one that may gets its answer."""
    refused, may = [gateway.ask() for _ in range(4)], gateway.ask()
    await settle()
    for n, reader in enumerate(refused):
        gateway.engine.generations[n].fail(BudgetSpent("x", retry_after_s=1.0))
        await settle()
        with pytest.raises(BudgetSpent):
            await reader.task
    gateway.engine.generations[4].say(*ANSWER)
    gateway.engine.generations[4].end()
    await may.task
    assert (may.result, tuple(may.chunks)) == ("miss", ANSWER)


async def test_nobody_reads_anything_twice(gateway: Gateway) -> None:
    """Who has read the beginning of a generation that fails gets its error, whatever it is."""
    readers = [gateway.ask() for _ in range(2)]
    await settle()
    gateway.engine.generations[0].say(ANSWER[0])
    gateway.engine.generations[0].fail(WorkerLost("x"))
    for reader in readers:
        with pytest.raises(WorkerLost):
            await reader.task
        assert reader.chunks == [ANSWER[0]]
    assert len(gateway.engine.generations) == 1


async def test_a_follower_keeps_its_own_deadline(gateway: Gateway) -> None:
    first = gateway.ask()
    await settle()
    hurried = gateway.ask(deadline=asyncio.get_running_loop().time())
    with pytest.raises(DeadlineExceeded):
        await hurried.task
    gateway.engine.generations[0].say(*ANSWER)
    gateway.engine.generations[0].end()
    await first.task
    assert tuple(first.chunks) == ANSWER


async def test_the_generations_own_deadline_ends_in_the_generation(gateway: Gateway) -> None:
    """So that it is counted as an error, and not as a caller that went away."""
    deadline = asyncio.get_running_loop().time()
    reader = gateway.ask(deadline=deadline)
    await settle()
    assert not reader.task.done()
    gateway.engine.generations[0].fail(DeadlineExceeded("as the orchestrator does"))
    with pytest.raises(DeadlineExceeded, match="orchestrator"):
        await reader.task


async def test_closing_ends_who_still_reads(gateway: Gateway) -> None:
    readers = [gateway.ask() for _ in range(2)]
    await settle()
    await gateway.cache.close()
    for reader in readers:
        with pytest.raises(EngineNotReady):
            await reader.task
    assert gateway.engine.generations[0].is_closed


async def test_a_damaged_value_is_a_miss_and_is_mended() -> None:
    store = MemoryStore(1 << 20, 60.0)
    gateway = make_gateway(store)
    await gateway.answer()
    (key,) = store._entries
    store.write(key, b"damaged")
    assert await gateway.answer() == ("miss", ANSWER)
    assert gateway.count("cache_unreadable_total") == 1
    assert await gateway.answer() == ("hit", ANSWER)


async def test_a_store_that_fails_in_an_unknown_way_spoils_no_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(MemoryStore):
        async def set(self, key: bytes, value: bytes) -> bool:
            raise RuntimeError("a fault of ours")

    gateway = make_gateway(Broken(1 << 20, 60.0))
    assert await gateway.answer() == ("miss", ANSWER)
    await settle()
    assert "could not be kept" in caplog.text
    assert await gateway.answer() == ("miss", ANSWER)


async def test_an_answer_that_is_too_large_is_answered_and_not_kept(gateway: Gateway) -> None:
    letters = random.Random(0)
    long = ["".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=1_000)) for _ in range(2_500)]
    for _ in range(2):
        reader = gateway.ask()
        await settle()
        generation = gateway.engine.generations[-1]
        generation.say(*(type(ANSWER[0])(0, text, 1, 7) for text in long), ANSWER[2])
        generation.end()
        await reader.task
        assert reader.result == "miss"
        assert [chunk.text for chunk in reader.chunks[:-1]] == long
        await until(lambda: not gateway.cache._flights)  # it is packed in a thread
    assert gateway.count("cache_writes_total", outcome="too_large") == 2


async def test_a_long_answer_comes_back_through_a_thread(gateway: Gateway) -> None:
    answer = [type(ANSWER[0])(0, f" {i}", 1, 7) for i in range(9_000)] + [ANSWER[2]]
    for expected in ("miss", "hit"):
        reader = gateway.ask()
        await settle()
        if expected == "miss":
            gateway.engine.generations[-1].say(*answer)
            gateway.engine.generations[-1].end()
        await reader.task
        assert reader.result == expected
        assert reader.chunks == answer
        await until(lambda: not gateway.cache._flights)


@pytest.mark.parametrize("is_in_flight", [True, False])
async def test_a_long_answer_that_is_there_holds_nobody_up(gateway: Gateway, is_in_flight: bool) -> None:
    answer = [type(ANSWER[0])(0, "x", 1, 7)] * 6_400 + [ANSWER[2]]
    first = gateway.ask()
    await settle()
    gateway.engine.generations[0].say(*answer)
    if not is_in_flight:
        gateway.engine.generations[0].end()
        await first.task
        await until(lambda: not gateway.cache._flights)
    await until(lambda: len(first.chunks) == len(answer))
    second = gateway.ask()
    n_turns = 0
    while len(second.chunks) < len(answer):
        await asyncio.sleep(0)
        n_turns += 1
    assert n_turns >= 100
    assert second.result == ("shared" if is_in_flight else "hit")


@pytest.mark.parametrize("seed", range(20))
async def test_whoever_comes_and_goes_who_stays_gets_the_whole_answer(gateway: Gateway, seed: int) -> None:
    """Random comings and goings, tokens and failures, on three prompts; nothing is left behind."""
    chance = random.Random(seed)
    here: list[tuple[str, object]] = []
    everybody = []
    progress: dict[int, int] = {}
    for _ in range(300):
        match chance.choice(["come", "come", "go", "say", "say", "say", "fail", "wait"]):
            case "come":
                prompt = chance.choice("abc")
                reader = gateway.ask(request_of(prompt))
                everybody.append(reader)
                here.append((prompt, reader))
            case "go" if here:
                _, leaving = here.pop(chance.randrange(len(here)))
                await leaving.leave()  # type: ignore[attr-defined]
                everybody.remove(leaving)
            case "say" if gateway.engine.generations:
                which = chance.randrange(len(gateway.engine.generations))
                said = progress.get(which, 0)
                if said < len(ANSWER):
                    gateway.engine.generations[which].say(ANSWER[said])
                elif said == len(ANSWER):
                    gateway.engine.generations[which].end()
                progress[which] = said + 1
            case "fail" if gateway.engine.generations and chance.random() < 0.2:
                gateway.engine.generations[-1].fail(WorkerLost("x"))
                progress[len(gateway.engine.generations) - 1] = 99
            case _:
                await settle()
    await settle()
    while any(not reader.task.done() for reader in everybody):
        for which, generation in enumerate(gateway.engine.generations):
            said = progress.get(which, 0)
            if said <= len(ANSWER):
                generation.say(*ANSWER[said:])
                generation.end()
                progress[which] = 99
        await settle()
    for reader in everybody:
        if reader.task.exception() is None:
            assert tuple(reader.chunks) == ANSWER
        else:
            assert isinstance(reader.task.exception(), WorkerLost)
            assert tuple(reader.chunks) == ANSWER[: len(reader.chunks)]
    await settle()
    assert not gateway.cache._flights
    assert all(generation.is_closed for generation in gateway.engine.generations)
