"""What lies in monitoring/: rules, alerts, dashboards, and the metrics that their expressions ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from adaptive_lora.telemetry.metrics import Metrics
from adaptive_lora.types import EngineStats

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"
RULE_FILES = sorted((MONITORING / "rules").glob("*.yaml"))
TEST_FILES = sorted((MONITORING / "tests").glob("*.yaml"))
DASHBOARDS = sorted((MONITORING / "grafana/dashboards").glob("*.json"))

ELSEWHERE = {
    "up": "Prometheus itself",
    "probe_ssl_earliest_cert_expiry": "blackbox-exporter",
    "certmanager_certificate_expiration_timestamp_seconds": "cert-manager",
    "kube_pod_container_status_last_terminated_reason": "kube-state-metrics",
    "kube_pod_container_status_restarts_total": "kube-state-metrics",
    "vllm:kv_cache_usage_perc": "vLLM",
    "vllm:num_preemptions_total": "vLLM",
}
"""Metrics that are not ours, and whose they are."""

_OF_PROMQL = frozenset(("and", "or", "unless", "bool", "offset"))


def yaml_of(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def rules(kind: str) -> list[dict[str, Any]]:
    """All rules of a kind: "alert" or "record"."""
    groups = [group for path in RULE_FILES for group in yaml_of(path)["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def kebab(name: str) -> str:
    """TTFTBudgetBurnFast is ttft-budget-burn-fast."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def metrics_in(expression: str) -> set[str]:
    """Names of series that an expression of PromQL asks for."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    names = re.findall(r"[a-zA-Z_:][\w:]*(?!\w)(?!\s*\()", bare)
    return {name for name in names if name.lower() not in _OF_PROMQL and not name.startswith("$")}


def queries(dashboard: Path) -> Iterator[tuple[str, str]]:
    """Title of the panel, and expression, of every query."""
    for panel in json.loads(dashboard.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def filled(expression: str) -> str:
    """As Grafana asks it."""
    return expression.replace("$job", "gateway").replace("$__rate_interval", "1m")


def series_of_the_code() -> set[str]:
    """Names of all series that a gateway may have."""
    metrics = Metrics()
    metrics.engine.stats = EngineStats(0, 0, 0.0, 0.0, 0, n_preemptions=0, workers={"usable": 1, "away": 0})
    metrics.redis.closed()
    metrics.backup.last_success = datetime.now(UTC)
    names = set()
    for family in metrics.registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + suffix for suffix in suffixes}
    return names
