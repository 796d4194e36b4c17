"""Salts of the prefix cache: whoever has another one shares no cached prompt, and so learns nothing from how
fast a prompt was read (CVE-2025-46570)."""

from __future__ import annotations

import re

from adaptive_lora.errors import InvalidRequest

_SALT = re.compile(r"[0-9a-f]{16,128}")


def check_salt(salt: str | None) -> None:
    """Raises InvalidRequest unless `GenerateRequest.cache_salt` is None or hexadecimal.

    Salts are made by the gateway, never by callers; but a malformed one can end vLLM's engine
    (CVE-2026-105756), so nothing else gets near it.
    """
    if salt is not None and not _SALT.fullmatch(salt):
        raise InvalidRequest("cache_salt must be 16 to 128 lower-case hexadecimal digits")
