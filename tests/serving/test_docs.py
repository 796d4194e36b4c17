"""The reference pages and the code name the same things."""

import re
from datetime import UTC, datetime
from pathlib import Path

from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.serving.admin import create_admin_app
from adaptive_lora.serving.api import create_app
from adaptive_lora.serving.errors import STATUS
from adaptive_lora.serving.schemas.generate import GenerateBody
from adaptive_lora.telemetry.metrics import Metrics
from adaptive_lora.types import EngineStats
from tests.serving.conftest import settings_of

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
NOT_SEEN_BY_CALLERS = {
    "adapter_error",
    "settings_error",
    "no_candidates",
    "bundle_error",
    "redis_unavailable",
}


def test_every_endpoint_is_described() -> None:
    page = (REFERENCE / "http-api.md").read_text()
    app = create_app(settings_of(), engine=FakeEngine())
    paths = app.openapi()["paths"] | create_admin_app(app).openapi()["paths"]
    for path, methods in paths.items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in page


def test_every_field_of_generate_and_every_error_code_is_described() -> None:
    page = (REFERENCE / "http-api.md").read_text()
    for name in GenerateBody.model_fields:
        assert f"`{name}`" in page
    for kind, status in STATUS.items():
        if status != 422 and kind.code not in NOT_SEEN_BY_CALLERS:
            assert re.search(rf"^\| {status} \|.*`{kind.code}`", page, re.MULTILINE), kind


def test_every_metric_is_described_and_exists() -> None:
    metrics = Metrics()
    metrics.engine.stats = EngineStats(
        1, 2, 0.5, 0.5, loaded_adapters=4, n_preemptions=0, workers={"usable": 1, "away": 0}
    )
    metrics.redis.closed()
    metrics.backup.last_success = datetime.now(UTC)
    metrics.spans.up.is_up = True
    described = set(re.findall(r"^\| `(\w+)` \|", (REFERENCE / "metrics.md").read_text(), re.MULTILINE))
    families = list(metrics.registry.collect())
    existing = {f.name + ("_total" if f.type == "counter" else "") for f in families}
    ours = {name for name in existing if not name.startswith(("process_", "python_"))}
    assert described == ours
