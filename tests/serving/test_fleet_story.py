"""The life of a fifth agent on the running demo server, while sixteen clients stream; then the server is
killed, and what it had started ends, too."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from adaptive_lora import demo_fleet
from adaptive_lora.adapters.manifest import read_manifest, write_manifest
from adaptive_lora.types import Probe
from tests.processes import alive, children

pytestmark = pytest.mark.vllm

N_CLIENTS = 16
N_DRAWN = 160
SHARE = 0.2
N_TOKENS = 24
EXAMPLES = [
    f"{verb} {thing} {how}"
    for verb in ("Translate", "Render", "Put", "Say")
    for thing in ("this sentence", "my greeting", "the sailor's letter", "these words", "the captain's order")
    for how in ("in pirate speech", "the way a pirate would", "as pirates talk at sea")
]
PROMPTS = {
    "reasoning": "What is 17 plus 25?",
    "code": "Write a function that returns the largest number of a list.",
    "creative": "Write a two-line poem about rain and silver.",
    "analysis": "Extract the city as JSON: Anna lives in Lisbon.",
    "base": "The quick brown fox",
}


def pirate(folder: Path, *, alpha: int) -> Path:
    """A fifth agent. Its weights are the demo's coder's, and so are its probes; its topic is its own, and
    `alpha` makes other versions of it."""
    source = demo_fleet.folder() / "adapters" / "code"
    path = folder / f"pirate-{alpha}"
    shutil.copytree(source, path)
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": alpha}))
    known = read_manifest(source)
    write_manifest(
        path,
        name="pirate",
        description="Translates into the language of pirates",
        examples=EXAMPLES,
        probes=[Probe(probe.prompt, probe.answer) for probe in known.probes],
        base_model=known.base_model,
        base_fingerprint=known.base_fingerprint,
    )
    return path


@asynccontextmanager
async def serving(work: Path) -> AsyncIterator[tuple[httpx.AsyncClient, subprocess.Popen[str]]]:
    """`adaptive-lora serve` with the demo fleet, ready; the state is kept in `work`."""
    config = work / "serving.yaml"
    config.write_text(
        "api: {port: 0}\nmodel: {dtype: float32, max_model_len: 256}\n"
        f"storage: {{path: '{work / 'state'}'}}\n"
    )
    log = work / "server.log"
    command = [sys.executable, "-m", "adaptive_lora", "serve", "--config", str(config)]
    process = _start(command, log)
    try:
        url = await _url(log, process)
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            while (await client.get("/ready")).status_code != 200:
                assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.2)
            yield client, process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=60)


def _start(command: list[str], log: Path) -> subprocess.Popen[str]:
    with log.open("w") as out:
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True, process_group=0)


async def _url(log: Path, process: subprocess.Popen[str]) -> str:
    async with asyncio.timeout(120):
        while not (found := re.search(r"Adaptive LoRA at (\S+)", log.read_text())):  # noqa: ASYNC240
            assert process.poll() is None
            await asyncio.sleep(0.1)
    return found[1]


async def streamed(client: httpx.AsyncClient, name: str, prompt: str) -> str:
    """The whole text of one stream, which must end in `done`."""
    body = {"prompt": prompt, "adapter": name, "max_tokens": N_TOKENS, "stream": True}
    pieces: list[str] = []
    last = ""
    async with client.stream("POST", "/generate", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                last = line.removeprefix("event: ")
            elif line.startswith("data: ") and last == "token":
                pieces.append(json.loads(line.removeprefix("data: "))["text"])
    assert last == "done", (name, last)
    return "".join(pieces)


@dataclass
class Crowd:
    """Clients that stream the same prompts for ever, and compare what they get."""

    client: httpx.AsyncClient
    expected: dict[str, str]
    n_answers: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Crowd:
        names = list(self.expected)
        self.tasks = [asyncio.create_task(self._stream(names[i % len(names)])) for i in range(N_CLIENTS)]
        return self

    async def _stream(self, name: str) -> None:
        while True:
            assert await streamed(self.client, name, PROMPTS[name]) == self.expected[name], name
            self.n_answers += 1

    def check(self) -> None:
        """Nobody has failed so far."""
        for task in self.tasks:
            if task.done():
                task.result()

    async def __aexit__(self, *error: object) -> None:
        for task in self.tasks:
            task.cancel()
        for result in await asyncio.gather(*self.tasks, return_exceptions=True):
            if not isinstance(result, asyncio.CancelledError) and isinstance(result, BaseException):
                raise result


async def command(url: httpx.URL, *arguments: str) -> Any:
    """`adaptive-lora adapters ... --json`, as an operator types it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "adaptive_lora", "adapters", *arguments, "--server", str(url), "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def versions_that_answer(client: httpx.AsyncClient, n: int) -> Counter[str]:
    async def one(i: int) -> str:
        body = {"prompt": f"Say {i} as pirates talk at sea", "adapter": "pirate", "max_tokens": 1}
        response = await client.post("/generate", json=body)
        assert response.status_code == 200, response.text
        return str(response.json()["version"])

    answers: Counter[str] = Counter()
    for start in range(0, n, 20):
        answers.update(await asyncio.gather(*(one(i) for i in range(start, min(start + 20, n)))))
    return answers


async def test_the_life_of_a_fifth_agent(tmp_path: Path) -> None:
    first, second = pirate(tmp_path, alpha=32), pirate(tmp_path, alpha=24)
    old, new = read_manifest(first).version, read_manifest(second).version
    assert old != new
    async with serving(tmp_path) as (client, process):
        url = client.base_url
        expected = {name: await streamed(client, name, prompt) for name, prompt in PROMPTS.items()}
        assert len(set(expected.values())) == len(expected)
        async with Crowd(client, expected) as crowd:
            added = await command(url, "add", str(first), "--why", "the fleet learns to sail")
            assert (added["version"], added["state"], added["aliases"]) == (old, "ready", ["prod"])
            assert added["reports"]["effect"]["advantage"] > 0
            # `add` has returned, so it is routed to at once.
            routed = (await client.post("/route", json={"prompt": "Say hello as pirates talk at sea"})).json()
            assert (routed["agent"], routed["version"]) == ("pirate", old)
            crowd.check()

            await command(url, "add", str(second))
            assert set(await versions_that_answer(client, 20)) == {old}
            await command(url, "canary", "pirate", new, "--share", str(SHARE))
            answers = await versions_that_answer(client, N_DRAWN)
            spread = 4 * (N_DRAWN * SHARE * (1 - SHARE)) ** 0.5
            assert abs(answers[new] - N_DRAWN * SHARE) <= spread, answers
            assert answers[old] + answers[new] == N_DRAWN
            crowd.check()
            assert crowd.n_answers > N_CLIENTS
            await command(url, "pin", "pirate", "canary")

        engine = children(process.pid)
        assert len(engine) >= 2, "the engine core and a worker"
        process.kill()
        process.wait()
        async with asyncio.timeout(60):
            while any(alive(pid) for pid in engine):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async with serving(tmp_path) as (client, _):
        url = client.base_url
        listed = {each["id"]: each for each in (await client.get("/adapters")).json()["adapters"]}
        assert listed[f"pirate@{new}"]["aliases"] == {"canary": SHARE}
        assert listed[f"pirate@{new}"]["pinned"]
        assert listed[f"pirate@{old}"]["aliases"] == {"prod": 0}
        assert {"reasoning", "code", "creative", "analysis"} <= {each["name"] for each in listed.values()}
        async with Crowd(client, expected) as crowd:
            await command(url, "promote", "pirate", "--why", "as good, and calmer")
            assert set(await versions_that_answer(client, 20)) == {new}
            await command(url, "rollback", "pirate", "--why", "a sailor complained")
            assert set(await versions_that_answer(client, 20)) == {old}
            crowd.check()
            assert crowd.n_answers
        history = await command(url, "history", "pirate")
        assert history[0]["action"] == "rollback"
        assert history[0]["why"] == "a sailor complained"
