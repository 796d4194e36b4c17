"""The endpoints that change the fleet: add, load, pin, alias, roll out, roll back, retire, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from adaptive_lora.adapters.manifest import read_manifest
from adaptive_lora.adapters.records import ANY, AliasRecord, Change, VersionRecord
from adaptive_lora.adapters.registry_checks import MAX_WHO_CHARS
from adaptive_lora.errors import Forbidden, UnknownAdapter
from adaptive_lora.serving import intake
from adaptive_lora.serving.auth.guard import needs, principal_of
from adaptive_lora.serving.principal import ANYBODY
from adaptive_lora.serving.routes.common import ON_GUARDED, as_json, errors, runtime_of
from adaptive_lora.serving.runtime import Runtime
from adaptive_lora.serving.schemas.lifecycle import (
    WORD,
    AddBody,
    AgentAnswer,
    AgentName,
    AliasAnswer,
    AliasName,
    ChangeBody,
    HistoryAnswer,
    PointBody,
    PromoteBody,
    Ref,
    RollbackBody,
    VersionAnswer,
    Who,
    Why,
    alias_fields,
    history_fields,
    version_fields,
)

T = TypeVar("T")

router = APIRouter(tags=["fleet"])

UPLOAD_PATH = "/adapters:upload"
MAX_HISTORY = 500


async def own(name: AgentName, request: Request) -> None:
    """For a caller the agents that it may not use do not exist, whether or not they do."""
    if not principal_of(request.scope).may_use(name):
        raise UnknownAdapter(f"the registry knows no adapter {name!r}")


WRITE = [needs("adapters:write")]
READ_ONE, WRITE_ONE = [needs("adapters:read"), Depends(own)], [*WRITE, Depends(own)]
ON_READ = (*ON_GUARDED, 404, 422)
ON_CHANGE = (*ON_GUARDED, 404, 408, 409, 413, 422, 507)
ON_UPLOAD = (*ON_CHANGE, 415)


@router.post(
    "/adapters",
    status_code=201,
    response_model=VersionAnswer,
    responses=errors(*ON_CHANGE),
    dependencies=WRITE,
)
async def add(body: AddBody, request: Request) -> Response:
    """Fetch an adapter, verify and prove it, and serve it. Answers when it can be asked for."""
    runtime = runtime_of(request)
    fleet = runtime.fleet

    by = _by(request, body.change)

    async def work() -> Response:
        with fleet.store.staging() as folder:
            source = await asyncio.to_thread(intake.fetch, body.source, folder, runtime.settings.storage)
            await asyncio.to_thread(_check_own, request, folder)
            added = await fleet.add(
                folder, source=source, by=by, alias=body.alias, share=body.share, force=body.force
            )
        return await _version(runtime, added, status=201)

    return await _to_the_end(work())


@router.post(
    UPLOAD_PATH,
    status_code=201,
    response_model=VersionAnswer,
    responses=errors(*ON_UPLOAD),
    dependencies=WRITE,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def upload(
    request: Request,
    alias: Annotated[str | None, Query(pattern=WORD)] = None,
    share: Annotated[float | None, Query(gt=0, lt=1)] = None,
    force: bool = False,
    who: Annotated[Who, Query()] = "anonymous",
    why: Annotated[Why, Query()] = "",
) -> Response:
    """As `POST /adapters`, with the adapter's folder as the body: a tar, tar.gz or zip archive."""
    runtime = runtime_of(request)
    fleet = runtime.fleet
    storage = runtime.settings.storage
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind and kind not in intake.ARCHIVE_TYPES:
        raise HTTPException(415, f"send an archive: {', '.join(intake.ARCHIVE_TYPES)}")
    with ExitStack() as stack:
        scratch = stack.enter_context(fleet.store.staging())
        archive = scratch / "archive"
        await intake.receive(request.stream(), archive, max_bytes=storage.max_archive_bytes)
        received = stack.pop_all()
    by = _by(request, Change(who, why))

    async def work() -> Response:
        with received:
            folder = scratch / "adapter"
            folder.mkdir()
            await asyncio.to_thread(intake.unpack, archive, folder, storage)
            await asyncio.to_thread(_check_own, request, folder)
            added = await fleet.add(folder, source="upload", by=by, alias=alias, share=share, force=force)
        return await _version(runtime, added, status=201)

    return await _to_the_end(work())


@router.get("/adapters/{name}", response_model=AgentAnswer, responses=errors(*ON_READ), dependencies=READ_ONE)
async def agent(name: AgentName, request: Request) -> Response:
    """Every version of one adapter that the registry knows, served or not, and its aliases."""
    runtime = runtime_of(request)
    snapshot = await runtime.fleet.snapshot()
    versions = snapshot.versions_of(name)
    if not versions:
        raise UnknownAdapter(f"the registry knows no adapter {name!r}; GET /adapters lists what is served")
    aliases = snapshot.aliases_of(name)
    body = {
        "name": name,
        "versions": [_fields(runtime, record, aliases) for record in versions],
        "aliases": [alias_fields(record) for record in aliases],
    }
    return as_json(body)


@router.get(
    "/adapters/{name}/history",
    response_model=HistoryAnswer,
    responses=errors(*ON_READ),
    dependencies=READ_ONE,
)
async def history(
    name: AgentName,
    request: Request,
    limit: Annotated[int, Query(ge=1, le=MAX_HISTORY)] = 50,
    before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
) -> Response:
    """Who changed what of this adapter, when, and why; newest first."""
    entries = await runtime_of(request).fleet.history(name, limit=limit, before=before)
    if not entries and before is None:
        raise UnknownAdapter(f"the registry knows no adapter {name!r}")
    more = entries[-1].id if len(entries) == limit else None
    return as_json({"entries": [history_fields(entry) for entry in entries], "next_before": more})


Action = Literal["load", "unload", "pin", "unpin", "verify", "retire", "restore"]


@router.post(
    "/adapters/{name}/versions/{ref}/{action}",
    response_model=VersionAnswer,
    responses=errors(*ON_CHANGE),
    dependencies=WRITE_ONE,
)
async def act(
    name: AgentName, ref: Ref, action: Action, request: Request, body: ChangeBody | None = None
) -> Response:
    """load, unload: whether it can be asked for. pin, unpin: whether it keeps its slot. verify: check files
    and effect again. retire, restore: out of service but kept, and back."""
    runtime = runtime_of(request)
    by = _by(request, (body or ChangeBody()).change)
    change = {
        "load": runtime.fleet.load,
        "unload": runtime.fleet.unload,
        "pin": runtime.fleet.pin,
        "unpin": runtime.fleet.unpin,
        "verify": runtime.fleet.verify,
        "retire": runtime.fleet.retire,
        "restore": runtime.fleet.restore,
    }[action]
    return await _version(runtime, await _to_the_end(change(name, ref, by=by)))


@router.delete(
    "/adapters/{name}/versions/{ref}", status_code=204, responses=errors(*ON_CHANGE), dependencies=WRITE_ONE
)
async def delete(
    name: AgentName,
    ref: Ref,
    request: Request,
    who: Annotated[Who, Query()] = "anonymous",
    why: Annotated[Why, Query()] = "",
) -> Response:
    """Remove a retired version and its files for good."""
    await _to_the_end(runtime_of(request).fleet.delete(name, ref, by=_by(request, Change(who, why))))
    return Response(status_code=204)


@router.put(
    "/adapters/{name}/aliases/{alias}",
    response_model=AliasAnswer,
    responses=errors(*ON_CHANGE),
    dependencies=WRITE_ONE,
)
async def point(name: AgentName, alias: AliasName, body: PointBody, request: Request) -> Response:
    """Point an alias at a version. With a share it is a canary: that share of the bare name's traffic."""
    fleet = runtime_of(request).fleet
    expected = ANY if body.expected is None else body.expected
    by = _by(request, body.change)
    work = fleet.point(name, alias, body.version, share=body.share, expected=expected, by=by)
    return as_json(alias_fields(await _to_the_end(work)))


@router.delete(
    "/adapters/{name}/aliases/{alias}", status_code=204, responses=errors(*ON_CHANGE), dependencies=WRITE_ONE
)
async def drop(
    name: AgentName,
    alias: AliasName,
    request: Request,
    who: Annotated[Who, Query()] = "anonymous",
    why: Annotated[Why, Query()] = "",
) -> Response:
    """Forget an alias."""
    await _to_the_end(runtime_of(request).fleet.drop(name, alias, by=_by(request, Change(who, why))))
    return Response(status_code=204)


@router.post(
    "/adapters/{name}/promote",
    response_model=AliasAnswer,
    responses=errors(*ON_CHANGE),
    dependencies=WRITE_ONE,
)
async def promote(name: AgentName, request: Request, body: PromoteBody | None = None) -> Response:
    """Make what an alias points to `prod`; the alias goes."""
    wanted = body or PromoteBody()
    work = runtime_of(request).fleet.promote(name, wanted.alias, by=_by(request, wanted.change))
    return as_json(alias_fields(await _to_the_end(work)))


@router.post(
    "/adapters/{name}/rollback",
    response_model=AliasAnswer,
    responses=errors(*ON_CHANGE),
    dependencies=WRITE_ONE,
)
async def rollback(name: AgentName, request: Request, body: RollbackBody | None = None) -> Response:
    """Make the version before `prod` again, or the one named."""
    wanted = body or RollbackBody()
    work = runtime_of(request).fleet.rollback(name, wanted.to, by=_by(request, wanted.change))
    return as_json(alias_fields(await _to_the_end(work)))


def _by(request: Request, said: Change) -> Change:
    """Who makes a change is who is authenticated, whatever the request says."""
    principal = principal_of(request.scope)
    return said if principal is ANYBODY else Change(principal.subject[:MAX_WHO_CHARS], said.why)


def _check_own(request: Request, folder: Path) -> None:
    """Raises Forbidden for an adapter that the caller may not use: its name stands in its manifest."""
    principal = principal_of(request.scope)
    if principal.agents is not None and not principal.may_use(read_manifest(folder).name):
        raise Forbidden("this adapter's name is not among the agents that your credential is for")


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """A change that has begun is finished, whether or not its caller waits for the answer."""
    return await asyncio.shield(asyncio.create_task(work))


async def _version(runtime: Runtime, record: VersionRecord, *, status: int = 200) -> Response:
    aliases = (await runtime.fleet.snapshot()).aliases_of(record.name)
    return as_json(_fields(runtime, record, aliases), status)


def _fields(runtime: Runtime, record: VersionRecord, aliases: Sequence[AliasRecord]) -> dict[str, Any]:
    failure = runtime.fleet.failures.get(record.id)
    pointing = [alias.alias for alias in aliases if alias.version == record.version]
    if record.retired:
        state = "retired"
    elif record.id in runtime.fleet.view.versions:
        state = "ready"
    elif failure is not None:
        state = "failed"
    else:
        state = "loading" if record.loaded or pointing else "unloaded"
    return version_fields(record, state=state, problem=failure.message if failure else None, aliases=pointing)
