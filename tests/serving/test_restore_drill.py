"""The restore drill: a server under load is backed up, goes on changing, is killed, and all that it kept is
deleted. What is restored answers as before. Prints how long it took (RTO) and how much was lost (RPO)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from adaptive_lora.access.records import NewKey
from adaptive_lora.access.store import AccessStore
from adaptive_lora.adapters.manifest import read_manifest, write_manifest
from adaptive_lora.adapters.registry_database import sqlite_url
from adaptive_lora.cli.client import packed
from adaptive_lora.cli.fleet import PACKED_TYPE
from adaptive_lora.types import Probe
from tests.adapter_folders import write_adapter
from tests.postgres import PostgresServer
from tests.serving.conftest import BASE_MODEL, PROBES
from tests.serving.steady_load import SteadyLoad
from tests.serving.test_fleet_story import pirate

SCOPES = frozenset({"generate", "adapters:read", "adapters:write"})
SHARE = 0.25
N_LINES = 3


@dataclass(frozen=True)
class Fleet:
    """What is served, and by which engine. `adapter` writes the nth version of `name` into a folder."""

    model: dict[str, Any]
    name: str
    adapter: Callable[[Path, int], Path]
    prompts: tuple[str, ...]
    every_s: float
    """Between two requests of the load."""


def _fake(folder: Path, number: int) -> Path:
    return write_adapter(
        folder / f"code-{number}", name="code", seed=number, probes=PROBES, base_model=BASE_MODEL
    )


FAKE = Fleet({"engine": "fake", "base_model": BASE_MODEL}, "code", _fake, ("one", "two"), 0.02)
DEMO = Fleet(
    {"engine": "vllm", "dtype": "float32", "max_model_len": 256},
    "pirate",
    lambda folder, number: pirate(folder, alpha=12 + 4 * number),
    ("Write a function that returns the largest number of a list.", "Sort the names by length."),
    0.25,
)


class Drill:
    """One site: its configuration, where it is backed up to, its server."""

    def __init__(self, folder: Path, fleet: Fleet, database_url: str | None) -> None:
        self.folder, self.fleet = folder, fleet
        self.state = folder / "state"
        self.backups = folder / "backups"
        self.key_file = folder / "backup.key"
        self.key_file.write_text(os.urandom(32).hex())
        self._config = folder / "serving.yaml"
        sections = {
            "api": {"port": 0},
            "auth": {"enabled": True, "failures_per_minute": None},
            "model": fleet.model,
            "storage": {"path": str(self.state)},
        }
        if database_url is not None:
            sections["registry"] = {"database_url": database_url}
        self._config.write_text(json.dumps(sections))  # which is YAML
        self._state_url = database_url or sqlite_url(self.state / "registry.db")

    def store(self) -> AccessStore:
        self.state.mkdir(exist_ok=True)
        return AccessStore.open(self._state_url)

    async def command(self, *arguments: str) -> dict[str, Any]:
        """What `adaptive-lora` answers, as a process of its own."""
        options = ["--key-file", str(self.key_file), "--config", str(self._config), "--json"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "adaptive_lora", *arguments, *options, stdout=-1, stderr=-1
        )
        out, error = await process.communicate()
        assert process.returncode == 0, error.decode()
        answer: dict[str, Any] = json.loads(out)
        return answer

    def _start(self, log: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "adaptive_lora", "serve", "--config", str(self._config)]
        with log.open("w") as out:
            return subprocess.Popen(command, stdout=out, stderr=out, process_group=0)

    @asynccontextmanager
    async def serving(self, key: str) -> AsyncIterator[httpx.AsyncClient]:
        """`adaptive-lora serve`, ready; killed at the end, with everything that it has started."""
        log = self.folder / "server.log"
        process = self._start(log)
        try:
            while not (found := re.search(r"Adaptive LoRA at (\S+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.02)
            headers = {"authorization": f"Bearer {key}"}
            async with httpx.AsyncClient(base_url=found[1], headers=headers, timeout=120) as client:
                while (await client.get("/ready")).status_code != 200:
                    assert process.poll() is None, log.read_text()
                    await asyncio.sleep(0.02)
                yield client
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def mint(store: AccessStore, name: str) -> str:
    return store.mint(NewKey(name, "acme", SCOPES), who="drill").secret


async def add(client: httpx.AsyncClient, path: Path, **options: Any) -> None:
    headers = {"content-type": PACKED_TYPE}
    content = b"".join(packed(path))
    answer = await client.post("/adapters:upload", content=content, headers=headers, params=options)
    assert answer.status_code in (200, 201), answer.text


async def answers(client: httpx.AsyncClient, fleet: Fleet) -> dict[str, str]:
    """Greedy, of each version that is served, of the base, and of a sum of two."""
    names = (f"{fleet.name}@prod", f"{fleet.name}@canary", "base", f"{fleet.name}@prod:0.5+other:0.5")
    found = {}
    for name in names:
        for prompt in fleet.prompts:
            body = {"prompt": prompt, "adapter": name, "max_tokens": 16, "temperature": 0}
            answer = await client.post("/generate", json=body)
            assert answer.status_code == 200, (name, answer.text)
            found[f"{name}: {prompt}"] = answer.json()["text"]
    return found


async def run_batch(client: httpx.AsyncClient, fleet: Fleet) -> str:
    """The id of its output."""
    body = {"model": f"{fleet.name}@prod", "prompt": fleet.prompts[0], "max_tokens": 8, "temperature": 0}
    lines = [
        json.dumps({"custom_id": f"{i}", "method": "POST", "url": "/v1/completions", "body": body})
        for i in range(N_LINES)
    ]
    file = ("in.jsonl", "\n".join(lines).encode())
    uploaded = await client.post("/v1/files", data={"purpose": "batch"}, files={"file": file})
    wanted = {"input_file_id": uploaded.json()["id"], "endpoint": "/v1/completions"}
    wanted["completion_window"] = "24h"
    batch = (await client.post("/v1/batches", json=wanted)).json()
    while batch["status"] not in ("completed", "failed"):
        await asyncio.sleep(0.05)
        batch = (await client.get(f"/v1/batches/{batch['id']}")).json()
    assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", N_LINES)
    return str(batch["output_file_id"])


async def aliases(client: httpx.AsyncClient, fleet: Fleet) -> dict[str, dict[str, float | None]]:
    versions = (await client.get(f"/adapters/{fleet.name}")).json()["versions"]
    return {version["version"]: version["aliases"] for version in versions}


async def keep_minting(store: AccessStore, minted: list[tuple[datetime, str]]) -> None:
    """A change every few milliseconds, with the moment when it was made."""
    while True:
        key = await asyncio.to_thread(mint, store, f"change-{len(minted)}")
        minted.append((datetime.now(UTC), key))
        await asyncio.sleep(0.01)


async def drill(site: Drill, forget_database: Callable[[], None]) -> dict[str, Any]:
    """Returns the figures."""
    fleet = site.fleet
    minted: list[tuple[datetime, str]] = []
    with closing(site.store()) as store:
        admin = mint(store, "admin")
        async with site.serving(admin) as client:
            await add(client, fleet.adapter(site.folder, 1))
            await add(client, fleet.adapter(site.folder, 2), alias="canary", share=SHARE)
            await add(client, renamed(fleet.adapter(site.folder, 3), "other"))
            output = await run_batch(client, fleet)
            before = await answers(client, fleet)
            names = await aliases(client, fleet)
            for prompt in fleet.prompts:
                assert before[f"{fleet.name}@prod: {prompt}"] != before[f"base: {prompt}"]
            content = (await client.get(f"/v1/files/{output}/content")).content
            changing = asyncio.create_task(keep_minting(store, minted))
            load = SteadyLoad([str(client.base_url).rstrip("/")], dict(client.headers), fleet.every_s)
            async with load.running():
                await load.more(10)
                made = await site.command("backup", str(site.backups))
                await load.more(10)
            assert set(load.outcomes.values()) == {"200"}
            await add(client, renamed(fleet.adapter(site.folder, 4), "toolate"))
            changing.cancel()
            await asyncio.gather(changing, return_exceptions=True)
            killed_at = datetime.now(UTC)
    shutil.rmtree(site.state)
    forget_database()

    began = time.monotonic()
    restored = await site.command("restore", str(site.backups))
    assert restored["id"] == made["id"]
    async with site.serving(admin) as client:
        question = {"prompt": fleet.prompts[0], "adapter": f"{fleet.name}@prod"}
        first = await client.post("/generate", json=question)
        rto_s = time.monotonic() - began
        assert first.status_code == 200, first.text
        assert await answers(client, fleet) == before
        assert await aliases(client, fleet) == names
        assert (await client.get(f"/v1/files/{output}/content")).content == content
        late = await client.post("/generate", json=question | {"adapter": "toolate"})
        assert late.json()["error"]["code"] == "unknown_adapter"
        accepted = [await is_accepted(client, key) for _, key in minted]
    moment = datetime.fromisoformat(made["created_at"])
    n_kept = accepted.count(True)
    assert accepted == [True] * n_kept + [False] * (len(minted) - n_kept)  # one moment
    assert all(kept for (at, _), kept in zip(minted, accepted, strict=True) if at < moment)
    assert 0 < n_kept < len(minted)
    with closing(site.store()) as store:
        assert store.audit(limit=1)[0].action == "backup.restore"
    return {
        "backup_s": made["seconds"],
        "backup_files": made["files"],
        "backup_mb": round(made["bytes"] / 1e6, 2),
        "restore_s": restored["seconds"],
        "rto_s": round(rto_s, 2),
        "rpo_s": round((killed_at - moment).total_seconds(), 2),
        "changes": len(minted),
        "changes_lost": len(minted) - n_kept,
        "requests_during_backup": len(load.outcomes),
    }


async def is_accepted(client: httpx.AsyncClient, key: str) -> bool:
    answer = await client.get("/v1/models", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code in (200, 401)
    return answer.status_code == 200


def renamed(path: Path, name: str) -> Path:
    """The same weights as another agent's."""
    known = read_manifest(path)
    write_manifest(
        path,
        name=name,
        description=f"{known.description}, {name}",
        examples=known.examples,
        probes=[Probe(probe.prompt, probe.answer) for probe in known.probes],
        base_model=known.base_model,
        base_fingerprint=known.base_fingerprint,
    )
    return path


FLEETS = [
    pytest.param(FAKE, id="fake"),
    pytest.param(DEMO, id="demo", marks=[pytest.mark.vllm, pytest.mark.acceptance]),
]


@pytest.mark.parametrize("fleet", FLEETS)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
async def test_what_is_restored_answers_as_before(
    fleet: Fleet, database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if database == "sqlite":
        figures = await drill(Drill(tmp_path, fleet, None), lambda: None)
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        name = server.new_database()

        def forget() -> None:
            with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
                connection.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())

        figures = await drill(Drill(tmp_path, fleet, server.url(name)), forget)
    print(json.dumps({"fleet": fleet.name, "database": database, **figures}))
