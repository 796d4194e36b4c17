"""An uploaded archive becomes an adapter folder, or an error. It is a stranger's file: nothing in it is
trusted.

A tar, tar.gz or zip that holds the adapter's files, flat or below one leading folder, which is stripped.
Every name is checked before anything is written, sizes are counted while decompressing, and a name from the
archive is never used as a path: files are created in the one open folder.
"""

from __future__ import annotations

import gzip
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, NoReturn, TypeVar, cast

from adaptive_lora.adapters.durable import disk_errors
from adaptive_lora.adapters.files import ALLOWED, Limits, is_allowed
from adaptive_lora.adapters.manifest import FILE_NAME
from adaptive_lora.errors import UnsafeArchive

_CHUNK_BYTES = 1 << 20
_MAX_NOTE_BYTES = 64 * 1024
"""Of a tar's extended header, which `tarfile` reads into memory."""
_DIRECTORY_BYTES_PER_ENTRY = 1024
"""Of a zip's central directory, which `zipfile` reads into memory: 46 bytes, the name, and a time stamp or
two."""
_Part = TypeVar("_Part")
_END_RECORD_BYTES = 22
_MAX_COMMENT_BYTES = 0xFFFF

_UNREADABLE = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, struct.error,
    EOFError, ValueError, RuntimeError, OverflowError,
)  # fmt: skip
"""What tarfile and zipfile raise for damaged or hostile input; RuntimeError covers headers nested too
deep."""


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    size: int
    """As declared."""
    is_folder: bool
    open: Callable[[], IO[bytes] | None]


def extract(archive: BinaryIO, folder: Path, *, limits: Limits) -> None:
    """Extract `archive`, a seekable file at its start, into the empty `folder`.

    Raises UnsafeArchive, StorageFull or StorageError, and then leaves `folder` empty.
    """
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty")
    written: list[str] = []
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _extract(archive, descriptor, written, folder, limits)
    except BaseException:
        for name in written:
            os.unlink(name, dir_fd=descriptor)
        raise
    finally:
        os.close(descriptor)


def _extract(archive: BinaryIO, folder: int, written: list[str], where: Path, limits: Limits) -> None:
    names = _Names()
    left = limits.max_bytes
    for n, entry in enumerate(_read(_entries(archive, limits.max_files)), start=1):
        if n > limits.max_files + 1:  # the leading folder may be an entry of its own
            raise UnsafeArchive(
                f"the archive has more than {limits.max_files} entries: pack one adapter alone"
            )
        name = names.accept(entry)
        if name is None:
            continue
        if not 0 <= entry.size <= left:
            raise _too_large(limits.max_bytes)
        with disk_errors(where):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.fdopen(os.open(name, flags, 0o644, dir_fd=folder), "wb")
            written.append(name)
            with file:
                for chunk in _read(_chunks(entry)):
                    left -= len(chunk)
                    if left < 0:
                        raise _too_large(limits.max_bytes)
                    file.write(chunk)
    if not written:
        raise UnsafeArchive("the archive holds no files: pack the adapter's folder")


class _Names:
    """Accepts each entry's name once, and at most one leading folder."""

    def __init__(self) -> None:
        self._leading: str | None = None
        self._seen: set[str] = set()

    def accept(self, entry: _Entry) -> str | None:
        """The file's own name; None for the leading folder's entry. Raises UnsafeArchive."""
        shown = repr(entry.name[:120])
        path = entry.name.removesuffix("/") if entry.is_folder else entry.name
        if path == "." and entry.is_folder:
            return None
        *folders, name = path.removeprefix("./").split("/")
        if entry.is_folder:
            folders, name = [*folders, name], ""
        if len(folders) > 1 or any(part in ("", ".", "..") for part in folders):
            raise UnsafeArchive(
                f"the archive holds {shown}: names must be plain, at most one folder deep, without '..'; "
                "pack the adapter's folder itself, for instance with tar czf code.tar.gz code"
            )
        leading = folders[0] if folders else ""
        if self._leading is None:
            self._leading = leading
        if leading != self._leading:
            raise UnsafeArchive(
                f"the archive holds {shown} beside another folder: pack one adapter alone, on a Mac with "
                "COPYFILE_DISABLE=1 tar czf code.tar.gz code"
            )
        if entry.is_folder:
            return None
        if not FILE_NAME.fullmatch(name) or not is_allowed(name):
            raise UnsafeArchive(
                f"the archive holds {shown}: an adapter is made of {ALLOWED}; leave the rest out"
            )
        # Some file systems tell README.md and readme.md apart and some do not.
        if name.lower() in self._seen:
            raise UnsafeArchive(f"the archive holds {shown} twice, as far as some file systems can tell")
        self._seen.add(name.lower())
        return name


def _entries(archive: BinaryIO, max_entries: int) -> Iterator[_Entry]:
    start = archive.read(4)
    archive.seek(0)
    if start in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip_entries(archive, max_entries)
    # Not tarfile's own decompression: its pieces may unpack to a thousand times their size at once.
    if start.startswith(b"\x1f\x8b"):
        archive = cast(BinaryIO, gzip.GzipFile(fileobj=archive))
    return _tar_entries(archive)


def _tar_entries(archive: BinaryIO) -> Iterator[_Entry]:
    with tarfile.open(fileobj=archive, mode="r|", tarinfo=_TarEntry) as tar:
        for member in tar:
            # An old tar's sparse files, links, devices: neither regular nor a folder.
            if (
                not (member.isdir() or member.type in (tarfile.REGTYPE, tarfile.AREGTYPE))
                or member.issparse()
            ):
                raise UnsafeArchive(
                    f"the archive holds {member.name[:120]!r}, which is a link, a device or the like: pack "
                    "the files themselves (tar --dereference)"
                )
            yield _Entry(member.name, member.size, member.isdir(), partial(tar.extractfile, member))


class _TarEntry(tarfile.TarInfo):
    """Refuses extended headers of a size that no name needs, before they are read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _TarEntry:
        entry = super().frombuf(buf, encoding, errors)
        if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) and entry.size > _MAX_NOTE_BYTES:
            raise UnsafeArchive(
                f"the archive has an extended header of {entry.size:,} bytes: pack it again with plain tar"
            )
        return entry

    def _proc_gnusparse_10(self, *_: object) -> NoReturn:
        """tarfile would read a map of any length into memory."""
        raise UnsafeArchive("the archive holds a sparse file: pack it again with plain tar (no --sparse)")


def _zip_entries(archive: BinaryIO, max_entries: int) -> Iterator[_Entry]:
    _check_directory(archive, max_entries)
    with zipfile.ZipFile(archive) as content:
        for member in content.infolist():
            name, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
            is_folder = name.endswith("/")
            if kind not in (0, stat.S_IFDIR if is_folder else stat.S_IFREG):
                raise UnsafeArchive(
                    f"the archive holds {name[:120]!r}, which is a link, a device or the like: pack the "
                    "files themselves (zip without -y)"
                )
            if member.flag_bits & 0x1 or member.compress_type not in (
                zipfile.ZIP_STORED,
                zipfile.ZIP_DEFLATED,
            ):
                raise UnsafeArchive(
                    f"the archive holds {name[:120]!r} encrypted, or compressed in a way other than deflate: "
                    "pack it again with plain zip"
                )
            if is_folder and member.file_size:
                raise UnsafeArchive(f"the archive holds {name[:120]!r}, a folder with content: pack it again")
            yield _Entry(name, member.file_size, is_folder, partial(content.open, member))


def _check_directory(archive: BinaryIO, max_entries: int) -> None:
    """Refuse a zip whose list of entries is long, before it is read into memory."""
    size = archive.seek(0, os.SEEK_END)
    archive.seek(max(0, size - _END_RECORD_BYTES - _MAX_COMMENT_BYTES))
    tail = archive.read()
    archive.seek(0)
    # Where zipfile looks, too: at the very end, else the last place that has the signature.
    at = len(tail) - _END_RECORD_BYTES
    if at < 0 or tail[at : at + 4] != b"PK\x05\x06" or tail[-2:] != b"\0\0":
        at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + _END_RECORD_BYTES:
        raise UnsafeArchive("the zip archive is cut short: upload it again")
    directory_bytes = int.from_bytes(tail[at + 12 : at + 16], "little")
    is_zip64 = tail[max(0, at - 20) : at].startswith(b"PK\x06\x07")
    if is_zip64 or directory_bytes > (max_entries + 1) * _DIRECTORY_BYTES_PER_ENTRY:
        raise UnsafeArchive(
            f"the zip archive lists more than {max_entries} entries can need: pack one adapter alone, or use "
            "tar"
        )


def _chunks(entry: _Entry) -> Iterator[bytes]:
    """What the entry really holds; exactly as much as declared, else EOFError."""
    left = entry.size
    with entry.open() or open(os.devnull, "rb") as file:  # noqa: PTH123 - a device, not a path
        while chunk := file.read(min(_CHUNK_BYTES, left + 1)):
            left -= len(chunk)
            yield chunk
    if left:
        raise EOFError


def _read(parts: Iterator[_Part]) -> Iterator[_Part]:
    """The same parts; what the libraries raise for a bad archive becomes UnsafeArchive."""
    try:
        yield from parts
    except _UNREADABLE as error:
        raise UnsafeArchive(
            "the archive cannot be read: it must be a whole tar, tar.gz or zip; pack and upload it again"
        ) from error


def _too_large(max_bytes: int) -> UnsafeArchive:
    return UnsafeArchive(
        f"the archive's files are larger than {max_bytes:,} bytes: raise storage.max_archive_bytes"
    )
