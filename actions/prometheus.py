"""prometheus.query: one number, or the series (prometheus.io: HTTP API)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

from runbook.actions import _http
from runbook.contract import Context, Outputs, PermanentError, Read, TemporaryError, param


@dataclass(frozen=True, kw_only=True)
class QueryArgs:
    """Parameters of prometheus.query."""

    url: str = param("Address of Prometheus; with `via: k8s` the Service as seen in the cluster.", family=True)
    query: str = param("PromQL; values from elsewhere go through `promql_quote`.")
    at: float | str | None = param(
        "Evaluation time: a timestamp, Unix seconds or RFC 3339. Default: now.", default=None
    )
    via: Literal["direct", "k8s"] = param("k8s: by port-forward through the API server.", default="direct", family=True)
    context: str = param("via k8s: context of the kubeconfig.", default="current", family=True)
    namespace: str = param("via k8s: namespace of the Service, if the host name has none.", default="", family=True)
    bearer: str | None = param("Token for `Authorization: Bearer`.", default=None, secret=True, family=True)
    headers: dict[str, str] = param("Request headers (a tenant, say).", default_factory=dict, secret=True, family=True)


class Query(Read[QueryArgs]):
    """Evaluate a query at one instant.

    `value` is a number only if the answer is one: no series, more than one, NaN and infinity give null, and `why` says
    which, so that a condition on it cannot pass by accident.
    """

    name = "prometheus.query"
    world = "*"
    returns = {
        "value": "the number of the one series, or null",
        "why": "why value is null; empty when it is not",
        "series": "[{labels, value: number or null, text: as Prometheus wrote it, at: Unix seconds}]",
        "count": "how many series",
    }

    def preflight(self, args: QueryArgs, ctx: Context) -> list[str]:
        if args.via == "direct" or _base(args, ctx) != args.url.rstrip("/"):
            return []
        from runbook.actions._kube.forward import lacking

        host = urlsplit(args.url).hostname or ""
        return lacking(ctx, host, context=args.context, namespace=args.namespace)

    def read(self, args: QueryArgs, ctx: Context) -> Outputs:
        series = _series(_answer(args, ctx))
        value, why = _single(series)
        return {"value": value, "why": why, "series": series, "count": len(series)}


def _base(args: QueryArgs, ctx: Context) -> str:
    return ctx.address("prometheus", args.url).rstrip("/")


def _answer(args: QueryArgs, ctx: Context) -> Any:
    base = _base(args, ctx)
    form = {"query": args.query, "timeout": f"{max(1, int(ctx.remaining()))}s"}
    if args.at is not None:
        form["time"] = str(args.at)
    headers = {"Content-Type": "application/x-www-form-urlencoded", **args.headers}
    if args.bearer is not None:
        headers["Authorization"] = f"Bearer {args.bearer}"
    with _reached(args, base, ctx) as at:
        body = urlencode(form).encode()
        reply = _http.request(ctx, "POST", f"{base}/api/v1/query", headers=headers, body=body, at=at, limit=8 * 1024**2)
    answer = reply.json()
    if isinstance(answer, dict) and answer.get("status") == "error":
        text = f"Prometheus: {answer.get('errorType', 'error')}: {answer.get('error', '')}"
        if reply.status in (400, 422) or answer.get("errorType") in ("bad_data", "execution"):
            raise PermanentError(text)
        raise TemporaryError(text, retry_after=_http.retry_after(reply))
    if reply.status != 200:
        raise _http.refuse(reply, "Prometheus")
    if reply.truncated:
        raise PermanentError("Prometheus: the answer is larger than 8 MiB", hint="aggregate in the query")
    if not isinstance(answer, dict) or answer.get("status") != "success":
        raise PermanentError(f"{_http.place(base)} answers, but not as Prometheus does")
    return answer.get("data")


@contextlib.contextmanager
def _reached(args: QueryArgs, base: str, ctx: Context) -> Iterator[tuple[str, int] | None]:
    """Where to connect: None is the URL's own host."""
    if args.via == "direct" or base != args.url.rstrip("/"):  # a sandbox's stand-in is reached as it is
        yield None
        return
    from runbook.actions._kube.forward import open_service

    target = urlsplit(base)
    port = target.port or (443 if target.scheme == "https" else 80)
    with open_service(ctx, target.hostname or "", port, context=args.context, namespace=args.namespace) as at:
        yield at


def _series(found: Any) -> list[dict[str, Any]]:
    """Values are strings in the API. A scalar is a series without labels."""
    kind = found.get("resultType") if isinstance(found, dict) else None
    result = found.get("result") if isinstance(found, dict) else None
    if kind == "scalar" and isinstance(result, list):
        return [_sample({}, result)]
    if kind == "vector" and isinstance(result, list):
        return [_sample(one.get("metric", {}), one.get("value") or [0, "NaN"]) for one in result]
    raise PermanentError(
        f"Prometheus: the query gives a {kind}, not a number or an instant vector", hint="aggregate it"
    )


def _sample(labels: dict[str, str], pair: list[Any]) -> dict[str, Any]:
    text = str(pair[1])
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    return {"labels": labels, "value": number if math.isfinite(number) else None, "text": text, "at": float(pair[0])}


def _single(series: list[dict[str, Any]]) -> tuple[float | None, str]:
    if not series:
        return None, "no series"
    if len(series) > 1:
        return None, f"{len(series)} series"
    (one,) = series
    return one["value"], "" if one["value"] is not None else f"the value is {one['text']}"


ACTIONS = (Query,)
