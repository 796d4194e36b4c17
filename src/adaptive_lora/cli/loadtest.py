"""adaptive-lora loadtest"""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from adaptive_lora.agents.names import AUTO
from adaptive_lora.cli.client import authorization, call
from adaptive_lora.cli.common import AsJson, console, output, print_json
from adaptive_lora.demo_fleet import DEMO
from adaptive_lora.errors import InvalidRequest
from adaptive_lora.types import BASE

if TYPE_CHECKING:
    from adaptive_lora.loadtest.run import Result
    from adaptive_lora.loadtest.search import RateSearch
    from adaptive_lora.loadtest.step import LoadConfig, Step
    from adaptive_lora.loadtest.workload import Workload

DEFAULT_OBJECTIVE = "e2e:p95=2"


def loadtest(
    url: Annotated[str, typer.Argument(help="URL of the running server.")],
    rate: Annotated[
        float | None, typer.Option(help="Try this rate alone, in requests a second; default: find the knee.")
    ] = None,
    start: Annotated[float, typer.Option(help="The first rate of the search.")] = 1.0,
    max_rate: Annotated[float, typer.Option(help="The highest rate of the search.")] = 1000.0,
    precision: Annotated[float, typer.Option(help="How near the knee the search ends, as a share.")] = 0.1,
    seconds: Annotated[float, typer.Option(help="Measured at each rate.")] = 30.0,
    warmup: Annotated[float, typer.Option(help="Seconds at each rate before those.")] = 5.0,
    slo: Annotated[
        list[str] | None,
        typer.Option(
            help="ttft, itl or e2e, a percentile, and seconds: ttft:p99=0.5. Can be repeated. "
            f"Default: {DEFAULT_OBJECTIVE}."
        ),
    ] = None,
    max_errors: Annotated[float, typer.Option(min=0, max=1, help="Highest share of errors.")] = 0.05,
    agents: Annotated[
        str | None,
        typer.Option(
            help="Whom to ask, separated by commas, the most asked for first; also auto and base. Default: "
            "every agent that the server shows and that has prompts."
        ),
    ] = None,
    zipf: Annotated[
        float, typer.Option(min=0, max=10, help="Exponent of agents' popularity; 0: all alike.")
    ] = 1.0,
    prompts: Annotated[
        str,
        typer.Option(
            help='JSONL with {"prompt": ..., "label": AGENT}, or a folder of adapters, whose examples are '
            "taken; 'demo': those of the demo fleet."
        ),
    ] = DEMO,
    tokens: Annotated[str, typer.Option(help="max_tokens of a request: 64, or 16-256.")] = "16-128",
    ignore_eos: Annotated[bool, typer.Option(help="Let answers have all of --tokens.")] = False,
    repeat_prompts: Annotated[
        bool,
        typer.Option(help="Send prompts as they are; else each gets a number, so that none is repeated."),
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds after which an answer is given up.")] = 60.0,
    max_in_flight: Annotated[
        int, typer.Option(min=1, help="So many unanswered requests end a rate as overloaded.")
    ] = 2048,
    seed: Annotated[int, typer.Option(help="Of arrivals, agents, prompts and lengths.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Also write a report with plots, as HTML.")] = None,
    as_json: AsJson = False,
) -> None:
    """Load a running server at rising rates until its objectives break, and say where they hold.

    Requests arrive at random, whatever became of those before, and times count from when each was due.
    Exit code 1 if no rate that was tried holds; 130 after Ctrl-C, with what was measured until then.
    """
    from adaptive_lora.loadtest.figures import Objectives, parse_objective
    from adaptive_lora.loadtest.report import render_report
    from adaptive_lora.loadtest.search import RateSearch
    from adaptive_lora.loadtest.step import LoadConfig
    from adaptive_lora.loadtest.workload import Workload, parse_lengths

    _check_url(url)
    for name, value in (
        ("--rate", rate),
        ("--start", start),
        ("--max-rate", max_rate),
        ("--seconds", seconds),
    ):
        _positive(name, value)
    _positive("--precision", precision)
    _positive("--timeout", timeout)
    if not math.isfinite(warmup) or warmup < 0:
        raise InvalidRequest("--warmup is a number of seconds, 0 or more")
    if rate is None and start > max_rate:
        raise InvalidRequest("--start is above --max-rate")
    if report is not None and not report.absolute().parent.is_dir():
        raise InvalidRequest(f"--report {report}: there is no such folder")
    objectives = tuple(parse_objective(text) for text in slo or [DEFAULT_OBJECTIVE])
    lengths = parse_lengths(tokens)
    config = LoadConfig(
        Objectives(objectives, max_errors),
        seconds=seconds,
        warmup_s=warmup,
        timeout_s=timeout,
        max_in_flight=max_in_flight,
        ignore_eos=ignore_eos,
        seed=seed,
    )
    chosen = _prompts(url, prompts, agents)
    console().print(f"asking {', '.join(chosen)}", markup=False)
    workload = Workload(chosen, lengths, zipf=zipf, seed=seed, repeat=repeat_prompts)
    search = RateSearch(start, max_rate, precision) if rate is None else RateSearch(rate, rate, min_rate=rate)
    result = asyncio.run(_run(url, workload, config, search))
    if report is not None:
        report.write_text(render_report(result, title=f"Load test of {url}"), encoding="utf-8")
    if as_json:
        print_json({"url": url, **result.document()})
    else:
        _print(result)
    if result.interrupted:
        raise typer.Exit(130)
    if result.knee is None:
        raise typer.Exit(1)


async def _run(url: str, workload: Workload, config: LoadConfig, search: RateSearch) -> Result:
    """Ends at the first Ctrl-C with what there is; a second one ends the program."""
    from adaptive_lora.loadtest.run import run

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_interrupt() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, on_interrupt)
    try:
        return await run(url, authorization(), workload, config, search, stop=stop, on_step=_progress)
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _prompts(url: str, source: str, agents: str | None) -> dict[str, Sequence[str]]:
    """Of each agent that will be asked. Raises InvalidRequest for one without."""
    from adaptive_lora.training.router import read_examples

    examples = {name: prompts for name, prompts in read_examples(source).prompts.items() if prompts}
    every = [prompt for prompts in examples.values() for prompt in prompts]
    served = [str(model["id"]) for model in call(url, "GET", "/v1/models")["data"]]
    if agents is None:
        names = [name for name in examples if name in served]
        if not names:
            raise InvalidRequest(
                f"the server shows none of {', '.join(examples)}: choose --prompts or --agents"
            )
    else:
        names = [name.strip() for name in agents.split(",")]
    chosen: dict[str, Sequence[str]] = {}
    for name in names:
        if name not in served:
            raise InvalidRequest(
                f"the server does not show {name!r} to this caller; it shows {', '.join(served)}"
            )
        prompts = every if name in (AUTO, BASE) else examples.get(name.partition("@")[0], ())
        if not prompts:
            raise InvalidRequest(f"{source} has no prompts for {name!r}")
        chosen[name] = prompts
    return chosen


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        ok = False
    if not ok or parts.query or parts.fragment:
        raise InvalidRequest(f"{url!r} is no URL of a server: say http://127.0.0.1:8000")


def _positive(name: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise InvalidRequest(f"{name} is a number above 0")


def _progress(step: Step) -> None:
    console().print(f"{step.rate:.4g} requests/s: {_marks(step)}", markup=False)


def _marks(step: Step) -> str:
    """Whether it holds, or why not; what errors there were."""
    parts = ["holds"] if step.held else [*step.broken, *["interrupted"] * step.interrupted]
    parts += [f"{n} {code}" for code, n in step.overall.errors.items()]
    return "; ".join([*parts, *["generator too slow"] * step.generator_bound])


def _print(result: Result) -> None:
    from adaptive_lora.loadtest.figures import percentile
    from adaptive_lora.loadtest.report import verdict

    out = output()
    row = "{:>10} {:>9} {:>7} {:>7} {:>9} {:>9} {:>9} {:>9}  {}"
    times = ("ttft p99", "itl p99", "e2e p95", "e2e p99")
    out.print(row.format("requests/s", "answers/s", "good/s", "errors", *times, "").rstrip())
    for step in result.curve:
        found, of = step.overall, step.overall.latencies
        rates = (f"{step.rate:.4g}", f"{step.achieved:.4g}", f"{found.goodput:.4g}")
        columns = ((of["ttft"], 99), (of["itl"], 99), (of["e2e"], 95), (of["e2e"], 99))
        cells = [f"{percentile(values, p):.3f}" if values else "-" for values, p in columns]
        out.print(row.format(*rates, f"{found.error_share:.1%}", *cells, _marks(step)), markup=False)
    for line in ("", *verdict(result)):
        out.print(line, markup=False)
