"""The commands of docs/how-to/load-test.md, typed as they stand but for address and durations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project.doc_blocks import block_with
from tests.project.test_how_to_commands import serving, typed, write_config

PAGE = "docs/how-to/load-test.md"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(write_config(tmp_path_factory.mktemp("server"))) as url:
        yield url


def shortened(words: str, url: str, *more: str) -> str:
    text = re.sub(r"--(seconds|warmup) \d+", r"--\1 0.5", block_with(PAGE, words).text)
    return text.replace("http://127.0.0.1:8000", " ".join([url, *more]))


def test_the_knee_is_searched(url: str, tmp_path: Path) -> None:
    short = ("--seconds", "0.5", "--warmup", "0", "--start", "8", "--max-rate", "16", "--slo", "e2e:p95=50")
    printed = typed(shortened("--report load.html", url, *short), tmp_path)
    assert re.search(r"They hold at \S+ requests/s", printed)
    assert (tmp_path / "load.html").read_text().startswith("<!doctype html>")


def test_the_peak_is_asked_for(url: str, tmp_path: Path) -> None:
    """Whether it holds depends on this machine: the file says."""
    typed(shortened("peak.html", url).rstrip() + " || true", tmp_path)
    found = json.loads((tmp_path / "peak.json").read_text())
    assert [step["rate_per_s"] for step in found["steps"]] == [20]
    assert found["objectives"]["latencies"] == ["e2e:p95=2", "ttft:p99=1", "itl:p99=0.1"]
    assert (tmp_path / "peak.html").exists()
