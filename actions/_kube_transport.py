"""Requests to a Kubernetes API server through the official client's connection pool, cut at the deadline.

The client's own time-outs are not overall deadlines: a server that drips bytes held a call with `_request_timeout=1`
for 5.5 s. So each request remembers its connection, and `Context.on_stop` shuts that socket down from outside.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from runbook.contract import PermanentError, TemporaryError

CONNECT_SECONDS = 10.0
"""A TCP and TLS handshake that takes longer is an unreachable host."""


class Bounds(Protocol):
    """What a request needs of a `Context`: how long it may take, and how it is cut."""

    def remaining(self) -> float: ...
    def checkpoint(self) -> None: ...
    def on_stop(self, cut: Callable[[], None]) -> Callable[[], None]: ...


class Within:
    """Bounds for code that has no context (the secrets' resolver): a fixed number of seconds for each request."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def remaining(self) -> float:
        """Seconds for the next request."""
        return self._seconds

    def checkpoint(self) -> None:
        """Nobody cancels."""

    def on_stop(self, cut: Callable[[], None]) -> Callable[[], None]:
        """Nobody cuts."""
        return lambda: None


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that arrived, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as an object; `{}` when it is none."""
        try:
            parsed = json.loads(self.body)
        except ValueError:
            return {}
        return parsed if isinstance(parsed, dict) else {}

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asked for."""
        try:
            return float(self.headers.get("Retry-After", ""))
        except ValueError:
            return None


@dataclass(slots=True)
class _Wire:
    """The connection that a request holds, once it holds one."""

    connections: list[Any] = field(default_factory=list)
    is_cut: bool = False

    def cut(self) -> None:
        self.is_cut = True
        for connection in list(self.connections):
            held = getattr(connection, "sock", None)
            if isinstance(held, socket.socket):
                # Not SSLSocket.shutdown: that one drops the TLS object under the feet of the thread that reads.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(held, socket.SHUT_RDWR)


class Transport:
    """A connection pool of the official client; safe for many threads."""

    def __init__(self, configuration: Any, scratch: Path | None = None) -> None:
        """`scratch`: the folder of the configuration's own files; it goes when the pool is closed."""
        import urllib3
        from kubernetes.client.rest import RESTClientObject

        if not configuration.verify_ssl:  # the kubeconfig asked for it; one line on stderr per request helps nobody
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self.configuration = configuration
        self._scratch = scratch
        self._pool = RESTClientObject(configuration).pool_manager
        self._wires = threading.local()
        self._pool.pool_classes_by_scheme = {
            scheme: _tracking(pool, self._wires) for scheme, pool in self._pool.pool_classes_by_scheme.items()
        }

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.clear()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def authorization(self) -> dict[str, str]:
        """The header that says who asks (tokens are refreshed by the client's own hook)."""
        for setting in self.configuration.auth_settings().values():
            if setting["in"] == "header" and setting["value"]:
                return {str(setting["key"]): str(setting["value"])}
        return {}

    def url(self, path: str) -> str:
        """The address of a path of this server."""
        return f"{self.configuration.host.rstrip('/')}{path}"

    def request(
        self,
        bounds: Bounds,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        limit: int | None = None,
    ) -> Answer:
        """One request, one answer. `limit`: read at most so many bytes. TemporaryError where no answer came.

        A kept connection may have been closed by the other side just now: a read is then asked once more.
        """
        import urllib3

        bounds.checkpoint()
        wire = _Wire()
        self._wires.current = wire
        forget = bounds.on_stop(wire.cut)
        try:
            for kept in (True, False):
                try:
                    return self._once(bounds, method, path, {**headers, **self.authorization()}, body, limit)
                except urllib3.exceptions.ProtocolError as error:
                    if method == "GET" and kept and not wire.is_cut:
                        continue
                    bounds.checkpoint()
                    raise self._unreachable(error) from error
                except urllib3.exceptions.HTTPError as error:
                    bounds.checkpoint()
                    raise self._unreachable(error) from error
            raise AssertionError("unreachable")
        finally:
            forget()
            self._wires.current = None

    def _once(  # the parts of a request, in their usual order
        self, bounds: Bounds, method: str, path: str, headers: Mapping[str, str], body: bytes | None, limit: int | None
    ) -> Answer:
        import urllib3

        patience = max(bounds.remaining(), 0.05)
        response = self._pool.request(
            method,
            self.url(path),
            body=body,
            headers=headers,
            timeout=urllib3.Timeout(connect=min(CONNECT_SECONDS, patience), read=patience),
            retries=False,
            preload_content=False,
        )
        try:
            content = response.read(limit) if limit is not None else response.read()
        finally:
            if limit is not None:
                response.close()
            response.release_conn()
        return Answer(response.status, dict(response.headers), content)

    def _unreachable(self, error: Exception) -> Exception:
        import urllib3

        host = self.configuration.host
        text = _reason(error)
        if isinstance(error, urllib3.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in text:
            return PermanentError(f"the certificate of {host} cannot be verified: {text}")
        if isinstance(error, urllib3.exceptions.LocationParseError):
            return PermanentError(f"not an address: {host}")
        return TemporaryError(f"cannot reach the Kubernetes API at {host}: {text}")


def _reason(error: Exception) -> str:
    """The innermost sentence, without Python's object addresses."""
    inner: BaseException = error
    for _ in range(5):
        following = getattr(inner, "reason", None) or inner.__cause__ or inner.__context__
        if not isinstance(following, BaseException):
            break
        inner = following
    text = str(inner) or type(inner).__name__
    return text.partition(">: ")[2] or text


def _tracking(pool_class: Any, wires: threading.local) -> Any:
    """The pool class, with connections that register themselves with the request of their thread."""

    class Connection(pool_class.ConnectionCls):  # type: ignore[misc]  # urllib3's class is known only at run time
        def connect(self) -> None:
            _register(self, wires)
            super().connect()

        def request(self, *args: Any, **kwargs: Any) -> Any:
            _register(self, wires)
            return super().request(*args, **kwargs)

    class Pool(pool_class):  # type: ignore[misc]
        ConnectionCls = Connection

    return Pool


def _register(connection: Any, wires: threading.local) -> None:
    wire = getattr(wires, "current", None)
    if wire is not None and connection not in wire.connections:
        wire.connections.append(connection)
