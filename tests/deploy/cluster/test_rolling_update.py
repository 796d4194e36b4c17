"""k8s/ on a cluster: `make test-cluster` (docs/how-to/kubernetes.md says on which clusters)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.cluster.conftest import Cluster
from tests.deploy.manifest_tools import built, is_custom
from tests.deploy.manifests import NAMESPACE, OVERLAYS, SECRET, SECRETS, Manifest, find, pod_templates

pytestmark = [pytest.mark.acceptance]

DEPLOYMENT = "deployment/adaptive-lora-api"
CALLERS = "ingress-nginx"
"""The namespace that the NetworkPolicy lets in."""
STOP = "/tmp/stop"
NEWER = {
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("policy/v1", "PodDisruptionBudget"),
    ("batch/v1", "CronJob"),
}
"""What Kubernetes 1.20 does not keep."""


@pytest.fixture(scope="module", autouse=True)
def namespaces(cluster: Cluster) -> Iterator[None]:
    names = [NAMESPACE, CALLERS, "monitoring"]
    there = cluster.kubectl("get", "namespaces", "-o", "name").split()
    new = [name for name in names if f"namespace/{name}" not in there]
    for name in new:
        cluster.kubectl("create", "namespace", name)
    yield
    cluster.kubectl("delete", "namespace", *new)


def kind(manifest: Manifest) -> tuple[str, str]:
    return manifest["apiVersion"], manifest["kind"]


def known(cluster: Cluster, manifests: list[Manifest]) -> list[Manifest]:
    """Without what the server does not keep."""
    kinds = cluster.knows()
    left_out = {kind(manifest) for manifest in manifests if not is_custom(manifest)} - kinds
    assert left_out <= NEWER
    found = [manifest for manifest in manifests if kind(manifest) in kinds]
    if NEWER - kinds:
        for _, template in pod_templates(found):
            for constraint in template["spec"].get("topologySpreadConstraints", ()):
                del constraint["matchLabelKeys"]
    return found


def apply(cluster: Cluster, manifests: list[Manifest], *options: str) -> str:
    return cluster.kubectl(
        "apply", "--validate=strict", *options, "-f", "-", given=yaml.safe_dump_all(manifests)
    )


@pytest.mark.parametrize("folder", ["k8s", *(f"k8s/overlays/{name}" for name in OVERLAYS)])
def test_the_server_takes_all_that_it_knows(cluster: Cluster, folder: str) -> None:
    manifests = known(cluster, built(folder))
    said = apply(cluster, manifests, "--dry-run=server")
    assert said.count("(server dry run)") == len(manifests)


def callers(cluster: Cluster, url: str) -> list[Manifest]:
    """The pod that load.py runs in."""
    script = Path(__file__).with_name("load.py").read_text()
    mounts = [{"name": "script", "mountPath": "/load"}, {"name": "tmp", "mountPath": "/tmp"}]
    container = {
        "name": "load",
        "image": cluster.image,
        "command": ["python", "/load/load.py", url, STOP],
        "env": [{"name": "JWT_SECRET", "value": SECRETS["jwt-secret"]}],
        "volumeMounts": mounts,
    }
    volumes = [{"name": "script", "configMap": {"name": "load"}}, {"name": "tmp", "emptyDir": {}}]
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [container],
        "volumes": volumes,
    }
    named = {"name": "load", "namespace": CALLERS}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": {"load.py": script}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": named, "spec": spec},
    ]


class Update:
    """The Deployment while its pods are replaced."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def kubectl(self, *arguments: str) -> str:
        return self._cluster.kubectl(f"--namespace={NAMESPACE}", *arguments)

    def pods(self) -> dict[str, str]:
        """Image by name."""
        pods = json.loads(self.kubectl("get", "pods", "-o", "json"))["items"]
        return {pod["metadata"]["name"]: pod["spec"]["containers"][0]["image"] for pod in pods}

    def do(self, *command: str) -> float:
        """Until the new pods are ready and the old ones have gone: after how many seconds."""
        old, began = self.pods(), time.monotonic()
        self.kubectl(*command)
        self.kubectl("rollout", "status", DEPLOYMENT, "--timeout=15m")
        self.kubectl("wait", "--for=delete", "--timeout=6m", *(f"pod/{name}" for name in old))
        return time.monotonic() - began

    def answered(self, pod: str) -> float:
        """Requests, of those that generate."""
        script = (
            "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9090/metrics').read().decode())"
        )
        metrics = self.kubectl("exec", pod, "--", "python", "-c", script)
        lines = [line for line in metrics.splitlines() if line.startswith("api_requests_total{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines if 'route="/generate"' in line)


def test_an_update_and_its_way_back_fail_no_request(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    manifests = built("k8s/overlays/cpu")
    deployment = find(manifests, "Deployment", "adaptive-lora-api")
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = cluster.image
    update = Update(cluster)
    secret = f"--from-literal=jwt-secret={SECRETS['jwt-secret']}"
    update.kubectl("create", "secret", "generic", SECRET, secret)
    apply(cluster, known(cluster, manifests))
    update.kubectl("rollout", "status", DEPLOYMENT, "--timeout=15m")
    address = update.kubectl("get", "service", "adaptive-lora-service", "-o", "jsonpath={.spec.clusterIP}")

    apply(cluster, callers(cluster, f"http://{address}:8000"))
    load = [f"--namespace={CALLERS}", "load"]
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=5m", load[0], "pod/load")
    first = update.pods()
    seconds = [update.do("set", "image", DEPLOYMENT, f"api={cluster.next_image}")]
    second = update.pods()
    seconds += [update.do("rollout", "undo", DEPLOYMENT)]
    third = update.pods()
    assert all(update.answered(pod) for pod in third)
    cluster.kubectl("exec", *load, "--", "touch", STOP)
    cluster.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=5m", load[0], "pod/load")
    report = json.loads(cluster.kubectl("logs", *load).splitlines()[-1])
    with capsys.disabled():
        print("\n", report | {"updates_s": [round(s) for s in seconds]})

    assert [set(pods.values()) for pods in (first, second, third)] == [
        {cluster.image},
        {cluster.next_image},
        {cluster.image},
    ]
    assert len(first) == len(second) == len(third) == 2
    assert report["closing"], "nobody was answered by a pod that was about to stop"
    assert report["failures"] == []
