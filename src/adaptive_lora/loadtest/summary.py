"""A load test in words, for a terminal and for the report's head."""

from __future__ import annotations

from collections.abc import Iterator

from adaptive_lora.loadtest.figures import Figures, percentile
from adaptive_lora.loadtest.run import Result
from adaptive_lora.loadtest.step import Step

_ROW = "{:>10} {:>9} {:>7} {:>7} {:>9} {:>9} {:>9} {:>9}  {}"


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


def table(result: Result) -> Iterator[str]:
    """A line per rate, in order of rates; latencies in seconds."""
    names = ("requests/s", "answers/s", "good/s", "errors", "ttft p99", "itl p99", "e2e p95", "e2e p99", "")
    yield _ROW.format(*names).rstrip()
    for step in result.curve:
        found, of = step.overall, step.overall.latencies
        rates = (f"{step.rate:.4g}", f"{step.achieved:.4g}", f"{found.goodput:.4g}")
        columns = ((of["ttft"], 99), (of["itl"], 99), (of["e2e"], 95), (of["e2e"], 99))
        times = [f"{percentile(values, p):.3f}" if values else "-" for values, p in columns]
        yield _ROW.format(*rates, f"{found.error_share:.1%}", *times, marks(step))


def marks(step: Step) -> str:
    """Whether a rate holds, or why not; and its errors."""
    parts = ["holds"] if step.held else [*step.broken, *["interrupted"] * step.interrupted]
    parts += filter(None, [codes(step.overall)])
    return "; ".join([*parts, *["generator too slow"] * step.generator_bound])


def codes(found: Figures) -> str:
    """Errors by code, the most frequent first."""
    return ", ".join(f"{code} {n}" for code, n in found.errors.items())
