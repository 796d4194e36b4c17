"""Stores in both kinds of database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from adaptive_lora.access.store import AccessStore
from tests.adapters.conftest import database_url, postgres  # noqa: F401 - fixtures


@pytest.fixture
def store(database_url: str) -> Iterator[AccessStore]:  # noqa: F811 - the fixture, not the function
    store = AccessStore.open(database_url)
    yield store
    store.close()
