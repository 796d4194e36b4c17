"""How long a caller gives its request."""

from __future__ import annotations

import re
from typing import Final

from starlette.datastructures import Headers

from adaptive_lora.errors import InvalidRequest

HEADER: Final = "x-adaptive-lora-timeout"

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def timeout_of(headers: Headers) -> float | None:
    """Seconds, more than 0; None if the caller does not say. More than the server allows is for it to cut.
    Raises InvalidRequest for anything else than one decimal number."""
    if HEADER not in headers:
        return None
    values = headers.getlist(HEADER)
    if len(values) != 1 or not _SECONDS.fullmatch(values[0]) or float(values[0]) == 0:
        raise InvalidRequest(f"{HEADER} must be a number of seconds, more than 0, such as 30 or 2.5")
    return float(values[0])
