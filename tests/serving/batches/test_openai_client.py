"""The official client: a batch from its upload to its output, and what it may ask for on the way."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from adaptive_lora.engine.fake import FakeEngine
from tests.serving.batches.conftest import (
    CHAT,
    OpenClient,
    chats,
    ended,
    line,
    read,
    start,
    until_done,
    upload,
)

COMPLETIONS = "/v1/completions"


async def test_a_batch_is_answered_as_the_routes_answer(client: openai.AsyncOpenAI) -> None:
    batch = await start(client, chats(5))
    assert (batch.object, batch.status, batch.metadata) == ("batch", "validating", {"job": "nightly"})
    assert batch.expires_at == batch.created_at + 86_400
    done = await ended(client, batch.id)
    assert (done.status, done.errors, done.error_file_id) == ("completed", None, None)
    counts = done.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (5, 5, 0)
    assert done.in_progress_at is not None
    assert done.finalizing_at is not None
    assert done.completed_at is not None
    answers = await read(client, done.output_file_id)
    assert answers.keys() == {f"item-{i}" for i in range(5)}
    n_output_tokens = 0
    for custom_id, answer in answers.items():
        direct = await client.chat.completions.create(
            model="code", messages=[{"role": "user", "content": custom_id}], max_tokens=4
        )
        response = answer["response"]
        assert (response["status_code"], answer["error"]) == (200, None)
        assert answer["id"].startswith("batch_req_")
        assert without_ids(response["body"]) == without_ids(json.loads(direct.model_dump_json()))
        assert response["body"]["adaptive_lora"]["request_id"] == response["request_id"]
        n_output_tokens += response["body"]["usage"]["completion_tokens"]
    assert done.usage is not None
    assert done.usage.output_tokens == n_output_tokens
    metrics = (await client._client.get("/metrics")).text
    assert 'queue_wait_seconds_count{priority="batch"} 5.0' in metrics


def without_ids(body: dict[str, Any]) -> dict[str, Any]:
    """What an answer says; nulls count as absent, which the client's models write."""
    told = {name: value for name, value in body.items() if name not in ("id", "created")}
    told["adaptive_lora"] = told["adaptive_lora"] | {"request_id": ""}
    plain: dict[str, Any] = without_nulls(told)
    return plain


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


async def test_completions_too_with_several_prompts_in_a_line(client: openai.AsyncOpenAI) -> None:
    body = {"model": "base", "prompt": ["one", "two"], "max_tokens": 2}
    done = await ended(
        client, (await start(client, [line("a", body, url=COMPLETIONS)], endpoint=COMPLETIONS)).id
    )
    answers = await read(client, done.output_file_id)
    assert [choice["index"] for choice in answers["a"]["response"]["body"]["choices"]] == [0, 1]


async def test_what_fails_is_in_the_error_file_as_the_route_would_answer(client: openai.AsyncOpenAI) -> None:
    messages = [{"role": "user", "content": "x"}]
    wrong: dict[str, Any] = {
        "unknown": {"model": "absent", "messages": messages},
        "field": {"model": "code", "messages": messages, "temprature": 1},
        "stream": {"model": "code", "messages": messages, "stream": True},
        "empty": {"model": "code", "messages": []},
        "long": {"model": "code", "messages": [{"role": "user", "content": "word " * 6_000}]},
    }
    lines = [line("good"), *(line(name, body) for name, body in wrong.items())]
    done = await ended(client, (await start(client, lines)).id)
    counts = done.request_counts
    assert counts is not None
    assert (done.status, counts.completed, counts.failed) == ("completed", 1, 5)
    assert (await read(client, done.output_file_id)).keys() == {"good"}
    failed = await read(client, done.error_file_id)
    assert failed.keys() == wrong.keys()
    for name, answer in failed.items():
        response = answer["response"]
        assert response["body"]["error"]["request_id"] == response["request_id"]
        if name == "stream":
            assert (response["status_code"], response["body"]["error"]["code"]) == (400, "unsupported")
            continue
        with pytest.raises(openai.APIStatusError) as caught:
            await client.post(CHAT.removeprefix("/v1"), body=wrong[name], cast_to=object)
        assert response["status_code"] == caught.value.status_code
        direct = caught.value.response.json()["error"]
        assert response["body"]["error"] | {"request_id": ""} == direct | {"request_id": ""}


async def test_a_file_that_is_no_input_fails_the_batch(client: openai.AsyncOpenAI) -> None:
    done = await ended(client, (await start(client, [line("a"), "{", line("a")])).id)
    assert (done.status, done.output_file_id, done.error_file_id) == ("failed", None, None)
    assert done.failed_at is not None
    assert done.errors is not None
    assert done.errors.data is not None
    assert [(error.code, error.line) for error in done.errors.data] == [
        ("invalid_json_line", 2),
        ("duplicate_custom_id", 3),
    ]


async def test_files_are_kept_listed_read_and_deleted(client: openai.AsyncOpenAI) -> None:
    content = b"".join(b"%d\n" % i for i in range(50_000))  # several pieces on the wire
    file = await client.files.create(file=("größe.jsonl", content), purpose="batch")
    assert (file.object, file.bytes, file.filename, file.purpose, file.status) == (
        "file",
        len(content),
        "größe.jsonl",
        "batch",
        "processed",
    )
    assert await client.files.retrieve(file.id) == file
    answer = await client.files.content(file.id)
    assert answer.content == content
    assert answer.response.headers["x-content-type-options"] == "nosniff"
    assert answer.response.headers["content-disposition"].startswith("attachment")
    assert [each.id async for each in client.files.list()] == [file.id]
    assert (await client.files.delete(file.id)).deleted
    for ask in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            await ask(file.id)


async def test_a_file_may_expire_sooner_than_others(client: openai.AsyncOpenAI) -> None:
    file = await client.files.create(
        file=("a", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3_600}
    )
    assert file.expires_at == file.created_at + 3_600
    with pytest.raises(openai.BadRequestError, match="expires_after"):
        await client.files.create(
            file=("a", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3_599}
        )


async def test_output_may_expire_sooner_than_others(client: openai.AsyncOpenAI) -> None:
    batch = await client.batches.create(
        input_file_id=await upload(client, chats(1)),
        endpoint="/v1/chat/completions",
        completion_window="24h",
        output_expires_after={"anchor": "created_at", "seconds": 3_600},
    )
    done = await ended(client, batch.id)
    assert done.output_file_id is not None
    output = await client.files.retrieve(done.output_file_id)
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert output.expires_at == output.created_at + 3_600


async def test_pages_follow_each_other(open_client: OpenClient) -> None:
    async with open_client(batches={"max_in_flight": 0}) as client:
        file_ids = [await upload(client, chats(1)) for _ in range(5)]
        batches = [
            await client.batches.create(
                input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            for file_id in file_ids
        ]
        assert [file.id async for file in client.files.list(limit=2)] == file_ids[::-1]
        assert [file.id async for file in client.files.list(limit=2, order="asc")] == file_ids
        found = [batch.id async for batch in client.batches.list(limit=2)]
        assert found == [batch.id for batch in batches][::-1]
        page = await client.batches.list(limit=5)
        assert (len(page.data), page.has_more) == (5, False)
        for limit in (0, 101):
            with pytest.raises(openai.BadRequestError, match="limit"):
                await client.batches.list(limit=limit)


@pytest.mark.parametrize(
    "changes",
    [
        {"input_file_id": "file-" + "0" * 32},
        {"input_file_id": "../../etc/passwd"},
        {"endpoint": "/v1/embeddings"},
        {"completion_window": "1h"},
        {"metadata": {f"k{i}": "v" for i in range(17)}},
        {"metadata": {"k" * 65: "v"}},
        {"metadata": {"k": "v" * 513}},
        {"metadata": {"k": 1}},
        {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
        {"something": 1},
    ],
)
async def test_what_a_batch_may_not_say(client: openai.AsyncOpenAI, changes: dict[str, Any]) -> None:
    usual = {
        "input_file_id": await upload(client, chats(1)),
        "endpoint": CHAT,
        "completion_window": "24h",
    }
    with pytest.raises(openai.BadRequestError):
        await client.post("/batches", body=usual | changes, cast_to=object)
    assert (await client.batches.list()).data == []


async def test_a_batch_is_cancelled_while_it_runs(open_client: OpenClient) -> None:
    slow = {"model": "code", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4_000}
    lines = [*chats(2), *(line(f"slow-{i}", slow | {"ignore_eos": True}) for i in range(30))]
    async with open_client(engine=FakeEngine(delay_s=0.01), batches={"max_in_flight": 2}) as client:
        batch = await start(client, lines)
        await until_done(client, batch.id, 2)
        with pytest.raises(openai.ConflictError, match="has still to read"):
            await client.files.delete(batch.input_file_id)
        assert (await client.batches.cancel(batch.id)).status in ("cancelling", "cancelled")
        done = await ended(client, batch.id)
        assert done.status == "cancelled"
        assert done.cancelling_at is not None
        assert done.cancelled_at is not None
        assert (await client.batches.cancel(batch.id)).status == "cancelled"
        answered = await read(client, done.output_file_id)
        failed = await read(client, done.error_file_id)
        counts = done.request_counts
        assert counts is not None
        assert (counts.completed, counts.failed) == (len(answered), len(failed)) == (2, 30)
        assert answered.keys() == {"item-0", "item-1"}
        assert {answer["error"]["code"] for answer in failed.values()} == {"batch_cancelled"}
        other = await ended(client, (await start(client, chats(1))).id)
        with pytest.raises(openai.ConflictError, match="completed"):
            await client.batches.cancel(other.id)
