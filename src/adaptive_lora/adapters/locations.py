"""Where adapters may come from: addresses of folders, in one spelling each, and the list of those that are
allowed.

file:///srv/adapters/code, /srv/adapters/code
hf://org/repo[@revision][/path]
s3://bucket/path, gs://bucket/path, az://container/path
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from adaptive_lora.errors import InvalidRequest, SettingsError, SourceNotAllowed

Scheme = Literal["file", "hf", "s3", "gs", "az"]

_ALIASES = {"gcs": "gs", "abfs": "az"}
_SEGMENT = re.compile(r"[^\x00-\x1f\x7f\\?#%*\[\]@:]+")
"""Also no "%": some programs decode it and others do not, so that one address could mean two places."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
_IP_ADDRESS = re.compile(r"[0-9.]+")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""A branch, tag or commit. Pull requests (refs/pr/1) anybody may open, so they are not served from."""


@dataclass(frozen=True, slots=True)
class Location:
    scheme: Scheme
    segments: tuple[str, ...]
    """Bucket and path; organisation, repository and path; or the parts of a resolved local path."""
    revision: str | None = None
    """Of hf:// alone."""

    def __str__(self) -> str:
        if self.scheme == "hf" and self.revision is not None:
            organisation, repository, *path = self.segments
            return "hf://" + "/".join([organisation, f"{repository}@{self.revision}", *path])
        return f"{self.scheme}://{'/' if self.scheme == 'file' else ''}{'/'.join(self.segments)}"

    @property
    def path(self) -> Path:
        """Of a local folder."""
        return Path("/", *self.segments)

    def contains(self, other: Location) -> bool:
        """Whether `other` is this place or below it, whole segments compared."""
        return (
            self.scheme == other.scheme
            and other.segments[: len(self.segments)] == self.segments
            and self.revision in (None, other.revision)
        )


def parse_location(uri: str) -> Location:
    """Parse a folder's address. Raises InvalidRequest for another scheme, credentials, query strings, "..",
    or a local path that goes through a symbolic link."""
    location = _parse(uri)
    least = {"file": 1, "hf": 2}.get(location.scheme, 1)
    if len(location.segments) < least:
        raise InvalidRequest(f"{uri[:200]!r} names no folder: it needs a path")
    if location.scheme == "file" and location.path.resolve() != location.path:
        raise InvalidRequest(
            f"{str(location.path)!r} goes through a symbolic link: give the path that it leads to"
        )
    return location


def check_allowed(location: Location, allowed: Sequence[str]) -> None:
    """Raise SourceNotAllowed unless `location` is below one of the prefixes `allowed`."""
    for prefix in allowed:
        try:
            place = _parse(prefix)
        except InvalidRequest as error:
            raise SettingsError(f"storage.allowed_sources: {error.message}") from error
        if place.scheme == "file":
            place = replace(place, segments=place.path.resolve().parts[1:])
        if place.contains(location):
            return
    raise SourceNotAllowed(
        f"adapters may not come from {location}: add its prefix to storage.allowed_sources, or upload an "
        "archive"
    )


def _parse(uri: str) -> Location:
    if uri.startswith("/"):
        uri = f"file://{uri}"
    scheme, separator, rest = uri.partition("://")
    scheme = _ALIASES.get(scheme, scheme)
    if not separator or scheme not in ("file", "hf", "s3", "gs", "az"):
        raise InvalidRequest(
            "an adapter comes from an absolute path, or from file://, hf://, s3://, gs:// or az://, not from "
            f"{scheme[:20] + '://' if separator else 'a relative path'!r}"
        )
    if scheme == "file":
        if not rest.startswith("/"):
            raise InvalidRequest("a file:// address has three slashes: file:///srv/adapters")
        rest = rest[1:]
    revision = None
    if scheme == "hf":
        rest, revision = _without_revision(rest)
    rest = rest.removesuffix("/")
    segments = tuple(rest.split("/")) if rest else ()
    for segment in segments:
        if segment in (".", "..") or not _SEGMENT.fullmatch(segment):
            # Not repeated in the message: it may hold somebody's password.
            raise InvalidRequest(
                f"this {scheme}:// address is not a plain path: leave out empty parts, '.', '..', user names "
                "and passwords, ports, query strings, wildcards and '%'"
            )
    bucket = segments[0] if segments and scheme in ("s3", "gs", "az") else None
    if bucket is not None and (not _BUCKET.fullmatch(bucket) or _IP_ADDRESS.fullmatch(bucket)):
        raise InvalidRequest(f"{bucket[:80]!r} is no name of a bucket")
    if scheme == "hf" and segments[:1] in (("datasets",), ("spaces",), ("buckets",)):
        raise InvalidRequest(f"hf://{segments[0]} holds no models: give hf://organisation/repository")
    return Location(cast(Scheme, scheme), segments, revision)


def _without_revision(rest: str) -> tuple[str, str | None]:
    """`org/repo@revision/path` as `org/repo/path` and the revision."""
    parts = rest.split("/")
    if len(parts) < 2 or "@" not in parts[1]:
        return rest, None
    parts[1], _, revision = parts[1].partition("@")
    if not _REVISION.fullmatch(revision) or revision == "refs":
        raise InvalidRequest("the revision after '@' must be a branch, a tag or a commit without '/'")
    return "/".join(parts), revision
