"""Stores in both kinds of database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from adaptive_lora.access.store import AccessStore


@pytest.fixture
def store(database_url: str) -> Iterator[AccessStore]:
    store = AccessStore.open(database_url)
    yield store
    store.close()
