"""What k8s/ gives to pods: settings, secrets, commands, rights."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from adaptive_lora.cli.app import app as command
from adaptive_lora.serving.api import create_app
from adaptive_lora.settings import Settings
from adaptive_lora.settings_loading import BARE_NAMES, OTHER_VARIABLES, known_keys, load_settings, variable
from tests.deploy.manifests import (
    K8S,
    ROOT,
    SECRET,
    SECRETS,
    api_container,
    base,
    containers,
    environment,
    every_file,
    find,
    is_whole,
    pod_templates,
    pod_templates_of_patches,
    read,
    secret_keys,
    settings_of,
)

FOREIGN_VARIABLES = {"HOME", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_HOME", "OMP_NUM_THREADS"}
"""Of the system, of Hugging Face's library and of OpenMP. vLLM's begin with VLLM_."""


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


def test_pods_are_as_restricted_as_they_can_be() -> None:
    """Pod Security "restricted", which the namespace enforces, and more."""
    for whose, template in pod_templates([m for m in every_file() if is_whole(m)]):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, whose
        # Else there is ADAPTIVE_LORA_SERVICE_SERVICE_HOST and its like: unknown settings, which stop it.
        assert spec["enableServiceLinks"] is False, whose
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}, whose
        security = spec["securityContext"]
        assert (security["runAsUser"], security["runAsNonRoot"]) == (10001, True), whose
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, whose
        kinds = {kind for volume in spec["volumes"] for kind in volume.keys() - {"name"}}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}, whose
        for container in containers(template):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True, whose
            assert security["allowPrivilegeEscalation"] is False, whose
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
