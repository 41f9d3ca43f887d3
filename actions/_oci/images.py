"""Manifests of a container registry: which digest a reference means, and for which platforms.

Facts: the OCI distribution specification 1.1 (pulling manifests), the OCI image specification 1.1 (index, manifest,
config), Docker's image manifest version 2, schema 2.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runbook.actions import _http
from runbook.actions._http import Reply
from runbook.actions._oci.login import Credentials, authorize, challenge
from runbook.actions._oci.reference import Reference
from runbook.contract import Context, PermanentError, shorten

INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
ACCEPT = ", ".join((*INDEXES, *MANIFESTS))
LARGEST = 4 * 1024 * 1024
"""Bytes of a manifest; the specification lets a registry refuse larger ones."""
_DIGEST = re.compile(r"(sha256|sha384|sha512):[a-f0-9]+")
_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm"}
_NEEDLESS = {"arm64": "v8", "arm": "v7", "amd64": "v1"}  # the variant that is meant where none is written (containerd)


class MissingImageError(PermanentError):
    """This image is not there, or not for this platform. The message is what is said behind its name."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on: `linux/arm/v7`."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def parse_platform(text: str) -> Platform:
    """`os/architecture[/variant]`, by the names of Go; PermanentError otherwise."""
    parts = text.lower().split("/")
    if not 2 <= len(parts) <= 3 or not all(re.fullmatch(r"[a-z0-9_.-]+", part) for part in parts):
        raise PermanentError(f"platform: os/architecture or os/architecture/variant, not {text!r}")
    return _platform(*parts)


def _platform(system: str, architecture: str, variant: str = "") -> Platform:
    architecture = _ALIASES.get(architecture, architecture)
    return Platform(system, architecture, "" if _NEEDLESS.get(architecture) == variant else variant)


class Registry:
    """The images of one action, as one user sees them. Tokens are kept as long as it lives, which is one call."""

    def __init__(
        self, ctx: Context, credentials: Mapping[str, Credentials], *, tls_ca: Path | None, plain_http: bool | None
    ) -> None:
        """`credentials`: by image host and repository (`host/path`). `plain_http`: None = on loopback only."""
        self._ctx = ctx
        self._credentials = credentials
        self._tls_ca = tls_ca
        self._plain_http = plain_http
        self._authorization: dict[str, str] = {}

    def digest(self, reference: Reference, platform: Platform) -> str:
        """The digest that a reference means (of an index, where it is one), if it has an image for the platform.

        MissingImageError where it is not there, PermanentError where it may not be seen or is no image.
        """
        named = reference.digest or self._named(reference)
        digest, kind, document = self._manifest(reference, named or reference.tag)
        if kind in INDEXES:
            offered = _offered(document)
            if platform not in offered:
                raise MissingImageError(_lacks(platform, offered))
            self._manifest(reference, offered[platform])  # an index may name what was never pushed
            return digest
        config = document.get("config")
        if not isinstance(config, dict) or not _DIGEST.fullmatch(str(config.get("digest"))):
            raise PermanentError("a manifest that names no configuration")
        if config.get("mediaType") not in CONFIGS:
            raise PermanentError(f"no image, but an artifact ({config.get('mediaType')})")
        found = self._config(reference, str(config["digest"]))
        if found != platform:
            raise MissingImageError(_lacks(platform, {found: digest}))
        return digest

    def _named(self, reference: Reference) -> str | None:
        """The digest of a tag without the manifest (which counts against a pull limit); None: look at it to know."""
        reply = self._ask(reference, "HEAD", f"manifests/{reference.tag}")
        digest = reply.headers.get("docker-content-digest", "")
        return digest if reply.status == 200 and _DIGEST.fullmatch(digest) else None

    def _manifest(self, reference: Reference, wanted: str) -> tuple[str, str, Mapping[str, Any]]:
        """Digest, media type and content. What was asked for by its digest is that, byte for byte."""
        reply = self._ask(reference, "GET", f"manifests/{wanted}")
        if reply.status == 404:
            raise MissingImageError(_absent(reply, reference, wanted))
        self._expect_success(reply, reference)
        digest = _verified(reply, wanted)
        document = reply.json()
        if not isinstance(document, dict):
            raise PermanentError(f"{reference.host} answers, but not with a manifest")
        kind = reply.headers.get("content-type", "").partition(";")[0].strip()
        if kind not in (*INDEXES, *MANIFESTS):
            kind = str(document.get("mediaType") or kind)
        if kind not in (*INDEXES, *MANIFESTS):
            raise PermanentError(f"a manifest of a kind that is not known here ({kind or 'none is named'})")
        if "manifests" in document and ("layers" in document or "config" in document):
            raise PermanentError("a manifest that is an index, too: what it means is not defined")  # CVE-2021-41190
        return digest, kind, document

    def _config(self, reference: Reference, digest: str) -> Platform:
        reply = self._ask(reference, "GET", f"blobs/{digest}")
        if reply.status == 404:
            raise MissingImageError(f"is there without its configuration {digest}")
        self._expect_success(reply, reference)
        _verified(reply, digest)
        found = _declared(reply.json())
        if not found.os:
            raise PermanentError("an image whose configuration names no platform")
        return found

    def _ask(self, reference: Reference, method: str, path: str) -> Reply:
        """One request, with what the registry wants to be shown; asked anew once where that is not taken (any more)."""
        plain = self._plain_http if self._plain_http is not None else reference.is_loopback
        url = f"{'http' if plain else 'https'}://{reference.server}/v2/{reference.path}/{path}"
        self._ctx.permit("url", url)
        repository = f"{reference.host}/{reference.path}"
        for again in (False, True):
            shown = self._authorization.get(repository)
            headers = {"Accept": ACCEPT if path.startswith("manifests/") else "*/*"}
            if shown is not None:
                headers["Authorization"] = shown
            reply = _http.request(self._ctx, method, url, headers=headers, tls_ca=self._tls_ca, limit=LARGEST)
            if reply.status != 401 or again:
                break
            wanted = challenge(reply.headers.get("www-authenticate", ""))
            if wanted is None:
                break
            who = self._credentials.get(repository, Credentials())
            self._authorization[repository] = authorize(
                self._ctx, wanted, who, reference, tls_ca=self._tls_ca, plain=bool(self._plain_http)
            )
        if reply.status in (408, 429) or reply.status >= 500:
            raise _http.refuse(reply, reference.host)
        return reply

    def _expect_success(self, reply: Reply, reference: Reference) -> None:
        if reply.status == 200 and not reply.truncated:
            return
        if reply.status == 200:
            raise PermanentError(f"a manifest of more than {LARGEST >> 20} MiB")
        if reply.status in (401, 403):
            who = self._credentials.get(f"{reference.host}/{reference.path}", Credentials())
            name = who.username or ("its token" if who.identity or who.bearer else "nobody (without a login)")
            said = _said(reply)
            raise PermanentError(f"not there, or not for {name}: HTTP {reply.status}" + (f" ({said})" if said else ""))
        raise _http.refuse(reply, reference.host)


def _declared(platform: Any) -> Platform:
    """A platform as an index or a configuration has it; `unknown` for what is none (an attestation)."""
    found = platform if isinstance(platform, dict) else {}
    return _platform(str(found.get("os") or ""), str(found.get("architecture") or ""), str(found.get("variant") or ""))


def _offered(index: Mapping[str, Any]) -> dict[Platform, str]:
    """The images of an index by their platform."""
    listed = index.get("manifests")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return {
        _declared(entry.get("platform")): str(entry["digest"])
        for entry in reversed(entries)  # of two for one platform the first is taken, as engines do
        if _DIGEST.fullmatch(str(entry.get("digest")))
    }


def _lacks(platform: Platform, offered: Mapping[Platform, str]) -> str:
    named = sorted(str(one) for one in offered if one.os not in ("", "unknown"))
    return f"has no {platform}, but {', '.join(named) or 'no platform at all'}"


def _verified(reply: Reply, wanted: str) -> str:
    """The digest of what came. PermanentError where another one was asked for."""
    algorithm = wanted.partition(":")[0] if _DIGEST.fullmatch(wanted) else "sha256"
    digest = f"{algorithm}:{hashlib.new(algorithm, reply.body).hexdigest()}"
    if _DIGEST.fullmatch(wanted) and digest != wanted:
        raise PermanentError(f"the registry gives other content for {wanted}: its digest is {digest}")
    return digest


def _absent(reply: Reply, reference: Reference, wanted: str) -> str:
    codes = [str(one.get("code")) for one in _errors(reply)]
    if "NAME_UNKNOWN" in codes:
        return f"is not there: {reference.host} has no repository {reference.path}"
    return f"is not there: no {'digest' if ':' in wanted else 'tag'} {wanted} in {reference.host}/{reference.path}"


def _errors(reply: Reply) -> list[dict[str, Any]]:
    document = reply.json()
    listed = document.get("errors") if isinstance(document, dict) else None
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _said(reply: Reply) -> str:
    return shorten("; ".join(str(one.get("message") or one.get("code") or "") for one in _errors(reply)), 200)
