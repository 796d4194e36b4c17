"""What is said of adapters that should be served and are not (`Runtime.rejected`)."""

from __future__ import annotations

from collections.abc import Mapping

from adaptive_lora.errors import AdapterError


def visible(
    rejected: Mapping[str, AdapterError], agents: frozenset[str] | None
) -> Mapping[str, AdapterError]:
    """What a caller may know of them: of its own agents, the versions; folders say whatever they are called,
    and are for those who may see all."""
    if agents is None:
        return rejected
    return {key: error for key, error in rejected.items() if "@" in key and key.partition("@")[0] in agents}


def rejected_as_list(rejected: Mapping[str, AdapterError]) -> list[dict[str, str]]:
    return [
        {"folder": folder, "code": error.code, "message": error.message}
        for folder, error in sorted(rejected.items())
    ]
