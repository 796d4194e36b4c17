"""Schemathesis over the OpenAPI document, on a real socket: whatever arrives, no 5xx, and an answer that the
document announces. A few dozen examples an endpoint; `make acceptance` can afford more."""

import os
import threading
import time
from collections.abc import Iterator

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, settings
from schemathesis import Case

from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.serving.api import create_app
from tests.serving.conftest import KeywordRouter, settings_of

N_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))

SCHEMA = schemathesis.openapi.from_dict(
    create_app(settings_of(), engine=FakeEngine(), router=KeywordRouter()).openapi()
)
# What the schema language cannot say is refused all the same: NFC, control characters, the grammar of names.
SCHEMA.config.checks.positive_data_acceptance.enabled = False
SCHEMA.config.checks.negative_data_rejection.expected_statuses = ["400", "404", "405", "413", "422"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    engine = FakeEngine(max_model_len=128)  # so that 128 prompts with n = 16 are soon answered
    app = create_app(settings_of(), engine=engine, router=KeywordRouter())
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while app.state.runtime.phase != "ready" or not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@SCHEMA.parametrize()
@settings(max_examples=N_EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_operation(case: Case, url: str) -> None:
    case.call_and_validate(base_url=url)
