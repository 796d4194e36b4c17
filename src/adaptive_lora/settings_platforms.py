"""What a managed platform tells a container through its own variables, as settings.

Read only where `platform.name` says that this is that platform: a variable that happens to be there changes
nothing. They stand above the file, which is baked into the image, and below our own variables and flags.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

VARIABLES = {
    "sagemaker": {"SAGEMAKER_BIND_TO_PORT": "api.port"},
    "vertex": {
        "AIP_HTTP_PORT": "api.port",
        "AIP_PREDICT_ROUTE": "platform.predict_route",
        "AIP_HEALTH_ROUTE": "platform.health_route",
    },
    "azureml": {},
}
"""By platform, the key that each variable sets."""

PORTS = {"sagemaker": 8080, "vertex": 8080, "azureml": 5001}
"""Where no variable says another: SageMaker's and Vertex AI's defaults, and that of Azure ML's own server."""


def platform_values(name: object, environ: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    """Key, value and source of what the platform `name` decides; nothing for a name that is none."""
    if not isinstance(name, str) or name not in PORTS:
        return
    source = f"platform.name {name}"
    yield "api.host", "0.0.0.0", source  # nosec B104: a container
    yield "api.port", PORTS[name], source
    for variable, key in VARIABLES[name].items():
        if environ.get(variable):
            yield key, environ[variable], variable
