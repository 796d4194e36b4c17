"""`quantised_from.json`: which model a quantised base was made from, and so whose adapters it serves.

Quantising changes every byte of a model, and not which adapters can be added to it. `adaptive-lora quantise
make` leaves this file beside the weights; of a checkpoint that somebody else quantised, the operator says the
same with the setting `model.quantized_from`. The weights prove neither: it is a statement of whoever runs the
server.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from adaptive_lora.errors import WrongBase

ORIGIN_NAME = "quantised_from.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """The original of a quantised model. `None` where it is unknown."""

    name: str
    """A Hugging Face id, or a folder's name."""
    fingerprint: str | None = None
    """`base_fingerprint` of the original."""
    scheme: str | None = None
    """How it was quantised: "w8a8-int8"."""


def read_origin(folder: Path) -> Origin | None:
    """What `folder` was quantised from; None without the file. Raises WrongBase if it makes no sense."""
    try:
        content = json.loads((folder / ORIGIN_NAME).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise WrongBase(_unreadable(folder, "is not readable JSON")) from error
    if not isinstance(content, dict) or content.keys() - {"name", "fingerprint", "scheme"}:
        raise WrongBase(_unreadable(folder, "has other fields than name, fingerprint and scheme"))
    name, others = content.get("name"), (content.get("fingerprint"), content.get("scheme"))
    if not isinstance(name, str) or not name or not all(v is None or isinstance(v, str) for v in others):
        raise WrongBase(_unreadable(folder, "must hold texts, and a name"))
    return Origin(name, *others)


def write_origin(folder: Path, origin: Origin) -> None:
    (folder / ORIGIN_NAME).write_text(json.dumps(asdict(origin), indent=2) + "\n")


def _unreadable(folder: Path, what: str) -> str:
    return f"{folder.name}/{ORIGIN_NAME} {what}: quantise the model again, or set model.quantized_from"
