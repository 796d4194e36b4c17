"""Servers to attack: one ordinary, one as `python -O` runs it, where no `assert` is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.attacks.target import Target, started
from tests.serving.auth.signing import ED_KEYS, RSA_KEYS, SECRET, jwk, write_jwks

SECRET_AUTH = {"enabled": True, "jwt_secret": SECRET, "failures_per_minute": None}


@pytest.fixture(scope="session", params=[(), ("-O",)], ids=["plain", "-O"])
def flags(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Of the interpreter. Only the server has them: without asserts these tests would prove nothing."""
    found: tuple[str, ...] = request.param
    return found


@pytest.fixture(scope="session")
def target(flags: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """It asks who calls: API keys, or tokens signed with SECRET."""
    with started(tmp_path_factory.mktemp("target"), *flags, auth=SECRET_AUTH) as target:
        yield target


@pytest.fixture(scope="session")
def platform_target(flags: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """As `target`, with every route that there can be."""
    platform = {"name": "sagemaker"}
    folder = tmp_path_factory.mktemp("platform")
    with started(folder, *flags, platform=platform, auth=SECRET_AUTH) as target:
        yield target


@pytest.fixture(scope="session")
def public_key_target(flags: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """It believes tokens that are signed by the first of RSA_KEYS, whose kid is "a"."""
    folder: Path = tmp_path_factory.mktemp("public-key-target")
    path = write_jwks(folder / "jwks.json", jwk(RSA_KEYS[0], "a"), jwk(ED_KEYS[0], "ed"))
    auth = {"enabled": True, "algorithm": "RS256", "jwks_file": str(path), "failures_per_minute": None}
    with started(folder, *flags, auth=auth) as target:
        yield target
