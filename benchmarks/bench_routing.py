"""Accuracy of the router beside simple baselines, on labelled prompts that are not ours.

    python benchmarks/bench_routing.py DATA [--shots 5 10 all] [--draws 3] [--max-error 0.05]

DATA is a folder of train.jsonl, val.jsonl, test.jsonl, oos_test.jsonl, {"prompt", "label"} a line (CLINC150
in this form, for example). For each number of examples per label, and each draw of them, all systems see the
same examples and the same test prompts; thresholds and temperature come from val.jsonl. Baselines: cosine to
the labels' centroids, ten nearest neighbours, TF-IDF with logistic regression, and MiniLM (all tokens, last
layer) with logistic regression. The last line is JSON.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _common import print_result
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from adaptive_lora.router.encoder import OnnxEncoder, load_encoder
from adaptive_lora.router.router import Router
from adaptive_lora.training.router_data import LabelledPrompt, by_label, read_labelled
from adaptive_lora.training.router_evaluation import evaluate

N_LAYER_DIMS = 384


class Embeddings:
    """The last layer's mean for each text, computed once per text."""

    def __init__(self, encoder: OnnxEncoder) -> None:
        self._encoder = encoder
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        for text in texts:
            if text not in self._known:
                row = self._encoder.read(text).late()[-N_LAYER_DIMS:]
                self._known[text] = row / np.linalg.norm(row)
        return np.stack([self._known[text] for text in texts])


def draw(rows: Sequence[LabelledPrompt], shots: int | None, seed: int) -> list[LabelledPrompt]:
    """`shots` examples per label, or all."""
    if shots is None:
        return list(rows)
    random = np.random.default_rng(seed)
    by_label: dict[str | None, list[LabelledPrompt]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
    return [own[i] for own in by_label.values() for i in random.permutation(len(own))[:shots]]


def baselines(embed: Embeddings) -> dict[str, Callable[[list[str], list[str], list[str]], np.ndarray]]:
    """Each: (examples, labels, prompts) -> predicted labels."""

    def centroid(texts: list[str], labels: list[str], prompts: list[str]) -> np.ndarray:
        names = np.unique(labels)
        centres = np.stack([embed(texts)[np.array(labels) == name].mean(axis=0) for name in names])
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        return names[(embed(prompts) @ centres.T).argmax(axis=1)]

    def nearest(texts: list[str], labels: list[str], prompts: list[str]) -> np.ndarray:
        knn = KNeighborsClassifier(min(10, len(texts)), weights="distance", metric="cosine")
        return knn.fit(embed(texts), labels).predict(embed(prompts))

    def tfidf(texts: list[str], labels: list[str], prompts: list[str]) -> np.ndarray:
        model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=10, max_iter=500))
        return model.fit(texts, labels).predict(prompts)

    def minilm(texts: list[str], labels: list[str], prompts: list[str]) -> np.ndarray:
        return LogisticRegression(C=10, max_iter=500).fit(embed(texts), labels).predict(embed(prompts))

    return {
        "centroid cosine": centroid,
        "10 nearest": nearest,
        "TF-IDF + logistic": tfidf,
        "MiniLM + logistic": minilm,
    }


def time_minilm(
    encoder: OnnxEncoder, examples: Sequence[LabelledPrompt], prompts: Sequence[str]
) -> dict[str, float]:
    """Milliseconds of MiniLM (all tokens) with logistic regression, one prompt at a time."""
    embed = Embeddings(encoder)
    texts, labels = [row.prompt for row in examples], [row.label or "" for row in examples]
    model = LogisticRegression(C=10, max_iter=500).fit(embed(texts), labels)
    seconds = []
    for prompt in prompts:
        start = time.perf_counter()
        row = encoder.read(prompt).late()[-N_LAYER_DIMS:]
        model.predict_proba(row[None] / np.linalg.norm(row))
        seconds.append(time.perf_counter() - start)
    return {f"p{q}": round(1000 * float(np.percentile(seconds, q)), 3) for q in (50, 99)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--shots", nargs="+", default=["5", "10", "all"])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--max-error", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="test", choices=["val", "test"], help="val: for development")
    parser.add_argument("--no-baselines", action="store_true")
    args = parser.parse_args()
    train, val, test = (read_labelled(args.data / f"{name}.jsonl") for name in ("train", "val", args.split))
    oos = read_labelled(args.data / "oos_test.jsonl")
    held_out = [(row.prompt, row.label) for row in val if row.label is not None]
    encoder, whole = load_encoder(), load_encoder(max_tokens=128)
    if encoder is None or whole is None:
        sys.exit("models/encoder is missing: run `make encoder`")
    systems = {} if args.no_baselines else baselines(Embeddings(whole))
    result: dict[str, Any] = {}
    for shots in args.shots:
        n = None if shots == "all" else int(shots)
        draws: list[dict[str, Any]] = []
        top1: dict[str, list[float]] = {name: [] for name in systems}
        only_ours, only_theirs = 0, 0
        for seed in range(args.seed, args.seed + (1 if n is None else args.draws)):
            examples = draw(train, n, seed)
            own = by_label(examples)
            ours = evaluate(
                partial(
                    Router.fit,
                    own,
                    encoder=encoder,
                    held_out=held_out,
                    max_error=args.max_error,
                    seed=seed,
                ),
                own,
                test,
                oos=oos,
            )
            draws.append(ours.figures)
            print(f"{shots} examples, draw {seed}: {ours.figures}", file=sys.stderr, flush=True)
            truth = np.array(ours.truth)
            prompts = [row.prompt for row in test if row.label is not None]
            for name, predict in systems.items():
                guess = predict([r.prompt for r in examples], [r.label or "" for r in examples], prompts)
                top1[name].append(float((guess == truth).mean()))
                if name == "MiniLM + logistic":
                    mine = np.array(ours.predicted) == truth
                    only_ours += int((mine & (guess != truth)).sum())
                    only_theirs += int((~mine & (guess == truth)).sum())
        keys = ("top1", "macro_f1", "ece", "oos_auroc", "coverage", "error", "oos_rejected", "settled_early")
        keys += ("fit_s", "add_label_s", "remove_label_s", "throughput_per_s", "size_mb")
        result[shots] = {
            "ours": {key: round(statistics.mean(figures[key] for figures in draws), 4) for key in keys}
            | {"latency_ms": {q: statistics.mean(f["latency_ms"][q] for f in draws) for q in ("p50", "p99")}},
            **{name: round(statistics.mean(values), 4) for name, values in top1.items()},
            "minilm_latency_ms": time_minilm(whole, examples, prompts[:1000]) if systems else None,
            "only_ours_right": only_ours,
            "only_minilm_right": only_theirs,
        }
    print_result({"routing": result}, seed=args.seed)


if __name__ == "__main__":
    main()
