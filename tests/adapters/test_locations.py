"""Addresses of sources: one spelling each, and an allow-list that no spelling gets around."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.adapters.locations import check_allowed, parse_location
from adaptive_lora.errors import InvalidRequest, SettingsError, SourceNotAllowed


@pytest.mark.parametrize(
    ("uri", "normal"),
    [
        ("s3://bucket/a/b", "s3://bucket/a/b"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket", "s3://bucket"),
        ("gcs://bucket/a", "gs://bucket/a"),
        ("abfs://container/a", "az://container/a"),
        ("hf://org/repo", "hf://org/repo"),
        ("hf://org/repo@v1.0/sub", "hf://org/repo@v1.0/sub"),
        ("/", None),
        ("/srv/adapters/code", "file:///srv/adapters/code"),
        ("file:///srv/adapters/code/", "file:///srv/adapters/code"),
    ],
)
def test_one_spelling(uri: str, normal: str | None) -> None:
    if normal is None:
        with pytest.raises(InvalidRequest, match="needs a path"):
            parse_location(uri)
    else:
        assert str(parse_location(uri)) == normal
        assert parse_location(normal) == parse_location(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "code",
        "./code",
        "../code",
        "http://169.254.169.254/latest/meta-data",
        "https://example.com/code.tar.gz",
        "ftp://host/code",
        "S3://bucket/a",
        "memory://a",
        "zip://a::file:///b",
        "s3://",
        "s3:///a",
        "s3://bucket//a",
        "s3://bucket/a/../b",
        "s3://bucket/./a",
        "s3://bucket/a\\b",
        "s3://bucket/a%2f..%2fb",
        "s3://bucket/a?versionId=1",
        "s3://bucket/a#b",
        "s3://bucket/*",
        "s3://bucket/a\nb",
        "s3://key:secret@bucket/a",
        "s3://169.254.169.254/latest",
        "s3://b/a",
        "az://container@account.blob.core.windows.net/a",
        "file://host/srv",
        "file://srv",
        "/srv/../etc",
        "hf://org",
        "hf://org/repo@refs/pr/1",
        "hf://org/repo@",
        "hf://org/repo@a@b",
        "hf://org@v1/repo",
        "hf://datasets/org/repo",
        "hf://user:token@org/repo",
    ],
)
def test_other_addresses_are_refused(uri: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_location(uri)


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_location("s3://key:hunter2@bucket/a")
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("uri", "prefix", "is_allowed"),
    [
        ("s3://bucket/a", "s3://bucket/a", True),
        ("s3://bucket/a/b", "s3://bucket/a", True),
        ("s3://bucket/a/b", "s3://bucket/a/", True),
        ("s3://bucket/ab", "s3://bucket/a", False),
        ("s3://bucket/b", "s3://bucket/a", False),
        ("s3://bucket", "s3://bucket/a", False),
        ("s3://buckets/a", "s3://bucket", False),
        ("gs://bucket/a", "s3://bucket", False),
        ("s3://anything/at/all", "s3://", True),
        ("gcs://bucket/a", "gs://bucket", True),
        ("hf://org/repo", "hf://org", True),
        ("hf://org/repo@abc/sub", "hf://org/repo", True),
        ("hf://org2/repo", "hf://org", False),
        ("hf://org/repo@abc", "hf://org/repo@abc", True),
        ("hf://org/repo@abd", "hf://org/repo@abc", False),
        ("hf://org/repo", "hf://org/repo@abc", False),
        ("/srv/adapters/code", "/srv/adapters", True),
        ("/srv/adapters/code", "file:///srv/adapters", True),
        ("/srv/adapters-private", "/srv/adapters", False),
    ],
)
def test_whole_segments_are_compared(uri: str, prefix: str, is_allowed: bool) -> None:
    location = parse_location(uri)
    if is_allowed:
        check_allowed(location, ["az://other", prefix])
    else:
        with pytest.raises(SourceNotAllowed, match="allowed_sources"):
            check_allowed(location, ["az://other", prefix])


def test_nothing_is_allowed_unless_it_is_said() -> None:
    with pytest.raises(SourceNotAllowed):
        check_allowed(parse_location("/srv/adapters/code"), ())


def test_a_prefix_that_is_wrong_is_the_operators_mistake() -> None:
    with pytest.raises(SettingsError, match=r"storage\.allowed_sources"):
        check_allowed(parse_location("s3://bucket/a"), ["https://example.com"])


def test_a_symbolic_link_is_no_way_in(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidRequest, match="symbolic link"):
        parse_location(str(tmp_path / "allowed" / "link"))


def test_an_allowed_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk" / "code").mkdir(parents=True)
    (tmp_path / "adapters").symlink_to(tmp_path / "disk")
    check_allowed(parse_location(str(tmp_path / "disk" / "code")), [str(tmp_path / "adapters")])


parts = st.sampled_from(["a", "ab", "..", ".", "", "b", "a/..", "%2e%2e", "a@b", "a?b", "\\..", "A"])


@given(st.lists(parts, max_size=5).map("/".join))
def test_no_spelling_leaves_an_allowed_prefix(rest: str) -> None:
    """What is allowed stays below the prefix also for a program that resolves dots its own way."""
    try:
        location = parse_location(f"s3://bucket/a/{rest}")
        check_allowed(location, ["s3://bucket/a"])
    except (InvalidRequest, SourceNotAllowed):
        return
    assert str(location) == "s3://bucket/a" or str(location).startswith("s3://bucket/a/")
    assert ".." not in str(location)
    assert "%" not in str(location)
