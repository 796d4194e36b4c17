"""What README tells people to type works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

ROOT = Path(__file__).parents[2]
URL = "http://127.0.0.1:8000"
ADRS = sorted(f"docs/adr/{path.name}" for path in ROOT.glob("docs/adr/*.md"))
HOW_TOS = sorted(f"docs/how-to/{path.name}" for path in ROOT.glob("docs/how-to/*.md"))
CLIENTS = "docs/reference/clients.md"
PAGES = ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", CLIENTS, *ADRS, *HOW_TOS)


class Block(NamedTuple):
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


@pytest.fixture(
    scope="module",
    params=["fake", pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.acceptance])],
)
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The command itself, on a free port."""
    command = [sys.executable, "-m", "adaptive_lora", "serve", "--port", "0", "--engine", request.param]
    environ = {name: value for name, value in os.environ.items() if name != "BASE_MODEL"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environ) as process:
        url = ""
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                url = found[0]
                break
        while process.poll() is None and httpx.get(f"{url}/ready").status_code != 200:
            time.sleep(0.2)
        yield url
        process.terminate()
        process.stderr.read()


def test_the_request_by_curl(server: str) -> None:
    (curl,) = (block for block in blocks("README.md") if block.text.startswith("curl"))
    run = subprocess.run(
        ["bash", "-c", curl.text.replace(URL, server).replace("curl", "curl -sSf", 1)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert '"confidence"' in run.stdout


def test_the_request_by_the_openai_client(server: str) -> None:
    (python,) = (block for block in blocks("README.md") if block.language == "python")
    script = python.text.replace(URL, server)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


@pytest.mark.parametrize("number", [0, 1, 2], ids=["openai", "langchain", "litellm"])
def test_what_the_clients_page_shows(server: str, number: int) -> None:
    python = [block.text for block in blocks(CLIENTS) if block.language == "python"]
    assert len(python) == 3
    environ = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    script = python[number].replace(URL, server)
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environ
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_is_named_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^ *)make ([a-z-]+)", (ROOT / page).read_text(), re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_make_help_lists_every_target() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets
    for target in targets:
        assert f"make {target} " in listed


@pytest.mark.parametrize("page", ["faults", "clients"])
def test_every_row_is_shown_by_a_test_that_exists(page: str) -> None:
    rows = re.findall(r"^\|.*\|$", (ROOT / f"docs/reference/{page}.md").read_text(), re.MULTILINE)
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row)
        assert named or "shown by" in row or set(row) <= set("|-"), row
        for path, test in named:
            assert (ROOT / path).is_file(), path
            assert not test or f"def {test}(" in (ROOT / path).read_text(), test
