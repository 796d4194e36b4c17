"""The images and the Compose stack, built and run: `make test-images`. The tests run in this order.

Needs a Docker engine, and without a registry Debian's mmdebstrap. What the test starts is a project of its
own, which it takes down; images and what they were built from stay, so that the next run is short.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.images.builds import ENGINE, FOLDER, GATEWAY, build_all, has_registry
from tests.deploy.images.docker import docker, inspect, missing, run_in
from tests.deploy.images.stack import Stack, until
from tests.deploy.monitoring_files import DASHBOARDS, filled, metrics_in, queries
from tests.deploy.monitoring_traffic import credential, drive
from tests.serving.auth.signing import SECRET

pytestmark = [pytest.mark.acceptance]

PAGE = "docs/how-to/docker-compose.md"
GATEWAY_MB = 350
LOAD = Path(__file__).parents[1] / "cluster/load.py"
OF_AN_ENGINE_INSIDE = {
    *("lora_adapter_evictions_total", "lora_adapter_load_seconds_bucket", "lora_adapter_loads_total"),
    *("lora_adapter_resident", "lora_adapter_slot_hits_total", "lora_preemptions_total"),
    "lora_queue_wait_seconds_bucket",
}
"""Series that a gateway of remote workers does not have (docs/reference/metrics.md)."""
NOT_HERE = {"lora_gpu_memory_usage"} | OF_AN_ENGINE_INSIDE
SETTLES_S = 5
"""Of load before and after a restart."""


@pytest.fixture(scope="module")
def report() -> Iterator[dict[str, Any]]:
    """What was measured: in build/images/report.json."""
    found: dict[str, Any] = {}
    began = time.monotonic()
    yield found
    found["total_s"] = round(time.monotonic() - began)
    (FOLDER / "report.json").write_text(json.dumps(found) + "\n")


@pytest.fixture(scope="module")
def registry() -> bool:
    if "TEST_IMAGES" not in os.environ:
        pytest.skip("builds images and starts a stack: make test-images")
    if problem := missing():
        pytest.fail(f"no Docker engine with buildx and Compose: {problem}")
    return has_registry()


@pytest.fixture(scope="module")
def images(registry: bool, report: dict[str, Any]) -> dict[str, Any]:
    """Name to description."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    report["base"] = "official" if registry else "made here"
    report["build_s"] = build_all(registry=registry)
    found = {name: inspect(name) for name in (GATEWAY, ENGINE)}
    report["size_mb"] = {name: round(image["Size"] / 1e6) for name, image in found.items()}
    return found


@pytest.fixture(scope="module")
def stack(
    registry: bool, images: dict[str, Any], report: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack"), PAGE, registry=registry)
    assert not docker("ps", "-aq", f"--filter=label=com.docker.compose.project={stack.project}"), (
        f"containers of another run are there: docker compose -p {stack.project} down -v"
    )
    began = time.monotonic()
    try:
        stack.types("# the demo fleet, and the proxy")
        report["up_s"] = round(time.monotonic() - began)
        yield stack
    except AssertionError:
        print(stack.log())
        raise
    finally:
        began = time.monotonic()
        stack.types("docker compose down -v")
        report["down_s"] = round(time.monotonic() - began)
    left = docker("volume", "ls", "-q", f"--filter=label=com.docker.compose.project={stack.project}")
    assert not left, "down -v leaves nothing"


def test_the_gateways_image_is_small_and_has_nothing_to_spare(images: dict[str, Any]) -> None:
    assert images[GATEWAY]["Size"] <= GATEWAY_MB * 1e6
    for image in images.values():
        assert image["Config"]["User"] == "10001:10001"
    unwanted = "which apt-get dpkg perl bash pip su; python -c 'import torch'; python -c 'import pip'"
    assert run_in(GATEWAY, "sh", "-c", f"({unwanted}) 2>/dev/null || true") == ""
    assert run_in(GATEWAY, "sh", "-c", "find / -xdev -type f -perm /6000 2>/dev/null || true") == ""


def test_all_that_a_gateway_may_import_is_there(images: dict[str, Any]) -> None:
    """After what was taken out: object storage of three kinds, databases, TLS."""
    imports = "adlfs, gcsfs, s3fs, hf_xet, onnxruntime, psycopg, redis, rich.traceback, sqlite3, uvloop"
    code = f"import {imports}, ssl; assert ssl.create_default_context().get_ca_certs()"
    run_in(GATEWAY, "python", "-c", code)
    run_in(
        GATEWAY, "python", "-c", "import botocore.session as b; b.Session().create_client('s3', 'eu-west-1')"
    )


def test_a_key_is_minted(stack: Stack) -> None:
    assert "alk_" in stack.types("keys mint shop")


def test_a_first_question(stack: Stack) -> None:
    answer = json.loads(stack.types("Explain machine learning"))
    assert answer["usage"]["completion_tokens"] > 0


def test_a_stranger_is_refused_and_a_token_streams_and_routes(stack: Stack) -> None:
    with stack.client("made-up") as stranger:
        assert stranger.post("/generate", json={"prompt": "x"}).status_code == 401
    with stack.client(credential()) as client:
        routed = client.post("/route", json={"prompt": "Write a Python function that adds two numbers"})
        assert routed.json()["agent"] == "code"
        chat = {
            "model": "code",
            "messages": [{"role": "user", "content": "What is 2 plus 3?"}],
            "stream": True,
        }
        with client.stream("POST", "/v1/chat/completions", json=chat) as answer:
            lines = [line for line in answer.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        assert len(lines) > 3


def test_the_engine_demands_a_key_and_is_published_nowhere(stack: Stack) -> None:
    (engine,) = stack.containers("engine-cpu")
    assert not any(inspect(engine)["NetworkSettings"]["Ports"].values())
    code = "import httpx; print(httpx.get('http://engine:8000/v1/models').status_code)"
    assert docker("exec", stack.containers("api")[0], "python", "-c", code).strip() == "401"


def test_no_container_shows_a_secret(stack: Stack) -> None:
    """In its variables or its command, but the one that writes the files."""
    for container in stack.containers("api engine-cpu postgres redis prometheus alertmanager proxy"):
        configuration = json.dumps(inspect(container)["Config"])
        assert SECRET not in configuration
        assert "slack" not in configuration


def test_two_gateways(stack: Stack) -> None:
    stack.types("up -d --wait --scale api=2")
    assert len(stack.containers("api")) == 2


def test_prometheus_scrapes_all(stack: Stack) -> None:
    wanted = {"gateway": 2, "engine": 1, "prometheus": 1, "alertmanager": 1}

    def scraped() -> dict[str, int]:
        series = stack.query("sum by (job) (up)")
        return {each["metric"]["job"]: int(each["value"][1]) for each in series}

    until(lambda: scraped() == wanted, wanted)


def test_an_alert_is_told(stack: Stack, report: dict[str, Any]) -> None:
    """The shipped rules and routes, with the times that they have: two minutes, and half of one."""
    began = time.monotonic()
    stack.shell("docker compose stop redis")
    with stack.client(credential()) as client:  # until somebody asks, no gateway knows
        assert all(client.post("/generate", json={"prompt": "x"}).is_success for _ in range(4))
    until(lambda: "RedisAway" in stack.log("told"), "nobody is told that Redis is away", within_s=400)
    report["alert_s"] = round(time.monotonic() - began)
    stack.shell("docker compose start redis")  # some panels have a series since it was away


def test_every_query_of_every_panel_has_a_series(stack: Stack, report: dict[str, Any]) -> None:
    backup = "adaptive-lora backup file:///var/lib/adaptive-lora/backups"
    stack.shell(f"docker compose exec -T api sh /app/scripts/with_secrets.sh {backup}")
    drive(stack.url, verify=stack.trust())
    asked = [(path.stem, title, expr) for path in DASHBOARDS for title, expr in queries(path)]
    missing = [each for each in asked if not metrics_in(each[2]) & NOT_HERE]
    report["queries"] = {"asked": len(missing), "left_out": len(asked) - len(missing)}

    def are_found() -> bool:
        drive(stack.url, verify=stack.trust())
        missing[:] = [each for each in missing if not stack.query(filled(each[2]))]
        return not missing

    until(are_found, missing)


def test_gateways_restart_under_load(stack: Stack, report: dict[str, Any], tmp_path: Path) -> None:
    """One by one; nobody notices."""
    with load(stack, tmp_path) as found:
        time.sleep(SETTLES_S)
        began = time.monotonic()
        stack.types("docker restart")
        restarted = time.monotonic()
        time.sleep(SETTLES_S)
    report["load"] = found | {"restart_s": round(restarted - began)}
    assert found["requests"] > 100
    assert not found["failures"]


@contextmanager
def load(stack: Stack, folder: Path) -> Iterator[dict[str, Any]]:
    """Callers of the proxy; what they report, afterwards."""
    found: dict[str, Any] = {}
    stop = folder / "stop"
    environment = os.environ | {"JWT_SECRET": SECRET, "SSL_CERT_FILE": str(stack.certificate)}
    command = [sys.executable, str(LOAD), stack.url, str(stop)]
    callers = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield found
    finally:
        stop.touch()
        printed, _ = callers.communicate(timeout=120)
    found |= json.loads(printed.splitlines()[-1])
