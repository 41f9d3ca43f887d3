"""HTTP that ends when it must: the socket is cut from outside at the deadline; no client's time-out is an overall one.

TLS is always verified. Redirects are followed for GET and HEAD only, and what the caller sent along (credentials
among it) never goes to another origin. Bodies are bounded. Any status is a result here; `refuse` turns one into the
right error.
"""

from __future__ import annotations

import contextlib
import email.utils
import functools
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from runbook.contract import Context, PermanentError, TemporaryError, shorten

if TYPE_CHECKING:
    from urllib3.connectionpool import HTTPConnectionPool

LIMIT = 1024 * 1024
REDIRECTS = 5
RESERVED = "%/:=&?~#+!$,;'@()*[]"  # RFC 3986, 2.2, and what is escaped already: everything else is percent-encoded
REDIRECTING = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. `headers` in lower case, `body` at most the limit, `seconds` from the start to the last byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    truncated: bool
    seconds: float
    url: str

    def text(self) -> str:
        """The body as text, by its declared charset (UTF-8 otherwise), without NUL."""
        charset = (
            self.headers.get("content-type", "").lower().partition("charset=")[2].split(";")[0].strip(' "') or "utf-8"
        )
        try:
            text = self.body.decode(charset, errors="replace")
        except LookupError:
            text = self.body.decode("utf-8", errors="replace")
        return text.replace("\0", "\N{REPLACEMENT CHARACTER}")

    def json(self) -> Any:
        """The body parsed, or None where it is not (whole) JSON."""
        if self.truncated:
            return None
        try:
            return json.loads(self.body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            return None


class Wire:
    """Connections of one call, so that a stop can cut them in any phase: connect, TLS handshake, reply."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self.cut = False

    def hold(self, connection: socket.socket) -> None:
        """Keep a second descriptor: wrapping it for TLS takes the first away, shutting down works through either."""
        twin = connection.dup()
        with self._lock:
            self._open.append(twin)
            if self.cut:
                _shut(twin)

    def stop(self) -> None:
        with self._lock:
            self.cut = True
            for connection in self._open:
                _shut(connection)

    def close(self) -> None:
        with self._lock:
            for connection in self._open:
                connection.close()
            self._open.clear()


def request(
    ctx: Context,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    tls_ca: Path | None = None,
    at: tuple[str, int] | None = None,
    limit: int = LIMIT,
) -> Reply:
    """One request, redirects included. `at`: connect there instead of the URL's host (a port-forward).

    Raises TemporaryError (name, refused, reset, time-out), PermanentError (bad URL, bad header, TLS verification).
    """
    ctx.checkpoint()
    wire = Wire()
    forget = ctx.on_stop(wire.stop)
    sent = dict(headers or {})
    begun = time.monotonic()
    try:
        for _ in range(REDIRECTS + 1):
            with _told(ctx, url):
                reply = _exchange(
                    ctx, wire, method, url, headers=sent, body=body, tls_ca=tls_ca, at=at, limit=limit, begun=begun
                )
            onward = reply.headers.get("location")
            if reply.status not in REDIRECTING or onward is None or method not in ("GET", "HEAD"):
                return reply
            url, sent, at = _redirected(url, onward, sent, at)
        raise PermanentError(f"{place(url)}: more than {REDIRECTS} redirects")
    finally:
        forget()
        wire.close()


def _exchange(
    ctx: Context,
    wire: Wire,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None,
    tls_ca: Path | None,
    at: tuple[str, int] | None,
    limit: int,
    begun: float,
) -> Reply:
    target = _target(url)
    pool = _pool(ctx, wire, target, tls_ca, at)
    host = target.netloc.rpartition("@")[2]
    fields = {"Host": host, "User-Agent": "runbook", "Accept": "*/*", "Accept-Encoding": "identity", **headers}
    path = quote((target.path or "/") + (f"?{target.query}" if target.query else ""), safe=RESERVED)
    try:
        answer = pool.urlopen(
            method, path, body=body, headers=fields, redirect=False, retries=False, preload_content=False
        )
        content = bytearray()
        while len(content) <= limit and (chunk := answer.read(min(65536, limit + 1 - len(content)))):
            content += chunk
        return Reply(
            status=answer.status,
            headers={name.lower(): value for name, value in answer.headers.items()},
            body=bytes(content[:limit]),
            truncated=len(content) > limit,
            seconds=time.monotonic() - begun,
            url=url,
        )
    finally:
        pool.close()


def _pool(
    ctx: Context, wire: Wire, target: SplitResult, tls_ca: Path | None, at: tuple[str, int] | None
) -> HTTPConnectionPool:
    from urllib3 import Timeout
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class Held(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(ctx, wire, self.host, self.port)

    class HeldTLS(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(ctx, wire, self.host, self.port)

    left = max(0.05, ctx.remaining())
    time_out = Timeout(connect=left, read=left)
    name = target.hostname or ""
    if target.scheme == "http":
        host, port = at or (name, target.port or 80)
        pool = HTTPConnectionPool(host, port, timeout=time_out, retries=False)
        pool.ConnectionCls = Held
        return pool
    host, port = at or (name, target.port or 443)
    trust = authorities(ctx, tls_ca)
    secure = HTTPSConnectionPool(host, port, timeout=time_out, retries=False, ssl_context=trust, server_hostname=name)
    secure.ConnectionCls = HeldTLS
    return secure


def authorities(ctx: Context, tls_ca: Path | None) -> ssl.SSLContext:
    """Whom to trust: `tls_ca` alone, else SSL_CERT_FILE, else the system's store, else certifi's."""
    named = tls_ca or ctx.environ.get("SSL_CERT_FILE")
    return _authorities(str(named) if named else None)


@functools.lru_cache(maxsize=8)
def _authorities(file: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError):
        raise PermanentError(f"{file} holds no certificate authorities", hint="tls_ca takes a PEM file") from None
    if file is None and not _has_system_store():
        import certifi

        context.load_verify_locations(cafile=certifi.where())
    return context


def _has_system_store() -> bool:
    known = ssl.get_default_verify_paths()
    return bool(known.cafile or (known.capath and any(Path(known.capath).iterdir())))


def _connect(ctx: Context, wire: Wire, host: str, port: int) -> socket.socket:
    """A connected socket that a stop can cut. Tries each address; all within the deadline."""
    last: OSError = OSError("no address")
    for family, kind, protocol, _, where in _addresses(ctx, host, port):
        ctx.checkpoint()
        connection = socket.socket(family, kind, protocol)
        try:
            wire.hold(connection)
            connection.settimeout(max(0.05, ctx.remaining()))
            connection.connect(where)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as failure:
            connection.close()
            last = failure
        else:
            return connection
    raise last


def _addresses(ctx: Context, host: str, port: int) -> list[Any]:
    """getaddrinfo knows no time-out: it is asked in a thread of its own, and left there when the time is over."""
    host = host.strip("[]")
    with contextlib.suppress(socket.gaierror):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    found: list[Any] = []
    done = threading.Event()

    def look_up() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as failure:
            found.append(failure)
        except UnicodeError:
            found.append(OSError("not a host name"))
        done.set()

    forget = ctx.on_stop(done.set)
    try:
        threading.Thread(target=look_up, daemon=True, name="getaddrinfo").start()
        done.wait(ctx.remaining())
    finally:
        forget()
    if not found:
        raise TimeoutError("the name was not resolved in time")
    if isinstance(found[0], OSError):
        raise found[0]
    return list(found[0])


def _target(url: str) -> SplitResult:
    try:
        target = urlsplit(url)
        port = target.port
    except ValueError:
        raise PermanentError("url: not a URL") from None
    if target.scheme not in ("http", "https") or not target.hostname or port == 0:
        raise PermanentError(f"url: expected http://... or https://..., got {place(url)!r}")
    if target.username is not None:
        raise PermanentError("url: credentials do not belong into a URL", hint="use basic_auth or bearer")
    if any(ord(letter) <= 32 or ord(letter) == 127 for letter in url):
        raise PermanentError("url: holds white space or control characters", hint="quote it: {{ value | urlencode }}")
    return target


def _redirected(
    url: str, onward: str, sent: dict[str, str], at: tuple[str, int] | None
) -> tuple[str, dict[str, str], tuple[str, int] | None]:
    """Where a redirect leads, and what may go along: nothing of the caller's to another origin."""
    following = urljoin(url, onward).partition("#")[0]
    old, new = urlsplit(url), _target(following)
    if old.scheme == "https" and new.scheme == "http":
        raise PermanentError(f"{place(url)} redirects from https to http ({place(following)})")
    if (old.scheme, old.netloc) == (new.scheme, new.netloc):
        return following, sent, at
    return following, {}, None


@contextlib.contextmanager
def _told(ctx: Context, url: str) -> Iterator[None]:
    """Foreign errors as ours; a cut connection is the deadline's doing, whatever it looks like."""
    import urllib3.exceptions as foreign

    where = place(url)
    try:
        yield
    except (foreign.SSLError, ssl.SSLError) as failure:
        ctx.checkpoint()
        cause = failure.args[0] if failure.args and isinstance(failure.args[0], ssl.SSLError) else failure
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise PermanentError(
                f"{where}: TLS verification failed: {cause.verify_message}", hint="`tls_ca`?"
            ) from None
        if "WRONG_VERSION" in str(cause) or "record layer" in str(cause):
            raise PermanentError(f"{where}: does not speak TLS") from None
        raise TemporaryError(f"{where}: TLS: {_reason(cause)}") from None
    except (foreign.LocationValueError, foreign.InvalidHeader, ValueError) as failure:
        if isinstance(failure, ssl.CertificateError):
            raise PermanentError(f"{where}: TLS verification failed: {failure}") from None
        # never the text: http.client quotes the header's value, which may be a secret
        raise PermanentError(f"{where}: a URL or header that HTTP cannot carry ({type(failure).__name__})") from None
    except (foreign.HTTPError, OSError) as failure:
        ctx.checkpoint()
        raise TemporaryError(f"{where}: {_reason(failure)}") from None


def _reason(failure: BaseException) -> str:
    import urllib3.exceptions as foreign

    if isinstance(failure, foreign.ReadTimeoutError | foreign.ConnectTimeoutError | TimeoutError):
        return "no answer in time"
    if isinstance(failure, foreign.IncompleteRead):
        return "the answer was cut short"
    inner = failure.args[1] if len(failure.args) > 1 and isinstance(failure.args[1], BaseException) else None
    if isinstance(inner, OSError | foreign.HTTPError) and isinstance(failure, foreign.HTTPError):
        return _reason(inner)
    if isinstance(failure, socket.gaierror):
        return f"the name is not known ({failure.strerror})"
    if isinstance(failure, OSError) and failure.strerror:
        return failure.strerror.lower()
    return shorten(f"{type(failure).__name__}: {failure}", 300)


def place(url: str) -> str:
    """A URL as errors show it: without its query, user information and fragment; a web hook's path is its secret."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return "the url"


def refuse(reply: Reply, who: str, *, outputs: dict[str, Any] | None = None) -> TemporaryError | PermanentError:
    """The error that a status is: 408, 429 (Retry-After) and 5xx are temporary, others permanent."""
    said = shorten(" ".join(reply.text().split()), 300)
    text = f"{who}: HTTP {reply.status}" + (f": {said}" if said else "")
    if reply.status in (408, 429, 420) or reply.status >= 500:
        return TemporaryError(text, retry_after=retry_after(reply), outputs=outputs)
    return PermanentError(text, outputs=outputs)


def retry_after(reply: Reply) -> float | None:
    """Seconds of `Retry-After` (RFC 9110, 10.2.3): a number, or a date, taken against the answer's own `Date`."""
    value = reply.headers.get("retry-after", "").strip()
    if value.isdigit():
        return float(value)
    try:
        until = email.utils.parsedate_to_datetime(value).timestamp()
        since = email.utils.parsedate_to_datetime(reply.headers.get("date", "")).timestamp()
    except (ValueError, TypeError):
        return None
    return max(0.0, until - since)


def send_json(ctx: Context, method: str, url: str, content: Any, headers: Mapping[str, str] | None = None) -> Reply:
    """A request with a JSON body."""
    body = json.dumps(content, ensure_ascii=False, default=str).encode()
    return request(
        ctx, method, url, headers={"Content-Type": "application/json; charset=utf-8", **(headers or {})}, body=body
    )


def _refuse_constant(constant: str) -> Any:
    raise ValueError(constant)  # NaN and Infinity are Python's, not JSON's


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
