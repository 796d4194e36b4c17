"""Whose files and batches: another tenant's do not exist, and a batch may do what its credential may."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest

from adaptive_lora.access.records import NewKey
from tests.serving.auth.conftest import Gateway, open_gateway  # noqa: F401 - a fixture
from tests.serving.auth.signing import token
from tests.serving.batches.conftest import (
    chats,
    client_of,
    ended,
    line,
    read,
    start,
    until_done,
)

GENERATE = frozenset({"generate"})


@pytest.fixture
async def gateway(open_gateway) -> AsyncIterator[Gateway]:  # type: ignore[no-untyped-def]  # noqa: F811
    async with open_gateway(batches={"takeover": 1}) as gateway:
        yield gateway


async def test_another_tenants_ids_do_not_exist(gateway: Gateway) -> None:
    acme, other = (token(tenant=tenant, sub="ann") for tenant in ("acme", "other"))
    async with client_of(gateway.app, api_key=acme) as mine, client_of(gateway.app, api_key=other) as theirs:
        batch = await ended(mine, (await start(mine, chats(2))).id)
        file_ids = [batch.input_file_id, batch.output_file_id]
        for file_id in file_ids:
            assert file_id is not None
            for ask in (theirs.files.retrieve, theirs.files.content, theirs.files.delete):
                with pytest.raises(openai.NotFoundError) as caught:
                    await ask(file_id)
                with pytest.raises(openai.NotFoundError) as absent:
                    await ask("file-" + "0" * 32)
                assert caught.value.body["message"] == absent.value.body["message"]  # type: ignore[index]
            with pytest.raises(openai.BadRequestError, match="input_file_id"):
                await theirs.batches.create(
                    input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
                )
            with pytest.raises(openai.BadRequestError, match="after"):
                await theirs.files.list(after=file_id)
        for ask_batch in (theirs.batches.retrieve, theirs.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await ask_batch(batch.id)
        with pytest.raises(openai.BadRequestError, match="after"):
            await theirs.batches.list(after=batch.id)
        assert (await theirs.files.list()).data == []
        assert (await theirs.batches.list()).data == []
        colleague = token(tenant="acme", sub="bob")
        async with client_of(gateway.app, api_key=colleague) as ours:
            assert (await ours.batches.retrieve(batch.id)).id == batch.id
            assert len((await ours.files.list()).data) == 2


async def test_a_batch_asks_for_the_agents_of_its_credential_alone(gateway: Gateway) -> None:
    async with client_of(gateway.app, api_key=token(agents=["creative"])) as client:
        messages = [{"role": "user", "content": "code please"}]
        lines = [line(name, {"model": name, "messages": messages}) for name in ("code", "creative", "auto")]
        done = await ended(client, (await start(client, lines)).id)
        answers = await read(client, done.output_file_id)
        failed = await read(client, done.error_file_id)
    assert answers.keys() == {"creative", "auto"}
    assert answers["auto"]["response"]["body"]["model"] == "base", "the router saw no other agent"
    assert failed["code"]["response"]["body"]["error"]["code"] == "unknown_adapter"


async def test_a_revoked_key_stops_its_batch_and_what_was_done_is_there(open_gateway) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    async with open_gateway(batches={"takeover": 1, "max_in_flight": 2}) as gateway:
        gateway.app.state.runtime._engine._delay_s = 0.01
        minted = gateway.store.mint(NewKey("ci", "acme", GENERATE), who="ann")
        await gateway.gate.credentials.refresh()
        slow = {"model": "code", "messages": [{"role": "user", "content": "x"}], "ignore_eos": True}
        lines = [*chats(2), *(line(f"slow-{i}", slow) for i in range(4))]
        async with client_of(gateway.app, api_key=minted.secret) as client:
            batch = await start(client, lines)
            await until_done(client, batch.id, 2)
        gateway.store.revoke(minted.key.id, who="ann")
        async with client_of(gateway.app, api_key=token(tenant="acme")) as colleague:
            done = await ended(colleague, batch.id)
            answers = await read(colleague, done.output_file_id)
            failed = await read(colleague, done.error_file_id)
    assert done.status == "failed"
    assert done.errors is not None
    assert done.errors.data is not None
    (error,) = done.errors.data
    assert (error.code, error.message) == (
        "credential_invalid",
        "the credential that it was asked for with has been revoked",
    )
    assert answers.keys() == {"item-0", "item-1"}
    assert {answer["error"]["code"] for answer in failed.values()} == {"batch_failed"}
    assert len(failed) == 4


async def test_a_credential_that_expires_stops_its_batch(gateway: Gateway) -> None:
    gateway.app.state.runtime._engine._delay_s = 0.01
    slow = {"model": "code", "messages": [{"role": "user", "content": "x"}], "ignore_eos": True}
    async with client_of(gateway.app, api_key=token(tenant="acme")) as client:
        batch = await start(client, [*chats(1), line("slow", slow)])
        await until_done(client, batch.id, 1)
        now = gateway.gate._clock
        gateway.gate._clock = lambda: now() + 3_600
    gateway.app.state.runner.look(batch.id)
    async with client_of(gateway.app, api_key=token(tenant="acme", exp=int(now()) + 7_200)) as client:
        done = await ended(client, batch.id)
    assert done.status == "failed"
    assert done.errors is not None
    assert "expired" in str(done.errors.data)
