"""Files, environment and flags become settings, or an error that says what to change."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from adaptive_lora.errors import SettingsError
from adaptive_lora.settings import Settings
from adaptive_lora.settings_loading import known_keys, load_settings, variable

SHIPPED = Path(__file__).parents[2] / "configs" / "serving"

GUIDE_PRODUCTION = """\
# configs/serving/production.yaml
api:
  host: "0.0.0.0"
  port: 8000
  workers: 1  # 1 worker per GPU
  timeout: 300

model:
  base_model: "meta-llama/Meta-Llama-3-8B"
  max_model_len: 4096
  gpu_memory_utilization: 0.85
  tensor_parallel_size: 1  # Increase for multi-GPU

inference:
  max_batch_size: 32
  enable_streaming: true
  cache_enabled: true

rate_limiting:
  enabled: true
  requests_per_minute: 60
  burst_size: 10

monitoring:
  prometheus_enabled: true
  log_level: "INFO"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text)
    return path


def fails(path: Path | None = None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(path, environ=environ or {})
    return caught.value.message


def test_the_guides_file_is_shipped_character_for_character() -> None:
    assert (SHIPPED / "production.yaml").read_text() == GUIDE_PRODUCTION


def test_every_value_of_the_guides_file_arrives() -> None:
    settings = load_settings(SHIPPED / "production.yaml", environ={})
    assert (settings.api.host, settings.api.port) == ("0.0.0.0", 8000)
    assert (settings.api.workers, settings.api.timeout) == (1, 300.0)
    assert settings.model.base_model == "meta-llama/Meta-Llama-3-8B"
    assert settings.model.max_model_len == 4096
    assert settings.model.gpu_memory_utilization == 0.85
    assert settings.model.tensor_parallel_size == 1
    assert settings.inference.model_dump() == {
        "max_batch_size": 32,
        "enable_streaming": True,
        "cache_enabled": True,
    }
    limits = settings.rate_limiting
    assert (limits.enabled, limits.requests_per_minute, limits.burst_size) == (True, 60, 10)
    assert settings.monitoring.prometheus_enabled is True
    assert settings.monitoring.log_level == "INFO"


@pytest.mark.parametrize("name", ["production.yaml", "development.yaml"])
def test_the_shipped_files_load(name: str) -> None:
    load_settings(SHIPPED / name, environ={})


def test_the_development_file_serves_the_demo() -> None:
    assert load_settings(SHIPPED / "development.yaml", environ={}).model.base_model == "demo"


def test_nothing_configured_gives_the_defaults() -> None:
    assert load_settings(environ={}) == Settings()


def test_flags_beat_environment_beats_file_beats_default(tmp_path: Path) -> None:
    path = write(tmp_path, "api: {port: 1, timeout: 2, max_body_bytes: 3000}")
    environ = {"ADAPTIVE_LORA_API__PORT": "10", "ADAPTIVE_LORA_API__TIMEOUT": "20"}
    api = load_settings(path, environ=environ, flags={"api.port": 100, "api.host": None}).api
    assert (api.port, api.timeout, api.max_body_bytes, api.host) == (100, 20.0, 3000, "127.0.0.1")


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "api: {port: 1234}")
    assert load_settings(environ={"ADAPTIVE_LORA_CONFIG": str(path)}).api.port == 1234


def test_a_secret_is_never_shown() -> None:
    settings = load_settings(environ={"DATABASE_URL": "postgresql://gateway:s3cret@db/fleet"})
    assert settings.registry.database_url is not None
    assert settings.registry.database_url.get_secret_value().endswith("s3cret@db/fleet")
    assert "s3cret" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    with pytest.raises(SettingsError, match=r"registry\.database_url") as caught:
        load_settings(environ={}, flags={"registry.database_url": ["s3cret"]})
    assert "s3cret" not in str(caught.value)


def test_the_guides_bare_name_works_and_the_prefixed_one_wins() -> None:
    assert load_settings(environ={"BASE_MODEL": "org/one"}).model.base_model == "org/one"
    environ = {"BASE_MODEL": "org/one", "ADAPTIVE_LORA_MODEL__BASE_MODEL": "org/two"}
    assert load_settings(environ=environ).model.base_model == "org/two"


def test_an_empty_variable_counts_as_not_set() -> None:
    environ = {"BASE_MODEL": "", "ADAPTIVE_LORA_API__PORT": ""}
    assert load_settings(environ=environ) == Settings()


def test_the_environment_can_unset_what_the_file_sets(tmp_path: Path) -> None:
    path = write(tmp_path, "model: {max_model_len: 99}")
    environ = {"ADAPTIVE_LORA_MODEL__MAX_MODEL_LEN": "null"}
    assert load_settings(path, environ=environ).model.max_model_len is None


@pytest.mark.parametrize(
    ("text", "wrong", "nearest"),
    [
        ("api: {prot: 1}", "api.prot", "api.port"),
        ("modle: {base_model: x}", "modle", "model"),
        ("inference: {max_batch: 1}", "inference.max_batch", "inference.max_batch_size"),
        ("api: {log_level: INFO}", "api.log_level", "monitoring.log_level"),
        ("model: {max_loras: 4}", "model.max_loras", "adapters.max_loras"),
    ],
)
def test_an_unknown_key_names_file_key_and_nearest(
    tmp_path: Path, text: str, wrong: str, nearest: str
) -> None:
    path = write(tmp_path, text)
    assert fails(path) == f"{path}: {wrong} is not a known setting; did you mean {nearest}?"


def test_an_unknown_variable_with_our_prefix_is_an_error() -> None:
    message = fails(environ={"ADAPTIVE_LORA_API__PROT": "1"})
    assert message == (
        "environment: ADAPTIVE_LORA_API__PROT is not a known setting; did you mean ADAPTIVE_LORA_API__PORT?"
    )


def test_variables_that_are_no_settings_are_left_alone() -> None:
    environ = {
        "ADAPTIVE_LORA_DEMO_FLEET": "/x",
        "ADAPTIVE_LORA_CPU_LORA": "stock",
        "ADAPTIVE_LORA_ENGINE_OWNER": "7",
        "PORT": "1",
    }
    assert load_settings(environ=environ) == Settings()


def test_a_wrong_type_names_its_source_key_and_value(tmp_path: Path) -> None:
    path = write(tmp_path, "api: {port: many}")
    message = fails(path)
    assert message.startswith(f"{path}: api.port: ")
    assert "integer" in message
    assert "'many'" in message
    assert fails(environ={"ADAPTIVE_LORA_API__PORT": "70000"}).startswith(
        "ADAPTIVE_LORA_API__PORT: api.port: "
    )


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "api: {prot: 1, port: many}\nmonitoring: {log_level: LOUD}")
    lines = fails(path).splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{path}: ") for line in lines)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("api: {port: 1\n", "is not valid YAML: line"),
        ("- a\n- b\n", "must hold sections"),
        ("api: 3\n", "api must hold keys, not a number"),
        ("api: {port: 1, port: 2}\n", "'port' is written twice"),
        ("api: {1: 2}\n", "must be a text"),
        ("api: {[a]: 2}\n", "must be a text"),
        ("api: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
    ],
)
def test_a_broken_file_says_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    message = fails(path)
    assert message.startswith(f"{path}: ")
    assert says in message


def test_empty_files_and_sections_are_fine(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, ""), environ={}) == Settings()
    assert load_settings(write(tmp_path, "api:\nmodel:\n"), environ={}) == Settings()


def test_a_file_that_is_absent_or_no_text_is_named(tmp_path: Path) -> None:
    assert (
        fails(tmp_path / "absent.yaml")
        == f"{tmp_path / 'absent.yaml'}: cannot be read: No such file or directory"
    )
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert fails(binary) == f"{binary}: is not UTF-8 text"


def test_rules_between_keys(tmp_path: Path) -> None:
    assert "exactly 1 (one worker per GPU)" in fails(write(tmp_path, "api: {workers: 2}"))
    both = "redis: {url: 'redis://u:s3cret@h:1/0', password_file: /x}"
    assert "leave one out" in (message := fails(write(tmp_path, both)))
    assert "s3cret" not in message
    message = fails(write(tmp_path, "adapters: {max_loras: 100}"))
    assert "max_cpu_loras (64) must be at least max_loras (100)" in message


def test_a_remote_engine_needs_workers_and_their_key(tmp_path: Path) -> None:
    remote = "model: {engine: remote}\nworkers: "
    assert "one of them" in fails(write(tmp_path, remote + "{api_key: x}"))
    assert "one of them" in fails(write(tmp_path, remote + "{api_key: x, urls: [http://a:1], dns: 'b:1'}"))
    assert "WORKER_API_KEY" in fails(write(tmp_path, remote + "{urls: [http://a:1]}"))
    assert "one of them" in fails(
        write(tmp_path, remote + "{urls: [http://a:1], api_key: x, api_key_file: /x}")
    )
    loaded = load_settings(
        write(tmp_path, remote + "{urls: [http://a:1]}"), environ={"WORKER_API_KEY": "s3cret"}
    )
    assert loaded.workers.api_key is not None
    assert loaded.workers.api_key.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(loaded)


@pytest.mark.parametrize(
    ("name", "environ", "port", "routes"),
    [
        ("sagemaker", {}, 8080, (None, None)),
        ("sagemaker", {"SAGEMAKER_BIND_TO_PORT": "8123"}, 8123, (None, None)),
        ("vertex", {}, 8080, (None, None)),
        (
            "vertex",
            {"AIP_HTTP_PORT": "7080", "AIP_PREDICT_ROUTE": "/v1/x:predict", "AIP_HEALTH_ROUTE": "/v1/x"},
            7080,
            ("/v1/x:predict", "/v1/x"),
        ),
        ("azureml", {}, 5001, (None, None)),
    ],
)
def test_a_platforms_own_variables_are_read_where_its_name_is_set(
    tmp_path: Path, name: str, environ: dict[str, str], port: int, routes: tuple[str | None, str | None]
) -> None:
    path = write(tmp_path, "api: {port: 8000}")
    environ = {**environ, "ADAPTIVE_LORA_PLATFORM__NAME": name}
    settings = load_settings(path, environ=environ)
    assert (settings.api.host, settings.api.port) == ("0.0.0.0", port)
    assert (settings.platform.predict_route, settings.platform.health_route) == routes
    ours = load_settings(
        path, environ={**environ, "ADAPTIVE_LORA_API__PORT": "1234"}, flags={"api.host": "::1"}
    )
    assert (ours.api.host, ours.api.port) == ("::1", 1234), "what is said to us is stronger"


def test_a_platforms_variables_alone_change_nothing() -> None:
    environ = {
        "SAGEMAKER_BIND_TO_PORT": "8123",
        "AIP_HTTP_PORT": "7080",
        "AIP_PREDICT_ROUTE": "/x",
        "AIP_HEALTH_ROUTE": "/y",
    }
    assert load_settings(environ=environ) == Settings()


@pytest.mark.parametrize(
    ("environ", "source"),
    [
        ({"SAGEMAKER_BIND_TO_PORT": "many"}, "SAGEMAKER_BIND_TO_PORT: api.port"),
        ({"ADAPTIVE_LORA_PLATFORM__PREDICT_ROUTE": "/{x}"}, "PREDICT_ROUTE: platform.predict_route"),
        ({"ADAPTIVE_LORA_PLATFORM__HEALTH_ROUTE": "ping"}, "HEALTH_ROUTE: platform.health_route"),
        ({"ADAPTIVE_LORA_PLATFORM__NAME": "sagemakr"}, "NAME: platform.name"),
    ],
)
def test_a_wrong_value_of_a_platform_names_its_source(environ: dict[str, str], source: str) -> None:
    assert source in fails(environ={"ADAPTIVE_LORA_PLATFORM__NAME": "sagemaker", **environ})


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().api.port = 1  # type: ignore[misc]


@pytest.mark.parametrize("key", sorted(known_keys().keys() - {"api.workers"}))
def test_every_key_is_described_and_read_from_its_variable(key: str) -> None:
    field = known_keys()[key]
    assert field.description
    section, _, name = key.partition(".")
    other = OTHER_VALUES[key]
    settings = load_settings(environ={variable(key): other})
    part = getattr(settings, section)
    assert isinstance(part, BaseModel)
    assert getattr(part, name) != field.default


OTHER_VALUES = {
    "batches.max_in_flight": "2",
    "batches.max_requests": "10",
    "batches.max_unfinished": "3",
    "batches.max_file_bytes": "2000",
    "batches.max_stored_bytes": "3000",
    "batches.retention": "7200",
    "batches.takeover": "5",
    "api.host": "::1",
    "api.port": "9000",
    "api.allowed_hosts": "one.example, two.example",
    "api.timeout": "7.5",
    "api.drain_seconds": "5",
    "api.grace_seconds": "60",
    "api.max_body_bytes": "2000",
    "api.max_concurrent_requests": "3",
    "api.max_connections": "100",
    "api.trusted_proxies": "10.0.0.0/8, 192.0.2.1",
    "api.docs": "false",
    "api.admin_host": "::1",
    "api.admin_port": "9001",
    "monitoring.metrics_host": "::1",
    "monitoring.metrics_port": "9002",
    "auth.enabled": "true",
    "auth.allow_insecure": "true",
    "auth.jwt_secret": "s3cret",
    "auth.jwt_secret_file": "/somewhere/secret",
    "auth.algorithm": "EdDSA",
    "auth.jwks_file": "/somewhere/jwks.json",
    "auth.issuer": "https://issuer.example",
    "auth.audience": "fleet",
    "auth.leeway": "0",
    "auth.require_agents": "true",
    "auth.failures_per_minute": "5",
    "model.base_model": "org/name",
    "model.engine": "fake",
    "model.max_model_len": "128",
    "model.gpu_memory_utilization": "0.5",
    "model.tensor_parallel_size": "2",
    "model.pipeline_parallel_size": "2",
    "model.distributed_executor_backend": "ray",
    "model.quantization": "awq",
    "model.quantized_from": "org/original",
    "model.dtype": "float32",
    "model.seed": "7",
    "model.enforce_eager": "true",
    "model.kv_cache_bytes": "2000000",
    "workers.urls": "http://10.0.0.1:8000, http://10.0.0.2:8000",
    "workers.dns": "workers.fleet:8000",
    "workers.api_key": "s3cret",
    "workers.tls_verify": "false",
    "workers.api_key_file": "/somewhere/key",
    "workers.ca_file": "/somewhere/ca.pem",
    "workers.max_connections": "3",
    "workers.max_attempts": "2",
    "workers.max_replicas": "3",
    "workers.first_token_timeout": "7.5",
    "workers.chunk_timeout": "7.5",
    "workers.start_timeout": "7.5",
    "workers.refresh_interval": "7.5",
    "workers.canary_interval": "7.5",
    "workers.canary_timeout": "7.5",
    "adapters.path": "/somewhere",
    "adapters.max_loras": "4",
    "adapters.max_cpu_loras": "80",
    "adapters.max_lora_rank": "32",
    "adapters.effect_checks": "false",
    "adapters.max_compositions": "3",
    "adapters.composition_method": "ties",
    "adapters.composition_density": "0.25",
    "storage.path": "/somewhere",
    "storage.url": "s3://bucket/fleet",
    "storage.allowed_sources": "hf://org, s3://bucket/adapters",
    "storage.max_archive_bytes": "1000",
    "storage.max_archive_entries": "8",
    "inference.max_batch_size": "4",
    "registry.database_url": "postgresql://gateway:s3cret@db.internal/fleet",
    "registry.password_file": "/somewhere/password",
    "admission.policy": "fifo",
    "queue.max_per_tenant": "3",
    "queue.window": "3",
    "queue.batch_share": "0.5",
    "queue.weights": '{"gold": 2.0}',
    "admission.max_wait_rounds": "7",
    "admission.prefetch": "false",
    "inference.enable_streaming": "false",
    "inference.cache_enabled": "true",
    "cache.ttl": "60",
    "cache.max_bytes": "1000000",
    "cache.max_value_bytes": "2000",
    "cache.secret": "0123456789abcdef0123456789abcdef",
    "cache.namespace": "blue",
    "router.encoder_path": "/somewhere",
    "router.use_encoder": "false",
    "router.learning_path": "/learning",
    "router.bundle_path": "/bundles",
    "router.min_confidence": "0.5",
    "router.max_error": "0.05",
    "router.seed": "7",
    "rate_limiting.enabled": "true",
    "rate_limiting.requests_per_minute": "5",
    "rate_limiting.burst_size": "5",
    "rate_limiting.tokens_per_minute": "1000",
    "rate_limiting.token_burst": "100",
    "rate_limiting.max_concurrent": "3",
    "rate_limiting.tokens_per_month": "1000000",
    "rate_limiting.key_share": "0.5",
    "rate_limiting.tiers": '{"gold": {"requests_per_minute": 600}}',
    "rate_limiting.replicas": "2",
    "platform.name": "sagemaker",
    "platform.predict_route": "/answer",
    "platform.health_route": "/healthz",
    "redis.url": "rediss://gateway:s3cret@redis.internal:6380/1",
    "redis.timeout": "0.05",
    "redis.ca_file": "/somewhere/ca.pem",
    "redis.password_file": "/somewhere/password",
    "redis.sentinels": "10.0.0.1:26379, 10.0.0.2:26379",
    "monitoring.prometheus_enabled": "false",
    "tracing.endpoint": "https://collector.example:4318",
    "tracing.headers": "x-token=s3cret",
    "tracing.sample_ratio": "1",
    "tracing.service_name": "gateway",
    "tracing.continue_traces": "true",
    "monitoring.log_prompts": "full",
    "monitoring.log_secret": "0123456789abcdef0123456789abcdef",
    "monitoring.log_level": "DEBUG",
}
"""A value unlike the default for every key. (Another api.workers than 1 is refused.)"""
