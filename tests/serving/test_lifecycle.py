"""Adapters come and go over HTTP, while the server runs."""

import asyncio
import contextlib
import io
import sqlite3
import tarfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from adaptive_lora.adapters.manifest import write_manifest
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.router.bundle import BundleStore
from adaptive_lora.router.router import Router
from adaptive_lora.serving.api import create_app
from adaptive_lora.types import AdapterVersion
from tests.adapter_folders import verified, write_adapter
from tests.disks import small_disk
from tests.serving.conftest import CODE, CREATIVE, Serve, agent, ready, settings_of, until


def packed(version: AdapterVersion) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(version.path.iterdir()):
            tar.add(path, arcname=path.name)
    return buffer.getvalue()


async def upload(client: httpx.AsyncClient, version: AdapterVersion, **params: Any) -> httpx.Response:
    return await client.post(
        "/adapters:upload",
        content=packed(version),
        params={"who": "ann", "why": "a test", **params},
        headers={"content-type": "application/x-tar"},
    )


async def who_answers(client: httpx.AsyncClient, name: str) -> str:
    response = await client.post("/generate", json={"prompt": "x", "adapter": name})
    return response.json()["version"] if response.status_code == 200 else response.json()["error"]["code"]


async def states(client: httpx.AsyncClient, name: str) -> dict[str, str]:
    versions = (await client.get(f"/adapters/{name}")).json()["versions"]
    return {version["version"]: version["state"] for version in versions}


@pytest.fixture
def law(tmp_path: Path) -> AdapterVersion:
    return agent("law", seed=11, folder=tmp_path / "one")


@pytest.fixture
def better(tmp_path: Path) -> AdapterVersion:
    """Another version of `code`."""
    return agent("code", seed=12, folder=tmp_path / "two")


async def test_a_new_agent_is_verified_proven_served_and_routed_to(
    client: httpx.AsyncClient, law: AdapterVersion
) -> None:
    response = await upload(client, law)
    body = response.json()
    assert response.status_code == 201, body
    assert (body["id"], body["state"], body["aliases"]) == (law.id, "ready", ["prod"])
    assert (body["origin"], body["source"], body["added_by"]) == ("store", "upload", "ann")
    assert body["reports"]["effect"]["n_probes"] == 2
    assert body["reports"]["effect"]["advantage"] > 0
    assert await who_answers(client, "law") == law.version
    assert (await client.post("/generate", json={"prompt": "law please"})).json()["adapter"] == "law"
    listed = (await client.get("/adapters")).json()["adapters"]
    assert [each["name"] for each in listed] == ["code", "creative", "law"]
    assert {"law", "law@prod", law.id} <= {m["id"] for m in (await client.get("/v1/models")).json()["data"]}


async def test_adding_it_twice_is_the_same_as_once(client: httpx.AsyncClient, law: AdapterVersion) -> None:
    first, second = await upload(client, law), await upload(client, law)
    assert (first.status_code, second.status_code) == (201, 201)
    assert await states(client, "law") == {law.version: "ready"}


async def test_a_second_version_waits_to_be_asked_for_and_becomes_canary_prod_and_history(
    client: httpx.AsyncClient, better: AdapterVersion
) -> None:
    assert (await upload(client, better)).json()["aliases"] == []
    assert await who_answers(client, "code") == CODE.version
    assert await who_answers(client, better.id) == better.version
    put = await client.put("/adapters/code/aliases/canary", json={"version": better.version, "share": 0.2})
    assert put.json() == {"name": "code", "alias": "canary", "version": better.version, "share": 0.2}
    answers = Counter([await who_answers(client, "code") for _ in range(500)])
    # Binomial(500, 0.2): four standard deviations are 36.
    assert abs(answers[better.version] - 100) <= 36, answers
    assert answers[better.version] + answers[CODE.version] == 500
    promoted = await client.post("/adapters/code/promote", json={"who": "ann", "why": "it is better"})
    assert promoted.json()["version"] == better.version
    assert {await who_answers(client, "code") for _ in range(50)} == {better.version}
    assert await who_answers(client, "code@canary") == "unknown_adapter"
    rolled = await client.post("/adapters/code/rollback", json={"who": "ann", "why": "it is not"})
    assert rolled.json()["version"] == CODE.version
    assert {await who_answers(client, "code") for _ in range(50)} == {CODE.version}
    entries = (await client.get("/adapters/code/history")).json()["entries"]
    assert [e["action"] for e in entries if e["alias"] == "prod"][:2] == ["rollback", "promote"]
    assert entries[0]["why"] == "it is not"


async def test_unload_waits_for_what_runs_and_load_brings_it_back(
    engine: FakeEngine, client: httpx.AsyncClient, better: AdapterVersion
) -> None:
    await upload(client, better)
    engine._delay_s = 0.05
    running = asyncio.create_task(
        client.post("/generate", json={"prompt": "x", "adapter": better.id, "max_tokens": 8})
    )
    await until(lambda: engine._running == 1)
    gone = await client.post(f"/adapters/code/versions/{better.version}/unload")
    assert gone.json()["state"] == "unloaded"
    engine._delay_s = 0
    assert (await running).status_code == 200
    assert await who_answers(client, better.id) == "unknown_adapter"
    await until(lambda: better.id not in engine.adapters)
    back = await client.post(f"/adapters/code/versions/{better.version}/load")
    assert back.json()["state"] == "ready"
    assert await who_answers(client, better.id) == better.version


async def test_what_an_alias_points_to_stays(client: httpx.AsyncClient) -> None:
    for action in ("unload", "retire"):
        refused = await client.post(f"/adapters/code/versions/prod/{action}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
        assert "prod" in refused.json()["error"]["message"]
    assert await who_answers(client, "code") == CODE.version


async def test_retire_restore_delete(client: httpx.AsyncClient, better: AdapterVersion) -> None:
    await upload(client, better)
    path = f"/adapters/code/versions/{better.version}"
    assert (await client.delete(path)).status_code == 409
    assert (await client.post(f"{path}/retire")).json()["state"] == "retired"
    assert await who_answers(client, better.id) == "unknown_adapter"
    assert (await client.post(f"{path}/restore")).json()["state"] == "unloaded"
    await client.post(f"{path}/retire")
    assert (await client.delete(path, params={"who": "ann"})).status_code == 204
    assert await states(client, "code") == {CODE.version: "ready"}
    assert (await client.post(f"{path}/load")).json()["error"]["code"] == "unknown_adapter"
    assert (await upload(client, better)).status_code == 201


async def test_pin_and_unpin(client: httpx.AsyncClient) -> None:
    async def is_pinned() -> bool:
        listed = (await client.get("/adapters")).json()["adapters"]
        return next(each["pinned"] for each in listed if each["name"] == "code")

    assert (await client.post("/adapters/code/versions/prod/pin")).json()["pinned"]
    assert await is_pinned()
    assert not (await client.post("/adapters/code/versions/prod/unpin")).json()["pinned"]
    assert not await is_pinned()


async def test_verify_again(client: httpx.AsyncClient) -> None:
    verified = await client.post("/adapters/code/versions/prod/verify")
    assert verified.json()["reports"]["effect"]["difference"] > 0


async def test_an_adapter_without_effect_is_refused_and_leaves_nothing(
    engine: FakeEngine,
    client: httpx.AsyncClient,
    law: AdapterVersion,
    state_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def deaf(prompt: object, answer: str, adapter_id: str | None = None) -> tuple[float, ...]:
        return (-1.0,) * len(answer.split())

    monkeypatch.setattr(engine, "answer_logprobs", deaf)
    refused = await upload(client, law)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "no_effect")
    assert law.id not in engine.adapters
    assert (await client.get("/adapters/law")).status_code == 404
    assert kept(state_home) == []
    forced = await upload(client, law, force=True)
    body = forced.json()
    assert (forced.status_code, body["forced"], body["state"]) == (201, True, "ready")
    assert "nats a token" in body["refusal"]


def kept(state_home: Path) -> list[str]:
    """What this test's store holds, staging included."""
    (store,) = (state_home / "adaptive-lora").iterdir()
    files = [path for part in ("adapters", "staging") for path in (store / part).rglob("*")]
    return sorted(path.name for path in files if path.is_file())


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"no archive", "application/x-tar", 422, "unsafe_archive"),
        (b"", "application/zip", 422, "unsafe_archive"),
        (b"{}", "application/json", 415, "unsupported_media_type"),
    ],
)
async def test_what_is_no_archive(
    client: httpx.AsyncClient, state_home: Path, content: bytes, kind: str, status: int, code: str
) -> None:
    refused = await client.post("/adapters:upload", content=content, headers={"content-type": kind})
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
    assert kept(state_home) == []


async def test_an_archive_that_is_too_large(serve: Serve, law: AdapterVersion) -> None:
    async with serve(storage={"max_archive_bytes": 10_000}) as client:
        refused = await upload(client, law)
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")


async def test_sources_are_allowed_by_name(serve: Serve, law: AdapterVersion, tmp_path: Path) -> None:
    async with serve(storage={"allowed_sources": (str(tmp_path / "one"),)}) as client:
        for source in ("/etc", f"{tmp_path}/one-more/law", "s3://bucket/law"):
            refused = await client.post("/adapters", json={"source": source})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "source_not_allowed")
        for source in (
            f"{tmp_path}/one/../two/code",
            "http://example.org/law",
            "law",
            "s3://key:secret@bucket/law",
        ):
            refused = await client.post("/adapters", json={"source": source})
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")
            assert "secret" not in refused.text
        added = await client.post("/adapters", json={"source": str(law.path), "who": "ann"})
        assert added.status_code == 201, added.json()
        assert await who_answers(client, "law") == law.version


async def test_names_and_versions_that_do_not_exist(client: httpx.AsyncClient) -> None:
    for method, path, body in [
        ("GET", "/adapters/law", None),
        ("POST", "/adapters/law/versions/prod/load", {}),
        ("POST", "/adapters/code/versions/ffff/load", {}),
        ("PUT", "/adapters/code/aliases/canary", {"version": "ffff"}),
        ("POST", "/adapters/code/promote", {}),
        ("DELETE", "/adapters/code/aliases/blue", None),
    ]:
        response = await client.request(method, path, json=body)
        assert response.status_code == 404, (path, response.json())
    nothing = await client.post("/adapters/code/rollback", json={})
    assert nothing.status_code == 409


async def test_to_and_fro(client: httpx.AsyncClient, better: AdapterVersion) -> None:
    await upload(client, better, alias="prod")
    for version in (CODE, better, CODE):
        put = await client.put("/adapters/code/aliases/prod", json={"version": version.version})
        assert put.status_code == 200, put.text
        assert await who_answers(client, "code") == version.version
    stale = {"version": better.version, "expected": better.version}
    assert (await client.put("/adapters/code/aliases/prod", json=stale)).status_code == 409


@pytest.fixture
async def other(serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    """Another server with the same registry and store, and an engine of its own."""
    async with serve(engine=FakeEngine()) as client:
        yield client


async def test_a_share_without_an_alias_is_refused_before_anything_is_kept(
    client: httpx.AsyncClient, law: AdapterVersion, state_home: Path
) -> None:
    refused = await upload(client, law, share=0.5)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert kept(state_home) == []


async def test_a_rollback_to_what_cannot_be_loaded_leaves_what_answers(
    engine: FakeEngine, client: httpx.AsyncClient, better: AdapterVersion, state_home: Path
) -> None:
    """`code` is first uploaded, then replaced; the first one's files are gone when it is wanted back."""
    await upload(client, better, alias="prod")
    await client.put("/adapters/code/aliases/prod", json={"version": CODE.version})
    await client.post(f"/adapters/code/versions/{better.version}/unload")
    await until(lambda: better.id not in engine.adapters)
    (folder,) = (state_home / "adaptive-lora").glob(f"*/adapters/code/{better.version}")
    folder.rename(folder.with_name("gone"))
    refused = await client.post("/adapters/code/rollback", json={"to": better.version})
    assert refused.status_code == 422, refused.text
    assert await who_answers(client, "code") == CODE.version
    assert (await states(client, "code"))[better.version] == "failed"
    folder.with_name("gone").rename(folder)
    assert (await client.post(f"/adapters/code/versions/{better.version}/load")).status_code == 200
    assert await who_answers(client, "code") == better.version


async def test_another_process_follows(
    client: httpx.AsyncClient, other: httpx.AsyncClient, law: AdapterVersion, better: AdapterVersion
) -> None:
    async def both(name: str, version: str) -> None:
        async with asyncio.timeout(60):
            while await who_answers(other, name) != version:  # noqa: ASYNC110 - it is a server's state
                await asyncio.sleep(0.05)
        assert await who_answers(client, name) == version

    await upload(client, law)
    await both("law", law.version)
    await upload(client, better, alias="prod")
    await both("code", better.version)
    await other.post("/adapters/code/rollback", json={})
    async with asyncio.timeout(60):
        while await who_answers(client, "code") != CODE.version:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_after_a_restart_the_declared_state_is_back(
    serve: Serve, law: AdapterVersion, better: AdapterVersion
) -> None:
    async with serve() as client:
        await upload(client, law)
        await upload(client, better)
        await client.put("/adapters/code/aliases/canary", json={"version": better.version, "share": 0.5})
        await client.post("/adapters/creative/versions/prod/pin")
    async with serve(engine=FakeEngine()) as client:
        await ready(client)
        assert await who_answers(client, "law") == law.version
        assert await who_answers(client, "code@canary") == better.version
        assert {await who_answers(client, "code") for _ in range(50)} == {CODE.version, better.version}
        listed = {each["id"]: each for each in (await client.get("/adapters")).json()["adapters"]}
        assert listed[CREATIVE.id]["pinned"]
        assert listed[better.id]["aliases"] == {"canary": 0.5}


async def test_an_engine_that_comes_back_empty_is_filled_again(
    engine: FakeEngine, client: httpx.AsyncClient
) -> None:
    engine._adapters.clear()
    await until(lambda: set(engine.adapters) == {CODE.id, CREATIVE.id})
    assert await who_answers(client, "code") == CODE.version


async def test_the_folder_is_followed_at_start(serve: Serve, tmp_path: Path) -> None:
    """New weights are served; what is gone is not; what comes back is served again."""
    folder = tmp_path / "fleet"
    first = agent("code", seed=21, folder=folder)
    async with serve(adapters={"path": folder}) as client:
        assert await who_answers(client, "code") == first.version
    first.path.rename(tmp_path / "code-first")
    second = agent("code", seed=22, folder=folder)
    async with serve(adapters={"path": folder}, engine=FakeEngine()) as client:
        assert await who_answers(client, "code") == second.version
        assert await states(client, "code") == {first.version: "retired", second.version: "ready"}
    second.path.rename(tmp_path / "code-second")
    (tmp_path / "code-first").rename(folder / "code")
    async with serve(adapters={"path": folder}, engine=FakeEngine()) as client:
        assert await who_answers(client, "code") == first.version


async def test_what_was_promoted_outlives_a_restart_although_the_folder_has_another(
    serve: Serve, better: AdapterVersion
) -> None:
    async with serve() as client:
        await upload(client, better, alias="prod")
        assert await who_answers(client, "code") == better.version
    async with serve(engine=FakeEngine()) as client:
        assert await who_answers(client, "code") == better.version


async def test_a_registry_that_is_away_changes_nothing_that_is_served(
    client: httpx.AsyncClient, law: AdapterVersion, state_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (database,) = (state_home / "adaptive-lora").glob("*/registry.db")
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = await client.post("/adapters/code/versions/prod/pin")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "registry_unavailable")
        assert refused.headers["retry-after"]
        assert await who_answers(client, "code") == CODE.version
    assert (await client.post("/adapters/code/versions/prod/pin")).json()["pinned"]
    assert (await upload(client, law)).status_code == 201


async def test_a_full_disk_is_said_and_nothing_is_left(serve: Serve, tmp_path: Path) -> None:
    large = agent("large", seed=31, folder=tmp_path / "large", rank=64)
    bulk = large.path / "notes.md"
    bulk.write_text("x" * 2_000_000)
    write_manifest(large.path, name="large", description="large", examples=["large"], base_model="fake-base")
    with small_disk(tmp_path / "small") as disk:
        database = {"database_url": f"sqlite:///{tmp_path}/registry.db"}
        async with serve(storage={"path": disk}, registry=database) as client:
            refused = await upload(client, large)
            assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full")
            assert await who_answers(client, "code") == CODE.version
        assert not [path for path in (disk / "staging").rglob("*") if path.is_file()]


async def test_with_bundles_what_the_router_learns_outlives_the_server(tmp_path: Path) -> None:
    """Adapters, heads and thresholds move together: a restart finds what the fleet was left with."""
    fleet, bundles = tmp_path / "fleet", tmp_path / "bundles"
    topics = {
        "music": "play a song of the band number",
        "cooking": "a recipe for a soup with vegetable number",
    }
    for seed, (name, words) in enumerate(topics.items()):
        write_adapter(
            fleet / name, examples=[f"{words} {i}" for i in range(12)], base_model="fake-base", seed=seed
        )
    versions = [verified(fleet / name, base_model="fake-base") for name in topics]
    router = {"use_encoder": False, "bundle_path": bundles}
    first = Router.fit({version.name: version.examples for version in versions})
    BundleStore(bundles).save(first, {v.name: v.version for v in versions}, why="a test")
    sailing = write_adapter(
        tmp_path / "sailing",
        examples=[f"say these words as pirates talk at sea {i}" for i in range(12)],
        base_model="fake-base",
        seed=9,
    )
    newer = verified(
        write_adapter(
            tmp_path / "newer" / "music", examples=versions[0].examples, base_model="fake-base", seed=10
        ),
        base_model="fake-base",
    )
    for begins in (True, False):
        settings = settings_of(adapters={"path": fleet}, router=router)
        app = create_app(settings, engine=FakeEngine())
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
        ):
            await ready(client)
            if begins:
                assert (await upload(client, verified(sailing, base_model="fake-base"))).status_code == 201
                assert (await upload(client, newer, alias="prod")).status_code == 201
            sung = await client.post("/route", json={"prompt": "play a song of the band"})
            assert (sung.json()["agent"], sung.json()["version"]) == ("music", newer.version), sung.json()
            routed = await client.post("/route", json={"prompt": "say this as pirates talk at sea"})
            assert routed.json()["agent"] == "sailing", routed.json()
    manifest = BundleStore(bundles).manifest()
    assert set(manifest.adapters) == {"music", "cooking", "sailing"}
    assert manifest.adapters["music"] == newer.version
    assert BundleStore(bundles).history()[-1].why == "the fleet changed"


async def test_a_composition_is_asked_for_by_its_parts(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        answer = await client.post("/generate", json={"prompt": "x", "adapter": "code:0.5+creative:0.5"})
        assert answer.json()["adapter"] == "code:0.5+creative:0.5"
    metrics = (await client.get("/metrics")).text
    assert 'lora_composition_events_total{event="built"} 1.0' in metrics
    assert 'lora_composition_events_total{event="hit"} 1.0' in metrics
    assert "lora_compositions_loaded 1.0" in metrics
    assert [a["name"] for a in (await client.get("/adapters")).json()["adapters"]] == ["code", "creative"]
