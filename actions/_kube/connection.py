"""One connection to an API server: where it leads, whom it trusts, how it is cut."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from runbook.actions._kube.bounds import Bounds
from runbook.actions._kube.config import Access
from runbook.actions._kube.login import Credentials
from runbook.contract import PermanentError

CONNECT_SECONDS = 10.0
"""A TCP and TLS handshake that takes longer is an unreachable host."""


@dataclass(frozen=True, slots=True)
class Target:
    """All that two requests must have in common to go over one connection."""

    server: str
    ca: bytes | None
    insecure: bool
    tls_name: str | None
    certificate: bytes | None = field(repr=False)
    key: bytes | None = field(repr=False)
    proxy: str | None

    @staticmethod
    def of(access: Access, who: Credentials, environ: Mapping[str, str]) -> Target:
        """Where a user's requests go. PermanentError for a proxy of a kind that is not known here."""
        return Target(
            server=access.server,
            ca=access.ca,
            insecure=access.insecure,
            tls_name=access.tls_name,
            certificate=who.certificate,
            key=who.key,
            proxy=_known(access.proxy or _proxy(urlsplit(access.server), environ)),
        )

    def trust(self, folder: Path | None) -> ssl.SSLContext | None:
        """TLS as the kubeconfig wants it; None for plain HTTP. PermanentError for certificates that are none."""
        if not self.server.startswith("https://"):
            return None
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.set_alpn_protocols(["http/1.1"])
        if self.insecure:  # the kubeconfig asked for it
            made.check_hostname = False
            made.verify_mode = ssl.CERT_NONE
        elif self.ca is not None:
            try:
                made.load_verify_locations(cadata=self.ca.decode("ascii"))
            except (ValueError, ssl.SSLError):
                raise PermanentError(f"the certificate authority of {self.server} is no PEM certificate") from None
        else:
            made.load_default_certs()
        if self.certificate is not None and self.key is not None:
            # One file holds both, for as long as it takes to read it: Python takes them from files only.
            name = _written(self.certificate.rstrip() + b"\n" + self.key, folder)
            try:
                made.load_cert_chain(name)
            except (ValueError, ssl.SSLError):
                raise PermanentError(f"the client certificate for {self.server} and its key do not fit") from None
            finally:
                Path(name).unlink()
        return made


class Connection:
    """A connection and what shuts it down from another thread, in each phase: connect, TLS handshake, answer."""

    def __init__(self, target: Target, wire: http.client.HTTPConnection) -> None:
        self.target = target
        self.http = wire
        self.used = False
        self.reusable = False
        self.is_cut = False
        self._patience = CONNECT_SECONDS
        self._twin: socket.socket | None = None
        self._woken = threading.Event()
        # The one hook that http.client has for a socket of one's own; the TLS handshake and a proxy come after it.
        wire._create_connection = self._dial  # type: ignore[attr-defined]

    def connect(self, bounds: Bounds) -> None:
        """Connect, unless it is."""
        if self.http.sock is None:
            bounds.checkpoint()
            self.http.timeout = min(CONNECT_SECONDS, self._patience)
            self.http.connect()
            self.patience(self._patience)

    def patience(self, seconds: float) -> None:
        """How long a read or a write may take."""
        self._patience = max(0.05, seconds)
        if self.http.sock is not None:
            self.http.sock.settimeout(self._patience)

    def cut(self) -> None:
        """Shut it down, from any thread."""
        self.is_cut = True
        self._woken.set()
        twin = self._twin
        if twin is not None:
            # Through a second descriptor: SSLSocket.shutdown drops the TLS object under the feet of who reads.
            with contextlib.suppress(OSError):
                twin.shutdown(socket.SHUT_RDWR)

    def detach(self) -> socket.socket:
        """The connected socket, somebody else's from now on."""
        held: socket.socket = self.http.sock
        self.http.sock = None
        return held

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(OSError):
            self.http.close()
        twin, self._twin = self._twin, None
        if twin is not None:
            twin.close()

    def _dial(self, address: tuple[str, int], *_: object) -> socket.socket:
        """Each address of the name in turn, all within the connection's time."""
        until = time.monotonic() + min(CONNECT_SECONDS, self._patience)
        last: OSError = OSError("the name has no address")
        for family, kind, protocol, _name, where in self._addresses(*address):
            made = socket.socket(family, kind, protocol)
            if self._twin is not None:
                self._twin.close()
            self._twin = made.dup()
            try:
                if self.is_cut:
                    raise TimeoutError("cut")  # as any failure to connect
                made.settimeout(max(0.05, until - time.monotonic()))
                made.connect(where)
            except OSError as error:
                made.close()
                last = error
            else:
                return made
        raise last

    def _addresses(self, host: str, port: int) -> list[Any]:
        """getaddrinfo knows no time-out: it is asked in a thread of its own, and left there when the time is over."""
        with contextlib.suppress(socket.gaierror):
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        found: list[Any] = []

        def look_up() -> None:
            try:
                found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            except (OSError, UnicodeError) as error:
                found.append(error if isinstance(error, OSError) else OSError("it is no host name"))
            self._woken.set()

        threading.Thread(target=look_up, daemon=True, name="getaddrinfo").start()
        self._woken.wait(min(CONNECT_SECONDS, self._patience))
        if not found:
            raise TimeoutError("the name was not resolved in time")
        if isinstance(found[0], OSError):
            raise found[0]
        return list(found[0])


class _Secure(http.client.HTTPSConnection):
    """TLS with a name of its own to verify (`tls-server-name`)."""

    def __init__(self, host: str, port: int, trust: ssl.SSLContext, name: str) -> None:
        super().__init__(host, port, context=trust)
        self._trust = trust
        self._name = name

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._trust.wrap_socket(self.sock, server_hostname=self._name)


def dial(target: Target, trust: ssl.SSLContext | None) -> Connection:
    """A connection that connects with its first request. PermanentError where the address is none."""
    try:
        server = urlsplit(target.server)
        host, port = server.hostname or "", server.port or (80 if trust is None else 443)
        through = urlsplit(target.proxy) if target.proxy else None
        near = (through.hostname or "", through.port or 80) if through else (host, port)
    except ValueError:
        raise PermanentError(f"not an address: {target.server}") from None
    if not host or not near[0]:
        raise PermanentError(f"not an address: {target.server if not host else target.proxy}")
    wire = (
        http.client.HTTPConnection(*near)
        if trust is None
        else _Secure(*near, trust=trust, name=target.tls_name or host)
    )
    if through is not None:
        wire.set_tunnel(host, port, headers=_proxy_authorization(through))
    return Connection(target, wire)


def _proxy(server: SplitResult, environ: Mapping[str, str]) -> str | None:
    """The environment's proxy for this server, as kubectl finds it (Go's net/http, ProxyFromEnvironment)."""
    names = (f"{server.scheme}_proxy", f"{server.scheme}_proxy".upper())
    found = next((environ[name] for name in reversed(names) if environ.get(name)), None)
    host = server.hostname or ""
    if (
        found is None
        or host == "localhost"
        or _excepted(host, environ.get("NO_PROXY") or environ.get("no_proxy") or "")
    ):
        return None
    return found if "://" in found else f"http://{found}"


def _known(proxy: str | None) -> str | None:
    if proxy is not None and not proxy.startswith("http://"):
        scheme = proxy.partition("://")[0]
        raise PermanentError(f"the proxy {scheme}://... is of a kind that is not known here", hint="http:// is")
    return proxy


def _excepted(host: str, listed: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is not None and address.is_loopback:
        return True
    for entry in (part.strip().lower() for part in listed.split(",")):
        if entry == "*" or (entry and (host == entry or host.endswith(f".{entry.lstrip('.*')}"))):
            return True
        if address is not None and "/" in entry:
            with contextlib.suppress(ValueError):
                if address in ipaddress.ip_network(entry, strict=False):
                    return True
    return False


def _proxy_authorization(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    import base64

    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _written(content: bytes, folder: Path | None) -> str:
    """A private file."""
    handle, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    return name
