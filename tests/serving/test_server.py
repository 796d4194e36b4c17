"""The process: what it imports, prints, and returns."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.serving.auth.signing import SECRET

SERVE = """
import sys
from adaptive_lora.serving.server import run_server
from adaptive_lora.settings import Settings
settings = Settings.model_validate({"model": {"engine": "fake"}, "api": {"port": 0}, **SECTIONS})
sys.exit(run_server(settings, on_listen=lambda url: print(url, flush=True)))
"""


@contextmanager
def start(**sections: object) -> Iterator[subprocess.Popen[str]]:
    code = SERVE.replace("SECTIONS", repr(sections))
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_api_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'vllm', 'transformers', 'peft', 'onnxruntime', 'numpy'}"
    code = f"import sys; import adaptive_lora.serving.server; print(sorted({heavy} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_it_serves_on_a_free_port_until_it_is_told_to_stop() -> None:
    with start() as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(f"{url}/live") as response:
            assert json.load(response) == {"status": "alive"}
        process.send_signal(signal.SIGTERM)
        _, logs = process.communicate(timeout=120)
    assert process.returncode == 0
    lines = [json.loads(line) for line in logs.splitlines()]
    assert any(line["message"] == f"listening on {url}" for line in lines)


@pytest.mark.parametrize("enabled", [False, True])
def test_a_secret_that_nobody_asks_for_is_said(enabled: bool, tmp_path: Path) -> None:
    """JWT_SECRET alone, as the deployment guide has it, protects nothing."""
    auth = {"jwt_secret": SECRET, "enabled": enabled}
    with start(auth=auth, storage={"path": str(tmp_path)}) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http")
        process.send_signal(signal.SIGTERM)
        _, logs = process.communicate(timeout=120)
    assert ("authentication is off" in logs) is not enabled
    assert SECRET not in logs


@pytest.mark.parametrize("secret", ["short", "change-me-" * 5])
def test_it_does_not_start_with_a_secret_that_can_be_guessed(secret: str) -> None:
    with start(auth={"enabled": True, "jwt_secret": secret}) as process:
        out, logs = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert "SettingsError" in logs
    assert secret not in logs


def test_it_fails_if_the_engine_cannot_start(tmp_path: object) -> None:
    with start(adapters={"path": f"{tmp_path}/absent"}) as process:
        _, logs = process.communicate(timeout=120)
    assert process.returncode == 1
    lines = [json.loads(line) for line in logs.splitlines()]
    critical = [line for line in lines if line["level"] == "CRITICAL"]
    assert len(critical) == 1
    assert "adapters.path" in critical[0]["message"]


def test_a_port_that_is_taken_is_a_failure() -> None:
    with start() as first:
        assert first.stdout is not None
        url = first.stdout.readline().strip()
        with start(api={"port": int(url.rsplit(":", 1)[1])}) as second:
            _, logs = second.communicate(timeout=120)
        assert second.returncode == 1
        assert "SettingsError: cannot listen on 127.0.0.1" in logs
        with urllib.request.urlopen(f"{url}/live") as response:
            assert response.status == 200
