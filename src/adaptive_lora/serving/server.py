"""The process that serves: uvicorn, one worker, a clean end."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from types import FrameType

import uvicorn

from adaptive_lora.serving.api import create_app
from adaptive_lora.serving.binding import bind, check_bind, url_of
from adaptive_lora.settings import Settings
from adaptive_lora.telemetry.logging import configure_logging

_log = logging.getLogger(__name__)

MAX_GRACE_S = 30
"""How long requests in flight may take to finish after SIGTERM or Ctrl-C."""


class _Server(uvicorn.Server):
    """Stops on SIGTERM and Ctrl-C as told to, not as killed by them: a second Ctrl-C does not wait any
    more."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def run_server(
    settings: Settings, *, insecure: bool = False, on_listen: Callable[[str], None] | None = None
) -> int:
    """Serve until SIGTERM or Ctrl-C. Returns the process's exit code: 1 if the engine cannot start or dies.

    `on_listen` is told the URL once the socket is bound (port 0 takes a free one). Raises SettingsError for
    an address that may not or cannot be bound.
    """
    check_bind(settings, insecure)
    configure_logging(settings.monitoring.log_level)
    failed = False

    def give_up() -> None:
        nonlocal failed
        failed = True
        server.should_exit = True

    app = create_app(settings, on_failure=give_up)
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=MAX_GRACE_S,
    )
    server = _Server(config)
    with bind(settings.api) as listener:
        url = url_of(settings.api, listener)
        _log.info("listening on %s", url, extra={"url": url})
        if on_listen is not None:
            on_listen(url)
        server.run(sockets=[listener])
    return 1 if failed or not server.started else 0
