"""Where `model.base_model: demo` and its adapters lie on disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from adaptive_lora.errors import SettingsError
from adaptive_lora.settings import AdaptersSettings, ModelSettings, Settings

DEMO = "demo"
"""The value of `model.base_model` that means the fleet that this repository trains and ships."""

FOLDER_VARIABLE = "ADAPTIVE_LORA_DEMO_FLEET"
"""Environment variable that names another folder with `base/` and `adapters/`."""

_CHECKOUT_FOLDER = Path(__file__).resolve().parents[2] / "demo" / "fleet"


@dataclass(frozen=True, slots=True)
class FleetPaths:
    """What an engine and a catalog load from: a folder or Hugging Face id; the adapters' folder, if any."""

    base_model: str
    adapters: Path | None


def folder() -> Path:
    """The demo fleet's folder. Raises SettingsError, saying what to do, when it holds no base model."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    path = Path(chosen).expanduser().resolve() if chosen else _CHECKOUT_FOLDER
    if not (path / "base" / "config.json").is_file():
        where = f"{FOLDER_VARIABLE}={path}" if chosen else str(path)
        raise SettingsError(
            f"the demo fleet is not at {where} (no base/config.json there): run from a checkout of the "
            f"repository, build it with `make demo-fleet`, point {FOLDER_VARIABLE} at one, or set "
            "model.base_model"
        )
    return path


def resolve(model: ModelSettings, adapters: AdaptersSettings) -> FleetPaths:
    """Turn `demo` into folders; leave anything else as configured.

    `adapters.path` wins over the demo's own adapters. Raises SettingsError if a folder asked for is absent.
    """
    if adapters.path is not None and not adapters.path.is_dir():
        raise SettingsError(f"adapters.path is {adapters.path}, which is not a folder")
    if model.base_model != DEMO:
        return FleetPaths(model.base_model, adapters.path)
    fleet = folder()
    own = fleet / "adapters"
    return FleetPaths(str(fleet / "base"), adapters.path or (own if own.is_dir() else None))


def public_name(base_model: str) -> str:
    """What callers may see of a resolved `model.base_model`: no path of this machine.

    `demo` for the demo's base, a folder's own name for another folder, a Hugging Face id as it is.
    """
    path = Path(base_model)
    if not path.is_absolute() and not path.is_dir():
        return base_model
    try:
        return DEMO if path.resolve() == (folder() / "base").resolve() else path.name
    except SettingsError:
        return path.name


def resolve_settings(settings: Settings) -> Settings:
    """The same settings with `demo` turned into folders, ready for the rooms that load from them.

    The fake engine reads no model: it keeps the name, and takes the demo's adapters only where they are.
    """
    model, adapters = settings.model, settings.adapters
    if model.engine == "fake":
        if model.base_model != DEMO or adapters.path is not None:
            return settings
        try:
            paths = FleetPaths(DEMO, resolve(model, adapters).adapters)
        except SettingsError:
            return settings
    else:
        paths = resolve(model, adapters)
    resolved = {"base_model": paths.base_model}
    if model.quantized_from == DEMO:
        resolved["quantized_from"] = str(folder() / "base")
    return settings.model_copy(
        update={
            "model": model.model_copy(update=resolved),
            "adapters": adapters.model_copy(update={"path": paths.adapters}),
        }
    )
