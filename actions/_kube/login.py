"""Who asks: a token, a file that holds one, a client certificate, or a program that prints credentials.

What has run out is got anew before it is used, and what the server refuses is got anew once: a token of an hour ends in
the middle of a long run, and somebody logs in again in another window.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from runbook.actions import _process
from runbook.actions._kube.bounds import Bounds
from runbook.actions._kube.config import Access, Plugin
from runbook.contract import Context, PermanentError, TemporaryError, shorten

PLUGIN_SECONDS = 60.0
"""A credentials plug-in has so long, and never longer than the call that wants them."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What goes with each request. `expires`: seconds since the epoch; None = not known."""

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    expires: float | None = None


class Login:
    """The credentials of one context's user. Safe for many threads: one gets them, the others wait for it."""

    def __init__(self, load: Callable[[], Access], environ: Mapping[str, str]) -> None:
        """`load` reads the kubeconfig. `environ`: what a plug-in gets to see. PermanentError as `load` raises it."""
        self._load = load
        self.environ = environ
        self._lock = threading.Lock()
        self._kept: Credentials | None = None
        self.access = load()

    def credentials(self, bounds: Bounds) -> Credentials:
        """What is valid now, by all that is known here."""
        if self.access.plugin is None:
            return self._read()
        kept = self._kept
        if kept is None or _over(kept):
            with _held(self._lock, bounds):
                kept = self._kept
                if kept is None or _over(kept):
                    kept = self._kept = self._asked(self.access.plugin, bounds)
        return kept

    def renew(self, bounds: Bounds, refused: Credentials) -> Credentials | None:
        """Others than the ones that the server refused (401); None where there are none to be had."""
        with _held(self._lock, bounds):
            if self.access.plugin is None:
                self.access = self._again()  # somebody may have logged in again
            if self.access.plugin is None:
                found = self._read()
            elif self._kept is not None and self._kept != refused:
                found = self._kept  # another thread was quicker
            else:
                found = self._kept = self._asked(self.access.plugin, bounds)
        return None if found == refused else found

    def _again(self) -> Access:
        """The kubeconfig as it is now; a context that has come to mean another cluster is none to go on with."""
        now = self._load()
        if now.server != self.access.server:
            raise PermanentError(
                f"context {now.context!r} of the kubeconfig was {self.access.server} and is {now.server} now:"
                " a run stays on its cluster"
            )
        return now

    def _read(self) -> Credentials:
        """Without a plug-in. A file is read each time: what writes it (the kubelet) replaces it long before it ends."""
        access = self.access
        token = access.token
        if access.token_file is not None:
            try:
                token = access.token_file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise PermanentError(f"cannot read the token file {access.token_file}: {error}") from error
        if token:
            return Credentials(_headers(access, f"Bearer {token}"), access.certificate, access.key)
        if access.password is not None:
            pair = base64.b64encode(":".join(access.password).encode()).decode()
            return Credentials(_headers(access, f"Basic {pair}"), access.certificate, access.key)
        return Credentials(_headers(access, None), access.certificate, access.key)

    def _asked(self, plugin: Plugin, bounds: Bounds) -> Credentials:
        """Run the plug-in: the environment of the call, no terminal, its own session, ended with the call."""
        about = f"the credentials plug-in {os.path.basename(plugin.command)} of context {self.access.context!r}"  # noqa: PTH119
        spec: dict[str, Any] = {"interactive": False}
        if plugin.cluster is not None:
            spec["cluster"] = dict(plugin.cluster)
        asked = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
        env = {**plugin.env, "KUBERNETES_EXEC_INFO": json.dumps(asked)}
        with _Leash(bounds, self.environ) as leash:
            try:
                done = _process.run(cast("Context", leash), [plugin.command, *plugin.args], env=env, log=False)
            except TemporaryError as error:
                bounds.checkpoint()
                why = f"no answer in {leash.seconds:.3g}s, it was ended" if leash.late else error.message
                raise TemporaryError(f"{about}: {why}") from None
            except PermanentError as error:
                raise PermanentError(
                    f"{about} cannot be run: {error.message}", hint=plugin.hint or error.hint
                ) from None
        if done.rc != 0:
            said = shorten(" ".join(done.stderr.split()), 500) or "nothing on stderr"
            raise TemporaryError(f"{about} failed (exit status {done.rc}): {said}")
        try:
            return _understood(json.loads(done.stdout), plugin, self.access)
        except (ValueError, TypeError, AttributeError) as error:
            # Never what it printed: it is a credential, or the half of one.
            raise PermanentError(f"{about} did not print an ExecCredential of {plugin.api_version}: {error}") from None


def _understood(said: Any, plugin: Plugin, access: Access) -> Credentials:
    if not isinstance(said, Mapping) or said.get("kind") != "ExecCredential":
        raise ValueError("it is of another kind")
    if said.get("apiVersion") != plugin.api_version:
        raise ValueError("it is of another version")
    status = said.get("status") or {}
    token, certificate, key = (status.get(name) for name in ("token", "clientCertificateData", "clientKeyData"))
    if not token and not (certificate and key):
        raise ValueError("it holds neither a token nor a certificate with its key")
    expires = None
    if status.get("expirationTimestamp"):
        expires = datetime.datetime.fromisoformat(str(status["expirationTimestamp"])).timestamp()
    headers = _headers(access, f"Bearer {token}" if token else None)
    found = Credentials(headers, access.certificate, access.key, expires)
    if certificate and key:
        found = replace(found, certificate=str(certificate).encode(), key=str(key).encode())
    return found


def _headers(access: Access, authorization: str | None) -> tuple[tuple[str, str], ...]:
    """What says who asks. Checked here: http.client quotes a value that it cannot send, and this one is a secret."""
    headers = access.headers if authorization is None else (*access.headers, ("Authorization", authorization))
    for name, value in headers:
        if not (name.isascii() and value.isascii() and name.isprintable() and value.isprintable()):
            what = f"the credentials of context {access.context!r} ({name[:40]})"
            raise PermanentError(f"{what} hold characters that no HTTP header can carry")
    return headers


def _over(found: Credentials) -> bool:
    # The wall clock: it is what the issuer wrote down. Where it is wrong, the server's 401 says so.
    return found.expires is not None and time.time() >= found.expires


class _held:  # noqa: N801  # reads as a word: with _held(lock, bounds)
    """A lock that a call waits for no longer than it lives."""

    def __init__(self, lock: threading.Lock, bounds: Bounds) -> None:
        self._lock = lock
        self._bounds = bounds

    def __enter__(self) -> None:
        until = time.monotonic() + max(0.05, self._bounds.remaining())
        while not self._lock.acquire(timeout=0.1):
            self._bounds.checkpoint()
            if time.monotonic() >= until:
                raise TemporaryError("the credentials did not come in time")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _Leash:
    """What `_process.run` needs of a context, over any bounds, with a time of its own."""

    def __init__(self, bounds: Bounds, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.seconds = min(PLUGIN_SECONDS, max(0.05, bounds.remaining()))
        self.op = f"credentials:{os.getpid()}:{id(self)}"  # its own: what else the operation runs is not ended with it
        self.late = False
        self._bounds = bounds
        self._cut: Callable[[], None] | None = None
        self._timer = threading.Timer(self.seconds, self._late)
        self._timer.daemon = True

    def __enter__(self) -> _Leash:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _late(self) -> None:
        self.late = True
        if self._cut is not None:
            self._cut()

    def checkpoint(self) -> None:
        self._bounds.checkpoint()

    def on_stop(self, cut: Callable[[], None]) -> Callable[[], None]:
        self._cut = cut
        forget = self._bounds.on_stop(cut)

        def both() -> None:
            self._cut = None
            forget()

        return both

    def note(self, key: str, value: Any) -> None:
        """Not kept: a plug-in that outlives a killed run changes nothing."""

    def log(self, text: str) -> None:
        """Not called."""
