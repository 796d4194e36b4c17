"""The `vllm.general_plugins` entry point: replaces vLLM's CPU LoRA path by `GroupedPunicaWrapperCPU`.

vLLM loads it in every one of its processes, possibly more than once. It must never break vLLM's start: where
it does not apply it says why and leaves vLLM as it is.

    ADAPTIVE_LORA_CPU_LORA=ours    on a CPU, replace whatever vLLM's version is
    ADAPTIVE_LORA_CPU_LORA=stock   never replace
    unset                          on a CPU, replace if vLLM's version is one that this was tested with
"""

from __future__ import annotations

import logging
import os

ENV = "ADAPTIVE_LORA_CPU_LORA"
WRAPPER = "adaptive_lora.engine.cpu_lora.punica.GroupedPunicaWrapperCPU"
TESTED = ((0, 32), (0, 33))
"""vLLM versions, from the first (inclusive) to the second (exclusive)."""

logger = logging.getLogger("vllm.adaptive_lora.cpu_lora")
"""Below "vllm", so that vLLM's logging configuration shows it."""


def register() -> None:
    """Install the wrapper where it applies. Idempotent; never raises."""
    try:
        _register()
    except Exception:
        logger.warning("CPU multi-LoRA plugin not installed; vLLM's own path stays in place", exc_info=True)


def _register() -> None:
    choice = os.environ.get(ENV, "")
    if choice == "stock":
        return
    if choice not in ("", "ours"):
        logger.warning("%s=%s is neither 'ours' nor 'stock'; it is ignored", ENV, choice)
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from importlib.metadata import version

    import vllm

    found = getattr(vllm, "__version__", None) or version("vllm")
    if choice != "ours" and not tested(found):
        logger.warning(
            "CPU multi-LoRA plugin steps aside: tested with vLLM %s up to, not including, %s; this is %s. "
            "Batches that mix adapters and the base model may be wrong; %s=ours installs it anyway.",
            *(".".join(map(str, v)) for v in TESTED),
            found,
            ENV,
        )
        return
    platform = type(current_platform)
    if platform.get_punica_wrapper() != WRAPPER:
        platform.get_punica_wrapper = classmethod(lambda cls: WRAPPER)


def tested(version: str) -> bool:
    """Whether `version` ("0.32.0", "0.32.0+cpu", "0.32.1rc1") is in the tested range."""
    parts = version.split("+")[0].split(".")
    try:
        release = (int(parts[0]), int(parts[1]))
    except (IndexError, ValueError):
        return False
    return TESTED[0] <= release < TESTED[1]
