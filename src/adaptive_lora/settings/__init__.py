"""The one typed tree of settings: a YAML file, overridden by the environment. Unknown keys are errors.

Sections and keys of the deployment guide keep their names. A room receives its own section and nothing else.
Loading (files, environment, the nearest known key in an error) is in `settings_loading`; the reference page
`docs/reference/settings.md` is generated from the descriptions here.
"""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from adaptive_lora.settings.limits import CacheSettings, RateLimitingSettings, RedisSettings, TierSettings
from adaptive_lora.settings.model import (
    AdaptersSettings,
    ModelSettings,
    RegistrySettings,
    RouterSettings,
    StorageSettings,
    WorkersSettings,
)
from adaptive_lora.settings.scheduling import (
    AdmissionSettings,
    BatchesSettings,
    InferenceSettings,
    QueueSettings,
)
from adaptive_lora.settings.section import Section
from adaptive_lora.settings.server import ApiSettings, AuthSettings, PlatformSettings
from adaptive_lora.settings.telemetry import MonitoringSettings, TracingSettings

__all__ = [
    "AdaptersSettings",
    "AdmissionSettings",
    "ApiSettings",
    "AuthSettings",
    "BatchesSettings",
    "CacheSettings",
    "InferenceSettings",
    "ModelSettings",
    "MonitoringSettings",
    "PlatformSettings",
    "QueueSettings",
    "RateLimitingSettings",
    "RedisSettings",
    "RegistrySettings",
    "RouterSettings",
    "Section",
    "Settings",
    "StorageSettings",
    "TierSettings",
    "TracingSettings",
    "WorkersSettings",
]


class Settings(Section):
    """Everything. Order of precedence: environment, file, defaults."""

    api: ApiSettings = ApiSettings()
    auth: AuthSettings = AuthSettings()
    model: ModelSettings = ModelSettings()
    workers: WorkersSettings = WorkersSettings()
    adapters: AdaptersSettings = AdaptersSettings()
    storage: StorageSettings = StorageSettings()
    registry: RegistrySettings = RegistrySettings()
    inference: InferenceSettings = InferenceSettings()
    queue: QueueSettings = QueueSettings()
    admission: AdmissionSettings = AdmissionSettings()
    router: RouterSettings = RouterSettings()
    redis: RedisSettings = RedisSettings()
    cache: CacheSettings = CacheSettings()
    rate_limiting: RateLimitingSettings = RateLimitingSettings()
    batches: BatchesSettings = BatchesSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    tracing: TracingSettings = TracingSettings()
    platform: PlatformSettings = PlatformSettings()

    @model_validator(mode="after")
    def _a_remote_engine_has_workers(self) -> Self:
        if self.model.engine != "remote":
            return self
        if bool(self.workers.urls) == bool(self.workers.dns):
            raise ValueError("model.engine is remote: set workers.urls or workers.dns, one of them")
        if (self.workers.api_key is None) == (self.workers.api_key_file is None):
            raise ValueError(
                "model.engine is remote: set workers.api_key (WORKER_API_KEY) or workers.api_key_file, one "
                "of them, to what the workers demand"
            )
        return self

    @model_validator(mode="after")
    def _one_worker_per_engine(self) -> Self:
        if self.api.workers > 1 and self.model.engine == "remote":
            raise ValueError(
                f"api.workers is {self.api.workers}, and a gateway is one process, with a port and metrics "
                "of its own: start more gateways behind a balancer instead, with redis.url and "
                "registry.database_url in common"
            )
        if self.api.workers > 1:
            raise ValueError(
                f"api.workers is {self.api.workers}, but the engine runs inside the gateway's process and "
                "allows exactly 1 (one worker per GPU); start more replicas instead"
            )
        return self
