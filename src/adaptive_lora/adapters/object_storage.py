"""A folder in object storage, or one that stands in for it, through fsspec: S3, GCS, Azure, local disk.

Requests have time limits, are repeated when they may succeed the next time, and fail with errors that say
what to do. Credentials and endpoints are the vendors' own: AWS_* (AWS_ENDPOINT_URL for another S3), GOOGLE_*,
AZURE_STORAGE_*.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptive_lora.adapters.durable import DISK_FULL, sync
from adaptive_lora.adapters.locations import Location, parse_location
from adaptive_lora.adapters.transfer import Answer, with_retries
from adaptive_lora.errors import InvalidRequest, NotFound, SettingsError, StorageError, StorageFull

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 30
"""Without a byte."""
REQUEST_TIMEOUT_S = 120
"""For one piece or one listing."""
UPLOAD_PIECE_BYTES = 16 << 20
_DRAFT_SUFFIX = ".adaptive-lora-upload"

_NO_CREDENTIALS = (
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError",
    "DefaultCredentialsError", "RefreshError", "ClientAuthenticationError", "CredentialUnavailableError",
)  # fmt: skip
"""By name, since the SDKs of botocore, google-auth and azure-identity need not be installed."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds."""

    connect: float = CONNECT_TIMEOUT_S
    read: float = READ_TIMEOUT_S
    request: float = REQUEST_TIMEOUT_S


class ObjectFolder:
    """A `transfer.Source` that can also be listed and written to. Safe to use from several threads."""

    def __init__(self, location: Location, timeouts: Timeouts = Timeouts()) -> None:
        """Opens no connection yet. Raises SettingsError if the file system's package is not installed."""
        if location.scheme == "hf":
            raise InvalidRequest("hf:// is for downloads only: give s3://, gs://, az:// or file:///")
        self.location = location
        self._is_local = location.scheme == "file"
        self._root = ("/" if self._is_local else "") + "/".join(location.segments)
        self._fs = _file_system(location.scheme, timeouts)
        # A local file system has no time limits; what has takes one per call.
        self._limit: Mapping[str, Any] = {} if self._is_local else {"timeout": timeouts.request}

    @classmethod
    def at(cls, url: str) -> ObjectFolder:
        return cls(parse_location(url))

    def list(self) -> dict[str, int]:
        """Size in bytes of each file below, by its path from here; empty if there is nothing."""

        def find() -> dict[str, int]:
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(self._root, detail=True, **self._limit)
            except FileNotFoundError:
                return {}
            names = {path.removeprefix(self._root + "/"): info for path, info in found.items()}
            # S3 consoles make "folders", objects whose name ends with "/"; a disk has drafts of dead uploads.
            ignored = ("/", _DRAFT_SUFFIX) if self._is_local else "/"
            return {name: info["size"] for name, info in sorted(names.items()) if not name.endswith(ignored)}

        return self._try(f"listing {self.location}", find)

    def size_of(self, name: str) -> int:
        def ask() -> int:
            self._fs.invalidate_cache()
            return int(self._fs.info(self._path(name), **self._limit)["size"])

        return self._try(f"asking for {name}", ask)

    def read(self, name: str, start: int, end: int) -> bytes:
        if end <= start:
            return b""

        def fetch() -> bytes:
            content: bytes = self._fs.cat_file(self._path(name), start=start, end=end, **self._limit)
            if len(content) != end - start:
                raise OSError(f"{len(content)} bytes came instead of {end - start}")
            return content

        return self._try(f"reading {name} from {self.location}", fetch)

    def upload(self, file: Path, name: str) -> None:
        """Put a local file there, whole or not at all."""
        size = file.stat().st_size

        def put() -> None:
            if self._is_local:
                _put_beside_and_rename(self._fs, file, self._path(name))
                return
            options = {"chunksize": UPLOAD_PIECE_BYTES} if self.location.scheme == "s3" else {}
            self._fs.put_file(str(file), self._path(name), **options)
            self._fs.invalidate_cache()
            arrived = self._fs.info(self._path(name), **self._limit)["size"]
            if arrived != size:
                raise OSError(f"{arrived} bytes arrived instead of {size}")

        self._try(f"uploading {name} to {self.location}", put)

    def write(self, name: str, content: bytes) -> None:
        """Put a small file there, whole or not at all."""
        with tempfile.NamedTemporaryFile(prefix="adaptive-lora-") as file:
            file.write(content)
            file.flush()
            self.upload(Path(file.name), name)

    def delete(self, name: str) -> None:
        """Nothing happens if it is not there."""

        def remove() -> None:
            try:
                self._fs.rm_file(self._path(name), **self._limit)
            except FileNotFoundError:
                return

        self._try(f"deleting {name} from {self.location}", remove)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _try(self, what: str, action: Callable[[], Answer]) -> Answer:
        return with_retries(what, action, lambda error: self._translated(error, what))

    def _translated(self, error: Exception, what: str) -> Exception | None:
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            return NotFound(f"{what}: there is no such file, folder or bucket")
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return StorageFull(f"{what}: there is no room left: make some, then try again")
        if isinstance(error, PermissionError) or type(error).__name__ in _NO_CREDENTIALS:
            return StorageError(f"{what} is not permitted: check the credentials and what they may do")
        if isinstance(error, ValueError | TypeError):  # The SDKs' word for a configuration that cannot work.
            return StorageError(f"{what} cannot work as it is configured: {str(error)[:200]}")
        return None


def _file_system(scheme: str, timeouts: Timeouts) -> Any:
    import fsspec

    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if scheme == "s3":
        # The retries are ours: theirs would multiply them.
        config = {"connect_timeout": timeouts.connect, "read_timeout": timeouts.read}
        options["config_kwargs"] = config | {"retries": {"total_max_attempts": 1}}
    elif scheme == "gs":
        options["requests_timeout"] = timeouts.read
    elif scheme == "az":
        options |= {"connection_timeout": timeouts.connect, "read_timeout": timeouts.read}
    else:
        options["auto_mkdir"] = True
    try:
        file_system = fsspec.filesystem(scheme, **options)
    except ImportError as error:
        raise SettingsError(
            f"{scheme}:// needs a package that is not installed: pip install 'adaptive-lora[cloud]'"
        ) from error
    except ValueError as error:  # adlfs, without an account
        raise SettingsError(f"{scheme}:// is not configured: {str(error)[:200]}") from error
    if scheme == "s3":
        file_system.retries = 1
    return file_system


def _put_beside_and_rename(file_system: Any, file: Path, path: str) -> None:
    """Object stores show an object when it is whole, and keep it; a disk shows a file from its first byte."""
    folder, _, name = path.rpartition("/")
    draft = Path(f"{folder}/.{name}.{secrets.token_hex(4)}{_DRAFT_SUFFIX}")  # others may put the same
    try:
        file_system.put_file(str(file), str(draft))
        sync(draft)
        draft.replace(path)
        sync(draft.parent)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
