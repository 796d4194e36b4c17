"""An evaluation of the router as one HTML file: figures, confusions, reliability, risk and coverage.

Plots are inline SVG: the file needs no network, no script and no other file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from adaptive_lora.plots import line_plot, page
from adaptive_lora.training.router_evaluation import Evaluation
from adaptive_lora.training.router_metrics import reliability, risk_coverage

N_CONFUSIONS = 25
MAX_MATRIX = 24
"""Agents up to which the whole confusion matrix is drawn."""


def render_report(evaluation: Evaluation, *, title: str) -> str:
    """The whole page."""
    right = np.array([a == b for a, b in zip(evaluation.truth, evaluation.predicted, strict=True)])
    confidence = np.array(evaluation.confidence)
    coverage, risk = risk_coverage(confidence, right)
    mean, accuracy, _ = reliability(confidence, right)
    max_error = evaluation.figures.get("max_error")
    plots = [
        line_plot(
            "Reliability: how often it is right when it is that sure",
            "confidence",
            "accuracy",
            {"router": list(zip(mean, accuracy, strict=True))},
            dashed={"perfect": [(0, 0), (1, 1)]},
        ),
        line_plot(
            "Risk and coverage: errors among the surest prompts",
            "coverage",
            "error",
            {"router": list(zip(coverage, risk, strict=True))},
            y_max=max(0.05, 1.1 * float(risk.max(initial=0)), 1.1 * (max_error or 0)),
            dashed={} if max_error is None else {"bound": [(0, max_error), (1, max_error)]},
        ),
    ]
    return page(
        title,
        _figures(evaluation.figures),
        '<div class="plots">',
        *plots,
        "</div>",
        _confusions(evaluation.truth, evaluation.predicted),
    )


def _figures(figures: dict[str, Any]) -> str:
    rows = []
    for name, value in figures.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        rows.append(
            f'<tr><th>{escape(name)}</th><td class="n">{escape("-" if text is None else str(text))}</td></tr>'
        )
    return "<table>" + "".join(rows) + "</table>"


def _confusions(truth: Sequence[str], predicted: Sequence[str]) -> str:
    pairs = Counter(zip(truth, predicted, strict=True))
    totals = Counter(truth)
    wrong = Counter({pair: n for pair, n in pairs.items() if pair[0] != pair[1]}).most_common(N_CONFUSIONS)
    parts = ["<h2>Confusions</h2>"]
    if wrong:
        parts.append(
            "<table><tr><th>asked for</th><th>taken for</th><th>prompts</th><th>of its own</th></tr>"
        )
        parts += [
            f'<tr><td>{escape(a)}</td><td>{escape(b)}</td><td class="n">{n}</td>'
            f'<td class="n">{n / totals[a]:.0%}</td></tr>'
            for (a, b), n in wrong
        ]
        parts.append("</table>")
    else:
        parts.append("<p>None.</p>")
    names = sorted(totals)
    if len(names) <= MAX_MATRIX:
        parts.append(_matrix(names, pairs, totals))
    return "\n".join(parts)


def _matrix(names: Sequence[str], pairs: Counter[tuple[str, str]], totals: Counter[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = []
    for true in names:
        cells = []
        for guess in names:
            share = pairs[true, guess] / totals[true]
            colour = "var(--good)" if true == guess else "var(--bad)"
            shade = f"background: color-mix(in srgb, {colour} {round(60 * share)}%, transparent)"
            cells.append(f'<td class="n" style="{shade}">{pairs[true, guess] or ""}</td>')
        rows.append(f"<tr><th>{escape(true)}</th>{''.join(cells)}</tr>")
    return (
        '<h2>Confusion matrix</h2><p>Rows: asked for. Columns: most probable agent.</p><div class="scroll">'
        f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table></div>"
    )
