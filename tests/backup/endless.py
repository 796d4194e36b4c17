"""What processes do until they are killed. Each task is called in a process of its own."""

from __future__ import annotations

import itertools
from pathlib import Path

from adaptive_lora.backup.repository import Repository
from adaptive_lora.backup.restore import restore
from adaptive_lora.backup.retention import keep_newest
from adaptive_lora.backup.site import Site

from .conftest import LiveSite, backed_up, site_at


def back_up(site: Site, url: str, begun: Path) -> None:
    """Change, back up, forget the old; again and again."""
    live = LiveSite(site, begun.parent)
    for i in itertools.count():
        live.mint(f"key-{i}")
        repository = Repository.open(url, create=True)
        begun.touch()
        backed_up(site, repository)
        keep_newest(repository, 2)


def put_back(url: str, folder: Path, begun: Path) -> None:
    """Into one new site after the other."""
    repository = Repository.open(url)
    _, backup = repository.load()
    for i in itertools.count():
        begun.touch()
        restore(site_at(folder / f"site-{i:04d}"), repository, backup)
