"""Whole files, observed by content, replaced by an atomic rename, put back by what was kept."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import grp
import hashlib
import os
import pwd
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runbook.contract import Absent, Call, Context, Observation, PermanentError, Sensitive, TemporaryError

SENSITIVE = (".env", ".env.*", "*.env", "*.key", "*.pem")
SHOWN = 64 * 1024  # a text up to this size is shown in the diff
LIMIT = 64 * 1024 * 1024  # a replaced file is kept for undo, in memory and sealed


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a file is to become. `mode` and `owner`: `keep` or a value. Content None: it is to be gone."""

    content: bytes | None
    mode: str = "keep"
    owner: str = "keep"
    fresh: int = 0o644  # the mode of a new file when `mode` is keep


class Replace:
    """What the three changes share: whole files, observed by content, replaced by an atomic rename."""

    _held: Mapping[Path, bytes | None]
    _ctx: Context

    def _observed(self, paths: list[Path], ctx: Context, sensitive: bool) -> Observation:
        self._ctx = ctx
        contents: dict[Path, bytes | None] = {}
        seen: Observation = {}
        for path in paths:
            readable(path, ctx)
            with told(path):
                contents[path] = _content(path)
                seen[f"file:{path}"] = _state(path, contents[path], sensitive)
        self._held = contents
        return seen

    @staticmethod
    def _forbidden(paths: Iterable[Path]) -> list[str]:
        """Why these files could not be written: sentences."""
        folders = sorted({path.parent for path in paths})
        missing = [Absent(f"there is no folder {folder} to write into") for folder in folders if not folder.is_dir()]
        closed = [
            f"no right to write into {folder}"
            for folder in folders
            if folder.is_dir() and not os.access(folder, os.W_OK)
        ]
        return [*missing, *closed]

    @staticmethod
    def _expected(wanted: Mapping[Path, Wanted], before: Observation, sensitive: bool, ctx: Context) -> Observation:
        after = {}
        for path, one in wanted.items():
            name = f"file:{path}"
            after[name] = _become(path, one, before[name], sensitive)
            if after[name] != before[name]:
                _permitted(path, ctx)  # a plan says it, and a run has begun nothing
        return after

    @staticmethod
    def _applied(wanted: Mapping[Path, Wanted], before: Observation, sensitive: bool, ctx: Context) -> None:
        for number, (path, one) in enumerate(wanted.items()):
            ctx.checkpoint()
            _permitted(path, ctx)
            with told(path):
                was = before[f"file:{path}"]
                now = _state(path, _content(path), sensitive)
                target = _become(path, one, was, sensitive)
                if now == target:
                    continue
                if now != was:
                    raise PermanentError(f"{path} was changed by somebody else since it was looked at")
                _put(path, one, target, ctx.op)
            ctx.progress(number + 1, len(wanted))

    def _reverting(self, before: Observation, sensitive: bool) -> Call:
        files: dict[str, Any] = {}
        for path, content in self._held.items():
            state = before[f"file:{path}"]
            kept = None if content is None else self._ctx.keep(content)
            files[str(path)] = None if kept is None else {"kept": kept, "mode": state["mode"], "owner": state["owner"]}
        return Call("file.revert", {"files": files, "sensitive": sensitive})


def _permitted(path: Path, ctx: Context) -> None:
    """A rehearsal writes into its run's folder and nowhere else."""
    if not path.is_relative_to(ctx.folder):
        ctx.permit("write", str(path))


def holds_secret(content: bytes | None, ctx: Context) -> bool:
    """Whether a secret stands in what is to be written, if a diff would show it: then all of it is sensitive.

    So is what was there before, where the secret may have had another value.
    """
    text = None if content is None else _text(content)
    return text is not None and ctx.mask(text) != text


def copies_secret(path: Path, ctx: Context) -> bool:
    """The same of what is to be copied; what is not there copies none."""
    readable(path, ctx)
    with told(path):
        return path.is_file() and path.stat().st_size <= SHOWN and holds_secret(_content(path), ctx)


def readable(path: Path, ctx: Context) -> None:
    """A rehearsal reads in its run's folder, and where the host says that it may: beside the playbook."""
    real = real_path(path)
    if not real.is_relative_to(real_path(ctx.folder)):
        ctx.permit("read", str(real))


def is_sensitive(path: Path) -> bool:
    """Whether a file's name says that its content is nobody's business."""
    return any(fnmatch.fnmatch(path.name, pattern) for pattern in SENSITIVE)


def real_path(path: Path) -> Path:
    return Path(os.path.realpath(path))


def source(path: Path, ctx: Context) -> bytes:
    readable(path, ctx)
    content = _content(path)
    if content is None:
        raise PermanentError(f"{path}: there is no such file")
    return content


def _content(path: Path) -> bytes | None:
    """A regular file's bytes, None where there is none."""
    try:
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise PermanentError(f"{path} is no regular file")
            if found.st_size > LIMIT:
                raise PermanentError(f"{path} is larger than {LIMIT // 1024**2} MiB")
            return stream.read()
    except FileNotFoundError:
        return None


def _state(path: Path, content: bytes | None, sensitive: bool) -> dict[str, Any]:
    if content is None:
        return {"exists": False}
    found = path.stat()
    return {
        "exists": True,
        "mode": f"{stat.S_IMODE(found.st_mode):04o}",
        "owner": _owner_name(found.st_uid, found.st_gid),
        **_shown(path, content, sensitive),
    }


def _become(path: Path, wanted: Wanted, was: Mapping[str, Any], sensitive: bool) -> dict[str, Any]:
    if wanted.content is None:
        return {"exists": False}
    mode, owner = wanted.mode.zfill(4), wanted.owner
    if wanted.mode == "keep":
        mode = was["mode"] if was["exists"] else f"{wanted.fresh:04o}"
    if owner == "keep":
        owner = was["owner"] if was["exists"] else _owner_name(os.geteuid(), os.getegid())
    return {
        "exists": True,
        "mode": mode,
        "owner": _owner_name(*owner_ids(owner)),
        **_shown(path, wanted.content, sensitive),
    }


def _shown(path: Path, content: bytes, sensitive: bool) -> dict[str, Any]:
    """What a diff may show: text; of sensitive files key names, with digests that are sealed."""
    digest = hashlib.sha256(content).hexdigest()
    if sensitive or is_sensitive(path):
        return {"sha256": Sensitive(digest), "keys": _keys(content)}
    text = _text(content)
    return {"sha256": digest, "size": len(content)} | ({"content": text} if text is not None else {})


def _keys(content: bytes) -> dict[str, Sensitive]:
    """`NAME=value` lines: each name with the digest of its value, so that a diff says changed or equal, never what.

    Not a name before `=` or `==` alone: base64 ends like that.
    """
    found: dict[str, Sensitive] = {}
    for line in content.decode("utf-8", errors="replace").splitlines():
        match = re.match(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*=(.*)", line)
        if match and match[2].strip() not in ("", "="):
            found[match[1]] = Sensitive(hashlib.sha256(match[2].encode()).hexdigest())
    return found


def _text(content: bytes) -> str | None:
    if len(content) > SHOWN or b"\0" in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _owner_name(uid: int, gid: int) -> str:
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    try:
        return f"{user}:{grp.getgrgid(gid).gr_name}"
    except KeyError:
        return f"{user}:{gid}"


def owner_ids(owner: str) -> tuple[int, int]:
    """The numbers of `user` (with its own group) or `user:group`; numbers are taken as they are."""
    user, _, group = owner.partition(":")
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
        uid, own = entry.pw_uid, entry.pw_gid
    except KeyError:
        if not user.isdigit():
            raise PermanentError(f"owner: this machine knows no user {user}") from None
        uid = own = int(user)
    if not group:
        return uid, own
    try:
        return uid, int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise PermanentError(f"owner: this machine knows no group {group}") from None


def _put(path: Path, wanted: Wanted, target: Mapping[str, Any], op: str) -> None:
    """Replace the file, durably: either the old one is there or the new one, whole, with its mode and owner."""
    if wanted.content is None:
        path.unlink(missing_ok=True)
        _sync(path.parent)
        return
    beside = path.with_name(f".{path.name}.{hashlib.sha256(op.encode()).hexdigest()[:12]}")
    beside.unlink(missing_ok=True)  # ours, of an attempt that was killed
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(wanted.content)
            owner = owner_ids(target["owner"])
            found = os.fstat(stream.fileno())
            if owner != (found.st_uid, found.st_gid):
                os.fchown(stream.fileno(), *owner)
            os.fchmod(stream.fileno(), int(target["mode"], 8))  # after fchown, which clears set-uid bits
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """The system's errors, with the path and what they mean for a retry."""
    try:
        yield
    except OSError as failure:
        text = f"{failure.filename or path}: {os.strerror(failure.errno) if failure.errno else failure}"
        if failure.errno in (errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE):
            raise TemporaryError(text) from None
        raise PermanentError(text) from None
