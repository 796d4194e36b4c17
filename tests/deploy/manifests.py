"""Kubernetes manifests as data: reading them, and what pods get from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from adaptive_lora.settings import Settings
from adaptive_lora.settings_loading import load_settings

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
NAMESPACE = "ml-inference"
SECRET = "adaptive-lora-secrets"
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

Manifest = dict[str, Any]


def read(*paths: Path) -> list[Manifest]:
    """Every document of the files, in order."""
    return [
        document
        for path in paths
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if document is not None
    ]


def base() -> list[Manifest]:
    return read(*sorted((K8S / "base").glob("*.yaml")))


def label(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name)
    return found


def pod_templates(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """(whose, template) of everything that makes pods."""
    for manifest in manifests:
        spec = manifest.get("spec") or {}
        match manifest["kind"]:
            case "Deployment" | "Job":
                yield label(manifest), spec["template"]
            case "CronJob":
                yield label(manifest), spec["jobTemplate"]["spec"]["template"]
            case "LeaderWorkerSet":
                for part in ("leaderTemplate", "workerTemplate"):
                    yield f"{label(manifest)}, {part}", spec["leaderWorkerTemplate"][part]


def containers(template: Manifest) -> list[Manifest]:
    spec = template["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]


def environment(container: Manifest, secrets: Mapping[str, str] = {}) -> dict[str, str]:
    """The container's variables; those of the secret as far as `secrets` has the key."""
    found: dict[str, str] = {}
    for variable in container.get("env", ()):
        if "value" in variable:
            found[variable["name"]] = variable["value"]
        elif variable["valueFrom"]["secretKeyRef"]["key"] in secrets:
            found[variable["name"]] = secrets[variable["valueFrom"]["secretKeyRef"]["key"]]
    return found


def secret_keys(template: Manifest) -> dict[str, bool]:
    """Keys of the secret that the pod reads, and whether it starts without them."""
    found: dict[str, bool] = {}
    for container in containers(template):
        for variable in container.get("env", ()):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                assert reference["name"] == SECRET
                found[reference["key"]] = reference.get("optional", False)
    for volume in template["spec"].get("volumes", ()):
        if mounted := volume.get("secret"):
            assert mounted["secretName"] == SECRET
            found |= {item["key"]: mounted.get("optional", False) for item in mounted["items"]}
    return found


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
    if "ADAPTIVE_LORA_REDIS__PASSWORD_FILE" in environ:  # then the address has none: overlays/secret-files
        environ["REDIS_URL"] = environ["REDIS_URL"].replace(":word@", "@")
    assert environ["ADAPTIVE_LORA_CONFIG"] == "/etc/adaptive-lora/production.yaml"
    return load_settings(environ=environ | {"ADAPTIVE_LORA_CONFIG": str(config)})


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
