"""`adapter_config.json`: what PEFT wrote about an adapter, reduced to what may be served."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from adaptive_lora.errors import RankTooLarge, UnsupportedAdapter

T = TypeVar("T")

_PLAIN_OPTIONS = frozenset(
    {
        "peft_type", "peft_version", "task_type", "inference_mode", "base_model_name_or_path", "revision",
        "r", "lora_alpha", "lora_dropout", "use_rslora", "bias", "init_lora_weights",
        "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
        "rank_pattern", "alpha_pattern",
        "auto_mapping", "ensure_weight_tying", "megatron_core", "qalora_group_size",
        "loftq_config", "eva_config", "lora_ga_config", "velora_config",
    }
)  # fmt: skip
"""Options that are checked below, or that matter in training only. Any other option must be off: an option
that this list does not know (DoRA, aLoRA, bias vectors, replaced modules, whatever PEFT adds next) changes
what the adapter computes, and an engine that ignores it would answer wrongly without a sign."""

_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Initialisations that leave the base's weights alone. PiSSA, OLoRA, CorDA and LoftQ change them when
loaded."""

_MODULE_PATH = re.compile(r"[A-Za-z0-9_.]+")


@dataclass(frozen=True, slots=True)
class PeftConfig:
    rank: int
    rank_pattern: Mapping[str, int]
    alpha: float
    alpha_pattern: Mapping[str, float]
    use_rslora: bool

    def rank_of(self, module: str) -> int:
        """The rank for a module path: the first pattern that is the path or its tail, else the common
        rank."""
        return _match(self.rank_pattern, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """What B @ A is multiplied by: alpha / rank, or alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023)."""
        rank = self.rank_of(module)
        alpha = _match(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def parse_peft_config(text: bytes, *, where: str, max_rank: int) -> PeftConfig:
    """Parse and check. `where` names the file in errors.

    Raises UnsupportedAdapter for anything but plain LoRA, RankTooLarge if any rank exceeds `max_rank`.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise UnsupportedAdapter(f"{where} is not a JSON object: save the adapter again with PEFT")
    if config.get("peft_type") != "LORA":
        raise UnsupportedAdapter(
            f"{where}: peft_type is {_show(config.get('peft_type'))}; only LORA is served"
        )
    for option, value in config.items():
        if option not in _PLAIN_OPTIONS and value not in (None, False, "", [], {}):
            raise UnsupportedAdapter(
                f"{where}: the option {option[:64]!r} is set to {_show(value)} and cannot be served; train "
                "without it"
            )
    if config.get("bias", "none") != "none":
        raise UnsupportedAdapter(f"{where}: bias is {_show(config['bias'])}; train with bias='none'")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        raise UnsupportedAdapter(
            f"{where}: init_lora_weights is {_show(init)}, which changes the base model's weights; convert "
            "the adapter with PEFT's path_initial_model_for_weight_conversion"
        )
    rank = _rank(config.get("r"), f"{where}: r")
    patterns = config.get("rank_pattern") or {}
    _check_patterns(patterns, f"{where}: rank_pattern")
    ranks = {key: _rank(value, f"{where}: rank_pattern[{key!r}]") for key, value in patterns.items()}
    _alpha(config.get("lora_alpha"), f"{where}: lora_alpha")
    alphas = config.get("alpha_pattern") or {}
    _check_patterns(alphas, f"{where}: alpha_pattern")
    for key, value in alphas.items():
        _alpha(value, f"{where}: alpha_pattern[{key!r}]")
    largest = max([rank, *ranks.values()])
    if largest > max_rank:
        raise RankTooLarge(
            f"{where}: rank {largest} exceeds the engine's {max_rank}: raise adapters.max_lora_rank, or "
            "train with a smaller r"
        )
    return PeftConfig(rank, ranks, config["lora_alpha"], alphas, bool(config.get("use_rslora")))


def _match(pattern: Mapping[str, T], module: str, default: T) -> T:
    for key, value in pattern.items():
        if module == key or module.endswith("." + key):
            return value
    return default


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_patterns(patterns: object, where: str) -> None:
    """Loaders run these keys as regular expressions; only those that mean themselves are let through."""
    if not isinstance(patterns, dict) or not all(_MODULE_PATH.fullmatch(key) for key in patterns):
        raise UnsupportedAdapter(f"{where} must map plain module paths, not regular expressions, to values")


def _rank(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UnsupportedAdapter(f"{where} is {_show(value)}; a rank is a positive integer")
    return value


def _alpha(value: object, where: str) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):  # type: ignore[arg-type]
        raise UnsupportedAdapter(f"{where} is {_show(value)}; it must be a finite number")
