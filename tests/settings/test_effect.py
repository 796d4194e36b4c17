"""Each key does what it says: one test per key, and none may be forgotten."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from adaptive_lora.engine.factory import build_engine
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.engine.scheduled import ScheduledEngine
from adaptive_lora.errors import BundleError, SettingsError, WrongBase
from adaptive_lora.serving import loading
from adaptive_lora.settings_loading import known_keys, load_settings
from adaptive_lora.types import AdapterVersion
from tests.settings import (  # noqa: F401 - they declare keys
    test_effect_adapters,
    test_effect_admission,
    test_effect_auth,
    test_effect_batches,
    test_effect_cache,
    test_effect_limits,
    test_effect_queue,
    test_effect_secret_files,
    test_effect_server,
    test_effect_storage,
    test_effect_tracing,
    test_effect_workers,
)
from tests.settings.effects import TESTED, key, serving, settings_of


def test_every_key_has_a_test_of_its_effect() -> None:
    assert known_keys().keys() == TESTED


@key("api.host", "api.port", "monitoring.log_level")
def test_the_command_binds_the_configured_address_and_logs_from_the_configured_level(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        port = probe.getsockname()[1]
    config = tmp_path / "settings.yaml"
    logs = {}
    for level in ("INFO", "ERROR"):
        config.write_text(
            f"api: {{host: 127.0.0.2, port: {port}}}\nmodel: {{engine: fake}}\n"
            f"monitoring: {{log_level: {level}}}\n"
        )
        command = [sys.executable, "-m", "adaptive_lora", "serve", "--config", str(config)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            assert answers(f"http://127.0.0.2:{port}/live", while_running=server)
        finally:
            server.terminate()
            logs[level], _ = server.communicate(timeout=60)
    assert "preparing the engine" in logs["INFO"]
    assert "preparing the engine" not in logs["ERROR"]


def answers(url: str, while_running: subprocess.Popen[str]) -> bool:
    """Whether the server answers before its process ends."""
    while while_running.poll() is None:
        try:
            return httpx.get(url).status_code == 200
        except httpx.ConnectError:
            time.sleep(0.1)
    return False


@key("api.workers")
def test_more_than_one_worker_is_refused_and_it_is_said_what_to_do() -> None:
    with pytest.raises(SettingsError, match="one worker per GPU"):
        load_settings(flags={"api.workers": 2}, environ={})
    remote = {"model.engine": "remote", "workers.urls": ("http://127.0.0.1:1",), "workers.api_key": "k"}
    with pytest.raises(SettingsError, match="start more gateways"):
        load_settings(flags={"api.workers": 2, **remote}, environ={})


@key("api.timeout")
async def test_a_request_past_the_timeout_ends_with_an_error() -> None:
    async with serving(FakeEngine(delay_s=0.05), api={"timeout": 0.3}) as client:
        body = {"prompt": "x", "max_tokens": 256, "ignore_eos": True}
        answer = await client.post("/generate", json=body)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "deadline_exceeded"


@key("api.max_body_bytes")
async def test_a_larger_body_is_refused() -> None:
    async with serving(api={"max_body_bytes": 1_000}) as client:
        answer = await client.post("/generate", json={"prompt": "x" * 1_000})
    assert answer.status_code == 413


@key("api.allowed_hosts")
async def test_another_host_name_is_refused() -> None:
    async with serving(api={"allowed_hosts": ["127.0.0.1", "one.example"]}) as client:
        allowed = await client.get("/live", headers={"host": "one.example"})
        refused = await client.get("/live", headers={"host": "two.example"})
    assert (allowed.status_code, refused.status_code) == (200, 421)


@key("api.max_concurrent_requests")
async def test_requests_past_the_limit_are_turned_away() -> None:
    async with serving(FakeEngine(delay_s=0.01), api={"max_concurrent_requests": 1}) as client:
        body = {"prompt": "x", "max_tokens": 16, "ignore_eos": True}
        answers = await asyncio.gather(*(client.post("/generate", json=body) for _ in range(3)))
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused
    assert all("retry-after" in answer.headers for answer in refused)


@key("model.engine", "model.base_model")
async def test_the_engine_and_the_model_are_the_configured_ones() -> None:
    settings = settings_of(model={"engine": "fake", "base_model": "org/name"})
    engine = build_engine(settings.model, settings.adapters, settings.inference)
    assert isinstance(engine, ScheduledEngine)
    assert isinstance(engine.inner, FakeEngine)
    assert engine.model_name == "org/name"


ENGINE_KEYS = {
    "model.max_model_len": (128, "max_model_len"),
    "model.gpu_memory_utilization": (0.5, "gpu_memory_utilization"),
    "model.tensor_parallel_size": (2, "tensor_parallel_size"),
    "model.distributed_executor_backend": ("mp", "distributed_executor_backend"),
    "model.quantization": ("compressed-tensors", "quantization"),
    "model.dtype": ("float32", "dtype"),
    "model.seed": (7, "seed"),
    "model.enforce_eager": (True, "enforce_eager"),
    "model.kv_cache_bytes": (2_000_000, "kv_cache_memory_bytes"),
    "adapters.max_loras": (4, "max_loras"),
    "adapters.max_cpu_loras": (80, "max_cpu_loras"),
    "adapters.max_lora_rank": (32, "max_lora_rank"),
    "inference.max_batch_size": (4, "max_num_seqs"),
}
"""Our key, a value unlike its default, and vLLM's argument."""


@pytest.mark.vllm
@key(*ENGINE_KEYS)
def test_the_engines_keys_become_vllms_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    from vllm.engine.arg_utils import AsyncEngineArgs

    from adaptive_lora.engine.random_models import make_model
    from adaptive_lora.engine.vllm import VLLMInferenceEngine
    from adaptive_lora.engine.vllm_args import engine_arguments

    flags: dict[str, Any] = {name: value for name, (value, _) in ENGINE_KEYS.items()}
    base = str(make_model(tmp_path))
    settings = load_settings(environ={}, flags=flags | {"model.base_model": base})
    engine = build_engine(settings.model, settings.adapters, settings.inference)
    assert isinstance(engine, ScheduledEngine)
    assert isinstance(engine.inner, VLLMInferenceEngine)
    arguments = AsyncEngineArgs(**engine_arguments(engine.inner._options))
    assert arguments.model == base
    for value, argument in ENGINE_KEYS.values():
        assert getattr(arguments, argument) == value, argument


@pytest.mark.vllm
@key("model.pipeline_parallel_size")
def test_layers_are_divided_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm")
    from vllm.platforms import current_platform

    from adaptive_lora.engine.vllm import VLLMInferenceEngine
    from adaptive_lora.engine.vllm_args import engine_arguments

    monkeypatch.setattr(type(current_platform), "is_cpu", lambda self: False)
    settings = settings_of(model={"engine": "vllm", "pipeline_parallel_size": 2})
    engine = loading.build_engine(settings)
    assert isinstance(engine, ScheduledEngine)
    assert isinstance(engine.inner, VLLMInferenceEngine)
    assert engine_arguments(engine.inner._options)["pipeline_parallel_size"] == 2


@key("model.quantized_from")
def test_a_quantised_base_serves_the_adapters_of_the_named_original(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from adaptive_lora.adapters.base import base_fingerprint
    from adaptive_lora.adapters.manifest import write_manifest
    from adaptive_lora.adapters.verify import verify_adapter
    from adaptive_lora.engine.random_models import make_adapters, make_model

    original, served = make_model(tmp_path / "original"), make_model(tmp_path / "served", seed=1)
    (adapter,) = make_adapters(tmp_path, 1, 8, base=original)
    write_manifest(
        adapter,
        name="code",
        description="code",
        examples=[],
        base_model="original",
        base_fingerprint=base_fingerprint(original),
    )
    model: dict[str, Any] = {"engine": "vllm", "base_model": str(served)}
    base = loading.describe_base(settings_of(model=model))
    with pytest.raises(WrongBase, match=r"model\.quantized_from"):
        verify_adapter(adapter, base=base, max_rank=8)
    base = loading.describe_base(settings_of(model=model | {"quantized_from": str(original)}))
    assert verify_adapter(adapter, base=base, max_rank=8).name == "code"


@key("adapters.path")
async def test_the_fleet_is_read_from_the_configured_folder(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    async with serving(adapters={"path": str(tmp_path)}) as client:
        fleet = (await client.get("/adapters")).json()
    assert [entry["folder"] for entry in fleet["rejected"]] == ["broken"]


@key("inference.enable_streaming")
@pytest.mark.parametrize(("enabled", "status"), [(True, 200), (False, 400)])
async def test_streaming_can_be_switched_off(enabled: bool, status: int) -> None:
    async with serving(inference={"enable_streaming": enabled}) as client:
        answer = await client.post("/generate", json={"prompt": "x", "stream": True})
    assert answer.status_code == status


@key("monitoring.prometheus_enabled")
@pytest.mark.parametrize(("enabled", "status"), [(True, 200), (False, 404)])
async def test_metrics_can_be_switched_off(enabled: bool, status: int) -> None:
    async with serving(monitoring={"prometheus_enabled": enabled}) as client:
        assert (await client.get("/metrics")).status_code == status


def agent(name: str, *examples: str) -> AdapterVersion:
    return AdapterVersion(name, "0" * 12, Path(name), 8, name, examples, 1)


SUMS = agent("sums", *(f"What is {n} plus {n + 3}?" for n in range(20)))
POEMS = agent("poems", *(f"Write a poem of {n} lines about the sea" for n in range(20)))


@key("router.encoder_path", "router.use_encoder")
def test_the_encoder_is_read_from_its_folder_or_left_out(tmp_path: Path) -> None:
    absent: dict[str, Any] = {"encoder_path": str(tmp_path)}
    with pytest.raises(SettingsError, match=r"router\.encoder_path"):
        loading.make_router(settings_of(router=absent), (SUMS, POEMS))
    router = loading.make_router(settings_of(router=absent | {"use_encoder": False}), (SUMS, POEMS))
    assert router.route("What is 30 plus 4?").agent in ("sums", "base")


@key("router.min_confidence")
def test_below_the_configured_confidence_the_base_answers() -> None:
    def route(min_confidence: float) -> str:
        section = {"use_encoder": False, "min_confidence": min_confidence}
        return (
            loading.make_router(settings_of(router=section), (SUMS, POEMS)).route("What is 3 plus 6?").agent
        )

    assert route(0.0) == "sums"
    assert route(1.0) == "base"


@key("router.max_error")
def test_what_would_break_the_error_bound_goes_to_the_base() -> None:
    """Forty examples without an error can show 20 %, and cannot show 5 %."""

    def route(max_error: float) -> str:
        section = {"use_encoder": False, "max_error": max_error}
        return (
            loading.make_router(settings_of(router=section), (SUMS, POEMS)).route("What is 3 plus 6?").agent
        )

    assert route(0.2) == "sums"
    assert route(0.05) == "base"


@key("registry.database_url")
def test_the_registry_is_the_configured_database(tmp_path: Path) -> None:
    settings = settings_of(registry={"database_url": f"sqlite:///{tmp_path}/own.db"})
    loading.open_registry(settings).close()
    assert (tmp_path / "own.db").is_file()


@key("router.bundle_path")
def test_the_current_bundle_is_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from adaptive_lora.router.bundle import BundleStore
    from adaptive_lora.router.router import Router

    settings = settings_of(router={"use_encoder": False, "bundle_path": str(tmp_path / "bundles")})
    with pytest.raises(BundleError, match="router fit"):
        loading.make_router(settings, (SUMS, POEMS))
    known = Router.fit({"sums": SUMS.examples, "poems": POEMS.examples})
    versions = {"sums": SUMS.version, "poems": "123456789abc"}
    BundleStore(tmp_path / "bundles").save(known, versions, why="test")
    router = loading.make_router(settings, (SUMS, POEMS))
    assert router.agents == ("sums",), "poems are served in another version than the bundle has learnt"
    assert "has learnt poems@123456789abc" in caplog.text
    assert router.standing("poems").routing == "explicit_only"


@key("router.learning_path")
def test_outcomes_are_learnt_from(tmp_path: Path) -> None:
    settings = settings_of(router={"use_encoder": False, "learning_path": str(tmp_path / "learning")})
    loading.make_routes(settings, (SUMS, POEMS)).route("What is 3 plus 6?")
    assert (tmp_path / "learning" / "choices.jsonl").read_text().count("\n") == 1


@key("router.seed")
def test_the_seed_reaches_the_router(monkeypatch: pytest.MonkeyPatch) -> None:
    from adaptive_lora.router.router import Router

    seen = []
    fit = Router.fit

    def spy(*args: Any, **kwargs: Any) -> Router:
        seen.append(kwargs["seed"])
        return fit(*args, **kwargs)

    monkeypatch.setattr(Router, "fit", spy)
    loading.make_router(settings_of(router={"seed": 7, "use_encoder": False}), (SUMS, POEMS))
    assert seen == [7]
