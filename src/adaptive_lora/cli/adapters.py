"""adaptive-lora adapters list | show | verify"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from adaptive_lora.cli.client import actor
from adaptive_lora.cli.common import (
    AdaptersFolder,
    AsJson,
    BaseModel,
    Config,
    console,
    finite,
    output,
    print_json,
    settings_from,
)
from adaptive_lora.errors import AdapterError, SettingsError, UnknownAdapter

if TYPE_CHECKING:
    from adaptive_lora.adapters.catalog import Catalog
    from adaptive_lora.settings import Settings
    from adaptive_lora.training.parity import ParityReport
    from adaptive_lora.types import AdapterVersion

app = typer.Typer(help="The fleet's files.", no_args_is_help=True)


@app.command("list")
def list_adapters(
    config: Config = None,
    base_model: BaseModel = None,
    adapters: AdaptersFolder = None,
    as_json: AsJson = False,
) -> None:
    """List the adapters that would be served, and those that would be refused. Loads no model."""
    settings = settings_from(config, {"model.base_model": base_model, "adapters.path": adapters})
    _show(_catalog(settings), as_json)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="The agent's name.")],
    config: Config = None,
    base_model: BaseModel = None,
    adapters: AdaptersFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show one adapter, whether `auto` may choose it, and what it lacks if not. Loads no model."""
    settings = settings_from(config, {"model.base_model": base_model, "adapters.path": adapters})
    catalog = _catalog(settings)
    version = next((version for version in catalog.versions if version.name == name), None)
    if version is None:
        known = ", ".join(version.name for version in catalog.versions) or "none"
        refused = catalog.rejected.get(name)
        raise UnknownAdapter(
            f"{name!r} is refused: {refused.message}"
            if refused
            else f"no adapter {name!r}; there are: {known}"
        )
    from adaptive_lora.serving import loading

    with console().status("learning from the adapters' examples"):
        router = loading.make_router(settings, catalog.versions)
    standing = router.standing(name)
    shown = {
        **_fields(version),
        "n_examples": len(version.examples),
        "usable_examples": router.report.agents.get(name, 0),
        "routing": standing.routing,
        "missing": standing.missing,
        "min_confidence": finite(router.report.min_confidence),
        "min_familiarity": finite(router.report.min_familiarity),
        "calibrated_on": router.report.n_held_out,
    }
    if as_json:
        print_json(shown)
        return
    table = Table(box=None, show_header=False)
    for key, value in shown.items():
        table.add_row(key, Text("-" if value is None else str(value)))
    output().print(table)


@app.command("verify")
def verify(
    path: Annotated[
        Path | None, typer.Argument(help="One adapter, or a folder of adapters; default: adapters.path.")
    ] = None,
    parity: Annotated[
        bool,
        typer.Option(
            "--parity", help="Also compare the engine with PEFT on their probes; starts both. Minutes."
        ),
    ] = False,
    config: Config = None,
    base_model: BaseModel = None,
    as_json: AsJson = False,
) -> None:
    """Check adapters as the server does before it loads them. Exit code 1: one is refused, or none found.

    The report of --parity is kept in the registry with the version, if the registry knows it.
    """
    if path is not None and not path.is_dir():
        raise SettingsError(f"{path} is not a folder")
    settings = settings_from(config, {"model.base_model": base_model, "adapters.path": path})
    catalog = _catalog_of_one(settings, path) if path and _is_adapter(path) else _catalog(settings)
    reports = [_parity(settings, version) for version in catalog.versions] if parity else []
    if as_json and parity:
        print_json(_as_dict(catalog) | {"parity": [report.as_dict() for report in reports]})
    else:
        _show(catalog, as_json)
    for report in () if as_json else reports:
        output().print(
            f"{report.adapter}: {'equals' if report.passed else 'DIFFERS FROM'} PEFT, by "
            f"{report.mean_difference:.2g} nats a token on {report.n_tokens} tokens "
            f"(at most {report.mean_tolerance:.2g} in {report.engine_dtype})",
            markup=False,
        )
    if catalog.rejected or not catalog.versions or not all(report.passed for report in reports):
        raise typer.Exit(1)


def _parity(settings: Settings, version: AdapterVersion) -> ParityReport:
    from adaptive_lora.serving import loading
    from adaptive_lora.training.parity import run_parity

    with console().status(f"comparing {version.id} with PEFT"):
        report = run_parity(settings, version)
    registry = loading.open_registry(settings)
    try:
        registry.report(version.name, version.version, "parity", report.as_dict(), who=actor())
    except UnknownAdapter:
        console().print(f"{version.id} is not in the registry: its report is not kept", style="yellow")
    finally:
        registry.close()
    return report


def _is_adapter(path: Path) -> bool:
    return any((path / name).exists() for name in ("manifest.json", "adapter_config.json"))


def _catalog(settings: Settings) -> Catalog:
    from adaptive_lora.serving import loading

    if settings.adapters.path is None:
        raise SettingsError("there is no folder of adapters: set adapters.path, or pass one")
    with console().status(f"checking {settings.adapters.path}"):
        return loading.load_catalog(settings, loading.describe_base(settings))


def _catalog_of_one(settings: Settings, path: Path) -> Catalog:
    from adaptive_lora.adapters.catalog import Catalog
    from adaptive_lora.adapters.verify import verify_adapter
    from adaptive_lora.serving import loading

    base = loading.describe_base(settings)
    try:
        return Catalog((verify_adapter(path, base=base, max_rank=settings.adapters.max_lora_rank),))
    except AdapterError as error:
        return Catalog(rejected={path.name: error})


def _show(catalog: Catalog, as_json: bool) -> None:
    if as_json:
        print_json(_as_dict(catalog))
        return
    table = Table("agent", "version", "rank", "MB", "description", box=None)
    for version in catalog.versions:
        megabytes = f"{version.size_bytes / 1e6:.1f}"
        table.add_row(
            Text(version.name), version.version, str(version.rank), megabytes, Text(version.description)
        )
    if catalog.versions:
        output().print(table)
    elif not catalog.rejected:
        console().print("no adapters found", style="yellow")
    for folder, error in catalog.rejected.items():
        console().print(f"refused: {folder}: {error.message} ({error.code})", style="red", markup=False)


def _fields(version: AdapterVersion) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.version,
        "id": version.id,
        "rank": version.rank,
        "size_bytes": version.size_bytes,
        "description": version.description,
        "path": str(version.path),
    }


def _as_dict(catalog: Catalog) -> dict[str, Any]:
    return {
        "adapters": [_fields(version) for version in catalog.versions],
        "rejected": [
            {"folder": folder, "code": error.code, "message": error.message}
            for folder, error in catalog.rejected.items()
        ],
    }
