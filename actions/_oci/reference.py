"""Image references, as every container engine reads them: `shop/web:1.4` is `docker.io/shop/web:1.4`.

The grammar and its defaults are those of github.com/distribution/reference (v0.6, regexp.go and normalize.go).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from runbook.contract import PermanentError

HUB = "docker.io"
_HUB_NAMES = (HUB, "index.docker.io")
_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_COMPONENT}(?:\.{_COMPONENT})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PATH = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<host>{_HOST})/(?P<path>{_PATH}(?:/{_PATH})*)(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>[^@]+))?",
    re.ASCII,
)
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}|sha384:[a-f0-9]{96}|sha512:[a-f0-9]{128}")
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_LONGEST = 255


@dataclass(frozen=True, slots=True)
class Reference:
    """`host`: the registry as it is written (`docker.io`, `localhost:5000`). With a `digest` the tag means nothing."""

    host: str
    path: str
    tag: str
    digest: str | None = None

    @property
    def wanted(self) -> str:
        """What the registry is asked for: the digest, else the tag."""
        return self.digest or self.tag

    @property
    def server(self) -> str:
        """Host and port that answer for it."""
        return "registry-1.docker.io" if self.host == HUB else self.host

    @property
    def is_loopback(self) -> bool:
        """On this machine: plain HTTP shows nothing to anybody."""
        name = re.sub(r":\d+$", "", self.host)
        return name in ("localhost", "[::1]") or re.fullmatch(r"127(\.\d{1,3}){3}", name) is not None

    def __str__(self) -> str:
        return f"{self.host}/{self.path}" + (f"@{self.digest}" if self.digest else f":{self.tag}")


def parse_reference(text: str) -> Reference:
    """An image as it is written in a manifest. Without a host it is on Docker Hub, without a tag it is `latest`.

    PermanentError that says what is wrong with it.
    """
    if _IDENTIFIER.fullmatch(text):
        raise PermanentError(f"image {text!r}: an id, not a reference", hint="write <repository>@sha256:<id>")
    host, rest = _split(text)
    found = _REFERENCE.fullmatch(f"{host}/{rest}")
    if found is None:
        raise PermanentError(f"image {text[:300]!r}: {_fault(text, rest)}")
    if len(found["path"]) > _LONGEST:
        raise PermanentError(f"image {text[:80]!r}...: the repository's name is longer than {_LONGEST} characters")
    digest = found["digest"]
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise PermanentError(f"image {text!r}: the digest is none", hint="sha256: and 64 hexadecimal digits")
    return Reference(found["host"], found["path"], found["tag"] or "latest", digest)


def _split(text: str) -> tuple[str, str]:
    """Host and the rest. The first part is a host when it looks like one: `localhost`, a dot, a port, an upper case."""
    first, slash, rest = text.partition("/")
    if not slash or not (first == "localhost" or any(mark in first for mark in ".:") or first != first.lower()):
        first, rest = HUB, text
    if first in _HUB_NAMES:
        return HUB, rest if "/" in rest else f"library/{rest}"
    return first, rest


def _fault(text: str, rest: str) -> str:
    if not text:
        return "empty"
    if re.search(r"\s", text):
        return "it holds white space"
    if "://" in text:
        return "a URL, not a reference: leave the scheme out"
    name = rest.partition("@")[0].partition(":")[0]
    if name != name.lower():
        return "a repository's name is in lower case"
    return "not a reference ([host[:port]/]repository[:tag][@digest])"
