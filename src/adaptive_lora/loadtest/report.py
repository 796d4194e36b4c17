"""A load test as one HTML file: verdict, curves over the rate, every step, and the agents at the knee.

Plots are inline SVG: the file needs no network, no script and no other file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from adaptive_lora.loadtest.figures import LATENCIES, Figures, Latency, percentile
from adaptive_lora.loadtest.run import Result
from adaptive_lora.loadtest.step import Step
from adaptive_lora.plots import Points, line_plot, page

LATENCY_NAMES: dict[Latency, str] = {
    "ttft": "time to first token",
    "itl": "time per token after it",
    "e2e": "end to end",
}
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
        _steps(result.curve),
        *_agents(result),
    )


def verdict(result: Result) -> list[str]:
    """What a reader has to know, in sentences."""
    objectives = result.config.objectives
    wanted = [*map(str, objectives.latencies), f"errors<={objectives.max_error_share:g}"]
    lines = [f"Objectives, latencies in seconds: {', '.join(wanted)}."]
    knee, broken = result.knee, result.first_broken
    if knee is not None:
        lines.append(
            f"They hold at {knee.rate:.4g} requests/s, "
            f"with a goodput of {knee.overall.goodput:.4g} good answers/s."
        )
    if broken is not None:
        lines.append(f"They do not at {broken.rate:.4g} requests/s: {'; '.join(broken.broken)}.")
    if any(step.generator_bound for step in result.steps):
        lines.append(
            "The load generator could not keep its own pace at a rate marked below: what broke there says "
            "more of it than of the server. Run it on a faster or less busy machine."
        )
    few = knee is not None and any(knee.overall.n < 100 / (100 - o.percentile) for o in objectives.latencies)
    if few:
        lines.append("So few requests say little of such percentiles: measure longer (--seconds).")
    if result.interrupted:
        lines.append("Interrupted: the last rate was not measured to its end.")
    return lines


def _plots(result: Result) -> list[str]:
    steps = [step for step in result.curve if step.overall.n]
    if not steps:
        return []
    x_max = 1.05 * max(step.rate for step in steps)
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
        limit = limits.get(name)
        worst = max((value for step in steps for value in step.overall.latencies[name]), default=0.0)
        y_max = 1.1 * worst if limit is None else min(1.1 * max(worst, limit), HEADROOM * limit)
        if worst <= 0:
            continue
        plots.append(
            line_plot(
                f"{LATENCY_NAMES[name].capitalize()}, in seconds"
                + ("" if limit is None else "; dashed: the objective"),
                "requests/s offered",
                "seconds, at most what the axis shows",
                {f"p{p}": _latency_points(steps, name, p, y_max) for p in (50, 95, 99)},
                x_max=x_max,
                y_max=y_max,
                dashed={} if limit is None else {"objective": [(0.0, limit), (x_max, limit)]},
            )
        )
    return plots


def _points(steps: Sequence[Step], value: Callable[[Step], float]) -> Points:
    return [(step.rate, value(step)) for step in steps]


def _latency_points(steps: Sequence[Step], name: Latency, p: float, y_max: float) -> Points:
    return [
        (step.rate, min(y_max, percentile(step.overall.latencies[name], p)))
        for step in steps
        if step.overall.latencies[name]
    ]


def _steps(steps: Sequence[Step]) -> str:
    rows = []
    for step in steps:
        result = "holds" if step.held else "; ".join(step.broken) or "interrupted"
        own = f"p99 {1000 * step.lag_p99_s:.0f} ms late, {step.cpu_share:.0%} of a core"
        cells = [f"{step.rate:.4g}", f"{step.achieved:.4g}", *_cells(step.overall)]
        rows.append(_row(cells) + _text(result) + _text(own + (": too slow" if step.generator_bound else "")))
    return _table(["requests/s", "answers/s", *_HEAD], rows, ["objectives", "generator"])


def _agents(result: Result) -> list[str]:
    step = result.knee or result.first_broken
    if step is None or not step.agents:
        return []
    rows = [_text(name) + _row(_cells(found)) for name, found in step.agents.items()]
    return [f"<h2>Agents at {step.rate:.4g} requests/s</h2>", _table(["agent", *_HEAD], rows, [])]


_HEAD = ["requests", "good/s", "errors", "ttft p50", "p99", "itl p50", "p99", "e2e p50", "p95", "p99"]


def _cells(found: Figures) -> list[str]:
    ends = {"ttft": (50, 99), "itl": (50, 99), "e2e": (50, 95, 99)}
    values = [percentile(found.latencies[name], p) for name in LATENCIES for p in ends[name]]
    times = ["-" if value != value else f"{value:.3f}" for value in values]
    codes = ", ".join(f"{code} {n}" for code, n in found.errors.items())
    errors = f"{found.error_share:.1%}" + (f" ({codes})" if codes else "")
    return [str(found.n), f"{found.goodput:.4g}", errors, *times]


def _row(cells: Sequence[str]) -> str:
    return "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells)


def _text(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def _table(head: Sequence[str], rows: Sequence[str], more: Sequence[str]) -> str:
    names = "".join(f"<th>{escape(name)}</th>" for name in [*head, *more])
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{names}</tr>{body}</table></div>'
