"""When the site was last backed up."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class BackupGauge(Collector):
    """Absent until a backup is known."""

    def __init__(self) -> None:
        self.last_success: datetime | None = None

    def collect(self) -> Iterable[GaugeMetricFamily]:
        if self.last_success is not None:
            yield GaugeMetricFamily(
                "backup_last_success_timestamp_seconds",
                "When the newest backup was made, as the audit log tells",
                value=self.last_success.timestamp(),
            )
