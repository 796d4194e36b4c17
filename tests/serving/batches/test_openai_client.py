"""The official client: a batch from its upload to its output, and what it may ask for on the way."""

from __future__ import annotations

import openai

from tests.serving.batches.conftest import chats, ended, read, start


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
        assert answer["error"] is None
        assert answer["id"].startswith("batch_req_")
        response = answer["response"]
        assert response["status_code"] == 200
        body = response["body"]
        assert body["adaptive_lora"]["request_id"] == response["request_id"]
        assert body["choices"] == direct.model_dump()["choices"] or body["choices"][0]["message"][
            "content"
        ] == (direct.choices[0].message.content)
        assert body["usage"]["total_tokens"] == (direct.usage and direct.usage.total_tokens)
        n_output_tokens += body["usage"]["completion_tokens"]
    assert done.usage is not None
    assert done.usage.output_tokens == n_output_tokens
