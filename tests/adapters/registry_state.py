"""What the tests of the registry share: versions to add, the whole history, and what must follow from it."""

from __future__ import annotations

from adaptive_lora.adapters.records import AliasRecord, HistoryEntry, NewVersion, Snapshot
from adaptive_lora.adapters.registry import Registry
from adaptive_lora.types import Probe

A, B, C, D = "aaaaaaaaaaa1", "bbbbbbbbbbb2", "ccccccccccc3", "ddddddddddd4"
BY = {"who": "ann", "why": "because"}


def new_version(version: str = A, *, name: str = "code", refusal: str | None = None) -> NewVersion:
    return NewVersion(
        name=name,
        version=version,
        rank=8,
        size_bytes=3_000_000_000,
        description="writes code, naïvely 🦙",
        examples=("write a loop", "schreib „hallo“\n"),
        probes=(Probe("2 + 2 =", "4"),),
        base_model="org/base",
        origin="store",
        source="hf://org/code",
        refusal=refusal,
    )


def add(registry: Registry, *versions: str, name: str = "code") -> None:
    for version in versions:
        registry.add(new_version(version, name=name), **BY)


def whole_history(registry: Registry, *, page: int = 50) -> list[HistoryEntry]:
    """Oldest first, read in pages."""
    entries: list[HistoryEntry] = []
    before: int | None = None
    while found := registry.history(limit=page, before_id=before):
        entries += found
        before = found[-1].id
    return entries[::-1]


def check_consistent(registry: Registry) -> Snapshot:
    """The history is complete, and the present state follows from it."""
    snapshot = registry.snapshot()
    entries = [entry for entry in whole_history(registry) if entry.revision <= snapshot.revision]
    check_follows(snapshot, entries)
    return snapshot


def check_follows(snapshot: Snapshot, entries: list[HistoryEntry]) -> None:
    """`snapshot` is what `entries`, all up to its revision, have made. Reports and descriptions apart."""
    assert [entry.id for entry in entries] == list(range(1, len(entries) + 1))
    revisions = [entry.revision for entry in entries]
    assert revisions == sorted(revisions)
    assert set(revisions) == set(range(1, snapshot.revision + 1))
    aliases: dict[tuple[str, str], str] = {}
    versions: dict[tuple[str, str], set[str]] = {}
    for entry in entries:
        if entry.alias is not None:
            key = (entry.name, entry.alias)
            assert aliases.pop(key, None) == entry.before
            if entry.after is not None:
                aliases[key] = entry.after
        elif entry.action != "evaluate":
            assert entry.version is not None
            _apply(entry, versions, (entry.name, entry.version))
    assert {(a.name, a.alias): a.target for a in snapshot.aliases} == aliases
    assert {(v.name, v.version): _declared(v) for v in snapshot.versions} == versions
    for alias in snapshot.aliases:
        assert not snapshot.version(alias.name, alias.version).retired


def _apply(entry: HistoryEntry, versions: dict[tuple[str, str], set[str]], key: tuple[str, str]) -> None:
    match entry.action:
        case "add":
            assert key not in versions
            versions[key] = set()
        case "load":
            versions[key].add("loaded")
        case "unload":
            versions[key].remove("loaded")
        case "pin":
            versions[key].add("pinned")
        case "unpin":
            versions[key].remove("pinned")
        case "retire":
            assert "retired" not in versions[key]
            versions[key] = {"retired"}
        case "restore":
            versions[key].remove("retired")
        case "delete":
            assert versions.pop(key) == {"retired"}
        case _:
            assert entry.action in ("update", "report"), entry


def _declared(record: object) -> set[str]:
    return {state for state in ("loaded", "pinned", "retired") if getattr(record, state)}


def aliases_of(registry: Registry, name: str = "code") -> dict[str, str]:
    return {record.alias: record.target for record in registry.snapshot().aliases_of(name)}


def prod(registry: Registry, name: str = "code") -> AliasRecord:
    return registry.snapshot().alias(name, "prod")
