"""The router: learns from example prompts which agent a prompt is for, and when it is for none of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from adaptive_lora.errors import NoCandidates, UnknownAdapter
from adaptive_lora.router.calibration import Calibration, Outcomes, Parts, calibrate
from adaptive_lora.router.encoder import Encoder
from adaptive_lora.router.examples import ExampleSet, collect_examples
from adaptive_lora.router.explain import explain as explain_verdict
from adaptive_lora.router.features import N_BUCKETS
from adaptive_lora.router.fitting import cross_fit, judge, read_later_parts
from adaptive_lora.router.head import FloatArray, softmax
from adaptive_lora.router.policy import Scores, decide
from adaptive_lora.router.reading import Reader, Reading, in_parallel, read_features
from adaptive_lora.router.stage import NGRAM_SHARE, Stage, fit_stage
from adaptive_lora.types import BASE, RouteDecision, Standing

_log = logging.getLogger(__name__)


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
        self._reader = Reader(
            examples.agents, self._members, examples.words(), encoder, self._stages, calibration
        )
        self.provisional: Mapping[str, str] = examples.provisional()
        """Agents that are scored but not routed to, and what they lack."""
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
        features = read_features(encoder, (*kept.texts, *named))
        n, n_classes = len(kept.texts), len(kept.agents)
        stages = [
            fit_stage(name, rows[:n], kept.labels, rows[n:], n_classes) for name, rows in features.items()
        ]
        if held_out is None:
            parts = read_later_parts(encoder, kept.texts, seed=seed)
            judged = cross_fit(features, kept.labels, n_classes, parts, seed=seed)
        else:
            draft = cls(kept, encoder, stages, calibrate([Outcomes.none(n_classes)] * len(stages)))
            judged = draft._judge(held_out)
        calibration = calibrate(*judged, max_error=max_error, min_confidence=min_confidence)
        return cls(kept, encoder, stages, calibration)

    def recalibrated(
        self,
        held_out: Sequence[tuple[str, str]],
        *,
        min_confidence: float | None = None,
        max_error: float | None = None,
    ) -> Router:
        """The same heads with temperatures and thresholds from other prompts; arguments as those of `fit`."""
        calibration = calibrate(*self._judge(held_out), max_error=max_error, min_confidence=min_confidence)
        return Router(self._examples, self._encoder, self._stages, calibration)

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
        rows = read_features(self._encoder, (*texts, _called(agent, description)))
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
    def examples(self) -> ExampleSet:
        """What it has learnt from."""
        return self._examples

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self._stages

    @property
    def calibration(self) -> Calibration:
        return self._calibration

    @property
    def encoder_version(self) -> str | None:
        """None if it reads n-grams alone."""
        return None if self._encoder is None else self._encoder.version

    def standing(self, agent: str) -> Standing:
        """How `agent` takes part in routing."""
        if agent in self.provisional:
            return Standing("provisional", self.provisional[agent])
        if agent in self._column:
            return Standing("routed")
        return Standing("explicit_only", "the router has no example of it: add examples to its manifest")

    @property
    def max_error(self) -> float | None:
        """The error bound that it was calibrated for."""
        return self._calibration.max_error

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
        readings = in_parallel(lambda prompt: self._reader.read(prompt, columns), prompts)
        return self._scores(readings, columns)

    def decide(self, scores: Scores) -> list[RouteDecision]:
        """What `route` would answer, for each prompt of `scores`."""
        rows = range(len(scores.stages))
        return [decide(scores, row, self._calibration, self.provisional).decision for row in rows]

    def route(
        self, prompt: str, candidates: Sequence[str] | None = None, *, explain: bool = False
    ) -> RouteDecision:
        """Choose among `candidates` (default: all agents), or the base model if none will do.

        Without any candidate the base answers, reason "no_candidates". `explain` fills the decision's
        `explanation` (see `explain.explain`).
        """
        return self.consider(prompt, candidates, explain=explain)[0]

    def consider(
        self, prompt: str, candidates: Sequence[str] | None = None, *, explain: bool = False
    ) -> tuple[RouteDecision, FloatArray | None]:
        """`route`, and the prompt's features, float32[n_features] of length 1, of the stage that settled it;
        None without candidates."""
        columns = self._columns(candidates)
        if not columns:
            return RouteDecision(BASE, 1.0, "no_candidates", {}), None
        reading = self._reader.read(prompt, columns)
        scores = self._scores([reading], columns)
        verdict = decide(scores, 0, self._calibration, self.provisional)
        if not explain:
            return verdict.decision, reading.row
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
        return replace(verdict.decision, explanation=explanation), reading.row

    def _columns(self, candidates: Sequence[str] | None) -> list[int]:
        wanted = self.agents if candidates is None else dict.fromkeys(candidates)
        return [self._column[agent] for agent in wanted if agent in self._column]

    def _read_by(self, stage: int) -> list[str]:
        if self._encoder is None:
            return ["ngrams"]
        part = "first half" if self._stages[stage].name == "early" else "whole"
        return ["ngrams", f"encoder {self._encoder.version}, {part}"]

    def _scores(self, readings: Sequence[Reading], columns: list[int]) -> Scores:
        scales = self._calibration.scales
        rows = [r.logits / np.float32(scales[r.stage].temperature) for r in readings]
        logits = np.stack(rows) if rows else np.zeros((0, len(columns)), np.float32)
        return Scores(
            tuple(self.agents[column] for column in columns),
            softmax(logits),
            np.array([r.familiarity for r in readings], np.float32),
            tuple(r.dissent for r in readings),
            tuple(r.stage for r in readings),
        )

    def _judge(self, held_out: Sequence[tuple[str, str]]) -> tuple[list[Outcomes], Parts]:
        """What the stages say about prompts of known agents; those of unknown agents are left out."""
        known = [(prompt, self._column[agent]) for prompt, agent in held_out if agent in self._column]
        texts = [prompt for prompt, _ in known]
        truth = np.array([column for _, column in known], np.int64)
        features = read_features(self._encoder, texts)
        labels = self._examples.labels
        parts = read_later_parts(self._encoder, texts, seed=0)
        outcomes = [judge(stage, features[stage.name], labels, truth) for stage in self._stages]
        tails = [judge(s, parts.features[s.name], labels, truth[parts.index]) for s in self._stages]
        return outcomes, Parts(parts.looked_at, parts.index, parts.n_words, tuple(tails))


def _called(agent: str, description: str) -> str:
    """What an agent is called, as a text: its name in words, and what it is for."""
    return f"{agent.replace('_', ' ').replace('-', ' ')} {description}".strip()
