"""The gateways compared, each a process on a core of its own."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LITELLM = "litellm[proxy]==1.106.12"
LITELLM_FOLDER = ROOT / "build" / "litellm"


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running one. `model` is what it calls what answers."""

    url: str
    key: str
    model: str
    pid: int

    def cpu_s(self) -> float:
        """What it and its children have used, in user and kernel."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes())

    def rss_mb(self) -> float:
        return sum(process.memory_info().rss for process in self._processes()) / 1e6

    def _processes(self) -> list[psutil.Process]:
        process = psutil.Process(self.pid)
        return [process, *process.children(recursive=True)]


@contextmanager
def on_core(
    core: int, command: Sequence[str], *, ready: str, log: Path, env: Mapping[str, str] = os.environ
) -> Iterator[int]:
    """A process that runs on one core, from when `ready` answers 200. Gives its id."""
    with log.open("w") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command], stdout=output, stderr=subprocess.STDOUT, env=dict(env)
        )
    try:
        while not _answers(ready):
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def upstream(port: int, core: int, folder: Path) -> Iterator[str]:
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, str(HERE / "upstream.py"), str(port)]
    with on_core(core, command, ready=f"{url}/health", log=folder / "upstream.log"):
        yield url


@contextmanager
def ours(
    upstream_url: str, port: int, core: int, folder: Path, *, model: str, redis_url: str | None = None
) -> Iterator[Gateway]:
    """The demo fleet's adapters and router, with the upstream as its worker: authentication, limits (of
    requests, far above the load), JSON logs and metrics on."""
    config = folder / "ours.yaml"
    settings = {
        "api": {"port": port},
        "auth": {"enabled": True},
        "model": {"engine": "remote", "base_model": "demo"},
        "workers": {"urls": [upstream_url], "api_key": "bench"},
        "adapters": {"path": str(ROOT / "demo" / "fleet" / "adapters"), "effect_checks": False},
        "storage": {"path": str(folder / "state")},
        "rate_limiting": {"enabled": True, "requests_per_minute": 10_000_000, "burst_size": 1_000_000},
        **({"redis": {"url": redis_url}} if redis_url else {}),
    }
    config.write_text(json.dumps(settings))  # JSON is YAML
    cli = [sys.executable, "-m", "adaptive_lora"]
    mint = [*cli, "keys", "mint", "bench", "--never-expires", "--config", str(config)]
    key = subprocess.run(mint, check=True, capture_output=True, text=True).stdout.strip()
    url = f"http://127.0.0.1:{port}"
    command = [*cli, "serve", "--config", str(config)]
    with on_core(core, command, ready=f"{url}/ready", log=folder / "ours.log") as pid:
        yield Gateway(url, key, model, pid)


@contextmanager
def litellm(upstream_url: str, port: int, core: int, folder: Path) -> Iterator[Gateway]:
    """LiteLLM's proxy as its documentation starts it, with a master key."""
    key = f"sk-{secrets.token_hex(16)}"
    config = folder / "litellm.yaml"
    params = {"model": "openai/bench", "api_base": f"{upstream_url}/v1", "api_key": "bench"}
    settings = {
        "model_list": [{"model_name": "bench", "litellm_params": params}],
        "general_settings": {"master_key": key},
        "litellm_settings": {"telemetry": False},
    }
    config.write_text(json.dumps(settings))
    url = f"http://127.0.0.1:{port}"
    command = [
        *(str(LITELLM_FOLDER / "bin" / "litellm"), "--config", str(config)),
        *("--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"),
    ]
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else it asks the network
    ready = f"{url}/health/liveliness"
    with on_core(core, command, ready=ready, log=folder / "litellm.log", env=env) as pid:
        yield Gateway(url, key, "bench", pid)


@contextmanager
def bare(upstream_url: str, port: int, core: int, folder: Path) -> Iterator[Gateway]:
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, str(HERE / "bare.py"), str(port), upstream_url]
    with on_core(core, command, ready=f"{url}/openapi.json", log=folder / "bare.log") as pid:
        yield Gateway(url, "", "bench", pid)


def install_litellm() -> str:
    """Into a virtual environment of its own, whose versions are not ours. Returns the version."""
    python = LITELLM_FOLDER / "bin" / "python"
    if not (LITELLM_FOLDER / "bin" / "litellm").exists():
        venv.create(LITELLM_FOLDER, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", LITELLM], check=True)
    show = "import importlib.metadata as m; print(m.version('litellm'))"
    return subprocess.run([python, "-c", show], check=True, capture_output=True, text=True).stdout.strip()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
