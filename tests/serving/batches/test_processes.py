"""Gateways that die, and gateways that share: real processes, real databases, one line for each request."""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest
import sqlalchemy as sa
from openai.types import Batch

from adaptive_lora.adapters.registry_database import Database, sqlite_url
from adaptive_lora.adapters.registry_tables import batch_results, batches
from tests.serving.batches.conftest import ENDED, chats
from tests.serving.conftest import FLEET
from tests.serving.gateway_process import GatewayProcess

N = 60
TOKEN_S = 0.02
TAKEOVER_S = 2


class Fleet:
    """Gateways with one database."""

    def __init__(self, url: str, folder: Path) -> None:
        self._sections: dict[str, Any] = {
            "registry": {"database_url": url},
            "storage": {"path": str(folder)},
            "adapters": {"path": str(FLEET), "max_lora_rank": 64},
            "batches": {"max_in_flight": 2, "takeover": TAKEOVER_S},
        }
        self._gateways: list[GatewayProcess] = []
        self.database = Database(url, timeout_s=10)

    def start(self, **sections: Any) -> GatewayProcess:
        gateway = GatewayProcess(token_s=TOKEN_S, **(self._sections | sections))
        self._gateways.append(gateway)
        gateway.wait_until_ready()
        return gateway

    def checkpoint(self) -> dict[str, str]:
        """The lines that are in it, by custom_id."""
        with self.database.transaction() as connection:
            contents = connection.scalars(sa.select(batch_results.c.content)).all()
        return {json.loads(content)["custom_id"]: content for content in contents}

    def wait_for_checkpoint(self, n: int) -> dict[str, str]:
        while len(found := self.checkpoint()) < n:
            time.sleep(0.01)
        return found

    def holders(self) -> list[str]:
        with self.database.transaction() as connection:
            return list(connection.scalars(sa.select(batches.c.holder).where(batches.c.holder.is_not(None))))

    def close(self) -> None:
        for gateway in self._gateways:
            gateway.close()
        self.database.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.acceptance)])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    database_url = sqlite_url(tmp_path / "registry.db")
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        database_url = server.url(server.new_database())
    with closing(Fleet(database_url, tmp_path / "state")) as fleet:
        yield fleet


def client_of(gateway: GatewayProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)


def start(client: openai.OpenAI, n: int = N) -> Batch:
    content = "\n".join(chats(n)).encode()
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )


def ended(client: openai.OpenAI, batch_id: str) -> Batch:
    for _ in itertools.count():
        batch = client.batches.retrieve(batch_id)
        if batch.status in ENDED:
            return batch
        time.sleep(0.05)
    raise AssertionError


def output(client: openai.OpenAI, batch: Batch) -> dict[str, str]:
    """Its lines, by custom_id; each once."""
    assert batch.output_file_id is not None
    lines = client.files.content(batch.output_file_id).text.splitlines()
    found = {json.loads(line)["custom_id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def assert_whole(client: openai.OpenAI, batch: Batch) -> dict[str, str]:
    counts = batch.request_counts
    assert counts is not None
    assert (batch.status, counts.total, counts.completed, counts.failed) == ("completed", N, N, 0)
    lines = output(client, batch)
    assert lines.keys() == {f"item-{i}" for i in range(N)}
    return lines


def test_killed_in_the_middle_a_batch_goes_on_where_it_was(fleet: Fleet) -> None:
    """Twice. What was in the checkpoint is in the output as it was: it was not asked again."""
    with client_of(first := fleet.start()) as client:
        batch = start(client)
        fleet.wait_for_checkpoint(5)
        first.signal(signal.SIGKILL)
        first.process.wait()
    known = fleet.checkpoint()
    assert 5 <= len(known) < N
    second = fleet.start()
    known |= fleet.wait_for_checkpoint(len(known) + 5)
    second.signal(signal.SIGKILL)
    second.process.wait()
    known |= fleet.checkpoint()
    assert len(known) < N
    with client_of(fleet.start()) as client:
        lines = assert_whole(client, ended(client, batch.id))
    assert {custom_id: lines[custom_id] for custom_id in known} == known


def test_told_to_stop_it_lets_go_and_the_next_goes_on_at_once(fleet: Fleet) -> None:
    with client_of(first := fleet.start()) as client:
        batch = start(client)
        fleet.wait_for_checkpoint(5)
        first.signal(signal.SIGTERM)
        assert first.process.wait() == 0, first.log()
    assert fleet.holders() == []
    known = fleet.checkpoint()
    with client_of(fleet.start()) as client:
        lines = assert_whole(client, ended(client, batch.id))
    assert {custom_id: lines[custom_id] for custom_id in known} == known


def test_of_two_gateways_one_runs_a_batch_and_the_other_takes_over(fleet: Fleet) -> None:
    gateways = [fleet.start(), fleet.start()]
    with client_of(gateways[0]) as client, client_of(gateways[1]) as other:
        batch = start(client)
        holders = set()
        for n in range(1, 20):
            fleet.wait_for_checkpoint(n)
            holders |= set(fleet.holders())
        assert len(holders) == 1
        runs = [gateway for gateway in gateways if runs_one(gateway)]
        assert len(runs) == 1
        known = fleet.checkpoint()
        runs[0].signal(signal.SIGKILL)
        survivor = other if runs[0] is gateways[0] else client
        lines = assert_whole(survivor, ended(survivor, batch.id))
    assert {custom_id: lines[custom_id] for custom_id in known} == known


def runs_one(gateway: GatewayProcess) -> bool:
    with openai.OpenAI(base_url=gateway.url, api_key="none") as client:
        return "\nbatches_running 1.0\n" in client._client.get("/metrics").text


def test_a_frozen_gateway_loses_its_batch_and_writes_nothing_when_it_wakes(fleet: Fleet) -> None:
    with client_of(first := fleet.start()) as client:
        batch = start(client)
        fleet.wait_for_checkpoint(3)
    first.signal(signal.SIGSTOP)
    with client_of(fleet.start()) as client:
        n_known = len(fleet.checkpoint())
        fleet.wait_for_checkpoint(n_known + 3)
        first.signal(signal.SIGCONT)
        lines = assert_whole(client, ended(client, batch.id))
        while not any("another gateway runs" in message for message in first.messages()):
            assert first.process.poll() is None
            time.sleep(0.05)
        assert output(client, client.batches.retrieve(batch.id)) == lines


def test_hosts_that_share_object_storage_share_files_and_batches(tmp_path: Path) -> None:
    """Two folders stand for two hosts: without storage.url the other could read nothing."""
    url = sqlite_url(tmp_path / "shared.db")
    mirror = f"file://{tmp_path}/mirror"
    with closing(Fleet(url, tmp_path / "unused")) as fleet:
        here = fleet.start(
            storage={"path": str(tmp_path / "here"), "url": mirror}, batches={"max_in_flight": 0}
        )
        there = fleet.start(storage={"path": str(tmp_path / "there"), "url": mirror})
        with client_of(here) as client:
            batch = ended(client, start(client).id)
            assert_whole(client, batch)
        with client_of(there) as client:
            assert client.files.content(batch.input_file_id).text == "\n".join(chats(N))
