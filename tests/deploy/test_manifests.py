"""k8s/: what its files say of each other and of the code. `make test-manifests` builds and validates them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from adaptive_lora.cli.app import app as command
from adaptive_lora.serving.api import create_app
from adaptive_lora.settings import Settings
from adaptive_lora.settings_loading import BARE_NAMES, OTHER_VARIABLES, known_keys, load_settings, variable
from tests.deploy.manifests import (
    K8S,
    NAMESPACE,
    OVERLAYS,
    ROOT,
    SECRET,
    Manifest,
    base,
    containers,
    dangling,
    environment,
    find,
    pod_templates,
    read,
    secret_keys,
)

PRODUCTION = ROOT / "configs/serving/production.yaml"
IN_ORDER = [K8S / "servicemonitor.yaml", K8S / "external-secrets.yaml"]
"""What needs CRDs: folders, which `kubectl apply -f k8s/` passes by."""
SECRETS = {
    "jwt-secret": "f3a9c1d07b5e4862a1b0c9d8e7f60514",
    "database-url": "postgresql://gateway:word@db.example:5432/registry",
    "redis-url": "rediss://gateway:word@redis.example:6380/0",
    "cache-secret": "0" * 64,
    "log-secret": "1" * 64,
    "worker-api-key": "2" * 64,
}
FOREIGN_VARIABLES = {"HOME", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_HOME"}
"""Of the system and of Hugging Face's library. vLLM's begin with VLLM_."""


def every_file() -> list[Manifest]:
    """Base, overlays and what needs CRDs, as they stand in the files; patches included."""
    overlays = sorted((K8S / "overlays").rglob("*.yaml"))
    return [
        *base(),
        *read(*(path for folder in IN_ORDER for path in sorted(folder.glob("*.yaml"))), *overlays),
    ]


def api_container(manifests: list[Manifest]) -> Manifest:
    template = find(manifests, "Deployment", "adaptive-lora-api")["spec"]["template"]
    container: Manifest = template["spec"]["containers"][0]
    return container


def settings_of(manifests: list[Manifest], tmp_path: Path, **secrets: str) -> Settings:
    """What a gateway's pod would load."""
    config = tmp_path / "production.yaml"
    config.write_text(find(manifests, "ConfigMap", "adaptive-lora-config")["data"]["production.yaml"])
    environ = environment(api_container(manifests), secrets)
    assert environ["ADAPTIVE_LORA_CONFIG"] == "/etc/adaptive-lora/production.yaml"
    return load_settings(environ=environ | {"ADAPTIVE_LORA_CONFIG": str(config)})


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


@pytest.mark.parametrize("secrets", [{}, SECRETS], ids=["the guide's secret", "all keys"])
def test_a_pods_settings_load(secrets: dict[str, str], tmp_path: Path) -> None:
    settings = settings_of(base(), tmp_path, **secrets)
    assert settings.auth.enabled
    assert settings.registry.database_url is None or secrets
    ports = {port["name"]: port["containerPort"] for port in api_container(base())["ports"]}
    assert ports == {"http": settings.api.port, "metrics": settings.monitoring.metrics_port}
    assert settings.api.host == settings.monitoring.metrics_host == "0.0.0.0"
    assert settings.api.admin_host == "127.0.0.1"


def test_a_pod_has_time_to_stop(tmp_path: Path) -> None:
    api = settings_of(base(), tmp_path).api
    template = find(base(), "Deployment", "adaptive-lora-api")["spec"]["template"]["spec"]
    hook = template["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert hook[0] == "sleep"
    assert int(hook[1]) + api.grace_seconds < template["terminationGracePeriodSeconds"]
    assert api.timeout + api.drain_seconds < api.grace_seconds


def test_every_variable_is_one_that_somebody_reads() -> None:
    ours = {variable(key) for key in known_keys()} | OTHER_VARIABLES | BARE_NAMES.keys()
    for manifest in every_file():
        for whose, template in pod_templates_of_patches([manifest]):
            for container in containers(template):
                for entry in container.get("env", ()):
                    name = entry["name"]
                    assert name in ours | FOREIGN_VARIABLES or name.startswith("VLLM_"), (whose, name)


def test_every_key_of_the_secret_is_in_its_template() -> None:
    keys = set(read(K8S / "secrets.yaml.example")[0]["stringData"])
    read_by_pods: set[str] = set()
    for _, template in pod_templates_of_patches(every_file()):
        read_by_pods |= secret_keys(template).keys()
    assert keys == read_by_pods | {"openai-api-key"}, SECRET


def test_a_serving_pod_starts_with_the_guides_secret_and_has_no_hub_token() -> None:
    template = find(base(), "Deployment", "adaptive-lora-api")["spec"]["template"]
    keys = secret_keys(template)
    assert all(keys.values())
    assert "hf-token" not in keys


def test_probes_ask_for_paths_that_are_served() -> None:
    settings = Settings.model_validate({"model": {"engine": "fake"}})
    served = {getattr(route, "path", None) for route in create_app(settings).routes}
    container = api_container(base())
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] in served
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"


def test_commands_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTIVE_LORA_BACKUP_URL", "s3://your-bucket/backups")
    group = typer.main.get_command(command)
    tried = []
    for whose, template in pod_templates(base()):
        for container in template["spec"]["containers"]:
            if arguments := container.get("args"):
                with group.make_context("adaptive-lora", list(arguments)) as context:
                    name, sub, rest = group.resolve_command(
                        context, [*context._protected_args, *context.args]
                    )  # type: ignore[attr-defined]
                    sub.make_context(name, rest, parent=context).close()
                tried.append((whose, name))
    assert tried == [("CronJob adaptive-lora-backup", "backup"), ("Deployment adaptive-lora-api", "serve")]
    assert CliRunner().invoke(command, ["serve", "--help"]).exit_code == 0


def test_the_prefetch_job_runs_a_script_that_there_is() -> None:
    template = find(base(), "Job", "adaptive-lora-prefetch")["spec"]["template"]
    _, _, script, folder = template["spec"]["containers"][0]["command"]
    assert folder == environment(api_container(base()))["BASE_MODEL"]
    found = re.search(r"python /app/(\S+) (--\S+) --output", script)
    assert found
    run = subprocess.run(
        [sys.executable, ROOT / found[1], "--help"], capture_output=True, text=True, check=True
    )
    assert found[2] in run.stdout
    assert "--output" in run.stdout


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


def test_pods_are_as_restricted_as_they_can_be() -> None:
    for whose, template in pod_templates([m for m in every_file() if is_whole(m)]):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, whose
        # Else there is ADAPTIVE_LORA_SERVICE_SERVICE_HOST and its like: unknown settings, which stop it.
        assert spec["enableServiceLinks"] is False, whose
        assert spec["securityContext"]["runAsUser"] == 10001, whose
        for container in containers(template):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True, whose
            assert security["capabilities"] == {"drop": ["ALL"]}, whose


def test_variables_that_kubernetes_would_invent_are_refused_by_the_settings() -> None:
    """Why enableServiceLinks is off."""
    with pytest.raises(Exception, match="ADAPTIVE_LORA_SERVICE_SERVICE_HOST is not a known setting"):
        load_settings(environ={"ADAPTIVE_LORA_SERVICE_SERVICE_HOST": "10.96.0.1"})


def test_workers_demand_a_key_and_only_gateways_reach_them() -> None:
    manifests = read(K8S / "overlays/split/workers.yaml")
    worker = find(manifests, "Deployment", "adaptive-lora-workers")["spec"]["template"]
    assert secret_keys(worker) == {"worker-api-key": False}
    assert "ADAPTIVE_LORA_WORKER_WITHOUT_KEY" not in environment(worker["spec"]["containers"][0])
    assert environment(worker["spec"]["containers"][0])["VLLM_PLUGINS"] == "adaptive_lora_worker"
    policy = find(manifests, "NetworkPolicy", "adaptive-lora-workers")["spec"]
    assert policy["podSelector"]["matchLabels"] == worker["metadata"]["labels"]
    gateway = find(base(), "Deployment", "adaptive-lora-api")["spec"]["template"]["metadata"]["labels"]
    (rule,) = policy["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": gateway}}]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8000}]


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
    assert "k8s/overlays/split" in named
    missing = [path for path in sorted(named) if path != "k8s/secrets.yaml" and not (ROOT / path).exists()]
    assert missing == []


def is_whole(manifest: Manifest) -> bool:
    """Not a patch: those name no image, or no ServiceAccount."""
    return all(
        "serviceAccountName" in template["spec"] for _, template in pod_templates_of_patches([manifest])
    )


def pod_templates_of_patches(manifests: list[Manifest]) -> list[tuple[str, Any]]:
    """As `pod_templates`, also of manifests that say only what differs."""
    found = []
    for manifest in manifests:
        try:
            templates = list(pod_templates([manifest]))
        except KeyError:
            continue
        found += [(whose, {"spec": {"containers": [], **template["spec"]}}) for whose, template in templates]
    return found
