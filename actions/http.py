"""http.check: does it answer as it should? http.request: any request."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

from runbook.actions import _http
from runbook.contract import Check, Context, Duration, Opaque, Outputs, PermanentError, TemporaryError, param

SHOWN = 64 * 1024
STATUS = re.compile(r"[1-5](?:\d\d|xx)|[1-5]\d\d-[1-5]\d\d")
Status = int | str | list[int | str]


def _accepts(wanted: Status, status: int) -> bool:
    """Whether `status` is one of 200, `2xx`, `200-299`, or a list of these."""
    for one in wanted if isinstance(wanted, list) else [wanted]:
        text = str(one)
        low, _, high = text.partition("-")
        if text.replace("xx", "") == str(status)[: len(text.replace("xx", ""))] and len(text) == 3:
            return True
        if high and int(low) <= status <= int(high):
            return True
    return False


def _status_problems(wanted: Status) -> Iterator[str]:
    for one in wanted if isinstance(wanted, list) else [wanted]:
        if not STATUS.fullmatch(str(one)):
            yield f"status: expected 200, 2xx, 200-299 or a list of these, got {str(one)[:40]!r}"


@dataclass(frozen=True, kw_only=True)
class CheckArgs:
    """Parameters of http.check."""

    url: str = param("http:// or https://; credentials go into `headers`.")
    method: Literal["GET", "HEAD"] = param("How to ask.", default="GET")
    headers: dict[str, str] = param("Request headers.", default_factory=dict, secret=True)
    status: Status = param("Statuses that are a yes: 200, 2xx, 200-299, or a list.", default="2xx")
    contains: str | None = param("Text that the body must contain.", default=None)
    json: dict[str, Any] | None = param(
        "What the JSON body must contain: each key with this value; maps are compared the same way, key by key.",
        default=None,
    )
    samples: int = param(
        "How many requests, one after another, each over a connection of its own.", default=1, minimum=1
    )
    p95: Duration | None = param("The slowest that the 95th percentile of the samples may be.", default=None)
    tls_ca: Path | None = param("PEM file of the only authorities to trust.", default=None, path=True)


class HttpCheck(Check[CheckArgs]):
    """Ask an address and judge the answer. A bad status is a no, not an error; no answer at all is a temporary error.

    Of several samples every one must be a yes. Redirects are followed.
    """

    name = "http.check"
    world = "*"
    returns = {
        "ok": "whether every sample was as wanted",
        "message": "why not; empty when ok",
        "status": "status of the last answer, 0 if there was none",
        "ms": "milliseconds of the last request",
        "p95": "95th percentile of the samples, milliseconds",
        "failures": "how many samples were a no",
        "json": "the last body parsed, or null",
        "body": "the last body, at most 64 KiB",
    }

    def check(self, args: CheckArgs) -> Iterator[str]:
        yield from _status_problems(args.status)
        if args.method == "HEAD" and (args.contains is not None or args.json is not None):
            yield "method: HEAD has no body for `contains` or `json` to look at"

    def read(self, args: CheckArgs, ctx: Context) -> Outputs:
        for problem in self.check(args):
            raise PermanentError(problem)
        ctx.permit("url", args.url)
        times: list[float] = []
        faults: list[str] = []
        reply: _http.Reply | None = None
        for number in range(args.samples):
            try:
                reply = _http.request(ctx, args.method, args.url, headers=args.headers, tls_ca=args.tls_ca)
            except TemporaryError as failure:
                ctx.checkpoint()
                if args.samples == 1:
                    raise
                faults.append(failure.message)
                continue
            times.append(reply.seconds * 1000)
            faults += filter(None, [_fault(args, reply)])
            ctx.progress(number + 1, args.samples)
        p95 = _percentile(times, 0.95)
        message = _verdict(args, faults, p95)
        return {
            "ok": not message,
            "message": message,
            "status": reply.status if reply is not None else 0,
            "ms": round(times[-1], 1) if times else 0,
            "p95": round(p95, 1),
            "failures": len(faults),
            "json": reply.json() if reply is not None else None,
            "body": reply.text()[:SHOWN] if reply is not None else "",
        }


def _fault(args: CheckArgs, reply: _http.Reply) -> str:
    if not _accepts(args.status, reply.status):
        return f"HTTP {reply.status}"
    if args.contains is not None and args.contains not in reply.text():
        return f"the body does not contain {args.contains[:80]!r}"
    if args.json is not None:
        body = reply.json()
        return "the body is not JSON" if body is None else _missing(args.json, body, "")
    return ""


def _missing(wanted: Any, found: Any, where: str) -> str:
    """The first place where `found` is not what is wanted, as a sentence; '' if there is none."""
    if isinstance(wanted, Mapping):
        if not isinstance(found, Mapping):
            return f"json{where} is no map"
        for key, value in wanted.items():
            if key not in found:
                return f"json{where}.{key} is missing"
            if problem := _missing(value, found[key], f"{where}.{key}"):
                return problem
        return ""
    same = wanted == found and isinstance(wanted, bool) == isinstance(found, bool)
    return "" if same else f"json{where} is {_short(found)}, wanted {_short(wanted)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:79] + "…"


def _verdict(args: CheckArgs, faults: list[str], p95: float) -> str:
    if faults:
        return faults[0] if args.samples == 1 else f"{len(faults)} of {args.samples} requests failed: {faults[0]}"
    if args.p95 is not None and p95 > args.p95 * 1000:
        return f"the 95th percentile is {p95:.0f} ms, wanted at most {args.p95 * 1000:.0f} ms"
    return ""


def _percentile(times: list[float], share: float) -> float:
    """Nearest rank; 0 without samples."""
    return sorted(times)[math.ceil(share * len(times)) - 1] if times else 0.0


@dataclass(frozen=True, kw_only=True)
class RequestArgs:
    """Parameters of http.request."""

    url: str = param("http:// or https://; credentials go into `bearer`, `basic_auth` or `headers`.")
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = param(
        "GET and HEAD are reads (a plan runs them); PUT and DELETE may be repeated; POST and PATCH are opaque.",
        default="GET",
    )
    headers: dict[str, str] = param("Request headers.", default_factory=dict, secret=True)
    basic_auth: dict[str, str] | None = param("`{username, password}`.", default=None, secret=True)
    bearer: str | None = param("Token for `Authorization: Bearer`.", default=None, secret=True)
    json: Any = param("A body sent as JSON.", default=None, secret=True)
    form: dict[str, str] | None = param("A body sent as a form.", default=None, secret=True)
    body: str | None = param("A body sent as it is.", default=None, secret=True)
    status: Status = param("Statuses that are success: 200, 2xx, 200-299, or a list.", default="2xx")
    idempotency_key: str | None = param(
        "Sent as `Idempotency-Key`; with a service that honours it, say `idempotent: true` on the step.", default=None
    )
    tls_ca: Path | None = param("PEM file of the only authorities to trust.", default=None, path=True)


class HttpRequest(Opaque[RequestArgs]):
    """Send a request. Another status than wanted is an error: 408, 429 (after its Retry-After) and 5xx temporary.

    Redirects are followed for GET and HEAD; to another origin nothing that you gave (headers, credentials) goes along.
    """

    name = "http.request"
    world = "*"
    depends = {
        "method": {
            "GET": {"effect": "read", "idempotent": True},
            "HEAD": {"effect": "read", "idempotent": True},
            "PUT": {"idempotent": True},
            "DELETE": {"idempotent": True},
        }
    }
    returns = {
        "status": "HTTP status",
        "headers": "response headers, names in lower case",
        "json": "the body parsed, or null where it is not JSON",
        "body": "the body as text",
        "truncated": "whether the body was cut at 512 KiB",
    }

    def check(self, args: RequestArgs) -> Iterator[str]:
        yield from _status_problems(args.status)
        if sum(given is not None for given in (args.json, args.form, args.body)) > 1:
            yield "give one of json, form and body"
        if args.method in ("GET", "HEAD") and (args.json, args.form, args.body) != (None, None, None):
            yield f"method: {args.method} takes no body"
        if args.basic_auth is not None and set(args.basic_auth) != {"username", "password"}:
            yield "basic_auth: expected username and password"
        if args.basic_auth is not None and args.bearer is not None:
            yield "give one of basic_auth and bearer"

    def run(self, args: RequestArgs, ctx: Context) -> Outputs:
        for problem in self.check(args):
            raise PermanentError(problem)
        ctx.permit("url", args.url)
        reply = _http.request(
            ctx, args.method, args.url, headers=_headers(args), body=_body(args), tls_ca=args.tls_ca, limit=SHOWN * 8
        )
        parsed = reply.json()
        outputs = {
            "status": reply.status,
            "headers": dict(reply.headers),
            "json": parsed,
            "body": reply.text() if parsed is None else reply.text()[:SHOWN],
            "truncated": reply.truncated,
        }
        if not _accepts(args.status, reply.status):
            raise _http.refuse(reply, f"{args.method} {_http.place(args.url)}", outputs=outputs)
        return outputs


def _headers(args: RequestArgs) -> dict[str, str]:
    headers = {}
    if args.json is not None:
        headers["Content-Type"] = "application/json; charset=utf-8"
    if args.form is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    if args.body is not None:
        headers["Content-Type"] = "text/plain; charset=utf-8"
    if args.bearer is not None:
        headers["Authorization"] = f"Bearer {args.bearer}"
    if args.basic_auth is not None:
        pair = f"{args.basic_auth['username']}:{args.basic_auth['password']}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    if args.idempotency_key is not None:
        headers["Idempotency-Key"] = args.idempotency_key
    own = {name.lower() for name in args.headers}
    return {name: value for name, value in headers.items() if name.lower() not in own} | args.headers


def _body(args: RequestArgs) -> bytes | None:
    if args.json is not None:
        return json.dumps(args.json, ensure_ascii=False, default=str).encode()
    if args.form is not None:
        return urlencode(args.form).encode()
    return args.body.encode() if args.body is not None else None


ACTIONS = (HttpCheck, HttpRequest)
