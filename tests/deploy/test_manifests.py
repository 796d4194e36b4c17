"""k8s/: what its files say of each other and of the code. `make test-manifests` builds and validates them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

from tests.deploy.manifests import K8S, NAMESPACE, OVERLAYS, ROOT, base, every_file, find, read
from tests.deploy.references import dangling


def test_the_names_of_the_guide() -> None:
    names = {(m["kind"], m["metadata"]["name"]) for m in base()}
    assert {
        ("Namespace", "ml-inference"),
        ("Deployment", "adaptive-lora-api"),
        ("Service", "adaptive-lora-service"),
        ("HorizontalPodAutoscaler", "adaptive-lora-hpa"),
    } <= names
    template = read(K8S / "secrets.yaml.example")[0]
    assert template["metadata"] == {"name": "adaptive-lora-secrets", "namespace": "ml-inference"}
    assert {"hf-token", "openai-api-key"} <= template["stringData"].keys()
    (monitor,) = read(K8S / "servicemonitor.yaml/servicemonitor.yaml")
    assert monitor["metadata"]["labels"] == {"release": "prometheus"}


def test_a_folder_applied_as_files_is_what_the_kustomization_lists() -> None:
    """`kubectl apply -f k8s/` takes what ends so, and no folders."""
    taken = sorted(path.name for path in K8S.iterdir() if path.suffix in (".yaml", ".yml", ".json"))
    taken = [name for name in taken if not (K8S / name).is_dir() and name != "secrets.yaml"]
    listed = yaml.safe_load((K8S / "base/Kustomization").read_text())["resources"]
    assert taken == sorted(listed)
    assert taken == sorted(path.name for path in (K8S / "base").glob("*.yaml"))
    for name in taken:
        assert (K8S / name).resolve() == K8S / "base" / name


def test_what_everybody_applies_needs_no_definitions_of_others() -> None:
    groups = {m["apiVersion"].rpartition("/")[0] for m in base()}
    assert groups == {"", "apps", "batch", "autoscaling", "policy", "networking.k8s.io"}


def test_no_kustomization_and_no_template_of_secrets_is_taken_for_a_manifest() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "k8s"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert "k8s/Kustomization" in tracked
    for name in (Path(path).name.lower() for path in tracked):
        assert not name.startswith(("kustomization.", "secrets.yaml.y")), name
    assert "k8s/secrets.yaml" not in tracked
    assert [m for m in every_file() if m["kind"] == "Secret"] == []


def test_every_manifest_says_its_namespace() -> None:
    """`apply -f` would put it wherever the caller's context points to."""
    for manifest in every_file():
        if manifest["kind"] != "Namespace":
            assert manifest["metadata"]["namespace"] in (NAMESPACE, "monitoring"), manifest["metadata"]


def test_nothing_names_what_is_not_there() -> None:
    assert dangling([*base(), *read(*sorted((K8S / "servicemonitor.yaml").glob("*.yaml")))]) == []


def test_a_name_that_is_not_there_is_found() -> None:
    manifests = base()
    find(manifests, "Service", "adaptive-lora-service")["spec"]["ports"][0]["targetPort"] = "htttp"
    find(manifests, "HorizontalPodAutoscaler", "adaptive-lora-hpa")["spec"]["scaleTargetRef"]["name"] = "api"
    find(manifests, "Ingress", "adaptive-lora-ingress")["spec"]["rules"][0]["http"]["paths"][0]["backend"][
        "service"
    ]["name"] = "adaptive-lora"
    assert len(dangling(manifests)) == 3


def test_generated_parts_are_up_to_date() -> None:
    script = ROOT / "scripts/gen_manifests.py"
    run = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_metrics_that_scaling_asks_for_are_exported_or_made_by_a_rule() -> None:
    exported = set(
        re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE)
    )
    (rules,) = read(K8S / "overlays/prometheus-adapter/rules.yaml")
    adapter = yaml.safe_load(rules["data"]["config.yaml"])
    made = {rule["name"]["as"] for kind in ("rules", "externalRules") for rule in adapter[kind]}
    for kind in ("rules", "externalRules"):
        for rule in adapter[kind]:
            assert rule["seriesQuery"].partition("{")[0] in exported
    (scaled,) = read(K8S / "overlays/keda/scaledobject.yaml")
    for trigger in scaled["spec"]["triggers"]:
        if trigger["type"] == "prometheus":
            assert set(re.findall(r"\b(?:api|lora)_\w+", trigger["metadata"]["query"])) <= exported
    asked = set()
    for manifest in every_file():
        if manifest["kind"] == "HorizontalPodAutoscaler":
            for metric in manifest["spec"].get("metrics", ()):
                if metric["type"] != "Resource":
                    asked.add(metric[metric["type"].lower()]["metric"]["name"])
    assert asked == made


def test_the_guides_thresholds_of_scaling() -> None:
    spec = find(base(), "HorizontalPodAutoscaler", "adaptive-lora-hpa")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 10)
    assert spec["metrics"][0]["resource"]["target"]["averageUtilization"] == 70
    assert spec["metrics"][1]["pods"] == {
        "metric": {"name": "requests_per_second"},
        "target": {"type": "AverageValue", "averageValue": "50"},
    }
    (scaled,) = read(K8S / "overlays/keda/scaledobject.yaml")
    assert [
        trigger["metadata"].get("value", trigger["metadata"].get("threshold"))
        for trigger in scaled["spec"]["triggers"]
    ] == ["70", "50", "20"]
    assert scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"] == {
        "name": "adaptive-lora-hpa",
        "behavior": spec["behavior"],
    }


def test_everything_is_denied_that_is_not_allowed() -> None:
    policies = [m for m in base() if m["kind"] == "NetworkPolicy"]
    (nobody,) = (p for p in policies if p["metadata"]["name"] == "default-deny")
    assert nobody["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    callers = find(base(), "NetworkPolicy", "adaptive-lora-api")["spec"]["ingress"]
    by_port = {
        rule["ports"][0]["port"]: rule["from"][0]["namespaceSelector"]["matchLabels"] for rule in callers
    }
    assert by_port == {
        8000: {"kubernetes.io/metadata.name": "ingress-nginx"},
        9090: {"kubernetes.io/metadata.name": "monitoring"},
    }


def test_paths_that_pages_name_are_there() -> None:
    assert OVERLAYS
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {
        path.rstrip("/.")
        for page in pages
        for path in re.findall(r"(?<![\w/.-])k8s/[\w./-]*", page.read_text())
    }
    assert "k8s/overlays/multi-node" in named
    missing = [path for path in sorted(named) if path != "k8s/secrets.yaml" and not (ROOT / path).exists()]
    assert missing == []
