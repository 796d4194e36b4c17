"""adaptive-lora models push | pull"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptive_lora.cli.common import AsJson, console, output, print_json

if TYPE_CHECKING:
    from adaptive_lora.adapters.sync import Plan

app = typer.Typer(help="Folders of models, to object storage and back.", no_args_is_help=True)

Url = Annotated[
    str, typer.Argument(help="s3://bucket/path, gs://bucket/path, az://container/path or file:///path.")
]
Folder = Annotated[Path, typer.Argument(help="Folder on this machine.")]
Delete = Annotated[
    bool, typer.Option("--delete", help="Delete there what is not here (pull: the other way round).")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Jobs = Annotated[int, typer.Option(min=1, max=64, help="Files at once.")]


@app.command("push")
def push_models(
    folder: Folder,
    url: Url,
    delete: Delete = False,
    dry_run: DryRun = False,
    jobs: Jobs = 4,
    as_json: AsJson = False,
) -> None:
    """Make URL like FOLDER: upload what is missing there or differs, by SHA-256. Goes on after an
    interruption."""
    from adaptive_lora.adapters.object_storage import ObjectFolder
    from adaptive_lora.adapters.sync import plan_push, push

    remote = ObjectFolder.at(url)
    with console().status(f"comparing {folder} with {remote.location}"):
        plan = plan_push(folder, remote, delete=delete, jobs=jobs)
    if not dry_run:
        _show_progress(
            plan, "pushing", lambda progress: push(plan, folder, remote, jobs=jobs, progress=progress)
        )
    _report(plan, dry_run=dry_run, as_json=as_json, verb="pushed")


@app.command("pull")
def pull_models(
    url: Url,
    folder: Folder,
    delete: Delete = False,
    dry_run: DryRun = False,
    jobs: Jobs = 4,
    as_json: AsJson = False,
) -> None:
    """Make FOLDER like URL: download what is missing here or differs. Goes on after an interruption."""
    from adaptive_lora.adapters.object_storage import ObjectFolder
    from adaptive_lora.adapters.sync import plan_pull, pull

    remote = ObjectFolder.at(url)
    with console().status(f"comparing {remote.location} with {folder}"):
        plan = plan_pull(remote, folder, delete=delete, jobs=jobs)
    if not dry_run:
        _show_progress(
            plan, "pulling", lambda progress: pull(plan, remote, folder, jobs=jobs, progress=progress)
        )
    _report(plan, dry_run=dry_run, as_json=as_json, verb="pulled")


def _show_progress(plan: Plan, verb: str, run: Callable[[Callable[[int], None]], None]) -> None:
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns: list[Any] = ["{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    columns.append(TimeRemainingColumn())
    terminal = console()
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task(f"{verb} {len(plan.transfer)} files", total=plan.n_bytes)
        run(lambda n_bytes: progress.advance(task, n_bytes))


def _report(plan: Plan, *, dry_run: bool, as_json: bool, verb: str) -> None:
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "transferred": sorted(plan.transfer),
                "transferred_bytes": plan.n_bytes,
                "unchanged": len(plan.unchanged),
                "deleted": list(plan.delete),
            }
        )
        return
    would = "would be " if dry_run else ""
    for path in sorted(plan.transfer):
        output().print(f"{would}{verb}: {path}", markup=False)
    for path in plan.delete:
        output().print(f"{would}deleted: {path}", markup=False)
    output().print(
        f"{len(plan.transfer)} files ({plan.n_bytes / 1e6:.1f} MB) {would}{verb}, {len(plan.unchanged)} "
        "unchanged, "
        f"{len(plan.delete)} {would}deleted",
        markup=False,
    )
