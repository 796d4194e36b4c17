"""scripts/rollout.py, with a Deployment's controller and Prometheus played here, as `kubectl` shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from scripts.rollout import ERROR_BUDGET, FAST, TTFT_BUDGET, Failed, Rollout, Target, main

ROOT = Path(__file__).parents[2]
OLD, NEW = "registry.example/engine@sha256:old", "registry.example/engine@sha256:new"
ERRORS, TTFT, PAGING, READY, POD = (
    "slo:request_errors",
    "slo:ttft_slow",
    "ALERTS",
    "adaptive_lora_ready",
    "api_requests_total",
)


class Cluster:
    """Three pods of `adaptive-lora-api`; a rollout makes one at once, and the others unless it is paused."""

    def __init__(self, *, becomes_ready: bool = True) -> None:
        self.images = {"wait-for-model": OLD, "api": OLD}
        self.is_paused = False
        self.becomes_ready = becomes_ready
        self.revisions: dict[str, int] = {OLD: 1}
        self.n_updated = 3
        self.figures = {ERRORS: 0.0, TTFT: 0.0, READY: 1.0}
        self.bad_from: dict[str, tuple[int, float]] = {}
        """Of a figure: with how many updated pods, and what it is then."""
        self.asked: list[str] = []
        self.done: list[str] = []

    @property
    def image(self) -> str:
        (image,) = set(self.images.values())
        return image

    def kubectl(self, arguments: Sequence[str]) -> str:
        verb = " ".join(arguments[:2])
        if verb == "get --raw":
            return self._prometheus(arguments[2])
        assert arguments[-2:] == ["-n", "ml-inference"]
        if arguments[0] == "get":
            return json.dumps(self._deployment() if "deployment" in arguments[1] else self._replica_sets())
        self.done.append(verb)
        if verb == "set image":
            self.images = dict(word.split("=") for word in arguments[3:-2])
            self.n_updated = 3 if self.image == OLD else 1  # old pods are still there
            self.revisions[self.image] = max(self.revisions.values()) + 1
        elif verb == "rollout pause":
            self.is_paused = True
        elif verb == "rollout resume":
            self.is_paused = False
            self.n_updated = 3
        elif verb != "rollout status":
            pytest.fail(f"not a command of the script: {verb}")
        return ""

    def _deployment(self) -> dict[str, Any]:
        containers = [{"name": name, "image": image} for name, image in self.images.items()]
        revision = str(self.revisions[self.image])
        return {
            "metadata": {
                "generation": 4,
                "annotations": {"deployment.kubernetes.io/revision": revision},
            },
            "spec": {
                "paused": self.is_paused,
                "replicas": 3,
                "selector": {"matchLabels": {"app.kubernetes.io/name": "adaptive-lora"}},
                "template": {"spec": {"initContainers": containers[:1], "containers": containers[1:]}},
            },
            "status": {"observedGeneration": 4},
        }

    def _replica_sets(self) -> dict[str, Any]:
        return {
            "items": [
                {
                    "metadata": {
                        "name": f"adaptive-lora-api-{image[-3:]}",
                        "annotations": {"deployment.kubernetes.io/revision": str(revision)},
                    },
                    "spec": {"replicas": 1},
                    "status": {"readyReplicas": 1} if self.becomes_ready or image == OLD else {},
                }
                for image, revision in self.revisions.items()
            ]
        }

    def _prometheus(self, path: str) -> str:
        (query,) = parse_qs(urlsplit(path).query)["query"]
        self.asked.append(query)
        name = next(name for name in (ERRORS, TTFT, PAGING, READY, POD) if name in query)
        value = self.figures.get(name)
        if name in self.bad_from and self.image == NEW and self.n_updated >= self.bad_from[name][0]:
            value = self.bad_from[name][1]
        result = [] if value is None else [{"metric": {}, "value": [0, str(value)]}]
        return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}})


def roll(cluster: Cluster) -> None:
    target = Target("ml-inference", "adaptive-lora-api", "monitoring/prometheus:9090")
    rollout = Rollout(target, cluster.kubectl, lambda seconds: None, look_every_s=15)
    rollout.to(NEW, watch_s=60, ready_s=600)


def test_one_pod_then_all_of_them() -> None:
    cluster = Cluster()
    roll(cluster)
    assert cluster.image == NEW
    assert cluster.images.keys() == {"wait-for-model", "api"}
    assert cluster.done == ["set image", "rollout pause", "rollout resume", "rollout status"]
    assert any('pod=~"adaptive-lora-api-new-.+"' in query for query in cluster.asked)


@pytest.mark.parametrize(
    ("figure", "n_updated", "value"),
    [
        (ERRORS, 1, 2 * FAST * ERROR_BUDGET),
        (TTFT, 1, 2 * FAST * TTFT_BUDGET),
        (POD, 1, 0.5),
        (PAGING, 1, 1.0),
        (ERRORS, 3, 2 * FAST * ERROR_BUDGET),
    ],
)
def test_what_fails_an_objective_is_put_back(figure: str, n_updated: int, value: float) -> None:
    cluster = Cluster()
    cluster.bad_from[figure] = (n_updated, value)
    with pytest.raises(Failed, match="put back"):
        roll(cluster)
    assert cluster.image == OLD
    assert not cluster.is_paused
    assert cluster.done[-1] == "rollout status"


def test_a_pod_that_does_not_become_ready_is_taken_away_before_the_rollout_goes_on() -> None:
    cluster = Cluster(becomes_ready=False)
    with pytest.raises(Failed, match="put back"):
        roll(cluster)
    assert cluster.image == OLD
    assert cluster.done == ["set image", "rollout pause", "set image", "rollout resume", "rollout status"]


@pytest.mark.parametrize("figure", [ERRORS, PAGING])
def test_a_service_in_trouble_is_left_alone(figure: str) -> None:
    cluster = Cluster()
    cluster.figures[figure] = 1.0
    with pytest.raises(Failed, match="before"):
        roll(cluster)
    assert cluster.done == []


def test_a_prometheus_that_sees_no_gateway_is_no_proof() -> None:
    cluster = Cluster()
    del cluster.figures[READY]
    with pytest.raises(Failed, match="no gateway"):
        roll(cluster)
    assert cluster.done == []


def test_no_requests_are_no_failure() -> None:
    cluster = Cluster()
    cluster.figures[ERRORS] = cluster.figures[TTFT] = float("nan")
    roll(cluster)
    assert cluster.image == NEW


def test_the_image_that_is_there_is_not_rolled_out_again() -> None:
    cluster = Cluster()
    cluster.images = {"wait-for-model": NEW, "api": NEW}
    cluster.revisions[NEW] = 2
    with pytest.raises(Failed, match="already"):
        roll(cluster)


def test_it_asks_for_series_that_exist_and_for_the_rules_own_bounds() -> None:
    cluster = Cluster()
    roll(cluster)
    rules = yaml.safe_load((ROOT / "monitoring/rules/slo.yaml").read_text())
    recorded = {rule.get("record") for group in rules["groups"] for rule in group["rules"]}
    metrics = (ROOT / "docs/reference/metrics.md").read_text()
    named = {
        name for query in cluster.asked for name in re.findall(r"\b(?:slo|api|adaptive)[\w:]+(?=\{)", query)
    }
    assert len(named) == 4
    for name in named:
        assert name in recorded or f"`{name}`" in metrics, name
    paging = [rule["expr"] for group in rules["groups"] for rule in group["rules"] if rule.get("alert")]
    assert any(f"> {FAST} * {ERROR_BUDGET}" in expr for expr in paging)
    assert any(f"> {FAST} * {TTFT_BUDGET}" in expr for expr in paging)


def test_without_kubectl_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([NEW]) == 1
    assert capsys.readouterr().err == "failed: kubectl cannot be run: No such file or directory\n"
