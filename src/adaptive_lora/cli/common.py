"""What the commands share: options, loading, output."""

from __future__ import annotations

import codecs
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from adaptive_lora import demo_fleet
from adaptive_lora.adapters.durable import disk_errors
from adaptive_lora.errors import InvalidRequest
from adaptive_lora.settings import Settings
from adaptive_lora.settings_loading import CONFIG_VARIABLE, load_settings

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file of settings.", envvar=CONFIG_VARIABLE)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
BaseModel = Annotated[
    str | None, typer.Option("--base-model", help="'demo', a folder, or a Hugging Face id: model.base_model.")
]
AdaptersFolder = Annotated[Path | None, typer.Option("--adapters", help="Folder of adapters: adapters.path.")]
EngineName = Annotated[str | None, typer.Option("--engine", help="'vllm', 'remote' or 'fake': model.engine.")]


def console() -> Console:
    """For progress, warnings and errors: stderr, and no colours or spinners unless that is a terminal."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def output() -> Console:
    """For answers: stdout."""
    return Console(highlight=False, soft_wrap=True)


def settings_from(config: Path | None, flags: Mapping[str, Any]) -> Settings:
    """The settings, `demo` resolved to folders. Raises SettingsError."""
    return demo_fleet.resolve_settings(load_settings(config, flags=flags))


def finite(number: float) -> float | None:
    """The number to four places; None for infinity and nan, which JSON does not know."""
    return round(number, 4) if math.isfinite(number) else None


def print_json(value: object) -> None:
    """One JSON document on stdout, one line; in ASCII where stdout cannot write all characters."""
    is_utf8 = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    sys.stdout.write(json.dumps(value, ensure_ascii=not is_utf8) + "\n")
    sys.stdout.flush()


def check_writable(option: str, path: Path) -> None:
    """Before work whose result goes there. Raises InvalidRequest if no file can be written at `path`."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InvalidRequest(f"{option} {path}: there is no such folder")
    if path.is_dir():
        raise InvalidRequest(f"{option} {path}: that is a folder, name a file")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise InvalidRequest(f"{option} {path}: it may not be written")


def write_text(path: Path, text: str) -> None:
    """Raises StorageError, StorageFull."""
    with disk_errors(path):
        path.write_text(text, encoding="utf-8")
