"""adaptive-lora debug profile | cpu | memory: looks into a running server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from adaptive_lora.cli.client import call
from adaptive_lora.cli.common import AsJson, check_writable, console, output, print_json, write_text
from adaptive_lora.cli.keys import ADMIN_VARIABLE

app = typer.Typer(help="Look into a running server.", no_args_is_help=True)

Server = Annotated[
    str, typer.Option("--server", help="URL of a server's administrators' port.", envvar=ADMIN_VARIABLE)
]
Seconds = Annotated[float, typer.Option("--seconds", help="How long to look.", min=0.1, max=60)]


@app.command("profile")
def profile(server: Server, as_json: AsJson = False) -> None:
    """Show the engine's memory, adapters and queue, and the server's own process."""
    answer = call(server, "GET", "/debug/profile")
    if as_json:
        print_json(answer)
        return
    table = Table(box=None, show_header=False)
    for name in ("gpu_memory_allocated", "gpu_memory_cached", "adapters_loaded", "queue_size"):
        value = answer[name]
        table.add_row(name, Text(answer["reasons"].get(name, "") if value is None else _figure(name, value)))
    for device in answer["devices"]:
        used = f"{_bytes(device['allocated'])} of {_bytes(device['total'])}, {_bytes(device['free'])} free"
        table.add_row(f"{device['worker']} {device['device']}", used)
    for name, value in answer["process"].items():
        table.add_row(name, Text(_figure(name, value)))
    output().print(table)


@app.command("cpu")
def cpu(
    server: Server,
    seconds: Seconds = 10.0,
    path: Annotated[
        Path, typer.Option("--output", "-o", help="File to write, for https://www.speedscope.app.")
    ] = Path("profile.speedscope.json"),
) -> None:
    """Write where the server spends its CPU time, by stack."""
    check_writable("--output", path)
    answer = call(server, "POST", "/debug/profile/cpu", params={"seconds": seconds})
    write_text(path, json.dumps(answer))
    busy_s = sum(profile["endValue"] for profile in answer["profiles"])
    console().print(f"{path}: {busy_s:.2f} s in {seconds:g} s", style="dim", markup=False)


@app.command("memory")
def memory(
    server: Server,
    seconds: Seconds = 10.0,
    lines: Annotated[int, typer.Option("--lines", help="How many to show.", min=1, max=200)] = 30,
    as_json: AsJson = False,
) -> None:
    """Show what the server allocates meanwhile and keeps, by line of Python. It is slower until then."""
    answer = call(server, "POST", "/debug/profile/memory", params={"seconds": seconds, "lines": lines})
    if as_json:
        print_json(answer)
        return
    table = Table("kept", "blocks", "where", box=None)
    for line in answer["lines"]:
        where = Text(f"{line['file']}:{line['line']}")
        table.add_row(_bytes(line["n_bytes"]), str(line["n_blocks"]), where)
    output().print(table)
    total, before, after = (_bytes(answer[name]) for name in ("traced_bytes", "rss_before", "rss_after"))
    console().print(f"{total} in all lines; process {before}, then {after}", style="dim", markup=False)


def _figure(name: str, value: Any) -> str:
    return _bytes(value) if "memory" in name or name.endswith("_bytes") else str(value)


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            break
        n /= 1024
    return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
