"""The commands' HTTP client: a running server's answers, and its errors as ours."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer

from adaptive_lora.errors import AdaptiveLoraError, InvalidRequest

SERVER_VARIABLE = "ADAPTIVE_LORA_SERVER"
API_KEY_VARIABLE = "ADAPTIVE_LORA_API_KEY"
TIMEOUT_S = 600.0
"""For the server to fetch, verify and prove an adapter."""

Server = Annotated[str, typer.Option("--server", help="URL of the running server.", envvar=SERVER_VARIABLE)]
DEFAULT_SERVER = "http://127.0.0.1:8000"


ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        help="API key or token for commands that ask a server; better in the environment than here, where "
        "other users of this machine can read it.",
        envvar=API_KEY_VARIABLE,
        show_default=False,
    ),
]
"""An option of the program, before the command's name."""

api_key_var: ContextVar[str | None] = ContextVar("api_key", default=None)
"""What the option says."""


class ServerRefused(AdaptiveLoraError):
    """A server's error, or that it cannot be reached."""

    code = "server_refused"


def authorization() -> dict[str, str]:
    """The header that says who asks; empty without a key. Raises InvalidRequest, without the key, for one
    that no header can hold."""
    api_key = api_key_var.get()
    if api_key and not all("!" <= character <= "~" for character in api_key):
        raise InvalidRequest(
            f"the API key ({API_KEY_VARIABLE}, --api-key) has a space, a line break or another character "
            "that keys and tokens do not have"
        )
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def call(
    server: str,
    method: str,
    path: str,
    *,
    json: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    content: Iterator[bytes] | None = None,
    content_type: str | None = None,
) -> Any:
    """The decoded answer; None if it has no content. Raises ServerRefused with the server's own message."""
    import httpx

    wanted = {key: value for key, value in (params or {}).items() if value is not None}
    headers = authorization() | ({"content-type": content_type} if content_type else {})
    try:
        with httpx.Client(base_url=server, timeout=TIMEOUT_S, trust_env=False) as client:
            reply = client.request(method, path, json=json, params=wanted, content=content, headers=headers)
            answer = reply.json() if reply.content else None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServerRefused(f"{server} cannot be asked: {error}; is the server running?") from error
    except UnicodeEncodeError as error:
        raise InvalidRequest("what was typed is not UTF-8 text") from error
    except ValueError as error:
        raise ServerRefused(f"{server} did not answer with JSON: is it an Adaptive LoRA server?") from error
    if reply.status_code >= 400:
        failure = answer.get("error") if isinstance(answer, dict) else None
        message = failure.get("message") if isinstance(failure, dict) else None
        raise ServerRefused(f"{message or 'no reason given'} ({reply.status_code})")
    return answer


def actor() -> str:
    """Who runs this command, for the history: the user's name on this machine."""
    try:
        return getpass.getuser()[:64]
    except (OSError, KeyError):  # no entry for this uid, as in a container
        return f"uid {os.getuid()}"


def packed(folder: Path) -> Iterator[bytes]:
    """The files of `folder` as an uncompressed tar, piece by piece; weights do not compress."""
    import tarfile
    import tempfile

    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, arcname=path.name, recursive=False)
        file.seek(0)
        while chunk := file.read(1 << 20):
            yield chunk
