"""What manifests say of each other: names that nothing has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.deploy.manifests import Manifest, containers, label, pod_templates


def dangling(manifests: list[Manifest]) -> list[str]:
    """What a manifest names and none of the others is: a sentence each."""
    return [*_dangling_of_pods(manifests), *_dangling_of_traffic(manifests), *_dangling_of_scaling(manifests)]


def _named(manifests: list[Manifest]) -> set[tuple[str, str]]:
    return {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}


def _dangling_of_pods(manifests: list[Manifest]) -> Iterator[str]:
    named = _named(manifests)
    for whose, template in pod_templates(manifests):
        spec = template["spec"]
        volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
        if ("ServiceAccount", spec["serviceAccountName"]) not in named:
            yield f"{whose}: no ServiceAccount {spec['serviceAccountName']}"
        for volume in volumes.values():
            if (claim := volume.get("persistentVolumeClaim")) and (
                "PersistentVolumeClaim",
                claim["claimName"],
            ) not in named:
                yield f"{whose}: no PersistentVolumeClaim {claim['claimName']}"
            if (config := volume.get("configMap")) and ("ConfigMap", config["name"]) not in named:
                yield f"{whose}: no ConfigMap {config['name']}"
        mounted = {mount["name"] for container in containers(template) for mount in container["volumeMounts"]}
        if mounted != volumes.keys():
            yield f"{whose}: mounts {sorted(mounted)}, and its volumes are {sorted(volumes)}"
        for container in containers(template):
            ports = {port["name"] for port in container.get("ports", ())}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe in container and container[probe]["httpGet"]["port"] not in ports:
                    yield f"{whose}: {probe} of a port that {container['name']} has not"


def _dangling_of_traffic(manifests: list[Manifest]) -> Iterator[str]:
    templates = [template for _, template in pod_templates(manifests)]
    services = {m["metadata"]["name"]: m for m in manifests if m["kind"] == "Service"}
    for service in services.values():
        # LeaderWorkerSet gives its pods the labels of its own.
        selector = {k: v for k, v in service["spec"]["selector"].items() if "leaderworkerset" not in k}
        behind = [t for t in templates if matches(selector, t["metadata"]["labels"])]
        ports = {port["name"] for t in behind for c in t["spec"]["containers"] for port in c.get("ports", ())}
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in ports:
                yield f"{label(service)}: no pod behind it has a port {port['targetPort']}"
    for manifest in manifests:
        if manifest["kind"] == "LeaderWorkerSet" and manifest["metadata"]["name"] in services:
            yield f"{label(manifest)}: makes a Service of its own name, and there is one"
        if manifest["kind"] in ("NetworkPolicy", "PodDisruptionBudget"):
            selector = manifest["spec"].get("podSelector", manifest["spec"].get("selector"))
            wanted = selector.get("matchLabels", {})
            if not any(matches(wanted, template["metadata"]["labels"]) for template in templates):
                yield f"{label(manifest)}: selects no pod"
        for name, port in _backends(manifest):
            ports_of = services[name]["spec"]["ports"] if name in services else ()
            if not any(port in (entry["name"], entry["port"]) for entry in ports_of):
                yield f"{label(manifest)}: no Service {name} with a port {port}"
        if manifest["kind"] == "ServiceMonitor":
            wanted = manifest["spec"]["selector"]["matchLabels"]
            (service,) = (s for s in services.values() if matches(wanted, s["metadata"]["labels"]))
            offered = {port["name"] for port in service["spec"]["ports"]}
            asked = {endpoint["port"] for endpoint in manifest["spec"]["endpoints"]}
            if not asked <= offered:
                yield f"{label(manifest)}: asks for {sorted(asked - offered)}"


def _backends(manifest: Manifest) -> Iterator[tuple[str, str | int]]:
    """(Service, port) that requests are sent to."""
    if manifest["kind"] == "Ingress":
        for rule in manifest["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                service = path["backend"]["service"]
                yield service["name"], service["port"].get("name", service["port"].get("number"))
    if manifest["kind"] == "HTTPRoute":
        for rule in manifest["spec"]["rules"]:
            for backend in rule.get("backendRefs", ()):
                yield backend["name"], backend["port"]


def _dangling_of_scaling(manifests: list[Manifest]) -> Iterator[str]:
    named = _named(manifests)
    for manifest in manifests:
        if manifest["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
            target = manifest["spec"]["scaleTargetRef"]
            if (target["kind"], target["name"]) not in named:
                yield f"{label(manifest)}: scales no {target['kind']} {target['name']}"


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return selector.items() <= labels.items()
