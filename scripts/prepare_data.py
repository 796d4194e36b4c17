"""Download the base model, once, before servers start: one commit, checked file by file, without code.

    BASE_MODEL=meta-llama/Meta-Llama-3-8B HF_TOKEN=... python scripts/prepare_data.py --download-model

Interrupted, it goes on where it stopped when it is run again. Afterwards BASE_MODEL=./models/Meta-Llama-3-8B
serves the model from the folder. The environment must hold the package: `make install`, then
.venv/bin/python.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from adaptive_lora import demo_fleet
from adaptive_lora.adapters.hub import SOURCE_NAME, DownloadedModel, download_model
from adaptive_lora.cli.common import console
from adaptive_lora.errors import AdaptiveLoraError
from adaptive_lora.settings_loading import load_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--download-model", action="store_true", help="download the base model")
    parser.add_argument("--model", help="Hugging Face id; default: the settings' base model, so BASE_MODEL")
    parser.add_argument(
        "--revision", help="commit, tag or branch; default: the newest commit of the main branch"
    )
    parser.add_argument("--output", type=Path, help="new folder; default: models/ and the model's name")
    parser.add_argument("--jobs", type=int, default=4, help="files at once (default: 4)")
    arguments = parser.parse_args()
    if not arguments.download_model:
        parser.error("there is nothing to do: --download-model downloads the base model")
    try:
        model = arguments.model or load_settings().model.base_model
        if model == demo_fleet.DEMO:
            print(
                f"the demo's base model is part of the repository: {demo_fleet.folder() / 'base'}",
                file=sys.stderr,
            )
            print("another one: BASE_MODEL=organisation/name, or --model organisation/name", file=sys.stderr)
            return
        if Path(model).is_dir():
            print(f"{model} is a folder already: there is nothing to download", file=sys.stderr)
            return
        report(download(model, arguments))
    except AdaptiveLoraError as error:
        sys.exit(f"error: {error.message}")
    except KeyboardInterrupt:
        sys.exit("interrupted: run it again to go on")


def download(model: str, arguments: argparse.Namespace) -> DownloadedModel:
    output = arguments.output or Path("models") / model.rpartition("/")[2]
    columns = [
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    ]
    terminal = console()
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task(model)

        def resolved(commit: str, n_bytes: int) -> None:
            progress.console.print(f"{model} is at commit {commit}", markup=False)
            progress.update(task, total=n_bytes)

        return download_model(
            model,
            output,
            revision=arguments.revision,
            jobs=arguments.jobs,
            resolved=resolved,
            progress=lambda n_bytes: progress.advance(task, n_bytes),
        )


def report(downloaded: DownloadedModel) -> None:
    done = "is complete and unchanged" if downloaded.was_there else "is complete"
    print(f"{downloaded.folder} {done}; its commit is in {SOURCE_NAME}", file=sys.stderr)
    print(f"serve it: BASE_MODEL=./{downloaded.folder} make serve", file=sys.stderr)
    print(
        json.dumps(
            {
                "model": downloaded.name,
                "commit": downloaded.commit,
                "folder": str(downloaded.folder),
                "bytes": downloaded.n_bytes,
            }
        )
    )


if __name__ == "__main__":
    main()
