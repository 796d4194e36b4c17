"""Two real workers, and one gateway whose environment holds neither torch nor vLLM; 24 adapters, Zipf load.
One worker is killed with -9 and comes back empty, while the load goes on.

Prints what was measured as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import statistics
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import yaml

pytest.importorskip("vllm")

from adaptive_lora.adapters.manifest import write_manifest
from adaptive_lora.engine.random_models import make_adapters
from tests.engine.remote.gateway_environment import gateway_python
from tests.engine.remote.vllm_worker import KEY, VLLMWorker
from tests.ports import free_port

pytestmark = [pytest.mark.vllm, pytest.mark.acceptance]

N_ADAPTERS = 24
N_CLIENTS = 12
PAUSE_S = 0.05
"""Between a client's requests: else the worker that is left takes the cores that the other one starts on."""
MAX_TOKENS = 48
BODY = {"raw": True, "max_tokens": MAX_TOKENS, "ignore_eos": True, "temperature": 0.0, "stream": True}
START_S = 600
BEARER = {"authorization": f"Bearer {KEY}"}


@dataclass
class Outcome:
    """How one request ended, as its client saw it."""

    agent: str
    kind: str
    """done, refused (no token yet), error_event (after a token), or silent: a stream that ended without
    either."""
    text: str = ""
    code: str = ""
    ttft_s: float = 0.0
    ended_at: float = field(default_factory=time.monotonic)


@pytest.fixture
def names():
    return [f"agent-{i:02}" for i in range(N_ADAPTERS)]


@pytest.fixture
def folder(tiny_model, tmp_path, names):
    folder = tmp_path / "adapters"
    made = make_adapters(tmp_path / "made", N_ADAPTERS, 8, base=tiny_model)
    for name, path in zip(names, made, strict=True):
        shutil.copytree(path, folder / name)
        write_manifest(
            folder / name, name=name, description=name, examples=[f"{name}?"], base_model=tiny_model.name
        )
    return folder


@pytest.fixture
def workers(tiny_model, folder, tmp_path):
    workers = [VLLMWorker(tiny_model, folder, tmp_path / f"worker-{i}.log", max_loras=8) for i in range(2)]
    for worker in workers:
        worker.start()
    yield workers
    for worker in workers:
        worker.stop()


@pytest.fixture
def gateway(workers, tiny_model, folder, tmp_path):
    """Its process, and its address."""
    python = gateway_python(tmp_path)
    for module in ("torch", "vllm", "transformers"):
        probe = [python, "-c", f"import {module}"]
        assert subprocess.run(probe, capture_output=True, cwd=tmp_path).returncode, module
    port = free_port()
    settings = {
        "api": {"port": port},
        "model": {"engine": "remote", "base_model": tiny_model.name},
        "workers": {
            "urls": [worker.url for worker in workers],
            "start_timeout": START_S,
            "refresh_interval": 1.0,
            "canary_interval": 5.0,
        },
        "adapters": {"path": str(folder), "max_lora_rank": 8, "effect_checks": False},
        "storage": {"path": str(tmp_path / "state")},
        "router": {"use_encoder": False},
    }
    config = tmp_path / "gateway.yaml"
    config.write_text(yaml.safe_dump(settings))
    log = tmp_path / "gateway.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [python, "-m", "adaptive_lora", "serve", "--config", config],
            env={"WORKER_API_KEY": KEY, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
            cwd=tmp_path,
            stdout=out,
            stderr=out,
        )
    yield process, f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()
    print(log.read_text()[-6000:])


async def ready(client: httpx.AsyncClient, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(START_S):
        while True:
            assert process.poll() is None, "the gateway has ended"
            try:
                if (await client.get("/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.5)


async def ask(client: httpx.AsyncClient, agent: str) -> Outcome:
    started = time.monotonic()
    outcome = Outcome(agent, "silent")
    texts = []
    async with client.stream("POST", "/generate", json=BODY | {"prompt": "Once", "adapter": agent}) as answer:
        if answer.status_code != 200:
            outcome.kind, outcome.code = "refused", (await answer.aread()).decode()[:300]
            return outcome
        event = ""
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                event = line[7:]
                outcome.ttft_s = outcome.ttft_s or time.monotonic() - started
            elif line.startswith("data: "):
                data = json.loads(line[6:])
                if event == "token":
                    texts.append(data["text"])
                elif event == "done":
                    outcome.kind = "done"
                    assert data["usage"]["completion_tokens"] == MAX_TOKENS
                elif event == "error":
                    outcome.kind, outcome.code = "error_event", data["error"]["code"]
    outcome.text, outcome.ended_at = "".join(texts), time.monotonic()
    return outcome


class Load:
    """Clients that ask for agents by Zipf's law, one request each at a time, until they are stopped."""

    def __init__(self, client: httpx.AsyncClient, names: list[str]) -> None:
        self.outcomes: list[Outcome] = []
        self._client = client
        self._names = names
        self._weights = [1 / rank for rank in range(1, len(names) + 1)]
        self._rng = random.Random(0)
        self._going = True

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(N_CLIENTS):
                group.create_task(self._client_loop())

    async def _client_loop(self) -> None:
        while self._going:
            (agent,) = self._rng.choices(self._names, self._weights)
            self.outcomes.append(await ask(self._client, agent))
            await asyncio.sleep(PAUSE_S)

    def stop(self) -> None:
        self._going = False

    async def more(self, n: int) -> None:
        """Until `n` more requests have ended."""
        until = len(self.outcomes) + n
        async with asyncio.timeout(300):
            while len(self.outcomes) < until:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def stats_of(worker: VLLMWorker) -> dict:
    """What it says of itself; nothing while it starts."""
    async with httpx.AsyncClient(base_url=worker.url, headers=BEARER, timeout=60) as client:
        try:
            return (await client.get("/adaptive-lora/v1/stats")).json()
        except httpx.ConnectError:
            return {"residency": {}}


async def n_finished(worker: VLLMWorker) -> float:
    """Requests that the worker has completed since it started, by vLLM's own count."""
    async with httpx.AsyncClient(base_url=worker.url, timeout=60) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:request_success_total"))


async def test_a_worker_is_killed_and_comes_back_empty_under_load(gateway, workers, names):
    process, url = gateway
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        await ready(client, process)
        want = {name: await ask(client, name) for name in names}
        assert [outcome.kind for outcome in want.values()] == ["done"] * N_ADAPTERS
        assert len({outcome.text for outcome in want.values()}) == N_ADAPTERS
        async with asyncio.timeout(START_S):  # the second worker may join later, and is then supplied
            while not all([(await stats_of(worker))["residency"] for worker in workers]):  # noqa: ASYNC110
                await asyncio.sleep(0.5)

        load = Load(client, names)
        running = asyncio.create_task(load.run())
        began = time.monotonic()
        await load.more(300)
        victim = workers[0]
        killed_at = time.monotonic()
        await asyncio.to_thread(victim.kill)
        await load.more(150)
        victim.start()
        restarted_at = time.monotonic()
        async with asyncio.timeout(START_S):
            while True:
                try:
                    if await n_finished(victim) >= 50 and not running.done():
                        break
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.5)
        back_at = time.monotonic()
        await load.more(300)
        load.stop()
        await running
        residency = (await stats_of(victim))["residency"]

    assert "libtorch" not in mapped(process)
    kinds = Counter(outcome.kind for outcome in load.outcomes)
    figures = {
        "requests": len(load.outcomes),
        "outcomes": dict(kinds),
        "codes": dict(Counter(o.code for o in load.outcomes if o.code)),
        "requests_per_s": {
            "two_workers": rate(load.outcomes, began, killed_at),
            "one_worker": rate(load.outcomes, killed_at, restarted_at),
            "two_again": rate(load.outcomes, back_at, time.monotonic()),
        },
        "ttft_ms_p50_p99": {
            "two_workers": ttft(load.outcomes, began, killed_at),
            "one_worker": ttft(load.outcomes, killed_at, restarted_at),
            "two_again": ttft(load.outcomes, back_at, time.monotonic()),
        },
        "s_from_start_of_the_process_until_50_answers": round(back_at - restarted_at, 1),
        "adapters_on_the_worker_that_came_back": len(residency),
    }
    print("\n" + json.dumps(figures))

    assert kinds["silent"] == 0, "every stream ends with done or an error event"
    assert kinds["refused"] == 0, "who had no token yet is answered by the other worker"
    lost = [outcome for outcome in load.outcomes if outcome.kind == "error_event"]
    assert {outcome.code for outcome in lost} <= {"worker_lost"}
    assert len(lost) <= N_CLIENTS, "no more than were running"
    assert all(killed_at <= outcome.ended_at <= killed_at + 60 for outcome in lost)
    for outcome in load.outcomes:
        expected = want[outcome.agent].text
        assert outcome.text == (expected[: len(outcome.text)] if outcome.kind == "error_event" else expected)
    assert residency, "it was supplied again"


def mapped(process: subprocess.Popen[bytes]) -> str:
    """The files in the process's memory."""
    return Path(f"/proc/{process.pid}/maps").read_text()


def between(outcomes: list[Outcome], begin: float, end: float) -> list[Outcome]:
    return [outcome for outcome in outcomes if begin <= outcome.ended_at < end and outcome.kind == "done"]


def rate(outcomes: list[Outcome], begin: float, end: float) -> float:
    return round(len(between(outcomes, begin, end)) / (end - begin), 1)


def ttft(outcomes: list[Outcome], begin: float, end: float) -> tuple[float, float]:
    times = sorted(1000 * outcome.ttft_s for outcome in between(outcomes, begin, end))
    return round(statistics.median(times), 1), round(times[int(0.99 * (len(times) - 1))], 1)
