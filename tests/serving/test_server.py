"""The process: what it imports, prints, and returns."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

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
