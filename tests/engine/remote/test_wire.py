"""What is said to a worker is what it reads, and back; and nothing that it may say breaks the reader."""

from __future__ import annotations

import contextlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora import errors
from adaptive_lora.engine.remote import wire
from adaptive_lora.engine.remote.dialects import failure
from adaptive_lora.engine.remote.stock import completion_body, read_choice
from adaptive_lora.engine.remote.transport import WorkerFailed
from adaptive_lora.errors import AdaptiveLoraError, EngineError, PromptTooLong, UnknownAdapter
from adaptive_lora.types import (
    ChatMessage,
    GenerateRequest,
    SamplingConfig,
    TokenChunk,
    TokenLogprob,
)

text = st.text(st.characters(exclude_categories=["Cs"]))
logprob = st.floats(max_value=0, allow_nan=False)
json_value = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=8,
)
prompts = text | st.lists(st.builds(ChatMessage, st.sampled_from(["system", "user", "assistant"]), text)).map(
    tuple
)
samplings = st.builds(
    SamplingConfig,
    max_tokens=st.integers(1, 9999),
    temperature=st.floats(0, 2),
    seed=st.none() | st.integers(0, 2**62),
    stop=st.lists(text).map(tuple),
    logprobs=st.none() | st.integers(0, 20),
    json_schema=st.none() | st.dictionaries(text, json_value),
)
requests = st.builds(GenerateRequest, text, prompts, samplings, st.none() | text, st.none() | text)
token_logprobs = st.builds(TokenLogprob, text, logprob, st.lists(st.tuples(text, logprob)).map(tuple))
chunks = st.builds(
    TokenChunk,
    st.integers(0, 9),
    text,
    st.integers(0, 9),
    st.integers(0, 9999),
    st.none() | st.lists(token_logprobs).map(tuple),
    st.sampled_from([None, "stop", "length", "abort"]),
)


async def pieces(data: bytes, size: int):
    for i in range(0, len(data), size):
        yield data[i : i + size]


@given(requests)
def test_a_request_arrives_as_it_was_sent(request):
    assert wire.decode_request(wire.encode(request)) == request


@given(st.lists(chunks), st.integers(1, 500))
async def test_what_arrives_is_what_was_sent_however_the_stream_is_cut_into_pieces(sent, size):
    data = b"".join(map(wire.chunk_event, sent)) + wire.DONE
    seen = [chunk async for chunk in wire.read_chunks(pieces(data, size))]
    assert list(wire.join_chunks(iter(seen))) == list(wire.join_chunks(iter(sent)))
    for index in range(10):
        ours, theirs = ([chunk for chunk in which if chunk.index == index] for which in (seen, sent))
        assert "".join(chunk.text for chunk in ours) == "".join(chunk.text for chunk in theirs)
        assert sum(chunk.n_tokens for chunk in ours) == sum(chunk.n_tokens for chunk in theirs)
        assert [c.finish_reason for c in ours if c.finish_reason] == [
            c.finish_reason for c in theirs if c.finish_reason
        ]
        assert [entry for c in ours for entry in c.logprobs or ()] == [
            entry for c in theirs for entry in c.logprobs or ()
        ]


async def test_neighbours_of_one_choice_that_arrive_together_are_one_chunk_but_for_the_first():
    a, b = TokenLogprob("a", -1.0), TokenLogprob("b", -2.0)
    sent = [
        TokenChunk(0, "<", 1, 5),
        TokenChunk(0, "a", 1, 5, (a,)),
        TokenChunk(0, "b", 1, 5, (b,), "stop"),
        TokenChunk(1, "c", 1, 5),
        TokenChunk(1, "", 0, 5, None, "abort"),
    ]
    data = b"".join(map(wire.chunk_event, sent)) + wire.DONE
    seen = [chunk async for chunk in wire.read_chunks(pieces(data, len(data)))]
    assert seen == [sent[0], TokenChunk(0, "ab", 2, 5, (a, b), "stop"), *sent[3:]]


async def test_an_error_comes_after_the_chunks_that_arrive_with_it():
    data = wire.chunk_event(TokenChunk(0, "a", 1, 5)) + wire.error_event(errors.EngineError("broken"))
    arriving = wire.read_chunks(pieces(data, len(data)))
    assert (await anext(arriving)).text == "a"
    with pytest.raises(errors.EngineError, match="broken"):
        await anext(arriving)


@given(st.lists(chunks, min_size=1), st.data())
async def test_a_cut_stream_is_never_a_finished_one(sent, data):
    whole = b"".join(map(wire.chunk_event, sent)) + wire.DONE
    cut = data.draw(st.integers(0, len(whole) - len(b"\n\n") - 1))
    seen = []
    try:
        async for chunk in wire.read_chunks(pieces(whole[:cut], 7)):
            seen.append(chunk)
    except EOFError:
        text = "".join(chunk.text for chunk in sent)
        assert text.startswith("".join(chunk.text for chunk in seen))
    else:
        pytest.fail("it ended as if it were whole")


KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, wire.OF_ENGINES)
]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_arrives_as_what_it_was(kind):
    error = wire.read_error(wire.error_body(kind("what to do")))
    assert (type(error), error.message) == (kind, "what to do")
    with pytest.raises(kind, match="what to do"):
        async for _ in wire.read_chunks(pieces(wire.error_event(kind("what to do")), 7)):
            pass


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "internal_error", "no_such_code", 7, None])
def test_other_errors_are_none_that_a_worker_may_raise(code):
    assert wire.read_error(json.dumps({"error": {"code": code, "message": "x"}}).encode()) is None


@given(st.binary() | json_value.map(lambda value: json.dumps(value).encode()))
def test_whatever_a_worker_says_is_a_chunk_or_an_error_of_ours(data):
    with contextlib.suppress(AdaptiveLoraError):
        assert isinstance(wire.read_chunk(data), TokenChunk)


@given(st.integers(300, 599), st.binary() | json_value.map(lambda value: json.dumps(value).encode()))
def test_every_refusal_is_the_requests_error_or_the_workers_failure(status, body):
    assert isinstance(failure(status, body), (AdaptiveLoraError, WorkerFailed))


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, PromptTooLong("too long"), PromptTooLong),
        (404, UnknownAdapter("who?"), UnknownAdapter),
        (503, EngineError("the engine failed"), WorkerFailed),
    ],
)
def test_what_is_the_requests_fault_stays_so_and_the_engines_is_the_workers(status, error, kind):
    assert type(failure(status, wire.error_body(error))) is kind


@given(samplings, st.integers(1, 500))
def test_a_stock_worker_is_told_every_parameter_and_never_more_tokens_than_fit(sampling, room):
    body = completion_body("model", [1, 2], sampling, room)
    assert body["max_tokens"] == min(sampling.max_tokens, room)
    assert body["min_tokens"] <= body["max_tokens"] or sampling.min_tokens > sampling.max_tokens
    for name in ("temperature", "top_p", "top_k", "min_p", "seed", "n", "logprobs", "ignore_eos"):
        assert body[name] == getattr(sampling, name)
    assert ("structured_outputs" in body) == (sampling.json_schema is not None)


def test_a_stock_worker_is_told_the_tenants_salt_if_there_is_one():
    assert completion_body("m", [1], SamplingConfig(), 9, "f" * 32)["cache_salt"] == "f" * 32
    assert "cache_salt" not in completion_body("m", [1], SamplingConfig(), 9)


def test_a_stock_workers_log_probabilities():
    choice = {
        "index": 0,
        "text": "a",
        "token_ids": [5],
        "logprobs": {
            "tokens": ["a"],
            "token_logprobs": [-3.0],
            "top_logprobs": [{"a": -3.0, "b": -0.5, "c": -9999.0}],
        },
        "finish_reason": "repetition",
    }
    assert read_choice(choice, 7, 3) == TokenChunk(
        0, "a", 1, 7, (TokenLogprob("a", -3.0, (("b", -0.5), ("a", -3.0), ("c", -math.inf))),), "stop"
    )
    assert read_choice(choice, 7, 0).logprobs == (TokenLogprob("a", -3.0, ()),)
    assert read_choice(choice, 7, None).logprobs is None
