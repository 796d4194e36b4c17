"""One prompt, read by one stage after the other until one settles it; and what comes later in
it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from adaptive_lora.router.calibration import Calibration, dissent, log_odds
from adaptive_lora.router.encoder import Encoder
from adaptive_lora.router.features import N_BUCKETS, Ngrams, embed_ngrams, extract_ngrams
from adaptive_lora.router.head import FloatArray, softmax
from adaptive_lora.router.parts import later_part
from adaptive_lora.router.policy import Dissent
from adaptive_lora.router.spelling import tidy
from adaptive_lora.router.stage import Stage, StageName, features_of, vector_of

Result = TypeVar("Result")

_MIN_PARALLEL = 16


@dataclass(frozen=True, slots=True)
class Reading:
    """One prompt, read as far as the stages needed."""

    ngrams: Ngrams
    row: FloatArray
    """Features of the last stage that was asked."""
    stage: int
    logits: FloatArray
    """float32[candidates], of that stage."""
    best: int
    """The candidate with the largest."""
    confidence: float
    familiarity: float
    dissent: Dissent | None = None


class Reader:
    """Thread-safe."""

    def __init__(
        self,
        agents: Sequence[str],
        members: Sequence[slice],
        words: frozenset[str],
        encoder: Encoder | None,
        stages: Sequence[Stage],
        calibration: Calibration,
    ) -> None:
        """`members[i]` are the examples of `agents[i]`; `words` are all words of the examples."""
        self._vocabularies = (words,) if encoder is None else (words, encoder.words)
        self._agents = agents
        self._members = members
        self._encoder = encoder
        self._stages = stages
        self._calibration = calibration

    def read(self, prompt: str, columns: Sequence[int]) -> Reading:
        """Read for the candidates whose agents have these `columns`; what is to be routed, also by its later
        part."""
        text = tidy(prompt, *self._vocabularies)
        whole = self._read(text, columns)
        calibration = self._calibration
        is_routed = whole.familiarity >= calibration.min_familiarity and (
            whole.confidence >= calibration.min_confidence
        )
        part = later_part(text) if is_routed and calibration.max_dissent < math.inf else None
        if part is None:
            return whole
        alone = self._read(part, columns)
        if alone.best == whole.best:
            return whole
        temperature = np.float32(calibration.scales[alone.stage].temperature)
        margin = log_odds(softmax(alone.logits[None] / temperature))
        strength = float(dissent(margin, np.float32(alone.familiarity), len(part.split()))[0])
        return replace(whole, dissent=Dissent(part, self._agents[columns[alone.best]], strength))

    def _read(self, text: str, columns: Sequence[int]) -> Reading:
        ngrams = extract_ngrams(text)
        # The encoder has an opinion on nothing at all, too; nothing is like nobody's examples.
        is_empty = not ngrams.text.strip()
        counts = np.bincount(ngrams.bucket, ngrams.value, N_BUCKETS).astype(np.float32)
        reading = None if self._encoder is None or is_empty else self._encoder.read(text)
        calibration = self._calibration
        for index, stage in enumerate(self._stages):
            vector = vector_of(stage.name, reading)
            if is_empty:
                row: FloatArray = np.zeros(len(stage.weights), np.float32)
            else:
                row = features_of(stage.name, counts[None], None if vector is None else vector[None])[0]
            logits = (row @ stage.weights)[columns]
            best = int(logits.argmax())
            likeness = stage.likeness(row, self._members[columns[best]])
            scale = calibration.scales[index]
            familiarity = float(scale.familiarity(logits[best], np.float32(likeness)))
            confidence = float(softmax(logits / np.float32(scale.temperature))[best])
            if familiarity >= calibration.settle_familiarity and confidence >= calibration.settle_confidence:
                break
        return Reading(ngrams, row, index, logits, best, confidence, familiarity)


def read_features(encoder: Encoder | None, texts: Sequence[str]) -> dict[StageName, FloatArray]:
    """float32[len(texts), n_features] per stage: "early" and "late", or "ngrams" without an encoder."""
    ngrams = embed_ngrams(texts)
    if encoder is None:
        return {"ngrams": ngrams}

    def read(text: str) -> tuple[FloatArray, FloatArray]:
        reading = encoder.read(text)
        return reading.early(), reading.late()

    early, late = zip(*in_parallel(read, texts), strict=True) if texts else ((), ())
    vectors: dict[StageName, Sequence[FloatArray]] = {"early": early, "late": late}
    empty = np.zeros((0, encoder.n_dims), np.float32)
    return {
        name: features_of(name, ngrams, np.stack(rows) if rows else empty) for name, rows in vectors.items()
    }


def in_parallel(work: Callable[[str], Result], texts: Sequence[str]) -> list[Result]:
    """`work` of each text, in order; many are spread over all cores."""
    if len(texts) < _MIN_PARALLEL:
        return [work(text) for text in texts]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, texts))
