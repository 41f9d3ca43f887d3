"""Who asks a container registry: credentials, and what a registry takes in place of them.

Facts: the token protocol (https://distribution.github.io/distribution/spec/auth/token/), OAuth2 with an identity token
(.../auth/oauth/), Docker's config.json (https://docs.docker.com/reference/cli/docker/login/).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from runbook.actions import _http
from runbook.actions._oci.reference import HUB, Reference
from runbook.contract import Context, PermanentError

_HUB_KEY = "index.docker.io"  # docker login writes https://index.docker.io/v1/
_CHALLENGE = re.compile(r'(?P<scheme>[A-Za-z]+)\s+(?P<fields>(?:[\w-]+\s*=\s*(?:"[^"]*"|[^\s",]+)\s*,?\s*)+)')
_FIELD = re.compile(r'([\w-]+)\s*=\s*(?:"([^"]*)"|([^\s",]+))')


@dataclass(frozen=True, slots=True)
class Credentials:
    """At most one way to say who asks. `helper`: the program that would know, which is not asked."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)
    helper: str = ""

    @property
    def basic(self) -> str | None:
        """The header's value, where there are a name and a password."""
        if not self.username:
            return None
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def stored(environ: Mapping[str, str], reference: Reference) -> Credentials:
    """What Docker's config.json (DOCKER_CONFIG, else ~/.docker) has for an image's registry. PermanentError where the
    file is no JSON; nothing where it is not there."""
    folder = environ.get("DOCKER_CONFIG") or (f"{environ['HOME']}/.docker" if environ.get("HOME") else "")
    if not folder:
        return Credentials()
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return Credentials()
    except (OSError, ValueError) as error:
        raise PermanentError(f"{path} cannot be read: {type(error).__name__}") from None  # its text may quote a secret
    if not isinstance(config, dict):
        raise PermanentError(f"{path} is no Docker configuration")
    entries = {_place(key): value for key, value in (config.get("auths") or {}).items() if isinstance(value, dict)}
    for place in _places(reference):
        found = _entry(entries.get(place) or {}, path)
        if found != Credentials():
            return found
    helpers = config.get("credHelpers") or {}
    helper = next((helpers[key] for key in helpers if _place(key) in _places(reference)), config.get("credsStore"))
    return Credentials(helper=str(helper or ""))


def _place(key: str) -> str:
    """`https://index.docker.io/v1/` and `index.docker.io` are the same."""
    return re.sub(r"/v[12]/?$", "", re.sub(r"^https?://", "", key)).rstrip("/")


def _places(reference: Reference) -> list[str]:
    """Most exact first: an entry may be for a part of a registry (containers-auth.json)."""
    parts = reference.path.split("/")
    hosts = [reference.host, _HUB_KEY, reference.server] if reference.host == HUB else [reference.host]
    return ["/".join([host, *parts[:count]]) for count in range(len(parts), -1, -1) for host in hosts]


def _entry(entry: Mapping[str, Any], path: Path) -> Credentials:
    if entry.get("identitytoken"):
        return Credentials(identity=str(entry["identitytoken"]))
    if entry.get("registrytoken"):
        return Credentials(bearer=str(entry["registrytoken"]))
    if entry.get("auth"):
        try:
            name, _, password = base64.b64decode(str(entry["auth"])).decode().rstrip("\0").partition(":")
        except ValueError:
            raise PermanentError(f"{path}: an `auth` that is no base64 of name:password") from None
        return Credentials(name, password)
    return Credentials(str(entry.get("username") or ""), str(entry.get("password") or ""))


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry wants to be shown (WWW-Authenticate). `scheme` in lower case: bearer or basic."""

    scheme: str
    fields: Mapping[str, str]


def challenge(header: str) -> Challenge | None:
    """The challenge that can be met: Bearer before Basic."""
    found: dict[str, Challenge] = {}
    for one in _CHALLENGE.finditer(header[:4096]):  # of what a stranger sends, the pattern reads no more
        pairs = {name.lower(): quoted or plain for name, quoted, plain in _FIELD.findall(one["fields"])}
        found.setdefault(one["scheme"].lower(), Challenge(one["scheme"].lower(), pairs))
    return found.get("bearer") or found.get("basic")


def authorize(
    ctx: Context, wanted: Challenge, who: Credentials, reference: Reference, *, tls_ca: Path | None, plain: bool
) -> str:
    """The value of Authorization that answers a challenge. `plain`: credentials may cross the network unencrypted.

    PermanentError where there are no credentials or they are not taken; TemporaryError from the token server.
    """
    if who.bearer:
        return f"Bearer {who.bearer}"
    if wanted.scheme == "basic":
        if who.basic is None:
            raise PermanentError(f"{reference.host} wants a login", hint=_hint(who))
        return who.basic
    realm = wanted.fields.get("realm", "")
    host = urlsplit(realm).hostname or ""
    if not realm.startswith("https://") and not plain and host not in ("localhost", "127.0.0.1", "::1"):
        raise PermanentError(f"{reference.host} sends its clients to {_http.place(realm)!r} for a token, not by https")
    ctx.permit("url", realm)
    asked = {
        "service": wanted.fields.get("service", ""),
        "scope": wanted.fields.get("scope") or f"repository:{reference.path}:pull",
    }
    fields = {name: value for name, value in asked.items() if value}
    if who.identity:
        form = {"grant_type": "refresh_token", "refresh_token": who.identity, "client_id": "runbook", **fields}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        reply = _http.request(ctx, "POST", realm, headers=headers, body=urlencode(form).encode(), tls_ca=tls_ca)
    else:
        headers = {"Authorization": who.basic} if who.basic is not None else {}
        mark = "&" if urlsplit(realm).query else "?"
        reply = _http.request(ctx, "GET", f"{realm}{mark}{urlencode(fields)}", headers=headers, tls_ca=tls_ca)
    server = f"the token server of {reference.host} ({_http.place(realm)})"
    if reply.status in (401, 403):
        name = who.username or ("the identity token" if who.identity else "nobody")
        raise PermanentError(f"{server} does not let {name} in (HTTP {reply.status})", hint=_hint(who))
    if reply.status != 200:
        raise _http.refuse(reply, server)
    answer = reply.json()
    token = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
    if not isinstance(token, str):
        raise PermanentError(f"{server} answers without a token")
    return f"Bearer {token}"


def _hint(who: Credentials) -> str:
    if who.helper:
        return (
            f"config.json leaves its credentials to docker-credential-{who.helper}, which is not asked here:"
            " give `username` and `password`"
        )
    return "give `username` and `password`, or `docker login` where DOCKER_CONFIG or HOME points to"
