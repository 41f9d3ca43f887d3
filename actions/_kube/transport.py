"""Requests to a Kubernetes API server: one pool of connections per run, cut at the deadline, nothing believed by half.

No client's time-out is an overall deadline: a server that drips bytes held the official client's `_request_timeout=1`
for 5.5 s. So each request registers what shuts its connection down from outside (`Context.on_stop`). The official
client's models and pool are not used here: they cost 250 ms and 27 MiB before the first request.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import select
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from runbook.actions._kube.bounds import Bounds, Within, pause
from runbook.actions._kube.connection import Connection, Target, dial
from runbook.actions._kube.login import Credentials, Login
from runbook.contract import PermanentError, TemporaryError

__all__ = ["Answer", "Bounds", "Transport", "Within"]

PUSHED_BACK = 5
"""So often an answer 429 with Retry-After is waited for within one request."""
_CHUNK = 1 << 16
_IDLE = 16
_IN_PATHS = "/%:@!$&'()*+,;=~"  # RFC 3986, 3.3; what is escaped already stays so


@dataclass(frozen=True)
class Answer:
    """A response that arrived whole, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @functools.cached_property
    def _parsed(self) -> dict[str, Any]:
        try:
            parsed = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return parsed if isinstance(parsed, dict) else {}

    def json(self) -> dict[str, Any]:
        """The body as an object; `{}` when it is none."""
        return self._parsed

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asked for."""
        for name, value in self.headers.items():
            if name.lower() == "retry-after":
                with contextlib.suppress(ValueError):
                    return max(0.0, float(value))
        return None


class Transport:
    """A pool of connections to one API server; safe for many threads."""

    def __init__(self, login: Login, folder: Path | None = None) -> None:
        """`folder`: a private one, where a key is a file for a moment; None: the system's temporary folder."""
        self._login = login
        self._folder = folder
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._contexts: dict[Target, ssl.SSLContext | None] = {}

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @property
    def host(self) -> str:
        """The server's address."""
        return self._login.access.server

    def target(self, path: str) -> str:
        """What a request for a path of the API asks for: behind a gateway the server's address has a path itself
        (`https://host/k8s/clusters/c-abc`)."""
        before = urlsplit(self.host).path.rstrip("/")
        return f"{quote(before, safe=_IN_PATHS)}{path}"

    def authorization(self, bounds: Bounds) -> tuple[tuple[str, str], ...]:
        """The headers that say who asks, for a connection of one's own (an upgrade). A name may come more than once:
        each group that is acted for is a header."""
        return self._login.credentials(bounds).headers

    def renew(self, bounds: Bounds) -> bool:
        """Get other credentials than the present ones, which the server refused; whether there are any."""
        return self._login.renew(bounds, self._login.credentials(bounds)) is not None

    def dial(self, bounds: Bounds) -> socket.socket:
        """A connected socket to the server, TLS and proxies done, for what is no request (an upgrade); its owner cuts
        and closes it. TemporaryError, or PermanentError where the server cannot be trusted."""
        with self._connected(bounds, self._login.credentials(bounds), fresh=True) as connection:
            connection.connect(bounds)
            return connection.detach()

    # -- requests

    def request(
        self,
        bounds: Bounds,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        limit: int | None = None,
        reads: bool = False,
    ) -> Answer:
        """One request, one answer. TemporaryError where no whole answer came.

        `limit`: read at most so many bytes. `reads`: it changes nothing, whatever its method (a dry run).
        Repeated here only where nothing was changed: a read on a kept connection that the other side has closed just
        now, 401 once with new credentials, 429 after the time that it asked for.
        """
        credentials = self._login.credentials(bounds)
        renewed = False
        pushed_back = 0
        while True:
            answer = self._exchange(
                bounds, method, path, headers=headers, body=body, limit=limit, who=credentials, reads=reads
            )
            if answer.status == 401 and not renewed:
                renewed = True
                other = self._login.renew(bounds, credentials)
                if other is not None:
                    credentials = other
                    continue
            wait = answer.retry_after if answer.status == 429 else None
            if wait is None or pushed_back == PUSHED_BACK or wait >= bounds.remaining():
                return answer
            pushed_back += 1
            pause(bounds, wait)

    @contextlib.contextmanager
    def lines(
        self, bounds: Bounds, path: str, *, headers: Mapping[str, str]
    ) -> Iterator[tuple[Answer, Iterator[bytes]]]:
        """An answer that goes on (a watch): its head, and its lines as they come. The connection ends with the block.

        An answer that is no success arrives whole. TemporaryError where the connection breaks.
        """
        credentials = self._login.credentials(bounds)
        with self._connected(bounds, credentials, fresh=True) as connection:
            response = self._send(connection, bounds, "GET", path, headers=headers, body=None, who=credentials)
            found = dict(response.headers)
            if response.status != 200:
                yield Answer(response.status, found, self._read(connection, bounds, response, None)), iter(())
            else:
                yield Answer(response.status, found, b""), self._lines(bounds, response)

    def _exchange(
        self,
        bounds: Bounds,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        limit: int | None,
        who: Credentials,
        reads: bool,
    ) -> Answer:
        for again in (True, False):
            with self._connected(bounds, who, fresh=not again) as connection:
                kept = connection.used
                try:
                    response = self._send(connection, bounds, method, path, headers=headers, body=body, who=who)
                except (http.client.RemoteDisconnected, ConnectionError, ssl.SSLError):
                    if not (again and kept and (reads or method == "GET")) or connection.is_cut:
                        raise
                    continue
                content = self._read(connection, bounds, response, limit)
                connection.reusable = response.isclosed() and not response.will_close
                return Answer(response.status, dict(response.headers), content)
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def _connected(self, bounds: Bounds, who: Credentials, *, fresh: bool) -> Iterator[Connection]:
        """A connection, cut at the deadline, closed unless it was kept; foreign errors as ours."""
        bounds.checkpoint()
        target = Target.of(self._login.access, who, self._login.environ)
        connection = None if fresh else self._leased(target)
        try:
            if connection is None:
                connection = dial(target, self._trust(target))
            forget = bounds.on_stop(connection.cut)
            try:
                connection.patience(bounds.remaining())
                yield connection
            finally:
                forget()
        except (OSError, http.client.HTTPException, EOFError, zlib.error) as error:
            bounds.checkpoint()
            if connection is not None and connection.is_cut:
                raise TemporaryError(f"the Kubernetes API at {self.host} gave no answer in time") from error
            raise self._unreachable(error) from error
        finally:
            # Only now that nobody here can cut or close it any more is it another thread's to take.
            if connection is not None and not self._keep(connection):
                connection.close()

    def _send(
        self,
        connection: Connection,
        bounds: Bounds,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        who: Credentials,
    ) -> http.client.HTTPResponse:
        connection.used = True
        connection.connect(bounds)
        wire = connection.http
        wire.putrequest(method, self.target(path), skip_accept_encoding=True)
        sent = {"User-Agent": "runbook", "Accept-Encoding": "gzip", **headers}
        if body is not None:
            sent["Content-Length"] = str(len(body))
        for name, value in (*sent.items(), *who.headers):
            wire.putheader(name, value)
        wire.endheaders(body)
        return wire.getresponse()

    @staticmethod
    def _read(connection: Connection, bounds: Bounds, response: http.client.HTTPResponse, limit: int | None) -> bytes:
        """The body, whole; an answer that ends before its end is an error, never a shorter answer."""
        packed = zlib.decompressobj(31) if response.headers.get("Content-Encoding") == "gzip" else None
        until = time.monotonic() + max(0.05, bounds.remaining())
        content = bytearray()
        while limit is None or len(content) < limit:
            piece = response.read1(_CHUNK)
            if not piece:
                break
            content += piece if packed is None else packed.decompress(piece)
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError("the answer did not end in time")
            connection.patience(left)
        if limit is not None and len(content) >= limit:
            return bytes(content[:limit])
        if not response.chunked and response.length == 0:
            response.read()  # tells http.client that the answer is over
        if response.length or (packed is not None and not packed.eof):
            raise http.client.IncompleteRead(b"", response.length or None)
        return bytes(content)

    @staticmethod
    def _lines(bounds: Bounds, response: http.client.HTTPResponse) -> Iterator[bytes]:
        packed = zlib.decompressobj(31) if response.headers.get("Content-Encoding") == "gzip" else None
        rest = b""
        while piece := response.read1(_CHUNK):
            *whole, rest = (rest + (piece if packed is None else packed.decompress(piece))).split(b"\n")
            yield from whole
            bounds.checkpoint()

    # -- connections

    def _leased(self, target: Target) -> Connection | None:
        """A kept connection that is still open: the other side of an idle one has nothing to say but goodbye."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            held = connection.http.sock
            if connection.target == target and held is not None and _is_silent(held):
                return connection
            connection.close()

    def _keep(self, connection: Connection) -> bool:
        if not connection.reusable or connection.is_cut:
            return False
        connection.reusable = False
        with self._lock:
            if len(self._idle) >= _IDLE:
                return False
            self._idle.append(connection)
            return True

    def _trust(self, target: Target) -> ssl.SSLContext | None:
        """Made once for each certificate: loading the system's authorities takes longer than a handshake."""
        with self._lock:
            if target in self._contexts:
                return self._contexts[target]
        made = target.trust(self._folder)
        with self._lock:
            return self._contexts.setdefault(target, made)

    def _unreachable(self, error: BaseException) -> Exception:
        if isinstance(error, ssl.SSLCertVerificationError):
            return PermanentError(f"the certificate of {self.host} cannot be verified: {error.verify_message}")
        if isinstance(error, http.client.InvalidURL):
            return PermanentError(f"not an address: {self.host}")
        if isinstance(error, http.client.RemoteDisconnected | EOFError):
            return TemporaryError(f"the Kubernetes API at {self.host} closed the connection without an answer")
        if isinstance(error, http.client.IncompleteRead | zlib.error):
            return TemporaryError(f"the answer of the Kubernetes API at {self.host} was cut short")
        if isinstance(error, http.client.HTTPException):
            return TemporaryError(f"what answers at {self.host} does not speak HTTP ({type(error).__name__})")
        return TemporaryError(f"cannot reach the Kubernetes API at {self.host}: {_reason(error)}")


def _is_silent(wire: socket.socket) -> bool:
    """Nothing has come, no end either. Not select: a descriptor may be above 1023."""
    waiting = select.poll()
    waiting.register(wire, select.POLLIN)
    return not waiting.poll(0)


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return f"the name is not known ({error.strerror})"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
