"""A gauge that says whether something else answers."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class UpGauge(Collector):
    """1 or 0; absent until `is_up` is known, and where there is no such thing."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name = name
        self._documentation = documentation
        self.is_up: bool | None = None

    def collect(self) -> Iterable[GaugeMetricFamily]:
        if self.is_up is not None:
            yield GaugeMetricFamily(self._name, self._documentation, value=float(self.is_up))
