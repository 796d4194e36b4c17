"""The knee of a server: the highest rate at which the objectives hold."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class RateSearch:
    """Which rate to try next. Doubles from `start` until one does not hold, or halves until one does; then
    halves the interval between them, by ratio, until its ends differ by no more than `precision`.

    Assumes that what holds at a rate holds at lower ones. Near the knee chance decides: longer steps narrow
    that, and nothing else does.
    """

    start: float
    max_rate: float
    precision: float = 0.1
    min_rate: float = 0.01
    holds: float | None = field(default=None, init=False)
    """The highest rate that has held."""
    fails: float | None = field(default=None, init=False)
    """The lowest rate that has not."""

    def next_rate(self) -> float | None:
        """None: found, or there is nothing to find between `min_rate` and `max_rate`."""
        if self.holds is None:
            if self.fails is None:
                return self.start
            return self.fails / 2 if self.fails / 2 >= self.min_rate else None
        if self.fails is None:
            return min(self.holds * 2, self.max_rate) if self.holds < self.max_rate else None
        if self.fails / self.holds <= 1 + self.precision:
            return None
        return float((self.holds * self.fails) ** 0.5)

    def tell(self, rate: float, held: bool) -> None:
        """What came of `rate`."""
        if held:
            self.holds = max(rate, self.holds or rate)
        else:
            self.fails = min(rate, self.fails or rate)
