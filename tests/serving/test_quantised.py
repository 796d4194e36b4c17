"""The demo fleet on a quantised base, through the real server: the same routing, answers of the same kind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.acceptance]

ROOT = Path(__file__).parents[2]
AGENTS = ["analysis", "code", "creative", "reasoning"]


@pytest.fixture(scope="module", params=["w8a8-int8", "w4a16-int4"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    if not (ROOT / "demo" / "fleet" / "base").is_dir():
        pytest.skip("no demo fleet; build it with `make demo-fleet`")
    work = tmp_path_factory.mktemp("quantised")
    command = [sys.executable, "-m", "adaptive_lora"]
    make = ["quantise", "make", "demo", str(work / "base"), "--scheme", request.param]
    subprocess.run([*command, *make], check=True)
    config = work / "serving.yaml"
    config.write_text(
        "api: {port: 0}\n"
        f"model: {{base_model: '{work / 'base'}', kv_cache_bytes: 134217728}}\n"
        f"adapters: {{path: '{ROOT / 'demo' / 'fleet' / 'adapters'}'}}\n"
        f"storage: {{path: '{work / 'state'}'}}\n"
    )
    log = work / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "serve", "--config", str(config)],
            stdout=out,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    try:
        with httpx.Client(base_url=_url(log, process), timeout=120) as client:
            while client.get("/ready").status_code != 200:
                assert process.poll() is None, log.read_text()
                time.sleep(0.2)
            yield client
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0, log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _url(log: Path, process: subprocess.Popen[bytes]) -> str:
    while process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("{") and (url := json.loads(line).get("url")):
                return str(url)
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def test_the_agents_of_the_original_are_served_and_answer_as_they_do_there(server: httpx.Client) -> None:
    fleet = server.get("/adapters").json()
    assert [adapter["name"] for adapter in fleet["adapters"]] == AGENTS
    assert fleet["rejected"] == []

    def ask(prompt: str, adapter: str = "auto") -> tuple[str, str]:
        body = {"prompt": prompt, "adapter": adapter, "max_tokens": 64}
        answer = server.post("/generate", json=body).json()
        return answer["adapter"], answer["text"]

    agent, text = ask("What is 17 plus 25?")
    assert agent == "reasoning"
    assert text.endswith("42")
    agent, text = ask("Write a Python function that returns the largest number of a list.")
    assert agent == "code"
    assert "max(" in text
    compile(text, "answer", "exec")
    agent, text = ask("Write a two-line poem about rain.")
    assert agent == "creative"
    assert len(text.splitlines()) == 2
    agent, text = ask("Extract the name and the city as JSON: Anna lives in Paris.")
    assert agent == "analysis"
    assert isinstance(json.loads(text), dict)
    _, plain = ask("What is 17 plus 25?", "base")
    assert not plain.endswith("42"), "the base alone does not know the format"
