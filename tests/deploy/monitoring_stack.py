"""A gateway that is watched as in production: real Prometheus, Alertmanager and blackbox-exporter with the
shipped files, whose addresses and waiting times alone differ, and somebody who is told."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.adapter_folders import write_adapter
from tests.deploy.monitoring_files import MONITORING, RULE_FILES, yaml_of
from tests.deploy.programs import Program
from tests.ports import free_port
from tests.postgres import PostgresServer, find_programs
from tests.redis_servers import plain_server
from tests.serving.auth.signing import SECRET
from tests.serving.gateway_process import GatewayProcess

AGENTS = ("code", "creative")
REFUSED = "giant"
"""Its rank is more than the engine takes."""
GIVE_UP_S = 60.0
"""On a machine that is busy with something else."""


def until(condition: Callable[[], bool], what: object) -> None:
    """Wait for it; `what` says what is wrong if it does not come."""
    give_up_at = time.monotonic() + GIVE_UP_S
    while not condition():
        assert time.monotonic() < give_up_at, what
        time.sleep(0.1)


class Told:
    """PagerDuty and Slack, as far as Alertmanager sees them: keeps what it is sent."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []
        messages = self.messages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                messages.append((self.path, json.loads(body)))
                self.send_response(202 if self.path == "/pagerduty" else 200)
                self.end_headers()
                self.wfile.write(b'{"status": "success"}' if self.path == "/pagerduty" else b"ok")

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def about(self, path: str, alert: str) -> list[dict[str, Any]]:
        return [body for where, body in list(self.messages) if where == path and alert in json.dumps(body)]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class TlsSite:
    """Answers over TLS, with a certificate that ends in two days."""

    def __init__(self, folder: Path) -> None:
        self.certificate, key = folder / "site.pem", folder / "site.key"
        options = (
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        )
        names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(self.certificate)]
        subprocess.run(["openssl", *options.split(), *names], check=True, capture_output=True)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}/live"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Stack:
    def __init__(self, folder: Path) -> None:
        programs = find_programs()
        assert programs is not None
        self.folder = folder
        self._open = ExitStack()
        self.redis = self._begun(plain_server())
        self.postgres = self._begun(PostgresServer(programs))
        self.settings = self._settings(self.postgres.url(self.postgres.new_database()))
        constants = {"adaptive_lora.serving.backups.LOOK_EVERY_S": 0.5}
        self.gateway = self._begun(GatewayProcess(token_s=0.001, constants=constants, **self.settings))
        self.gateway.wait_until_ready()
        (found,) = re.findall(r"listening for Prometheus on (http://[\d.:]+)", self.gateway.log())[:1]
        self.metrics_url = found
        self.told = self._begun(Told())
        self.alertmanager = self._begun(self._alertmanager())
        self.site = self._begun(TlsSite(folder))
        self.blackbox = self._begun(self._blackbox())
        self.prometheus = self._begun(self._prometheus())

    def close(self) -> None:
        self._open.close()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant query's series."""
        answer = httpx.get(f"{self.prometheus.url}/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def until_fires(self, alert: str, severity: str) -> None:
        expression = f'ALERTS{{alertname="{alert}", severity="{severity}", alertstate="firing"}}'
        until(lambda: bool(self.query(expression)), f"{alert} does not fire")

    def _begun(self, server: Any) -> Any:
        self._open.callback(server.close)
        return server

    def _settings(self, database_url: str) -> dict[str, Any]:
        fleet = self.folder / "fleet"
        for seed, name in enumerate(AGENTS):
            write_adapter(fleet / name, examples=[f"{name} please"], base_model="fake-base", seed=seed)
        write_adapter(fleet / REFUSED, rank=128, base_model="fake-base", seed=9)
        return {
            "adapters": {"path": str(fleet), "max_lora_rank": 16, "max_loras": 1},
            "storage": {"path": str(self.folder / "state")},
            "registry": {"database_url": database_url},
            "redis": {"url": self.redis.url},
            "inference": {"cache_enabled": True},
            "auth": {"enabled": True, "jwt_secret": SECRET, "failures_per_minute": None},
            "rate_limiting": {
                "enabled": True,
                "requests_per_minute": None,
                "tiers": {"small": {"requests_per_minute": 1, "burst_size": 1}},
            },
            "monitoring": {"metrics_port": 0},
        }

    def _alertmanager(self) -> Program:
        """The shipped routes and messages; nobody waits, and the addresses are ours."""
        config = yaml_of(MONITORING / "alertmanager.yml")
        for route in (config["route"], *config["route"]["routes"]):
            route |= {"group_wait": "0s", "group_interval": "1s"}
        secret = self.folder / "secret"
        secret.write_text("k3y")
        webhook = self.folder / "slack_url"
        webhook.write_text(f"{self.told.url}/slack")
        for receiver in config["receivers"]:
            for each in receiver.get("pagerduty_configs", ()):
                each |= {"routing_key_file": str(secret), "url": f"{self.told.url}/pagerduty"}
            for each in receiver.get("slack_configs", ()):
                each |= {"api_url_file": str(webhook)}
        file = self._written("alertmanager.yml", config)
        port = free_port()
        return Program(
            self.folder,
            port,
            "prometheus-alertmanager",
            f"--config.file={file}",
            f"--storage.path={self.folder}/alertmanager",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        )

    def _blackbox(self) -> Program:
        http = {"tls_config": {"ca_file": str(self.site.certificate)}, "preferred_ip_protocol": "ip4"}
        file = self._written("blackbox.yml", {"modules": {"http_2xx": {"prober": "http", "http": http}}})
        port = free_port()
        return Program(
            self.folder,
            port,
            "prometheus-blackbox-exporter",
            f"--config.file={file}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--timeout-offset=0.1",  # of the second that a scrape may take; its default would be half of it
        )

    def _prometheus(self) -> Program:
        """The shipped jobs and rules; it looks each second, and no alert waits."""
        config = yaml_of(MONITORING / "prometheus.yml")
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(self._at_once(path)) for path in RULE_FILES]
        targets = {
            "gateway": self.metrics_url.removeprefix("http://"),
            "alertmanager": f"127.0.0.1:{self.alertmanager.port}",
            "public": self.site.url,
        }
        config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [targets["alertmanager"]]}]}]
        jobs = {job["job_name"]: job for job in config["scrape_configs"]}
        config["scrape_configs"] = [jobs[name] for name in targets]
        for name, target in targets.items():
            for discovery in ("dns_sd_configs", "file_sd_configs"):
                jobs[name].pop(discovery, None)
            jobs[name]["static_configs"] = [{"targets": [target]}]
        jobs["public"]["relabel_configs"][-1]["replacement"] = f"127.0.0.1:{self.blackbox.port}"
        file = self._written("prometheus.yml", config)
        port = free_port()
        return Program(
            self.folder,
            port,
            "prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={self.folder}/prometheus",
            f"--web.listen-address=127.0.0.1:{port}",
        )

    def _at_once(self, path: Path) -> Path:
        body = yaml_of(path)
        for group in body["groups"]:
            for rule in group["rules"]:
                rule.pop("for", None)
        return self._written(f"rules-{path.name}", body)

    def _written(self, name: str, body: object) -> Path:
        file = self.folder / name
        file.write_text(yaml.safe_dump(body))
        return file
