"""The Typer application, and how errors leave it."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from adaptive_lora import __version__
from adaptive_lora.cli import (
    adapters,
    backup,
    compositions,
    debug,
    doctor,
    fleet,
    generate,
    keys,
    loadtest,
    models,
    plan,
    quantise,
    route,
    router,
    serve,
    token,
)
from adaptive_lora.cli.client import ApiKey, api_key_var
from adaptive_lora.cli.common import console
from adaptive_lora.errors import AdaptiveLoraError

app = typer.Typer(
    name="adaptive-lora",
    help="Serve, route and improve a fleet of LoRA agents on one base model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("generate")(generate.generate)
app.command("route")(route.route)
fleet.register(adapters.app)
app.add_typer(adapters.app, name="adapters")
app.add_typer(compositions.app, name="compositions")
app.add_typer(router.app, name="router")
app.add_typer(models.app, name="models")
app.command("plan")(plan.plan)
app.command("loadtest")(loadtest.loadtest)
app.add_typer(quantise.app, name="quantise")
app.add_typer(keys.app, name="keys")
app.add_typer(debug.app, name="debug")
app.add_typer(token.app, name="token")
backup.register(app)
app.command("doctor")(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"adaptive-lora {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    api_key: ApiKey = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""
    api_key_var.set(api_key)


def main() -> None:
    """The command's entry point. An expected error is one line on stderr and exit code 1."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without a character is no failure
    try:
        app()
    except AdaptiveLoraError as error:
        for line in error.message.splitlines():
            console().print("error: " + line, style="red", markup=False)
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`). Python would complain again when it flushes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
