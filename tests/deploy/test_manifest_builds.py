"""k8s/, built and applied by kubectl, validated, and scanned: `make test-manifests`, a minute.

The tools are locked (requirements/manifests.txt, crds/package-lock.json) and live in build/manifests; npm and
Node 20 or later must be there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from adaptive_lora.settings_loading import load_settings
from tests.deploy.kube_api import OF_OPERATORS
from tests.deploy.manifest_tools import BUILDS, CRDS, TOOLS, built, built_text, install_tools, is_custom, tool
from tests.deploy.manifests import (
    K8S,
    OVERLAYS,
    ROOT,
    SECRETS,
    Manifest,
    environment,
    find,
    pod_templates,
    read,
    settings_of,
)
from tests.deploy.references import dangling

pytestmark = [pytest.mark.acceptance]


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    install_tools()


OLDEST, NEWEST = "1.28", "1.37"

EXCEPTIONS = {
    "CKV_K8S_11": "CPU limits: throttling stalls the event loop and vLLM's scheduler; requests reserve cores",
    "CKV_K8S_15": "pull policy: images are named by versions, which never change",
    "CKV_K8S_35": "secrets as variables: a pod starts with the guide's two keys; overlays/vault has a file",
    "CKV_K8S_43": "digests: whoever deploys sets them (docs/how-to/kubernetes.md)",
}
"""Of checkov's policies, those that are not met, and why."""


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("folder", BUILDS)
def test_what_is_built_in_is_valid(folder: str, version: str, tmp_path: Path) -> None:
    manifests = [manifest for manifest in built(folder) if not is_custom(manifest)]
    for whose, template in pod_templates(built(folder)):
        if whose.startswith("LeaderWorkerSet"):
            manifests.append(
                {
                    "apiVersion": "v1",
                    "kind": "PodTemplate",
                    "metadata": {"name": "of-a-group"},
                    "template": template,
                }
            )
    path = tmp_path / "manifests.yaml"
    path.write_text(yaml.safe_dump_all(manifests))
    run = tool("kubernetes-validate", "--strict", "-k", version, str(path))
    said = run.stdout + run.stderr
    assert run.returncode == 0, said
    assert "WARN" not in said, said
    assert said.count("INFO") == len(manifests), said


def test_a_field_that_does_not_exist_is_found(tmp_path: Path) -> None:
    manifests = [m for m in built("k8s") if m["kind"] == "Deployment"]
    manifests[0]["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 3
    path = tmp_path / "manifests.yaml"
    path.write_text(yaml.safe_dump_all(manifests))
    assert tool("kubernetes-validate", "--strict", "-k", NEWEST, str(path)).returncode != 0


def validated(manifests: list[Manifest]) -> subprocess.CompletedProcess[str]:
    """By the definitions of their operators."""
    shutil.copy(CRDS / "check.mjs", TOOLS / "crds")
    return subprocess.run(
        ["node", "check.mjs"],
        input=json.dumps(manifests),
        cwd=TOOLS / "crds",
        capture_output=True,
        text=True,
        check=False,
    )


def custom() -> list[Manifest]:
    return [m for folder in BUILDS for m in built(folder) if is_custom(m) and m["kind"] != "LeaderWorkerSet"]


def test_custom_resources_are_valid() -> None:
    kinds = {manifest["kind"] for manifest in custom()} | {"LeaderWorkerSet"}
    assert kinds == {kind for kinds in OF_OPERATORS.values() for kind in kinds}
    run = validated(custom())
    assert run.returncode == 0, run.stdout + run.stderr
    group = find(built("k8s/overlays/multi-node"), "LeaderWorkerSet", "adaptive-lora-worker-groups")
    jsonschema.validate(group, json.loads((CRDS / "leaderworkerset.json").read_text()))


@pytest.mark.parametrize(
    ("kind", "spoil", "problem"),
    [
        ("ServiceMonitor", lambda spec: spec["endpoints"][0].update(intervall="15s"), "intervall"),
        ("HTTPRoute", lambda spec: spec["rules"][0].update(timeouts={"request": "5 minutes"}), "pattern"),
        ("ScaledObject", lambda spec: spec.pop("triggers"), "triggers"),
    ],
)
def test_custom_resources_that_are_not_are_found(kind: str, spoil: Any, problem: str) -> None:
    manifest = next(m for m in custom() if m["kind"] == kind)
    spoil(manifest["spec"])
    run = validated([manifest])
    assert run.returncode == 1
    assert problem in run.stdout


@pytest.mark.parametrize("folder", ["k8s", *(f"k8s/overlays/{name}" for name in OVERLAYS)])
def test_nothing_names_what_is_not_there(folder: str) -> None:
    assert dangling(built(folder)) == []


@pytest.mark.parametrize("folder", ["k8s", *(f"k8s/overlays/{name}" for name in OVERLAYS)])
def test_a_gateways_settings_load_and_its_pod_has_time_to_stop(folder: str, tmp_path: Path) -> None:
    manifests = built(folder)
    template = find(manifests, "Deployment", "adaptive-lora-api")["spec"]["template"]["spec"]
    secret_file = environment(template["containers"][0]).get("ADAPTIVE_LORA_AUTH__JWT_SECRET_FILE")
    settings = settings_of(manifests, tmp_path, **SECRETS)
    api = settings.api
    assert settings.auth.enabled
    assert api.timeout + api.drain_seconds <= api.grace_seconds
    wait_s = int(template["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert wait_s + api.grace_seconds < template["terminationGracePeriodSeconds"]
    assert (settings.auth.jwt_secret is None) == (secret_file is not None)
    if secret_file:
        mounts = {mount["mountPath"] for mount in template["containers"][0]["volumeMounts"]}
        assert str(Path(secret_file).parent) in mounts
    remote = folder.endswith(("split", "multi-node"))
    assert settings.model.engine == ("remote" if remote else "vllm")
    gpus = template["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", "0")
    assert gpus == ("0" if remote or folder.endswith("cpu") else str(settings.model.tensor_parallel_size))


@pytest.mark.parametrize("overlay", ["split", "multi-node"])
def test_workers_are_where_the_gateways_look_and_nobody_else_gets_in(overlay: str, tmp_path: Path) -> None:
    manifests = built(f"k8s/overlays/{overlay}")
    settings = settings_of(manifests, tmp_path, **SECRETS)
    service = find(manifests, "Service", "adaptive-lora-workers")
    host = f"adaptive-lora-workers.{service['metadata']['namespace']}.svc.cluster.local"
    assert settings.workers.dns == f"{host}:{service['spec']['ports'][0]['port']}"
    gateway = find(manifests, "Deployment", "adaptive-lora-api")["spec"]["template"]["metadata"]["labels"]
    worker = next(t for whose, t in pod_templates(manifests) if "adaptive-lora-worker" in whose)
    in_reach = [
        rule["from"]
        for policy in manifests
        if policy["kind"] == "NetworkPolicy"
        and policy["spec"]["podSelector"].get("matchLabels", {}).items()
        <= worker["metadata"]["labels"].items()
        for rule in policy["spec"].get("ingress", ())
    ]
    own = [{"podSelector": {"matchLabels": worker["metadata"]["labels"]}}]
    assert in_reach == [
        [{"podSelector": {"matchLabels": gateway}}],
        *([own] if overlay == "multi-node" else []),
    ]
    for whose, template in pod_templates(manifests):
        for container in template["spec"]["containers"]:
            if "adaptive-lora-worker" in whose:
                given = environment(container, SECRETS)
                assert given["VLLM_API_KEY"] == SECRETS["worker-api-key"]
                # The plugin reads our settings, too.
                assert load_settings(environ=given).storage.path


def test_workers_arguments_are_vllms() -> None:
    """By the parser of the vLLM that is installed."""
    lines = []
    for overlay in ("split", "multi-node"):
        for whose, template in pod_templates(built(f"k8s/overlays/{overlay}")):
            container = template["spec"]["containers"][0]
            if "adaptive-lora-worker" in whose:
                assert container["command"] == ["vllm", "serve"]
                rank = {
                    "$(LWS_GROUP_SIZE)": "2",
                    "$(LWS_WORKER_INDEX)": "1",
                    "$(LWS_LEADER_ADDRESS)": "leader",
                }
                arguments = container["args"]
                for name, value in rank.items():
                    arguments = [argument.replace(name, value) for argument in arguments]
                lines.append(arguments)
    assert len(lines) == 3
    script = (
        "import json, sys\n"
        "from vllm.entrypoints.launchers.cli_args import make_arg_parser\n"
        "from vllm.utils.argparse_utils import FlexibleArgumentParser\n"
        "for line in json.load(sys.stdin):\n"
        "    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(line)\n"
        "    assert parsed.enable_lora and parsed.model_tag.startswith('/models/'), parsed\n"
    )
    python = ROOT / os.environ.get("VENV", ".venv") / "bin/python"
    run = subprocess.run(
        [python, "-c", script], input=json.dumps(lines), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]


def test_policies_are_met_but_for_few_exceptions(tmp_path: Path) -> None:
    for folder in BUILDS:
        (tmp_path / f"{folder.replace('/', '-')}.yaml").write_text(built_text(folder))
    run = tool(
        "checkov",
        "--skip-download",
        "--framework",
        "kubernetes",
        "-d",
        str(tmp_path),
        "-o",
        "json",
        "--quiet",
    )
    report = json.loads(run.stdout)
    assert report["summary"]["passed"] > 1000
    assert report["summary"]["parsing_errors"] == 0
    failed = {check["check_id"]: check for check in report["results"]["failed_checks"]}
    unexpected = [
        f"{c['check_id']} {c['check_name']}: {c['resource']}"
        for i, c in failed.items()
        if i not in EXCEPTIONS
    ]
    assert unexpected == []
    assert failed.keys() == EXCEPTIONS.keys(), "an exception that is not needed"
    assert (
        read(K8S / "base/namespace.yaml")[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        == "restricted"
    )
