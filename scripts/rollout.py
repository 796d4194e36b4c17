#!/usr/bin/env python3
"""Bring an image to the Deployment in two steps, and back if the service level objectives fail.

    python3 scripts/rollout.py ghcr.io/your-org/adaptive-lora-framework/engine@sha256:... --minutes 15

One pod is updated and the rollout paused; for `--minutes` the objectives of monitoring/rules/slo.yaml are
watched, of the whole service and of the new pod; then the rest follows, and the same again. What fails is
put back to the images it had, old pods staying until then. Needs `kubectl` and a context, nothing else:
Prometheus is asked by way of the API server. Exit code 0: done; 1: put back, or not begun.

A pod that does not become ready is a failure; one that has had few requests is not judged by them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

ERROR_BUDGET, TTFT_BUDGET = 0.005, 0.05
"""What the objectives of monitoring/rules/slo.yaml leave."""
FAST = 14.4
"""The burn rate at which that file's alerts page."""
LOOK_EVERY_S = 15.0
START_S = 300.0
"""For the first new pod to be there, ready or not. A paused rollout would not begin."""
ENOUGH_REQUESTS = 50
"""In five minutes, for a share of them to say something."""


class Failed(Exception):
    """The rollout must not go on."""


Kubectl = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Target:
    namespace: str
    deployment: str
    prometheus: str
    """namespace/service:port of a Prometheus that has the rules."""


def kubectl(arguments: Sequence[str]) -> str:
    try:
        run = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise Failed(f"kubectl cannot be run: {error.strerror}") from error
    if run.returncode:
        raise Failed(f"kubectl {' '.join(arguments[:3])}: {run.stderr.strip()}")
    return run.stdout


class Rollout:
    def __init__(
        self, target: Target, run: Kubectl, sleep: Callable[[float], None], look_every_s: float
    ) -> None:
        self._target = target
        self._run = run
        self._sleep = sleep
        self._look_every_s = look_every_s

    def deployment(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._in_namespace("get", self._name, "-o", "json"))
        return found

    def to(self, image: str, *, watch_s: float, ready_s: float) -> None:
        """Raises Failed, after the images that were there are back; or with the error that kept them away."""
        before = images(self.deployment())
        if set(before.values()) == {image}:
            raise Failed(f"{self._name} has this image already")
        self.check("before", None)  # a service that burns its budget is not made another one
        try:
            self._set(dict.fromkeys(before, image))
            self._new_pods(START_S, "begun", lambda new: bool(new["spec"]["replicas"]))
            self._in_namespace("rollout", "pause", self._name)
            pods = self._new_pods(ready_s, "ready", lambda new: bool(new["status"].get("readyReplicas")))
            self._watch("one pod", pods, watch_s)
            self._in_namespace("rollout", "resume", self._name)
            self._finish(ready_s)
            self._watch("all pods", None, watch_s)
        except (Failed, KeyboardInterrupt) as error:
            say(f"back to {sorted(set(before.values()))}: {error or 'interrupted'}")
            self._set(before)
            if self.deployment()["spec"].get("paused"):
                self._in_namespace("rollout", "resume", self._name)
            self._finish(ready_s)
            raise Failed("put back") from error

    def check(self, step: str, pods: str | None) -> None:
        """Raises Failed if an objective's budget burns fast, the service is gone, or `pods` fail more."""
        of = f'namespace="{self._target.namespace}"'
        service = {
            f"slo:request_errors:ratio_rate5m{{{of}}}": FAST * ERROR_BUDGET,
            f"slo:ttft_slow:ratio_rate5m{{{of}}}": FAST * TTFT_BUDGET,
            f'count(ALERTS{{alertstate="firing", severity="critical", {of}}})': 0.0,
        }
        for query, most in service.items():
            self._at_most(step, query, most)
        if not self._values(f"adaptive_lora_ready{{{of}}} == 1"):
            raise Failed(f"{step}: Prometheus sees no gateway that is ready")
        if pods:
            these = f'{of}, pod=~"{pods}"'
            requests = f"sum(increase(api_requests_total{{{these}}}[5m]))"
            errors = f'sum(increase(api_requests_total{{{these}, status="error", code!~"4.."}}[5m]))'
            self._at_most(step, f"{errors} / ({requests} > {ENOUGH_REQUESTS})", FAST * ERROR_BUDGET)

    def _at_most(self, step: str, query: str, most: float) -> None:
        for value in self._values(query):
            if not value <= most and value == value:  # NaN is nothing divided by nothing: no requests
                raise Failed(f"{step}: {query} is {value:.4g}, at most {most:.4g} is allowed")

    def _values(self, query: str) -> list[float]:
        namespace, service = self._target.prometheus.split("/", 1)
        proxy = f"/api/v1/namespaces/{namespace}/services/{service}/proxy"
        answer = json.loads(
            self._run(["get", "--raw", f"{proxy}/api/v1/query?query={quote(query, safe='')}"])
        )
        if answer.get("status") != "success":
            raise Failed(f"Prometheus refuses {query}: {answer.get('error')}")
        return [float(series["value"][1]) for series in answer["data"]["result"]]

    def _new_pods(self, most_s: float, what: str, is_so: Callable[[dict[str, Any]], bool]) -> str:
        """A pattern of the new pods' names, once `is_so` of their ReplicaSet."""
        for _ in range(max(1, round(most_s / self._look_every_s))):
            new = self._new_replica_set()
            if new and is_so(new):
                return f"{new['metadata']['name']}-.+"
            self._sleep(self._look_every_s)
        raise Failed(f"no new pod was {what} within {most_s:.0f} s")

    def _new_replica_set(self) -> dict[str, Any] | None:
        """The one that the Deployment's controller made for the template that is set now."""
        deployment = self.deployment()
        status = deployment["status"]
        if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
            return None
        revision = deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
        selector = ",".join(f"{k}={v}" for k, v in deployment["spec"]["selector"]["matchLabels"].items())
        listed = json.loads(self._in_namespace("get", "replicasets", "-l", selector, "-o", "json"))["items"]
        for item in listed:
            if item["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == revision:
                found: dict[str, Any] = item
                return found
        return None

    def _watch(self, step: str, pods: str | None, watch_s: float) -> None:
        say(f"{step}: watched for {watch_s:.0f} s")
        for _ in range(max(1, round(watch_s / self._look_every_s))):
            self._sleep(self._look_every_s)
            self.check(step, pods)

    def _finish(self, ready_s: float) -> None:
        """Until all pods are new; each may take its time."""
        most_s = ready_s * max(1, self.deployment()["spec"].get("replicas", 1))
        self._in_namespace("rollout", "status", self._name, f"--timeout={most_s:.0f}s")

    def _set(self, wanted: dict[str, str]) -> None:
        self._in_namespace("set", "image", self._name, *(f"{name}={image}" for name, image in wanted.items()))

    @property
    def _name(self) -> str:
        return f"deployment/{self._target.deployment}"

    def _in_namespace(self, *arguments: str) -> str:
        return self._run([*arguments, "-n", self._target.namespace])


def images(deployment: dict[str, Any]) -> dict[str, str]:
    """By container, first ones included: all of ours have one image."""
    pod = deployment["spec"]["template"]["spec"]
    return {each["name"]: each["image"] for each in (*pod.get("initContainers", ()), *pod["containers"])}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Bring an image in, and back if objectives fail.")
    parser.add_argument("image", help="by digest: NAME@sha256:...")
    parser.add_argument("--minutes", type=float, default=15.0, help="to watch one pod, and then all")
    parser.add_argument("--ready-minutes", type=float, default=30.0, help="for each pod to become ready")
    parser.add_argument("--look-every", type=float, default=LOOK_EVERY_S, help="seconds between two looks")
    parser.add_argument("--namespace", default="ml-inference")
    parser.add_argument("--deployment", default="adaptive-lora-api")
    parser.add_argument(
        "--prometheus",
        default="monitoring/prometheus-kube-prometheus-prometheus:9090",
        help="namespace/service:port",
    )
    given = parser.parse_args(argv)
    target = Target(given.namespace, given.deployment, given.prometheus)
    rollout = Rollout(target, kubectl, time.sleep, given.look_every)
    try:
        rollout.to(given.image, watch_s=60 * given.minutes, ready_s=60 * given.ready_minutes)
    except Failed as error:
        say(f"failed: {error}")
        return 1
    say("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
