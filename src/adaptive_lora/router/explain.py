"""Why a prompt went where it went, in values that JSON can hold."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from adaptive_lora.router.calibration import Calibration
from adaptive_lora.router.features import Ngrams
from adaptive_lora.router.head import FloatArray
from adaptive_lora.router.policy import Scores, Verdict

N_NGRAMS = 5
N_EXAMPLES = 3
_SHOWN_CHARS = 160


def explain(
    verdict: Verdict,
    scores: Scores,
    calibration: Calibration,
    *,
    ngrams: Ngrams,
    advantage: FloatArray,
    similarity: FloatArray,
    texts: Sequence[str],
    owners: Sequence[str],
    reads: Sequence[str],
) -> dict[str, Any]:
    """What the decision in `verdict` about one prompt was based on; `scores` is of that prompt alone.

    advantage: float32[len(ngrams.bucket)], what each n-gram adds to the log-odds of the best candidate over
    the runner-up. similarity: float32[len(texts)], of the prompt to each example; `owners` are the examples'
    agents. `reads` names the parts of the router that looked at the prompt.
    """
    nearest = np.argsort(-similarity)[:N_EXAMPLES]
    return {
        "best": scores.candidates[verdict.best],
        "familiarity": round(float(scores.familiarity[0]), 4),
        "thresholds": {
            # Infinite: no confidence would do.
            name: round(value, 4) if math.isfinite(value) else None
            for name, value in (
                ("confidence", calibration.min_confidence),
                ("familiarity", calibration.min_familiarity),
                ("dissent", calibration.max_dissent),
                ("candidate_share", calibration.candidate_share),
            )
        },
        "abstained_because": verdict.because,
        "candidates": list(verdict.decision.candidates),
        "ngrams": _heaviest(ngrams, advantage),
        "nearest_examples": [
            {
                "agent": owners[i],
                "similarity": round(float(similarity[i]), 4),
                "text": texts[i][:_SHOWN_CHARS],
            }
            for i in nearest
        ],
        "reads": list(reads),
    }


def _heaviest(ngrams: Ngrams, advantage: FloatArray) -> list[dict[str, Any]]:
    """The n-grams that weighed most for (+) or against (-) the best candidate, occurrences summed."""
    totals: dict[str, float] = defaultdict(float)
    for begin, end, weight in zip(ngrams.begin, ngrams.end, advantage, strict=True):
        totals[ngrams.text[begin:end]] += float(weight)
    heaviest = sorted(totals.items(), key=lambda item: -abs(item[1]))[:N_NGRAMS]
    return [{"ngram": text, "weight": round(weight, 4)} for text, weight in heaviest if weight]
