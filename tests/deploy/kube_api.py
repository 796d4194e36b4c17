"""An API server for `kubectl apply` to talk to: it knows kinds, keeps objects, and refuses as a real one does
what has no namespace yet. It validates nothing (kubernetes-validate does), and runs nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BUILT_IN = {
    "v1": ["Namespace", "ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "Service", "Secret"],
    "apps/v1": ["Deployment"],
    "batch/v1": ["Job", "CronJob"],
    "autoscaling/v2": ["HorizontalPodAutoscaler"],
    "policy/v1": ["PodDisruptionBudget"],
    "networking.k8s.io/v1": ["NetworkPolicy", "Ingress"],
}
OF_OPERATORS = {
    "monitoring.coreos.com/v1": ["ServiceMonitor", "PrometheusRule"],
    "external-secrets.io/v1": ["SecretStore", "ExternalSecret"],
    "gateway.networking.k8s.io/v1": ["Gateway", "HTTPRoute"],
    "keda.sh/v1alpha1": ["ScaledObject"],
    "leaderworkerset.x-k8s.io/v1": ["LeaderWorkerSet"],
}


def plural(kind: str) -> str:
    word = kind.lower()
    return {"networkpolicy": "networkpolicies", "ingress": "ingresses"}.get(word, f"{word}s")


class Cluster:
    """Objects by path, in the order in which they were made."""

    def __init__(self, *, has_operators: bool) -> None:
        self.kinds = BUILT_IN | (OF_OPERATORS if has_operators else {})
        self.objects: dict[str, dict[str, Any]] = {}
        self.url = ""

    def names(self) -> list[tuple[str, str]]:
        return sorted((made["kind"], made["metadata"]["name"]) for made in self.objects.values())

    def discovery(self, path: str) -> dict[str, Any] | None:
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            groups = []
            for version in self.kinds:
                group, slash, number = version.rpartition("/")
                if slash:
                    entry = {"groupVersion": version, "version": number}
                    groups.append({"name": group, "versions": [entry], "preferredVersion": entry})
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        version = path.removeprefix("/api/").removeprefix("/apis/")
        if version not in self.kinds:
            return None
        resources = [
            {
                "name": plural(kind),
                "kind": kind,
                "namespaced": kind != "Namespace",
                "verbs": ["create", "get", "patch"],
            }
            for kind in self.kinds[version]
        ]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": version,
            "resources": resources,
        }

    def create(self, path: str, made: dict[str, Any]) -> bool:
        """False if its namespace is not there."""
        _, is_namespaced, rest = path.partition("/namespaces/")
        if is_namespaced and f"/api/v1/namespaces/{rest.partition('/')[0]}" not in self.objects:
            return False
        self.objects[f"{path}/{made['metadata']['name']}"] = made
        return True


@contextmanager
def cluster(*, has_operators: bool = False) -> Iterator[Cluster]:
    """On a free port of this machine, until the block ends."""
    state = Cluster(has_operators=has_operators)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            found = state.objects.get(path) or state.discovery(path)
            self._answer(200, found) if found else self._refuse(404, "NotFound", f"{path} not found")

        def do_POST(self) -> None:
            path = self.path.partition("?")[0]
            made = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if state.create(path, made):
                self._answer(201, made)
            else:
                self._refuse(404, "NotFound", "namespaces not found")

        def do_PATCH(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._answer(200, state.objects[self.path.partition("?")[0]])

        def _refuse(self, status: int, reason: str, message: str) -> None:
            body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
            self._answer(status, body | {"reason": reason, "message": message})

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
