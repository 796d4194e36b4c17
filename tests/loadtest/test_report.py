"""The report: figures where they belong, and nothing of a server's that would be markup."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.loadtest.client import Outcome
from adaptive_lora.loadtest.figures import Objective, Objectives
from adaptive_lora.loadtest.report import axis_end, render_report
from adaptive_lora.loadtest.run import Result
from adaptive_lora.loadtest.step import LoadConfig, Sent, measured
from adaptive_lora.loadtest.summary import verdict

CONFIG = LoadConfig(Objectives((Objective("e2e", 95, 2.0),), 0.05), seconds=10.0, warmup_s=0.0)


def result(*rates: float, end_s: float = 1.0, lag_s: float = 0.0, error: str | None = None) -> Result:
    found = Result(CONFIG)
    for rate in rates:
        outcomes = [
            Outcome("code", i / rate, lag_s, end_s, 0.1, 0.02, 10, "code", error)
            for i in range(int(10 * rate))
        ]
        found.steps.append(measured(Sent(rate, outcomes, 10.0, cpu_share=0.1), CONFIG))
    return found


@given(st.floats(1e-6, 1e6))
def test_an_axis_ends_just_above_what_it_shows(value: float) -> None:
    end = axis_end(value)
    assert value <= end * (1 + 1e-9)
    assert end <= 2 * value * (1 + 1e-9)


def test_every_point_is_inside_its_plot() -> None:
    found = result(4.0, 8.0, end_s=1.0)
    found.steps += result(64.0, end_s=9.0).steps  # far above what the axis shows
    page = render_report(found, title="Load test")
    points = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.-]+)" cy="([\d.-]+)"', page)]
    assert len(points) == 3 * (2 + 3 + 3 + 3)
    assert all(52 <= x <= 372 and 22 <= y <= 342 for x, y in points)


def test_what_a_server_says_is_no_markup() -> None:
    page = render_report(result(8.0, error='<script>alert("1")</script>'), title="Load test of http://a/<b>")
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page


def test_the_verdict() -> None:
    found = result(4.0, 8.0)
    assert "They hold at 8 requests/s" in " ".join(verdict(found))
    found.steps += result(16.0, end_s=3.0).steps
    text = " ".join(verdict(found))
    assert "They do not at 16 requests/s: e2e p95 3 s > 2 s" in text
    assert "own pace" not in text
    assert "own pace" in " ".join(verdict(result(4.0, lag_s=1.0)))


def test_nothing_was_measured() -> None:
    empty = Result(CONFIG, interrupted=True)
    assert verdict(empty)[-1].startswith("Interrupted")
    assert "<svg" not in render_report(empty, title="Load test")
