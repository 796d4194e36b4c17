"""Does the serving engine compute what PEFT computes with the same adapter? An offline job.

Engine and PEFT each read off the log-probability of every token of given answers. PEFT's side is plain torch
in float32, the adapter beside the base and not merged into it. What differs then is rounding, unless one of
them has another scaling, other modules, or another prompt.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from adaptive_lora.engine.base import Engine
from adaptive_lora.engine.factory import build_engine
from adaptive_lora.engine.prompts import PromptEncoder
from adaptive_lora.errors import InvalidRequest, PromptTooLong, Unsupported
from adaptive_lora.settings import Settings
from adaptive_lora.types import AdapterVersion, ChatMessage, Probe, Prober, Prompt

MAX_TEXTS = 16
"""Read of a manifest."""
REFERENCE_DTYPE = "float32"
WRONG_SCALING = 1.1
"""A scaling wrong by a tenth must not pass."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest differences of log-probabilities that count as rounding, in nats."""

    mean: float
    largest: float


TOLERANCES: Mapping[str, Tolerance] = {
    "float32": Tolerance(mean=1e-3, largest=1e-2),
    "float16": Tolerance(mean=2e-2, largest=0.3),
    "bfloat16": Tolerance(mean=5e-2, largest=1.0),
}
"""By the type that the engine computes in."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Log-probability of each token of each text's answer, with the adapter and without."""

    texts: tuple[Probe, ...]
    adapter: tuple[tuple[float, ...], ...]
    base: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class ParityReport:
    """What was compared. Differences are absolute, per token, in nats."""

    adapter: str
    passed: bool
    n_texts: int
    n_tokens: int
    mean_difference: float
    max_difference: float
    mean_tolerance: float
    """By type, and at most what `wrong_scaling_difference` or else the base shows."""
    max_tolerance: float
    base_mean_difference: float
    """Of the same texts without the adapter: what the two differ by anyway."""
    base_max_difference: float
    effect: float
    """Mean difference that the adapter makes, under PEFT."""
    wrong_scaling_difference: float
    """Mean difference that a scaling wrong by a tenth makes, under PEFT: what these texts can tell."""
    engine_dtype: str
    reference_dtype: str
    versions: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class PeftReference:
    """The same question that an engine answers (it is a `Prober`), answered by Transformers and PEFT."""

    def __init__(self, model: Any, encoder: PromptEncoder, adapter_id: str) -> None:
        self._model = model
        self._encoder = encoder
        self._adapter_id = adapter_id

    @classmethod
    def load(cls, base: str, adapter: AdapterVersion) -> Self:
        """Load the base, a folder or a Hugging Face id, and the adapter beside it. Blocks."""
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, REFERENCE_DTYPE)).to(device)
        model = PeftModel.from_pretrained(model, str(adapter.path)).eval()
        return cls(model, PromptEncoder(AutoTokenizer.from_pretrained(base)), adapter.id)

    async def answer_logprobs(
        self, prompt: Prompt, answer: str, adapter_id: str | None = None
    ) -> tuple[float, ...]:
        if adapter_id not in (None, self._adapter_id):
            raise ValueError(f"{adapter_id} is not the adapter that was loaded")
        prompt_ids = await self._encoder.encode(prompt)
        answer_ids = await self._encoder.encode_answer(answer)
        return await asyncio.to_thread(self._score, prompt_ids, answer_ids, adapter_id is not None)

    @contextmanager
    def scaled(self, factor: float) -> Iterator[None]:
        """Within the block the adapter weighs `factor` times as much as it should."""
        from peft.tuners.lora import LoraLayer

        layers = [module for module in self._model.modules() if isinstance(module, LoraLayer)]
        for layer in layers:
            layer.scale_layer(factor)
        try:
            yield
        finally:
            for layer in layers:
                layer.unscale_layer(factor)

    def _score(self, prompt_ids: list[int], answer_ids: list[int], with_adapter: bool) -> tuple[float, ...]:
        import torch

        ids = torch.tensor([prompt_ids + answer_ids], device=self._model.device)
        with torch.inference_mode():
            if with_adapter:
                logits = self._model(input_ids=ids, use_cache=False).logits
            else:
                with self._model.disable_adapter():
                    logits = self._model(input_ids=ids, use_cache=False).logits
            # Logits at a position are about the token after it.
            rows = logits[0, len(prompt_ids) - 1 : -1].float().log_softmax(dim=-1)
            return tuple(rows.gather(1, ids[0, len(prompt_ids) :, None])[:, 0].tolist())


async def check_parity(
    base: str | Path,
    adapter: AdapterVersion,
    prober: Prober,
    *,
    engine_dtype: str | None = None,
    texts: Sequence[Probe] = (),
) -> ParityReport:
    """Compare an engine that has loaded `adapter` with PEFT on the model `base`.

    `texts` default to the adapter's own probes or examples; those that do not fit the context are left out.
    `engine_dtype` decides the tolerance; None, where it is not known, allows for bfloat16. Raises
    InvalidRequest if there is no text, and what `prober` raises.
    """
    ours = await read(prober, adapter, texts or texts_of(adapter))
    reference = await asyncio.to_thread(PeftReference.load, str(base), adapter)
    return await compare(adapter, ours, reference, engine_dtype=engine_dtype)


def run_parity(settings: Settings, adapter: AdapterVersion, *, texts: Sequence[Probe] = ()) -> ParityReport:
    """Start the configured engine, read, stop it, and then compare with PEFT: the two are never in memory
    together. For a command: it runs an event loop of its own.

    Raises Unsupported for an engine or a base that has nothing to be compared with, and as `check_parity`.
    """
    base = settings.model.base_model
    if settings.model.engine == "fake":
        raise Unsupported("the fake engine computes nothing that could equal PEFT: set model.engine: vllm")
    if settings.model.quantization is not None or _is_quantised(base):
        raise Unsupported(
            "a quantised base differs from PEFT's by its quantisation: check parity on the original, and the "
            "quantised one with `adaptive-lora quantise check`"
        )

    async def ask() -> tuple[Reading, str | None]:
        engine = build_engine(settings.model, settings.adapters, settings.inference, settings.workers)
        try:
            await engine.start()
            await engine.load(adapter)
            reading = await read(engine, adapter, texts or texts_of(adapter))
            return reading, dtype_of(engine)
        finally:
            await engine.stop()

    ours, dtype = asyncio.run(ask())
    return asyncio.run(compare(adapter, ours, PeftReference.load(base, adapter), engine_dtype=dtype))


def dtype_of(engine: Engine) -> str | None:
    """In what an engine computes; None if it does not say, as one in other processes does not."""
    return getattr(getattr(engine, "inner", engine), "dtype", None)


async def read(prober: Prober, adapter: AdapterVersion, texts: Sequence[Probe]) -> Reading:
    """What an engine, or the reference, makes of those texts that fit its context."""
    fit: list[Probe] = []
    with_adapter, without = [], []
    for text in texts:
        prompt = (ChatMessage("user", text.prompt),)
        try:
            with_adapter.append(await prober.answer_logprobs(prompt, text.answer, adapter.id))
        except PromptTooLong:
            continue
        without.append(await prober.answer_logprobs(prompt, text.answer))
        fit.append(text)
    return Reading(tuple(fit), tuple(with_adapter), tuple(without))


async def compare(
    adapter: AdapterVersion, ours: Reading, reference: PeftReference, *, engine_dtype: str | None = None
) -> ParityReport:
    """The report on what an engine has read. Raises InvalidRequest if that is nothing."""
    if not ours.texts:
        raise InvalidRequest(
            f"{adapter.id} has no probes or examples that fit the context: nothing can be compared"
        )
    theirs = await read(reference, adapter, ours.texts)
    with reference.scaled(WRONG_SCALING):
        wrong = await read(reference, adapter, ours.texts)
    own, base = _differences(ours.adapter, theirs.adapter), _differences(ours.base, theirs.base)
    sensitivity = _mean(_differences(wrong.adapter, theirs.adapter))
    tolerance = TOLERANCES.get(engine_dtype or "", TOLERANCES["bfloat16"])
    mean_tolerance = min(tolerance.mean, max(sensitivity, _mean(base)))
    return ParityReport(
        adapter=adapter.id,
        # What is no number passes neither comparison.
        passed=_mean(own) <= mean_tolerance and max(own) <= tolerance.largest,
        n_texts=len(ours.texts),
        n_tokens=len(own),
        mean_difference=_mean(own),
        max_difference=max(own),
        mean_tolerance=mean_tolerance,
        max_tolerance=tolerance.largest,
        base_mean_difference=_mean(base),
        base_max_difference=max(base),
        effect=_mean(_differences(theirs.adapter, theirs.base)),
        wrong_scaling_difference=sensitivity,
        engine_dtype=engine_dtype or "unknown",
        reference_dtype=REFERENCE_DTYPE,
        versions={name: _version(name) for name in ("vllm", "peft", "torch", "transformers")},
    )


def texts_of(adapter: AdapterVersion) -> list[Probe]:
    """Half the adapter's probes, half its examples with themselves as answers; at most MAX_TEXTS, spread
    evenly.

    Of answers that it is sure of, a probability near 1 says little about the scaling: so what it does not
    expect is read as well.
    """
    repeated = [Probe(text, text) for text in adapter.examples]
    n_probes = min(len(adapter.probes), MAX_TEXTS // 2)
    return _spread(adapter.probes, n_probes) + _spread(repeated, MAX_TEXTS - n_probes)


def _spread(texts: Sequence[Probe], n: int) -> list[Probe]:
    n = min(n, len(texts))
    return [texts[i * len(texts) // n] for i in range(n)]


def _differences(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> list[float]:
    """Per token, over all texts."""
    if [len(answer) for answer in one] != [len(answer) for answer in other]:
        raise Unsupported(
            "engine and PEFT split the answers into different tokens: have they the same tokenizer files?"
        )
    return [abs(a - b) for answers in zip(one, other, strict=True) for a, b in zip(*answers, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _is_quantised(base: str) -> bool:
    config = Path(base) / "config.json"
    return config.is_file() and "quantization_config" in json.loads(config.read_bytes())


def _version(package: str) -> str:
    """Of an installed package; vLLM's build for CPUs has a name of its own."""
    for name in (package, f"{package}-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"
