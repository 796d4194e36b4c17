"""How many tokens the engine gets done in a second while somebody waits for it. Pure: the caller brings the
time."""

from __future__ import annotations

from typing import Final

MIN_ENDS: Final = 8
MIN_SECONDS: Final = 1.0
"""What one sample is taken over, at least: ends of requests, and time in which somebody waited."""
WARM_SAMPLES: Final = 2
LEARNING: Final = 0.3
OUTLIER: Final = 2.0
"""A sample counts as no more than this factor above or below what is known: a stall, or a burst of short
answers, says little; whatever stays is followed."""


class ServiceRate:
    """An exponentially weighted mean over samples that are clipped.

    Only time in which somebody waits counts: at other times it is demand that is measured.
    """

    def __init__(self) -> None:
        self._rate: float | None = None
        self._n_samples = 0
        self._since: float | None = None  # when it was last seen that somebody waits
        self._seconds = 0.0
        self._n_tokens = 0
        self._n_ends = 0

    @property
    def tokens_per_s(self) -> float | None:
        """None until enough is known."""
        return self._rate if self._n_samples >= WARM_SAMPLES else None

    def waiting(self, now: float, *, anybody: bool) -> None:
        """Whether somebody waits, from now on."""
        if self._since is not None:
            self._seconds += now - self._since
        self._since = now if anybody else None

    def ended(self, now: float, n_tokens: int) -> None:
        """A request has ended that had `n_tokens`, of its prompt and of its answer."""
        if self._since is None:
            return
        self._seconds += now - self._since
        self._since = now
        self._n_tokens += n_tokens
        self._n_ends += 1
        if self._n_ends >= MIN_ENDS and self._seconds >= MIN_SECONDS:
            self._learn(max(self._n_tokens, 1) / self._seconds)
            self._seconds, self._n_tokens, self._n_ends = 0.0, 0, 0

    def _learn(self, sample: float) -> None:
        if self._rate is None:
            self._rate = sample
        else:
            clipped = min(max(sample, self._rate / OUTLIER), self._rate * OUTLIER)
            self._rate += LEARNING * (clipped - self._rate)
        self._n_samples += 1
