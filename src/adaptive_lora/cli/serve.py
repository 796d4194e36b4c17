"""adaptive-lora serve"""

from __future__ import annotations

from typing import Annotated

import typer

from adaptive_lora.cli.common import AdaptersFolder, BaseModel, Config, EngineName, console, settings_from


def serve(
    config: Config = None,
    host: Annotated[str | None, typer.Option(help="Address to bind: api.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind, 0 for a free one: api.port.")] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Ask nobody who calls: auth.enabled false with auth.allow_insecure true.",
        ),
    ] = False,
    base_model: BaseModel = None,
    adapters: AdaptersFolder = None,
    engine: EngineName = None,
) -> None:
    """Serve the fleet over HTTP until Ctrl-C or SIGTERM."""
    settings = settings_from(
        config,
        {
            "api.host": host,
            "api.port": port,
            "model.base_model": base_model,
            "model.engine": engine,
            "adapters.path": adapters,
            "auth.enabled": False if insecure else None,
            "auth.allow_insecure": True if insecure else None,
        },
    )
    from adaptive_lora.serving.server import run_server

    def on_listen(url: str) -> None:
        console().print(f"Adaptive LoRA at {url} (API: {url}/docs, ready yet? {url}/ready)", style="bold")

    raise typer.Exit(run_server(settings, on_listen=on_listen))
