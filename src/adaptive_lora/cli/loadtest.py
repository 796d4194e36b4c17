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

from adaptive_lora.cli.client import ServerRefused, authorization, call
from adaptive_lora.cli.common import AsJson, check_writable, console, output, print_json, write_text
from adaptive_lora.demo_fleet import DEMO
from adaptive_lora.errors import InvalidRequest, SettingsError

if TYPE_CHECKING:
    from adaptive_lora.loadtest.run import Result
    from adaptive_lora.loadtest.search import RateSearch
    from adaptive_lora.loadtest.step import LoadConfig, Step
    from adaptive_lora.loadtest.workload import Workload

DEFAULT_OBJECTIVE = "e2e:p95=2"
PROMPTS = "--prompts, JSONL or a folder of adapters"


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
    from adaptive_lora.loadtest.summary import table, verdict
    from adaptive_lora.loadtest.workload import Workload, parse_lengths

    _check_url(url)
    _positive("--rate", rate)
    _positive("--start", start)
    _positive("--max-rate", max_rate)
    _positive("--precision", precision)
    _positive("--seconds", seconds)
    _positive("--timeout", timeout)
    if not math.isfinite(warmup) or warmup < 0:
        raise InvalidRequest("--warmup is a number of seconds, 0 or more")
    if rate is None and start > max_rate:
        raise InvalidRequest("--start is above --max-rate")
    if report is not None:
        check_writable("--report", report)
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
    search = (
        RateSearch(start, max_rate, precision, min_rate=start / 16)
        if rate is None
        else RateSearch(rate, rate, min_rate=rate)
    )
    result = asyncio.run(_run(url, workload, config, search))
    if as_json:
        print_json({"url": url, **result.document()})
    else:
        for line in (*table(result), "", *verdict(result)):
            output().print(line, markup=False)
    if report is not None:  # last: what was measured is told even if the disk is full
        write_text(report, render_report(result, title=f"Load test of {url}"))
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
    """Of each agent that will be asked."""
    from adaptive_lora.loadtest.workload import choose_prompts
    from adaptive_lora.training.router import read_examples

    try:
        examples = read_examples(source).prompts
    except SettingsError as error:
        raise InvalidRequest(f"no demo fleet is here whose prompts could be taken: give {PROMPTS}") from error
    models = call(url, "GET", "/v1/models")
    match models:
        case {"data": [*entries]} if all(isinstance(entry, dict) and "id" in entry for entry in entries):
            served = [str(entry["id"]) for entry in entries]
        case _:
            raise ServerRefused(f"{url} does not list its models: is it an Adaptive LoRA server?")
    wanted = None if agents is None else [name.strip() for name in agents.split(",")]
    return choose_prompts(examples, served, wanted)


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
    from adaptive_lora.loadtest.summary import marks

    console().print(f"{step.rate:.4g} requests/s: {marks(step)}", markup=False)
