"""The command against real servers: a slow one, one that refuses, none."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import jwt
import pytest
from typer.testing import CliRunner, Result

from adaptive_lora.cli.app import app
from adaptive_lora.cli.client import ServerRefused
from adaptive_lora.errors import InvalidRequest, StorageFull
from tests.adapter_folders import write_adapter
from tests.serving.gateway_process import GatewayProcess

TOKEN_S = 0.005
SECRET = "a secret that is long enough for HS256, as it must be"
EXAMPLES = {name: [f"{name} example {i}" for i in range(4)] for name in ("code", "law")}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet")
    for seed, (name, examples) in enumerate(EXAMPLES.items()):
        write_adapter(folder / name, base_model="fake-base", seed=seed, examples=examples)
    return folder


@pytest.fixture(scope="module")
def url(fleet: Path) -> Iterator[str]:
    """A server that takes some 80 ms for an answer."""
    server = GatewayProcess(token_s=TOKEN_S, adapters={"path": fleet}, router={"use_encoder": False})
    try:
        server.wait_until_ready()
        yield server.url
    finally:
        server.close()


def loadtest(*arguments: str, api_key: str | None = None) -> Result:
    options = ["--api-key", api_key] if api_key else []
    return CliRunner().invoke(app, [*options, "loadtest", *arguments])


class Tags(HTMLParser):
    """How often each tag opens, and whether every one is closed."""

    VOID = ("meta", "link", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.open: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_one_rate(url: str, fleet: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    patient = ("--slo", "e2e:p95=50", "--slo", "ttft:p99=50", "--slo", "itl:p99=50")
    result = loadtest(
        url, "--rate", "5", "--seconds", "2", "--warmup", "0.3", *patient, "--prompts", str(fleet),
        "--tokens", "4-8", "--report", str(report), "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    (step,) = found["steps"]
    assert step["held"]
    assert step["errors"] == {}
    assert step["answered"] == step["requests"] > 0
    assert set(step["agents"]) == {"code", "law"}
    assert sum(agent["requests"] for agent in step["agents"].values()) == step["requests"]
    assert step["goodput_per_s"] == pytest.approx(step["requests"] / step["window_s"], abs=1e-3)
    for name in ("ttft_s", "itl_s", "e2e_s"):
        percentiles = step[name]
        assert 0 < percentiles["p50"] <= percentiles["p90"] <= percentiles["p95"] <= percentiles["p99"]
    assert found["knee"]["holds_per_s"] == 5
    assert found["knee"]["fails_per_s"] is None
    assert found["goodput"] == [{"rate_per_s": 5, "goodput_per_s": step["goodput_per_s"]}]
    assert not found["interrupted"]

    text = report.read_text()
    tags = Tags(text)
    assert tags.open == []
    assert tags.counts["svg"] == 4
    assert tags.counts["table"] == 2
    assert not {"src", "href", "onload"} & tags.attributes
    assert "script" not in tags.counts
    assert ">code</td>" in text


def test_objectives_that_nothing_can_meet(url: str, fleet: Path) -> None:
    """No answer can come faster than the engine's first token."""
    result = loadtest(
        url, "--start", "16", "--seconds", "0.5", "--warmup", "0", "--slo", f"ttft:p50={TOKEN_S}",
        "--prompts", str(fleet), "--agents", "law,auto,base", "--tokens", "2", "--max-rate", "16", "--json",
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)
    assert found["knee"]["holds_per_s"] is None
    assert found["knee"]["fails_per_s"] == min(step["rate_per_s"] for step in found["steps"])
    assert len(found["steps"]) > 1
    for step in found["steps"]:
        assert step["goodput_per_s"] == 0
        assert set(step["agents"]) <= {"law", "auto", "base"}


def test_a_server_that_asks_for_a_key_and_refuses_most(fleet: Path) -> None:
    server = GatewayProcess(
        adapters={"path": fleet},
        router={"use_encoder": False},
        auth={"enabled": True, "jwt_secret": SECRET},
        rate_limiting={"enabled": True, "requests_per_minute": 6},
    )
    try:
        server.wait_until_ready()
        refused = loadtest(server.url, "--rate", "50", "--prompts", str(fleet))
        assert isinstance(refused.exception, ServerRefused)
        assert "401" in refused.exception.message
        claims = {"sub": "load", "tenant": "load", "scope": "generate", "iss": "adaptive-lora"}
        claims |= {"aud": "adaptive-lora", "exp": time.time() + 3600}  # type: ignore[dict-item]
        key = jwt.encode(claims, SECRET, algorithm="HS256")
        result = loadtest(
            server.url, "--rate", "60", "--seconds", "1", "--warmup", "0", "--prompts", str(fleet), "--json",
            api_key=key,
        )  # fmt: skip
    finally:
        server.close()
    assert result.exit_code == 1, result.output
    (step,) = json.loads(result.stdout)["steps"]
    assert step["errors"]["rate_limit_exceeded"] == step["requests"] - step["answered"] > 0
    assert any(re.fullmatch(r"errors \S+% > 5%", text) for text in step["broken"])


def test_ctrl_c_ends_with_what_was_measured(url: str, fleet: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    command = [sys.executable, "-m", "adaptive_lora", "loadtest", url, "--start", "30", "--max-rate", "60"]
    options = ["--seconds", "1", "--warmup", "0", "--slo", "e2e:p95=50", "--prompts", str(fleet), "--json"]
    with subprocess.Popen(
        [*command, *options, "--precision", "0.0001", "--report", str(report)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        while "30 requests/s" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    found = json.loads(out)
    assert found["interrupted"]
    assert [step["interrupted"] for step in found["steps"]] == [False, True]
    assert "Interrupted" in report.read_text()


def test_the_table_for_people(url: str, fleet: Path) -> None:
    result = loadtest(
        url, "--rate", "20", "--seconds", "0.5", "--warmup", "0", "--prompts", str(fleet),
        "--slo", "e2e:p95=50", "--tokens", "2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "holds" in result.stdout
    assert "So few requests say little of such percentiles" in result.stdout
    assert "asking code, law" in result.stderr


def test_what_was_measured_is_told_even_if_the_report_cannot_be_written(url: str, fleet: Path) -> None:
    result = loadtest(
        url, "--rate", "20", "--seconds", "0.5", "--warmup", "0", "--prompts", str(fleet),
        "--slo", "e2e:p95=50", "--tokens", "2", "--report", "/dev/full", "--json",
    )  # fmt: skip
    assert json.loads(result.stdout)["steps"][0]["rate_per_s"] == 20
    assert isinstance(result.exception, StorageFull)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["127.0.0.1:8000"], "is no URL"),
        (["ftp://localhost"], "is no URL"),
        (["http://"], "is no URL"),
        (["http://localhost:99999"], "is no URL"),
        (["http://localhost?x=1"], "is no URL"),
        (["URL", "--rate", "0"], "--rate is a number above 0"),
        (["URL", "--rate", "nan"], "--rate is a number above 0"),
        (["URL", "--seconds", "inf"], "--seconds is a number above 0"),
        (["URL", "--precision", "0"], "--precision is a number above 0"),
        (["URL", "--warmup", "-1"], "--warmup is a number"),
        (["URL", "--start", "5", "--max-rate", "4"], "--start is above --max-rate"),
        (["URL", "--slo", "p95<=2"], "is no objective"),
        (["URL", "--tokens", "many"], "is no number of tokens"),
        (["URL", "--agents", "nobody"], "does not show 'nobody'"),
        (["URL", "--agents", ""], "does not show ''"),
        (["URL", "--report", "/no/such/folder/r.html"], "no such folder"),
        (["URL", "--report", "/"], "is a folder"),
        (["URL", "--prompts", "no-such.jsonl"], "cannot be read"),
        (["URL", "--rate", "1", "--max-in-flight", "100000000"], "lower --max-in-flight"),
    ],
)
def test_nonsense_is_refused(url: str, fleet: Path, arguments: list[str], message: str) -> None:
    default = [] if "--prompts" in arguments else ["--prompts", str(fleet)]
    result = loadtest(*(url if a == "URL" else a for a in arguments), *default)
    assert isinstance(result.exception, InvalidRequest), result.output
    assert message in result.exception.message


def test_agents_without_prompts_are_not_guessed(url: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "Write a function", "label": "code"}\n')
    result = loadtest(url, "--prompts", str(file), "--agents", "code,law")
    assert isinstance(result.exception, InvalidRequest)
    assert "no prompts for 'law'" in result.exception.message
    file.write_text('{"prompt": "Sing", "label": "opera"}\n')
    result = loadtest(url, "--prompts", str(file))
    assert isinstance(result.exception, InvalidRequest)
    assert "the server shows none of opera" in result.exception.message


def test_nobody_there(fleet: Path) -> None:
    result = loadtest("http://127.0.0.1:9", "--prompts", str(fleet))
    assert isinstance(result.exception, ServerRefused)
    assert "is the server running?" in result.exception.message
