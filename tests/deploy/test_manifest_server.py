"""A server with the settings that k8s/ gives to a pod, here: other ports and folders, and a fake engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.deploy.manifests import api_container, base, environment, find

HERE = {
    "ADAPTIVE_LORA_API__HOST": "127.0.0.1",
    "ADAPTIVE_LORA_API__PORT": "0",
    "ADAPTIVE_LORA_API__ADMIN_PORT": "0",
    "ADAPTIVE_LORA_MONITORING__METRICS_HOST": "127.0.0.1",
    "ADAPTIVE_LORA_MONITORING__METRICS_PORT": "0",
    "ADAPTIVE_LORA_MODEL__ENGINE": "fake",
    "BASE_MODEL": "demo",
}


def test_a_pod_with_the_guides_secret_serves_and_asks_who_calls(tmp_path: Path) -> None:
    config = tmp_path / "production.yaml"
    config.write_text(find(base(), "ConfigMap", "adaptive-lora-config")["data"]["production.yaml"])
    environ = {
        **environment(api_container(base())),
        **HERE,
        "PATH": os.environ["PATH"],
        "ADAPTIVE_LORA_CONFIG": str(config),
        "ADAPTIVE_LORA_STORAGE__PATH": str(tmp_path / "state"),
        "HOME": str(tmp_path),
    }
    command = [sys.executable, "-m", "adaptive_lora", *api_container(base())["args"]]
    with subprocess.Popen(command, env=environ, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        urls: dict[str, str] = {}
        for line in process.stderr:
            entry = json.loads(line) if line.startswith("{") else {}
            if (message := entry.get("message", "")).startswith("listening"):
                urls[message.partition(" on ")[0]] = entry["url"]
            if message.startswith("ready"):
                break
        try:
            public, metrics = urls["listening"], urls["listening for Prometheus"]
            assert httpx.get(f"{public}/live").status_code == 200
            assert httpx.post(f"{public}/generate", json={"prompt": "Who?"}).status_code == 401
            assert httpx.get(f"{public}/metrics").status_code == 401
            assert "adaptive_lora_ready" in httpx.get(f"{metrics}/metrics").text
            assert httpx.get(f"{metrics}/generate").status_code == 404
        finally:
            process.send_signal(signal.SIGINT)  # SIGTERM would serve on for api.drain_seconds
            process.stderr.read()
    assert process.returncode == 0
