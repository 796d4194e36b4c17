"""adaptive-lora plan"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
import yaml

from adaptive_lora.cli.common import AsJson, console, output, print_json
from adaptive_lora.errors import SettingsError
from adaptive_lora.sizing import plan as planning
from adaptive_lora.sizing.instances import AS_OF
from adaptive_lora.sizing.memory import (
    GIB,
    LINEAR_BYTES,
    Load,
    adapter_bytes,
    kv_bytes_per_token,
    memory,
    slot_bytes,
)
from adaptive_lora.sizing.models import ModelShape, model_shape
from adaptive_lora.sizing.plan import Fit

OWN_CHECKPOINT = ("int8", "int4", "awq", "gptq")
"""Quantisations that a checkpoint brings along."""


def plan(
    model: Annotated[
        str, typer.Option(help="A preset (1b, 3b, 8b, 70b, qwen3-8b, ...), a folder, or a config.json.")
    ] = "8b",
    quant: Annotated[
        str, typer.Option(help=f"How linear layers are held: {', '.join(LINEAR_BYTES)}.")
    ] = "bf16",
    adapters: Annotated[int, typer.Option(min=0, help="Adapters of the fleet, all in host memory.")] = 8,
    rank: Annotated[int, typer.Option(min=1, help="The largest rank of an adapter.")] = 16,
    slots: Annotated[
        int, typer.Option(min=1, max=256, help="Adapters in one batch: adapters.max_loras.")
    ] = 8,
    context: Annotated[int, typer.Option(min=16, help="Tokens of a sequence, prompt and answer.")] = 4096,
    concurrency: Annotated[int, typer.Option(min=1, help="Sequences at once, all of that length.")] = 32,
    utilization: Annotated[float, typer.Option(min=0.1, max=1.0, help="model.gpu_memory_utilization.")] = 0.9,
    cloud: Annotated[str | None, typer.Option(help="aws, gcp or azure; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say which machines hold a model, its adapters and so many callers, and the settings for the smallest.

    It is arithmetic of memory, and says nothing of speed. Exit code 1 if no machine of the table fits.
    """
    if quant not in LINEAR_BYTES:
        raise SettingsError(f"--quant {quant}: choose one of {', '.join(LINEAR_BYTES)}")
    shape = model_shape(model)
    load = planning.check(Load(quant, adapters, rank, slots, context, concurrency))
    found = planning.fits(shape, load, utilization)
    clouds = sorted({fit.instance.cloud for fit in found})
    if cloud is not None and cloud not in clouds:
        raise SettingsError(f"--cloud {cloud}: choose one of {', '.join(clouds)}")
    found = [fit for fit in found if cloud in (None, fit.instance.cloud)]
    best = next((fit for fit in found if fit.missing is None), None)
    settings = None if best is None else planning.settings_for(shape, load, best, utilization)
    if as_json:
        print_json(_document(shape, load, found, best, settings))
    else:
        _print(shape, load, found, best, settings)
    if shape.max_context is not None and context > shape.max_context:
        console().print(
            f"{shape.name} was made for {shape.max_context} tokens, and vLLM starts with no more: for "
            f"--context {context} take a model of this shape that was made for as many",
            style="yellow",
            markup=False,
        )
    if best is None:
        raise typer.Exit(1)


def _print(
    shape: ModelShape, load: Load, found: Sequence[Fit], best: Fit | None, settings: dict[str, Any] | None
) -> None:
    out = output()
    out.print(
        f"{shape.name}: {shape.n_parameters / 1e9:.2f} billion parameters, {load.quant}; "
        f"{load.concurrency} sequences of {load.context} tokens; {load.n_adapters} adapters of rank "
        f"{load.rank}, {load.n_slots} in a batch\n",
        markup=False,
    )
    one = memory(shape, load)
    for what, n_bytes, why in (
        ("weights", one.weights, f"{LINEAR_BYTES[load.quant]:g} bytes a weight of linear layers, 2 else"),
        ("KV cache", one.kv_cache, f"{kv_bytes_per_token(shape):,} bytes a token"),
        ("slots", one.slots, f"{slot_bytes(shape, load.rank) / 1e6:.0f} MB each"),
        ("the rest", one.overhead, "assumed: CUDA, its graphs, a step's activations"),
        ("one GPU", one.total, "if all of it were on one"),
    ):
        out.print(f"  {what:<9}{n_bytes / GIB:8.1f} GiB   {why}", markup=False)
    host = load.n_adapters * adapter_bytes(shape, load.rank)
    each_mb, others_gib = adapter_bytes(shape, load.rank) / 1e6, planning.HOST_BYTES // GIB
    out.print(
        f"  {'host':<9}{host / GIB:8.1f} GiB   adapters, {each_mb:.0f} MB each; assumed beside them: "
        f"{others_gib} GiB for the processes\n",
        markup=False,
    )
    row = "{:<25} {:<12} {:>5} {:>9} {:>7} {:>9}  {}"
    out.print(row.format("machine", "GPUs", "split", "needs/GPU", "has/GPU", "sequences", "").rstrip())
    for fit in found:
        at, n_bytes = fit.instance, fit.memory.total
        cells = (f"{n_bytes / GIB:.1f}", f"{fit.usable / GIB:.1f}", fit.n_sequences, _verdict(fit))
        text = row.format(f"{at.cloud} {at.name}", f"{at.n_gpus} {at.gpu}", fit.tensor_parallel, *cells)
        out.print(text.rstrip(), markup=False)
    out.print(f"\nGiB; machines as of {AS_OF}; sequences: how many of that length have room beside the rest.")
    for cloud, fit in planning.smallest(found).items():
        out.print(f"smallest of {cloud}: {fit.instance.name}", markup=False)
    if settings is None:
        out.print(
            "\nNone of these machines holds it: fewer --concurrency or a shorter --context needs less KV "
            "cache, --quant less for the weights; or spread the callers over several workers "
            "(docs/how-to/remote-workers.md)"
        )
        return
    out.print("\n" + yaml.safe_dump(settings, sort_keys=False).rstrip(), markup=False)
    if load.quant in OWN_CHECKPOINT:
        out.print(f"# base_model: a checkpoint that is {load.quant} already", markup=False)


def _verdict(fit: Fit) -> str:
    if fit.missing is None:
        return "fits" if fit.n_copies == 1 else f"fits {fit.n_copies} times"
    return "no" if fit.missing == "gpu" else "no: host memory is too small"


def _document(
    shape: ModelShape, load: Load, found: Sequence[Fit], best: Fit | None, settings: dict[str, Any] | None
) -> dict[str, Any]:
    """Bytes, all of it."""
    return {
        "model": shape.name,
        "parameters": shape.n_parameters,
        "quant": load.quant,
        "kv_bytes_per_token": kv_bytes_per_token(shape),
        "adapter_bytes": adapter_bytes(shape, load.rank),
        "slot_bytes": slot_bytes(shape, load.rank),
        "machines_as_of": AS_OF,
        "machines": [
            {
                "cloud": fit.instance.cloud,
                "name": fit.instance.name,
                "gpu": fit.instance.gpu,
                "gpus": fit.instance.n_gpus,
                "tensor_parallel_size": fit.tensor_parallel,
                "weights": fit.memory.weights,
                "slots": fit.memory.slots,
                "kv_cache": fit.memory.kv_cache,
                "overhead": fit.memory.overhead,
                "needed_per_gpu": fit.memory.total,
                "usable_per_gpu": fit.usable,
                "sequences": fit.n_sequences,
                "copies": fit.n_copies,
                "missing": fit.missing,
                "fits": fit.missing is None,
            }
            for fit in found
        ],
        "smallest": None if best is None else best.instance.name,
        "smallest_by_cloud": {cloud: fit.instance.name for cloud, fit in planning.smallest(found).items()},
        "settings": settings,
    }
