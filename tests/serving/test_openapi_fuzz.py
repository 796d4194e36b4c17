"""Schemathesis over the OpenAPI documents, on a real socket: whatever arrives, no 5xx, and an answer that the
document announces; with authentication off and on, and of the administrators' port. A few dozen examples an
endpoint; `make acceptance` can afford more."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.specs.openapi.checks import negative_data_rejection

from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.serving.admin import create_admin_app
from adaptive_lora.serving.api import create_app
from adaptive_lora.serving.binding import url_of
from adaptive_lora.serving.principal import SCOPES
from adaptive_lora.serving.server import _config, _Main
from tests.serving.auth.signing import SECRET, token
from tests.serving.conftest import KeywordRouter, settings_of

N_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "16"))
AUTH = {"enabled": True, "jwt_secret": SECRET, "failures_per_minute": None}
CREDENTIAL = {"Authorization": f"Bearer {token(scope=' '.join(SCOPES), exp=int(time.time()) + 86_400)}"}
"""As Schemathesis spells the header, which it leaves out to see whether it is looked at."""


def app_of(**sections: Any) -> FastAPI:
    engine = FakeEngine(max_model_len=128)  # so that 128 prompts with n = 16 are soon answered
    return create_app(settings_of(**sections), engine=engine, router=KeywordRouter())


def schema_of(app: FastAPI) -> Any:
    schema = schemathesis.openapi.from_dict(app.openapi())
    # What the schema language cannot say is refused all the same: NFC, control characters, names' grammar.
    schema.config.checks.positive_data_acceptance.enabled = False
    rejection = schema.config.checks.negative_data_rejection
    rejection.expected_statuses = ["400", "401", "404", "405", "413", "415", "422"]
    return schema


OPEN = schema_of(app_of())
GUARDED = schema_of(app_of(auth=AUTH))
ADMIN = schema_of(create_admin_app(app_of(auth=AUTH)))
for guarded in (GUARDED, ADMIN):
    # A missing credential counts as wrong data, and is put in all the same; OPEN has the same operations.
    guarded.config.checks.negative_data_rejection.enabled = False


@contextmanager
def served(**sections: Any) -> Iterator[tuple[str, str]]:
    """URLs of the public and of the administrators' port."""
    app = app_of(**sections)
    public, admin = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    with public, admin:
        server = _Main(_config(app, lifespan=True, max_connections=64), app.state.runtime)
        server.with_beside(_config(create_admin_app(app), lifespan=False, max_connections=64), admin)
        urls = (url_of("127.0.0.1", public), url_of("127.0.0.1", admin))
        thread = threading.Thread(target=server.run, args=[[public]])
        thread.start()
        try:
            while app.state.runtime.phase != "ready" or not server.started:
                assert thread.is_alive(), "the server ended before it was ready"
                time.sleep(0.01)
            yield urls
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served() as (public, _):
        yield public


@pytest.fixture(scope="module")
def guarded_urls() -> Iterator[tuple[str, str]]:
    with served(auth=AUTH) as urls:
        yield urls


untimed = settings(
    max_examples=N_EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@OPEN.parametrize()
@untimed
def test_every_operation(case: Case, url: str) -> None:
    is_form = case.media_type == "multipart/form-data"  # where a list of one number is that number
    case.call_and_validate(base_url=url, excluded_checks=[negative_data_rejection] if is_form else [])


@GUARDED.parametrize()
@untimed
def test_every_operation_with_authentication(case: Case, guarded_urls: tuple[str, str]) -> None:
    case.call_and_validate(base_url=guarded_urls[0], headers=CREDENTIAL)


@GUARDED.parametrize()
@untimed
def test_every_operation_without_credentials(case: Case, guarded_urls: tuple[str, str]) -> None:
    refuses_strangers(case, guarded_urls[0])


# A profile takes as many seconds as it is asked to.
@ADMIN.exclude(path_regex="^/debug/profile/").parametrize()
@untimed
def test_every_operation_of_administrators(case: Case, guarded_urls: tuple[str, str]) -> None:
    case.call_and_validate(base_url=guarded_urls[1], headers=CREDENTIAL)


@ADMIN.parametrize()
@untimed
def test_every_operation_of_administrators_without_credentials(
    case: Case, guarded_urls: tuple[str, str]
) -> None:
    refuses_strangers(case, guarded_urls[1])


def refuses_strangers(case: Case, url: str) -> None:
    """Whatever is asked, and however: 401, unless it is open to anybody or cannot even be parsed."""
    case.headers.pop("Authorization", None)
    response = case.call(base_url=url)
    if response.headers.get("connection") == "close":  # not a request, or not a Host
        assert response.status_code in (400, 431)
    elif case.operation.definition.raw.get("security"):
        assert response.status_code in (401, 405)
    else:
        assert response.status_code in (200, 401, 405)
