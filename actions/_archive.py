"""Unpacking archives that somebody else made: only plain files and folders, only inside, only so much."""

from __future__ import annotations

import posixpath
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from runbook.contract import PermanentError

MEMBERS = 100_000
TOTAL = 4 * 1024**3  # bytes unpacked


def unpack(archive: Path, wanted: str, into: Path, checkpoint: Callable[[], None]) -> Path:
    """Unpack what lies under `wanted` ('.' = everything) into the folder `into`; the path of `wanted` there.

    A member with an absolute name, with `..`, or that is a link or a device refuses the whole archive (PermanentError):
    half of a hostile archive is nothing to go on with. Nothing outside `into` is ever touched.
    """
    root = posixpath.normpath(wanted)
    if root.startswith(("/", "..")):
        raise PermanentError(f"extract: {wanted} leads out of the archive")
    total = count = 0
    found = False
    try:
        for name, is_folder, size, mode, source in _members(archive):
            checkpoint()
            count += 1
            total += size
            if count > MEMBERS or total > TOTAL:
                raise PermanentError(f"{archive}: more than {MEMBERS} members or {TOTAL} bytes; not unpacked")
            if root not in (".", name) and not name.startswith(root + "/"):
                continue
            found = True
            target = into / name
            if is_folder:
                target.mkdir(parents=True, exist_ok=True, mode=0o700)
                continue
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            target.unlink(missing_ok=True)  # of an earlier attempt, maybe read-only
            with source() as stream, target.open("wb") as copy:
                shutil.copyfileobj(stream, copy, 1024 * 1024)
            target.chmod((mode or 0o600) & 0o777 | 0o400)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as damage:
        raise PermanentError(f"{archive}: not an archive that can be read: {damage}") from None
    if not found:
        raise PermanentError(f"{archive} holds no {wanted}")
    return into / root if root != "." else into


Member = tuple[str, bool, int, int, Callable[[], IO[bytes]]]


def _members(archive: Path) -> Iterator[Member]:
    if zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    elif tarfile.is_tarfile(archive):
        yield from _tar_members(archive)
    else:
        raise PermanentError(f"{archive}: neither a tar nor a zip archive")


def _tar_members(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive) as tar:
        for member in tar:
            if not (member.isfile() or member.isdir()):
                raise PermanentError(f"{archive}: {member.name!r} is a link or a device; not unpacked")
            yield _inside(archive, member.name), member.isdir(), member.size, member.mode, _opened(tar, member)


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def source() -> IO[bytes]:
        stream = tar.extractfile(member)
        assert stream is not None
        return stream

    return source


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            mode = member.external_attr >> 16
            if mode & 0o170000 not in (0, 0o100000, 0o040000):
                raise PermanentError(f"{archive}: {member.filename!r} is a link or a device; not unpacked")

            def source(one: zipfile.ZipInfo = member) -> IO[bytes]:
                return packed.open(one)

            yield _inside(archive, member.filename), member.is_dir(), member.file_size, mode, source


def _inside(archive: Path, name: str) -> str:
    clean = posixpath.normpath(name.replace("\\", "/"))
    if clean.startswith(("/", "..")) or "\0" in clean or clean[1:2] == ":":
        raise PermanentError(f"{archive}: {name!r} leads out of the archive; not unpacked")
    return clean
