"""The whole story on a real vLLM: the command starts, loads, routes, answers, streams, refuses, and stops."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
from pydantic import BaseModel

from adaptive_lora.engine import lifeline
from tests.processes import alive

pytestmark = pytest.mark.vllm

LISTS = ["sum", "max", "min", "mean", "length", "median", "mode", "range"]
POEMS = ["rain", "snow", "wind", "the sea", "mountains", "a river", "the moon", "stars"]
EXAMPLES = {
    "adapter-0": [f"Write a Python function that returns the {word} of a list." for word in LISTS],
    "adapter-1": [f"Write a two-line poem about {word}." for word in POEMS],
}
UNREADABLE = {"type": "string", "pattern": "(["}
ENDLESS = {"anyOf": [{"$ref": "#"}]}
"""No text fits it, which vLLM finds out after it has taken the request."""
USER = [{"role": "user", "content": "Write a Python function that returns the largest number of a list."}]


@dataclass
class Server:
    url: str
    http: httpx.Client
    client: openai.OpenAI
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random base and a folder with two agents, one tampered with, and one in pickled weights."""
    from adaptive_lora.adapters.manifest import base_fingerprint, write_manifest
    from adaptive_lora.engine.random_models import make_adapters, make_model

    base = make_model(tmp_path_factory.mktemp("base"))
    folder = tmp_path_factory.mktemp("adapters")
    for path in make_adapters(folder, 4, 8, base=base):
        write_manifest(
            path,
            name=path.name,
            description=f"{path.name} of the test",
            examples=EXAMPLES.get(path.name, ["nothing"]),
            base_model=str(base),
            base_fingerprint=base_fingerprint(base),
        )
    config = folder / "adapter-2" / "adapter_config.json"
    config.write_text(config.read_text() + " ")
    (folder / "adapter-3" / "adapter_model.bin").write_bytes(b"pickled")
    return base, folder


@contextmanager
def serving(fleet: tuple[Path, Path], work: Path) -> Iterator[tuple[str, subprocess.Popen[str], Path]]:
    """The command's URL, its process, and its log; it has bound its port and loads its model."""
    base, folder = fleet
    config = work / "serving.yaml"
    config.write_text(
        "api: {port: 0}\n"
        f"model: {{base_model: '{base}', dtype: float32, kv_cache_bytes: 67108864}}\n"
        f"adapters: {{path: '{folder}', max_loras: 4}}\n"
        "router: {use_encoder: false, min_confidence: 0}\n"
    )
    log = config.parent / "server.log"
    command = [sys.executable, "-m", "adaptive_lora", "serve", "--config", str(config)]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True, process_group=0)
    try:
        yield _wait_for_url(log, process), process, log
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def server(fleet: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with (
        serving(fleet, tmp_path_factory.mktemp("server")) as (url, process, log),
        httpx.Client(base_url=url, timeout=120) as http,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        assert http.get("/live").json() == {"status": "alive"}
        first = http.get("/ready")
        assert (first.status_code, first.json()["error"]["code"]) == (503, "engine_not_ready")
        while http.get("/ready").status_code != 200:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        yield Server(url, http, client, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0, log.read_text()


def _wait_for_url(log: Path, process: subprocess.Popen[str]) -> str:
    while process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("{") and (url := json.loads(line).get("url")):
                return str(url)
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def test_ctrl_c_ends_a_server_that_is_still_loading(fleet: tuple[Path, Path], tmp_path: Path) -> None:
    with serving(fleet, tmp_path) as (_, process, log):
        deadline = time.monotonic() + 120
        while not _engine(process.pid) and time.monotonic() < deadline:  # until vLLM's first process
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0, log.read_text()
        while _engine(process.pid):
            assert time.monotonic() < deadline, "a process of vLLM's outlives the server"
            time.sleep(0.05)


def _engine(owner: int) -> list[int]:
    """The living processes of a server's engine."""
    mark = f"{lifeline.ENV}={owner}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        pid = int(environ.parent.name)
        try:
            if mark in environ.read_bytes().split(b"\0") and alive(pid):
                found.append(pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def test_the_fleet_is_what_passed_the_checks(server: Server) -> None:
    body = server.http.get("/adapters").json()
    assert [adapter["name"] for adapter in body["adapters"]] == ["adapter-0", "adapter-1"]
    assert {each["folder"]: each["code"] for each in body["rejected"]} == {
        "adapter-2": "hash_mismatch",
        "adapter-3": "unsafe_file",
    }


def test_each_agent_has_an_answer_of_its_own(server: Server) -> None:
    texts = {}
    for name in ("base", "adapter-0", "adapter-1"):
        body = server.http.post(
            "/generate", json={"prompt": "hello", "adapter": name, "max_tokens": 24}
        ).json()
        assert body["adapter"] == name
        texts[name] = body["text"]
    assert len(set(texts.values())) == 3
    batch = {"requests": [{"prompt": "hello", "adapter": name, "max_tokens": 24} for name in texts]}
    results = server.http.post("/generate/batch", json=batch).json()["results"]
    assert [result["text"] for result in results] == list(texts.values())


def test_auto_goes_where_the_router_says(server: Server) -> None:
    decision = server.http.post("/route", json={"prompt": USER[0]["content"]}).json()
    answer = server.client.chat.completions.create(model="auto", messages=USER, max_tokens=4)
    assert answer.model == decision["agent"] == "adapter-0"
    assert answer.adaptive_lora["version"] == decision["version"]
    poem = server.client.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": "Write a two-line poem about clouds."}],
        max_tokens=4,
    )
    assert poem.model == "adapter-1"


def test_a_stream_is_the_same_text_and_usage(server: Server) -> None:
    whole = server.client.chat.completions.create(model="adapter-0", messages=USER, max_tokens=30)
    stream = server.client.chat.completions.create(
        model="adapter-0", messages=USER, max_tokens=30, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert len(chunks) > 10


def test_sampling_logprobs_and_structure_as_vllm_does_them(server: Server) -> None:
    def ask(**options: object) -> openai.types.chat.ChatCompletion:
        return server.client.chat.completions.create(model="base", messages=USER, **options)

    seeded = [
        ask(n=2, temperature=1.0, seed=7, max_tokens=8, logprobs=True, top_logprobs=3) for _ in range(2)
    ]
    assert seeded[0].choices == seeded[1].choices
    for choice in seeded[0].choices:
        assert len(choice.logprobs.content) == 8
        assert all(len(entry.top_logprobs) == 3 for entry in choice.logprobs.content)
    schema = {"enum": ["yes", "no"]}  # a random model may write white space for ever where a schema allows it
    spec = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert json.loads(ask(response_format=spec).choices[0].message.content or "") in ("yes", "no")
    for schema in (UNREADABLE, ENDLESS):
        with pytest.raises(openai.BadRequestError) as refused:
            ask(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
        assert ".cc:" not in refused.value.message


class Wrap(Enum):
    PAPER = "paper"
    NONE = "none"


class Parcel(BaseModel):
    """Nothing in it has a length of its own: a random model would write for ever."""

    size: Literal["small", "large"]
    fragile: bool
    wraps: tuple[Wrap, Wrap | None]


def test_the_grammar_holds_a_random_model_to_schemas_and_calls(server: Server) -> None:
    chats = server.client.chat.completions
    parsed = chats.parse(model="adapter-0", messages=USER, response_format=Parcel, temperature=1.0, seed=1)
    assert isinstance(parsed.choices[0].message.parsed, Parcel)
    parcel = openai.pydantic_function_tool(Parcel)
    lamp = {"properties": {"on": {"enum": [0, 1]}}, "required": ["on"]}  # brief: the context is 256 bytes
    lamp_tool = {"type": "function", "function": {"name": "a", "parameters": lamp}}
    ping_tool = {"type": "function", "function": {"name": "b", "parameters": {"enum": [{}]}}}
    hello = [{"role": "user", "content": "?"}]

    def call(**options: Any) -> Any:
        (choice,) = chats.create(model="adapter-0", messages=hello, **options).choices
        return choice.message.tool_calls[0].function

    only = {"type": "function", "function": {"name": "a"}}
    named = call(tools=[lamp_tool, parcel], tool_choice=only)
    assert (named.name, json.loads(named.arguments)["on"] in (0, 1)) == ("a", True)
    several = {"tools": [lamp_tool, ping_tool], "tool_choice": "required", "temperature": 1.0}
    calls = [call(**several, seed=seed) for seed in range(8)]
    for each in calls:
        arguments = json.loads(each.arguments)
        assert arguments == {} if each.name == "b" else arguments["on"] in (0, 1)
    assert {each.name for each in calls} == {"a", "b"}
    with chats.stream(model="adapter-0", messages=hello, **several, seed=0) as stream:
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls
    assert (streamed.function.name, streamed.function.arguments) == (calls[0].name, calls[0].arguments)


def test_errors_are_the_clients_own(server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="adapter-0, adapter-1"):
        server.client.chat.completions.create(model="adapter-2", messages=USER)
    with pytest.raises(openai.BadRequestError) as caught:
        server.client.chat.completions.create(model="base", messages=[{"role": "user", "content": "x" * 300}])
    assert caught.value.code == "prompt_too_long"


def test_a_client_that_leaves_frees_the_engine(server: Server) -> None:
    body = {"prompt": "x", "max_tokens": 240, "ignore_eos": True, "stream": True}
    with server.http.stream("POST", "/generate", json=body) as response:
        next(response.iter_lines())
    deadline = time.monotonic() + 60
    while server.http.get("/health").json()["engine"]["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert server.http.post("/generate", json={"prompt": "x", "max_tokens": 2}).status_code == 200


def test_the_metrics_tell_the_story(server: Server) -> None:
    metrics = server.http.get("/metrics").text
    assert "\nlora_active_adapters 2.0" in metrics
    assert "\nlora_queue_size 0.0" in metrics
    assert 'lora_time_to_first_token_seconds_count{agent="adapter-0"}' in metrics
    assert 'router_decisions_total{agent="adapter-1",reason="routed"} 1.0' in metrics


def test_a_signal_to_the_whole_group_lets_answers_finish(server: Server) -> None:
    """A terminal's Ctrl-C, and what inits of containers send. The last of this file: it stops the server."""
    body = {"prompt": "x", "max_tokens": 200, "ignore_eos": True, "stream": True}
    with server.http.stream("POST", "/generate", json=body) as response:
        lines = response.iter_lines()
        while next(lines) != "event: token":
            pass
        os.killpg(server.process.pid, signal.SIGTERM)
        *_, event, done = (line for line in lines if line)
    assert event == "event: done"
    assert json.loads(done.removeprefix("data: "))["usage"]["completion_tokens"] == 200
    assert server.process.wait(timeout=60) == 0
    while _engine(server.process.pid):  # Python's own helpers notice a moment later that it is gone
        time.sleep(0.05)
