"""A gateway as a process of its own, on a free port, with its log: for tests that signal, freeze and kill."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from adaptive_lora.settings import Settings

SERVE = """
import importlib, json, sys
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.serving.server import run_server
from adaptive_lora.settings import Settings
FakeEngine.__init__.__kwdefaults__["delay_s"] = float(sys.argv[2])
for name, value in json.loads(sys.argv[3]).items():
    module, _, constant = name.rpartition(".")
    setattr(importlib.import_module(module), constant, value)
settings = Settings.model_validate_json(sys.argv[1])
sys.exit(run_server(settings, on_listen=lambda url: print(url, flush=True)))
"""


class GatewayProcess:
    """Ends with this process. `token_s` is the fake engine's time per token; `constants` are values of
    modules, such as time limits that a test shortens."""

    def __init__(
        self, *, token_s: float = 0.0, constants: Mapping[str, float] | None = None, **sections: Any
    ) -> None:
        sections = {
            **sections,
            "model": {"engine": "fake", "base_model": "fake-base"} | sections.get("model", {}),
            "api": {"port": 0} | sections.get("api", {}),
        }
        Settings.model_validate(sections)  # a mistake shows here, and not in a child's log
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115 - closed by `close`
        command = ["setpriv", "--pdeathsig=KILL", sys.executable, "-c", SERVE]
        arguments = [json.dumps(sections, default=str), str(token_s), json.dumps(dict(constants or {}))]
        self.process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.log()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def wait_until_ready(self) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as client:
            for _ in itertools.count():
                if client.get("/ready").status_code == 200:
                    return
                assert self.process.poll() is None, self.log()
                time.sleep(0.02)

    def signal(self, which: signal.Signals) -> None:
        self.process.send_signal(which)

    def log(self) -> str:
        return Path(self._log.name).read_text()

    def messages(self, *, level: str | None = None) -> list[str]:
        """What the log says, in order; access lines are left out."""
        lines = [json.loads(line) for line in self.log().splitlines()]
        return [
            line["message"]
            for line in lines
            if line["logger"] != "adaptive_lora.access" and level in (None, line["level"])
        ]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._log.close()
