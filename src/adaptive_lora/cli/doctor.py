"""adaptive-lora doctor"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from adaptive_lora.cli.common import AsJson, Config, output, print_json

_STYLES = {"ok": "green", "warning": "yellow", "error": "red"}


def doctor(
    config: Config = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what this machine can run and what is missing.

    Exit code 0 if the settings are valid, with missing hardware, files or secrets as warnings; else 1.
    """
    from adaptive_lora.doctor import examine

    findings = examine(config)
    levels = {finding.level for finding in findings}
    failed = "error" in levels or (strict and "warning" in levels)
    if as_json:
        print_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        table = Table("", "what", "found", box=None)
        for finding in findings:
            level = Text(finding.level, style=_STYLES[finding.level])
            table.add_row(level, finding.what, Text(finding.found))
        output().print(table)
    raise typer.Exit(1 if failed else 0)
