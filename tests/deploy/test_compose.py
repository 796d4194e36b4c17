"""docker-compose.prod.yml, Dockerfile.prod, .env.example against each other and the code; without Docker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from adaptive_lora.settings_loading import load_settings
from scripts.compose_secrets import FILES, GIVEN, RANDOM, fill

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.prod.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile.prod").read_text()
ENV = dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
IMAGES = r"\w+_IMAGE"

every_service = pytest.mark.parametrize("name", SERVICES)


def mounts(name: str) -> dict[str, str]:
    """What is mounted where."""
    pairs = (volume.split(":") for volume in SERVICES[name].get("volumes", ()))
    return {pair[1]: pair[0] for pair in pairs}


def test_the_guides_names() -> None:
    assert {"HF_TOKEN", "OPENAI_API_KEY", "BASE_MODEL", "JWT_SECRET"} <= ENV.keys()
    assert ENV["COMPOSE_FILE"] == "docker-compose.prod.yml"
    assert "api" in SERVICES


def test_each_variable_is_in_the_example_and_each_of_the_example_is_read() -> None:
    used = {name for name in re.findall(r"\$\{([A-Z_]+)", TEXT) if not re.fullmatch(IMAGES, name)}
    used.remove("COMPOSE_PROJECT_NAME")  # Compose's own
    assert used == ENV.keys() - {"COMPOSE_FILE", "COMPOSE_PROFILES", "OPENAI_API_KEY"}
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", ())}
    assert set(ENV["COMPOSE_PROFILES"].split(",")) <= profiles == {"gpu", "cpu", "tls"}


def test_each_secret_is_handed_to_what_makes_the_files() -> None:
    assert set(SERVICES["secrets"]["environment"]) == {*RANDOM, *GIVEN}
    assert {Path(where).name for where in mounts("secrets")} == {"own", *FILES}


@every_service
def test_a_service_is_locked_in(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "proxy" else [])
    assert ":latest" not in service["image"] or "build" in service


@every_service
def test_what_is_mounted_is_there(name: str) -> None:
    for source in mounts(name).values():
        if source.startswith("."):
            assert (ROOT / source).exists(), source
        else:
            assert source in COMPOSE["volumes"]


@every_service
def test_a_service_waits_for_what_can_become_what_it_waits_for(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert SERVICES[other]["healthcheck"].get("test"), other
        else:
            assert SERVICES[other]["restart"] in ("no", "on-failure:10"), other
    if "/run/secrets" in mounts(name):
        assert "secrets" in SERVICES[name]["depends_on"]


def test_a_service_sees_its_own_secrets_alone() -> None:
    for name in SERVICES.keys() - {"secrets"}:
        seen = {source for source in mounts(name).values() if source.startswith("secrets-")}
        assert seen <= {f"secrets-{name.removesuffix('-cpu')}"}, name


def test_only_the_gateway_grafana_and_the_proxy_are_published() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == {"api", "grafana", "proxy"}
    assert published["api"] == ["${API_BIND:-127.0.0.1:8000}:8000"]
    for network in ("backend", "watch"):
        assert COMPOSE["networks"][network] == {"internal": True}
    for name in ("engine", "engine-cpu", "redis", "postgres"):
        assert list(SERVICES[name]["networks"]) == ["backend"]


def test_gateway_and_engine_share_one_network_so_that_a_worker_has_one_address() -> None:
    assert set(SERVICES["api"]["networks"]) & set(SERVICES["engine"]["networks"]) == {"backend"}
    for name in ("engine", "engine-cpu"):
        assert SERVICES[name]["networks"]["backend"]["aliases"] == ["engine"]


def test_prometheus_looks_where_services_listen() -> None:
    jobs = {
        job["job_name"]: job
        for job in yaml.safe_load((ROOT / "monitoring/prometheus.yml").read_text())["scrape_configs"]
    }
    environment = SERVICES["api"]["environment"]
    (gateway,) = jobs["gateway"]["dns_sd_configs"]
    assert gateway["names"] == ["api"]
    assert str(gateway["port"]) == environment["ADAPTIVE_LORA_MONITORING__METRICS_PORT"]
    (engine,) = jobs["engine"]["dns_sd_configs"]
    assert f"{engine['names'][0]}:{engine['port']}" == environment["ADAPTIVE_LORA_WORKERS__DNS"]
    assert {"backend", "watch"} == set(SERVICES["prometheus"]["networks"])


@pytest.mark.parametrize("base_model", ["org/model", "demo"])
def test_the_gateways_settings_load(base_model: str, tmp_path: Path) -> None:
    fill(tmp_path, {})
    given = {**SERVICES["api"]["environment"], "BASE_MODEL": base_model}
    given |= {path.name.upper(): path.read_text() for path in (tmp_path / "api").iterdir()}
    settings = load_settings(ROOT / "configs/serving/production.yaml", environ=given)
    assert settings.model.engine == "remote"
    assert settings.model.base_model == base_model
    assert settings.auth.enabled
    assert settings.auth.jwt_secret is None, "a file, so that it can be rotated"
    assert settings.redis.url
    assert settings.registry.database_url
    assert settings.cache.secret
    assert settings.monitoring.log_secret
    key = settings.workers.api_key
    assert key is not None
    assert key.get_secret_value() == (tmp_path / "engine/vllm_api_key").read_text()
    assert float(settings.api.grace_seconds) < float(SERVICES["api"]["stop_grace_period"].removesuffix("s"))


def test_secrets_are_kept_given_ones_win_and_absent_ones_leave(tmp_path: Path) -> None:
    fill(tmp_path, {"HF_TOKEN": "hf_x", "POSTGRES_PASSWORD": "a/b@c"})
    first = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert first[tmp_path / "prefetch/hf_token"] == "hf_x"
    assert "a%2Fb%40c@postgres" in first[tmp_path / "api/database_url"]
    assert not (tmp_path / "alertmanager/slack_webhook_url").exists()
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "own").iterdir()} == {0o600}
    fill(tmp_path, {"JWT_SECRET": "j" * 48})
    assert (tmp_path / "api/jwt_secrets").read_text() == "j" * 48
    assert (tmp_path / "engine/vllm_api_key").read_text() == first[tmp_path / "engine/vllm_api_key"]
    assert (tmp_path / "api/database_url").read_text() == first[tmp_path / "api/database_url"]
    assert not (tmp_path / "prefetch/hf_token").exists()


def test_targets_that_are_built_and_files_that_are_copied_are_there() -> None:
    targets = set(re.findall(r"^FROM .+ AS ([\w-]+)$", DOCKERFILE, re.MULTILINE))
    assert {service["build"]["target"] for service in SERVICES.values() if "build" in service} <= targets
    assert re.findall(r"AS ([\w-]+)$", DOCKERFILE, re.MULTILINE)[-1] == "engine", "the guide names no target"
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
    for path in re.findall(r"/app/((?:scripts|demo|models)/[\w./]+)", DOCKERFILE + TEXT):
        assert (ROOT / path).exists(), path


def test_images_hold_what_locks_say_and_run_as_nobody() -> None:
    for install in re.findall(r"pip install ([^\n]+(?:\\\n[^\n]+)*)", DOCKERFILE):
        assert "--no-deps" in install
        assert "--require-hashes" in install or "--no-index" in install or "torch-cpu.txt" in install, install
    for image in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[-3:]:
        assert "USER 10001:10001" in image
        assert 'ENTRYPOINT ["tini", "--", "adaptive-lora"]\nCMD ["serve"]' in image
        assert "HEALTHCHECK" in image
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in ignored, "named is what goes in, so that no secret of a checkout does"
