"""/keys, /tokens:revoke and /audit: who may do what. Served on the administrators' port alone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from adaptive_lora.access.records import ApiKey, NewKey
from adaptive_lora.adapters.registry_checks import MAX_WHO_CHARS
from adaptive_lora.errors import Conflict, NotFound
from adaptive_lora.serving.auth.credentials import Credentials
from adaptive_lora.serving.auth.gate import Gate
from adaptive_lora.serving.auth.guard import needs, principal_of
from adaptive_lora.serving.auth.minting import check_mintable, check_revocable
from adaptive_lora.serving.principal import Principal
from adaptive_lora.serving.routes.common import ON_GUARDED, as_json, errors
from adaptive_lora.serving.schemas.access import (
    AuditAnswer,
    KeyAnswer,
    KeyId,
    KeysAnswer,
    MintAnswer,
    MintBody,
    RevokeTokenBody,
    audit_fields,
    key_fields,
)

router = APIRouter(tags=["access"], dependencies=[needs("admin")])

MAX_AUDIT = 500
ON_READ = (*ON_GUARDED, 409)
ON_CHANGE = (*ON_READ, 408, 413, 422, 507)


@router.post("/keys", status_code=201, response_model=MintAnswer, responses=errors(*ON_CHANGE))
async def mint(body: MintBody, request: Request) -> Response:
    """Make an API key. It never exceeds your own credential; it is shown in this answer and never again."""
    admin = principal_of(request.scope)
    new = _wanted(body, admin)
    check_mintable(admin, new)
    credentials = _credentials(request)
    minted = await asyncio.to_thread(credentials.store.mint, new, who=_name(admin))
    await credentials.refresh()
    return as_json({**key_fields(minted.key), "key": minted.secret}, 201)


@router.get("/keys", response_model=KeysAnswer, responses=errors(*ON_READ))
async def keys(request: Request) -> Response:
    """The keys of your tenant; never the keys themselves."""
    tenant = principal_of(request.scope).tenant
    found = await asyncio.to_thread(_credentials(request).store.list_keys, tenant)
    return as_json({"keys": [key_fields(key) for key in found]})


@router.delete("/keys/{key_id}", response_model=KeyAnswer, responses=errors(*ON_CHANGE, 404))
async def revoke(key_id: KeyId, request: Request) -> Response:
    """Refuse a key from now on: here at once, in other processes within seconds. It stays listed."""
    admin = principal_of(request.scope)
    credentials = _credentials(request)
    check_revocable(admin, await asyncio.to_thread(_key_of, credentials, key_id, admin.tenant))
    revoked = await asyncio.to_thread(credentials.store.revoke, key_id, who=_name(admin))
    await credentials.refresh()
    return as_json(key_fields(revoked))


@router.post("/tokens:revoke", status_code=204, responses=errors(*ON_CHANGE))
async def revoke_token(body: RevokeTokenBody, request: Request) -> Response:
    """Refuse your tenant's tokens with this `jti` from now on."""
    admin = principal_of(request.scope)
    credentials = _credentials(request)
    change = partial(
        credentials.store.revoke_token, admin.tenant, body.jti, expires_at=_after(body.expires_in_days)
    )
    await asyncio.to_thread(change, who=_name(admin))
    await credentials.refresh()
    return Response(status_code=204)


@router.get("/audit", response_model=AuditAnswer, responses=errors(*ON_READ, 422))
async def audit(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=MAX_AUDIT)] = 50,
    before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
) -> Response:
    """Who minted and revoked what, of your tenant; newest first. Changes of the fleet are in its history."""
    tenant = principal_of(request.scope).tenant
    store = _credentials(request).store
    entries = await asyncio.to_thread(partial(store.audit, tenant, limit=limit, before_id=before))
    more = entries[-1].id if len(entries) == limit else None
    return as_json({"entries": [audit_fields(entry) for entry in entries], "next_before": more})


def _credentials(request: Request) -> Credentials:
    gate = request.app.state.gate
    if not isinstance(gate, Gate):
        raise Conflict("authentication is off here (auth.enabled), so nobody asks for keys or tokens")
    return gate.credentials


def _wanted(body: MintBody, admin: Principal) -> NewKey:
    agents = admin.agents if body.agents is None else frozenset(body.agents)
    expires_at = _after(body.expires_in_days) or admin.expires_at
    tenant = body.tenant or admin.tenant
    return NewKey(body.name, tenant, frozenset(body.scopes), agents, body.tier or admin.tier, expires_at)


def _after(days: float | None) -> datetime | None:
    return None if days is None else datetime.now(UTC) + timedelta(days=days)


def _key_of(credentials: Credentials, key_id: str, tenant: str) -> ApiKey:
    """Raises NotFound for another tenant's, too."""
    key = credentials.store.key(key_id)
    if key.tenant != tenant:
        raise NotFound("there is no key with this id")
    return key


def _name(admin: Principal) -> str:
    return admin.subject[:MAX_WHO_CHARS]
