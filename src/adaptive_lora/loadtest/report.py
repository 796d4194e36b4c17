"""A load test as one HTML file: verdict, curves over the rate, every step, and the agents at the knee.

Plots are inline SVG: the file needs no network, no script and no other file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from adaptive_lora.loadtest.figures import LATENCIES, Figures, Latency, percentile
from adaptive_lora.loadtest.run import Result
from adaptive_lora.loadtest.step import Step
from adaptive_lora.loadtest.summary import codes, verdict
from adaptive_lora.plots import Points, line_plot, page

LATENCY_NAMES: dict[Latency, str] = {
    "ttft": "time to first token",
    "itl": "time per token after it",
    "e2e": "end to end",
}
UNITS: dict[Latency, tuple[str, float]] = {
    "ttft": ("seconds", 1.0),
    "itl": ("milliseconds", 1000.0),
    "e2e": ("seconds", 1.0),
}
ROUND = (1, 2, 3, 4, 5, 6, 8, 10)
HEADROOM = 3.0
"""A latency's axis ends at so many times its objective: far above, the knee would be a flat line."""


def render_report(result: Result, *, title: str) -> str:
    """The whole page."""
    return page(
        title,
        *(f"<p>{escape(line)}</p>" for line in verdict(result)),
        '<div class="plots">',
        *_plots(result),
        "</div>",
        "<h2>Rates</h2>",
        _UNITS,
        _steps(result.curve),
        *_agents(result),
    )


def _plots(result: Result) -> list[str]:
    steps = [step for step in result.curve if step.overall.n]
    if not steps:
        return []
    x_max = axis_end(max(max(_offered(step), step.achieved) for step in steps))
    limits = {o.latency: o.limit_s for o in result.config.objectives.latencies}
    every = [(0.0, 0.0), (x_max, x_max)]
    plots = [
        line_plot(
            "Answers within every objective, by offered rate; dashed: all that was asked",
            "requests/s offered",
            "good answers/s",
            {
                "goodput": _points(steps, lambda step: step.overall.goodput),
                "answers": _points(steps, lambda step: step.achieved),
            },
            x_max=x_max,
            y_max=x_max,
            dashed={"offered": every},
        )
    ]
    for name in LATENCIES:
        unit, factor = UNITS[name]
        limit = limits[name] * factor if name in limits else None
        worst = factor * max((p for step in steps for p in step.overall.latencies[name][-1:]), default=0.0)
        if worst <= 0:
            continue
        y_max = axis_end(worst if limit is None else min(max(worst, limit), HEADROOM * limit))
        plots.append(
            line_plot(
                LATENCY_NAMES[name].capitalize() + ("" if limit is None else "; dashed: the objective"),
                "requests/s offered",
                unit + ("" if worst <= y_max else f"; what is more than {y_max:g} is drawn there"),
                {f"p{p}": _latency_points(steps, name, p, factor, y_max) for p in (50, 95, 99)},
                x_max=x_max,
                y_max=y_max,
                dashed={} if limit is None else {"objective": [(0.0, limit), (x_max, limit)]},
            )
        )
    return plots


def axis_end(value: float) -> float:
    """The next number of which a fifth is a round one: a plot has five steps."""
    fifth = value / 5
    power = 10.0 ** math.floor(math.log10(fifth))
    return float(5 * power * next(n for n in ROUND if n * power >= fifth * (1 - 1e-9)))


def _offered(step: Step) -> float:
    """Requests a second that there were: chance makes it a little more or less than the rate."""
    return step.overall.n / step.overall.seconds


def _points(steps: Sequence[Step], value: Callable[[Step], float]) -> Points:
    return [(_offered(step), value(step)) for step in steps]


def _latency_points(steps: Sequence[Step], name: Latency, p: float, factor: float, y_max: float) -> Points:
    return [
        (_offered(step), min(y_max, factor * percentile(step.overall.latencies[name], p)))
        for step in steps
        if step.overall.latencies[name]
    ]


def _steps(steps: Sequence[Step]) -> str:
    rows = []
    for step in steps:
        result = "holds" if step.held else "; ".join(step.broken) or "interrupted"
        own = f"p99 {1000 * step.lag_p99_s:.0f} ms late, {step.cpu_share:.0%} of a core"
        own += ": too slow" if step.generator_bound else ""
        figures = _row([f"{step.achieved:.4g}", *_cells(step.overall)])
        rate = _row([f"{step.rate:.4g}"])
        rows.append(rate + _wrapped(result) + figures + _text(codes(step.overall)) + _text(own))
    return _table(["requests/s", "objectives", "answers/s", *_HEAD, "error codes", "generator"], rows)


def _agents(result: Result) -> list[str]:
    step = result.knee or result.first_broken
    if step is None or not step.agents:
        return []
    rows = [_text(name) + _row(_cells(found)) + _text(codes(found)) for name, found in step.agents.items()]
    head = ["agent", *_HEAD, "error codes"]
    return [f"<h2>Agents at {step.rate:.4g} requests/s</h2>", _table(head, rows)]


_COLUMNS: dict[Latency, tuple[int, ...]] = {"ttft": (50, 99), "itl": (50, 99), "e2e": (50, 95, 99)}
_HEAD = ["asked", "good/s", "errors"] + [f"{name} p{p}" for name, ps in _COLUMNS.items() for p in ps]
_UNITS = "<p>Seconds. ttft: time to first token; itl: time per token after it; e2e: until the last.</p>"


def _cells(found: Figures) -> list[str]:
    values = [percentile(found.latencies[name], p) for name, ps in _COLUMNS.items() for p in ps]
    times = ["-" if value != value else f"{value:.3f}" for value in values]
    return [str(found.n), f"{found.goodput:.4g}", f"{found.error_share:.1%}", *times]


def _row(cells: Sequence[str]) -> str:
    return "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells)


def _text(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def _wrapped(text: str) -> str:
    return f'<td style="white-space: normal; min-width: 12rem">{escape(text)}</td>'


def _table(head: Sequence[str], rows: Sequence[str]) -> str:
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table style="white-space: nowrap"><tr>{names}</tr>{body}</table></div>'
