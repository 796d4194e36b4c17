"""`base_model: demo` becomes folders, or an error that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptive_lora import demo_fleet
from adaptive_lora.errors import SettingsError
from adaptive_lora.settings import AdaptersSettings, ModelSettings, Settings


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "adapters").mkdir()
    monkeypatch.setenv(demo_fleet.FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def test_demo_means_the_fleets_folders(fleet: Path) -> None:
    paths = demo_fleet.resolve(ModelSettings(), AdaptersSettings())
    assert paths == demo_fleet.FleetPaths(str(fleet / "base"), fleet / "adapters")
    resolved = demo_fleet.resolve_settings(Settings())
    assert resolved.model.base_model == str(fleet / "base")
    assert resolved.adapters.path == fleet / "adapters"


def test_configured_adapters_win(fleet: Path) -> None:
    own = fleet / "own"
    own.mkdir()
    assert demo_fleet.resolve(ModelSettings(), AdaptersSettings(path=own)).adapters == own


def test_another_base_has_no_adapters_by_default(fleet: Path) -> None:
    paths = demo_fleet.resolve(ModelSettings(base_model="org/name"), AdaptersSettings())
    assert paths == demo_fleet.FleetPaths("org/name", None)


def test_the_fake_engine_keeps_the_name(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(model=ModelSettings(engine="fake"))
    resolved = demo_fleet.resolve_settings(settings)
    assert (resolved.model.base_model, resolved.adapters.path) == ("demo", fleet / "adapters")
    monkeypatch.setenv(demo_fleet.FOLDER_VARIABLE, str(fleet / "absent"))
    assert demo_fleet.resolve_settings(settings) == settings


def test_what_is_absent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(demo_fleet.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(SettingsError, match="make demo-fleet"):
        demo_fleet.resolve(ModelSettings(), AdaptersSettings())
    with pytest.raises(SettingsError, match=r"adapters\.path is .* not a folder"):
        demo_fleet.resolve(ModelSettings(), AdaptersSettings(path=tmp_path / "absent"))


def test_callers_see_no_path(fleet: Path, tmp_path: Path) -> None:
    other = tmp_path / "my-model"
    other.mkdir()
    names = [str(fleet / "base"), str(other), "org/name", "org/base"]
    assert [demo_fleet.public_name(name) for name in names] == ["demo", "my-model", "org/name", "org/base"]
