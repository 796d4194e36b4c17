"""The adapters of one folder: those that passed every check, and those that did not, with the reason."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from adaptive_lora.adapters.base import BaseModelInfo
from adaptive_lora.adapters.verify import verify_adapter
from adaptive_lora.errors import AdapterError, ManifestInvalid, SettingsError
from adaptive_lora.types import AdapterVersion

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Catalog:
    versions: tuple[AdapterVersion, ...] = ()
    """Verified adapters, sorted by name; no name twice."""
    rejected: Mapping[str, AdapterError] = field(default_factory=dict)
    """By folder name, sorted."""


def load_catalog(folder: Path, *, base: BaseModelInfo, max_rank: int) -> Catalog:
    """Verify every sub-folder of `folder`; files beside them and hidden folders are no adapters and are
    ignored.

    One bad adapter never keeps the others out: it is logged and listed in `rejected`. If two folders claim
    one name, neither is served, since nothing says which is meant.
    Raises SettingsError if `folder` itself is not a readable folder.
    """
    try:
        candidates = sorted(
            path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
        )
    except OSError as error:
        raise SettingsError(
            f"adapters.path {str(folder)!r} cannot be read ({error.strerror}): create it, or point it at a "
            "folder with one sub-folder per adapter"
        ) from error
    passed: dict[str, AdapterVersion] = {}
    rejected: dict[str, AdapterError] = {}
    for path in candidates:
        try:
            passed[path.name] = verify_adapter(path, base=base, max_rank=max_rank)
        except AdapterError as error:
            rejected[path.name] = error
        except OSError as error:
            rejected[path.name] = AdapterError(
                f"adapter folder {path.name!r} cannot be read: {error.strerror}"
            )
    claims = Counter(version.name for version in passed.values())
    for folder_name, version in list(passed.items()):
        if claims[version.name] > 1:
            del passed[folder_name]
            rejected[folder_name] = ManifestInvalid(
                f"adapter folder {folder_name!r} and another one are both named {version.name!r}: rename or "
                "remove one"
            )
    for folder_name, reason in sorted(rejected.items()):
        _log.warning(
            "adapter rejected: %s", reason.message, extra={"folder": folder_name, "code": reason.code}
        )
    versions = tuple(sorted(passed.values(), key=lambda version: version.name))
    return Catalog(versions, MappingProxyType(dict(sorted(rejected.items()))))
