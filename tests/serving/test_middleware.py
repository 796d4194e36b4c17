import asyncio

import httpx
import pytest

from adaptive_lora.engine.fake import FakeEngine
from tests.serving.conftest import Listen, Serve, until


async def test_ids_are_minted_and_the_callers_is_only_a_label(client: httpx.AsyncClient) -> None:
    first, second = [await client.get("/live", headers={"x-request-id": "mine-1"}) for _ in range(2)]
    assert first.headers["x-request-id"].startswith("req-")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert first.headers["x-client-request-id"] == "mine-1"


@pytest.mark.parametrize("label", ["a b", "x" * 65, "http://169.254.169.254/", "é".encode("latin-1"), ""])
async def test_a_label_that_is_no_label_is_dropped(client: httpx.AsyncClient, label: str | bytes) -> None:
    response = await client.get("/live", headers={"x-request-id": label})
    assert "x-client-request-id" not in response.headers


@pytest.mark.parametrize("path", ["/live", "/adapters", "/v1/models", "/nowhere", "/metrics", "/"])
async def test_every_response_has_an_id(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).headers["x-request-id"].startswith("req-")


async def test_beyond_the_limit_requests_are_told_to_come_back(serve: Serve, engine: FakeEngine) -> None:
    async with serve(api={"max_concurrent_requests": 2}) as client:
        engine._delay_s = 0.05
        first = [asyncio.create_task(client.post("/generate", json={"prompt": "x"})) for _ in range(2)]
        await until(lambda: engine._running == 2)
        refused = await client.post("/generate", json={"prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        for probe in ("/live", "/ready", "/health", "/metrics"):
            assert (await client.get(probe)).status_code == 200
        assert [response.status_code for response in await asyncio.gather(*first)] == [200, 200]
        engine._delay_s = 0
        assert (await client.post("/generate", json={"prompt": "x"})).status_code == 200


async def test_only_the_servers_own_names_on_a_loopback_address(serve: Serve) -> None:
    async with serve() as client:
        for host in ("localhost:8000", "127.0.0.1", "[::1]:1", "LOCALHOST"):
            assert (await client.get("/live", headers={"host": host})).status_code == 200
        response = await client.get("/live", headers={"host": "rebound.example"})
        assert (response.status_code, response.json()["error"]["code"]) == (421, "wrong_host")
    async with serve(api={"host": "0.0.0.0"}) as client:
        assert (await client.get("/live", headers={"host": "any.example:1"})).status_code == 200
    async with serve(api={"allowed_hosts": ["127.0.0.1", "api.example"]}) as client:
        assert (await client.get("/live", headers={"host": "api.example"})).status_code == 200
        assert (await client.get("/live", headers={"host": "localhost"})).status_code == 421


async def test_probes_are_not_counted_and_paths_are_no_labels(client: httpx.AsyncClient) -> None:
    for path in ("/live", "/ready", "/health", "/adapters", "/v1/models/code", "/secret-1", "/secret-2"):
        await client.get(path)
    metrics = (await client.get("/metrics")).text
    assert 'route="/live"' not in metrics
    assert "secret" not in metrics
    assert 'api_requests_total{code="404",route="unmatched",status="error"} 2.0' in metrics
    assert 'route="/v1/models/{model:path}"' in metrics


async def test_prompts_are_not_logged(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    await client.post("/generate", json={"prompt": "my secret"})
    await client.post("/generate", json={"prompt": "my secret\x00"})
    await client.post("/generate", json={"my secret": 1})
    records = [record for record in caplog.records if record.name.startswith("adaptive_lora")]
    assert len([record for record in records if record.name == "adaptive_lora.access"]) >= 3
    assert "my secret" not in "".join(str(vars(record)) for record in records)


async def test_a_requests_line_says_why_it_was_refused_or_failed(
    listen: Listen, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "adaptive_lora.access")
    async with listen() as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        await client.post("/generate", json={"prompt": "x"})
        await client.post("/generate", json={"prompt": "x", "adapter": "nobody"})
        await client.post("/generate", json={"prompt": ""})
        await client.get("/nowhere")
        await client.get("/live", headers={"host": "rebound.example"})
        await client.post("/v1/chat/completions", content=b"{")
        engine._delay_s = 0.02
        async with client.stream("POST", "/generate", json={"prompt": "x", "stream": True}) as response:
            engine.die()
            await response.aread()
    lines = [vars(record) for record in caplog.records if record.name == "adaptive_lora.access"]
    assert [(line["status"], line.get("code")) for line in lines] == [
        (200, None),
        (404, "unknown_adapter"),
        (422, "invalid_request"),
        (404, "not_found"),
        (421, "wrong_host"),
        (400, "invalid_request"),
        (200, "engine_dead"),
    ]
    assert not any("tenant" in line for line in lines)
