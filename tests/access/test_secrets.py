"""The form of a key."""

from __future__ import annotations

import pytest

from adaptive_lora.access import secrets


def test_a_key_names_its_id_and_holds_256_random_bits() -> None:
    made = [secrets.new_secret() for _ in range(100)]
    assert len({secret for _, secret in made}) == len({key_id for key_id, _ in made}) == 100
    for key_id, secret in made:
        assert secrets.id_of(secret) == key_id
        assert secret.startswith(f"alk_{key_id}_")
        assert len(secret) == 4 + 12 + 1 + 43  # 43 characters of base64url are 256 bits


@pytest.mark.parametrize(
    "text",
    [
        "", "alk_", "alk_0123456789ab", "alk_0123456789AB_" + "x" * 43, "alk_0123456789ab_" + "x" * 42,
        "alk_0123456789ab_" + "x" * 44, "alk_0123456789ab_" + "x" * 42 + "\n",
        " alk_0123456789ab_" + "x" * 43,
        "alk_../../../etc_" + "x" * 43, "alk_0123456789ab_" + "ü" * 43,
    ],
)  # fmt: skip
def test_anything_else_is_no_key(text: str) -> None:
    assert secrets.id_of(text) is None


def test_only_the_whole_key_matches() -> None:
    _, secret = secrets.new_secret()
    digest = secrets.digest_of(secret)
    assert secrets.matches(secret, digest)
    assert not secrets.matches(secret[:-1], digest)
    assert not secrets.matches(secrets.new_secret()[1], digest)
    assert not secrets.matches(digest, digest)
