"""Failures of the API as the real server words them (`Status` objects; apimachinery, pkg/api/errors)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runbook.sandbox.kinds import Kind


class StatusError(Exception):
    """An answer other than success: a `Status` body and its HTTP code."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The `Status` object."""
        status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        status["message"] = self.message
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = self.details
        return status | {"code": self.code}


def _details(kind: Kind, name: str) -> dict[str, Any]:
    details = {"name": name} if name else {}
    if kind.group:
        details["group"] = kind.group
    return details | {"kind": kind.plural}


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def unauthorized() -> StatusError:
    return StatusError(401, "Unauthorized", "Unauthorized")


def forbidden(kind: Kind, name: str, *, user: str, verb: str, namespace: str, subresource: str) -> StatusError:
    resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
    what = f'{kind.qualified} "{name}"' if name else kind.qualified
    where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
    message = (
        f'{what} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group "{kind.group}"{where}'
    )
    return StatusError(403, "Forbidden", message, _details(kind, name))


def not_found(kind: Kind, name: str) -> StatusError:
    return StatusError(404, "NotFound", f'{kind.qualified} "{name}" not found', _details(kind, name))


def no_resource() -> StatusError:
    return StatusError(404, "NotFound", "the server could not find the requested resource", {})


def method_not_allowed() -> StatusError:
    message = "the server does not allow this method on the requested resource"
    return StatusError(405, "MethodNotAllowed", message, {})


def not_acceptable() -> StatusError:
    message = "406: Not Acceptable\n\nAvailable representations: application/json"
    return StatusError(406, "NotAcceptable", message, {})


def already_exists(kind: Kind, name: str) -> StatusError:
    return StatusError(409, "AlreadyExists", f'{kind.qualified} "{name}" already exists', _details(kind, name))


def conflict(kind: Kind, name: str, why: str | None = None) -> StatusError:
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {kind.qualified} "{name}": {why}'
    return StatusError(409, "Conflict", message, _details(kind, name))


def unsupported_media_type() -> StatusError:
    return StatusError(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})


def no_strategic_patch() -> StatusError:
    """What a custom resource says to a strategic merge patch."""
    accepted = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    message = f"the body of the request was in an unknown format - accepted media types include: {accepted}"
    return StatusError(415, "UnsupportedMediaType", message)


def unprocessable_patch() -> StatusError:
    """A JSON patch that does not fit the object, a failed `test` included: the real server says no more either."""
    message = "the server rejected our request due to an error in our request"
    return StatusError(422, "Invalid", message, {})


class Cause:
    """One invalid field of a 422."""

    def __init__(self, field: str, message: str, reason: str = "FieldValueInvalid") -> None:
        self.field = field
        self.message = message
        self.reason = reason


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> StatusError:
    texts = [f"{cause.field}: {cause.message}" for cause in causes]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    qualified = f"{kind}.{group}" if group else kind
    details: dict[str, Any] = {"name": name} if name else {}
    details |= {"group": group} if group else {}
    details |= {"kind": kind} if kind else {}
    details["causes"] = [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
    return StatusError(422, "Invalid", f'{qualified} "{name}" is invalid: {text}', details)


def not_modelled(what: str) -> StatusError:
    """501: the sandbox's own answer, never the real server's. Loud, and told in the run's report."""
    message = f"SIMULATED API does not model {what}; rehearse this on a real cluster"
    return StatusError(501, "NotImplemented", message)


_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


def injected(code: int, message: str | None, retry_after: float | None) -> StatusError:
    """The answer of a fault: a Status as the real server would give it with that code."""
    text = message or f"SIMULATED fault: the scenario answers {code}"
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    details = {} if retry_after is None else {"retryAfterSeconds": int(retry_after)}
    return StatusError(code, _REASONS.get(code, ""), text, details, headers)
