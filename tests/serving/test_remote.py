"""The server on a pool of workers: what a caller sees when one of them fails."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import httpx

from adaptive_lora.engine.remote.engine import RemoteEngine
from adaptive_lora.serving.api import create_app
from adaptive_lora.settings import Settings
from tests.engine.remote.fake_worker import QUICK, FakeWorker, running, until
from tests.serving.conftest import BASE_MODEL, CODE, FLEET, KeywordRouter, ready

BODY = {"prompt": "Once", "adapter": "code", "max_tokens": 12, "ignore_eos": True}


@asynccontextmanager
async def serving(*workers: FakeWorker, tmp_path):
    settings = Settings.model_validate(
        {
            "model": {"engine": "remote", "base_model": BASE_MODEL},
            "workers": QUICK | {"urls": [worker.url for worker in workers]},
            "adapters": {"path": FLEET, "max_lora_rank": 64, "effect_checks": False},
            "storage": {"path": tmp_path},
        }
    )
    app = create_app(settings, router=KeywordRouter())
    transport = httpx.ASGITransport(app)
    async with (
        running(*workers),
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        await ready(client)
        engine = app.state.runtime.engine
        assert isinstance(engine, RemoteEngine)
        await until(lambda: len(engine._pool.usable()) == len(workers))
        yield client


def events(text: str) -> list[tuple[str, dict]]:
    lines = [line for line in text.splitlines() if line]
    return [
        (kind.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for kind, data in zip(lines[::2], lines[1::2], strict=True)
    ]


async def test_a_worker_lost_before_the_first_token_is_not_seen_and_after_it_is_an_error_event(tmp_path):
    workers = [FakeWorker([CODE]) for _ in range(2)]
    async with serving(*workers, tmp_path=tmp_path) as client:
        want = (await client.post("/generate", json=BODY)).json()["text"]
        for worker in workers:
            worker.fault, worker.n_chunks = "cut", 3
        stream = await client.post("/generate", json=BODY | {"stream": True})
        assert stream.status_code == 200
        *told, (last, error) = events(stream.text)
        assert (last, error["error"]["code"]) == ("error", "worker_lost")
        assert want.startswith("".join(data["text"] for kind, data in told if kind == "token"))
        refused = await client.post("/generate", json=BODY)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "worker_lost")
        for worker in workers:
            worker.fault = None
        workers[0].fault = "error"
        for _ in range(4):
            assert (await client.post("/generate", json=BODY)).json()["text"] == want


async def test_the_base_is_known_by_what_the_workers_say(tmp_path):
    async with serving(FakeWorker([CODE]), tmp_path=tmp_path) as client:
        answer = (await client.post("/generate", json=BODY | {"adapter": "base"})).json()
        assert answer["version"] == "f" * 12
