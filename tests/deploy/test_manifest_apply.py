"""What kubectl applies of k8s/, and in which order: `make test-manifests`."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.deploy.kube_api import Cluster, cluster
from tests.deploy.manifest_tools import built, install_tools, tool
from tests.deploy.manifests import IN_ORDER, K8S, OVERLAYS, ROOT, environment, find

pytestmark = [pytest.mark.acceptance]


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    install_tools()


def apply(to: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return tool("kubectl", f"--server={to.url}", "apply", "--validate=false", *arguments)


def test_both_ways_of_applying_the_base_make_the_same_without_any_operator() -> None:
    with cluster() as by_files, cluster() as by_kustomization:
        assert apply(by_files, "-f", "k8s/namespace.yaml").returncode == 0
        for there, flag in ((by_files, "-f"), (by_kustomization, "-k")):
            run = apply(there, flag, "k8s/")
            assert run.returncode == 0, run.stderr
        assert by_files.objects.keys() == by_kustomization.objects.keys()
        assert by_files.names() == sorted((m["kind"], m["metadata"]["name"]) for m in built("k8s"))
        for path, made in by_files.objects.items():
            assert made.get("spec") == by_kustomization.objects[path].get("spec"), path


def test_the_guides_commands_one_by_one(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.yaml"
    secrets.write_text((K8S / "secrets.yaml.example").read_text())
    with cluster() as there:
        for path in (
            "k8s/namespace.yaml",
            str(secrets),
            *(f"k8s/{n}.yaml" for n in ("deployment", "ingress", "networkpolicy")),
        ):
            run = apply(there, "-f", path)
            assert run.returncode == 0, run.stderr
        made = {path.rpartition("/")[2] for path in there.objects}
        # All that the pods need to start.
        assert {
            "adaptive-lora-config",
            "adaptive-lora-models",
            "adaptive-lora-prefetch",
            "adaptive-lora-service",
        } <= made


@pytest.mark.parametrize("path", [str(path.relative_to(ROOT)) for path in IN_ORDER])
@pytest.mark.parametrize("flag", ["-f", "-k"])
def test_what_needs_an_operator_comes_after_it(path: str, flag: str) -> None:
    with cluster() as without:
        assert apply(without, "-k", "k8s/").returncode == 0
        run = apply(without, flag, path)
        assert run.returncode != 0
        assert "ensure CRDs are installed first" in run.stderr
    with cluster(has_operators=True) as there:
        assert apply(there, "-k", "k8s/").returncode == 0
        run = apply(there, flag, path)
        assert run.returncode == 0, run.stderr
        expected = {(m["kind"], m["metadata"]["name"]) for m in built(path)}
        assert expected <= set(there.names())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_applied_to_a_cluster_with_its_operators(overlay: str) -> None:
    folder = f"k8s/overlays/{overlay}"
    with cluster(has_operators=True) as there:
        there.create("/api/v1/namespaces", {"kind": "Namespace", "metadata": {"name": "monitoring"}})
        run = apply(there, "-k", folder)
        assert run.returncode == 0, run.stderr
        expected = Counter((m["kind"], m["metadata"]["name"]) for m in built(folder))
        assert Counter(there.names()) == expected + Counter([("Namespace", "monitoring")])


def test_the_pages_example_of_a_kustomization_of_ones_own_builds(tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/kubernetes.md").read_text()
    (example,) = re.findall(r"^```yaml\n(# deploy/Kustomization.*?)^```", page, re.MULTILINE | re.DOTALL)
    shutil.copytree(K8S, tmp_path / "k8s", symlinks=True)
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/Kustomization").write_text(example)
    run = tool("kubectl", "kustomize", str(tmp_path / "deploy"))
    assert run.returncode == 0, run.stderr
    deployment = find(list(yaml.safe_load_all(run.stdout)), "Deployment", "adaptive-lora-api")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["image"].startswith("registry.example/adaptive-lora@sha256:")
    assert environment(container)["ADAPTIVE_LORA_STORAGE__URL"] == "s3://example-fleet/adapters"
