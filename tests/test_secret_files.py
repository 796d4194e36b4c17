"""A secret in a file is exchanged while we run; what cannot be used changes nothing, and is told once."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptive_lora.errors import SettingsError
from adaptive_lora.secret_files import LOOK_EVERY_S, SecretFile


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def later(self) -> None:
        self.now += LOOK_EVERY_S


def put(path: Path, text: str) -> None:
    """As the runbook does."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_a_new_secret_is_seen_at_the_next_look(tmp_path: Path) -> None:
    path, clock = tmp_path / "key", Clock()
    put(path, "first\n")
    file = SecretFile(path, "workers.api_key_file", clock=clock)
    put(path, "second\n")
    assert (file.value, file.read()) == ("first", "second")
    clock.later()
    assert file.value == "second"


@pytest.mark.parametrize("spoilt", ["", "two\nlines\n", None])
def test_what_cannot_be_used_leaves_the_secret_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoilt: str | None
) -> None:
    path, clock = tmp_path / "key", Clock()
    put(path, "first\n")
    file = SecretFile(path, "workers.api_key_file", clock=clock)
    put(path, spoilt) if spoilt is not None else path.unlink()
    for _ in range(3):
        clock.later()
        assert file.value == "first"
    (told,) = (record.message for record in caplog.records)
    assert "workers.api_key_file" in told
    assert "first" not in told
    assert "two" not in told
    put(path, "second")
    clock.later()
    assert file.value == "second"


def test_a_file_without_a_secret_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    for name in ("key", "absent"):
        with pytest.raises(SettingsError, match=r"redis\.password_file .* cannot be read"):
            SecretFile(tmp_path / name, "redis.password_file")
