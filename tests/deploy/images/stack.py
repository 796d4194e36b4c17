"""docker-compose.prod.yml as a page of docs/ starts it: a project of its own, and that page's commands."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.images.builds import ENGINE, GATEWAY, HERE, ROOT, STAND_INS, stand_in
from tests.deploy.images.docker import docker
from tests.ports import free_port
from tests.project.doc_blocks import block_with
from tests.serving.auth.signing import SECRET

PROJECT = "adaptive-lora-test"
GIVE_UP_S = 600.0
ASK_PROMETHEUS = """
import sys, urllib.parse, urllib.request
query = urllib.parse.urlencode({"query": sys.argv[1]})
print(urllib.request.urlopen("http://prometheus:9090/api/v1/query?" + query, timeout=10).read().decode())
"""


def until(condition: Callable[[], bool], what: object, *, within_s: float = 180.0) -> None:
    """Wait for it; `what` says what is wrong if it does not come."""
    give_up_at = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up_at, what
        time.sleep(1)


def _two_ports() -> str:
    """A range of two that are free."""
    while True:
        first = free_port()
        with suppress(OSError), socket.create_server(("127.0.0.1", first + 1)):
            return f"{first}-{first + 1}"


class Stack:
    project = PROJECT

    def __init__(self, folder: Path, page: str, *, registry: bool) -> None:
        self._page = page
        told = block_with(page, "COMPOSE_PROFILES=").text.splitlines()  # what to write into .env
        files = ["docker-compose.prod.yml", HERE / "compose.yaml"]
        files += [] if registry else [HERE / "without-grafana.yaml"]
        images = {} if registry else {name: stand_in(image) for name, image in STAND_INS.items()}
        https_port = free_port()
        self.certificate = folder / "adaptive-lora.crt"
        self.url = f"https://localhost:{https_port}"
        self.environment = os.environ | {
            **dict(line.split("=", 1) for line in told),
            **images,
            "API_BIND": f"127.0.0.1:{_two_ports()}",
            "COMPOSE_DISABLE_ENV_FILE": "1",
            "COMPOSE_FILE": ":".join(map(str, files)),
            "COMPOSE_PROJECT_NAME": PROJECT,
            "ENGINE_CPU_IMAGE": ENGINE,
            "GATEWAY_IMAGE": GATEWAY,
            "GRAFANA_BIND": f"127.0.0.1:{free_port()}",
            "HTTPS_BIND": f"127.0.0.1:{https_port}",
            "HTTPS_PORT": str(https_port),
            "HTTP_BIND": f"127.0.0.1:{free_port()}",
            "JWT_SECRET": SECRET,
            "SLACK_WEBHOOK_URL": "http://told:8080/slack",
            "TMPDIR": str(folder),
        }

    def types(self, words: str) -> str:
        """What the page's block with these words prints."""
        return self.shell(block_with(self._page, words).text)

    def shell(self, text: str) -> str:
        """In a checkout, with the variables that .env would have. Raises AssertionError if it fails."""
        run = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=GIVE_UP_S,
            check=False,
        )
        assert run.returncode == 0, f"{text}\n{run.stdout}{run.stderr}"
        return run.stdout

    def trust(self) -> ssl.SSLContext:
        """The authority of the proxy's certificate; the page's first question has brought it here."""
        return ssl.create_default_context(cafile=self.certificate)

    def client(self, credential: str) -> httpx.Client:
        headers = {"authorization": f"Bearer {credential}"}
        return httpx.Client(base_url=self.url, headers=headers, verify=self.trust(), timeout=60)

    def containers(self, service: str) -> list[str]:
        return self.shell(f"docker compose ps -q {service}").split()

    def log(self, *services: str) -> str:
        return self.shell(f"docker compose logs --no-color --no-log-prefix {' '.join(services)}")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant query's series, from the stack's Prometheus, which only the stack's networks reach."""
        (gateway, *_) = self.containers("api")
        answer = json.loads(docker("exec", gateway, "python", "-c", ASK_PROMETHEUS, expression))
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result
