"""The contracts of managed platforms: a route that answers and one for their probe, beside our own endpoints.

Sources: "Custom Inference Code with Hosting Services" (Amazon SageMaker AI), "Custom container requirements
for inference" (Vertex AI), "Use a custom container to deploy a model to an online endpoint" (Azure Machine
Learning). Each body goes to the endpoint that it belongs to; nothing is answered here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection

from fastapi import APIRouter, Request
from starlette.responses import Response

from adaptive_lora.agents.names import parse_name
from adaptive_lora.errors import InvalidRequest, SettingsError
from adaptive_lora.serving.auth.guard import needs
from adaptive_lora.serving.middleware import PROBES
from adaptive_lora.serving.principal import ANYBODY, Principal
from adaptive_lora.serving.routes.common import (
    ON_EVERY_PATH,
    ON_POST,
    as_json,
    errors,
    streamed,
)
from adaptive_lora.serving.routes.direct import DirectRoute
from adaptive_lora.serving.routes.generate import generate, generate_all
from adaptive_lora.serving.routes.health import ready
from adaptive_lora.serving.routes.openai_chat import chat_completions
from adaptive_lora.serving.routes.openai_completions import completions
from adaptive_lora.serving.schemas.fleet import ReadyAnswer
from adaptive_lora.serving.schemas.generate import GenerateBody
from adaptive_lora.serving.schemas.openai import ChatBody
from adaptive_lora.serving.schemas.platforms import InstancesBody, InvocationAnswer, InvocationBody
from adaptive_lora.settings import PlatformSettings, Settings

_log = logging.getLogger(__name__)

PREDICT_ROUTES = {"sagemaker": "/invocations", "vertex": "/predict", "azureml": "/score"}
HEALTH_ROUTES = {"sagemaker": "/ping", "vertex": "/ready", "azureml": "/ready"}

ADAPTER_HEADER = "x-amzn-sagemaker-adapter-identifier"
"""SageMaker's, of the adapter that an inference component is for; vLLM's and LMI's containers read it."""
ATTRIBUTES_HEADER = "x-amzn-sagemaker-custom-attributes"
"""The one header of a caller that SageMaker hands on. We read `adapter=NAME` in it."""
_ATTRIBUTE = re.compile(r"(?:^|[,;])\s*adapter=([^,;\s]+)")


def health_route(platform: PlatformSettings) -> str | None:
    """Where the platform asks whether the server is ready; None if there is no platform."""
    return None if platform.name is None else platform.health_route or HEALTH_ROUTES[platform.name]


def anybody(platform: PlatformSettings) -> Principal:
    """The caller where nobody asks for credentials. Some platforms let their callers reach every path of the
    container: they may generate, and change nothing."""
    if platform.name is None:
        return ANYBODY
    return Principal(platform.name, scopes=frozenset({"generate"}))


def platform_router(settings: Settings, taken: Collection[str]) -> APIRouter | None:
    """The platform's routes; None without one. `taken` are the paths of our own endpoints.

    Raises SettingsError for a route that would hide one of those.
    """
    platform = settings.platform
    if platform.name is None:
        return None
    predict = platform.predict_route or PREDICT_ROUTES[platform.name]
    health = health_route(platform) or ""
    for key, path in (("predict_route", predict), ("health_route", health)):
        if path in taken and not (key == "health_route" and path in PROBES):
            raise SettingsError(
                f"platform.{key} is {path!r}, which is an endpoint of its own: choose another"
            )
    if predict == health:
        raise SettingsError(f"platform.predict_route and platform.health_route are both {health!r}")
    if settings.auth.enabled:
        _log.warning(
            "platform.name is %s, which hands on no Authorization header of its callers, and auth.enabled is "
            "true: requests will be refused. To let the platform decide who may call, set auth.enabled: "
            "false and auth.allow_insecure: true",
            platform.name,
        )
    return _router(predict, health, sagemaker=platform.name == "sagemaker")


def _router(predict: str, health: str, *, sagemaker: bool) -> APIRouter:
    router = APIRouter(tags=["platform"])
    answering = APIRouter(dependencies=[needs("generate")], route_class=DirectRoute)

    @answering.post(
        predict,
        response_model=InvocationAnswer,
        responses=errors(*ON_POST) | streamed("The answer, or with `stream` the events of its endpoint"),
    )
    async def invoke(body: InvocationBody, request: Request) -> Response:
        """Answer as /generate, /v1/chat/completions or /v1/completions would, by the body's fields; with
        `instances` as Vertex AI wants it."""
        named = _named_agent(request) if sagemaker else None
        if isinstance(body, InstancesBody):
            items = [(item, item.prompt) for item in body.items()]
            return as_json({"predictions": await generate_all(items, request)})
        if isinstance(body, GenerateBody):
            return await generate(body.model_copy(update={"adapter": named or body.adapter}), request)
        body = body.model_copy(update={"model": named or body.model})
        if isinstance(body, ChatBody):
            return await chat_completions(body, request)
        return await completions(body, request)

    router.include_router(answering)
    if health not in PROBES:

        @router.get(health, response_model=ReadyAnswer, responses=errors(*ON_EVERY_PATH, 503))
        async def ping(request: Request) -> Response:
            """As /ready: a canary generation has succeeded, and no stall was noticed since."""
            return await ready(request)

    return router


def _named_agent(request: Request) -> str | None:
    """Whom SageMaker's headers ask for; they are stronger than the body, because who may set them is decided
    by the platform. Raises InvalidName, and InvalidRequest for headers that contradict each other."""
    found = request.headers.getlist(ADAPTER_HEADER)
    for attributes in request.headers.getlist(ATTRIBUTES_HEADER) if not found else ():
        found += _ATTRIBUTE.findall(attributes)
    if not found:
        return None
    if len(set(found)) > 1:
        raise InvalidRequest(f"the headers ask for several agents: {', '.join(sorted(set(found)))}")
    return str(parse_name(found[0]))
