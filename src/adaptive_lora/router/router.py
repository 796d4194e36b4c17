"""The router: learns from example prompts which agent a prompt is for, and when it is for none of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adaptive_lora.errors import NoCandidates
from adaptive_lora.router.calibration import Calibration, calibrate, familiarity
from adaptive_lora.router.encoder import Encoder
from adaptive_lora.router.examples import ExampleSet, collect_examples
from adaptive_lora.router.explain import explain as explain_verdict
from adaptive_lora.router.features import Ngrams, embed_ngrams, extract_ngrams
from adaptive_lora.router.head import FloatArray, fit_dual, softmax
from adaptive_lora.router.policy import Scores, decide
from adaptive_lora.types import BASE, RouteDecision

_log = logging.getLogger(__name__)

ENCODER_SHARE = 2 / 3
"""Of the similarity of two prompts: the encoder's cosine; the rest is the n-grams'. Chosen on CLINC150's
validation split; with four agents of four intents each, top-1 is within 0.2 points from 1/4 to 3/4."""


@dataclass(frozen=True, slots=True)
class FitReport:
    """What was learnt, for the log, `adapters show` and the operator."""

    agents: Mapping[str, int]
    """Usable examples per agent that can be routed to."""
    warnings: tuple[str, ...]
    uses_encoder: bool
    temperature: float
    min_confidence: float
    min_familiarity: float
    n_held_out: int
    held_out_accuracy: float


class Router:
    """Fitted once, immutable and thread-safe then. Make one with `Router.fit`."""

    def __init__(
        self,
        examples: ExampleSet,
        encoder: Encoder | None,
        ngrams: FloatArray,
        vectors: FloatArray | None,
        coefficients: FloatArray,
        calibration: Calibration,
    ) -> None:
        """Use `fit`. Of n examples: ngrams float32[n, N_BUCKETS], vectors float32[n, n_dims], coefficients
        float32[n, agents]."""
        self._examples = examples
        self._encoder = encoder
        self._calibration = calibration
        self._owners = [examples.agents[label] for label in examples.labels]
        self._column = {agent: i for i, agent in enumerate(examples.agents)}
        self._ngram_share = 1.0 if encoder is None else 1 - ENCODER_SHARE
        # One row per bucket, so that a prompt touches only the rows of the n-grams it has.
        self._by_bucket = np.ascontiguousarray(ngrams.T) * np.float32(self._ngram_share)
        self._ngram_weights = self._by_bucket @ coefficients
        self._vectors = None if vectors is None else vectors * np.float32(ENCODER_SHARE)
        self._coefficients = coefficients
        self.report = FitReport(
            agents={agent: self._owners.count(agent) for agent in examples.agents},
            warnings=examples.warnings,
            uses_encoder=encoder is not None,
            temperature=calibration.temperature,
            min_confidence=calibration.min_confidence,
            min_familiarity=calibration.min_familiarity,
            n_held_out=calibration.n_held_out,
            held_out_accuracy=calibration.held_out_accuracy,
        )

    @classmethod
    def fit(
        cls,
        examples: Mapping[str, Sequence[str]],
        *,
        encoder: Encoder | None = None,
        seed: int = 0,
        min_confidence: float | None = None,
    ) -> Router:
        """Learn from example prompts per agent. Any number of agents will do, none included.

        `seed` draws the calibration folds. `min_confidence` replaces the calibrated threshold. Repeated and
        contested examples are ignored, agents left without any are never routed to; `report.warnings` says
        so, as does the log. About a second for four agents with the encoder; time grows with the cube of the
        number of examples.
        """
        kept = collect_examples(examples)
        for warning in kept.warnings:
            _log.warning("router: %s", warning)
        ngrams = embed_ngrams(kept.texts)
        vectors = None if encoder is None else encoder.encode(kept.texts)
        kernel = ngrams @ ngrams.T
        if vectors is not None:
            kernel = ENCODER_SHARE * (vectors @ vectors.T) + (1 - ENCODER_SHARE) * kernel
        kernel = kernel.astype(np.float32)
        coefficients = fit_dual(kernel, kept.labels, len(kept.agents))
        calibration = calibrate(kernel, kept.labels, len(kept.agents), seed=seed)
        if min_confidence is not None:
            calibration = replace(calibration, min_confidence=min_confidence)
        return cls(kept, encoder, ngrams, vectors, coefficients, calibration)

    @property
    def agents(self) -> tuple[str, ...]:
        """Agents that can be routed to."""
        return self._examples.agents

    def score(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> Scores:
        """Rank candidates (default: all agents) for each prompt. Pure: no I/O, no clock.

        Candidates that the router has no examples of are left out. Raises NoCandidates if none is left.
        Budget: 6 ms p99 for one prompt of up to 64 words on one CPU core.
        """
        columns = self._columns(candidates)
        if not columns:
            raise NoCandidates("no candidate agent has examples to route by: add examples to a manifest")
        rows = [self._similarity(extract_ngrams(prompt), prompt) for prompt in prompts]
        return self._scores(np.stack(rows) if rows else np.zeros((0, len(self._owners)), np.float32), columns)

    def route(
        self, prompt: str, candidates: Sequence[str] | None = None, *, explain: bool = False
    ) -> RouteDecision:
        """Choose among `candidates` (default: all agents), or the base model if none will do.

        Without any candidate the base answers, reason "no_candidates". `explain` fills the decision's
        `explanation` (see `explain.explain`).
        """
        columns = self._columns(candidates)
        if not columns:
            return RouteDecision(BASE, 1.0, "no_candidates", {})
        ngrams = extract_ngrams(prompt)
        similarity = self._similarity(ngrams, prompt)
        scores = self._scores(similarity[None], columns)
        verdict = decide(scores, 0, self._calibration)
        if not explain:
            return verdict.decision
        order = np.argsort(-scores.probabilities[0])
        weights = self._ngram_weights[ngrams.bucket][:, columns]
        rival = weights[:, order[1]] if len(columns) > 1 else np.float32(0)
        advantage = (
            ngrams.value * (weights[:, verdict.best] - rival) / np.float32(self._calibration.temperature)
        )
        shown = [i for i, owner in enumerate(self._owners) if owner in scores.candidates]
        explanation = explain_verdict(
            verdict,
            scores,
            0,
            self._calibration,
            ngrams=ngrams,
            advantage=advantage.astype(np.float32),
            similarity=similarity[shown],
            texts=[self._examples.texts[i] for i in shown],
            owners=[self._owners[i] for i in shown],
            reads=["ngrams"] if self._encoder is None else ["ngrams", f"encoder {self._encoder.version}"],
        )
        return replace(verdict.decision, explanation=explanation)

    def _columns(self, candidates: Sequence[str] | None) -> list[int]:
        wanted = self.agents if candidates is None else dict.fromkeys(candidates)
        return [self._column[agent] for agent in wanted if agent in self._column]

    def _similarity(self, ngrams: Ngrams, prompt: str) -> FloatArray:
        """float32[n examples]: the kernel between the prompt and every example."""
        if not ngrams.text.strip():  # the encoder has an opinion on nothing at all, too
            return np.zeros(len(self._owners), np.float32)
        similarity: FloatArray = ngrams.value @ self._by_bucket[ngrams.bucket]
        if self._encoder is not None and self._vectors is not None:
            similarity = similarity + self._vectors @ self._encoder.encode([prompt])[0]
        return similarity

    def _scores(self, similarity: FloatArray, columns: list[int]) -> Scores:
        """similarity: float32[prompts, n examples]."""
        logits = similarity @ self._coefficients[:, columns] / np.float32(self._calibration.temperature)
        familiar = familiarity(similarity, self._examples.labels, len(self.agents))[:, columns]
        return Scores(tuple(self.agents[column] for column in columns), softmax(logits), familiar)
