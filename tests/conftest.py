"""For all tests: no example of Hypothesis is judged by its time, since machines are shared; no state is left
in the user's home, and none goes from one test to the next. Databases of both kinds."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from adaptive_lora.adapters.registry_database import sqlite_url
from tests.postgres import PostgresServer, started_or_skipped

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

STATE_VARIABLE = "XDG_STATE_HOME"


def pytest_collection_finish() -> None:
    """More than a million objects are there by now and stay: each full collection would look at them again,
    which is a sixth of what the tests compute."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _state_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For servers that live longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STATE_VARIABLE, str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's servers keep their state."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv(STATE_VARIABLE, str(folder))
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with started_or_skipped() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "registry.db")
    server = request.getfixturevalue("postgres")
    return server.url(server.new_database())
