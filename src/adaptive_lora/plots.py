"""Line plots as inline SVG: no script, no network, readable in light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #059669; --bad: #dc2626 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .15rem .6rem; text-align: left }
td, th { border-bottom: 1px solid var(--line) } td.n { text-align: right; font-variant-numeric: tabular-nums }
.plots { display: flex; flex-wrap: wrap; gap: 1rem } .scroll { overflow-x: auto } figure { margin: 0 }
svg { max-width: 100%; height: auto } svg text { font-size: 11px; fill: currentColor }
""".strip()

_COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea")
_SIZE, _LEFT, _TOP = 320, 52, 22
_STEPS = 5

Points = Sequence[tuple[float, float]]


def page(title: str, *parts: str) -> str:
    """A whole HTML page."""
    head = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style></head>'
    )
    return "\n".join([head, f"<body><h1>{escape(title)}</h1>", *parts, "</body></html>", ""])


def line_plot(
    title: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, Points],
    *,
    x_max: float = 1.0,
    y_max: float = 1.0,
    dashed: Mapping[str, Points] | None = None,
) -> str:
    """One line per series, axes from 0; `dashed` lines are for comparison."""

    def x_of(value: float) -> float:
        return round(_LEFT + value / x_max * _SIZE, 1)

    def y_of(value: float) -> float:
        return round(_TOP + (1 - value / y_max) * _SIZE, 1)

    def line(points: Points, colour: str, extra: str) -> str:
        path = " ".join(f"{x_of(x)},{y_of(y)}" for x, y in points)
        return f'<polyline points="{path}" stroke="{colour}" fill="none" {extra}/>'

    body = []
    for step in range(_STEPS + 1):
        x, y = x_max * step / _STEPS, y_max * step / _STEPS
        body.append(
            f'<line x1="{_LEFT}" x2="{_LEFT + _SIZE}" y1="{y_of(y)}" y2="{y_of(y)}" stroke="#8884"/>'
            f'<text x="{_LEFT - 6}" y="{y_of(y) + 4}" text-anchor="end">{_number(y)}</text>'
            f'<text x="{x_of(x)}" y="{_TOP + _SIZE + 16}" text-anchor="middle">{_number(x)}</text>'
        )
    body += [line(points, "#888", 'stroke-dasharray="4"') for points in (dashed or {}).values()]
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        body.append(line(points, colour, 'stroke-width="2"'))
        if len(points) <= 30:
            body += [f'<circle cx="{x_of(x)}" cy="{y_of(y)}" r="3" fill="{colour}"/>' for x, y in points]
        if len(series) > 1:
            place = f'x="{_LEFT + 8}" y="{_TOP + 14 + 14 * number}"'
            body.append(f'<text {place} style="fill: {colour}">{escape(name)}</text>')
    width, height = _LEFT + _SIZE + 24, _TOP + _SIZE + 40
    body.append(
        f'<text x="{_LEFT + _SIZE / 2}" y="{height - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text x="4" y="12">{escape(y_label)}</text>'
    )
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg role="img" aria-label="{escape(title)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{"".join(body)}</svg></figure>'
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}".rstrip("0").rstrip(".") or "0"
