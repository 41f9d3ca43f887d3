"""Secrets: where their values live. Only the action host holds a `Secrets`; the interpreter sees seals.

A seal is revealed in the positions that an action's schema marks secret, just before the action runs. What comes back
is masked one way. What the host itself needs again (`before`, inverses, kept bytes) is sealed reversibly.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from runbook.contract import Sensitive
from runbook.interpreter.effects import SecretRef
from runbook.interpreter.errors import RefusedError
from runbook.interpreter.times import Duration, Timestamp
from runbook.interpreter.values import Sealed, from_wire, mask, to_wire
from runbook.runner.masking import SHORTEST, WHOLE_WORD, Hit, Spelling, hits, spellings

MAX_FILE: Final = 1024 * 1024  # bytes of a secret's file
SENSITIVE: Final = "sensitive"
"""How text from sensitive places is labelled: `‹secret:sensitive›`."""
_NAMELESS: Final = "‹•••›"
_VALUE: Final = "value"
"""A sealed part that is the whole value of a declared secret, as it was when it was sealed."""

ReadK8s: TypeAlias = Callable[[str | None, str, str, str], str | None]
"""`read(context, namespace, secret, key)`: the decoded value, None where there is none."""
StandIn: TypeAlias = Callable[[str, Any], str | None]
"""`stand_in(kind, where)`: the simulated value; None where the scenario has none."""
Coordinates: TypeAlias = tuple[str, str]


class SecretError(RefusedError):
    """A secret is missing, unreadable or too short."""


class Secrets:
    """The values of a run's secrets, and all that is done with them. Safe to use from several threads."""

    def __init__(
        self,
        environ: Mapping[str, str],
        key_file: str | Path,
        read_k8s: ReadK8s | None = None,
        base: str | Path = ".",
        fingerprint_key: str | Path | None = None,
        stand_in: StandIn | None = None,
    ) -> None:
        """`key_file`: the run's own key, made (0600) when first needed. `base`: what relative files are relative to.
        `fingerprint_key`: the key of fingerprints, shared by a plan and the run that applies it; None: the run's own.
        `stand_in`: in a sandbox, the values by coordinates; then no file of this machine is read.
        """
        self._environ = environ
        self._stand_in = stand_in
        self._key_file = Path(key_file)
        self._fingerprint_file = None if fingerprint_key is None else Path(fingerprint_key)
        self._read_k8s = read_k8s
        self._base = Path(base)
        self._lock = threading.RLock()
        self._values: dict[Coordinates, str | None] = {}
        self._table: tuple[Spelling, ...] = ()
        self._plain: dict[str, str] = {}  # value -> name
        self._warnings: tuple[str, ...] = ()
        self._key: bytes | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about secrets that are weakly kept (readable by all, or too short to mask well)."""
        return self._warnings

    def resolve(self, ref: SecretRef) -> bool:
        """Read a secret, once, and mask it from now on; whether it is there. SecretError if it cannot serve."""
        return self._value(ref) is not None

    def reveal(self, value: Any, secret_at: tuple[str, ...] | None) -> Any:
        """The value with its seals opened where `secret_at` (JSON pointers) says; elsewhere a seal is its printed mask.

        In a pointer `*` is every key of a map or item of a list, a final `**` all that lies below. None: everywhere.
        Keys are never revealed. SecretError when a secret is not there.
        """
        patterns = None if secret_at is None else tuple(_pattern(pointer) for pointer in secret_at)
        return self._revealed(value, (), patterns)

    def mask(self, value: Any) -> Any:
        """The value with every secret in it replaced by `‹secret:name›`, in keys too: plain data, one way."""
        if isinstance(value, Sensitive):
            return mask(SENSITIVE)
        if isinstance(value, str):
            return self._masked(str.__str__(value))
        if isinstance(value, Mapping):
            masked: dict[str, Any] = {}
            for key, item in value.items():
                masked[_unused(self._masked(str(key)), masked)] = self.mask(item)
            return masked
        if isinstance(value, (list, tuple)):
            return [self.mask(item) for item in value]
        if isinstance(value, bytes):
            return self._masked(value.decode("utf-8", "replace"))
        if _numeric(value) and str(value) in self._plain:
            return self._masked(str(value))
        return value

    def seal(self, value: Any) -> Any:
        """The value with all that is secret or sensitive sealed, for the host's own use: reveal(seal(x), None) == x."""
        if isinstance(value, Sealed):
            return value
        if isinstance(value, Sensitive):
            return Sealed((self._enc(str.__str__(value), SENSITIVE),))
        if isinstance(value, str):
            return self._sealed(value)
        if isinstance(value, Mapping):
            if any(self._found(str(key)) or isinstance(key, Sensitive) for key in value):
                return Sealed((self._enc_json(value),))
            return {key: self.seal(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.seal(item) for item in value]
        if _numeric(value) and str(value) in self._plain:
            return Sealed((self._enc_json(value),))
        return value

    def encrypt(self, content: bytes) -> bytes:
        """Bytes for this run's folder only (Fernet: AES-128-CBC with HMAC-SHA256)."""
        from cryptography.fernet import Fernet

        return Fernet(self._own_key()).encrypt(content)

    def decrypt(self, content: bytes) -> bytes:
        """What `encrypt` was given. SecretError when it was not this run that wrote it."""
        from cryptography.fernet import Fernet, InvalidToken

        try:
            return Fernet(self._own_key()).decrypt(content)
        except InvalidToken:
            raise SecretError("this content was not sealed by this run, or was changed") from None

    def fingerprint(self, value: Any) -> str:
        """A digest of a value: SHA-256 of its canonical JSON, keyed (HMAC) when it holds anything secret."""
        sealed = self.seal(value)
        text = json.dumps(to_wire(_plainly(self.reveal(sealed, None))), sort_keys=True, separators=(",", ":")).encode()
        if next(_seals(sealed), None) is None:
            return "sha256:" + hashlib.sha256(text).hexdigest()
        own = self._own_key() if self._fingerprint_file is None else _key_of(self._fingerprint_file)
        key = hashlib.sha256(b"runbook fingerprint" + own).digest()
        return "hmac-sha256:" + hmac.new(key, text, hashlib.sha256).hexdigest()

    def _value(self, ref: SecretRef) -> str | None:
        coordinates = (ref.kind, json.dumps(to_wire(ref.where), sort_keys=True))
        with self._lock:
            if coordinates in self._values:
                return self._values[coordinates]
        value = self._read(ref)  # without the lock: a cluster that hangs holds up no other secret
        with self._lock:
            if coordinates not in self._values:
                if value is not None:
                    self._learn(ref, value)
                self._values[coordinates] = value
            return self._values[coordinates]

    def _learn(self, ref: SecretRef, value: str) -> None:
        if len(value) < SHORTEST:
            raise SecretError(
                f"secret {ref.name} has fewer than {SHORTEST} characters: it cannot be masked",
                hint="use a longer secret, or an input if it is none",
            )
        if len(value) < WHOLE_WORD:
            self._warn(f"secret {ref.name} has fewer than {WHOLE_WORD} characters: it is masked as a whole word only")
        self._spell(ref.name, value)

    def _spell(self, name: str, value: str) -> None:
        table = dict.fromkeys((*self._table, *spellings(name, value)))
        self._table = tuple(sorted(table, key=lambda spelling: -len(spelling.text)))
        self._plain = {**self._plain, value: name}

    def _remember(self, name: str, value: str) -> None:
        """A value that this run's record holds stays a secret of the run, also when it was rotated since."""
        with self._lock:
            if value not in self._plain:
                self._spell(name, value)

    def _read(self, ref: SecretRef) -> str | None:
        if ref.kind == "env":
            return self._environ.get(str(ref.where)) or None
        stood_in = self._stand_in(ref.kind, ref.where) if self._stand_in is not None else None
        if stood_in is not None or (ref.kind == "file" and self._stand_in is not None):
            return stood_in
        if ref.kind == "file":
            return self._read_file(ref)
        if self._read_k8s is None:
            raise SecretError(f"secret {ref.name}: nothing here can read Kubernetes secrets")
        where = ref.where
        return self._read_k8s(where.get("context"), where["namespace"], where["secret"], where["key"]) or None

    def _read_file(self, ref: SecretRef) -> str | None:
        path = self._base / Path(str(ref.where))
        try:
            about = path.stat()
            if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_FILE:
                raise SecretError(f"secret {ref.name}: {ref.where} is no regular file of at most {MAX_FILE} bytes")
            text = path.read_bytes().decode()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError:
            raise SecretError(f"secret {ref.name}: {ref.where} is not UTF-8 text") from None
        except OSError as error:
            raise SecretError(f"secret {ref.name}: {ref.where}: {error.strerror}") from None
        if about.st_mode & stat.S_IROTH:
            self._warn(f"secret {ref.name}: {ref.where} can be read by every user (chmod 600 would do)")
        return text.removesuffix("\n").removesuffix("\r") or None

    def _warn(self, sentence: str) -> None:
        if sentence not in self._warnings:
            self._warnings = (*self._warnings, sentence)

    def _found(self, text: str) -> list[Hit]:
        return hits(text, self._table) if self._table else []

    def _masked(self, text: str) -> str:
        found = self._found(text)
        if not found:
            return text
        pieces, at = [], 0
        for hit in found:
            pieces += [text[at : hit.start], self._shown(hit.spelling.name)]
            at = hit.end
        return "".join((*pieces, text[at:]))

    def _shown(self, name: str) -> str:
        """The mask, unless a secret's value stands in the mask itself."""
        shown = mask(name)
        return _NAMELESS if self._found(shown) else shown

    def _sealed(self, text: str) -> str:
        found = self._found(text)
        if not found:
            return text
        parts: list[Any] = []
        at = 0
        for hit in found:
            inside = text[hit.start : hit.end]
            sealed = self._enc(inside, hit.spelling.name)  # no reference: what was seen does not rotate with its secret
            parts += [text[at : hit.start], (*sealed, _VALUE) if hit.whole and inside in self._plain else sealed]
            at = hit.end
        return Sealed((*parts, text[at:]))

    def _enc(self, text: str, label: str) -> tuple[str, str, str]:
        return ("enc", self.encrypt(text.encode("utf-8", "surrogatepass")).decode(), label)

    def _enc_json(self, value: Any) -> tuple[str, str, str, str]:
        """A map with a secret key, or a number that is a secret, whole."""
        kept = {_plainly(key): self.seal(item) for key, item in value.items()} if isinstance(value, Mapping) else value
        wire = json.dumps(to_wire(kept)).encode()
        return ("enc", self.encrypt(wire).decode(), SENSITIVE, "json")

    def _revealed(self, value: Any, path: tuple[str, ...], patterns: tuple[tuple[str, ...], ...] | None) -> Any:
        if isinstance(value, Sealed):
            if patterns is not None and not any(_covers(pattern, path) for pattern in patterns):
                return str.__str__(value)
            return self._open(value)
        if isinstance(value, Mapping):
            return {
                str.__str__(key) if isinstance(key, str) else key: self._revealed(item, (*path, str(key)), patterns)
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self._revealed(item, (*path, str(index)), patterns) for index, item in enumerate(value)]
        return value

    def _open(self, seal: Sealed) -> Any:
        if len(seal.parts) == 1 and seal.parts[0][3:] == ("json",):
            return self._revealed(from_wire(json.loads(self.decrypt(seal.parts[0][1].encode()))), (), None)
        if len(seal.parts) == 1 and seal.parts[0][0] == "enc" and seal.parts[0][2:] == (SENSITIVE,):
            return Sensitive(self._part(seal.parts[0]))  # still not to be shown: a plan masks what it revealed
        return "".join(map(self._part, seal.parts))

    def _part(self, part: str | tuple[Any, ...]) -> str:
        if isinstance(part, str):
            return part
        if part[0] == "enc":
            text = self.decrypt(part[1].encode()).decode("utf-8", "surrogatepass")
            if part[3:] == (_VALUE,):
                self._remember(part[2], text)
            return text
        ref = SecretRef(part[1], part[2], part[3])
        value = self._value(ref)
        if value is None:
            raise SecretError(f"secret {ref.name} is not there ({ref.kind}: {_where(ref)})")
        return value

    def _own_key(self) -> bytes:
        with self._lock:
            if self._key is None:
                self._key = _key_of(self._key_file)
            return self._key


def _where(ref: SecretRef) -> str:
    if isinstance(ref.where, Mapping):
        return "/".join(
            str(ref.where[part]) for part in ("context", "namespace", "secret", "key") if ref.where.get(part)
        )
    return str(ref.where)


def _key_of(path: Path) -> bytes:
    """The key in the file; made by whoever comes first."""
    from cryptography.fernet import Fernet

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(Fernet.generate_key())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # atomic, and never over a key that another process made meanwhile
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_bytes().strip()


def _pattern(pointer: str) -> tuple[str, ...]:
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:])


def _covers(pattern: tuple[str, ...], path: tuple[str, ...]) -> bool:
    if pattern and pattern[-1] == "**":
        return len(path) >= len(pattern) - 1 and all(map(_fits, pattern[:-1], path))
    return len(path) == len(pattern) and all(map(_fits, pattern, path))


def _fits(token: str, key: str) -> bool:
    return token in ("*", key)


def _numeric(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, (bool, Duration, Timestamp))


def _unused(key: str, taken: Mapping[str, Any]) -> str:
    if key not in taken:
        return key
    count = 2
    while f"{key}#{count}" in taken:
        count += 1
    return f"{key}#{count}"


def _plainly(value: Any) -> Any:
    """Sensitive text as plain text, on its way into a sealed envelope."""
    if isinstance(value, Sensitive):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_plainly(key): _plainly(item) for key, item in value.items()}
    return [_plainly(item) for item in value] if isinstance(value, (list, tuple)) else value


def is_sealed(value: Any) -> bool:
    """Whether anything in it is a secret."""
    return next(_seals(value), None) is not None


def _seals(value: Any) -> Iterator[Sealed]:
    if isinstance(value, Sealed):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _seals(item)
    elif isinstance(value, list):
        for item in value:
            yield from _seals(item)
