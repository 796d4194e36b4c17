"""Uploaded archives: what is packed well arrives whole; what is hostile leaves nothing behind."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import tempfile
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.adapters.archive import extract as extract_archive
from adaptive_lora.adapters.files import WEIGHTS_NAME, Limits, is_allowed
from adaptive_lora.errors import StorageFull, UnsafeArchive
from tests.disks import small_disk

FILES = {WEIGHTS_NAME: b"\0" * 5_000, "adapter_config.json": b"{}", "LICENSE": b"free"}


@dataclass(frozen=True)
class Packed:
    """One entry to pack."""

    name: str
    content: bytes = b""
    kind: bytes = tarfile.REGTYPE
    target: str = ""


def tar(entries: list[Packed], mode: str = "w", format: int = tarfile.PAX_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode, format=format) as archive:  # type: ignore[call-overload]
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.size, info.linkname = entry.kind, len(entry.content), entry.target
            archive.addfile(info, io.BytesIO(entry.content))
    return packed.getvalue()


def tar_gz(entries: list[Packed]) -> bytes:
    return tar(entries, "w:gz")


def gnu_tar(entries: list[Packed]) -> bytes:
    return tar(entries, format=tarfile.GNU_FORMAT)


def zipped(entries: list[Packed]) -> bytes:
    modes = {tarfile.SYMTYPE: stat.S_IFLNK, tarfile.FIFOTYPE: stat.S_IFIFO, tarfile.DIRTYPE: stat.S_IFDIR}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries:
            is_folder = entry.kind == tarfile.DIRTYPE and not entry.name.endswith("/")
            info = zipfile.ZipInfo(entry.name + ("/" if is_folder else ""))
            info.external_attr = (modes.get(entry.kind, stat.S_IFREG) | 0o644) << 16
            content = entry.target.encode() if entry.kind == tarfile.SYMTYPE else entry.content
            with warnings.catch_warnings(action="ignore"):  # of a name that is there already
                archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


PACKERS = (tar, tar_gz, gnu_tar, zipped)
Pack = Callable[[list[Packed]], bytes]


def extract(archive: bytes, folder: Path, *, max_bytes: int = 1_000_000, max_entries: int = 8) -> None:
    folder.mkdir(exist_ok=True)
    extract_archive(io.BytesIO(archive), folder, limits=Limits(max_bytes, max_entries))


def refused(archive: bytes, folder: Path, **limits: int) -> str:
    """The reason; checked that nothing is left."""
    with pytest.raises(UnsafeArchive) as caught:
        extract(archive, folder, **limits)
    assert list(folder.iterdir()) == []
    return caught.value.message


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize("leading", ["", "code/", "./", "./code/", "My adapter (1)/"])
def test_a_whole_adapter_arrives(pack: Pack, leading: str, tmp_path: Path) -> None:
    folders = [Packed(leading, kind=tarfile.DIRTYPE)] if leading else []
    files = [Packed(leading + name, content) for name, content in FILES.items()]
    extract(pack(folders + files), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == FILES
    modes = {stat.S_IMODE(path.stat().st_mode) & 0o111 for path in (tmp_path / "out").iterdir()}
    assert modes == {0}, "nothing is executable, whatever the archive says"


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize(
    "entries",
    [
        [Packed("../code.json")],
        [Packed("/etc/code.json")],
        [Packed("code/../../code.json")],
        [Packed("code/..")],
        [Packed("a/b/code.json")],
        [Packed("a/code.json"), Packed("b/other.json")],
        [Packed("a/code.json"), Packed("other.json")],
        [Packed("..\\code.json")],
        [Packed("C:code.json")],
        [Packed("a.json"), Packed("a.json")],
        [Packed("a.json"), Packed("A.JSON")],
        [Packed("code/a.json"), Packed("code/./b.json")],
        [Packed("code//a.json")],
        [Packed(".hidden.json")],
        [Packed("weights.bin")],
        [Packed("model.safetensors")],
        [Packed("run.py")],
        [Packed("\u0430dapter.json")],
        [Packed("x" * 200 + ".json")],
        [Packed("a\nb.json")],
        [Packed("a.json", kind=tarfile.SYMTYPE, target="/etc/passwd")],
        [Packed("a.json", kind=tarfile.FIFOTYPE)],
        [Packed("code", kind=tarfile.DIRTYPE), Packed("code/more", kind=tarfile.DIRTYPE)],
        [Packed("a.json", kind=tarfile.DIRTYPE), Packed("a.json", b"{}")],
        [],
        [Packed("code/", kind=tarfile.DIRTYPE)],
    ],
    ids=repr,
)
def test_hostile_names_and_kinds_are_refused(pack: Pack, entries: list[Packed], tmp_path: Path) -> None:
    """After a good file, so that there is something to clean up."""
    before = [] if len(entries) != 1 or "/" in entries[0].name else [Packed(WEIGHTS_NAME, b"good")]
    refused(pack(before + entries), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.CONTTYPE, b"V"])
def test_links_and_devices_of_tar_are_refused(kind: bytes, tmp_path: Path) -> None:
    good = Packed("LICENSE", b"good")
    assert "link" in refused(tar([good, Packed("a.json", kind=kind, target="LICENSE")]), tmp_path / "out")


names = st.one_of(
    st.sampled_from(["a.json", "A.json", "LICENSE", WEIGHTS_NAME, "code", "..", ".", "", "~", "evil.py"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12),
)
paths = st.lists(names, min_size=1, max_size=4).map("/".join).filter(bool)
kinds = st.sampled_from(
    [tarfile.REGTYPE] * 8 + [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
)
entries_of_any_kind = st.lists(
    st.builds(Packed, paths, st.binary(max_size=64), kinds, st.sampled_from(["", "../x", "/etc/passwd"])),
    max_size=6,
)


@given(st.sampled_from(PACKERS), entries_of_any_kind)
def test_whatever_is_packed_stays_inside_and_is_allowed_or_nothing_is_left(
    pack: Pack, entries: list[Packed]
) -> None:
    try:
        archive = pack(entries)
    except (ValueError, tarfile.TarError):  # not even the packer takes such names
        return
    with tempfile.TemporaryDirectory() as around:
        out = Path(around) / "out"
        try:
            extract(archive, out)
        except UnsafeArchive:
            assert list(out.iterdir()) == []
        else:
            found = {path.name: path for path in out.iterdir()}
            assert found
            assert all(path.is_file() and not path.is_symlink() for path in found.values())
            assert all(is_allowed(name) for name in found)
            assert len({name.casefold() for name in found}) == len(found)
            packed = {entry.name.rsplit("/", 1)[-1]: entry.content for entry in entries}
            assert all(path.read_bytes() == packed[name] for name, path in found.items())
        assert [path.name for path in Path(around).iterdir()] == ["out"]


@given(st.sampled_from(PACKERS), st.integers(0, 3_000), st.binary(min_size=1, max_size=8))
def test_a_damaged_archive_is_refused_or_whole(pack: Pack, at: int, damage: bytes) -> None:
    """Never another error, never something half-extracted."""
    content = os.urandom(1_500)
    archive = bytearray(pack([Packed("code/LICENSE", content), Packed("code/a.json", b"{}")]))
    at %= len(archive)
    archive[at : at + len(damage)] = damage
    with tempfile.TemporaryDirectory() as around:
        out = Path(around) / "out"
        try:
            extract(bytes(archive), out)
        except UnsafeArchive:
            assert list(out.iterdir()) == []
        else:
            assert all(path.is_file() for path in out.iterdir())


@given(st.sampled_from(PACKERS), st.integers(0, 3_000))
def test_an_archive_that_is_cut_short_is_refused(pack: Pack, length: int) -> None:
    archive = pack([Packed("code/LICENSE", os.urandom(2_000)), Packed("code/a.json", b"{}")])
    end_of_content = 1_500 if pack is not zipped else len(archive) - 1
    with tempfile.TemporaryDirectory() as around:
        refused(archive[: min(length, end_of_content)], Path(around) / "out")


@given(st.binary(max_size=2_000))
def test_bytes_that_are_no_archive_are_refused(junk: bytes) -> None:
    with tempfile.TemporaryDirectory() as around:
        for start in (b"", b"PK\x03\x04", b"\x1f\x8b\x08"):
            refused(start + junk, Path(around) / "out")


@pytest.mark.parametrize("pack", PACKERS)
def test_the_sum_of_the_files_is_bounded(pack: Pack, tmp_path: Path) -> None:
    files = [Packed(f"{n}.json", b" " * 1_000) for n in range(4)]
    extract(pack(files), tmp_path / "fits", max_bytes=4_000)
    assert "max_archive_bytes" in refused(pack(files), tmp_path / "large", max_bytes=3_999)


@pytest.mark.parametrize("pack", PACKERS)
def test_the_number_of_entries_is_bounded(pack: Pack, tmp_path: Path) -> None:
    files = [Packed(f"code/{n}.json") for n in range(8)]
    extract(pack([Packed("code/", kind=tarfile.DIRTYPE), *files]), tmp_path / "fits", max_entries=8)
    too_many = [Packed(f"{n}.json") for n in range(1_000)]
    refused(pack(too_many), tmp_path / "many", max_entries=8)


def peak_bytes(archive: bytes, folder: Path) -> int:
    tracemalloc.start()
    try:
        refused(archive, folder)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("pack", [tar_gz, zipped])
def test_a_bomb_is_stopped_before_it_is_unpacked(pack: Pack, tmp_path: Path) -> None:
    bomb = pack([Packed("bomb.json", b"\0" * 100_000_000)])
    assert len(bomb) < 200_000
    assert peak_bytes(bomb, tmp_path / "out") < 20_000_000


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    """Both headers say 10 bytes; the stream holds 100,000."""
    archive = bytearray(zipped([Packed("bomb.json", b"\0" * 100_000)]))
    told = (100_000).to_bytes(4, "little")
    while (at := archive.find(told)) >= 0:
        archive[at : at + 4] = (10).to_bytes(4, "little")
    refused(bytes(archive), tmp_path / "out")


def test_a_zip_with_a_long_list_of_entries_is_refused_unread(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for n in range(20_000):
            archive.writestr(f"{n}.json", b"")
    assert peak_bytes(packed.getvalue(), tmp_path / "out") < 5_000_000


def test_a_zip64_list_cannot_hide_behind_a_short_one(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for n in range(66_000):  # more than 16 bits count: zipfile writes the zip64 records
            archive.writestr(f"{n}.json", b"")
    content = bytearray(packed.getvalue())
    content[-10:-6] = (46).to_bytes(4, "little")  # the plain record's size of the list
    assert peak_bytes(bytes(content), tmp_path / "out") < 5_000_000


def test_encryption_and_other_compressions_are_refused(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.json", b"{}")
    assert "deflate" in refused(packed.getvalue(), tmp_path / "lzma")
    encrypted = bytearray(zipped([Packed("a.json", b"{}")]))
    encrypted[encrypted.rfind(b"PK\x01\x02") + 8] |= 1
    assert "encrypted" in refused(bytes(encrypted), tmp_path / "encrypted")


def with_extended_header(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """A tar.gz whose one file has an extended header, deflated block by block."""
    header = tarfile.TarInfo("PaxHeader")
    header.type, header.size = kind, len(records)
    padded = records + b"\0" * (-len(records) % 512)
    plain = header.tobuf(tarfile.USTAR_FORMAT) + padded + tar([Packed("a.json", b"{}")])
    deflate = zlib.compressobj(wbits=31)
    return deflate.compress(plain) + deflate.flush()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_an_extended_header_of_a_hundred_megabytes_is_not_read(kind: bytes, tmp_path: Path) -> None:
    archive = with_extended_header(b"x" * 100_000_000, kind)
    assert "extended header" in refused(archive, tmp_path / "out")
    assert peak_bytes(archive, tmp_path / "again") < 20_000_000


def test_extended_headers_one_in_another_are_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("PaxHeader")
    header.type = tarfile.XHDTYPE
    refused(header.tobuf(tarfile.USTAR_FORMAT) * 5_000 + tar([Packed("a.json")]), tmp_path / "out")


@pytest.mark.parametrize(
    "records",
    [
        b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n30 GNU.sparse.name=sparse.json\n",
        b"20 GNU.sparse.size=9\n22 GNU.sparse.map=0,1\n",
        b"11 size=-5\n",
        b"18 path=../a.json\n",
    ],
)
def test_extended_headers_cannot_change_the_rules(records: bytes, tmp_path: Path) -> None:
    refused(with_extended_header(records), tmp_path / "out")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    archive = tar([Packed("LICENSE", b"x"), Packed("a.json", b" " * 3_000_000)])
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(StorageFull, match="no room left"):
            extract(archive, disk / "out", max_bytes=1 << 30)
        assert list((disk / "out").iterdir()) == []


def test_a_folder_that_is_not_empty_is_our_own_mistake(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    with pytest.raises(ValueError, match="not empty"):
        extract_archive(io.BytesIO(tar([])), tmp_path, limits=Limits(1, 1))
