"""The router: learns from example prompts which agent a prompt is for, and when it is for none of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from adaptive_lora.errors import NoCandidates, UnknownAdapter
from adaptive_lora.router.calibration import Calibration, Outcomes, calibrate
from adaptive_lora.router.encoder import Encoder
from adaptive_lora.router.examples import ExampleSet, collect_examples
from adaptive_lora.router.explain import explain as explain_verdict
from adaptive_lora.router.features import N_BUCKETS, Ngrams, embed_ngrams, extract_ngrams
from adaptive_lora.router.fitting import cross_fit
from adaptive_lora.router.head import FloatArray, softmax
from adaptive_lora.router.policy import Scores, decide
from adaptive_lora.router.stage import NGRAM_SHARE, Stage, StageName, features_of, fit_stage, vector_of
from adaptive_lora.types import BASE, RouteDecision

_log = logging.getLogger(__name__)

_MIN_PARALLEL = 16


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


@dataclass(frozen=True, slots=True)
class _Reading:
    """One prompt, read as far as the stages needed."""

    ngrams: Ngrams
    row: FloatArray
    """Features of the last stage that was asked."""
    stage: int
    logits: FloatArray
    """float32[candidates], of that stage."""
    familiarity: float


class Router:
    """Fitted once, immutable and thread-safe then. Make one with `Router.fit`."""

    def __init__(
        self,
        examples: ExampleSet,
        encoder: Encoder | None,
        stages: Sequence[Stage],
        calibration: Calibration,
    ) -> None:
        """Use `fit`."""
        self._examples = examples
        self._encoder = encoder
        self._stages = tuple(stages)
        self._calibration = calibration
        self._column = {agent: i for i, agent in enumerate(examples.agents)}
        ends = np.cumsum(np.bincount(examples.labels, minlength=len(examples.agents)))
        self._members = [slice(int(a), int(b)) for a, b in pairwise([0, *ends])]
        self.report = FitReport(
            agents={agent: m.stop - m.start for agent, m in zip(examples.agents, self._members, strict=True)},
            warnings=examples.warnings,
            uses_encoder=encoder is not None,
            temperature=calibration.scales[-1].temperature,
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
        descriptions: Mapping[str, str] | None = None,
        held_out: Sequence[tuple[str, str]] | None = None,
        seed: int = 0,
        min_confidence: float | None = None,
        max_error: float | None = None,
    ) -> Router:
        """Learn from example prompts per agent. Any number of agents will do, none included.

        An agent's name, and its description if given, count as one more example. `held_out` are (prompt,
        agent) pairs to calibrate on; without them the examples are cross-fitted, on folds that `seed` draws.
        `max_error` is the bound on wrong agents among routed prompts (`calibration.calibrate`);
        `min_confidence` replaces the calibrated threshold. Repeated and contested examples are ignored,
        agents left without any are never routed to; `report.warnings` says so, as does the log.
        """
        kept = collect_examples(examples)
        for warning in kept.warnings:
            _log.warning("router: %s", warning)
        named = [_called(agent, (descriptions or {}).get(agent, "")) for agent in kept.agents]
        features = _features(encoder, (*kept.texts, *named))
        n, n_classes = len(kept.texts), len(kept.agents)
        stages = [
            fit_stage(name, rows[:n], kept.labels, rows[n:], n_classes) for name, rows in features.items()
        ]
        draft = cls(kept, encoder, stages, calibrate([Outcomes.none(n_classes)] * len(stages)))
        if held_out is None:
            outcomes = cross_fit(features, kept.labels, n_classes, seed=seed)
        else:
            outcomes = draft._outcomes(held_out)
        calibration = calibrate(outcomes, max_error=max_error)
        if min_confidence is not None:
            calibration = replace(calibration, min_confidence=min_confidence)
        return cls(kept, encoder, stages, calibration)

    def with_agent(self, agent: str, examples: Sequence[str], *, description: str = "") -> Router:
        """A router that knows one more agent, or other examples of one that it knows, in about a second.

        Reads the new examples only; of the others' heads those are adjusted that could be confused with the
        new one. Examples that another agent claims are ignored. Temperature and thresholds stay. Raises
        InvalidRequest if no example is left.
        """
        if agent in self._column:
            return self.without_agent(agent).with_agent(agent, examples, description=description)
        kept = self._examples.plus(agent, examples)
        texts = kept.texts[len(self._examples.texts) :]
        rows = _features(self._encoder, (*texts, _called(agent, description)))
        labels = self._examples.labels
        stages = [
            stage.with_class(rows[stage.name][:-1], rows[stage.name][-1:], labels) for stage in self._stages
        ]
        return Router(kept, self._encoder, stages, self._calibration)

    def without_agent(self, agent: str) -> Router:
        """A router that does not know `agent`; the others' scores are renormalised. Raises UnknownAdapter."""
        if agent not in self._column:
            raise UnknownAdapter(
                f"the router knows no agent {agent!r}; it knows {', '.join(self.agents) or 'none'}"
            )
        column, labels = self._column[agent], self._examples.labels
        stages = [stage.without_class(column, labels) for stage in self._stages]
        return Router(self._examples.minus(agent), self._encoder, stages, self._calibration)

    @property
    def n_stages(self) -> int:
        """How often a prompt may be read: twice with an encoder, else once."""
        return len(self._stages)

    @property
    def size_bytes(self) -> int:
        """Of the heads and the examples' features; the encoder is shared and does not count."""
        return sum(stage.features.nbytes + stage.weights.nbytes for stage in self._stages)

    @property
    def agents(self) -> tuple[str, ...]:
        """Agents that can be routed to."""
        return self._examples.agents

    def score(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> Scores:
        """Rank candidates (default: all agents) for each prompt. Pure: no I/O, no clock.

        Candidates that the router has no examples of are left out. Raises NoCandidates if none is left.
        Budget: 6 ms p99 for one prompt of up to 64 words on one CPU core; many are spread over all cores.
        """
        columns = self._columns(candidates)
        if not columns:
            raise NoCandidates("no candidate agent has examples to route by: add examples to a manifest")
        if len(prompts) < _MIN_PARALLEL:
            readings = [self._read(prompt, columns) for prompt in prompts]
        else:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                readings = list(pool.map(lambda prompt: self._read(prompt, columns), prompts))
        return self._scores(readings, columns)

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
        reading = self._read(prompt, columns)
        scores = self._scores([reading], columns)
        verdict = decide(scores, 0, self._calibration)
        if not explain:
            return verdict.decision
        stage = self._stages[reading.stage]
        order = np.argsort(-scores.probabilities[0])
        weights = stage.weights[-N_BUCKETS:][reading.ngrams.bucket][:, columns]
        rival = weights[:, order[1]] if len(columns) > 1 else np.float32(0)
        scale = NGRAM_SHARE[stage.name] ** 0.5 / self._calibration.scales[reading.stage].temperature
        advantage = reading.ngrams.value * (weights[:, verdict.best] - rival) * np.float32(scale)
        shown = np.concatenate([np.arange(m.start, m.stop) for m in (self._members[c] for c in columns)])
        explanation = explain_verdict(
            verdict,
            scores,
            self._calibration,
            ngrams=reading.ngrams,
            advantage=advantage.astype(np.float32),
            similarity=stage.features[shown] @ reading.row,
            texts=[self._examples.texts[i] for i in shown],
            owners=[self.agents[self._examples.labels[i]] for i in shown],
            reads=self._read_by(reading.stage),
        )
        return replace(verdict.decision, explanation=explanation)

    def _columns(self, candidates: Sequence[str] | None) -> list[int]:
        wanted = self.agents if candidates is None else dict.fromkeys(candidates)
        return [self._column[agent] for agent in wanted if agent in self._column]

    def _read_by(self, stage: int) -> list[str]:
        if self._encoder is None:
            return ["ngrams"]
        part = "first half" if self._stages[stage].name == "early" else "whole"
        return ["ngrams", f"encoder {self._encoder.version}, {part}"]

    def _read(self, prompt: str, columns: list[int]) -> _Reading:
        """Ask one stage after the other until one settles it."""
        ngrams = extract_ngrams(prompt)
        # The encoder has an opinion on nothing at all, too; nothing is like nobody's examples.
        is_empty = not ngrams.text.strip()
        counts = np.bincount(ngrams.bucket, ngrams.value, N_BUCKETS).astype(np.float32)
        reading = None if self._encoder is None or is_empty else self._encoder.read(prompt)
        for index, stage in enumerate(self._stages):
            vector = vector_of(stage.name, reading)
            if is_empty:
                row: FloatArray = np.zeros(len(stage.weights), np.float32)
            else:
                row = features_of(stage.name, counts[None], None if vector is None else vector[None])[0]
            logits = row @ stage.weights
            if len(columns) < len(self.agents):
                logits = logits[columns]
            best = int(logits.argmax())
            likeness = stage.likeness(row, self._members[columns[best]])
            scale = self._calibration.scales[index]
            familiarity = float(scale.familiarity(logits[best], np.float32(likeness)))
            if index + 1 < len(self._stages) and familiarity >= self._calibration.settle_familiarity:
                confidence = softmax(logits / np.float32(scale.temperature))[best]
                if confidence >= self._calibration.settle_confidence:
                    break
        return _Reading(ngrams, row, index, logits, familiarity)

    def _scores(self, readings: Sequence[_Reading], columns: list[int]) -> Scores:
        scales = self._calibration.scales
        rows = [r.logits / np.float32(scales[r.stage].temperature) for r in readings]
        logits = np.stack(rows) if rows else np.zeros((0, len(columns)), np.float32)
        return Scores(
            tuple(self.agents[column] for column in columns),
            softmax(logits),
            np.array([r.familiarity for r in readings], np.float32),
            tuple(r.stage for r in readings),
        )

    def _outcomes(self, held_out: Sequence[tuple[str, str]]) -> list[Outcomes]:
        """What each stage says about prompts of known agents; those of unknown agents are left out."""
        known = [(prompt, self._column[agent]) for prompt, agent in held_out if agent in self._column]
        truth = np.array([column for _, column in known], np.int64)
        features = _features(self._encoder, [prompt for prompt, _ in known])
        outcomes = []
        for stage in self._stages:
            rows = features[stage.name]
            logits = rows @ stage.weights
            likeness = [
                stage.likeness(row, self._members[best])
                for row, best in zip(rows, logits.argmax(axis=1) if known else (), strict=True)
            ]
            outcomes.append(Outcomes(logits, np.array(likeness, np.float32), truth))
        return outcomes


def _features(encoder: Encoder | None, texts: Sequence[str]) -> dict[StageName, FloatArray]:
    """float32[len(texts), n_features] per stage."""
    ngrams = embed_ngrams(texts)
    if encoder is None:
        return {"ngrams": ngrams}
    readings = [encoder.read(text) for text in texts]
    vectors: dict[StageName, list[FloatArray]] = {
        "early": [reading.early() for reading in readings],
        "late": [reading.late() for reading in readings],
    }
    empty = np.zeros((0, encoder.n_dims), np.float32)
    return {
        name: features_of(name, ngrams, np.stack(rows) if rows else empty) for name, rows in vectors.items()
    }


def _called(agent: str, description: str) -> str:
    """What an agent is called, as a text: its name in words, and what it is for."""
    return f"{agent.replace('_', ' ').replace('-', ' ')} {description}".strip()
