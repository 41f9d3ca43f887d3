"""What the API server refuses, in one sentence that names the verb, the object and the reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from runbook.actions._kube.transport import Answer
from runbook.contract import PermanentError, TemporaryError, shorten

_OWN_WORDS = re.compile(r'^"" is invalid: patch: Invalid value: ".*?": (?:strict decoding error: )?')
"""How the server begins when it cannot read a patch: with the whole patch, as Go prints it."""


class ForbiddenError(PermanentError):
    """401 or 403: it is known which verb on which resource."""


class MissingError(PermanentError):
    """404."""


class ConflictError(TemporaryError):
    """409: somebody else was quicker; read again."""


class RefusedError(PermanentError):
    """400 or 422: the server understands the request and finds it wrong."""


class ExpiredError(TemporaryError):
    """410: what was read is too old to go on from. `following`: where a list may go on all the same."""

    def __init__(self, message: str, following: str = "") -> None:
        super().__init__(message)
        self.following = following


def said_by_api(answer: Answer, *, custom: bool) -> bool:
    """Is an error the API server's own, not a gateway's before it? It says a Status, but of a group that it does not
    serve (`custom`: the definition of the kind may be gone) only a line, as any program in Go does."""
    return answer.json().get("kind") == "Status" or (custom and answer.body.strip() == b"404 page not found")


def explain(answer: Answer, what: str, context: str) -> Exception:
    """The contract's error for a status that is no success. `what`: verb, resource, name and namespace.

    Status objects: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/
    """
    said = answer.json()
    details = said.get("details")
    details = details if isinstance(details, Mapping) else {}
    message = _message(said, answer)
    status = answer.status
    if status == 401:
        return ForbiddenError(
            f"cannot {what}: context {context!r} is not logged in (401): the API server does not take its credentials,"
            " and no others are to be had",
            hint="log in again, or renew the credentials in the kubeconfig",
        )
    if status == 403 and any(cause.get("reason") == "NamespaceTerminating" for cause in _causes(details)):
        return PermanentError(
            f"cannot {what}: the namespace is being terminated, nothing can be created in it (context {context!r})"
        )
    if status == 403:
        return ForbiddenError(
            f"no right to {what}: {message}", hint="bind a Role with that verb and resource to this user"
        )
    if status == 404 and said.get("message") == "the server could not find the requested resource":
        return MissingError(f"cannot {what}: the API serves no such resource (context {context!r})")
    if status == 404:
        return MissingError(f"cannot {what}: {message} (context {context!r})")
    if status == 409:
        return ConflictError(f"cannot {what}: {message}")
    if status == 410:
        following = (said.get("metadata") or {}).get("continue") or ""
        return ExpiredError(f"cannot {what}: {message} (HTTP 410)", str(following))
    if status in (408, 429) or status >= 500:
        asked = answer.retry_after or details.get("retryAfterSeconds")
        return TemporaryError(f"cannot {what}: {message} (HTTP {status})", retry_after=asked)
    if status in (400, 422):
        return RefusedError(f"cannot {what}: {message} (HTTP {status})")
    return PermanentError(f"cannot {what}: {message} (HTTP {status})")


def _message(said: Mapping[str, Any], answer: Answer) -> str:
    """What the server says, on one line; of a page (a proxy's) only that it is one."""
    if said.get("message"):
        text = _OWN_WORDS.sub("", " ".join(str(said["message"]).split()))
        return shorten(text, 1500)
    raw = " ".join(answer.body.decode("utf-8", "replace").split())
    if not raw or raw.startswith("<"):
        return f"HTTP {answer.status}" + (" with a page that is none of the API server's" if raw else "")
    return shorten(raw, 500)


def _causes(details: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = details.get("causes")
    return [cause for cause in found if isinstance(cause, Mapping)] if isinstance(found, list) else []
