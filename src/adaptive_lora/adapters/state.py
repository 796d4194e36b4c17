"""Where this host keeps what outlives a process: adapters that were added, the registry, compositions."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from adaptive_lora.demo_fleet import public_name
from adaptive_lora.errors import SettingsError
from adaptive_lora.settings import Settings


def state_folder(settings: Settings) -> Path:
    """`storage.path`; without one, a folder of the user's own per base model, whose adapters are no others'.

    Not created here. Raises SettingsError if there is no home to put it into.
    """
    if settings.storage.path is not None:
        return settings.storage.path.expanduser().absolute()
    state_home = os.environ.get("XDG_STATE_HOME", "")
    if not state_home.startswith("/"):  # the XDG specification: a relative path is to be ignored
        try:
            state_home = str(Path.home() / ".local" / "state")
        except RuntimeError as error:
            raise SettingsError("this user has no home folder: set storage.path") from error
    return Path(state_home) / "adaptive-lora" / _slug(settings.model.base_model)


def _slug(base_model: str) -> str:
    """A folder's name: "demo", "meta-llama--Meta-Llama-3-8B"; of a local folder its name and a hash of its
    path."""
    name = public_name(base_model)
    slug = re.sub(r"[^A-Za-z0-9._-]+", "--", name).lstrip(".")[:100]
    if name != base_model and name != "demo":
        slug += "-" + hashlib.sha256(str(Path(base_model).resolve()).encode()).hexdigest()[:8]
    return slug
