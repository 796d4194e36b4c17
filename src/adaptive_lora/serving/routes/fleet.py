"""GET /v1/models and /adapters: what may be asked for."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from adaptive_lora.agents.names import AUTO, MAX_NAME_CHARS
from adaptive_lora.errors import UnknownAdapter
from adaptive_lora.serving.auth.guard import needs
from adaptive_lora.serving.refused import rejected_as_list, visible
from adaptive_lora.serving.routes.common import (
    ON_GUARDED,
    allowed_to,
    as_json,
    errors,
    runtime_of,
    view_of,
)
from adaptive_lora.serving.schemas.fleet import AdaptersAnswer, ModelBody, ModelsAnswer
from adaptive_lora.types import BASE

router = APIRouter()


@router.get(
    "/adapters",
    tags=["fleet"],
    response_model=AdaptersAnswer,
    responses=errors(*ON_GUARDED),
    dependencies=[needs("adapters:read")],
)
async def adapters(request: Request) -> Response:
    """The fleet: what is served, and what was found and is not, with the reason."""
    runtime = runtime_of(request)
    view = view_of(request)
    where = await runtime.engine.residency()
    body = {
        "base_model": runtime.base_model,
        "adapters": [
            {
                "name": version.name,
                "version": version.version,
                "id": version.id,
                "description": version.description,
                "rank": version.rank,
                "size_bytes": version.size_bytes,
                "n_examples": len(version.examples),
                "state": "ready",
                "residency": where.get(version.id, "disk"),
                "pinned": version.id in view.pinned,
                "aliases": {
                    alias: to.share
                    for alias, to in sorted(view.aliases.get(version.name, {}).items())
                    if to.version == version.version
                },
                "routing": view.standing(version.name).routing,
                "missing": view.standing(version.name).missing,
            }
            for _, version in sorted(view.versions.items())
        ],
        "rejected": rejected_as_list(visible(runtime.rejected, allowed_to(request))),
    }
    return as_json(body)


@router.get(
    "/v1/models",
    tags=["OpenAI"],
    response_model=ModelsAnswer,
    responses=errors(*ON_GUARDED),
    dependencies=[needs("generate")],
)
async def models(request: Request) -> Response:
    """`auto`, `base`, each agent, each alias and each version of it."""
    return as_json({"object": "list", "data": _models(request)})


@router.get(
    "/v1/models/{model:path}",  # a team has a slash in its name
    tags=["OpenAI"],
    response_model=ModelBody,
    responses=errors(*ON_GUARDED, 404),
    dependencies=[needs("generate")],
)
async def model(model: Annotated[str, Path(max_length=MAX_NAME_CHARS)], request: Request) -> Response:
    """One entry of the list."""
    for entry in _models(request):
        if entry["id"] == model:
            return as_json(entry)
    raise UnknownAdapter("there is no such model; GET /v1/models lists them")


def _models(request: Request) -> list[dict[str, Any]]:
    runtime, view = runtime_of(request), view_of(request)
    base_model = runtime.base_model

    def entry(name: str, *, root: str, parent: str | None) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": runtime.created,
            "owned_by": "adaptive-lora",
            "root": root,
            "parent": parent,
        }

    entries = [entry(AUTO, root=base_model, parent=None), entry(BASE, root=base_model, parent=None)]
    entries += [entry(name, root=base_model, parent=BASE) for name in view.candidates]
    for name, aliases in sorted(view.aliases.items()):
        entries += [entry(f"{name}@{alias}", root=base_model, parent=name) for alias in sorted(aliases)]
    for version in sorted(view.versions):
        entries.append(entry(version, root=base_model, parent=version.partition("@")[0]))
    return entries
