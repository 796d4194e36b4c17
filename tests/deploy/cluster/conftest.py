"""A cluster for the tests of this folder: one that is there, or one of their own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.cluster.kubernetes import kubernetes, missing_programs
from tests.deploy.manifest_tools import TOOLS, install_tools
from tests.deploy.manifests import NAMESPACE

KUBECTL = str(TOOLS / "bin/kubectl")
HOW = (
    "no cluster to test on: set CLUSTER_PROGRAMS and CLUSTER_IMAGE_FILE, or CLUSTER_KUBECONFIG "
    "(docs/how-to/kubernetes.md)"
)


class Cluster:
    def __init__(self, run: Callable[..., str], image: str, next_image: str) -> None:
        self.kubectl = run
        """With these arguments, and text as `given`; what it printed. Raises AssertionError if it fails."""
        self.image, self.next_image = image, next_image

    def knows(self) -> set[tuple[str, str]]:
        """(apiVersion, kind) of all that this server keeps."""
        rows = (line.split() for line in self.kubectl("api-resources", "--no-headers").splitlines())
        return {(row[-3], row[-1]) for row in rows}


def _on(kubeconfig: str) -> Callable[..., str]:
    def kubectl(*arguments: str, given: str | None = None) -> str:
        command = [KUBECTL, f"--kubeconfig={kubeconfig}", *arguments]
        run = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
        assert run.returncode == 0, f"kubectl {' '.join(arguments)}: {run.stdout}{run.stderr}"
        return run.stdout

    return kubectl


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Without our namespace. CLUSTER_IMAGES are two names of images that its nodes have."""
    kubeconfig, programs, file = (
        os.environ.get(f"CLUSTER_{name}", "") for name in ("KUBECONFIG", "PROGRAMS", "IMAGE_FILE")
    )
    if not kubeconfig and not (programs and file):
        pytest.skip(HOW)
    install_tools()
    images = os.environ.get("CLUSTER_IMAGES", "adaptive-lora-cpu:v1.0.0 adaptive-lora-cpu:v1.0.1").split()
    if kubeconfig:
        found = Cluster(_on(kubeconfig), *images)
        if found.kubectl("get", "namespace", NAMESPACE, "--ignore-not-found"):
            pytest.fail(f"{kubeconfig} has a namespace {NAMESPACE}: these tests make it, and delete it")
        yield found
        return
    if missing := missing_programs(folder := Path(programs).resolve()):
        pytest.skip(f"{folder} has no {', '.join(missing)}: sh tests/deploy/cluster/build.sh makes them")
    if os.geteuid():
        pytest.skip("needs root")
    with kubernetes(folder, [Path(file).resolve()]) as (node, configuration):

        def kubectl(*arguments: str, given: str | None = None) -> str:
            return node.run(KUBECTL, f"--kubeconfig={configuration}", *arguments, given=given)

        yield Cluster(kubectl, *images)
