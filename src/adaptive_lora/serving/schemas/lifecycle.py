"""Bodies of the endpoints that change the fleet."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import BaseModel, Field, StringConstraints

from adaptive_lora.adapters.records import AliasRecord, Change, HistoryEntry, VersionRecord
from adaptive_lora.adapters.registry_checks import MAX_SOURCE_CHARS, MAX_WHO_CHARS, MAX_WHY_CHARS
from adaptive_lora.serving.schemas.common import Strict, Text

WORD = r"^[a-z0-9][a-z0-9_-]{0,62}$"
AgentName = Annotated[str, Path(pattern=WORD, description="the adapter's name")]
Ref = Annotated[str, Path(pattern=WORD, description="a version's digits, or an alias")]
Who = Annotated[Text, StringConstraints(min_length=1, max_length=MAX_WHO_CHARS)]
Why = Annotated[Text, StringConstraints(max_length=MAX_WHY_CHARS)]
AliasName = Annotated[str, Path(pattern=WORD)]
Share = Annotated[
    float,
    Field(gt=0, lt=1, description="share of the bare name's traffic that goes to this alias, 0 to 1"),
]


class ChangeBody(Strict):
    """Every change says who makes it and why; both stand in the history."""

    who: Who = "anonymous"
    why: Why = ""

    @property
    def change(self) -> Change:
        return Change(self.who, self.why)


class AddBody(ChangeBody):
    source: Annotated[Text, StringConstraints(min_length=1, max_length=MAX_SOURCE_CHARS)] = Field(
        description="where from: a folder of this server, hf://, s3://, gs:// or az://, as "
        "`storage.allowed_sources` allows"
    )
    alias: Annotated[str, Field(pattern=WORD)] | None = Field(
        None, description="what points to it; the first version of a name becomes `prod` without being told"
    )
    share: Share | None = None
    force: bool = Field(False, description="serve it even if it fails the effect checks; recorded")


class PointBody(ChangeBody):
    version: Annotated[str, Field(pattern=WORD)] = Field(description="a version's digits, or an alias")
    share: Share | None = None
    expected: Annotated[str, Field(pattern=WORD)] | None = Field(
        None, description="the version that it points to now: 409 if somebody else has moved it"
    )


class PromoteBody(ChangeBody):
    alias: Annotated[str, Field(pattern=WORD)] = "canary"


class RollbackBody(ChangeBody):
    to: Annotated[str, Field(pattern=WORD)] | None = Field(
        None, description="a version's digits; default: the version before"
    )


class VersionAnswer(BaseModel):
    name: str
    version: str
    id: str
    state: Literal["ready", "loading", "failed", "unloaded", "retired"]
    problem: str | None = Field(description="why it does not answer although it should")
    description: str
    rank: int
    size_bytes: int
    origin: Literal["folder", "store"]
    source: str
    pinned: bool
    forced: bool = Field(description="it failed the effect checks and was added with force")
    refusal: str | None = Field(description="what the effect checks said then")
    reports: dict[str, Any] = Field(description="of the checks: effect, parity")
    aliases: list[str]
    added_at: datetime
    added_by: str


class AliasAnswer(BaseModel):
    name: str
    alias: str
    version: str
    share: float | None


class AgentAnswer(BaseModel):
    name: str
    versions: list[VersionAnswer]
    aliases: list[AliasAnswer]


class HistoryItem(BaseModel):
    id: int
    at: datetime
    who: str
    why: str
    action: str
    name: str
    version: str | None
    alias: str | None
    before: str | None
    after: str | None


class HistoryAnswer(BaseModel):
    entries: list[HistoryItem] = Field(description="newest first")
    next_before: int | None = Field(description="pass it as `before` for older ones")


def alias_fields(record: AliasRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "alias": record.alias,
        "version": record.version,
        "share": record.share,
    }


def history_fields(entry: HistoryEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "at": entry.at.isoformat(),
        "who": entry.who,
        "why": entry.why,
        "action": entry.action,
        "name": entry.name,
        "version": entry.version,
        "alias": entry.alias,
        "before": entry.before,
        "after": entry.after,
    }


def version_fields(
    record: VersionRecord, *, state: str, problem: str | None, aliases: list[str]
) -> dict[str, Any]:
    return {
        "name": record.name,
        "version": record.version,
        "id": record.id,
        "state": state,
        "problem": problem,
        "description": record.description,
        "rank": record.rank,
        "size_bytes": record.size_bytes,
        "origin": record.origin,
        "source": record.source,
        "pinned": record.pinned,
        "forced": record.forced,
        "refusal": record.refusal,
        "reports": {
            kind: {"at": report.at.isoformat(), "by": report.by, **report.content}
            for kind, report in record.reports.items()
        },
        "aliases": aliases,
        "added_at": record.added_at.isoformat(),
        "added_by": record.added_by,
    }
