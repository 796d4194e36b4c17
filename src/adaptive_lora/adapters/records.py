"""What the registry of adapter versions holds, as values: versions, aliases, compositions, history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, Self

from adaptive_lora.errors import UnknownAdapter
from adaptive_lora.types import AdapterVersion, Probe

PROD: Final = "prod"
"""The alias that a bare name means, but for the shares of others."""

Origin = Literal["folder", "store"]
"""Whether its files lie in the operator's own folder of adapters, or in the server's store."""

Action = Literal[
    "add", "update", "report", "load", "unload", "pin", "unpin", "retire", "restore", "delete",
    "point", "drop", "promote", "rollback", "evaluate",
]  # fmt: skip


class Anything(Enum):
    ANY = "any"


ANY: Final = Anything.ANY
"""Whatever an alias points to now, or nothing at all."""

Expected = str | Literal[Anything.ANY] | None
"""What an alias must point to for a change to be made: a version, nothing (None), or anything."""


@dataclass(frozen=True, slots=True)
class Change:
    """Who changes the fleet, and why; for the history."""

    who: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version to add: what `AdapterVersion` says of it, and where it came from."""

    name: str
    version: str
    rank: int
    size_bytes: int
    description: str
    examples: tuple[str, ...]
    probes: tuple[Probe, ...]
    base_model: str
    origin: Origin
    source: str
    """Where it came from, for people. What could open it (user:password@, ?signature=...) is not kept."""
    refusal: str | None = None
    """Why the checks would have refused it but for --force; None if they passed."""

    @classmethod
    def of(
        cls,
        version: AdapterVersion,
        base_model: str,
        *,
        origin: Origin,
        source: str,
        refusal: str | None = None,
    ) -> Self:
        return cls(
            name=version.name,
            version=version.version,
            rank=version.rank,
            size_bytes=version.size_bytes,
            description=version.description,
            examples=version.examples,
            probes=version.probes,
            base_model=base_model,
            origin=origin,
            source=source,
            refusal=refusal,
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found, when it last ran."""

    at: datetime
    by: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One immutable version of an adapter, what is known of it, and what is declared about it.

    Never changes: `name`, `version`, `rank`, `size_bytes`, `base_model`, `added_at`, `added_by`.
    """

    name: str
    version: str
    rank: int
    size_bytes: int
    description: str
    examples: tuple[str, ...]
    probes: tuple[Probe, ...]
    base_model: str
    origin: Origin
    source: str
    refusal: str | None
    """What the checks said when it was added with --force; None if they passed."""
    loaded: bool
    """Declared: it should be in the engine."""
    pinned: bool
    """Declared: while it is loaded it never leaves its slot."""
    retired: bool
    """Out of service, and kept. Nothing points to it, and it is not loaded."""
    added_at: datetime
    added_by: str
    reports: Mapping[str, Report] = field(default_factory=dict)
    """The last one of each kind ("effect", "parity"), sorted by kind."""

    @property
    def id(self) -> str:
        """As `AdapterVersion.id`."""
        return f"{self.name}@{self.version}"

    @property
    def forced(self) -> bool:
        return self.refusal is not None

    def as_version(self, path: Path = Path()) -> AdapterVersion:
        """As the rest of the program knows it, with its files in `path`."""
        return AdapterVersion(
            name=self.name,
            version=self.version,
            path=path,
            rank=self.rank,
            description=self.description,
            examples=self.examples,
            size_bytes=self.size_bytes,
            probes=self.probes,
        )


@dataclass(frozen=True, slots=True)
class AliasRecord:
    """A name's pointer to one of its versions."""

    name: str
    alias: str
    version: str
    share: float | None
    """Share of the bare name's traffic that it takes, between 0 and 1; None: it takes none (`prod`: the
    rest)."""

    @property
    def target(self) -> str:
        """As the history writes it: the version, with a share if there is one: "3f9c2a000001:0.2"."""
        return self.version if self.share is None else f"{self.version}:{self.share:g}"


@dataclass(frozen=True, slots=True)
class CompositionRecord:
    """A weighted sum of agents that was compared with each of them alone."""

    spec: str
    """As a caller would ask for it: "code:0.7+reasoning:0.3"."""
    agents: tuple[str, ...]
    """What was compared, by name or by id."""
    approved: bool
    """Whether it has won, so that the router may choose it."""
    report: Report


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One thing that happened. Entries are never changed nor removed."""

    id: int
    """1, 2, 3, ... in the order in which it happened; no number is missing."""
    revision: int
    """The change that it belongs to: one change may be several entries."""
    at: datetime
    who: str
    why: str
    action: Action
    name: str
    """The adapter's name; the spec of a composition."""
    version: str | None
    alias: str | None
    before: str | None
    """What an alias pointed to (`AliasRecord.target`), or the state that was left."""
    after: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything but the history, at one revision. Sorted: by name and version, name and alias, spec."""

    revision: int
    versions: tuple[VersionRecord, ...]
    aliases: tuple[AliasRecord, ...]
    compositions: tuple[CompositionRecord, ...]

    def version(self, name: str, version: str) -> VersionRecord:
        """Raises UnknownAdapter."""
        for record in self.versions:
            if (record.name, record.version) == (name, version):
                return record
        raise unknown_version(name, version)

    def versions_of(self, name: str) -> tuple[VersionRecord, ...]:
        return tuple(record for record in self.versions if record.name == name)

    def alias(self, name: str, alias: str) -> AliasRecord:
        """Raises UnknownAdapter."""
        for record in self.aliases:
            if (record.name, record.alias) == (name, alias):
                return record
        raise unknown_alias(name, alias)

    def aliases_of(self, name: str) -> tuple[AliasRecord, ...]:
        return tuple(record for record in self.aliases if record.name == name)


def unknown_version(name: str, version: str) -> UnknownAdapter:
    return UnknownAdapter(f"the registry knows no version {version!r} of {name!r}: add it first")


def unknown_alias(name: str, alias: str) -> UnknownAdapter:
    return UnknownAdapter(f"{name!r} has no alias {alias!r}: point it at a version first")
