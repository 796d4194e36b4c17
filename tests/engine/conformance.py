"""What every engine must do. A test module derives from `EngineConformance` and provides the fixtures.

engine     started, with two slots and `adapters` loaded; context of at most 256 tokens, at least 8 sequences
           at once
adapters   at least three AdapterVersions whose answers differ from each other's and from the base's
spare      an AdapterVersion that is not loaded; every test leaves it so
too_large  an AdapterVersion of a rank that the engine does not take
unstarted  an engine that has not been started
"""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import aclosing
from dataclasses import replace

import pytest

from adaptive_lora.engine.base import Engine
from adaptive_lora.engine.collect import collect
from adaptive_lora.errors import (
    EngineNotReady,
    InvalidRequest,
    PromptTooLong,
    RankTooLarge,
    UnknownAdapter,
    Unsupported,
)
from adaptive_lora.types import ChatMessage, GenerateRequest, SamplingConfig

PROMPT = "Once upon a time"
SHORT = SamplingConfig(max_tokens=12, ignore_eos=True)
LONG = SamplingConfig(max_tokens=200, ignore_eos=True)
BOOLEAN = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


def request(prompt=PROMPT, sampling=SHORT, adapter_id=None, **changes):
    return GenerateRequest(uuid.uuid4().hex, prompt, replace(sampling, **changes), adapter_id)


async def complete(engine, *args, **changes):
    """The only choice of one request."""
    (completion,) = await collect(engine.generate(request(*args, **changes)))
    return completion


async def idle(engine):
    """Wait until nothing runs. `make test`'s time limit is the only one."""
    while (stats := await engine.stats()).running + stats.waiting:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


class EngineConformance:
    async def test_is_an_engine(self, engine):
        assert isinstance(engine, Engine)
        assert 0 < engine.max_model_len <= 256

    async def test_streams_pieces_and_finishes_once(self, engine):
        chunks = [chunk async for chunk in engine.generate(request())]
        assert len(chunks) > 1
        assert [c.finish_reason for c in chunks].index("length") == len(chunks) - 1
        assert sum(c.n_tokens for c in chunks) == 12
        assert {c.index for c in chunks} == {0}
        assert {c.n_prompt_tokens for c in chunks} == {await engine.count_tokens(PROMPT)}

    async def test_greedy_answers_repeat(self, engine):
        assert await complete(engine) == await complete(engine)

    async def test_a_cache_salt_changes_no_token(self, engine, adapters):
        """Each salt reads the prompt for itself, then again from the prefix cache."""
        prompt = PROMPT + " there was a fox" * 3
        for adapter_id in (None, adapters[0].id):
            plain = await complete(engine, prompt, adapter_id=adapter_id, logprobs=0)
            for salt in ("0123456789abcdef" * 2, "f" * 32, "f" * 32):
                salted = replace(request(prompt, adapter_id=adapter_id, logprobs=0), cache_salt=salt)
                (completion,) = await collect(engine.generate(salted))
                assert (completion.text, completion.usage) == (plain.text, plain.usage)

    @pytest.mark.parametrize("salt", ["", "f" * 15, "f" * 129, "F" * 32, "../../etc/passwd", "f" * 32 + "\n"])
    async def test_a_malformed_cache_salt_never_reaches_the_engine(self, engine, salt):
        with pytest.raises(InvalidRequest, match="cache_salt"):
            await collect(engine.generate(replace(request(), cache_salt=salt)))
        assert (await complete(engine)).text

    async def test_prompts_matter(self, engine):
        assert (await complete(engine)).text != (await complete(engine, "Twice upon a time")).text

    async def test_sampling_repeats_with_a_seed(self, engine):
        one, same, other = [await complete(engine, temperature=1.0, seed=seed) for seed in (5, 5, 6)]
        assert one.text == same.text != other.text

    async def test_n_choices_end_once_each(self, engine):
        chunks = [c async for c in engine.generate(request(n=3, temperature=1.0, seed=1))]
        ends = [c.index for c in chunks if c.finish_reason is not None]
        assert sorted(ends) == [0, 1, 2]
        texts = {i: "".join(c.text for c in chunks if c.index == i) for i in range(3)}
        assert len(set(texts.values())) > 1

    async def test_stop_strings_end_the_text_and_are_not_part_of_it(self, engine):
        whole = (await complete(engine)).text
        stop = whole[5:8]
        stopped = await complete(engine, stop=(stop,))
        assert stopped.finish_reason == "stop"
        assert stopped.text == whole[: whole.index(stop)]

    async def test_min_tokens(self, engine):
        completion = await complete(engine, ignore_eos=False, min_tokens=12)
        assert completion.usage.completion_tokens == 12

    async def test_logprobs(self, engine):
        completion = await complete(engine, logprobs=3)
        assert completion.logprobs is not None
        assert len(completion.logprobs) == completion.usage.completion_tokens
        for token in completion.logprobs:
            assert len(token.top) == 3
            assert token.logprob <= 0
            assert token.top[0] == (token.token, token.logprob), "greedy takes the likeliest"
            assert [p for _, p in token.top] == sorted((p for _, p in token.top), reverse=True)

    async def test_logprobs_of_the_sampled_token_only_and_none(self, engine):
        completion = await complete(engine, logprobs=0)
        assert completion.logprobs is not None
        assert all(token.top == () for token in completion.logprobs)
        assert (await complete(engine)).logprobs is None

    async def test_conversations(self, engine):
        chat = (ChatMessage("system", "Be brief."), ChatMessage("user", "Hello"))
        completion = await complete(engine, chat)
        assert completion.usage.prompt_tokens == await engine.count_tokens(chat)
        other = (ChatMessage("system", "Be long."), ChatMessage("user", "Hello"))
        assert (await complete(engine, other)).text != completion.text

    async def test_long_prompts_and_unicode(self, engine):
        for prompt in ("naïve, 你好 🎉", "x" * 150):
            assert (await complete(engine, prompt)).usage.prompt_tokens == await engine.count_tokens(prompt)

    async def test_structured_output(self, engine):
        completion = await complete(engine, json_schema=BOOLEAN, max_tokens=60, ignore_eos=False)
        assert completion.finish_reason == "stop"
        assert json.loads(completion.text) in ({"ok": True}, {"ok": False})

    async def test_every_adapter_answers_differently(self, engine, adapters):
        texts = [(await complete(engine)).text]
        texts += [(await complete(engine, adapter_id=a.id)).text for a in adapters]
        assert len(set(texts)) == len(texts)

    async def test_a_mixed_batch_gives_what_each_gives_alone(self, engine, adapters):
        ids = [None, *(a.id for a in adapters)] * 2
        prompts = [f"{PROMPT} {i}" for i in range(len(ids))]
        alone = [await complete(engine, p, adapter_id=i) for p, i in zip(prompts, ids, strict=True)]
        assert await engine.generate_batch(prompts, SHORT, ids) == alone

    async def test_generate_batch_defaults_to_the_base(self, engine):
        (completion,) = await engine.generate_batch([PROMPT], replace(SHORT, n=2))
        assert completion == await complete(engine)
        assert await engine.generate_batch([]) == []

    async def test_generate_batch_needs_an_adapter_per_prompt(self, engine):
        with pytest.raises(InvalidRequest, match="2 prompts"):
            await engine.generate_batch([PROMPT, PROMPT], SHORT, [None])

    async def test_a_failing_prompt_fails_the_batch_and_leaves_nothing_running(self, engine):
        with pytest.raises(UnknownAdapter):
            await engine.generate_batch([PROMPT, PROMPT], LONG, [None, "nobody@000000000000"])
        await idle(engine)

    async def test_an_unknown_adapter_is_never_answered_by_the_base(self, engine, spare):
        for adapter_id in (spare.id, "", "base", "../etc"):
            with pytest.raises(UnknownAdapter):
                await complete(engine, adapter_id=adapter_id)
            with pytest.raises(UnknownAdapter):
                await engine.unload(adapter_id)
            with pytest.raises(UnknownAdapter):
                await engine.pin(adapter_id)
            with pytest.raises(UnknownAdapter):
                await engine.unpin(adapter_id)

    async def test_a_prompt_without_room_for_an_answer(self, engine):
        with pytest.raises(PromptTooLong, match=str(engine.max_model_len)):
            await complete(engine, "many words " * engine.max_model_len)

    async def test_max_tokens_end_with_the_context(self, engine):
        completion = await complete(engine, max_tokens=100_000)
        usage = completion.usage
        assert completion.finish_reason == "length"
        assert usage.total_tokens == engine.max_model_len

    @pytest.mark.parametrize(
        "changes",
        [
            {"temperature": -1.0},
            {"top_p": 0.0},
            {"top_p": 1.5},
            {"top_k": -5},
            {"min_p": 2.0},
            {"n": 0},
            {"max_tokens": 0},
            {"min_tokens": 13},
            {"presence_penalty": 3.0},
            {"repetition_penalty": 0.0},
        ],
        ids=str,
    )
    async def test_parameters_out_of_range(self, engine, changes):
        with pytest.raises(InvalidRequest):
            await complete(engine, **changes)
        await idle(engine)

    async def test_an_invalid_schema(self, engine):
        with pytest.raises(InvalidRequest):
            await complete(engine, json_schema={"type": "no such type"})
        assert (await complete(engine)).text

    async def test_closing_the_stream_aborts_the_request(self, engine):
        async with aclosing(engine.generate(request(sampling=LONG))) as chunks:
            async for _ in chunks:
                break
        await idle(engine)

    async def test_cancelling_the_reader_aborts_the_request(self, engine):
        task = asyncio.create_task(complete(engine, sampling=LONG))
        while not (await engine.stats()).running:
            await asyncio.sleep(0.01)
            if task.done():  # on a busy machine it may run and end between two looks
                task = asyncio.create_task(complete(engine, sampling=LONG))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await idle(engine)

    @pytest.mark.parametrize("n", [1, 2])
    async def test_abort_ends_every_unfinished_choice(self, engine, n):
        running = request(sampling=LONG, n=n, temperature=1.0)
        reasons = []
        async for chunk in engine.generate(running):
            reasons += [chunk.finish_reason] * (chunk.finish_reason is not None)
            await engine.abort(running.request_id)
        assert reasons == ["abort"] * n
        await idle(engine)

    async def test_abort_of_an_unknown_request_does_nothing(self, engine):
        await engine.abort("nobody")

    async def test_request_ids_are_unique_while_they_run(self, engine):
        first = request(sampling=LONG)
        async with aclosing(engine.generate(first)) as chunks:
            await anext(chunks)
            with pytest.raises(InvalidRequest, match="unique"):
                await collect(engine.generate(first))
        await idle(engine)

    async def test_the_likelihood_of_an_answer(self, engine, adapters):
        """The greedy answer is the likeliest; its log-probabilities are those that generating it reports."""
        greedy = await complete(engine, logprobs=0, adapter_id=adapters[0].id)
        scored = await engine.answer_logprobs(PROMPT, greedy.text, adapters[0].id)
        assert scored
        assert all(value <= 0 for value in scored)
        assert scored != await engine.answer_logprobs(PROMPT, greedy.text)
        assert scored == await engine.answer_logprobs(PROMPT, greedy.text, adapters[0].id)
        chat = (ChatMessage("user", "Hello"),)
        assert len(await engine.answer_logprobs(chat, "Yes")) >= 1

    async def test_the_likelihood_of_what_cannot_be_scored(self, engine, spare):
        with pytest.raises(UnknownAdapter):
            await engine.answer_logprobs(PROMPT, "yes", spare.id)
        with pytest.raises(InvalidRequest):
            await engine.answer_logprobs(PROMPT, "")
        with pytest.raises(PromptTooLong):
            await engine.answer_logprobs(PROMPT, "many words " * engine.max_model_len)

    async def test_load_and_unload(self, engine, adapters, spare):
        await engine.load(spare)
        await engine.load(spare)
        assert await engine.list() == sorted([*adapters, spare], key=lambda a: a.id)
        assert engine.adapters[spare.id] == spare
        assert (await engine.stats()).loaded_adapters == len(adapters) + 1
        before = await complete(engine, adapter_id=spare.id)
        assert before.text != (await complete(engine)).text
        await engine.unload(spare.id)
        with pytest.raises(UnknownAdapter):
            await complete(engine, adapter_id=spare.id)
        assert spare.id not in engine.adapters
        await engine.load(spare)
        assert await complete(engine, adapter_id=spare.id) == before
        await engine.unload(spare.id)

    async def test_residency_follows_use(self, engine, adapters, spare):
        for adapter in (*adapters, *adapters):
            await complete(engine, adapter_id=adapter.id)
            residency = await engine.residency()
            assert residency.keys() == engine.adapters.keys()
            assert residency[adapter.id] == "slot"
            assert [*residency.values()].count("slot") <= 2
        assert sorted(residency.values())[-2:] == ["slot", "slot"]
        assert residency[adapters[0].id] == "host"
        await engine.load(spare)
        assert spare.id in await engine.residency()
        await engine.unload(spare.id)
        assert spare.id not in await engine.residency()

    async def test_a_pinned_adapter_keeps_its_slot_whatever_runs(self, engine, adapters):
        pinned, *others = (a.id for a in adapters)
        want = await engine.generate_batch([PROMPT] * 3, SHORT, [pinned, *others])
        await engine.pin(pinned)
        await engine.pin(pinned)
        try:
            for adapter_id in (*others, None, *others):
                await complete(engine, adapter_id=adapter_id)
                assert (await engine.residency())[pinned] == "slot"
            ids = [*others, pinned, None, *others]
            await engine.generate_batch([PROMPT] * len(ids), SHORT, ids)
            assert await engine.generate_batch([PROMPT] * 3, SHORT, [pinned, *others]) == want
        finally:
            await engine.unpin(pinned)
        await engine.unpin(pinned)
        for adapter_id in others:
            await complete(engine, adapter_id=adapter_id)
        assert (await engine.residency())[pinned] != "slot"

    async def test_pinning_while_requests_for_every_adapter_run(self, engine, adapters):
        ids = [a.id for a in adapters] * 2
        running = asyncio.create_task(engine.generate_batch([PROMPT] * len(ids), LONG, ids))
        await asyncio.sleep(0)
        try:
            await engine.pin(adapters[0].id)
            completions = await running
            assert [c.text for c in completions[:3]] == [c.text for c in completions[3:]]
            assert (await engine.residency())[adapters[0].id] == "slot"
        finally:
            await engine.unpin(adapters[0].id)

    async def test_pinning_leaves_a_slot_for_the_others(self, engine, adapters):
        await engine.pin(adapters[0].id)
        try:
            with pytest.raises(Unsupported, match="1 of 2 slots are pinned"):
                await engine.pin(adapters[1].id)
            assert (await complete(engine, adapter_id=adapters[1].id)).text
        finally:
            await engine.unpin(adapters[0].id)

    async def test_unload_ends_a_pin(self, engine, adapters, spare):
        await engine.load(spare)
        await engine.pin(spare.id)
        await engine.unload(spare.id)
        await engine.pin(adapters[0].id)
        await engine.unpin(adapters[0].id)

    async def test_what_waits_for_a_pinned_slot_can_be_aborted(self, engine, adapters):
        """With one of two slots pinned the third adapter waits for the second."""
        await engine.pin(adapters[0].id)
        try:
            for _ in range(20):  # on a busy machine the first may end before the other is looked at
                first = engine.generate(request(sampling=LONG, adapter_id=adapters[1].id))
                await anext(first)
                waiting = request(sampling=LONG, adapter_id=adapters[2].id)
                task = asyncio.create_task(collect(engine.generate(waiting)))
                while not task.done() and (await engine.stats()).waiting != 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                await engine.abort(waiting.request_id)
                (completion,) = await task
                await first.aclose()
                if completion.usage.completion_tokens == 0:
                    break
        finally:
            await engine.unpin(adapters[0].id)
        assert (completion.finish_reason, completion.text) == ("abort", "")
        await idle(engine)

    async def test_unload_lets_running_requests_finish(self, engine, spare):
        await engine.load(spare)
        want = await complete(engine, sampling=LONG, adapter_id=spare.id)
        chunks = engine.generate(request(sampling=LONG, adapter_id=spare.id))
        first = await anext(chunks)
        unloading = asyncio.create_task(engine.unload(spare.id))
        await asyncio.sleep(0)
        with pytest.raises(UnknownAdapter):
            await complete(engine, adapter_id=spare.id)
        text = first.text + "".join([chunk.text async for chunk in chunks])
        await unloading
        assert text == want.text

    async def test_the_view_of_adapters_is_read_only(self, engine, spare):
        with pytest.raises(TypeError):
            engine.adapters[spare.id] = spare

    async def test_a_rank_that_is_too_large(self, engine, too_large):
        with pytest.raises(RankTooLarge, match=str(too_large.rank)):
            await engine.load(too_large)
        assert too_large.id not in engine.adapters

    async def test_stats_count_what_runs(self, engine):
        async with aclosing(engine.generate(request(sampling=LONG))) as chunks:
            await anext(chunks)
            stats = await engine.stats()
            assert stats.running + stats.waiting == 1
            assert stats.kv_cache_usage is None or 0 <= stats.kv_cache_usage <= 1
        await idle(engine)

    async def test_device_memory_is_known_or_there_is_a_reason(self, engine):
        try:
            devices = await engine.device_memory()
        except Unsupported:
            return
        assert devices
        for device in devices:
            assert 0 < device.allocated <= device.reserved <= device.total
            assert 0 <= device.free < device.total

    async def test_nothing_works_before_start(self, unstarted, adapters):
        for call in (
            collect(unstarted.generate(request())),
            unstarted.generate_batch([PROMPT]),
            unstarted.load(adapters[0]),
            unstarted.unload(adapters[0].id),
            unstarted.pin(adapters[0].id),
            unstarted.unpin(adapters[0].id),
            unstarted.residency(),
            unstarted.list(),
            unstarted.abort("x"),
            unstarted.stats(),
            unstarted.device_memory(),
            unstarted.count_tokens(PROMPT),
        ):
            with pytest.raises(EngineNotReady):
                await call
        await unstarted.stop()
        await unstarted.stop()
