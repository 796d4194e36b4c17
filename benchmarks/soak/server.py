"""The server under test: a process of its own; its memory, and what its own gauges say."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
import numpy as np
import psutil

TIMEOUT_S = 60
"""The deadline of every request (api.timeout)."""
MAX_CONCURRENT = 96
"""Requests in flight that the gateway takes, and that the tenant may have: both are tried at the end."""
GAUGES = ("lora_running_requests", "lora_queue_size", "queue_waiting", "queue_inside")
"""Of what is inside: 0 when nobody asks for anything."""

FAKE_SERVER = """
import sys
from pathlib import Path
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.serving.server import run_server
from adaptive_lora.settings import Settings
FakeEngine.__init__.__kwdefaults__["delay_s"] = 0.01
sys.exit(run_server(Settings.model_validate_json(Path(sys.argv[1]).read_text())))
"""
"""The fake engine, as slow as a small model."""


@dataclass
class Server:
    """A server that runs, and a credential for it."""

    process: subprocess.Popen[bytes]
    port: int
    token: str
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    def gauges(self) -> dict[str, float]:
        """Those of `GAUGES` that there are, summed over their labels."""
        page = httpx.get(f"{self.url}/metrics", headers=self.headers, timeout=TIMEOUT_S).text
        found: dict[str, float] = {}
        for name, value in re.findall(r"^(\w+)(?:\{.*\})? (\S+)$", page, re.MULTILINE):
            if name in GAUGES:
                found[name] = found.get(name, 0.0) + float(value)
        return found

    def log_counts(self) -> dict[str, int]:
        """Lines from WARNING on, by what they say without numbers; the first traceback goes to stderr."""
        counts: dict[str, int] = {}
        told = False
        for line in self.log.read_text().splitlines():
            if not line.startswith("{"):
                continue  # vLLM's
            entry = json.loads(line)
            if "exception" in entry and not told:
                print(entry["exception"], file=sys.stderr)
                told = True
            if entry["level"] in ("WARNING", "ERROR", "CRITICAL"):
                text = f"{entry['level']} {re.sub('[0-9]+', 'N', entry['message'])[:100]}"
                counts[text] = counts.get(text, 0) + 1
        return counts


@contextmanager
def serving(folder: Path, engine: str) -> Iterator[Server]:
    """The demo fleet, with authentication, limits, JSON logs and metrics on."""
    secret = secrets.token_urlsafe(48)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    settings = {
        "api": {"port": port, "timeout": TIMEOUT_S, "max_concurrent_requests": MAX_CONCURRENT},
        "auth": {"enabled": True, "jwt_secret": secret},
        "model": {"engine": engine},
        "storage": {"path": str(folder / "state")},
        "rate_limiting": {
            "enabled": True,
            "requests_per_minute": None,
            "tokens_per_minute": 1_000_000_000,
            "max_concurrent": MAX_CONCURRENT,
        },
    }
    config = folder / "settings.json"  # JSON is YAML
    config.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "adaptive_lora", "serve", "--config", str(config)]
    if engine == "fake":
        command = [sys.executable, "-c", FAKE_SERVER, str(config)]
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=out)
    claims = {
        "sub": "soak", "tenant": "soak", "scope": "generate metrics", "iss": "adaptive-lora",
        "aud": "adaptive-lora", "exp": time.time() + 86_400,
    }  # fmt: skip
    server = Server(process, port, jwt.encode(claims, secret, algorithm="HS256"), log)
    try:
        while not _is_ready(server.url):
            if process.poll() is not None:
                raise SystemExit(f"the server did not start: {log.read_text()[-2_000:]}")
            time.sleep(0.2)
        yield server
    finally:
        process.terminate()
        process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.HTTPError:
        return False


@dataclass
class Memory:
    """Resident bytes of the server's process and, together, of those below it, as time goes."""

    pid: int
    at_s: list[float] = field(default_factory=list)
    server: list[int] = field(default_factory=list)
    engine: list[int] = field(default_factory=list)

    async def watch(self, every_s: float) -> None:
        """Until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(every_s)

    def sample(self) -> None:
        process = psutil.Process(self.pid)
        self.at_s.append(time.monotonic())
        self.server.append(process.memory_info().rss)
        self.engine.append(sum(child.memory_info().rss for child in process.children(recursive=True)))

    def report(self) -> Mapping[str, Any]:
        return {"server": self._summary(self.server), "engine": self._summary(self.engine)}

    def _summary(self, samples: Sequence[int]) -> dict[str, float]:
        """Megabytes at the beginning, in the middle and at the end; growth over the last half, as the
        straight line through it has it, as a share of the middle."""
        half = len(samples) // 2
        slope = float(np.polyfit(self.at_s[half:], samples[half:], 1)[0])
        growth = slope * (self.at_s[-1] - self.at_s[half])
        first, middle, last = (round(samples[i] / 1e6, 1) for i in (0, half, -1))
        share = round(growth / samples[half], 4) if samples[half] else 0.0
        return {"first_mb": first, "middle_mb": middle, "last_mb": last, "growth_of_last_half": share}
