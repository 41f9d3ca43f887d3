"""Playbooks in compiled form, kept between runs: one that was read before needs no YAML, no schema and no checks.

An entry holds a playbook without any problem, under a digest of all that it was made from: the text of every file, this
installation's code and schemas. What was changed, damaged, or is not surely ours is read anew; nothing else differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import posixpath
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runbook.interpreter.catalogue import ActionSpec, Catalogue
from runbook.interpreter.model import Loaded, Playbook
from runbook.runner import files, registry
from runbook.runner.store import Store

MOST = 64  # entries that are kept, those that were made last
_DIGEST = hashlib.sha256().digest_size
_INSTALLED = Path(__file__).parent.parent
_MADE_OF = ("interpreter", "schemas", "schemas/actions")
_HOLDS = frozenset(
    f"runbook.interpreter.{name}" for name in ("model", "errors", "times", "unknown", "values")
)  # an entry is data: nothing else is called when it is read


def read_playbook(path: str, store: Store) -> Loaded:
    """As `files.read_playbook` with the installed actions: from the cache in `store`, if its entry still holds."""
    folder, file = store.home / "cache", posixpath.normpath(path)
    try:
        first = files.read(path)
    except (FileNotFoundError, UnicodeDecodeError):
        return files.read_playbook(path, registry.catalogue())  # which says so

    def read(name: str) -> str:
        return first if name == file else files.read(name)  # once: it may be a pipe

    name = _name(file, first)
    found = _look(folder / name, read)
    if found is not None:
        return found
    from runbook.interpreter.load import load

    asked = _Asked(registry.catalogue())
    loaded = load(path, read, asked)
    if loaded.playbook is not None and not loaded.problems and asked.only_shipped():
        with contextlib.suppress(OSError):  # a cache that cannot be written is none
            _keep(folder, name, loaded)
    return loaded


class _Asked(Mapping[str, ActionSpec]):
    """A catalogue that knows what was asked of it: what a plug-in says may change without a file of ours changing."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._families: set[str] = set()
        self._all = False

    def __getitem__(self, name: str) -> ActionSpec:
        self._families.add(name.partition(".")[0])
        return self._catalogue[name]

    def __iter__(self) -> Iterator[str]:
        self._all = True
        return iter(self._catalogue)

    def __len__(self) -> int:
        return len(self._catalogue)

    def only_shipped(self) -> bool:
        return self._families <= registry.FAMILIES.keys() and not (self._all and registry.plugins())


def _name(path: str, text: str) -> str:
    """Of an entry: a digest over the installation and the playbook's own file. The other files stand in the entry."""
    made_of = hashlib.sha256(f"{sys.version}\n{_INSTALLED}\n".encode())
    for folder in _MADE_OF:
        with os.scandir(_INSTALLED / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.endswith((".py", ".json")):
                    found = entry.stat()
                    made_of.update(f"{entry.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    made_of.update(f"{len(path)} {path}\n{text}".encode())
    return made_of.hexdigest()


def _look(path: Path, read: Callable[[str], str]) -> Loaded | None:
    """What the entry holds; None where there is none, where it may be forged, and where a file was changed."""
    try:
        if not _ours(path.parent, stat.S_ISDIR) or not _ours(path, stat.S_ISREG):
            return None
        content = path.read_bytes()
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            return None
        digests, playbook = _Reader(io.BytesIO(content[_DIGEST:])).load()
        texts = {name: read(name) for name in digests}
    except Exception:  # noqa: BLE001  # whatever is wrong with an entry, it can be made anew
        return None
    if any(_digest(text) != digests[name] for name, text in texts.items()) or not isinstance(playbook, Playbook):
        return None
    return Loaded(playbook, (), texts)


def _keep(folder: Path, name: str, loaded: Loaded) -> None:
    """Write an entry, whole or not at all, into folders that are only ours; the oldest ones make room."""
    for private in (folder.parent, folder):
        private.mkdir(parents=True, mode=0o700, exist_ok=True)
        if not _ours(private, stat.S_ISDIR):
            return
    content = pickle.dumps(({file: _digest(text) for file, text in loaded.files.items()}, loaded.playbook), 5)
    temporary = folder / f".{name}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(content).digest() + content)
        temporary.replace(folder / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    kept = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    for path in kept[:-MOST]:
        path.unlink(missing_ok=True)


class _Reader(pickle.Unpickler):
    """Reads data of the interpreter's model and of nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module not in _HOLDS:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a playbook")
        return super().find_class(module, name)


def _ours(path: Path, kind: Callable[[int], bool]) -> bool:
    found = os.lstat(path)
    return kind(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
