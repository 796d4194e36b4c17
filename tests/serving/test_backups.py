"""The gauge of the last backup: a gateway learns of it from the database, wherever the backup ran."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from adaptive_lora.access.store import AccessStore
from adaptive_lora.adapters.registry_database import sqlite_url
from adaptive_lora.serving import backups
from tests.serving.conftest import Serve

NAME = "backup_last_success_timestamp_seconds"


async def test_the_last_backup_is_a_metric_of_every_gateway(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "LOOK_EVERY_S", 0.01)
    store = AccessStore.open(sqlite_url(tmp_path / "registry.db"))
    async with serve(storage={"path": str(tmp_path)}) as client:
        shown = value_of(client)
        assert await shown() is None
        for i in range(2):
            store.note("backup.make", "default", f"backup-{i}", {}, who="cron")
            made = store.last("backup.make")
            assert made is not None
            async with asyncio.timeout(60):
                while await shown() != made.timestamp():  # noqa: ASYNC110 - it is a server's state
                    await asyncio.sleep(0.01)
            store.note("backup.restore", "default", f"backup-{i}", {}, who="ann")
    store.close()


def value_of(client: httpx.AsyncClient) -> Callable[[], Awaitable[float | None]]:
    async def read() -> float | None:
        lines = (await client.get("/metrics")).text.splitlines()
        values = [float(line.split()[1]) for line in lines if line.startswith(f"{NAME} ")]
        return values[0] if values else None

    return read
