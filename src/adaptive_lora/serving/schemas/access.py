"""Bodies of the administrators' endpoints."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import BaseModel, Field, StringConstraints

from adaptive_lora.access.records import ApiKey, AuditAction, AuditEntry
from adaptive_lora.serving.schemas.common import Strict, Text

WORD = r"^[a-z0-9][a-z0-9_-]{0,62}$"
MAX_NAME_CHARS = 64
MAX_AGENTS = 256
MAX_DAYS = 36_500
KeyId = Annotated[str, Path(pattern="^[0-9a-f]{12}$", description="a key's public part")]
Word = Annotated[str, StringConstraints(pattern=WORD)]
Scope = Literal["generate", "feedback", "adapters:read", "adapters:write", "metrics", "admin"]


class MintBody(Strict):
    name: Annotated[Text, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"\S")] = Field(
        description="who will use it; stands in logs and in the history"
    )
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=16)] = Field(
        description="what it is good for; `admin` includes all others"
    )
    agents: Annotated[list[Word], Field(max_length=MAX_AGENTS)] | None = Field(
        None, description="the agents that exist for it; default: those of your own credential"
    )
    tenant: Word | None = Field(None, description="default, and only possible value: your own")
    tier: Word | None = Field(
        None, description="which limits apply; default, and only possible value: your own"
    )
    expires_in_days: Annotated[float, Field(gt=0, le=MAX_DAYS)] | None = Field(
        None, description="default: when your own credential expires, or never"
    )


class KeyAnswer(BaseModel):
    id: str = Field(description="the public part: the key begins with `alk_`, this, and `_`")
    name: str
    tenant: str
    scopes: list[str]
    agents: list[str] | None = Field(description="null: all")
    tier: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="to the minute")


class MintAnswer(KeyAnswer):
    key: str = Field(description="the key itself: shown this once, and kept nowhere")


class KeysAnswer(BaseModel):
    keys: list[KeyAnswer] = Field(description="of your tenant, oldest first; also revoked and expired ones")


class RevokeTokenBody(Strict):
    jti: Annotated[Text, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\n\r\t]+$")] = Field(
        description="of the tokens to refuse, of your tenant"
    )
    expires_in_days: Annotated[float, Field(gt=0, le=MAX_DAYS)] | None = Field(
        None,
        description="when they expire in any case, and the revocation may be forgotten; default: never",
    )


class AuditItem(BaseModel):
    id: int
    at: datetime
    who: str
    action: AuditAction
    subject: str = Field(description="a key's id, a token's jti, or the process that was looked into")
    detail: dict[str, Any]


class AuditAnswer(BaseModel):
    entries: list[AuditItem] = Field(description="of your tenant, newest first")
    next_before: int | None = Field(description="pass it as `before` for older ones")


def key_fields(key: ApiKey) -> dict[str, Any]:
    """As JSON; the digest stays here."""
    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "scopes": sorted(key.scopes),
        "agents": None if key.agents is None else sorted(key.agents),
        "tier": key.tier,
        "created_at": key.created_at.isoformat(),
        "created_by": key.created_by,
        "expires_at": _moment(key.expires_at),
        "revoked_at": _moment(key.revoked_at),
        "last_used_at": _moment(key.last_used_at),
    }


def audit_fields(entry: AuditEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "at": entry.at.isoformat(),
        "who": entry.who,
        "action": entry.action,
        "subject": entry.subject,
        "detail": dict(entry.detail),
    }


def _moment(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()
