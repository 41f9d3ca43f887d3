"""Files of this machine: what they are, the newest of them, and replacing them whole."""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runbook.actions import _archive
from runbook.actions._replace import (
    Replace,
    Wanted,
    copies_secret,
    holds_secret,
    is_sensitive,
    owner_ids,
    readable,
    real_path,
    source,
    told,
)
from runbook.contract import (
    Call,
    Change,
    Context,
    Observation,
    Outputs,
    PermanentError,
    Read,
    param,
)

SSH_LATER = "`host` (over ssh) comes in a later version; leave it out to work on this machine"
HOST = "Another machine, over ssh (a later version). Absent: this one."
CHUNK = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class StatArgs:
    """Parameters of file.stat."""

    paths: list[Path] = param("Files or folders.", path=True)
    must_exist: bool = param("A missing one is an error that names it.", default=False)
    host: str | None = param(HOST, default=None, family=True)


class FileStat(Read[StatArgs]):
    """What files are: existence, size, digest, mode, time."""

    name = "file.stat"
    returns = {"files": "path -> {exists, size, sha256 (null for a folder), mode, mtime (Unix seconds)}"}

    def check(self, args: StatArgs) -> Iterator[str]:
        if args.host is not None:
            yield SSH_LATER

    def read(self, args: StatArgs, ctx: Context) -> Outputs:
        files = {}
        for path in args.paths:
            readable(path, ctx)
            with told(path):
                files[str(path)] = _stat(path, ctx)
        missing = [path for path, state in files.items() if not state["exists"]]
        if args.must_exist and missing:
            raise PermanentError("missing: " + ", ".join(missing), outputs={"files": files})
        return {"files": files}


def _stat(path: Path, ctx: Context) -> dict[str, Any]:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {"exists": False, "size": 0, "sha256": None, "mode": None, "mtime": 0}
    regular = stat.S_ISREG(found.st_mode)
    return {
        "exists": True,
        "size": found.st_size,
        "sha256": _digest(path, ctx) if regular else None,
        "mode": f"{stat.S_IMODE(found.st_mode):04o}",
        "mtime": found.st_mtime,
    }


def _digest(path: Path, ctx: Context) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            ctx.checkpoint()
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class FindArgs:
    """Parameters of file.find."""

    dir: Path = param("Folder to look in.", path=True)
    pattern: str = param("Glob relative to `dir`; `**` crosses folders.")
    extract: str | None = param(
        "Unpack this path of the found archive (tar or zip; `.` = all of it) into the run's folder; `path` is there.",
        default=None,
    )
    sha256: Literal["required", "if_present"] = param(
        "The digest in `<file>.sha256` beside it must be there, or is checked only if it is.", default="required"
    )
    host: str | None = param(HOST, default=None, family=True)


class FileFind(Read[FindArgs]):
    """The newest file that matches, its digest verified.

    A newest file without the digest that is required is an error, not passed over: it may be a backup in the making.
    """

    name = "file.find"
    returns = {"path": "the file, or what was unpacked of it", "at": "its modification time, Unix seconds"}

    def check(self, args: FindArgs) -> Iterator[str]:
        if args.host is not None:
            yield SSH_LATER
        if not args.pattern or args.pattern.startswith("/") or ".." in args.pattern.split("/"):
            yield "pattern: a glob below `dir`, without `..`"

    def read(self, args: FindArgs, ctx: Context) -> Outputs:
        readable(args.dir, ctx)
        with told(args.dir):
            matches = [one for one in args.dir.glob(args.pattern) if one.is_file() and one.suffix != ".sha256"]
            if not matches:
                raise PermanentError(f"nothing in {args.dir} matches {args.pattern}")
            newest = max(matches, key=lambda one: (one.stat().st_mtime, str(one)))
            readable(newest, ctx)  # a link may lead elsewhere
            at = newest.stat().st_mtime
            digest = _verified(newest, args.sha256, ctx)
            if args.extract is None:
                return {"path": str(newest), "at": at}
            into = ctx.folder / "unpacked" / digest[:16]
            return {"path": str(_archive.unpack(newest, args.extract, into, ctx.checkpoint)), "at": at}


def _verified(path: Path, sha256: str, ctx: Context) -> str:
    beside = path.with_name(path.name + ".sha256")
    if not beside.is_file():
        if sha256 == "required":
            raise PermanentError(f"{path} has no {beside.name} beside it", hint="sha256: if_present, if that is right")
        return _digest(path, ctx)
    found = re.search(r"\b[0-9a-fA-F]{64}\b", beside.read_text(errors="replace"))
    actual = _digest(path, ctx)
    if found is None or found[0].lower() != actual:
        raise PermanentError(f"{path} is not what {beside.name} says: it is damaged or incomplete")
    return actual


@dataclass(frozen=True, kw_only=True)
class WriteArgs:
    """Parameters of file.write."""

    to: Path = param("File to write; a link is followed. Its folder must exist.", path=True)
    content: str | None = param("What to write, as UTF-8.", default=None, secret=True)
    from_: Path | None = param("A file to copy from.", default=None, path=True, wire="from")
    mode: str = param(
        "Octal (`0640`), or `keep`: as it was; a new one gets 0644, a sensitive one 0600.", default="keep"
    )
    owner: str = param("`user` or `user:group`, or `keep`.", default="keep")
    sensitive: bool = param(
        "Never show its content; .env, *.env, *.key, *.pem and what a secret is written into always are.", default=False
    )
    host: str | None = param(HOST, default=None, family=True)


@dataclass(frozen=True, kw_only=True)
class RestoreArgs:
    """Parameters of file.restore."""

    from_: Path = param("A file, or a folder whose files are put back one by one.", path=True, wire="from")
    to: Path = param("The file to write, or the folder to write into; what is not in `from` stays.", path=True)
    glob: str = param("Of a folder: which files.", default="**/*")
    mode: str = param("Octal (`0640`), or `keep`: as it was; a new one gets the mode of its source.", default="keep")
    owner: str = param("`user` or `user:group`, or `keep`.", default="keep")
    sensitive: bool = param(
        "Never show contents; .env, *.env, *.key, *.pem always are, and all of them if a secret stands in one.",
        default=False,
    )
    host: str | None = param(HOST, default=None, family=True)


@dataclass(frozen=True, kw_only=True)
class RevertArgs:
    """Parameters of file.revert."""

    files: dict[str, Any] = param("path -> {kept, mode, owner}, or null where there was none. Written by an undo.")
    sensitive: bool = param("Never show contents.", default=False)


class FileWrite(Replace, Change[WriteArgs]):
    """Write a file whole: a temporary one beside it, fsync, atomic rename. Undo puts back what was, or deletes it."""

    name = "file.write"
    brings = True
    returns = {
        "path": "the file",
        "sha256": "digest of its content (not shown of a sensitive one)",
        "existed": "whether there was one before",
    }

    def check(self, args: WriteArgs) -> Iterator[str]:
        yield from _problems(args.host, args.mode, args.owner)
        if (args.content is None) == (args.from_ is None):
            yield "give one of content and from"

    def _wanted(self, args: WriteArgs, hidden: bool, ctx: Context) -> dict[Path, Wanted]:
        path = real_path(args.to)
        fresh = 0o600 if hidden or is_sensitive(path) else 0o644
        if args.from_ is not None:
            with told(args.from_):
                return {path: Wanted(source(args.from_, ctx), args.mode, args.owner, fresh)}
        return {path: Wanted((args.content or "").encode(), args.mode, args.owner, fresh)}

    @staticmethod
    def _hides(args: WriteArgs, ctx: Context) -> bool:
        """Whether it is a sensitive file: its author says so, or a secret is to stand in it."""
        if args.from_ is not None:
            return args.sensitive or copies_secret(args.from_, ctx)
        return args.sensitive or holds_secret((args.content or "").encode(), ctx)

    def preflight(self, args: WriteArgs, ctx: Context) -> list[str]:
        return self._forbidden([real_path(args.to)])

    def observe(self, args: WriteArgs, ctx: Context) -> Observation:
        return self._observed([real_path(args.to)], ctx, self._hides(args, ctx))

    def expect(self, args: WriteArgs, before: Observation, ctx: Context) -> Observation:
        hidden = self._hides(args, ctx)
        return self._expected(self._wanted(args, hidden, ctx), before, hidden, ctx)

    def apply(self, args: WriteArgs, before: Observation, ctx: Context) -> None:
        hidden = self._hides(args, ctx)
        self._applied(self._wanted(args, hidden, ctx), before, hidden, ctx)

    def inverse(self, args: WriteArgs, before: Observation, op: str) -> Call | None:
        return self._reverting(before, self._hides(args, self._ctx))

    def outputs(self, args: WriteArgs, before: Observation, after: Observation) -> Outputs:
        (name,) = after
        return {
            "path": name.removeprefix("file:"),
            "sha256": after[name]["sha256"],
            "existed": before[name]["exists"],
        }


class FileRestore(Replace, Change[RestoreArgs]):
    """Put files back from a copy: one, or all of a folder that match. Each is replaced as file.write does it."""

    name = "file.restore"
    brings = True
    returns = {"paths": "the files", "restored": "how many of them were different or missing"}

    def check(self, args: RestoreArgs) -> Iterator[str]:
        yield from _problems(args.host, args.mode, args.owner)

    def _sources(self, args: RestoreArgs, ctx: Context) -> dict[Path, Path]:
        readable(args.from_, ctx)
        if args.from_.is_file():
            return {real_path(args.to): args.from_}
        if not args.from_.is_dir():
            raise PermanentError(f"{args.from_}: there is no such file or folder")
        found = sorted(one for one in args.from_.glob(args.glob) if one.is_file())
        if not found:
            raise PermanentError(f"nothing in {args.from_} matches {args.glob}")
        return {real_path(args.to / one.relative_to(args.from_)): one for one in found}

    def _wanted(self, args: RestoreArgs, sources: Mapping[Path, Path], ctx: Context) -> dict[Path, Wanted]:
        wanted = {}
        for path, origin in sources.items():
            with told(origin):
                wanted[path] = Wanted(source(origin, ctx), args.mode, args.owner, stat.S_IMODE(origin.stat().st_mode))
        return wanted

    @staticmethod
    def _hides(args: RestoreArgs, sources: Mapping[Path, Path], ctx: Context) -> bool:
        """As in file.write; one of them hides all."""
        return args.sensitive or any(copies_secret(one, ctx) for one in sources.values())

    def preflight(self, args: RestoreArgs, ctx: Context) -> list[str]:
        return self._forbidden(self._sources(args, ctx))

    def observe(self, args: RestoreArgs, ctx: Context) -> Observation:
        sources = self._sources(args, ctx)
        return self._observed(list(sources), ctx, self._hides(args, sources, ctx))

    def expect(self, args: RestoreArgs, before: Observation, ctx: Context) -> Observation:
        sources = self._sources(args, ctx)
        return self._expected(self._wanted(args, sources, ctx), before, self._hides(args, sources, ctx), ctx)

    def apply(self, args: RestoreArgs, before: Observation, ctx: Context) -> None:
        sources = self._sources(args, ctx)
        self._applied(self._wanted(args, sources, ctx), before, self._hides(args, sources, ctx), ctx)

    def inverse(self, args: RestoreArgs, before: Observation, op: str) -> Call | None:
        return self._reverting(before, self._hides(args, self._sources(args, self._ctx), self._ctx))

    def outputs(self, args: RestoreArgs, before: Observation, after: Observation) -> Outputs:
        changed = [name for name in after if after[name] != before.get(name)]
        return {"paths": [name.removeprefix("file:") for name in after], "restored": len(changed)}


class FileRevert(Replace, Change[RevertArgs]):
    """What the undo of file.write and file.restore plays: the bytes, modes and owners that were. Not for playbooks."""

    name = "file.revert"

    def _wanted(self, args: RevertArgs, ctx: Context) -> dict[Path, Wanted]:
        return {
            Path(path): Wanted(None) if was is None else Wanted(ctx.kept(was["kept"]), was["mode"], was["owner"])
            for path, was in args.files.items()
        }

    def observe(self, args: RevertArgs, ctx: Context) -> Observation:
        return self._observed([Path(path) for path in args.files], ctx, args.sensitive)

    def expect(self, args: RevertArgs, before: Observation, ctx: Context) -> Observation:
        return self._expected(self._wanted(args, ctx), before, args.sensitive, ctx)

    def apply(self, args: RevertArgs, before: Observation, ctx: Context) -> None:
        self._applied(self._wanted(args, ctx), before, args.sensitive, ctx)

    def inverse(self, args: RevertArgs, before: Observation, op: str) -> Call | None:
        return self._reverting(before, args.sensitive)


def _problems(host: str | None, mode: str, owner: str) -> Iterator[str]:
    if host is not None:
        yield SSH_LATER
    if mode != "keep" and not re.fullmatch(r"[0-7]{3,4}", mode):
        yield f"mode: expected keep or octal text like '0640', got {mode!r}"
    if owner != "keep":
        try:
            owner_ids(owner)
        except PermanentError as problem:
            yield problem.message


ACTIONS = (FileStat, FileFind, FileWrite, FileRestore, FileRevert)
