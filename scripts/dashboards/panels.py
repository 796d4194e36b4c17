"""What dashboards are made of: rows of panels, each with its queries, and the queries' common parts.

`$job` is chosen on the dashboard, `$__rate_interval` is Grafana's: at least four scrapes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

JOB = 'job=~"$job"'


@dataclass(frozen=True)
class Query:
    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    """Grafana's id of a unit: s, percentunit, reqps, bytes, short."""
    kind: str = "timeseries"
    """Or "stat": the last value alone."""
    description: str = ""
    limit: float | None = None
    """Drawn as a line: where an alert begins."""
    stacked: bool = False


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    rows: dict[str, tuple[Panel, ...]] = field(default_factory=dict)


def rate(counter: str, by: str = "", where: str = "") -> str:
    """Events a second of a counter, summed by labels."""
    labels = ", ".join(filter(None, (JOB, where)))
    return f"sum by ({by}) (rate({counter}{{{labels}}}[$__rate_interval]))"


def quantile(q: float, histogram: str, by: str = "", where: str = "") -> str:
    grouped = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile({q}, {rate(histogram + '_bucket', grouped, where)})"


def gauge(name: str, how: str = "sum", by: str = "", where: str = "") -> str:
    labels = ", ".join(filter(None, (JOB, where)))
    return f"{how} by ({by}) ({name}{{{labels}}})"


def quantiles(histogram: str, where: str = "") -> tuple[Query, ...]:
    return tuple(Query(quantile(q, histogram, where=where), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99))
