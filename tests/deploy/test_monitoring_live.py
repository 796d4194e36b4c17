"""Faults of a running gateway are seen, told, and described: alerts, messages, dashboards, runbooks.

The tests run in this order: the last one kills the gateway.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest
import yaml

from tests.deploy import runbooks
from tests.deploy.monitoring_files import DASHBOARDS, filled, metrics_in, queries, series_of_the_code
from tests.deploy.monitoring_stack import REFUSED, Stack, until
from tests.deploy.monitoring_traffic import credential, drive
from tests.deploy.programs import PACKAGES, skip_without
from tests.postgres import find_programs
from tests.redis_servers import skip_without as skip_without_redis
from tests.serving.auth.signing import bearer

NOT_ON_A_FAKE = {
    "lora_kv_cache_usage": "an engine with a KV cache",
    "lora_preemptions_total": "an engine with a KV cache",
    "lora_gpu_memory_usage": "a GPU",
    "lora_workers": "remote workers",
    "vllm:kv_cache_usage_perc": "remote workers",
    "vllm:num_preemptions_total": "remote workers",
}
"""Series that no gateway with a fake engine has, and what they need; that the code has them is another
test's."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    skip_without(*PACKAGES)
    skip_without_redis("redis-server")
    if find_programs() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    stack = Stack(tmp_path_factory.mktemp("monitoring"))
    drive(stack.gateway.url)
    yield stack
    stack.close()


@pytest.fixture(scope="module")
def environment(stack: Stack) -> dict[str, str]:
    """What the runbooks' first page tells to set."""
    return {
        "GATEWAY": stack.gateway.url,
        "METRICS": stack.metrics_url,
        "PROMETHEUS": stack.prometheus.url,
        "ALERTMANAGER": stack.alertmanager.url,
        "ADAPTIVE_LORA_SERVER": stack.gateway.url,
        "ADAPTIVE_LORA_API_KEY": credential(),
    }


@dataclass(frozen=True)
class Fault:
    alert: str
    page: str
    severity: str
    shows: str
    """A pattern of what the runbook's commands print then."""
    begin: Callable[[Stack], object] = lambda _: None
    mend: Callable[[Stack], object] | None = None


def _one_request(stack: Stack) -> None:
    body = {"prompt": "x", "max_tokens": 1}
    httpx.post(f"{stack.gateway.url}/generate", json=body, headers=bearer(credential()))


def _without_redis(stack: Stack) -> None:
    stack.redis.stop()
    _one_request(stack)


def _with_redis(stack: Stack) -> None:
    stack.redis.start()
    _one_request(stack)


def _strangers(stack: Stack) -> None:
    """More than one a second, over five minutes. A counter's growth is seen once the counter has been."""
    with httpx.Client(base_url=stack.gateway.url, headers=bearer("alk_made_up")) as client:
        assert client.get("/v1/models").status_code == 401
        until(lambda: bool(stack.query('api_requests_total{code="401"}')), "no 401 is seen")
        for _ in range(500):
            assert client.get("/v1/models").status_code == 401


FAULTS = (
    Fault(
        "AdaptersRefused",
        "adapters-refused",
        "warning",
        rf"lora_adapters_refused 1\.0(?s:.*)refused: {REFUSED}(?s:.*)rank_too_large",
    ),
    Fault("CertificateExpiry", "certificate-expiry", "critical", r"=> 1\.9\d+ @"),
    Fault("NoBackup", "no-backup", "warning", r"there is none"),
    Fault("RedisAway", "redis-away", "warning", r"redis_up 0\.0", _without_redis, _with_redis),
    Fault(
        "RegistryAway",
        "registry-away",
        "critical",
        r"registry_up 0\.0",
        lambda stack: stack.postgres.stop(),
        lambda stack: stack.postgres.start(),
    ),
    Fault("AuthFailures", "auth-failures", "warning", r"\{route=\"/v1/models\"\} => [1-9]", _strangers),
    Fault("HighErrorRate", "high-error-rate", "warning", r"code=\"401\", route=\"/v1/models\""),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.alert)
def test_a_fault_is_noticed_told_and_described(
    stack: Stack, environment: dict[str, str], fault: Fault
) -> None:
    fault.begin(stack)
    stack.until_fires(fault.alert, fault.severity)
    until(lambda: bool(stack.told.about("/slack", fault.alert)), f"Slack is not told of {fault.alert}")
    if fault.severity == "critical":
        until(lambda: bool(stack.told.about("/pagerduty", fault.alert)), "PagerDuty is not told")
        message = stack.told.about("/pagerduty", fault.alert)[0]
        assert message["event_action"] == "trigger"
        assert message["routing_key"] == "k3y"
        assert message["payload"]["severity"] == "critical"
        assert message["links"][0]["href"].endswith(f"/docs/runbooks/{fault.page}.md")
    (attachment,) = stack.told.about("/slack", fault.alert)[0]["attachments"]
    assert attachment["title"].startswith(f"{fault.alert}: ")
    assert "{{" not in attachment["text"]
    shown = "".join(runbooks.typed(text, environment) for text in runbooks.commands(fault.page))
    assert re.search(fault.shows, shown), shown
    if fault.mend is not None:
        fault.mend(stack)
        over = f"Over: {fault.alert}"
        until(lambda: bool(stack.told.about("/slack", over)), f"nobody is told that {fault.alert} is over")


def test_what_wakes_somebody_is_critical(stack: Stack) -> None:
    woken = {
        body["payload"]["summary"].partition(":")[0]
        for path, body in stack.told.messages
        if path == "/pagerduty"
    }
    assert {"CertificateExpiry", "RegistryAway"} <= woken
    assert not woken & {"RedisAway", "AdaptersRefused", "NoBackup", "AuthFailures", "Watchdog"}


def test_every_query_of_every_panel_has_a_series(stack: Stack) -> None:
    config = stack.folder / "gateway.yaml"
    config.write_text(
        yaml.safe_dump({**stack.settings, "model": {"engine": "fake", "base_model": "fake-base"}})
    )
    backup = ["backup", f"file://{stack.folder}/backups", "-c", str(config)]
    subprocess.run([sys.executable, "-m", "adaptive_lora", *backup], check=True, capture_output=True)
    drive(stack.gateway.url)
    asked = [(path.stem, title, expr) for path in DASHBOARDS for title, expr in queries(path)]
    assert NOT_ON_A_FAKE.keys() <= {name for _, _, expr in asked for name in metrics_in(expr)}
    missing = [each for each in asked if not metrics_in(each[2]) & NOT_ON_A_FAKE.keys()]
    assert len(missing) > 60

    def are_found() -> bool:
        missing[:] = [each for each in missing if not stack.query(filled(each[2]))]
        return not missing

    until(are_found, missing)


def test_every_series_that_is_left_out_is_in_the_code() -> None:
    ours = {name for name in NOT_ON_A_FAKE if not name.startswith("vllm:")}
    assert ours <= series_of_the_code()


@pytest.mark.parametrize(
    "page",
    [
        *("high-latency", "gpu-memory-pressure", "no-active-adapters", "queue-backlog"),
        *(
            "error-budget-burn-fast",
            "error-budget-burn-slow",
            "ttft-budget-burn-fast",
            "ttft-budget-burn-slow",
        ),
        *("slow-startup", "service-unavailable", "out-of-memory", "backup-too-old", "watchdog"),
        *("engine-stalled", "canary-failing", "workers-away", "kv-cache-full", "preemptions"),
    ],
)
def test_the_commands_of_a_runbook_run(stack: Stack, environment: dict[str, str], page: str) -> None:
    """Of alerts whose fault is not made here."""
    texts = runbooks.commands(page)
    assert texts
    for text in texts:
        runbooks.typed(text, environment)


def test_a_gateway_that_is_killed_is_told(stack: Stack, environment: dict[str, str]) -> None:
    stack.gateway.process.kill()
    stack.until_fires("GatewayDown", "critical")
    until(lambda: bool(stack.told.about("/pagerduty", "GatewayDown")), "PagerDuty is not told")
    shown = "".join(runbooks.typed(text, environment) for text in runbooks.commands("gateway-down"))
    assert "it does not answer" in shown
    assert re.search(r'up\{[^}]*job="gateway"\} => 0 @', shown), shown
